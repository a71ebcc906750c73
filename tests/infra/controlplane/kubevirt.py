"""KubeVirt without its operator: CRDs, a KubeVirt object that says Deployed, and the real virt-controller."""

import json
import ssl
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.request import urlopen

from tests.infra.controlplane.client import Client, Json
from tests.infra.controlplane.processes import Port
from tests.infra.controlplane.waiting import wait_for

VERSION = "v1.8.4"
NAMESPACE = "kubevirt"

CONTROLLER_USER = "system:serviceaccount:kubevirt:kubevirt-controller"
"""The name under which virt-controller runs in a cluster, and here."""

CONTROLLER_ENVIRONMENT = {"NAMESPACE": NAMESPACE, "POD_NAMESPACE": NAMESPACE, "POD_NAME": "virt-controller"}


def install(client: Client, crds: Path, spec: Json) -> None:
    """Create the CRDs and wait until they are served; then namespace and KubeVirt object."""
    wanted: list[Json] = json.loads(crds.read_text())["items"]
    with ThreadPoolExecutor(max_workers=4) as pool:
        list(pool.map(client.create, wanted))
    for crd in wanted:
        name: str = crd["metadata"]["name"]
        wait_for(lambda name=name: _established(client, name), what=f"CRD {name} to be served")  # type: ignore[misc]
    client.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}})
    metadata = {"name": "kubevirt", "namespace": NAMESPACE}
    client.create({"apiVersion": "kubevirt.io/v1", "kind": "KubeVirt", "metadata": metadata, "spec": spec})
    # virt-controller reads its configuration only from an object that the operator has finished.
    client.patch("kubevirts", "kubevirt", {"status": {"phase": "Deployed"}}, NAMESPACE, subresource="status")


def _established(client: Client, crd: str) -> bool:
    conditions = client.get("customresourcedefinitions", crd)["status"]["conditions"] or []
    return any(condition["type"] == "Established" and condition["status"] == "True" for condition in conditions)


def controller_flags(kubeconfig: Path, port: Port, certificate: Path) -> list[str]:
    """virt-controller's flags; the certificate's key lies beside it, and nobody pulls the images named here."""
    return [
        f"--kubeconfig={kubeconfig}",
        f"--launcher-image=virt-launcher:{VERSION}",
        f"--exporter-image=virt-exportserver:{VERSION}",
        "--listen=127.0.0.1",
        f"--port={port}",
        f"--prom-cert-file={certificate}",
        f"--prom-key-file={certificate.with_suffix('.key')}",
    ]


def leads(port: Port, ca_file: Path) -> bool:
    """Whether virt-controller holds the lease and runs its controllers; raises OSError while it does not answer."""
    return bool(json.loads(_page(port, "/leader", ca_file))["apiserver"]["leader"] == "true")


def metrics(port: Port, ca_file: Path) -> str:
    """virt-controller's metrics; raises OSError while it does not answer."""
    return _page(port, "/metrics", ca_file).decode()


def _page(port: Port, path: str, ca_file: Path) -> bytes:
    context = ssl.create_default_context(cafile=str(ca_file))
    with urlopen(f"https://127.0.0.1:{port}{path}", timeout=1, context=context) as answer:
        content: bytes = answer.read()
        return content

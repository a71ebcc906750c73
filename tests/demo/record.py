"""`python -m tests.demo.record`: records the reviews of `make demo` on a real control plane.

It writes tests/demo/reviews (AdmissionReviews as kube-apiserver sends them when virt-controller creates launcher pods,
and when its re-sync writes its own hooks back) and tests/demo/objects (the Namespaces, VirtualMachines and instances).
What no decision looks at is left out: managedFields, status, and of a pod's spec all but the names of its containers.

To be run again when the version of KubeVirt changes, or tests/demo/scenario.py or policy.yaml does.
"""

import json
import shutil
from pathlib import Path
from typing import Any

import yaml

from tests.demo.recorder import Recorder, recording
from tests.demo.scenario import NAMESPACES, VMS
from tests.demo.scenes import POLICY, RESYNCED
from tests.infra.controlplane import Client, ControlPlane, Json, launcher_pod, wait_for
from tests.infra.installation import serving

_HERE = Path(__file__).parent
_NOISE = {
    "metadata": {"managedFields", "generation", "resourceVersion", "creationTimestamp", "selfLink"},
    "request": {"options", "dryRun"},
}


def main() -> None:
    """Record, and replace what was recorded before."""
    with ControlPlane() as cp:
        cp.install_kubevirt()
        cp.start_virt_controller()
        with serving(cp, POLICY.read_text()), recording(cp) as recorder:
            reviews = _reviews(cp.client, recorder)
        objects = _objects(cp.client)
    for name in ("reviews", "objects"):
        shutil.rmtree(_HERE / name, ignore_errors=True)
        (_HERE / name).mkdir()
    for name, review in reviews.items():
        (_HERE / "reviews" / f"{name}.json").write_text(json.dumps(review, indent=1) + "\n")
    for item in objects:
        _append(_HERE / "objects" / f"{item['kind'].lower()}s.yaml", _lean(item))


def _objects(client: Client) -> list[Json]:
    names = [(item["metadata"]["name"], item["metadata"]["namespace"]) for item in VMS]
    namespaces = [client.get("namespaces", item["metadata"]["name"]) for item in NAMESPACES]
    machines = [client.get("virtualmachines", *name) for name in names]
    return [*namespaces, *machines, *(client.get("virtualmachineinstances", *name) for name in names)]


def _reviews(client: Client, recorder: Recorder) -> dict[str, Json]:
    for item in (*NAMESPACES, *VMS):
        client.create(item)
    requests: dict[str, Json] = {}
    for vm in VMS:
        name, namespace = vm["metadata"]["name"], vm["metadata"]["namespace"]
        launcher_pod(client, name, namespace)
        request = recorder.created(f"{namespace}/{name}")
        assert request is not None, f"the recorder was not asked about {namespace}/{name}"
        requests[f"create-{namespace}-{name}"] = request
    for vm_name in RESYNCED:
        namespace, name = vm_name.split("/")
        touch = {"metadata": {"annotations": {"example.com/touched": "1"}}}
        client.patch("virtualmachineinstances", name, touch, namespace)
        resynced = wait_for(lambda: recorder.resynced(vm_name), what=f"the re-sync of {vm_name}")  # noqa: B023
        requests[f"update-{namespace}-{name}"] = resynced[0]
    return {name: _review(request) for name, request in requests.items()}


def _review(request: Json) -> Json:
    kept = {field: value for field, value in request.items() if field not in _NOISE["request"]}
    for field in ("object", "oldObject"):
        if kept.get(field):
            containers = [{"name": container["name"]} for container in kept[field]["spec"]["containers"]]
            kept[field] = {**_lean(kept[field]), "spec": {"containers": containers}}
    return {"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": kept}


def _lean(item: Json) -> Json:
    kept: dict[str, Any] = {field: value for field, value in item.items() if field not in ("spec", "status")}
    metadata = kept["metadata"]
    kept["metadata"] = {field: value for field, value in metadata.items() if field not in _NOISE["metadata"]}
    return kept


def _append(path: Path, item: Json) -> None:
    with path.open("a") as file:
        file.write("---\n")
        yaml.safe_dump(item, file, sort_keys=False)


if __name__ == "__main__":
    main()

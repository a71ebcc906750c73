"""The product installed from `manifests/` into a test control plane, its replicas running as processes of this machine.

What is under test is what is shipped: the manifests are applied as they are, only the addresses in the registrations
are changed from the Service to a port of loopback, because nothing here routes Services. A replica runs with a token of
its own ServiceAccount, so a missing permission shows.
"""

import json
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.request import urlopen

import yaml

from app.core.policy import Standing
from tests.infra.controlplane import ControlPlane, Port, Process, wait_for
from tests.infra.controlplane.client import Json

NAMESPACE = NAME = "vm-consistency"
POLICY = "vm-consistency-policy"
LAST_GOOD = "vm-consistency-last-good"
ROOT = Path(__file__).parents[2]
OVERLAY = ROOT / "manifests" / "overlays" / "default"
WEBHOOK_USER = f"system:serviceaccount:{NAMESPACE}:{NAME}"
_CONFIG_MAPS = f"/api/v1/namespaces/{NAMESPACE}/configmaps"
_PAST_VALIDATION = {"Impersonate-User": WEBHOOK_USER, "Impersonate-Group": "system:masters"}
"""Whose writes of the policy are not validated; the group adds the rights that the ServiceAccount doesn't have."""


class Replica:
    """One webhook process."""

    def __init__(self, process: Process, port: Port, ops_port: Port) -> None:
        self.process = process
        self.port = port
        self.ops_url = f"http://127.0.0.1:{ops_port}"

    @property
    def url(self) -> str:
        """Where the API server finds it."""
        return f"https://127.0.0.1:{self.port}/mutate/pods"

    def ops(self, path: str) -> tuple[int, str]:
        """Status and text of a path of the plain port, such as /readyz."""
        try:
            with urlopen(f"{self.ops_url}{path}", timeout=5) as answer:
                return answer.status, answer.read().decode()
        except HTTPError as error:
            return error.code, error.read().decode()

    def metric(self, name: str, **labels: str) -> float:
        """The sum of the samples of `name` that carry all of `labels`."""
        total = 0.0
        for line in self.ops("/metrics")[1].splitlines():
            sample, _, value = line.rpartition(" ")
            metric, _, rest = sample.partition("{")
            if metric == name and all(f'{key}="{wanted}"' in rest for key, wanted in labels.items()):
                total += float(value)
        return total

    def policy_loads(self) -> float:
        """How many policies it has read, good and bad."""
        return self.metric("vm_consistency_policy_loads_total")

    def leads(self) -> bool:
        """Whether it brings running pods in line; False too while nothing answers."""
        try:
            return self.metric("vm_consistency_leader") == 1
        except (URLError, OSError):
            return False

    def policy_state(self) -> str:
        """The standing of the policy, such as `valid`, as its metric tells."""
        text = self.ops("/metrics")[1]  # once: it may change between two readings
        [standing] = [one for one in Standing if f'vm_consistency_policy_state{{state="{one}"}} 1.0' in text]
        return standing.value

    def log_lines(self) -> list[Json]:
        """Everything that it has logged; raises ValueError for a line that is not JSON."""
        with self.process.log.open("rb") as lines:
            return [json.loads(line) for line in lines if line.endswith(b"\n")]  # the last one may be half written

    def problems(self) -> dict[str, str] | None:
        """The checks of /readyz that fail, with what they say; None while nothing answers."""
        try:
            text = self.ops("/readyz")[1]
        except (URLError, OSError):
            return None
        failing = (line.removeprefix("[-] ").partition(": ") for line in text.splitlines() if line.startswith("[-] "))
        return {check: problem for check, _, problem in failing}

    def is_ready(self) -> bool:
        """Whether /readyz says so."""
        try:
            return self.ops("/readyz")[0] == 200
        except (URLError, OSError):
            return False

    def wait_ready(self) -> None:
        """Wait until it is; fails with what /readyz says."""
        wait_for(self.is_ready, what="a ready replica")


class Installation:
    """The manifests in a control plane, and the replicas that were started."""

    def __init__(self, control_plane: ControlPlane) -> None:
        self.cp = control_plane
        self.replicas: list[Replica] = []
        self._changes = 0

    def apply(self) -> None:
        """Apply the default overlay; the registrations lead nowhere until `route_to` and `validate_by`."""
        text = self.cp.kubectl("kustomize", OVERLAY)
        objects = list(yaml.safe_load_all(text))
        for item in objects:
            for webhook in item.get("webhooks", []):
                path = webhook["clientConfig"].pop("service")["path"]
                webhook["clientConfig"]["url"] = f"https://127.0.0.1:9{path}"
        self.cp.kubectl("apply", "-f", "-", input=yaml.safe_dump_all(objects))

    def replica(self, *, env: Mapping[str, str] | None = None) -> Replica:
        """A replica, not yet started."""
        port, ops_port = self.cp.port(), self.cp.port()
        settings = {
            "VM_CONSISTENCY_HOST": "127.0.0.1",
            "VM_CONSISTENCY_PORT": str(port),
            "VM_CONSISTENCY_OPS_PORT": str(ops_port),
            "VM_CONSISTENCY_EXTRA_SANS": "127.0.0.1",
            "VM_CONSISTENCY_DRAIN_DELAY": "0",
            "VM_CONSISTENCY_KUBECONFIG": str(self.cp.kubeconfig_for(NAMESPACE, NAME)),
        }
        name = f"webhook-{len(self.replicas)}"
        holder: list[Replica] = []
        process = self.cp.supervise(
            name,
            [sys.executable, "-m", "app", "serve"],
            ready=lambda: bool(holder) and holder[0].is_ready(),
            env={**os.environ, "PYTHONPATH": str(ROOT), **settings, **(env or {})},
        )
        replica = Replica(process, port, ops_port)
        holder.append(replica)
        self.replicas.append(replica)
        return replica

    def start(self) -> Replica:
        """Start a replica, let the API server call it, and return when it is ready."""
        replica = self.replica()
        self.route_to(replica.url)
        self.validate_by(replica.port)
        replica.process.start()
        return replica

    def route_to(self, url: str) -> None:
        """Let the registration lead to `url`."""
        self.cp.client.patch(
            "mutatingwebhookconfigurations",
            NAME,
            [{"op": "replace", "path": "/webhooks/0/clientConfig/url", "value": url}],
        )

    def validate_by(self, port: Port | int) -> None:
        """Let the registration of the validating webhooks lead to `port`."""
        webhooks = self.cp.client.get("validatingwebhookconfigurations", NAME)["webhooks"]
        paths = [webhook["clientConfig"]["url"].rpartition(":")[2].partition("/")[2] for webhook in webhooks]
        patch = [
            {
                "op": "replace",
                "path": f"/webhooks/{index}/clientConfig/url",
                "value": f"https://127.0.0.1:{port}/{path}",
            }
            for index, path in enumerate(paths)
        ]
        self.cp.client.patch("validatingwebhookconfigurations", NAME, patch)

    def remove(self) -> None:
        """Stop the replicas, and let the API server call none."""
        for registrations in ("mutatingwebhookconfigurations", "validatingwebhookconfigurations"):
            if self.cp.client.find(registrations, NAME):
                self.cp.client.delete(registrations, NAME)
        for replica in self.replicas:
            replica.process.stop()

    @contextmanager
    def nobody_leads(self) -> Iterator[None]:
        """Hold the Lease in the replicas' stead: running pods are not brought in line meanwhile."""
        self._take_lease("tests")
        running = [replica for replica in self.replicas if replica.process.alive]
        for replica in running:
            wait_for(lambda: not replica.leads(), what=f"{replica.process.name} to lead no more")  # noqa: B023
        yield
        self._take_lease("")
        running = [replica for replica in self.replicas if replica.process.alive]
        if running:
            wait_for(lambda: any(replica.leads() for replica in running), what="a replica to lead again")

    def _take_lease(self, holder: str) -> None:
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        spec = {"holderIdentity": holder, "leaseDurationSeconds": 60, "acquireTime": now, "renewTime": now}
        self.cp.client.patch("leases", NAME, {"spec": spec}, NAMESPACE)

    def change_policy(self, policy: str | Mapping[str, object] | None) -> None:
        """`set_policy`, and return when every running replica has read it, be it good or not."""
        running = {replica: replica.policy_loads() for replica in self.replicas if replica.process.alive}
        if policy is not None:
            self._changes += 1  # a text that nobody has seen yet, even if the policy is the one in force
            text = policy if isinstance(policy, str) else policy_text(policy)
            policy = f"{text}\n# change {self._changes}\n"
        self.set_policy(policy)
        for replica, before in running.items():
            wait_for(lambda: _has_read(replica, policy, before), what=f"{replica.process.name} to read the policy")  # noqa: B023

    def set_policy(self, policy: str | Mapping[str, object] | None) -> None:
        """Write the policy ConfigMap: a text, a policy's fields besides apiVersion and kind, or None to delete it.

        It is not validated, as if no webhook answered just then: a bad policy that is there is what many tests are
        about. How people's writes fare is in tests/apiserver/test_validate_policy.py.
        """
        if policy is not None:
            self.write_policy({"policy.yaml": policy if isinstance(policy, str) else policy_text(policy)})
        elif self.cp.client.find("configmaps", POLICY, NAMESPACE):
            self.cp.client.request("DELETE", f"{_CONFIG_MAPS}/{POLICY}", headers=_PAST_VALIDATION)

    def write_policy(self, data: Mapping[str, str]) -> None:
        """Write the policy ConfigMap with these keys; not validated either."""
        self.cp.client.request(
            "PATCH",
            f"{_CONFIG_MAPS}/{POLICY}",
            {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": POLICY}, "data": dict(data)},
            params={"fieldManager": "tests", "force": "true"},
            headers={**_PAST_VALIDATION, "Content-Type": "application/apply-patch+yaml"},
        )


def _has_read(replica: Replica, policy: object, loads_before: float) -> bool:
    if policy is None:
        return replica.policy_state() == Standing.ABSENT
    return replica.policy_loads() > loads_before


def policy_text(fields: Mapping[str, object]) -> str:
    """A policy as YAML."""
    head = {"apiVersion": "vm-consistency.io/v1alpha1", "kind": "ConsistencyPolicy"}
    return yaml.safe_dump({**head, **fields}, sort_keys=False)


def annotations(pod: Json) -> dict[str, str]:
    """The annotations of an object."""
    return dict(pod["metadata"].get("annotations") or {})


@contextmanager
def serving(cp: ControlPlane, policy: str | Mapping[str, object]) -> Iterator[Installation]:
    """The product on `cp` with one ready replica and `policy` in force; removed again where nothing went wrong."""
    installed = Installation(cp)
    installed.apply()
    installed.start()
    installed.change_policy(policy)
    yield installed
    installed.remove()

"""`python -m tests.demo.cluster [-v]`: the VMs of the demo on a real control plane, and policies that change."""

import argparse
import sys
import time
from collections.abc import Mapping, Sequence

from app.core.annotations import LEVEL
from tests.demo.recorder import Recorder, recording
from tests.demo.scenario import NAMESPACES, VMS
from tests.demo.scenes import CHANGED, CREATED, NEXT_POLICY, POLICY, RESYNC, RESYNCED
from tests.demo.table import HOOK_KEYS_EXPLAINED, Row, Table
from tests.infra.controlplane import ControlPlane, Json, launcher_pod, wait_for
from tests.infra.installation import Installation, annotations, serving

_VMS: Mapping[str, Json] = {f"{vm['metadata']['namespace']}/{vm['metadata']['name']}": vm for vm in VMS}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the demo; everything that it started is gone at its end."""
    parser = argparse.ArgumentParser(prog="python -m tests.demo.cluster")
    parser.add_argument("-v", "--verbose", action="store_true", help="print the hook annotations of every pod")
    table = Table(verbose=parser.parse_args(arguments).verbose)
    with ControlPlane(audit_level="None") as cp:
        _say("etcd and kube-apiserver run")
        cp.install_kubevirt()
        cp.start_virt_controller()
        _say("KubeVirt's virt-controller leads")
        with serving(cp, POLICY.read_text()) as installation, recording(cp) as recorder:
            _say("manifests/overlays/default is applied, and the webhook is ready")
            _Demo(cp, installation, recorder, table).run()
    _say("done; nothing is left running")


class _Demo:
    """What is done to the cluster, and shown."""

    def __init__(self, cp: ControlPlane, installation: Installation, recorder: Recorder, table: Table) -> None:
        self._cp, self._installation, self._recorder, self._table = cp, installation, recorder, table

    def run(self) -> None:
        """Create the VMs, let KubeVirt re-sync them, and change the policy and an annotation."""
        self._table.say(HOOK_KEYS_EXPLAINED)
        for namespace in NAMESPACES:
            self._cp.client.create(namespace)
        for title, vms in CREATED:
            self._table.section(title, [self._created(vm) for vm in vms])
        self._table.section(RESYNC, [self._resynced(vm) for vm in RESYNCED])
        self._change_policy()
        self._annotate("shop/web")

    def _created(self, vm: str) -> Row:
        """Create a VM; the warnings are those that kubectl shows its owner."""
        self._cp.client.create(_VMS[vm])
        warnings = self._cp.client.warnings
        pod = self._pod(vm)
        request = self._recorder.created(vm)
        assert request is not None, f"the recorder was not asked about the pod of {vm}"
        return Row(vm, annotations(request["object"]), annotations(pod), warnings)

    def _resynced(self, vm: str) -> Row:
        """Make virt-controller reconcile an instance; the second re-sync shows that the first one was stored."""
        namespace, name = vm.split("/")
        for count in (1, 2):
            touch = {"metadata": {"annotations": {"example.com/touched": str(count)}}}
            self._cp.client.patch("virtualmachineinstances", name, touch, namespace)
            wait_for(lambda: len(self._recorder.resynced(vm)) >= count, what=f"re-sync {count} of {vm}")  # noqa: B023
        first = self._recorder.resynced(vm)[0]
        return Row(vm, annotations(first["object"]), annotations(self._pod(vm)))

    def _change_policy(self) -> None:
        before = {vm: annotations(self._pod(vm)) for vm in CHANGED}
        self._installation.change_policy(NEXT_POLICY.read_text())
        rows = [Row(vm, before[vm], self._changed(vm, before[vm])) for vm in CHANGED]
        self._table.section("Running pods follow a policy with default crash and without rules", rows)

    def _annotate(self, vm: str) -> None:
        namespace, name = vm.split("/")
        before, started = annotations(self._pod(vm)), time.monotonic()
        patch = {"metadata": {"annotations": {LEVEL: "filesystem"}}}
        self._cp.client.patch("virtualmachines", name, patch, namespace)
        after = self._changed(vm, before)
        milliseconds = 1000 * (time.monotonic() - started)
        title = f"kubectl annotate vm {name} {LEVEL}=filesystem: {milliseconds:.0f} ms later the running pod has hooks"
        self._table.section(title, [Row(vm, before, after)])

    def _changed(self, vm: str, before: dict[str, str]) -> dict[str, str]:
        """Wait for other annotations of a running pod than those `before`."""

        def look() -> dict[str, str] | None:
            found = annotations(self._pod(vm))
            return found if found != before else None

        return wait_for(look, what=f"other hooks on the pod of {vm}", interval=0.005)

    def _pod(self, vm: str) -> Json:
        namespace, name = vm.split("/")
        return launcher_pod(self._cp.client, name, namespace)


def _say(text: str) -> None:
    """Write one line of progress to standard error, where it does not mix with results."""
    print(f"demo: {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()

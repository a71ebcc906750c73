"""`make demo`: a real control plane, a policy, a handful of VMs, and what their launcher pods end up with."""

import sys
import time
from pathlib import Path

from tests.infra.controlplane import ControlPlane, wait_for
from tests.infra.controlplane.client import Json
from tests.infra.controlplane.objects import launcher_pod, make_namespace, make_vm
from tests.infra.installation import Installation, annotations

LEVEL = "vm-consistency.io/level"
HERE = Path(__file__).parent

NAMESPACES = (
    make_namespace("shop", labels={"environment": "production"}),
    make_namespace("dev-anna", labels={}),
    make_namespace("archive", annotations={LEVEL: "crash"}),
    make_namespace("lab", labels={}),
)
VMS = (
    (make_vm("web", "shop"), "namespace label environment=production matches the rule"),
    (make_vm("cart", "shop", annotations={LEVEL: "crash"}), "asks for crash, which the rule doesn't allow"),
    (make_vm("sandbox", "dev-anna"), "namespace dev-* matches the rule"),
    (make_vm("keeper", "dev-anna", annotations={LEVEL: "filesystem"}), "its own annotation beats the rule"),
    (make_vm("old.mail", "archive"), "annotation on the Namespace"),
    (make_vm("plain", "lab"), "nobody speaks for it"),
    (
        make_vm("pasted", "lab", template_annotations={"pre.hook.backup.velero.io/on-error": "fail", LEVEL: "most"}),
        "misspelt hooks and an unknown level, pasted into its template",
    ),
)


def say(text: str) -> None:
    """Write one line of progress to standard error, where it does not mix with results."""
    print(f"\ndemo: {text}", file=sys.stderr, flush=True)


def main() -> None:
    """Run the demo; everything that it started is gone at its end."""
    with ControlPlane(audit_level="None") as cp:
        say("etcd and kube-apiserver run")
        cp.install_kubevirt()
        cp.start_virt_controller()
        say("KubeVirt's virt-controller leads")
        installation = Installation(cp)
        installation.apply()
        replica = installation.start()
        say("manifests/overlays/default is applied, and the webhook is ready")
        installation.set_policy((HERE / "policy.yaml").read_text())
        wait_for(lambda: replica.metric("vm_consistency_policy_loads_total", result="good") >= 2, what="the new policy")
        for namespace in NAMESPACES:
            cp.client.create(namespace)
        for vm, why in VMS:
            cp.client.create(vm)
            _show(cp, vm, why)
        _touch_all(cp)
        say("now the policy's default becomes crash, without rules; pods that run follow")
        installation.set_policy({"default": {"level": "crash"}})
        web, keeper = VMS[0][0], VMS[3][0]
        wait_for(lambda: _level(cp, web) == "crash", what="the policy to reach the pod of shop/web")
        _show(cp, web, "no rule is left")
        _show(cp, keeper, "its own annotation beats the default")
        say("kubectl annotate vm web vm-consistency.io/level=filesystem")
        annotation = {"metadata": {"annotations": {LEVEL: "filesystem"}}}
        started = time.monotonic()
        cp.client.patch("virtualmachines", "web", annotation, "shop")
        wait_for(lambda: _level(cp, web) == "filesystem", what="the annotation to reach it", interval=0.005)
        say(f"{1000 * (time.monotonic() - started):.0f} ms later the running pod has other hooks")
        _show(cp, web, "its own annotation now")
    say("done; nothing is left running")


def _touch_all(cp: ControlPlane) -> None:
    """Make virt-controller reconcile every instance, and compare what its re-sync left of the pods."""
    names = [(vm["metadata"]["name"], vm["metadata"]["namespace"]) for vm, _ in VMS]
    before = [annotations(launcher_pod(cp.client, *name)) for name in names]
    for round_ in range(3):
        for name, namespace in names:
            touch = {"metadata": {"annotations": {"example.com/touched": str(round_)}}}
            cp.client.patch("virtualmachineinstances", name, touch, namespace)
    time.sleep(2)  # for a change that must not come there is nothing to wait for
    after = [annotations(launcher_pod(cp.client, *name)) for name in names]
    kept = sum(was == now for was, now in zip(before, after, strict=True))
    say(f"KubeVirt re-synced each pod three times: {kept} of {len(names)} carry what they carried before")


def _level(cp: ControlPlane, vm: Json) -> str | None:
    pod = launcher_pod(cp.client, vm["metadata"]["name"], vm["metadata"]["namespace"])
    return annotations(pod).get("vm-consistency.io/effective-level")


def _show(cp: ControlPlane, vm: Json, why: str) -> None:
    name, namespace = vm["metadata"]["name"], vm["metadata"]["namespace"]
    written = annotations(launcher_pod(cp.client, name, namespace))
    level = written.get("vm-consistency.io/effective-level", "-")
    print(f"\nVirtualMachine {namespace}/{name}: {why}")
    print(f"  level {level}, decided by {written.get('vm-consistency.io/decided-by', '-')}")
    hooks = {key: value for key, value in written.items() if "hook.backup.velero.io/" in key}
    for key, value in sorted(hooks.items(), reverse=True):
        print(f"    {key}: {value}")
    if not hooks:
        print("    no hook annotations")


if __name__ == "__main__":
    main()

"""Who decides the level of a pod that virt-controller made. All cases run at once, under one policy."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import pytest

from tests.apiserver.conftest import DEFAULT_POLICY
from tests.apiserver.pods import LEVEL, PROFILE, SKIP, decided, hooks, hooks_of
from tests.infra.controlplane import (
    Client,
    Json,
    launcher_pod,
    make_namespace,
    make_vm,
    make_vm_pool,
    make_vmi,
    wait_for,
)
from tests.infra.installation import Installation

POLICY = {
    "default": {"level": "filesystem"},
    "rules": [
        {"name": "pattern", "match": {"namespaces": ["scratch-*", "none"]}, "level": "crash"},
        {"name": "team", "match": {"namespaceSelector": {"matchLabels": {"team": "lab"}}}, "level": "crash"},
        {
            "name": "template",
            "match": {
                "templateSelector": {"matchExpressions": [{"key": "app", "operator": "In", "values": ["cache"]}]}
            },
            "level": "crash",
        },
        {
            "name": "all-fields",
            "match": {
                "namespaces": ["both-*"],
                "namespaceSelector": {"matchLabels": {"tier": "data"}},
                "templateSelector": {"matchLabels": {"app": "db"}},
            },
            "level": "crash",
        },
    ],
}
CRASH, FILESYSTEM = {LEVEL: "crash"}, {LEVEL: "filesystem"}
UNKNOWN = {LEVEL: "bulletproof"}
UNKNOWN_PROFILE = {LEVEL: "application", PROFILE: "nobody-wrote-this"}


@dataclass(frozen=True)
class Case:
    """What is created, and the level and source that must come out of it."""

    id: str
    level: str
    source: str
    guest: Json
    """The object that leads to a launcher pod; its namespace is filled in."""
    instance: str = "vm"
    """The name of the VirtualMachineInstance."""
    prefix: str = "sources"
    labels: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)
    """Labels and annotations of the Namespace."""


def _skipping(word: str) -> Json:
    return make_vm("vm", annotations={SKIP: word})


CASES = (
    # 1. the VM's own metadata
    Case(
        "vm-beats-all",
        "crash",
        "vm",
        make_vm("vm", annotations={**CRASH, SKIP: "false"}, template_annotations=FILESYSTEM),
        annotations=FILESYSTEM,
    ),
    Case("vm-beats-skip", "filesystem", "vm", make_vm("vm", annotations={**FILESYSTEM, SKIP: "true"})),
    Case("vm-beats-rule", "filesystem", "vm", make_vm("vm", annotations=FILESYSTEM), prefix="scratch"),
    Case("vm-of-pool", "crash", "vm", make_vm_pool("vm", replicas=2, vm_annotations=CRASH), instance="vm-1"),
    Case("bare-vmi", "crash", "vm", make_vmi("vm", annotations=CRASH), annotations=FILESYSTEM),
    # 2. the VM's template
    Case(
        "template-beats-skip",
        "filesystem",
        "template",
        make_vm("vm", annotations={SKIP: "true"}, template_annotations=FILESYSTEM),
        annotations=CRASH,
    ),
    Case(
        "template-beats-namespace",
        "crash",
        "template",
        make_vm("vm", template_annotations=CRASH),
        annotations=FILESYSTEM,
    ),
    Case(
        "template-of-pool",
        "crash",
        "template",
        make_vm_pool("vm", replicas=1, template_annotations=CRASH),
        instance="vm-0",
        annotations=FILESYSTEM,
    ),
    # 3. KubeVirt's own switch, in every spelling that Go's ParseBool knows
    *(
        Case(f"skip-{word}", "crash", "skip-backup-hooks", _skipping(word), annotations=FILESYSTEM)
        for word in ("1", "t", "T", "true", "TRUE", "True")
    ),
    *(
        Case(f"no-skip-{word}", "crash", "namespace", _skipping(word), annotations=CRASH)
        for word in ("0", "f", "F", "false", "FALSE", "False", "yes", "tRUE")
    ),
    Case(
        "no-skip-in-template",
        "filesystem",
        "default",
        make_vm("vm", template_annotations={SKIP: "true"}),
    ),
    Case("skip-on-bare-vmi", "crash", "skip-backup-hooks", make_vmi("vm", annotations={SKIP: "true"})),
    # 4. the Namespace
    Case("namespace-beats-rule", "filesystem", "namespace", make_vm("vm"), prefix="scratch", annotations=FILESYSTEM),
    Case("namespace-beats-default", "crash", "namespace", make_vm("vm"), annotations=CRASH),
    Case("namespace-for-bare-vmi", "crash", "namespace", make_vmi("vm"), annotations=CRASH),
    Case(
        "namespace-for-pool", "crash", "namespace", make_vm_pool("vm", replicas=1), instance="vm-0", annotations=CRASH
    ),
    # 5. the policy's rules
    Case("rule-by-pattern", "crash", "rule/pattern", make_vm("vm"), prefix="scratch"),
    Case("rule-by-namespace-label", "crash", "rule/team", make_vm("vm"), labels={"team": "lab"}),
    Case("rule-by-template-label", "crash", "rule/template", make_vm("vm", template_labels={"app": "cache"})),
    Case("rule-by-label-of-bare-vmi", "crash", "rule/template", make_vmi("vm", labels={"app": "cache"})),
    Case(
        "rule-by-template-label-of-pool",
        "crash",
        "rule/template",
        make_vm_pool("vm", replicas=1, template_labels={"app": "cache"}),
        instance="vm-0",
    ),
    Case(
        "rule-with-all-fields",
        "crash",
        "rule/all-fields",
        make_vm("vm", template_labels={"app": "db"}),
        prefix="both",
        labels={"tier": "data"},
    ),
    Case(
        "rule-fails-on-one-field", "filesystem", "default", make_vm("vm", template_labels={"app": "db"}), prefix="both"
    ),
    Case(
        "first-rule-wins", "crash", "rule/team", make_vm("vm", template_labels={"app": "cache"}), labels={"team": "lab"}
    ),
    Case("label-of-vm-is-no-template-label", "filesystem", "default", make_vm("vm", labels={"app": "cache"})),
    # 6. the policy's default
    Case("default", "filesystem", "default", make_vm("vm")),
    Case("default-for-pool", "filesystem", "default", make_vm_pool("vm", replicas=1), instance="vm-0"),
    Case("default-for-bare-vmi", "filesystem", "default", make_vmi("vm")),
    # what nobody can grant falls through to the next source
    Case(
        "unknown-level-everywhere",
        "crash",
        "rule/pattern",
        make_vm("vm", annotations=UNKNOWN, template_annotations=UNKNOWN),
        prefix="scratch",
        annotations=UNKNOWN,
    ),
    Case("unknown-level", "crash", "template", make_vm("vm", annotations=UNKNOWN, template_annotations=CRASH)),
    Case("unknown-profile", "crash", "namespace", make_vm("vm", annotations=UNKNOWN_PROFILE), annotations=CRASH),
    Case("level-in-capitals", "filesystem", "default", make_vm("vm", annotations={LEVEL: "Crash"})),
    Case("profile-alone", "filesystem", "default", make_vm("vm", annotations={PROFILE: "script"})),
)


@pytest.fixture(scope="module")
def namespaces(installation: Installation) -> Iterator[Mapping[str, str]]:
    """The namespace of each case, by its id; all cases are under way."""
    installation.change_policy(POLICY)
    client = installation.cp.client
    made = {case.id: f"{case.prefix}-{number}-of-sources" for number, case in enumerate(CASES)}
    for case in CASES:
        client.create(make_namespace(made[case.id], labels=case.labels, annotations=case.annotations))
    for case in CASES:
        guest = case.guest
        client.create({**guest, "metadata": {**guest["metadata"], "namespace": made[case.id]}})
    yield made
    installation.change_policy(DEFAULT_POLICY)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_the_highest_source_that_speaks_decides(client: Client, namespaces: Mapping[str, str], case: Case) -> None:
    namespace = namespaces[case.id]

    pod = launcher_pod(client, case.instance, namespace)

    assert decided(pod) == (case.level, case.source)
    assert hooks(pod) == hooks_of(case.level, case.instance, namespace)


def test_a_vmi_of_a_replica_set_speaks_for_itself(client: Client, namespaces: Mapping[str, str]) -> None:
    namespace = namespaces["default"]
    template = {"metadata": {"annotations": CRASH, "labels": {"set": "a"}}, "spec": make_vmi("any")["spec"]}
    client.create(
        {
            "apiVersion": "kubevirt.io/v1",
            "kind": "VirtualMachineInstanceReplicaSet",
            "metadata": {"name": "set", "namespace": namespace},
            "spec": {"replicas": 1, "selector": {"matchLabels": {"set": "a"}}, "template": template},
        }
    )

    [vmi] = wait_for(
        lambda: client.list("virtualmachineinstances", namespace, labels="set=a"), what="the instance of the set"
    )

    assert decided(launcher_pod(client, vmi["metadata"]["name"], namespace)) == ("crash", "vm")

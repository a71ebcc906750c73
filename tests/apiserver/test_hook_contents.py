"""What may come in on a pod: hooks of all kinds, a forged record, and everything that is nobody's business."""

import json
from collections.abc import Mapping

import pytest

from app.core.policy import Level
from app.core.record import is_intact, with_record
from tests.apiserver.conftest import NewNamespace
from tests.apiserver.pods import (
    DECIDED_BY,
    EFFECTIVE_LEVEL,
    EXCLUDED,
    KUBEVIRT_KEYS,
    LEGACY,
    LEVEL,
    POST,
    PRE,
    SKIP,
    decided,
    foreign,
    hooks,
    hooks_of,
    kubevirt_hooks,
    record,
)
from tests.infra.controlplane import Client, Json, launcher_pod, make_vm
from tests.infra.installation import Replica, annotations

MISSPELT = {PRE + "on-error": "fail", POST + "on-error": "continue ", POST + "timeout": "60"}
"""What Velero takes for no timeout at all and an unknown on-error."""
MALFORMED = {PRE + "on-error": "", POST + "on-error": "[", POST + "timeout": "-1h"}
FOREIGN = {
    PRE + "command": '["/bin/sh", "-c", "echo from the template"]',
    PRE + "container": "sidecar",
    PRE + "timeout": "24h",
    POST + "command": "/usr/bin/not-a-list",
    POST + "container": "guest-console-log",
}
OLD = {
    LEGACY + "command": '["/usr/bin/old-freeze"]',
    LEGACY + "container": "compute",
    LEGACY + "on-error": "Fail",
    LEGACY + "timeout": "5m",
}
EVERYTHING = {**MISSPELT, **FOREIGN, **OLD}
FORGED = {
    EFFECTIVE_LEVEL: "application",
    "vm-consistency.io/effective-profile": "oracle",
    DECIDED_BY: "rule/of-nobody",
    "vm-consistency.io/hooks-digest": "sha256:" + "0" * 64,
}


@pytest.mark.parametrize("skip", ["false", "true"], ids=["kubevirt-writes-hooks", "kubevirt-writes-none"])
@pytest.mark.parametrize("level", ["crash", "filesystem"])
@pytest.mark.parametrize(
    "incoming",
    [
        {},
        MISSPELT,
        MALFORMED,
        OLD,
        EVERYTHING,
        FORGED,
        {**EVERYTHING, **FORGED},
        {**EVERYTHING, **with_record(EVERYTHING, Level.APPLICATION, "oracle", "vm")},
        with_record({}, Level.CRASH, None, "default"),
    ],
    ids=[
        "nothing",
        "misspelt",
        "malformed",
        "legacy",
        "everything",
        "forged-record",
        "everything-and-forged-record",
        "everything-and-record-with-the-right-digest",
        "crash-record-with-the-right-digest",
    ],
)
def test_what_comes_in_from_the_template_does_not_count(
    client: Client, namespace: str, level: str, incoming: Mapping[str, str], skip: str
) -> None:
    client.create(make_vm("db", namespace, annotations={LEVEL: level, SKIP: skip}, template_annotations=incoming))

    pod = launcher_pod(client, "db", namespace)

    assert hooks(pod) == hooks_of(level, "db", namespace)
    assert {key: value for key, value in record(pod).items() if key != "vm-consistency.io/hooks-digest"} == {
        EFFECTIVE_LEVEL: level,
        DECIDED_BY: "vm",
    }
    assert is_intact(annotations(pod))


UNRELATED = {
    "a": "",
    "A_b.c-D": " \t\n ",
    "x" * 63: "the longest name",
    ".".join(["p" * 63] * 3 + ["q" * 61]) + "/name": "the longest prefix",
    "example.com/unicode": "Prüfung 日本語 العربية \U0001f418 e\u0301 \u2028\ufeff",
    "example.com/control": "\x01\x1b[31m\x7f\x00",
    "example.com/json": '{"a": ["\\\\", "\\"", "/", "~0", "~1"]}',
    "example.com/long": "0123456789abcdef" * 8192,
    "command": "no hook",
    "pre.hook.backup.velero.io/commands": "misspelt keys are nobody's",
    "xpre.hook.backup.velero.io/command": "[]",
    "hook.backup.velero.io/command.v2": "[]",
    "hook.restore.velero.io/command": "[]",
    "post.hook.restore.velero.io/command": '["/bin/restore"]',
    "backup.velero.io/backup-volumes": "disk",
    "vm-consistency.example.com/level": "crash",
    "vm-consistency.io/notes": "not of the record",
}


@pytest.mark.parametrize("level", ["crash", "filesystem"])
def test_unrelated_annotations_survive_byte_for_byte(client: Client, new_namespace: NewNamespace, level: str) -> None:
    namespace = new_namespace("unrelated")
    name = f"vm-of-{namespace}"
    for place in (namespace, EXCLUDED):
        wish = {LEVEL: level}
        client.create(make_vm(name, place, annotations=wish, template_annotations={**UNRELATED, **EVERYTHING}))

    pod, untouched = launcher_pod(client, name, namespace), launcher_pod(client, name, EXCLUDED)

    assert decided(pod) == (level, "vm")
    assert foreign(pod) == foreign(untouched)
    assert foreign(pod).items() >= UNRELATED.items()
    for part in ("labels", "ownerReferences"):
        assert pod["metadata"][part] == _moved(untouched["metadata"][part], untouched, pod)


def _moved(part: object, there: Json, here: Json) -> object:
    """A part of a pod as it would be in the other's namespace and for the other's instance."""
    text = json.dumps(part).replace(there["metadata"]["namespace"], here["metadata"]["namespace"])
    owners = [pod["metadata"]["ownerReferences"][0]["uid"] for pod in (there, here)]
    moved: object = json.loads(text.replace(*owners))
    return moved


def _size(present: Mapping[str, str]) -> int:
    return sum(len(key.encode()) + len(value.encode()) for key, value in present.items())


def test_a_pod_whose_annotations_are_full_is_left_alone(client: Client, namespace: str, replica: Replica) -> None:
    client.create(make_vm("vm-0", namespace))
    usual = launcher_pod(client, "vm-0", namespace)
    by_kubevirt = {key: value for key, value in annotations(usual).items() if key in {*foreign(usual), *KUBEVIRT_KEYS}}
    filler = "x" * (256 * 1024 - _size(by_kubevirt) - len("example.com/filler"))
    too_large = replica.metric("vm_consistency_decisions_total", reason="annotations-too-large")

    client.create(make_vm("vm-1", namespace, template_annotations={"example.com/filler": filler}))

    pod = launcher_pod(client, "vm-1", namespace)
    assert _size(annotations(pod)) == 256 * 1024
    assert record(pod) == {}
    assert hooks(pod) == kubevirt_hooks("vm-1", namespace)
    assert replica.metric("vm_consistency_decisions_total", reason="annotations-too-large") == too_large + 1

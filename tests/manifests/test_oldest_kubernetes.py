"""The matchConditions under the code of the oldest kube-apiserver that is supported."""

import json
import subprocess
from typing import Any

import pytest

from tests.infra.controlplane.build import ensure_all
from tests.manifests.edits import EDITS
from tests.manifests.overlay import Overlay
from tests.manifests.updates import UPDATES, State

OURSELVES = "system:serviceaccount:vm-consistency:vm-consistency"
SOMEBODY = "system:serviceaccount:kubevirt:kubevirt-controller"


def evaluate(webhook: dict[str, Any], requests: list[dict[str, Any]]) -> dict[str, Any]:
    """Compile the conditions and answer, for each request, whether it would be sent."""
    program = ensure_all("oldest")["oldest"]
    asked = json.dumps({"webhook": webhook, "requests": requests})
    ran = subprocess.run([program], input=asked, capture_output=True, text=True, check=True)
    answer: dict[str, Any] = json.loads(ran.stdout)
    return answer


def _create(user: str = SOMEBODY) -> dict[str, Any]:
    return {"user": user, "operation": "CREATE", "object": State().pod()}


def test_updates_are_sent_only_when_they_matter(overlay: Overlay) -> None:
    requests = [
        {"user": SOMEBODY, "operation": "UPDATE", "oldObject": update.before.pod(), "object": update.after.pod()}
        for update in UPDATES
    ]
    answer = evaluate(overlay.webhook, requests)
    assert answer["errors"] == []
    sent = {update.name: sent for update, sent in zip(UPDATES, answer["sent"], strict=True)}
    assert sent == {update.name: update.sent for update in UPDATES}


def test_creations_are_sent_unless_they_are_ours(overlay: Overlay) -> None:
    users = {SOMEBODY: True, OURSELVES: False, "": True, OURSELVES + "-2": True}
    answer = evaluate(overlay.webhook, [_create(user) for user in users])
    assert answer == {"errors": [], "sent": list(users.values())}


def test_annotations_are_sent_only_when_they_are_news(overlay: Overlay) -> None:
    requests = [
        {"user": SOMEBODY, "operation": edit.operation, "oldObject": edit.before, "object": edit.after}
        for edit in EDITS
    ]
    answer = evaluate(overlay.validating("annotations"), requests)
    assert answer["errors"] == []
    sent = {edit.name: sent for edit, sent in zip(EDITS, answer["sent"], strict=True)}
    assert sent == {edit.name: edit.sent for edit in EDITS}


POLICY = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "any"}, "data": {"policy.yaml": ""}}


@pytest.mark.parametrize("operation", ["CREATE", "UPDATE", "DELETE"])
def test_the_policy_is_sent_by_its_name_unless_we_write_it(overlay: Overlay, operation: str) -> None:
    writes = [
        (SOMEBODY, "vm-consistency-policy", True),
        ("", "vm-consistency-policy", True),
        (OURSELVES, "vm-consistency-policy", False),
        (SOMEBODY, "vm-consistency-last-good", False),
        (SOMEBODY, "", False),
    ]
    new, old = operation != "DELETE", operation != "CREATE"
    objects = {"object": POLICY if new else None, "oldObject": POLICY if old else None}
    requests = [{"user": user, "name": name, "operation": operation, **objects} for user, name, _ in writes]
    answer = evaluate(overlay.validating("policy"), requests)
    assert answer == {"errors": [], "sent": [sent for *_, sent in writes]}


@pytest.mark.parametrize(
    ("expression", "complaint"),
    [
        pytest.param("object.metadata.labels.transformMap(k, v, v) == {}", "undeclared reference", id="newer-than-it"),
        pytest.param("object.metadata.annotations['a'] == 'b'", "no such key", id="not-null-safe"),
    ],
)
@pytest.mark.usefixtures("real_parts")
def test_the_check_would_notice(expression: str, complaint: str) -> None:
    webhook = {"name": "a.b.c", "matchConditions": [{"name": "condition", "expression": expression}]}
    [error, *_] = evaluate(webhook, [_create()])["errors"]
    assert complaint in error

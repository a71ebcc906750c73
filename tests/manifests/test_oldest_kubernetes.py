"""The matchConditions under the code of the oldest kube-apiserver that is supported."""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.controlplane.build import Part, ensure
from tests.manifests.overlay import Overlay
from tests.manifests.updates import UPDATES, State

OLDEST = Part("oldest", Path(__file__).parent / "oldest", {"oldest": "."})

OURSELVES = "system:serviceaccount:vm-consistency:vm-consistency"
SOMEBODY = "system:serviceaccount:kubevirt:kubevirt-controller"


def evaluate(webhook: dict[str, Any], requests: list[dict[str, Any]]) -> dict[str, Any]:
    """Compile the conditions and answer, for each request, whether it would be sent."""
    program = ensure(OLDEST)["oldest"]
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


@pytest.mark.parametrize(
    ("expression", "complaint"),
    [
        pytest.param("object.metadata.labels.transformMap(k, v, v) == {}", "undeclared reference", id="newer-than-it"),
        pytest.param("object.metadata.annotations['a'] == 'b'", "no such key", id="not-null-safe"),
    ],
)
def test_the_check_would_notice(expression: str, complaint: str) -> None:
    webhook = {"name": "a.b.c", "matchConditions": [{"name": "condition", "expression": expression}]}
    [error, *_] = evaluate(webhook, [_create()])["errors"]
    assert complaint in error

"""The policy ConfigMap, as people write it with kubectl: errors are told there and then, and nothing bad is stored."""

from collections.abc import Iterator

import pytest

from app.core.policy_v1alpha1.config_map import parse
from tests.apiserver.conftest import NewNamespace, SetPolicy
from tests.apiserver.kubectl import kubectl, policy_config_map, validate_again
from tests.apiserver.pods import LEVEL
from tests.infra.controlplane import ApiError, Client, wait_for
from tests.infra.installation import NAMESPACE, POLICY, Installation, Replica, annotations, policy_text

GOOD = policy_text({"default": {"level": "crash"}})
BROKEN = policy_text(
    {
        "default": {"level": "bulletproof"},
        "rules": [
            {"name": "empty", "match": {}, "level": "crash"},
            {"name": "lost", "match": {"namespaces": ["a"]}, "level": "application", "profile": "nobody-wrote-this"},
        ],
        "hoks": {},
    }
)
DOUBTFUL = policy_text(
    {"rules": [{"name": "a", "match": {"templateSelector": {"matchLabels": {"a": "b"}}}, "allow": []}]}
)


def findings(text: str) -> list[str]:
    """What `policy check` says of a bad policy."""
    parsed = parse(text)
    assert isinstance(parsed, list)
    return [str(finding) for finding in parsed]


@pytest.fixture(autouse=True)
def before(installation: Installation, set_policy: SetPolicy) -> None:
    """A good policy is there, and is watched over."""
    set_policy(GOOD)
    validate_again(installation)


@pytest.mark.parametrize(
    "command",
    [("apply",), ("apply", "--server-side", "--force-conflicts"), ("replace",), ("apply", "--dry-run=server")],
    ids=" ".join,
)
def test_a_bad_policy_is_refused_with_every_error_and_not_stored(
    installation: Installation, client: Client, command: tuple[str, ...]
) -> None:
    stored = client.get("configmaps", POLICY, NAMESPACE)["data"]
    expected = findings(BROKEN)
    assert len(expected) == 4
    assert all(error.startswith("line ") for error in expected)

    typed = kubectl(installation.cp, *command, "-f", "-", objects=[policy_config_map(BROKEN)])

    assert typed.status == 1
    for error in expected:
        assert typed.stderr.count(error) == 1, typed.stderr
    assert client.get("configmaps", POLICY, NAMESPACE)["data"] == stored


def test_among_several_objects_too(installation: Installation, client: Client, namespace: str) -> None:
    other = policy_config_map("anything", metadata={"name": "other", "namespace": namespace})
    worse = policy_config_map(BROKEN)

    typed = kubectl(installation.cp, "apply", "-f", "-", objects=[other, worse, {**other, "kind": "Unheard"}])

    assert typed.status == 1
    assert all(error in typed.stderr for error in findings(BROKEN))
    assert client.get("configmaps", "other", namespace)


def test_programs_get_the_status_of_an_invalid_object(client: Client) -> None:
    with pytest.raises(ApiError) as refused:
        client.apply(policy_config_map(BROKEN))

    assert (refused.value.status, refused.value.reason) == (422, "Invalid")
    lines = refused.value.message.splitlines()
    assert lines[0].endswith("denied the request: policy.yaml has 4 errors, and was not stored:")
    assert lines[1:] == findings(BROKEN)
    details = refused.value.body["details"]
    assert (details["kind"], details["name"]) == ("ConfigMap", POLICY)
    assert [cause["message"] for cause in details["causes"]] == findings(BROKEN)


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"data": {"policy.yml": GOOD}}, "the ConfigMap has no key policy.yaml"),
        ({"binaryData": {"policy.yaml": "AAAA"}}, "policy.yaml is binary"),
    ],
    ids=["misspelt-key", "binary"],
)
def test_a_policy_that_is_none(client: Client, fields: dict[str, object], told: str) -> None:
    config_map = client.get("configmaps", POLICY, NAMESPACE)
    del config_map["data"]
    with pytest.raises(ApiError, match=told):
        client.replace({**config_map, **fields})


def test_a_good_policy_is_stored_without_a_word(installation: Installation, replica: Replica) -> None:
    before = replica.policy_loads()
    good = policy_config_map(policy_text({"default": {"level": "filesystem"}}))

    typed = kubectl(installation.cp, "apply", "--server-side", "--force-conflicts", "-f", "-", objects=[good])

    assert (typed.status, typed.stderr) == (0, "")
    wait_for(lambda: replica.policy_loads() > before, what="the policy")
    assert replica.policy_state() == "valid"


def test_what_may_be_doubted_is_a_warning(installation: Installation, client: Client) -> None:
    doubtful = policy_config_map(DOUBTFUL)

    typed = kubectl(installation.cp, "apply", "--server-side", "--force-conflicts", "-f", "-", objects=[doubtful])

    assert typed.status == 0
    [warning] = typed.warnings
    assert "rules[0]" in warning
    assert client.get("configmaps", POLICY, NAMESPACE)["data"]["policy.yaml"] == DOUBTFUL


def test_deletion_is_allowed_and_said_loudly(installation: Installation, client: Client, replica: Replica) -> None:
    typed = kubectl(installation.cp, "delete", "configmap", POLICY, "-n", NAMESPACE)

    assert typed.status == 0
    at_once, later = typed.warnings
    assert "every new virt-launcher pod gets the built-in default at once" in at_once
    assert "running virt-launcher pods follow in 5 min" in later
    assert client.find("configmaps", POLICY, NAMESPACE) is None
    wait_for(lambda: replica.policy_state() == "absent", what="the deletion to be seen")


def test_who_creates_a_bad_policy_is_told_too(installation: Installation, client: Client) -> None:
    client.delete("configmaps", POLICY, NAMESPACE)

    typed = kubectl(installation.cp, "create", "-f", "-", objects=[policy_config_map(BROKEN)])

    assert typed.status == 1
    assert all(error in typed.stderr for error in findings(BROKEN))
    assert client.find("configmaps", POLICY, NAMESPACE) is None


def test_a_broken_policy_can_be_annotated_and_mended(
    installation: Installation, client: Client, set_policy: SetPolicy
) -> None:
    set_policy(BROKEN)

    typed = kubectl(installation.cp, "annotate", "configmap", POLICY, "-n", NAMESPACE, "example.com/note=1")
    assert typed.status == 0
    [warning] = typed.warnings
    assert warning.startswith("the policy in this ConfigMap is invalid, the last good one holds: line ")
    assert annotations(client.get("configmaps", POLICY, NAMESPACE))["example.com/note"] == "1"

    client.patch("configmaps", POLICY, {"data": {"policy.yaml": GOOD}}, NAMESPACE)
    assert client.warnings == ()


def test_nothing_else_is_judged(client: Client, namespace: str) -> None:
    client.create(policy_config_map("nonsense", metadata={"name": POLICY, "namespace": namespace}))
    client.create(policy_config_map("nonsense", metadata={"name": "other", "namespace": NAMESPACE}))
    client.delete("configmaps", "other", NAMESPACE)
    assert client.warnings == ()


@pytest.fixture
def unvalidated(installation: Installation) -> Iterator[None]:
    """Where the API server looks for the validating webhooks, nobody listens."""
    installation.validate_by(installation.cp.port())
    yield
    validate_again(installation)


@pytest.mark.usefixtures("unvalidated")
def test_without_an_answer_everything_can_be_written_and_no_harm_is_done(
    installation: Installation, client: Client, new_namespace: NewNamespace, replica: Replica
) -> None:
    broken = policy_config_map(BROKEN)

    def stored() -> bool:  # until the API server has followed, the webhook denies it
        typed = kubectl(installation.cp, "apply", "--server-side", "--force-conflicts", "-f", "-", objects=[broken])
        return typed.status == 0

    wait_for(stored, what="a bad policy to slip through")
    wait_for(lambda: replica.policy_state() == "last-good", what="the webhook to see it")

    name = new_namespace(annotations={LEVEL: "bulletproof"})
    assert client.warnings == ()
    assert annotations(client.get("namespaces", name))[LEVEL] == "bulletproof"
    client.patch("configmaps", POLICY, {"data": {"policy.yaml": GOOD}}, NAMESPACE)
    wait_for(lambda: replica.policy_state() == "valid", what="the policy to be mended")

"""A policy with errors: the last good one holds, also after a restart, and everybody who looks is told."""

from collections.abc import Callable, Iterator

import pytest

from tests.apiserver.conftest import SetPolicy
from tests.apiserver.pods import decided, hooks, kubevirt_hooks, owner_of, pod_like_a_launcher, record
from tests.infra.controlplane import Client, launcher_pod, make_vm, wait_for
from tests.infra.installation import LAST_GOOD, NAMESPACE, Installation, Replica, policy_text

GOOD = {"default": {"level": "crash"}}
BROKEN = policy_text({"default": {"level": "bulletproof"}, "rules": [{"name": "empty", "match": {}, "level": "crash"}]})


@pytest.fixture
def restart(replica: Replica) -> Iterator[Callable[[], None]]:
    """Kill the replica, which has no time to say goodbye, and launch it again without waiting until it is ready."""

    def again() -> None:
        replica.process.kill()
        replica.process.launch()

    yield again
    replica.wait_ready()


def _level_of_new_pod(client: Client, name: str, namespace: str) -> str | None:
    client.create(make_vm(name, namespace))
    return decided(launcher_pod(client, name, namespace))[0]


def _wait_kept(client: Client, policy: str) -> None:
    """Wait until the copy of the last good policy says so; the webhook writes it after it took the policy over."""
    wait_for(
        lambda: policy in client.get("configmaps", LAST_GOOD, NAMESPACE).get("data", {}).get("policy.yaml", ""),
        what="the copy of the last good policy",
    )


@pytest.mark.parametrize(
    "broken",
    [BROKEN, "{", "a policy?", "", "kind: ConsistencyPolicy", policy_text({"defualt": {"level": "crash"}})],
    ids=["two-errors", "no-yaml", "a-text", "empty", "no-version", "unknown-field"],
)
def test_the_last_good_policy_holds(client: Client, namespace: str, set_policy: SetPolicy, broken: str) -> None:
    set_policy(GOOD)
    set_policy(broken)

    assert _level_of_new_pod(client, "db", namespace) == "crash"


def test_a_config_map_without_the_key_is_a_broken_policy(
    client: Client, namespace: str, set_policy: SetPolicy, installation: Installation, replica: Replica
) -> None:
    set_policy(GOOD)
    installation.write_policy({"policy.yml": "kind: typo"})
    wait_for(lambda: replica.policy_state() == "last-good", what="the webhook to see it")

    assert _level_of_new_pod(client, "db", namespace) == "crash"
    assert "policy.yaml" in replica.ops("/readyz")[1]


def test_log_metric_and_readiness_say_so(set_policy: SetPolicy, replica: Replica) -> None:
    set_policy(GOOD)
    bad = replica.metric("vm_consistency_policy_loads_total", result="bad")
    logged = len(replica.log_lines())

    set_policy(BROKEN)

    assert replica.policy_state() == "last-good"
    assert replica.metric("vm_consistency_policy_loads_total", result="bad") == bad + 1
    status, text = replica.ops("/readyz")
    assert status == 200, "a webhook with a policy to go by takes reviews"
    assert "the newest policy is invalid, the last good one holds: " in text
    assert "default.level" in text
    [line] = [line for line in replica.log_lines()[logged:] if "errors" in line]
    assert line["severity"] == "error"
    assert [error.split(": ")[:2] for error in line["errors"]] == [
        ["line 4", "default.level"],
        ["line 7", "rules[0].match"],
    ]

    set_policy(GOOD)

    assert replica.policy_state() == "valid"
    assert "policy is invalid" not in replica.ops("/readyz")[1]


def test_the_last_good_policy_survives_a_restart(
    client: Client, namespace: str, restart: Callable[[], None], set_policy: SetPolicy, replica: Replica
) -> None:
    mark = "# good before the restart\n"
    set_policy(policy_text(GOOD) + mark)
    _wait_kept(client, mark)
    set_policy(BROKEN)

    restart()
    replica.process.wait_ready()

    assert replica.policy_state() == "last-good"
    assert "the last good one holds" in replica.ops("/readyz")[1]
    assert _level_of_new_pod(client, "db", namespace) == "crash"


def test_an_invalid_policy_with_no_good_one_behind_it_leaves_every_pod_as_it_is(
    client: Client, namespace: str, restart: Callable[[], None], set_policy: SetPolicy, replica: Replica
) -> None:
    set_policy(BROKEN)
    client.patch("configmaps", LAST_GOOD, {"data": None}, NAMESPACE)

    restart()
    problem = wait_for(lambda: _policy_problem(replica), what="nothing but the policy to be wrong")

    assert "is invalid and no good one is known, every pod is left as it is: line 4: default.level" in problem
    assert replica.policy_state() == "invalid"
    assert replica.ops("/readyz")[0] == 503
    client.create(make_vm("db", namespace))
    pod = launcher_pod(client, "db", namespace)
    assert replica.metric("vm_consistency_decisions_total", reason="policy-invalid") == 1
    assert record(pod) == {}
    assert hooks(pod) == kubevirt_hooks("db", namespace)

    owner = owner_of(client.get("virtualmachineinstances", "db", namespace))
    trial = client.create(pod_like_a_launcher(namespace, owner), dry_run=True)
    assert hooks(trial) == record(trial) == {}
    [warning] = client.warnings
    assert warning.startswith("vm-consistency: hooks left as they are: the policy can't be used: line 4: default.level")

    set_policy(GOOD)
    replica.wait_ready()
    assert _level_of_new_pod(client, "after", namespace) == "crash"


def _policy_problem(replica: Replica) -> str | None:
    """What is wrong with the policy that was read, once it is the only thing that is wrong."""
    if replica.problems() is None or replica.policy_state() != "invalid":
        return None
    problems = replica.problems() or {}  # read after the state: before, they may be about an earlier moment
    return problems["policy"] if list(problems) == ["policy"] else None

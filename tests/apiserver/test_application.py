"""Level application on the real control plane: who gets it, with which profile, and that it stays in place."""

import json

import pytest

from app.core.annotations import EFFECTIVE_PROFILE
from app.core.hooks.render import render_hooks
from app.core.kubevirt_names import UPSTREAM
from app.core.policy import Hooks, Level
from app.core.policy_v1alpha1.schema import built_in_profiles
from app.core.profiles import NO_STEPS
from tests.apiserver.conftest import SetPolicy
from tests.apiserver.pods import LEVEL, POST, PRE, PROFILE, decided, hooks
from tests.apiserver.touching import Toucher
from tests.infra.controlplane import Client, Json, launcher_pod, make_migration, make_vm, run_stand_in_guest, wait_for
from tests.infra.installation import Installation, Replica, annotations

OWN = {"quiesce": [{"name": "lock", "run": "true"}], "resume": [{"name": "unlock", "run": "true"}]}


def rule(namespace: str, **fields: object) -> Json:
    return {"name": "here", "match": {"namespaces": [namespace]}, **fields}


def expected(profile: str, vmi: str, namespace: str, hooks: Hooks | None = None) -> dict[str, str]:
    return render_hooks(Level.APPLICATION, built_in_profiles()[profile], hooks or Hooks(), namespace, vmi, UPSTREAM)


def now(client: Client, pod: Json) -> Json:
    return client.get("pods", pod["metadata"]["name"], pod["metadata"]["namespace"])


def reasons(client: Client, namespace: str) -> set[str]:
    return {event["reason"] for event in client.list("events", namespace)}


def test_a_rule_gives_its_profile(client: Client, namespace: str, set_policy: SetPolicy) -> None:
    set_policy({"rules": [rule(namespace, level="application", profile="mariadb")]})
    client.create(make_vm("db", namespace))
    pod = launcher_pod(client, "db", namespace)
    assert decided(pod) == ("application", "rule/here")
    assert annotations(pod)[EFFECTIVE_PROFILE] == "mariadb"
    assert hooks(pod) == expected("mariadb", "db", namespace)


@pytest.mark.parametrize("source", ["vm", "template", "namespace"])
def test_an_annotation_picks_one_by_name(client: Client, namespace: str, set_policy: SetPolicy, source: str) -> None:
    set_policy({"rules": [rule(namespace, level="crash", allowProfiles=["postgresql"])]})
    asked = {LEVEL: "application", PROFILE: "postgresql"}
    if source == "namespace":
        client.patch("namespaces", namespace, {"metadata": {"annotations": asked}})
    where: Json = {"vm": {"annotations": asked}, "template": {"template_annotations": asked}, "namespace": {}}[source]
    client.create(make_vm("db", namespace, **where))
    pod = launcher_pod(client, "db", namespace)
    wait_for(lambda: decided(now(client, pod)) == ("application", source), what="the level")
    assert hooks(now(client, pod)) == expected("postgresql", "db", namespace)


@pytest.mark.parametrize(
    ("profile", "reason"),
    [("nobody-wrote-this", "ProfileUnknown"), ("script", "RequestRefused")],
    ids=["unknown", "not-allowed"],
)
def test_a_profile_that_is_not_to_be_had_falls_to_the_next_source_and_is_told(
    client: Client, namespace: str, set_policy: SetPolicy, replica: Replica, profile: str, reason: str
) -> None:
    wait_for(lambda: replica.metric("vm_consistency_leader") == 1, what="the replica to lead")
    set_policy({"rules": [rule(namespace, level="filesystem", allowProfiles=["postgresql"])]})
    client.create(make_vm("db", namespace, annotations={LEVEL: "application", PROFILE: profile}))
    assert decided(launcher_pod(client, "db", namespace)) == ("filesystem", "rule/here")
    wait_for(lambda: reason in reasons(client, namespace), what=f"the Event {reason}")


def test_the_hooks_stay_when_kubevirt_syncs(
    client: Client, installation: Installation, namespace: str, set_policy: SetPolicy
) -> None:
    set_policy({"rules": [rule(namespace, level="application", profile="redis")]})
    client.create(make_vm("db", namespace))
    pod = launcher_pod(client, "db", namespace)
    toucher = Toucher(installation.cp, namespace, ["db"], ["db"])
    toucher.settle()
    before = toucher.pod("db")
    for _ in range(2):
        toucher.touch()
    assert annotations(toucher.pod("db")) == annotations(pod)
    assert toucher.writes("db", before) == [], "virt-controller's PATCHes change nothing"


def test_a_changed_profile_reaches_running_pods(client: Client, namespace: str, set_policy: SetPolicy) -> None:
    here = rule(namespace, level="application", profile="own")
    set_policy({"rules": [here], "profiles": {"own": OWN}})
    client.create(make_vm("db", namespace))
    pod = launcher_pod(client, "db", namespace)
    assert decided(pod) == ("application", "rule/here")
    changed = {**OWN, "quiesce": [{"name": "lock", "run": "true", "timeout": "77s"}]}
    set_policy({"rules": [here], "profiles": {"own": changed}})
    longer = int(hooks(pod)[PRE + "timeout"].removesuffix("s")) + 47
    wait_for(lambda: hooks(now(client, pod))[PRE + "timeout"] == f"{longer}s", what="the new timeout")
    assert decided(now(client, pod)) == ("application", "rule/here")


def test_a_built_in_profile_is_overridden_by_name(client: Client, namespace: str, set_policy: SetPolicy) -> None:
    set_policy({"rules": [rule(namespace, level="application", profile="mariadb")], "profiles": {"mariadb": OWN}})
    client.create(make_vm("db", namespace))
    written = hooks(launcher_pod(client, "db", namespace))
    assert written[PRE + "command"] != expected("mariadb", "db", namespace)[PRE + "command"]
    assert json.loads(written[POST + "command"])[4:6] == [namespace, "db"]


def test_a_freeze_that_must_be_verified(client: Client, namespace: str, set_policy: SetPolicy) -> None:
    set_policy({"rules": [rule(namespace, level="filesystem", hooks={"requireFrozen": True})]})
    client.create(make_vm("db", namespace))
    pod = launcher_pod(client, "db", namespace)
    assert decided(pod) == ("filesystem", "rule/here")
    assert hooks(pod) == render_hooks(Level.FILESYSTEM, NO_STEPS, Hooks(require_frozen=True), namespace, "db", UPSTREAM)


def test_both_pods_of_a_migration_carry_the_hooks(client: Client, namespace: str, set_policy: SetPolicy) -> None:
    set_policy({"rules": [rule(namespace, level="application", profile="redis")]})
    client.create(make_vm("db", namespace))
    source = run_stand_in_guest(client, "db", namespace, "node-a")
    client.create(make_migration("db", namespace))
    target = launcher_pod(client, "db", namespace, not_uid=source["metadata"]["uid"])
    assert hooks(target) == hooks(source) == expected("redis", "db", namespace)

"""Without a policy, which may be from one moment to the next: KubeVirt's own switch decides, else filesystem."""

from collections.abc import Iterator

import pytest

from tests.apiserver.conftest import NewNamespace, SetPolicy
from tests.apiserver.pods import LEVEL, SKIP, decided, hooks, hooks_of, owner_of, pod_like_a_launcher
from tests.infra.controlplane import Client, Json, launcher_pod, make_vm, make_vmi, wait_for
from tests.infra.installation import Installation, Replica


def _switch(client: Client, skip: str | None) -> None:
    patch = {"metadata": {"annotations": {SKIP: skip}}}
    client.patch("kubevirts", "kubevirt", patch, "kubevirt")


@pytest.fixture
def kubevirt_skips(client: Client) -> Iterator[None]:
    """The KubeVirt object says that no VM of the cluster gets hooks."""
    _switch(client, "true")
    yield
    _switch(client, None)


def _trial(client: Client, namespace: str) -> Json:
    """A launcher pod on trial, for an instance that is made for it."""
    vmi = client.find("virtualmachineinstances", "trial", namespace) or client.create(make_vmi("trial", namespace))
    return client.create(pod_like_a_launcher(namespace, owner_of(vmi)), dry_run=True)


def test_filesystem_without_a_policy(client: Client, namespace: str, set_policy: SetPolicy) -> None:
    set_policy(None)
    client.create(make_vm("db", namespace))

    pod = launcher_pod(client, "db", namespace)

    assert decided(pod) == ("filesystem", "built-in")
    assert hooks(pod) == hooks_of("filesystem", "db", namespace)


@pytest.mark.usefixtures("kubevirt_skips")
def test_crash_without_a_policy_where_kubevirt_skips(
    client: Client, new_namespace: NewNamespace, set_policy: SetPolicy
) -> None:
    set_policy(None)
    namespace, asking = new_namespace(), new_namespace("asking", annotations={LEVEL: "filesystem"})
    wait_for(lambda: decided(_trial(client, namespace))[0] == "crash", what="the webhook to see KubeVirt's switch")
    client.create(make_vm("silent", namespace))
    client.create(make_vm("back", namespace, annotations={SKIP: "false"}))
    client.create(make_vm("wish", namespace, annotations={LEVEL: "filesystem"}))
    client.create(make_vm("silent", asking))

    found = {
        (name, place): launcher_pod(client, name, place)
        for name, place in (("silent", namespace), ("back", namespace), ("wish", namespace), ("silent", asking))
    }

    assert {key: decided(pod) for key, pod in found.items()} == {
        ("silent", namespace): ("crash", "built-in"),
        ("back", namespace): ("filesystem", "built-in"),
        ("wish", namespace): ("filesystem", "vm"),
        ("silent", asking): ("filesystem", "namespace"),
    }
    for (name, place), pod in found.items():
        assert hooks(pod) == hooks_of(str(decided(pod)[0]), name, place)


@pytest.mark.usefixtures("kubevirt_skips")
def test_a_policy_outweighs_the_switch_of_kubevirt(client: Client, namespace: str, set_policy: SetPolicy) -> None:
    set_policy(None)
    wait_for(lambda: decided(_trial(client, namespace))[0] == "crash", what="the webhook to see KubeVirt's switch")
    set_policy({"default": {"level": "filesystem"}})
    client.create(make_vm("db", namespace))

    pod = launcher_pod(client, "db", namespace)

    assert decided(pod) == ("filesystem", "default")
    assert hooks(pod) == hooks_of("filesystem", "db", namespace), "KubeVirt wrote none"


def test_deleted_and_made_again(
    client: Client, namespace: str, set_policy: SetPolicy, installation: Installation, replica: Replica
) -> None:
    set_policy({"default": {"level": "crash"}})
    assert decided(_trial(client, namespace)) == ("crash", "default")

    installation.set_policy(None)
    wait_for(lambda: decided(_trial(client, namespace)) == ("filesystem", "built-in"), what="the built-in default")
    assert replica.policy_state() == "absent"
    assert replica.is_ready(), "no policy is a policy to go by"

    installation.set_policy({"default": {"level": "crash"}})
    wait_for(lambda: decided(_trial(client, namespace)) == ("crash", "default"), what="the policy")
    assert replica.policy_state() == "valid"


def test_the_deletion_of_a_broken_policy_counts_too(client: Client, namespace: str, set_policy: SetPolicy) -> None:
    set_policy({"default": {"level": "crash"}})
    set_policy("default: broken")
    assert decided(_trial(client, namespace)) == ("crash", "default")

    set_policy(None)

    assert decided(_trial(client, namespace)) == ("filesystem", "built-in")


def test_without_a_policy_a_restart_finds_none(
    client: Client, namespace: str, set_policy: SetPolicy, replica: Replica
) -> None:
    set_policy({"default": {"level": "crash"}})
    set_policy(None)

    replica.process.kill()
    replica.process.start()

    assert replica.policy_state() == "absent"
    assert decided(_trial(client, namespace)) == ("filesystem", "built-in"), "the last good policy is not for this"

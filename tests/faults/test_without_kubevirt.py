"""KubeVirt's kinds are removed from the running cluster, and come back; this module takes them from the ones after."""

import pytest

from tests.faults.fleet import Fleet, policy
from tests.faults.ledger import Ledger, assert_quiet
from tests.infra.controlplane import Client, Json, wait_for
from tests.infra.installation import Installation, Replica

CRDS = "customresourcedefinitions"
KINDS = ("virtualmachines", "virtualmachineinstances", "kubevirts")


def remove(client: Client) -> list[Json]:
    """Remove the kinds with all of their objects; returns what brings them back."""
    kept = []
    for plural in KINDS:
        crd = client.get(CRDS, f"{plural}.kubevirt.io")
        kept.append(
            {
                "apiVersion": crd["apiVersion"],
                "kind": crd["kind"],
                "metadata": {"name": crd["metadata"]["name"]},
                "spec": crd["spec"],
            }
        )
        client.delete(CRDS, crd["metadata"]["name"])
    for crd in kept:
        name = crd["metadata"]["name"]
        wait_for(lambda: client.find(CRDS, name) is None, what=f"{name} to be gone")  # noqa: B023
    return kept


def come_back(client: Client, crds: list[Json]) -> None:
    for crd in crds:
        client.create(crd)
    for crd in crds:
        wait_for(lambda: _served(client, crd["metadata"]["name"]), what="the kinds to be served")  # noqa: B023


def _served(client: Client, name: str) -> bool:
    conditions = client.get(CRDS, name).get("status", {}).get("conditions") or []
    return any(condition["type"] == "Established" and condition["status"] == "True" for condition in conditions)


def held(replica: Replica) -> float:
    return sum(
        replica.metric("vm_consistency_store_objects", resource=f"{plural}.kubevirt.io")
        for plural in ("virtualmachines", "virtualmachineinstances")
    )


@pytest.mark.usefixtures("well")
def test_kubevirt_is_removed_and_installed_again(
    cluster: Installation, fleet: Fleet, replicas: tuple[Replica, Replica]
) -> None:
    client, before, ledger = cluster.cp.client, fleet.versions(), Ledger(cluster.cp)
    crds = remove(client)
    for replica in replicas:
        wait_for(lambda: held(replica) == 0, what="the replica to have noticed")  # noqa: B023
    cluster.change_policy(policy(41))
    assert_quiet(cluster.cp, *replicas, a_second=9)  # each kind is looked for every two seconds
    assert all(replica.is_ready() for replica in replicas)
    assert ledger.patches() == []

    come_back(client, crds)
    after = Fleet(client, ["team-d"], 20).create()
    after.right(after.frozen(41))
    cluster.change_policy(policy(42))
    after.right(after.frozen(42))
    print(ledger)
    assert fleet.versions() == before, "nothing is known of the instances that these belonged to"
    assert max(ledger.writes().values()) <= 2

"""Names of all lengths and kinds: the hooks carry the whole name, which no label does."""

from collections.abc import Mapping

import pytest

from tests.apiserver.pods import EXCLUDED, KUBEVIRT_KEYS, decided, filesystem_hooks, hooks
from tests.infra.controlplane import Json, launcher_pod, make_namespace, make_vm, make_vmi
from tests.infra.installation import Installation

# 238 is the most: generateName of the pod, virt-launcher-NAME-, has to fit into 253 characters.
NAMES = {
    "dots": "db.example.com",
    "one-letter": "x",
    "digits": "007",
    "dash-and-dots": "a-1.b--2.c",
    "63-characters": "n" * 63,
    "64-characters": "n" * 64,
    "102-characters": "virtual-machine-with-a-long-name." * 3 + "end",
    "238-characters": ".".join(["m" * 58] * 4) + ".ab",
}
SHORT, LONG = "ns", "l" * 63


def _virtual_machines(namespace: str) -> list[Json]:
    named = [make_vm(name, namespace) for name in NAMES.values()]
    other_hostname = make_vm("called-this", namespace, guest={"hostname": "says-that", "subdomain": "elsewhere"})
    return [*named, other_hostname, make_vmi("bare." + "v" * 70, namespace)]


@pytest.fixture(scope="module")
def pods(installation: Installation) -> Mapping[tuple[str, str], Json]:
    """The launcher pods by namespace and name; in EXCLUDED they are as KubeVirt wrote them."""
    client = installation.cp.client
    for namespace in (SHORT, LONG):
        client.create(make_namespace(namespace))
    created = [client.create(vm) for place in (SHORT, LONG, EXCLUDED) for vm in _virtual_machines(place)]
    keys = [(one["metadata"]["namespace"], one["metadata"]["name"]) for one in created]
    return {(namespace, name): launcher_pod(client, name, namespace) for namespace, name in keys}


@pytest.mark.parametrize("namespace", [SHORT, LONG], ids=["short-namespace", "63-character-namespace"])
@pytest.mark.parametrize(
    "name", [*NAMES.values(), "called-this", "bare." + "v" * 70], ids=[*NAMES, "hostname", "bare-vmi"]
)
def test_the_hooks_name_the_instance_in_full_as_kubevirt_does(
    pods: Mapping[tuple[str, str], Json], name: str, namespace: str
) -> None:
    pod, by_kubevirt = pods[namespace, name], pods[EXCLUDED, name]

    assert decided(pod) == ("filesystem", "default")
    assert hooks(pod) == filesystem_hooks(name, namespace)
    own = {key: value.replace(EXCLUDED, namespace) for key, value in hooks(by_kubevirt).items()}
    assert {key: value for key, value in hooks(pod).items() if key in KUBEVIRT_KEYS} == own


def test_no_label_would_have_done(pods: Mapping[tuple[str, str], Json]) -> None:
    labels = {name: pods[SHORT, name]["metadata"]["labels"]["vm.kubevirt.io/name"] for name in NAMES.values()}

    assert labels["db.example.com"] == "db"
    assert labels[NAMES["64-characters"]] == labels[NAMES["63-characters"]]
    assert pods[SHORT, "called-this"]["metadata"]["labels"]["vm.kubevirt.io/name"] == "says-that"


def test_equal_names_in_two_namespaces_are_two(pods: Mapping[tuple[str, str], Json]) -> None:
    assert hooks(pods[SHORT, "x"]) != hooks(pods[LONG, "x"])

"""Fills the API server with copies of one recorded virtual machine."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import orjson

from tests.bench.recording import NAMESPACE, VM, Recording
from tests.bench.scale.sender import Request, Sender
from tests.infra.controlplane import Client, Json, make_namespace
from tests.infra.controlplane.progress import say

_CONNECTIONS = 16
_OF_THE_SERVER = ("uid", "resourceVersion", "creationTimestamp", "generation", "managedFields", "selfLink")
_NAME, _NAMESPACE, _UID = "@name@", "@namespace@", "@uid@"


class Machine(NamedTuple):
    """A virtual machine of the fill; its namespace has no other."""

    namespace: str
    name: str
    suffix: str
    """What the API server would have added to the pod's generateName."""


class Templates(NamedTuple):
    """The three objects of a machine as JSON text, with marks for what differs."""

    machine: str
    instance: str
    pod: str


def machines(count: int) -> list[Machine]:
    """`count` machines, each in a namespace of its own."""
    return [Machine(f"tenant-{number:05}", f"database-{number:05}", f"{number:05x}") for number in range(count)]


def templates(client: Client, recording: Recording) -> Templates:
    """From the recorded machine, which is in the cluster still."""
    machine = client.get("virtualmachines", VM, NAMESPACE)
    instance = client.get("virtualmachineinstances", VM, NAMESPACE)
    pod = recording.created
    pod["metadata"]["name"] = pod["metadata"]["generateName"] + "@suffix@"
    uids = [machine["metadata"]["uid"], instance["metadata"]["uid"]]
    return Templates(*(_marked(one, uids) for one in (machine, instance, pod)))


def _marked(obj: Json, uids: Sequence[str]) -> str:
    """Mark names and owner's UID. The recorded namespace's name is a word of its own wherever it stands."""
    metadata = {key: value for key, value in obj["metadata"].items() if key not in _OF_THE_SERVER}

    def mark(value: Any) -> Any:
        if isinstance(value, dict):
            return {mark(key): mark(item) for key, item in value.items()}
        if isinstance(value, list):
            return [mark(item) for item in value]
        if not isinstance(value, str):
            return value
        for uid in uids:
            value = value.replace(uid, _UID)
        value = value.replace(VM, _NAME).replace(f'"{NAMESPACE}"', f'"{_NAMESPACE}"')
        return _NAMESPACE if value == NAMESPACE else value

    return orjson.dumps(mark({**obj, "metadata": metadata})).decode()


def _filled(template: str, machine: Machine, uid: str) -> orjson.Fragment:
    text = template.replace(_NAME, machine.name).replace(_NAMESPACE, machine.namespace).replace(_UID, uid)
    return orjson.Fragment(text.replace("@suffix@", machine.suffix))


def fill(client: Client, sender: Sender, recording: Recording, wanted: Sequence[Machine]) -> None:
    """Create everything; the pods are as virt-controller sent them, without the product's record."""
    text = templates(client, recording)
    say(f"{len(wanted):,} namespaces")
    _create(sender, (_namespace(machine) for machine in wanted))
    kubevirt = "/apis/kubevirt.io/v1/namespaces/{}/"
    say(f"{len(wanted):,} virtual machines")
    uids = _create(sender, _copies(kubevirt + "virtualmachines", text.machine, wanted, [""] * len(wanted)))
    say(f"{len(wanted):,} instances")
    uids = _create(sender, _copies(kubevirt + "virtualmachineinstances", text.instance, wanted, uids))
    say(f"{len(wanted):,} launcher pods")
    _create(sender, _copies("/api/v1/namespaces/{}/pods", text.pod, wanted, uids))


def _namespace(machine: Machine) -> Request:
    labels = {"tenant": machine.namespace, "pod-security.kubernetes.io/enforce": "privileged"}
    return Request("POST", "/api/v1/namespaces", make_namespace(machine.namespace, labels=labels))


def _copies(path: str, template: str, wanted: Sequence[Machine], uids: Sequence[str]) -> Iterator[Request]:
    for machine, uid in zip(wanted, uids, strict=True):
        yield Request("POST", path.format(machine.namespace), _filled(template, machine, uid))


def _create(sender: Sender, requests: Iterator[Request]) -> list[str]:
    return sender.send(requests, connections=_CONNECTIONS, uids=True).uids

"""What an Event says."""

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from hashlib import sha256
from typing import Final

from app.kube.client import Json
from app.kube.resources import EVENTS

_ACTION: Final = "Reconcile"
_MAX_NAME: Final = 253


@dataclass(frozen=True, slots=True)
class ObjectRef:
    """What an Event is about. Without its `uid`, `kubectl describe` doesn't show the Event."""

    api_version: str
    kind: str
    namespace: str
    name: str
    uid: str

    @property
    def event_namespace(self) -> str:
        """Where its Events are kept; those about cluster-scoped objects are in `default`, as client-go has it."""
        return self.namespace or "default"


class Budgets:
    """How many different Events of one reason there may be about one object: 25 at once, then one every five minutes.

    As client-go has it (tools/record/events_cache.go); or else whoever changes one object all the time would leave no
    room for Events about the others, and fill etcd.
    """

    _BURST: Final = 25
    _SECONDS: Final = 300.0
    _REMEMBERED: Final = 4096

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._spent: OrderedDict[str, tuple[float, float]] = OrderedDict()  # how much at which time

    def spend(self, key: str) -> bool:
        """Take one; returns False if there is none left."""
        now = self._clock()
        spent, at = self._spent.get(key, (0.0, now))
        spent = max(0.0, spent - (now - at) / self._SECONDS)
        is_left = spent <= self._BURST - 1
        self._spent[key] = (spent + is_left, now)
        self._spent.move_to_end(key)
        if len(self._spent) > self._REMEMBERED:
            self._spent.popitem(last=False)
        return is_left


@dataclass(slots=True)
class Occurrence:
    """What an Event tells; `count` is how often it happened since the Event was last written."""

    key: bytes
    about: ObjectRef
    type: str
    reason: str
    message: str
    is_recurring: bool
    is_known: bool
    """This process has written the Event before, so there is one whose count can be raised."""
    first: datetime
    last: datetime
    count: int = 1
    attempts: int = 0

    @property
    def name(self) -> str:
        """The same for every replica, so that what one has told, its successor doesn't tell again."""
        ending = f".{self.key.hex()}"
        return self.about.name[: _MAX_NAME - len(ending)].rstrip("-.") + ending

    @property
    def collection(self) -> str:
        """The path to create the Event in. Raises ValueError for a namespace that no object can have."""
        return EVENTS.collection(self.about.event_namespace)

    @property
    def path(self) -> str:
        """The path of the Event. Raises ValueError as `collection` does."""
        return EVENTS.object(self.name, self.about.event_namespace)

    def event(self, component: str, instance: str) -> Json:
        """The Event as it is created: core/v1, which kubectl reads; `component` is ours, `instance` this process."""
        about = self.about
        involved = {"apiVersion": about.api_version, "kind": about.kind, "name": about.name, "uid": about.uid}
        return {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"name": self.name, "namespace": about.event_namespace},
            "involvedObject": {**involved, **({"namespace": about.namespace} if about.namespace else {})},
            "type": self.type,
            "reason": self.reason,
            "action": _ACTION,
            "message": self.message,
            "source": {"component": component},
            "reportingComponent": component,
            "reportingInstance": instance,
            "firstTimestamp": _time(self.first),
            "lastTimestamp": _time(self.last),
            "count": self.count,
        }

    def raised(self, held: Json) -> Json:
        """The merge patch that adds this to the Event that there is."""
        return {"count": (held.get("count") or 1) + self.count, "lastTimestamp": _time(self.last)}


def digest(uid: str, reason: str, message: str) -> bytes:
    """What tells Events apart."""
    return sha256("\0".join((uid, reason, message)).encode(errors="backslashreplace")).digest()[:8]


def _time(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")

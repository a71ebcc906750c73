"""The objects that a reflector keeps up to date."""

import logging
import time
from collections.abc import Callable, ItemsView, Iterator
from typing import Generic, TypeVar

T = TypeVar("T")

Key = tuple[str, str]
"""Namespace (empty for a cluster-scoped object) and name, both shared with the object's view."""

STALE_SECONDS = 30.0
"""Without a watch for longer, a store is not trusted: shorter gaps are those of any reconnect."""

_log = logging.getLogger("vm-consistency.watch")


class ObjectStore(Generic[T]):
    """Views of one kind of object by namespace and name.

    `synced` is False until the first complete list, that is as long as a miss means nothing. `out_of_touch_since` is
    the time.monotonic() at which the watch was lost, None while there is one. A callback receives key,
    old and new view, None where there is none, and runs within the event loop: it must not block.
    """

    def __init__(self) -> None:
        self._objects: dict[Key, T] = {}
        self._callbacks: list[Callable[[Key, T | None, T | None], None]] = []
        self.synced = False
        self.replacing = False
        """True while callbacks hear of what a list brought, which may be thousands of changes at once."""
        self.out_of_touch_since: float | None = None

    def __len__(self) -> int:
        return len(self._objects)

    @property
    def stale_seconds(self) -> float:
        """How long no watch has been open; 0 while one is, or while the server doesn't serve the resource."""
        since = self.out_of_touch_since
        return 0.0 if since is None else time.monotonic() - since

    @property
    def stale(self) -> bool:
        """What is held may be outdated by more than anyone should rest a decision on."""
        return self.out_of_touch_since is not None and self.stale_seconds > STALE_SECONDS

    def get(self, namespace: str, name: str) -> T | None:
        """The view of one object; `namespace` is empty for a cluster-scoped one."""
        return self._objects.get((namespace, name))

    def __iter__(self) -> Iterator[Key]:
        """All keys. Whoever iterates must not await in between."""
        return iter(self._objects)

    def items(self) -> ItemsView[Key, T]:
        """Keys and views. Whoever iterates must not await in between."""
        return self._objects.items()

    def subscribe(self, callback: Callable[[Key, T | None, T | None], None]) -> Callable[[], None]:
        """Call `callback` after every change from now on; what it raises is logged. Returns what ends this."""
        self._callbacks.append(callback)
        return lambda: self._callbacks.remove(callback)

    def put(self, key: Key, new: T | None) -> None:
        """Set one object, or remove it with None."""
        old = self._objects.get(key)
        if new is not None:
            self._objects[key] = new  # also where it equals the old one: not every field may take part in that
        elif old is not None:
            del self._objects[key]
        if new != old:
            self._notify(key, old, new)

    def replace(self, objects: dict[Key, T]) -> None:
        """Take `objects` for all there are, at once; callbacks then hear of each difference. The store is synced."""
        before, self._objects, self.synced = self._objects, objects, True
        self.replacing = True
        for key, old in before.items():
            if key not in objects:
                self._notify(key, old, None)
        for key, new in list(objects.items()):
            old_or_none = before.get(key)
            if new != old_or_none:
                self._notify(key, old_or_none, new)
        self.replacing = False

    def _notify(self, key: Key, old: T | None, new: T | None) -> None:
        for callback in tuple(self._callbacks):
            try:
                callback(key, old, new)
            except Exception:
                _log.exception("a callback failed on a change", extra={"object": "/".join(filter(None, key))})

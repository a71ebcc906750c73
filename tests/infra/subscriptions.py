"""How many callbacks are subscribed to stores and to the policy keeper."""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any
from unittest.mock import patch

from app.controllers.policy.active import PolicyKeeper
from app.kube.store import ObjectStore

_Subscribe = Callable[..., Callable[[], None]]


class Subscriptions:
    """Counts the subscriptions that have begun and not ended."""

    def __init__(self) -> None:
        self._open: Counter[int] = Counter()
        self._counted: list[object] = []  # kept, so that no id is used twice

    def count(self, *publishers: object) -> int:
        """The subscriptions to these stores and keepers; without any, to all."""
        return sum(self._open[id(one)] for one in publishers) if publishers else self._open.total()

    def counted(self, subscribe: _Subscribe) -> _Subscribe:
        """Wrap a method that subscribes a callback and returns what ends the subscription."""

        @wraps(subscribe)
        def begin(publisher: object, callback: Callable[..., None]) -> Callable[[], None]:
            end = subscribe(publisher, callback)
            self._counted.append(publisher)
            self._open[id(publisher)] += 1

            def counted_end() -> None:
                end()
                self._open[id(publisher)] -= 1

            return counted_end

        return begin


@contextmanager
def counted_subscriptions() -> Iterator[Subscriptions]:
    """Count those that begin while the context is open."""
    subscriptions = Subscriptions()
    publishers: tuple[tuple[type[Any], str], ...] = ((ObjectStore, "subscribe"), (PolicyKeeper, "listen"))
    (subscribe, listen) = (
        patch.object(kind, name, subscriptions.counted(getattr(kind, name))) for kind, name in publishers
    )
    with subscribe, listen:
        yield subscriptions

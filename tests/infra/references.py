"""Which of the values that a test hands to the product are still in memory."""

import gc
import weakref
from typing import TypeAlias


class _Text(str):
    """A text that weak references can point to, as they can't to a plain one."""


class _Number(float):
    """A number that weak references can point to."""


_Value: TypeAlias = _Text | _Number


class References:
    """Makes values, and tells which of them somebody still refers to: a copy of a value is not the value."""

    def __init__(self) -> None:
        self._made: list[weakref.ref[_Value]] = []

    def text(self, text: str) -> str:
        """Make a text that is tracked."""
        value = _Text(text)
        self._made.append(weakref.ref(value))
        return value

    def number(self, number: float) -> float:
        """Make a number that is tracked."""
        value = _Number(number)
        self._made.append(weakref.ref(value))
        return value

    def texts(self) -> set[str]:
        """The texts that are still in memory."""
        return {str(value) for value in self._alive() if isinstance(value, _Text)}

    def numbers(self) -> list[float]:
        """The numbers that are still in memory."""
        return [float(value) for value in self._alive() if isinstance(value, _Number)]

    def _alive(self) -> list[_Value]:
        gc.collect()
        return [value for reference in self._made if (value := reference()) is not None]

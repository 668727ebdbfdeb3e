"""What was computed, kept for the next request that needs the same.

Knows nothing of what it keeps.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

T = TypeVar("T")


class Kept(Generic[T]):
    """The values used last, by key; the one not used for longest goes first."""

    def __init__(self, most: int) -> None:
        """Keep nothing yet.

        Args:
            most: values kept at once; 0 keeps none.
        """
        self._most = most
        self._values: OrderedDict[Hashable, T] = OrderedDict()

    def get(self, key: Hashable, make: Callable[[], T]) -> T:
        """The value of a key, made where it is not kept; one whose making fails is not kept."""
        if key not in self._values:
            # Room first: the device should not hold one value more than it is planned with.
            while self._values and len(self._values) >= self._most:
                self._values.popitem(last=False)
            value = make()
            if self._most == 0:
                return value
            self._values[key] = value
        self._values.move_to_end(key)
        return self._values[key]

    def clear(self) -> None:
        """Let go of everything."""
        self._values.clear()

    def __len__(self) -> int:
        return len(self._values)

"""Random numbers that are the same on every machine and under every version of NumPy.

NumPy promises the raw stream of a bit generator for ever, but not what its distributions make of it; so this takes raw
64-bit words and makes the few distributions that are needed, with exact arithmetic.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

_Item = TypeVar("_Item")


class Dice:
    """A stream of random numbers for each (seed, index, stream), from the counter-based generator Philox.

    Example:
        >>> Dice(1, 2).uniform() == Dice(1, 2).uniform() != Dice(2, 1).uniform()
        True
    """

    def __init__(self, seed: int, index: int, stream: int = 0) -> None:
        key = np.array([seed, index], np.uint64)
        self._bits = np.random.Philox(key=key, counter=np.array([0, 0, 0, stream], np.uint64))
        self._ready: list[float] = []

    def uniform(self, low: float = 0.0, high: float = 1.0) -> float:
        """A number in [low, high)."""
        if not self._ready:
            words = self._bits.random_raw(512) >> np.uint64(11)
            self._ready = (words.astype(np.float64) * 2.0**-53).tolist()
        return low + (high - low) * self._ready.pop()

    def chance(self, probability: float) -> bool:
        """True with this probability."""
        return self.uniform() < probability

    def integer(self, low: int, high: int) -> int:
        """A whole number from low to high, both included."""
        return low + int(self.uniform() * (high - low + 1))

    def choice(self, items: Sequence[_Item]) -> _Item:
        """One of the items."""
        return items[self.integer(0, len(items) - 1)]

    def words(self, count: int) -> NDArray[np.uint64]:
        """Raw 64-bit words."""
        return self._bits.random_raw(count)

    def noise(self, count: int) -> NDArray[np.float32]:
        """Numbers of mean 0 and variance 1, nearly normal: sums of four uniform numbers of 16 bits."""
        parts = self.words(count).view(np.uint16).reshape(count, 4).astype(np.int32)
        total = parts[:, 0] + parts[:, 1] + parts[:, 2] + parts[:, 3] - 2 * 65535
        return total.astype(np.float32) * np.float32(3**0.5 / 65536)

"""Where NumPy's global stream of random numbers stands: remembered before each run with draws."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterable
from functools import lru_cache
from typing import Any

import numpy as np

__all__ = ["remember"]

_WORDS = 4 * 624 + 4  # bytes of a Mersenne twister: its words, and which is next


def remember(names: Iterable[str]) -> Callable[[], None]:
    """What puts the stream back to where it is now, after draws of these names.

    `numpy.random.get_state` takes longer than a small step. Uniform draws move the Mersenne twister
    alone, whose state NumPy tells the address of; normal ones keep one for the next call besides.
    """
    generator = getattr(np.random, "get_bit_generator", lambda: None)()
    if type(generator) is not np.random.MT19937 or any(name != "rand" for name in names):
        state = np.random.get_state()
        return lambda: np.random.set_state(state)
    address = _address(generator)
    words = ctypes.string_at(address, _WORDS)

    def put_back() -> None:
        ctypes.memmove(address, words, _WORDS)

    return put_back


@lru_cache(maxsize=4)
def _address(generator: Any) -> int:
    return int(generator.ctypes.state_address)

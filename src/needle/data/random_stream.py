"""Where transforms draw their random numbers from.

`current()` is NumPy's global stream unless a loader that seeds its items has put the stream of one
item in its place. A transform that draws through it gives the same numbers whichever thread runs
it, and with `numpy.random.seed` the numbers that the course expects.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np

from needle.errors import OptionError, StateDictError, describe

__all__ = [
    "STATE_KEYS",
    "array_in",
    "check_state",
    "current",
    "get_global_state",
    "peek_seed",
    "seeded_stream",
    "set_global_state",
    "stream_given",
    "use",
]


STATE_KEYS = ("stream_key", "stream_position", "stream_has_gauss", "stream_gauss")
_KEY_LENGTH = 624  # words of the Mersenne twister


class _Local(threading.local):
    stream: np.random.RandomState | None = None


_local = _Local()


def current() -> Any:
    """What to draw from, here and now: an object with `rand`, `randn`, `randint`, ...

    >>> import numpy as np
    >>> from needle.data import random_stream
    >>> np.random.seed(0)
    >>> random_stream.current().randint(10)
    5
    """
    return np.random if _local.stream is None else _local.stream


@contextmanager
def use(stream: np.random.RandomState) -> Iterator[None]:
    """Let `current()` be `stream` inside the block, in this thread."""
    before = _local.stream
    _local.stream = stream
    try:
        yield
    finally:
        _local.stream = before


def stream_given(owner: str, rng: Any) -> Any:
    """`rng` itself, something with a method `random(size)`; for None, `current()`.

    Raises OptionError for anything else: a seed in its place would repeat its draws at each call.
    """
    if rng is None:
        return current()
    if not isinstance(rng, (np.random.Generator, np.random.RandomState)):
        raise OptionError(
            f"{owner}: expected rng to be a numpy.random.Generator, got {describe(rng)}. "
            "Make one of a seed: numpy.random.default_rng(0)."
        )
    return rng


def seeded_stream(seed: int, *place: int) -> np.random.RandomState:
    """A stream of its own for each seed and place (an epoch; an item in an epoch).

    PCG64 and not the Mersenne twister, as one is made per item: 10 us against 120.
    """
    sequence = np.random.SeedSequence(seed, spawn_key=place)
    return np.random.RandomState(np.random.PCG64(sequence))


def peek_seed() -> int:
    """A seed that follows from the state of NumPy's global stream and leaves it as it is."""
    state = np.random.get_state(legacy=False)
    seed = int(np.random.randint(2**31))
    np.random.set_state(state)
    return seed


def get_global_state() -> dict[str, Any]:
    """The state of NumPy's global stream as ints and arrays."""
    state: Any = np.random.get_state(legacy=False)
    if state["bit_generator"] != "MT19937":
        raise OptionError(
            "state_dict: expected NumPy's global stream to be its default, MT19937, got "
            f"{state['bit_generator']}. Give the loader a seed."
        )
    return {
        "stream_key": state["state"]["key"],
        "stream_position": int(state["state"]["pos"]),
        "stream_has_gauss": int(state["has_gauss"]),
        "stream_gauss": np.array(state["gauss"]),
    }


def set_global_state(state: Mapping[str, Any]) -> None:
    """Put NumPy's global stream where `get_global_state` found it."""
    key, *numbers = (np.asarray(state[name]) for name in STATE_KEYS)
    position, has_gauss, gauss = (number.item() for number in numbers)
    np.random.set_state(("MT19937", key, position, has_gauss, gauss))


def check_state(state: Mapping[str, Any]) -> None:
    """Raise StateDictError unless `set_global_state` can take the state."""
    key, position, has_gauss, gauss = (array_in(state, name) for name in STATE_KEYS)
    words = key.dtype.kind in "iu" and key.shape == (_KEY_LENGTH,)
    sound = {
        "stream_key": words and bool((key >= 0).all()) and bool((key < 2**32).all()),
        "stream_position": _is_whole_number(position, _KEY_LENGTH),
        "stream_has_gauss": _is_whole_number(has_gauss, 1),
        "stream_gauss": gauss.size == 1 and gauss.dtype.kind in "iuf" and np.isfinite(gauss).all(),
    }
    wrong = [f"{name} {describe(state[name])}" for name in STATE_KEYS if not sound[name]]
    if wrong:
        raise StateDictError(
            f"DataLoader: expected the state of NumPy's global stream, got {', '.join(wrong)}."
        )


def array_in(state: Mapping[str, Any], key: str) -> np.ndarray[Any, Any]:
    """What a state holds at `key` as an array; StateDictError for ragged lists."""
    try:
        return np.asarray(state[key])
    except ValueError:
        raise StateDictError(
            f"DataLoader: expected {key} to be numbers, got {describe(state[key])}."
        ) from None


def _is_whole_number(array: np.ndarray[Any, Any], most: int) -> bool:
    return array.size == 1 and array.dtype.kind in "iu" and 0 <= array.item() <= most

"""One pass over a dataset as data: what a loader saves and restores in the middle of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from needle.data import random_stream
from needle.errors import StateDictError, describe

__all__ = ["Epoch", "whole_number_in"]


class Epoch:
    """The order of the items, and how many of them the consumer has received.

    item_seed     of the streams that the items' transforms draw from; None: NumPy's global one
    waiting       restored, and not yet gone on with
    stream_state  of NumPy's global stream, to be put back when the pass goes on
    """

    def __init__(self, number: int, order: np.ndarray[Any, Any], item_seed: int | None) -> None:
        self.number, self.order, self.item_seed = number, order, item_seed
        self.position = 0
        self.waiting = False
        self.stream_state: dict[str, Any] | None = None

    def stream(self, index: int) -> np.random.RandomState:
        """What the transforms of one item draw from."""
        assert self.item_seed is not None
        return random_stream.seeded_stream(self.item_seed, self.number, index)

    def go_on(self) -> Epoch:
        """Leave the waiting state."""
        if self.stream_state is not None:
            random_stream.set_global_state(self.stream_state)
        self.waiting, self.stream_state = False, None
        return self

    def state_dict(self) -> dict[str, Any]:
        """The pass as ints and arrays, without NumPy's global stream."""
        seeds = {} if self.item_seed is None else {"item_seed": self.item_seed}
        return {"ordering": self.order.copy(), "position": self.position, **seeds}

    @staticmethod
    def from_state(state: Mapping[str, Any], length: int) -> Epoch | None:
        """The pass that a loader's state was taken in; None if it was taken between two.

        Raises StateDictError unless every value is one that a state can hold.
        """
        _check_keys(state)
        number = whole_number_in(state, "epoch")
        if "seed" in state:
            whole_number_in(state, "seed")
        else:
            random_stream.check_state(state)
        if "ordering" not in state:
            return None
        order = _indices_in(state)
        item_seed = whole_number_in(state, "item_seed") if "item_seed" in state else None
        epoch = Epoch(number, order, item_seed)
        epoch.position, epoch.waiting = whole_number_in(state, "position", least=None), True
        if not np.array_equal(np.sort(order), np.arange(length)) or not (
            0 <= epoch.position <= length
        ):
            raise StateDictError(
                f"DataLoader: expected the state of a dataset of {length} items, got one at item "
                f"{epoch.position} of {order.size}."
            )
        if "seed" not in state:
            epoch.stream_state = {key: state[key] for key in random_stream.STATE_KEYS}
        return epoch


def whole_number_in(state: Mapping[str, Any], key: str, least: int | None = 0) -> int:
    """The whole number at `key`, also from an array of one; StateDictError below `least`."""
    array = random_stream.array_in(state, key)
    if array.size != 1 or array.dtype.kind not in "iu" or (least is not None and array < least):
        limit = "" if least is None else f" from {least} on"
        raise StateDictError(
            f"DataLoader: expected {key} to be a whole number{limit}, got {describe(state[key])}."
        )
    return int(array.item())


def _indices_in(state: Mapping[str, Any]) -> np.ndarray[Any, Any]:
    order: np.ndarray[Any, Any] = random_stream.array_in(state, "ordering").copy()
    if order.dtype.kind not in "iu":
        raise StateDictError(
            f"DataLoader: expected ordering to hold indices, got {describe(order)}."
        )
    return order


def _check_keys(state: Mapping[str, Any]) -> None:
    if not isinstance(state, Mapping):
        raise StateDictError(
            f"DataLoader: expected a loader's state, a dict, got {describe(state)}."
        )
    wanted = {"epoch", *(() if "seed" in state else random_stream.STATE_KEYS)}
    if "ordering" in state:
        wanted.add("position")
    if missing := sorted(wanted - set(state)):
        raise StateDictError(f"DataLoader: expected a loader's state, got one without {missing}.")

"""What ops ask of the one who records them: draws, checks, and the refusal of other data."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from needle.autograd.value import Value
from needle.backend_ndarray.devices import cpu
from needle.backend_ndarray.layout import Layout
from needle.backend_ndarray.ndarray import NDArray, new_array
from needle.backend_ndarray.ndarray_backend_trace import (
    Memory,
    Node,
    Operand,
    delayed,
    recorded,
    trace,
)
from needle.errors import describe
from needle.jit.watch import JitError, is_users, user_line

__all__ = ["Draw", "Recorder", "is_traced", "value_asked"]


class Draw:
    """Random numbers that are drawn anew before each run: `numpy.random.<name>(*shape)`."""

    __slots__ = ("name", "node", "shape")

    def __init__(self, name: str, shape: tuple[int, ...], node: Node) -> None:
        self.name, self.shape, self.node = name, shape, node


class Recorder:
    """What ops ask of the one who records them.

    draws   random numbers drawn
    checks  what must be true of values, as operands
    """

    def __init__(self) -> None:
        self.draws: list[Draw] = []
        self.checks: list[Operand] = []
        self._next_draw: int | None = None  # where draws are repeated
        self._born: dict[int, Value] = {}

    def draw(self, name: str, shape: tuple[int, ...]) -> NDArray:
        """float64 random numbers, drawn anew at each run."""
        if self._next_draw is not None:
            return self._draw_again(name, shape)
        layout = Layout.of(trace(cpu()), np.dtype(np.float64), shape)
        node = Node("input", layout)
        self.draws.append(Draw(name, shape, node))
        return new_array(layout, Memory(node))

    def draws_so_far(self) -> int:
        """How many draws came before: where `repeating` is to begin."""
        return len(self.draws) if self._next_draw is None else self._next_draw

    @contextmanager
    def repeating(self, first: int) -> Iterator[None]:
        """Inside the block draws are those that there were, from number `first` on."""
        before, self._next_draw = self._next_draw, first
        try:
            yield
        finally:
            self._next_draw = before

    def _draw_again(self, name: str, shape: tuple[int, ...]) -> NDArray:
        assert self._next_draw is not None
        draw = self.draws[self._next_draw] if self._next_draw < len(self.draws) else None
        if draw is None or (draw.name, draw.shape) != (name, shape):
            raise JitError(
                "jit: expected a checkpointed function that draws the same random numbers when "
                f"it runs again, got a draw of {name}{shape} at {user_line()}."
            )
        self._next_draw += 1
        return new_array(draw.node.layout, Memory(draw.node))

    def delayed(self, array: NDArray, others: Sequence[NDArray]) -> NDArray:
        """The array, for what is to be computed again when the others are known."""
        return delayed(array, others)

    def check(self, holds: NDArray) -> None:
        """Something that must be true of values, at each run."""
        self.checks.append(recorded(holds))

    @contextmanager
    def aside(self) -> Iterator[list[Operand]]:
        """Inside the block, checks are none of the function's, but go here; draws are undone."""
        before, drawn = self.checks, len(self.draws)
        self.checks = []
        try:
            yield self.checks
        finally:
            self.checks = before
            del self.draws[drawn:]

    def data_of(self, value: Value) -> Any:
        """The traced array of a value that an op reads."""
        data = value.cached_data
        if is_traced(value):
            return data
        if type(data) is tuple and all(type(item._memory) is Memory for item in data):
            return data
        if id(value) in self._born:
            raise _other_data(user_line())
        raise JitError(
            f"jit: expected Tensors that are found again at each call, got {describe(value)} at "
            f"{user_line()}, which comes out of an iterator, a cache, or the graph of another "
            "Tensor. Pass it to the function as an argument, or keep it in an attribute, a list or "
            "a dict."
        )

    def born(self, value: Value) -> None:
        """A leaf that was made while the function ran."""
        self._born[id(value)] = value

    def shown(self, value: Value) -> None:
        """Refuse to print a Tensor that is, or is made of, what may be another at the next call."""
        raise value_asked(user_line())

    def has_made(self, value: Value) -> bool:
        """Whether the function has made that leaf."""
        return id(value) in self._born

    def device_shown(self, device: Any) -> Any:
        """A device that is asked for: on the user's own lines the one that the program runs on."""
        return device.real if is_users(sys._getframe(2)) else device

    def from_outside(self, values: Any) -> None:
        """Refuse values that may be others at the next call."""
        raise _other_data(user_line())


def _other_data(line: str) -> JitError:
    """The error for a Tensor of values that may be others at the next call."""
    return JitError(
        f"jit: expected Tensors made of Tensors, got one made of other data at {line}: it would be "
        "the same at each call. Pass it to the function as an argument, a Tensor, or make it "
        "outside."
    )


def value_asked(line: str) -> JitError:
    """The error for a line that asks for values of a Tensor."""
    return JitError(
        f"jit: expected a function that never looks at values, but {line} asks for those of a "
        "Tensor, by item(), numpy(), float(), an if, or printing it: there are none while the "
        "function is compiled. Return the Tensor and look at it outside; in place of an if on "
        "values use ndl.where; or call the function under ndl.disable_jit()."
    )


def is_traced(value: Value) -> bool:
    """Whether it has an array without data."""
    data = value.cached_data
    return type(data) is NDArray and type(data._memory) is Memory

"""Tracing: a function runs once on arrays without data, and what it does is recorded."""

from __future__ import annotations

import random
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path as FilePath
from typing import Any

import numpy as np

from needle.autograd import Tensor
from needle.autograd.modes import traced_by
from needle.autograd.value import Value
from needle.backend_ndarray.devices import making_traced
from needle.backend_ndarray.layout import Layout
from needle.backend_ndarray.ndarray import NDArray, new_array
from needle.backend_ndarray.ndarray_backend_trace import (
    Memory,
    Node,
    Operand,
    delayed,
    recorded,
    trace,
    traced,
)
from needle.errors import NeedleError
from needle.jit.reach import ArgumentPlace, Place, Reach
from needle.jit.trees import flatten, unflatten
from needle.run_numbers import Numbers, RunNumber

__all__ = ["Draw", "JitError", "Leaf", "Trace"]

_PACKAGE = str(FilePath(__file__).parents[1])


class JitError(NeedleError, RuntimeError):
    """A function does what a compiled one could not do again at each call."""


class Leaf:
    """A Tensor that a traced function reads: where it is found, and the input that stands for it.

    place     None for a Tensor that is known by itself
    argument  its number among the arguments' Tensors, if it is one
    data      what it held; `array` stands for that in the record
    begin     where in the record's memory its first element is
    updated   what it held when the function had run, if that was something else
    """

    __slots__ = (
        "argument", "array", "begin", "data", "node", "place", "requires_grad", "tensor", "updated",
    )  # fmt: skip

    def __init__(self, tensor: Value, place: Place | None, argument: int | None = None) -> None:
        self.tensor, self.place, self.argument = tensor, place, argument
        self.data = tensor.realize_cached_data()
        if type(self.data) is tuple:
            raise JitError("jit: expected Tensors from outside, got a TensorTuple. Take its items.")
        self.array = traced(self.data)
        self.node, _, self.begin = recorded(self.array)
        self.requires_grad = tensor.requires_grad
        self.updated: NDArray | None = None

    def now(self, tensors: Sequence[Any]) -> Any:
        """The Tensor that is there now; None if there is none."""
        if self.argument is not None:
            return tensors[self.argument]
        if self.place is None:
            return self.tensor
        found = self.place.of(tensors).get()
        return found if isinstance(found, Tensor) else None


class Draw:
    """Random numbers that are drawn anew before each run: `numpy.random.<name>(*shape)`."""

    __slots__ = ("name", "node", "shape")

    def __init__(self, name: str, shape: tuple[int, ...], node: Node) -> None:
        self.name, self.shape, self.node = name, shape, node


class Trace:
    """One run of a function on arrays without data, and everything that was found out by it.

    leaves   Tensors read, by their identity
    draws    random numbers drawn
    checks   what must be true of values, as operands
    numbers  numbers that are worked out at each call
    ties     places that hold the Tensor of a leaf that was found elsewhere
    operands what returned Tensors, and those put into places, are in the record, by identity
    """

    def __init__(self, function: Callable[..., Any], tree: Any, tensors: Sequence[Any]) -> None:
        self.function, self.tree, self.tensors = function, tree, tensors
        self.roots = [(getattr(function, "__name__", "function"), function), ("arguments", tree)]
        self.reach = Reach(*self.roots)
        self.leaves: dict[int, Leaf] = {}
        self.draws: list[Draw] = []
        self.checks: list[Operand] = []
        self.numbers = Numbers()
        self.ties: list[tuple[Place, Leaf]] = []
        self.operands: dict[int, Operand] = {}
        self.counted: list[tuple[Place, RunNumber]] = []
        self._born: dict[int, Value] = {}
        self._next_draw: int | None = None  # where draws are repeated

    # -- running -------------------------------------------------------------------------------

    def run(self) -> Any:
        """Call the function, then put back what it changed; returns what it returned.

        Afterwards `changes` are the places that it changed, with what it put there, and `guarded`
        those that it may have looked at.
        """
        self._prepare_optimizers()
        self.reach = Reach(*self.roots)
        places = [*self.reach.tensors, *self._gradients_of_arguments()]
        before = [(place, place.get()) for place in places]
        values = list(self.reach.values)
        states = np.random.get_state(), random.getstate()
        with ExitStack() as stack:
            stack.enter_context(traced_by(self))
            stack.enter_context(making_traced(self))
            stack.callback(self._put_back, before, values)
            self._lift(before)
            self._count(values)
            args, kwargs = unflatten(self.tree, self.tensors)
            result = self.function(*args, **kwargs)
            self._require_no_draws(states)
            self.changes = self._changes(before, values)
            returned: list[Any] = []
            flatten(result, returned)
            for value in (*returned, *[new for _, new in self.changes if isinstance(new, Value)]):
                data = self.data_of(value)
                if type(data) is NDArray:
                    self.operands[id(value)] = recorded(data)
        counted = {id(place) for place, _ in self.counted}
        self.guarded = [(place, value) for place, value in values if id(place) not in counted]
        return result

    def leaf_at(self, place: Place) -> Leaf | None:
        """The leaf that was found at a place, if nothing else was."""
        return next((leaf for leaf in self.leaves.values() if leaf.place is place), None)

    def _gradients_of_arguments(self) -> list[Place]:
        return [ArgumentPlace(number, "grad", self.tensors) for number in range(len(self.tensors))]

    def _prepare_optimizers(self) -> None:
        for _, optimizer in self.reach.optimizers:
            optimizer.make_state()

    def _lift(self, before: list[tuple[Place, Any]]) -> None:
        for number, tensor in enumerate(self.tensors):
            if id(tensor) not in self.leaves:
                self._lift_one(tensor, None, number)
        for place, tensor in before:
            if not isinstance(tensor, Tensor):
                continue
            leaf = self.leaves.get(id(tensor))
            if leaf is None:
                self._lift_one(tensor, place)
            else:
                self.ties.append((place, leaf))

    def _lift_one(self, tensor: Value, place: Place | None, argument: int | None = None) -> NDArray:
        leaf = self.leaves[id(tensor)] = Leaf(tensor, place, argument)
        tensor.cached_data = leaf.array
        return leaf.array

    def _count(self, values: list[tuple[Place, Any]]) -> None:
        """Put numbers of optimisers that may change from call to call under a name."""
        own = {id(holder) for found in self.reach.counting for holder in found.counted()}
        for place, value in values:
            if id(place.holder) in own and type(value) in (int, float):
                number = self.numbers.new(value)
                self.counted.append((place, number))
                place.set(number)

    def _put_back(self, before: list[tuple[Place, Any]], values: list[tuple[Place, Any]]) -> None:
        for leaf in self.leaves.values():
            leaf.tensor.cached_data, leaf.tensor._leaf = leaf.data, None
        for place, value in (*before, *values):
            if place.get() is not value:
                place.set(value)

    # -- what the function did -----------------------------------------------------------------

    def _changes(
        self, before: list[tuple[Place, Any]], values: list[tuple[Place, Any]]
    ) -> list[tuple[Place, Any]]:
        """Places that hold something else now, and leaves with other data."""
        counted = {id(place): number for place, number in self.counted}
        changes: list[tuple[Place, Any]] = []
        for place, old in before:
            new = place.get()
            if new is not old:
                changes.append((place, new))
        for place, old in values:
            new, expected = place.get(), counted.get(id(place), old)
            if new is expected or (
                type(new) is type(expected)
                and type(new) in (int, float, str, bool)
                and new == expected
            ):
                continue
            if not isinstance(new, (RunNumber, Tensor)):
                raise JitError(
                    f"jit: expected a function that changes Tensors only, but it set {place.name} "
                    f"from {old!r} to {new!r}, which a compiled step would not do again. Keep such "
                    "values in a Tensor, or change them outside of the function."
                )
            changes.append((place, new))
        for leaf in self.leaves.values():
            if leaf.tensor.cached_data is not leaf.array:
                leaf.updated = leaf.tensor.cached_data
        return changes

    def _require_no_draws(self, states: tuple[Any, Any]) -> None:
        same = all(
            np.array_equal(a, b) for a, b in zip(states[0], np.random.get_state(), strict=True)
        )
        if not same or states[1] != random.getstate():
            raise JitError(
                "jit: expected no random numbers of NumPy or Python drawn inside the function: "
                "they would be the same at each call. Draw with ndl.init.rand, randn or randb, or "
                "pass the numbers as Tensors."
            )

    # -- what ops ask --------------------------------------------------------------------------

    def data_of(self, value: Value) -> Any:
        """The traced array of a value that an op reads."""
        data = value.cached_data
        if type(data) is NDArray and type(data._memory) is Memory:
            return data
        if type(data) is tuple and all(type(item._memory) is Memory for item in data):
            return data
        if id(value) in self._born:
            raise _other_data(_line())
        return self._lift_one(value, None)

    def born(self, value: Value) -> None:
        """A leaf that was made while the function ran."""
        self._born[id(value)] = value

    def draw(self, name: str, shape: tuple[int, ...]) -> NDArray:
        """float64 random numbers, drawn anew at each run."""
        from needle.backend_ndarray.devices import cpu

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
                f"it runs again, got a draw of {name}{shape} at {_line()}."
            )
        self._next_draw += 1
        return new_array(draw.node.layout, Memory(draw.node))

    def delayed(self, array: NDArray, others: Sequence[NDArray]) -> NDArray:
        """The array, for what is to be computed again when the others are known."""
        return delayed(array, others)

    def check(self, holds: NDArray) -> None:
        """Something that must be true of values, at each run."""
        self.checks.append(recorded(holds))

    def from_outside(self, values: Any) -> None:
        """Refuse values that may be others at the next call."""
        raise _other_data(_line())


def _other_data(line: str) -> JitError:
    return JitError(
        f"jit: expected Tensors made of Tensors, got one made of other data at {line}: it would be "
        "the same at each call. Pass it to the function as an argument, a Tensor, or make it "
        "outside."
    )


def _line() -> str:
    """The user's line that is being run."""
    for frame in reversed(traceback.extract_stack()):
        if not frame.filename.startswith(_PACKAGE):
            return f'"{frame.filename}", line {frame.lineno}'
    return "an unknown line"

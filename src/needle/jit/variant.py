"""One compiled form of a function: for arguments of one kind, and what else it was traced with."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from time import perf_counter
from typing import Any

import numpy as np

from needle.autograd import Tensor
from needle.backend_ndarray.layout import Layout
from needle.backend_ndarray.ndarray import NDArray, new_array
from needle.backend_ndarray.ndarray_backend_trace import Operand, recorded
from needle.jit.reach import Place
from needle.jit.tracing import JitError, Leaf, Trace
from needle.jit.trees import flatten, unflatten
from needle.program.executable import Executable
from needle.program.graph import Graph
from needle.run_numbers import RunNumber
from needle.runtime.call import runtime_function

__all__ = ["Variant"]


class Variant:
    """A traced and compiled function.

    tree     the arguments, with holes for Tensors
    tensors  the Tensors in them
    """

    def __init__(self, function: Callable[..., Any], tree: Any, tensors: Sequence[Any]) -> None:
        self.function = function
        begun = perf_counter()
        trace = Trace(function, tree, tensors)
        result = trace.run()
        self.trace_seconds = perf_counter() - begun
        self._compile(trace, result)
        self._guard(trace)
        self._new = runtime_function("new")

    # -- compiling -----------------------------------------------------------------------------

    def _compile(self, trace: Trace, result: Any) -> None:
        returned: list[Any] = []
        self.result = flatten(result, returned)
        outputs = [_operand(trace, tensor, "a result") for tensor in returned]
        self.returned = len(returned)
        # places that get a Tensor of their own, leaves that get other data, and what is set as is
        self.new_tensors: list[Place] = []
        self.new_data: list[Leaf] = []
        self.settings: list[tuple[Place, Any]] = []
        self.counted: list[tuple[Place, RunNumber]] = []
        replaced: list[Leaf | None] = []
        for place, value in trace.changes:
            if isinstance(value, RunNumber):
                self.counted.append((place, value))
            elif isinstance(value, Tensor):
                self.new_tensors.append(place)
                outputs.append(_operand(trace, value, place.name))
                replaced.append(trace.leaf_at(place))
            else:
                self.settings.append((place, value))
        for leaf in trace.leaves.values():
            if leaf.updated is not None:
                self.new_data.append(leaf)
                outputs.append(recorded(leaf.updated))
                replaced.append(leaf)
        graph = Graph([], [*outputs, *trace.checks])
        used = {node for node in graph.nodes if node.primitive == "input"}
        self.leaves = [leaf for leaf in trace.leaves.values() if leaf.node in used]
        self.draws = [draw for draw in trace.draws if draw.node in used]
        inputs = [leaf.node for leaf in self.leaves] + [draw.node for draw in self.draws]
        numbers = {id(leaf): number for number, leaf in enumerate(self.leaves)}
        updates = {
            self.returned + number: numbers[id(leaf)]
            for number, leaf in enumerate(replaced)
            if leaf is not None and id(leaf) in numbers
        }
        self.executable = Executable(Graph(inputs, outputs), updates, trace.checks)
        self.layouts = [_real(layout) for layout in self.executable.layouts]
        self.sources = [updates.get(number) for number in range(len(outputs))]
        self.in_place = [
            given is not None
            and self.executable.in_place[number]
            and self.layouts[number] is self.leaves[given].data._layout
            for number, given in enumerate(self.sources)
        ]
        self._keep = trace

    def _guard(self, trace: Trace) -> None:
        self.values, self.ties = trace.guarded, trace.ties
        self.sizes = trace.reach.sizes
        self.given = [place for place, _ in trace.counted]
        self.asks = trace.numbers.asks()
        wanted = [*self.executable.numbers, *[number for _, number in self.counted]]
        self.evaluate = trace.numbers.evaluates(wanted)
        self.numbers: Any = None
        self._last: Any = None

    # -- running -------------------------------------------------------------------------------

    def fitting(self, tensors: Sequence[Any]) -> list[NDArray] | None:
        """The arrays of the leaves now; None if something is not as it was traced."""
        for place, value in self.values:
            if place.get() is not value and not _same(place.get(), value):
                return None
        for holder, length in self.sizes:
            if len(holder) != length:
                return None
        if self.given:
            given = [place.get() for place in self.given]
            if not self.asks(given):
                return None
            self.numbers = given
        for place, leaf in self.ties:
            if place.of(tensors).get() is not leaf.now(tensors):
                return None
        arrays, seen = [], set()
        for leaf in self.leaves:
            tensor = leaf.now(tensors)
            seen.add(id(tensor))
            if tensor is None or tensor.requires_grad != leaf.requires_grad:
                return None
            data = tensor.cached_data
            if data is None:
                data = tensor.realize_cached_data()
            if data._layout is not leaf.data._layout:
                return None
            arrays.append(data)
        # Tensors that were two when it was traced may have become one
        return arrays if len(seen) == len(arrays) else None

    def run(self, tensors: Sequence[Any], arrays: list[NDArray]) -> tuple[bool, Any]:
        """Run the program; whether no value was at fault, and what the function returns."""
        values = self._set_numbers()
        arguments: list[Any] = []
        for leaf, array in zip(self.leaves, arrays, strict=True):
            arguments += (array._memory, (array._offset - leaf.begin) * array._layout.itemsize)
        state = np.random.get_state() if self.draws else None
        drawn = [getattr(np.random, draw.name)(*draw.shape) for draw in self.draws]
        for values_drawn in drawn:
            arguments += (_memory_of(np.asarray(values_drawn)), 0)
        memories: list[Any] = []
        for number, layout in enumerate(self.layouts):
            memory = None
            if self.in_place[number]:
                memory = self._memory_to_reuse(arrays, self.sources[number])
            memories.append(self._new(layout.nbytes) if memory is None else memory)
        results: list[Any] = []
        for memory in memories:
            results += (memory, 0)
        if not self.executable.run(arguments, results):
            if state is not None:
                np.random.set_state(state)
            return False, None
        made = [new_array(layout, m) for layout, m in zip(self.layouts, memories, strict=True)]
        self._update(tensors, made, values)
        return True, unflatten(self.result, [Tensor.make_const(a) for a in made[: self.returned]])

    def _memory_to_reuse(self, arrays: list[NDArray], source: int | None) -> Any:
        """The memory of a leaf that is to be replaced, if nobody else holds it."""
        assert source is not None
        array = arrays[source]
        # the leaf's Tensor, the list, the name here, the argument; of the memory: the array, ...
        if sys.getrefcount(array) > _REFERENCES or sys.getrefcount(array._memory) > _OF_MEMORY:
            return None
        return None if array._offset else array._memory

    def _set_numbers(self) -> tuple[Any, ...]:
        if not self.given:
            return ()
        values = self.evaluate(self.numbers)
        count = len(self.executable.numbers)
        if values[:count] != self._last:
            self.executable.set_numbers(values[:count])
            self._last = values[:count]
        return values[count:]  # type: ignore[no-any-return]

    def _update(self, tensors: Sequence[Any], made: list[NDArray], counts: tuple[Any, ...]) -> None:
        position = self.returned
        for place in self.new_tensors:
            place.of(tensors).set(Tensor.make_const(made[position]))
            position += 1
        for leaf in self.new_data:
            tensor = leaf.now(tensors)
            tensor.cached_data, tensor._leaf = made[position], None
            position += 1
        for place, value in self.settings:
            place.of(tensors).set(value)
        for (place, _), value in zip(self.counted, counts, strict=True):
            place.set(value)


_REFERENCES, _OF_MEMORY = 4, 3


def _same(a: Any, b: Any) -> bool:
    return type(a) is type(b) and type(a) in (int, float, str, bool, bytes, complex) and a == b


def _operand(trace: Trace, tensor: Any, name: str) -> Operand:
    found = trace.operands.get(id(tensor))
    if found is None:
        raise JitError(f"jit: expected {name} to be a Tensor, got {tensor!r}.")
    return found


def _real(layout: Layout) -> Layout:
    return Layout.of(layout.device.real, layout.dtype, layout.shape, layout.strides)


def _memory_of(values: np.ndarray[Any, Any]) -> Any:
    address = values.__array_interface__["data"][0]
    return runtime_function("foreign")(address, values, values.nbytes)

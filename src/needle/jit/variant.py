"""One compiled form of a function: for arguments of one kind, and what else it was traced with."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from time import perf_counter
from typing import Any

import numpy as np

from needle.autograd import Tensor
from needle.backend_ndarray.layout import Layout
from needle.backend_ndarray.ndarray import NDArray
from needle.jit.gradient import Gradient, Spent
from needle.jit.guards import make_guard
from needle.jit.leaf import Leaf
from needle.jit.places import Place
from needle.jit.random_state import remember
from needle.jit.tracing import Trace
from needle.jit.trees import Hole, map_leaves, unflatten
from needle.jit.varying import Varying
from needle.jit.writing import make_around
from needle.origins import current
from needle.program.executable import Executable
from needle.program.graph import Graph
from needle.run_numbers import RunNumber
from needle.runtime.call import runtime_function

__all__ = ["Variant"]

Found = tuple[tuple[Any, ...], tuple[Any, ...], tuple[Any, ...]]


class Variant:
    """A traced and compiled function.

    tree     the arguments, with holes for Tensors
    tensors  the Tensors in them
    varying  numbers that may change from call to call; more may be found

    fits     what it takes to run it, of the Tensors given; None if something is not as it was
    leaves, draws        inputs of its program, in their order
    layouts              how its outputs lie: `returned` ones, and then what is state
    sources              of each output, the number of the leaf that it replaces, if there is one
    in_place             of each, whether it may go where lies what it replaces, leaf or not
    trace_seconds
    """

    def __init__(
        self,
        function: Callable[..., Any],
        tree: Any,
        tensors: Sequence[Any],
        varying: Varying,
    ) -> None:
        begun = perf_counter()
        name = getattr(function, "__name__", "function")
        with current.span("trace", name):
            trace = _traced(function, tree, tensors, varying)
        self.trace_seconds = perf_counter() - begun
        used, updated = self._compile(trace)
        self.executable.name = name
        self._keep_watch(trace, used, updated)
        trace.release()

    # -- compiling -----------------------------------------------------------------------------

    def _compile(self, trace: Trace) -> tuple[list[Leaf], list[Leaf]]:
        """The program; its outputs are: what is returned, what is stored, and new data."""
        did = trace.outcome
        stored = [output for _, _, outputs in did.stored for output in outputs]
        updated = [leaf for leaf in trace.leaves.values() if leaf.updated is not None]
        outputs = [output.operand for output in (*did.returned, *stored)]
        outputs += [leaf.updated for leaf in updated if leaf.updated is not None]
        graph = Graph([], outputs, checks=trace.checks)
        inputs = {node for node in graph.nodes if node.primitive == "input"}
        used = [leaf for leaf in trace.leaves.values() if leaf.node in inputs]
        self.leaves, self.draws = used, trace.draws
        graph.inputs = [leaf.node for leaf in used] + [draw.node for draw in trace.draws]
        self.gradient = Gradient.of(trace, used)
        updates = {} if self.gradient else _updates(trace, used, updated)
        graph.updates = updates
        self.executable = Executable(graph)
        self.layouts = [_real(layout) for layout in self.executable.layouts]
        self.returned = len(did.returned)
        self.sources = [updates.get(number) for number in range(len(outputs))]
        self.in_place = [
            self.executable.in_place[number]
            and (given is None or self.layouts[number] is used[given].layout)
            for number, given in enumerate(self.sources)
        ]
        return used, updated

    def _keep_watch(self, trace: Trace, used: list[Leaf], updated: list[Leaf]) -> None:
        """What to look at before each run, and what to do after it."""
        did = trace.outcome
        counts = [number for _, number in did.counts]
        in_result: list[RunNumber] = []
        self._result = map_leaves(did.result, lambda leaf: _with_numbers(leaf, in_result))
        self._has_numbers, self._returns_one = bool(in_result), type(self._result) is Hole
        wanted = [*self.executable.numbers, *counts, *in_result]
        self._evaluate = trace.numbers.evaluates(wanted)
        self._variables, self._needs_numbers = len(self.executable.numbers), bool(wanted)
        self._last: Any = None
        self._counts = len(did.counts)
        self._returned = [output.requires_grad for output in did.returned]
        self._floats = [(place, x) for place, x in trace.reach.values if type(x) is float]
        sources = [] if self.gradient is None else self.gradient.take_sources()
        self._sources = slice(len(updated), len(updated) + len(sources))
        fetched = [*updated, *sources]
        reused: list[tuple[int, int | None, int | None]] = []
        for number, given in enumerate(self.sources):
            if self.in_place[number]:
                is_fetched = given is not None and number < len(self.layouts) - len(updated)
                reused.append((number, given, len(fetched) if is_fetched else None))
                fetched += [used[given]] if given is not None and is_fetched else []
        self.fits = make_guard(trace, used, fetched)
        self._around = make_around(trace, used, self.layouts, reused, self._variables)

    def changed_numbers(self) -> set[tuple[int, Any]]:
        """Floats that it depends on and that are others now: such numbers may go on changing."""
        return {
            (id(place.container()), place.key)
            for place, value in self._floats
            if type(place.get()) is float and place.get() != value
        }

    # -- running -------------------------------------------------------------------------------

    def run(self, found: Found, tensors: Sequence[Any]) -> tuple[bool, Any]:
        """Run the program; whether no value was at fault, and what the function returns.

        Where a value is at fault, or an error comes up, nothing has changed.
        """
        arrays, given, fetched = found
        numbers = self._set_numbers(given) if self._needs_numbers else ()
        ran = self._around(arrays, fetched, tensors, numbers, self._execute)
        if ran is None:
            return False, None
        made, drawn = ran
        if self.gradient is not None:
            call = self.gradient.call(arrays, drawn, given, fetched[self._sources])
            returned = call.results(made, self._returned)
        else:
            returned = [_tensor(a, grad) for a, grad in zip(made, self._returned, strict=True)]
        if self._returns_one:
            return True, returned[0]
        result = unflatten(self._result, returned)
        if self._has_numbers:
            in_result = numbers[self._variables + self._counts :]
            result = map_leaves(
                result, lambda leaf: in_result[leaf.at] if type(leaf) is _Number else leaf
            )
        return True, result

    def _set_numbers(self, given: tuple[Any, ...]) -> tuple[Any, ...]:
        numbers: tuple[Any, ...] = self._evaluate(given)
        variables = numbers[: self._variables]
        if variables != self._last:
            self.executable.set_numbers(variables)
            self._last = variables
        return numbers

    def _execute(self, arguments: list[Any], results: list[Any]) -> tuple[bool, list[Any]]:
        """Run the program, and give back what was drawn for a run that did not succeed."""
        if not self.draws:
            return self.executable.run(arguments, results), []
        put_back, done = remember([draw.name for draw in self.draws]), False
        try:
            drawn = [_memory_of(getattr(np.random, d.name)(*d.shape)) for d in self.draws]
            for memory in drawn:
                arguments += (memory, 0)
            done = self.executable.run(arguments, results)
        finally:
            if not done:
                put_back()
        return done, drawn


class _Number:
    """Where a number stood that is worked out at each call: which."""

    __slots__ = ("at",)

    def __init__(self, at: int) -> None:
        self.at = at


def _with_numbers(leaf: Any, found: list[RunNumber]) -> Any:
    if isinstance(leaf, RunNumber):
        found.append(leaf)
        return _Number(len(found) - 1)
    return leaf


def _traced(
    function: Callable[..., Any], tree: Any, tensors: Sequence[Any], varying: Varying
) -> Trace:
    while True:
        trace = Trace(function, tree, tensors, varying)
        try:
            if trace.run():
                varying.settle()
                return trace
        except Exception:
            if not varying.give_up():
                raise
        trace.release()


def _tensor(array: NDArray, requires_grad: bool) -> Tensor:
    tensor = Tensor.make_const(array)
    if requires_grad:
        tensor.op, tensor.requires_grad = Spent.op, True
    return tensor


def _updates(trace: Trace, used: list[Leaf], updated: list[Leaf]) -> dict[int, int | None]:
    """Outputs that take the place of used leaves: both by their numbers.

    None: of what the program does not read, such as the gradients of the step before.
    """
    numbers = {id(leaf): number for number, leaf in enumerate(used)}
    at = {_location(leaf.place): leaf for leaf in used if leaf.place is not None}
    updates: dict[int, int | None] = {}
    did, number = trace.outcome, len(trace.outcome.returned)
    for place, tree, outputs in did.stored:
        leaf = at.get(_location(place)) if type(tree) is Hole else None
        if leaf is not None and not leaf.requires_grad:
            updates[number] = numbers[id(leaf)]
        elif leaf is None and type(tree) is Hole:
            updates[number] = None
        number += len(outputs)
    for leaf in updated:
        if id(leaf) in numbers:
            updates[number] = numbers[id(leaf)]
        number += 1
    return updates


def _location(place: Place) -> tuple[int, Any]:
    key = place.key if type(place.key) in (str, int) else id(place.key)
    return id(place.container()), key


def _real(layout: Layout) -> Layout:
    return Layout.of(layout.device.real, layout.dtype, layout.shape, layout.strides)


def _memory_of(drawn: Any) -> Any:
    values = np.asarray(drawn)
    address = values.__array_interface__["data"][0]
    return _foreign()(address, values, values.nbytes)


@cache
def _foreign() -> Callable[..., Any]:
    return runtime_function("foreign")

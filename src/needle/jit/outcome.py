"""What a traced function did: what it returned, and what it left behind in places it reaches."""

from __future__ import annotations

import types
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from needle.autograd import Tensor
from needle.autograd.backward import gradients
from needle.backend_ndarray.devices import cpu
from needle.backend_ndarray.layout import Layout
from needle.backend_ndarray.ndarray import new_array
from needle.backend_ndarray.ndarray_backend_trace import Memory, Node, Operand, recorded, trace
from needle.errors import kind_of
from needle.jit.leaf import Leaf
from needle.jit.places import MISSING, Place
from needle.jit.reach import Reach
from needle.jit.recorder import is_traced
from needle.jit.snapshot import Change, Snapshot
from needle.jit.trees import Hole, flatten, is_scalar, leaves_of
from needle.jit.watch import JitError
from needle.run_numbers import RunNumber

if TYPE_CHECKING:
    from needle.jit.tracing import Trace

__all__ = ["Outcome", "Output", "Recorded", "outcome_of"]

_LATER = ("__next__", "__await__", "__anext__")  # methods of what goes on after the call
_SETTINGS = (types.FunctionType, types.BuiltinFunctionType, type, types.ModuleType)


class Output:
    """A Tensor that the function returns, or leaves at a place: what computes it.

    is_leaf  whether the function has made it as one, such as a Parameter
    """

    __slots__ = ("is_leaf", "operand", "requires_grad", "value")

    def __init__(self, value: Any, operand: Operand, is_leaf: bool) -> None:
        self.value, self.operand, self.requires_grad = value, operand, value.requires_grad
        self.is_leaf = is_leaf


class Recorded(NamedTuple):
    """Gradients of results: by which leaves, what computes each, and from what besides leaves.

    given   the nodes that stand for the adjoints of those results that require grad
    checks  what must be true of values then
    """

    wrt: list[Leaf]
    grads: list[Operand | None]
    given: list[Node]
    checks: list[Operand]


@dataclass
class Outcome:
    """What there is after the call that was not there before; new data of leaves is with these.

    result    what it returned, with holes for the Tensors in `returned`
    stored    places that hold Tensors afterwards: the tree, and those Tensors
    set       places that hold another value afterwards
    counts    places that hold another number afterwards
    spent     whether it has differentiated, or changed parameters
    gradient  of what it returned; None if nothing there can be differentiated
    """

    result: Any = None
    returned: list[Output] = field(default_factory=list)
    stored: list[tuple[Place, Any, list[Output]]] = field(default_factory=list)
    set: list[tuple[Place, Any]] = field(default_factory=list)
    counts: list[tuple[Place, RunNumber]] = field(default_factory=list)
    spent: bool = False
    gradient: Recorded | None = None


def outcome_of(traced: Trace, result: Any, lifted: Snapshot) -> Outcome | None:
    """What a trace's function did, when it has returned, and before anything is put back.

    lifted  everything that it reaches, as it was when it began

    None where numbers have turned out to change from call to call. Raises JitError for what a
    compiled function would not do again.
    """
    taking = _Taking(traced)
    taking.take_result(result)
    if not taking.take_changes(lifted):
        return None
    taking.record_gradient()
    return taking.found


class _Taking:
    def __init__(self, traced: Trace) -> None:
        self.trace, self.found = traced, Outcome()
        self.leaves = list(traced.leaves.values())

    # -- results -------------------------------------------------------------------------------

    def take_result(self, result: Any) -> None:
        returned: list[Any] = []
        self.found.result = flatten(result, returned)
        self.found.returned = [self._output(value, "a result") for value in returned]
        for leaf in leaves_of(self.found.result):
            if not is_scalar(leaf) and not isinstance(leaf, (Hole, RunNumber)):
                self._require_no_tensors_in(leaf)

    def _output(self, value: Any, name: str) -> Output:
        if not isinstance(value, Tensor):
            raise JitError(f"jit: expected {name} to be a Tensor, got a TensorTuple. Use tuple().")
        is_leaf = value.op is None and self.trace.has_made(value)
        return Output(value, recorded(self.trace.data_of(value)), is_leaf)

    def _require_no_tensors_in(self, result: Any) -> None:
        """Refuse what holds Tensors that are those of this call, unless it was there before."""
        if self.trace.reach.has_met(result):
            return
        outside = {id(leaf.held) for leaf in self.leaves if leaf.place is not None}
        outside |= {id(leaf.held) for _, leaf in self.trace.ties}
        inside = any(
            is_traced(tensor) and id(tensor) not in outside
            for _, tensor in Reach(("a result", result)).tensors
        )
        if inside or any(hasattr(type(result), name) for name in _LATER):
            raise JitError(
                "jit: expected results that are Tensors, or tuples, lists, dicts and dataclasses "
                f"of Tensors, got {kind_of(result)}, whose Tensors would be those of one call. "
                "Return the Tensors themselves."
            )

    def record_gradient(self) -> None:
        """Differentiate what is returned by the leaves, for whoever goes back from outside."""
        outputs = [output for output in self.found.returned if output.requires_grad]
        wrt = [leaf for leaf in self.leaves if leaf.requires_grad]
        if self.found.spent or not outputs or not wrt:
            return
        layouts = [Layout.of(trace(cpu()), o.value.dtype, o.value.shape) for o in outputs]
        given = [Node("input", layout) for layout in layouts]
        ones = [
            Tensor.make_const(new_array(layout, Memory(node)))
            for layout, node in zip(layouts, given, strict=True)
        ]
        held: Any = [leaf.held for leaf in wrt]
        drawn, data_of = len(self.trace.draws), self.trace.data_of
        with self.trace.aside() as checks:
            try:
                found = gradients([output.value for output in outputs], ones, held)
                grads = [None if grad is None else recorded(data_of(grad)) for grad in found]
            except Exception:  # whoever goes back is told that it cannot be done
                return
            if len(self.trace.draws) == drawn:
                self.found.gradient = Recorded(wrt, grads, given, checks)

    # -- changes -------------------------------------------------------------------------------

    def take_changes(self, lifted: Snapshot) -> bool:
        known = set(self.trace.varying.marks)
        gradient_places = {id(place) for place in self.trace.gradients}
        for change in lifted.changes():
            place, now = change.place, change.now
            if place is None:
                raise self._refused(change)
            inside: list[Any] = []
            tree = flatten(now, inside)
            if inside:
                self._require_no_second_name(place, inside)
                outputs = [self._output(value, place.name) for value in inside]
                self.found.stored.append((place, tree, outputs))
                self.found.spent |= id(place) in gradient_places
            elif isinstance(now, RunNumber):
                self.found.counts.append((place, now))
            elif is_scalar(now) or now is MISSING or isinstance(now, _SETTINGS):
                self._take_value(change, place)
            else:
                raise self._refused(change)
        self._take_data()
        return known == self.trace.varying.marks

    def _require_no_second_name(self, place: Place, inside: Sequence[Any]) -> None:
        """Refuse to keep a Tensor that is trained in another place too: they would be two then."""
        trained = {id(leaf.held): leaf for leaf in self.leaves if leaf.requires_grad}
        for value in inside:
            leaf = trained.get(id(value))
            if leaf is not None:
                raise JitError(
                    f"jit: expected {place.name} to be given Tensors of its own, got "
                    f"{leaf.called} itself, which requires grad: as the result of a program it "
                    "would be a copy. Give it its second name outside of the function."
                )

    def _take_value(self, change: Change, place: Place) -> None:
        before, now = change.before, change.now
        if is_scalar(before) and type(before) is type(now) and before == now:
            return
        if type(now) in (int, float) and type(before) in (int, float):
            self.trace.varying.add((id(place.container()), place.key))
        self.found.set.append((place, now))

    def _take_data(self) -> None:
        for leaf in self.leaves:
            data = leaf.held.cached_data
            if data is not leaf.array or recorded(data).node is not leaf.node:
                leaf.updated = recorded(self.trace.data_of(leaf.held))
                self.found.spent |= leaf.requires_grad
            if leaf.held.requires_grad is not leaf.requires_grad:
                raise JitError(
                    f"jit: expected requires_grad of {leaf.called} to stay {leaf.requires_grad}, "
                    f"got {leaf.held.requires_grad}. Change it outside of the function."
                )
            if leaf.held is not leaf.tensor and leaf.held.grad is not None:
                raise JitError(
                    f"jit: expected backward() to end at leaves, but it came to {leaf.called}, "
                    f"the result of {getattr(leaf.tensor.op, 'name', 'an op')}. Pass detach() of "
                    "it, or call backward() outside of the function."
                )

    def _refused(self, change: Change) -> JitError:
        place = change.place
        if place is None:
            held, count = change.held, len(change.held)
            line = self.trace.line_where(lambda: len(held) == count)
            did = f"gave {change.name}, which had {change.before}, {change.now}"
        else:
            line = self.trace.line_where(lambda: not _alike(place.get(), change.before))
            did = f"set {change.name} from {_shown(change.before)} to {_shown(change.now)}"
        return JitError(
            f"jit: expected a function that changes Tensors and numbers only, but at {line} it "
            f"{did}, which a compiled one would not do again. Keep such values in a Tensor, or "
            "change them outside of the function."
        )


def _alike(a: Any, b: Any) -> bool:
    return a is b or (is_scalar(a) and type(a) is type(b) and a == b)


def _shown(value: Any) -> str:
    return repr(value) if is_scalar(value) or value is MISSING else kind_of(value)

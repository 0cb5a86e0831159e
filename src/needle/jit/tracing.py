"""Tracing: a function runs once on arrays without data, and what it does is recorded."""

from __future__ import annotations

import types
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

from needle.autograd import Tensor
from needle.autograd.backward import gradients
from needle.autograd.modes import modes, traced_by
from needle.autograd.value import Value
from needle.backend_ndarray.devices import cpu, making_traced
from needle.backend_ndarray.layout import Layout
from needle.backend_ndarray.ndarray import NDArray, new_array
from needle.backend_ndarray.ndarray_backend_trace import (
    Memory,
    Node,
    NoValueError,
    Operand,
    recorded,
    trace,
    traced,
)
from needle.errors import describe, kind_of
from needle.fixed import numbers_are_fixed
from needle.jit.places import MISSING, ArgumentPlace, Place
from needle.jit.reach import Reach
from needle.jit.recorder import Draw, Recorder, other_data
from needle.jit.snapshot import Change, Snapshot
from needle.jit.streams import restore_states, same_state, states_of
from needle.jit.trees import Hole, flatten, leaves_of, static_key, unflatten
from needle.jit.watch import JitError, line_of, line_where, user_line, watching
from needle.run_numbers import Numbers, RunNumber

__all__ = ["Draw", "Leaf", "Output", "Recorded", "Trace", "Varying", "is_scalar"]

_LATER = ("__next__", "__await__", "__anext__")  # methods of what goes on after the call
_SETTINGS = (types.FunctionType, types.BuiltinFunctionType, type, types.ModuleType)


class Leaf:
    """A Tensor that a traced function reads: where it is found, and the input that stands for it.

    tensor    as it was; `held` is what the function met in its place, if it has a graph
    place     where it is found; None for an argument
    argument  its number among the arguments' Tensors, if it is one
    data      what it held, until the trace is done
    layout    of that; `array` stands for it in the record
    begin     where in the record's memory its first element is
    updated   what it held when the function had run, if that was something else
    """

    __slots__ = (
        "argument", "array", "begin", "data", "held", "layout", "node", "place", "requires_grad",
        "tensor", "updated",
    )  # fmt: skip

    def __init__(self, tensor: Value, place: Place | None, argument: int | None = None) -> None:
        self.tensor, self.place, self.argument = tensor, place, argument
        data = self.data = tensor.realize_cached_data()
        if type(data) is tuple:
            raise JitError("jit: expected Tensors from outside, got a TensorTuple. Take its items.")
        self.layout: Layout = data._layout
        self.array = traced(data)
        self.node, _, self.begin = recorded(self.array)
        self.requires_grad = tensor.requires_grad
        self.updated: Operand | None = None
        self.held = tensor
        if tensor.op is None:
            tensor.cached_data = self.array
        else:
            self.held = Tensor.make_const(self.array, requires_grad=self.requires_grad)

    def now(self, tensors: Sequence[Any]) -> Any:
        """The Tensor that is there now; None if there is none."""
        if self.argument is not None:
            return tensors[self.argument] if tensors else None
        found = None if self.place is None else self.place.get()
        return found if isinstance(found, Tensor) else None


class Varying:
    """Numbers, by holder and key, that have been seen to change from call to call.

    A trace has a `RunNumber` for each; those with which none succeeds are counted out.
    """

    def __init__(self) -> None:
        self.marks: set[tuple[int, Any]] = set()
        self._settled: set[tuple[int, Any]] = set()
        self._out: set[tuple[int, Any]] = set()

    def add(self, mark: tuple[int, Any]) -> None:
        """Another one, unless it has been counted out."""
        if mark not in self._out:
            self.marks.add(mark)

    def settle(self) -> None:
        """A trace has succeeded with all of them."""
        self._settled |= self.marks

    def give_up(self) -> bool:
        """A trace has failed: count out those that are new; whether there are any."""
        new = self.marks - self._settled
        self._out |= new
        self.marks -= new
        return bool(new)


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


class Trace(Recorder):
    """One run of a function on arrays without data, and everything that was found out by it.

    reach     what it can reach
    leaves    Tensors that it can read, by their identity
    ties      places that hold the Tensor of a leaf that was found elsewhere
    numbers   numbers that are worked out at each call
    counted   where they are found
    varying   numbers of other objects that change from call to call
    equal     places of numbers that are equal to one of these, which stands for them
    gradients_read  places of gradients that were asked for before the function set them

    result    what it returned, with holes for the Tensors in `returned`
    stored    places that hold Tensors afterwards: the tree, and those Tensors
    set       places that hold another value afterwards
    counts    places that hold another number afterwards
    spent     whether it has differentiated, or changed parameters
    gradient  of what it returned; None if nothing there can be differentiated
    """

    def __init__(
        self,
        function: Callable[..., Any],
        tree: Any,
        tensors: Sequence[Any],
        varying: Varying,
    ) -> None:
        super().__init__()
        self.function, self.tree, self.tensors = function, tree, tensors
        self.varying = varying
        self.leaves: dict[int, Leaf] = {}
        self.ties: list[tuple[Place, Leaf]] = []
        self.numbers = Numbers()
        self.counted: list[tuple[Place, RunNumber]] = []
        self.equal: list[tuple[Place, Place]] = []
        self.gradients_read: list[tuple[Place, Any]] = []
        self.result: Any = None
        self.returned: list[Output] = []
        self.stored: list[tuple[Place, Any, list[Output]]] = []
        self.set: list[tuple[Place, Any]] = []
        self.counts: list[tuple[Place, RunNumber]] = []
        self.spent = False
        self.gradient: Recorded | None = None
        self._known_gradients: set[int] = set()
        self._born: dict[int, Value] = {}
        self._prepare()

    def _prepare(self) -> None:
        statics = leaves_of(self.tree)
        name = getattr(self.function, "__name__", "function")
        roots = [(name, self.function), *[("an argument", item) for item in statics]]
        self.reach = Reach(*roots)
        if self.reach.optimizers:
            for _, optimizer in self.reach.optimizers:
                optimizer.make_state()
            self.reach = Reach(*roots)
        self._of_arguments = [
            ArgumentPlace(number, "grad", self.tensors) for number in range(len(self.tensors))
        ]
        self._before = Snapshot(self.reach, self._of_arguments)

    # -- running -------------------------------------------------------------------------------

    def run(self) -> bool:
        """Call the function, and put back what it changed.

        False where numbers have turned out to change from call to call: then it has to be traced
        again.
        """
        with self._tracing():
            lifted = Snapshot(self.reach, self._of_arguments)
            streams = states_of(self.reach)
            passed = self._passed()
            try:
                with _watched_gradients(), watching(self.reach.iterators):
                    result = self.function(*passed[0], **passed[1])
            except NoValueError as error:
                raise _value_asked(line_of(error)) from None
            self._require_no_draws(streams)
            self._require_arguments_untouched(passed)
            self._take_result(result)
            if not self._take_changes(lifted):
                return False
            self._record_gradient()
            self.numbers.listens = False
            return True

    @property
    def gradients(self) -> list[Place]:
        """Where gradients are, of what it reaches and of arguments."""
        return [*self.reach.gradients, *self._of_arguments]

    @contextmanager
    def _tracing(self) -> Iterator[None]:
        with ExitStack() as stack:
            stack.callback(self._put_back)
            self._lift()
            self._count()
            stack.enter_context(traced_by(self))
            stack.enter_context(making_traced(self))
            stack.enter_context(numbers_are_fixed())
            yield

    def release(self) -> None:
        """Forget what may be large, or lead in a circle."""
        for leaf in self.leaves.values():
            leaf.data = leaf.tensor = leaf.held = None  # type: ignore[assignment]
        self.numbers.release()

    def _passed(self) -> Any:
        held = [self.leaves[id(tensor)].held for tensor in self.tensors]
        return unflatten(self.tree, held)

    def _lift(self) -> None:
        for number, tensor in enumerate(self.tensors):
            if id(tensor) not in self.leaves:
                self.leaves[id(tensor)] = Leaf(tensor, None, number)
        gradients = [(place, place.get()) for place in self.gradients]
        for place, tensor in (*self.reach.tensors, *gradients):
            if not isinstance(tensor, Tensor):
                continue
            leaf = self.leaves.get(id(tensor))
            if leaf is None:
                leaf = self.leaves[id(tensor)] = Leaf(tensor, place)
            else:
                self.ties.append((place, leaf))
            if leaf.held is not leaf.tensor:
                self._put_in_place(place, leaf)

    def _put_in_place(self, place: Place, leaf: Leaf) -> None:
        if isinstance(place.container(), tuple):
            raise JitError(
                f"jit: expected a Tensor without a graph as {place.name}, got the result of "
                f"{getattr(leaf.tensor.op, 'name', 'an op')}. Use detach()."
            )
        place.set(leaf.held)

    def _count(self) -> None:
        """Put numbers that may change from call to call under a name.

        Those of one dict that are equal now, such as the counts of an optimiser, get one.
        """
        own = {id(holder) for found in self.reach.counting for holder in found.counted()}
        first: dict[Any, tuple[Place, RunNumber]] = {}
        for place, value in self.reach.values:
            holder = id(place.container())
            if type(value) not in (int, float):
                continue
            if holder not in own and (holder, place.key) not in self.varying.marks:
                continue
            alike = (holder, type(value), value) if type(place.key) is not str else place
            if alike in first:
                self.equal.append((place, first[alike][0]))
                place.set(first[alike][1])
                continue
            number = self.numbers.new(value)
            first[alike] = (place, number)
            self.counted.append((place, number))
            place.set(number)

    def _put_back(self) -> None:
        self._before.restore()
        for leaf in self.leaves.values():
            if leaf.held is leaf.tensor:
                leaf.tensor.cached_data, leaf.tensor._leaf = leaf.data, None
                leaf.tensor.requires_grad = leaf.requires_grad

    # -- what the function did -----------------------------------------------------------------

    def _take_result(self, result: Any) -> None:
        returned: list[Any] = []
        self.result = flatten(result, returned)
        self.returned = [self._output(value, "a result") for value in returned]
        for leaf in leaves_of(self.result):
            if not is_scalar(leaf) and not isinstance(leaf, (Hole, RunNumber)):
                self._require_no_tensors_in(leaf)

    def _require_no_tensors_in(self, result: Any) -> None:
        """Refuse what holds Tensors that are those of this call, unless it was there before."""
        if self.reach.has_met(result):
            return
        outside = {id(leaf.held) for leaf in self.leaves.values() if leaf.place is not None}
        outside |= {id(leaf.held) for _, leaf in self.ties}
        inside = any(
            _is_traced(tensor) and id(tensor) not in outside
            for _, tensor in Reach(("a result", result)).tensors
        )
        if inside or any(hasattr(type(result), name) for name in _LATER):
            raise JitError(
                "jit: expected results that are Tensors, or tuples, lists, dicts and dataclasses "
                f"of Tensors, got {kind_of(result)}, whose Tensors would be those of one call. "
                "Return the Tensors themselves."
            )

    def _output(self, value: Any, name: str) -> Output:
        if not isinstance(value, Tensor):
            raise JitError(f"jit: expected {name} to be a Tensor, got a TensorTuple. Use tuple().")
        is_leaf = value.op is None and id(value) in self._born
        return Output(value, recorded(self.data_of(value)), is_leaf)

    def _record_gradient(self) -> None:
        """Differentiate what is returned by the leaves, for whoever goes back from outside."""
        outputs = [output for output in self.returned if output.requires_grad]
        wrt = [leaf for leaf in self.leaves.values() if leaf.requires_grad]
        if self.spent or not outputs or not wrt:
            return
        checks, self.checks = self.checks, []
        drawn = len(self.draws)
        layouts = [Layout.of(trace(cpu()), o.value.dtype, o.value.shape) for o in outputs]
        given = [Node("input", layout) for layout in layouts]
        try:
            ones = [
                Tensor.make_const(new_array(layout, Memory(node)))
                for layout, node in zip(layouts, given, strict=True)
            ]
            held: Any = [leaf.held for leaf in wrt]
            found = gradients([output.value for output in outputs], ones, held)
            grads = [None if grad is None else recorded(self.data_of(grad)) for grad in found]
            if len(self.draws) == drawn:
                self.gradient = Recorded(wrt, grads, given, self.checks)
        except Exception:  # whoever goes back is told that it cannot be done
            pass
        finally:
            self.checks = checks
            del self.draws[drawn:]

    def _take_changes(self, lifted: Snapshot) -> bool:
        known = set(self.varying.marks)
        gradients = {id(place) for place in self.gradients}
        for change in lifted.changes():
            place, now = change.place, change.now
            if place is None:
                raise self._refused(change)
            inside: list[Any] = []
            tree = flatten(now, inside)
            if inside:
                self._require_no_second_name(place, inside)
                outputs = [self._output(value, place.name) for value in inside]
                self.stored.append((place, tree, outputs))
                self.spent |= id(place) in gradients
            elif isinstance(now, RunNumber):
                self.counts.append((place, now))
            elif is_scalar(now) or now is MISSING or isinstance(now, _SETTINGS):
                self._take_value(change, place)
            else:
                raise self._refused(change)
        self._take_data()
        return known == self.varying.marks

    def _require_no_second_name(self, place: Place, inside: Sequence[Any]) -> None:
        """Refuse to keep a Tensor that is trained in another place too: they would be two then."""
        trained = {id(leaf.held): leaf for leaf in self.leaves.values() if leaf.requires_grad}
        for value in inside:
            leaf = trained.get(id(value))
            if leaf is not None:
                raise JitError(
                    f"jit: expected {place.name} to be given Tensors of its own, got "
                    f"{_called(leaf)} itself, which requires grad: as the result of a program it "
                    "would be a copy. Give it its second name outside of the function."
                )

    def _take_value(self, change: Change, place: Place) -> None:
        before, now = change.before, change.now
        if is_scalar(before) and type(before) is type(now) and before == now:
            return
        if type(now) in (int, float) and type(before) in (int, float):
            self.varying.add((id(place.container()), place.key))
        self.set.append((place, now))

    def _take_data(self) -> None:
        for leaf in self.leaves.values():
            data = leaf.held.cached_data
            if data is not leaf.array or recorded(data).node is not leaf.node:
                leaf.updated = recorded(self.data_of(leaf.held))
                self.spent |= leaf.requires_grad
            if leaf.held.requires_grad is not leaf.requires_grad:
                raise JitError(
                    f"jit: expected requires_grad of {_called(leaf)} to stay {leaf.requires_grad}, "
                    f"got {leaf.held.requires_grad}. Change it outside of the function."
                )
            if leaf.held is not leaf.tensor and leaf.held.grad is not None:
                raise JitError(
                    f"jit: expected backward() to end at leaves, but it came to {_called(leaf)}, "
                    f"the result of {getattr(leaf.tensor.op, 'name', 'an op')}. Pass detach() of "
                    "it, or call backward() outside of the function."
                )

    def _refused(self, change: Change) -> JitError:
        place = change.place
        if place is None:
            held, count = change.held, len(change.held)
            line = self._line_where(lambda: len(held) == count)
            did = f"gave {change.name}, which had {change.before}, {change.now}"
        else:
            line = self._line_where(lambda: not _alike(place.get(), change.before))
            did = f"set {change.name} from {_shown(change.before)} to {_shown(change.now)}"
        return JitError(
            f"jit: expected a function that changes Tensors and numbers only, but at {line} it "
            f"{did}, which a compiled one would not do again. Keep such values in a Tensor, or "
            "change them outside of the function."
        )

    def _line_where(self, happened: Callable[[], bool]) -> str:
        """The line of the function after which something has happened: it is run once more."""
        before = modes.tracer
        modes.set("tracer", None)
        self._put_back()
        try:
            again = Trace(self.function, self.tree, self.tensors, self.varying)
            with again._tracing(), _watched_gradients():
                args, kwargs = again._passed()
                return line_where(lambda: again.function(*args, **kwargs), happened)
        finally:
            modes.set("tracer", before)

    def _require_no_draws(self, states: list[tuple[str, Any]]) -> None:
        after = states_of(self.reach)
        name = next(
            (a[0] for a, b in zip(states, after, strict=True) if not same_state(a, b)), None
        )
        if name is None:
            return

        def has_drawn() -> bool:
            return not all(map(same_state, states, states_of(self.reach)))

        restore_states(self.reach, states)
        line = self._line_where(has_drawn)
        restore_states(self.reach, states)
        raise JitError(
            f"jit: expected no random numbers of {name} drawn inside the function, but {line} "
            "draws some: they would be the same at each call. Draw with ndl.init.rand, randn or "
            "randb, or pass the numbers as Tensors."
        )

    def _require_arguments_untouched(self, passed: Any) -> None:
        found: list[Any] = []
        tree = flatten(passed, found)
        held = [self.leaves[id(tensor)].held for tensor in self.tensors]
        same = len(found) == len(held) and all(a is b for a, b in zip(found, held, strict=True))
        if not same or static_key(tree) != static_key(self.tree):
            raise JitError(
                "jit: expected a function that leaves lists and dicts among its arguments as they "
                "are, but it changes one, which a compiled one would not do again. Return what is "
                "new."
            )

    # -- what ops ask --------------------------------------------------------------------------

    def data_of(self, value: Value) -> Any:
        """The traced array of a value that an op reads."""
        data = value.cached_data
        if _is_traced(value):
            return data
        if type(data) is tuple and all(type(item._memory) is Memory for item in data):
            return data
        if id(value) in self._born:
            raise other_data(user_line())
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
        raise _value_asked(user_line())

    def gradient_read(self, tensor: Value, gradient: Any) -> None:
        """Somebody asks for the gradient of a Tensor: it counts if it comes from outside."""
        if id(tensor) in self._known_gradients:
            return
        self._known_gradients.add(id(tensor))
        leaf = next((leaf for leaf in self.leaves.values() if leaf.held is tensor), None)
        if leaf is None:
            return
        if leaf.argument is not None:
            self.gradients_read.append((self._of_arguments[leaf.argument], gradient))
        else:
            self.gradients_read.append((Place(vars(tensor), "grad", "a gradient"), gradient))

    def gradient_set(self, tensor: Value) -> None:
        """The function gives a Tensor another gradient."""
        self._known_gradients.add(id(tensor))


class _WatchedGradient:
    """`Value.grad` while a function is traced: who asks is told to the tracer of that thread."""

    def __get__(self, value: Any, owner: Any = None) -> Any:
        if value is None:
            return None
        gradient = vars(value).get("grad")
        if modes.tracer is not None:
            modes.tracer.gradient_read(value, gradient)
        return gradient

    def __set__(self, value: Any, gradient: Any) -> None:
        vars(value)["grad"] = gradient
        if modes.tracer is not None:
            modes.tracer.gradient_set(value)


@contextmanager
def _watched_gradients() -> Iterator[None]:
    before = Value.grad
    Value.grad = _WatchedGradient()
    try:
        yield
    finally:
        Value.grad = before


def is_scalar(value: Any) -> bool:
    """Whether it is a value that cannot change, and is compared by `==`."""
    return type(value) in (int, float, str, bool, bytes, complex, type(None))


def _is_traced(value: Value) -> bool:
    data = value.cached_data
    return type(data) is NDArray and type(data._memory) is Memory


def _alike(a: Any, b: Any) -> bool:
    return a is b or (is_scalar(a) and type(a) is type(b) and a == b)


def _shown(value: Any) -> str:
    return repr(value) if is_scalar(value) or value is MISSING else kind_of(value)


def _called(leaf: Leaf) -> str:
    return f"argument {leaf.argument}" if leaf.place is None else leaf.place.name


def _value_asked(line: str) -> JitError:
    return JitError(
        f"jit: expected a function that never looks at values, but {line} asks for those of a "
        "Tensor, by item(), numpy(), float(), an if, or printing it: there are none while the "
        "function is compiled. Return the Tensor and look at it outside; in place of an if on "
        "values use ndl.where; or call the function under ndl.disable_jit()."
    )

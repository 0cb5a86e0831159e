"""Tracing: a function runs once on arrays without data, and what it does is recorded."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from needle.autograd import Tensor
from needle.autograd.modes import modes, traced_by
from needle.autograd.value import Value
from needle.backend_ndarray.devices import making_traced
from needle.backend_ndarray.ndarray_backend_trace import NoValueError
from needle.fixed import numbers_are_fixed
from needle.jit.gradients_watched import gradients_watched
from needle.jit.leaf import Leaf
from needle.jit.outcome import Outcome, outcome_of
from needle.jit.places import ArgumentPlace, Place
from needle.jit.reach import Reach
from needle.jit.recorder import Recorder, value_asked
from needle.jit.snapshot import Snapshot
from needle.jit.streams import restore_states, same_state, states_of
from needle.jit.trees import flatten, leaves_of, static_key, unflatten
from needle.jit.varying import Varying
from needle.jit.watch import JitError, line_of, line_where, watching
from needle.run_numbers import Numbers, RunNumber

__all__ = ["Trace"]


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

    outcome   what the function did, once it has run
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
        self.outcome = Outcome()
        self._known_gradients: set[int] = set()
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
                with gradients_watched(), watching(self.reach.iterators):
                    result = self.function(*passed[0], **passed[1])
            except NoValueError as error:
                raise value_asked(line_of(error)) from None
            self._require_no_draws(streams)
            self._require_arguments_untouched(passed)
            outcome = outcome_of(self, result, lifted)
            if outcome is None:
                return False
            self.outcome = outcome
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

    # -- what it may not do -------------------------------------------------------------------

    def line_where(self, happened: Callable[[], bool]) -> str:
        """The line of the function after which something has happened: it is run once more."""
        before = modes.tracer
        modes.set("tracer", None)
        self._put_back()
        try:
            again = Trace(self.function, self.tree, self.tensors, self.varying)
            with again._tracing(), gradients_watched():
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
        line = self.line_where(has_drawn)
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

    # -- gradients that are asked for ----------------------------------------------------------

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

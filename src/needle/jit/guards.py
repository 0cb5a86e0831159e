"""Guards: whether everything is as it was when a function was traced, as one Python function.

What has to be looked at is known when the function has been traced: some hundred attributes and
items. So their expressions are written down as source, and compiled: a look costs some 40 ns.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from needle.jit.leaf import Leaf
from needle.jit.places import MISSING, ArgumentPlace, Place
from needle.jit.reach import Container
from needle.jit.source import Source, written
from needle.jit.tracing import Trace
from needle.jit.trees import is_scalar

__all__ = ["Fits", "make_guard"]

# of the Tensors given: arrays, numbers, and Tensors; None if something is not as it was
Fits = Callable[[Sequence[Any]], "tuple[tuple[Any, ...], tuple[Any, ...], tuple[Any, ...]] | None"]
_SMALL = 1024  # bytes of an array of NumPy whose elements are compared


def make_guard(trace: Trace, used: Sequence[Leaf], fetched: Sequence[Leaf]) -> Fits:
    """The function that looks whether `trace` still holds.

    It fetches what `used` leaves hold, the numbers, and the Tensors of `fetched` leaves.
    """
    return _Guard(trace, used, fetched).function()


class _Guard(Source):
    """Names of what is looked at more than once, and conditions, in one line up to the next name.

    Compiling takes most of the time that a guard takes, and its time goes by the statements.
    """

    def __init__(self, trace: Trace, used: Sequence[Leaf], fetched: Sequence[Leaf]) -> None:
        super().__init__()
        self.names |= {"same": _same, "same_array": _same_array}
        self._conditions: list[str] = []
        self._places: dict[int, str] = {}
        self._leaves: dict[int, str] = {}
        self._count = 0
        counted = {id(place) for place, _ in (*trace.counted, *trace.equal)}
        for container in trace.reach.containers:
            self._container(container)
        for place, first in trace.reach.ties:
            self._require(f"{self._at(place)} is {self._at(first)}")
        for place, value in trace.reach.values:
            if id(place) not in counted:
                self._value(place, value)
        gradients = {id(place) for place in trace.gradients}
        read, wanted = set(used), {*used, *fetched}
        for leaf in trace.leaves.values():
            if leaf in wanted or id(leaf.place) not in gradients:
                self._leaf(leaf, leaf in read)
        self._ties(trace, gradients)
        for place, gradient in trace.gradients_read:
            not_one = " is None" if gradient is None else " is not None"
            self._require(f"{self._gradient(place)}{not_one}")
        self._numbers(trace)
        arrays = "".join(f"d{self._leaves[id(leaf)]}, " for leaf in used)
        tensors = "".join(f"{self._leaves[id(leaf)]}, " for leaf in fetched)
        self._add(f"return ({arrays}), n, ({tensors})")

    def function(self) -> Fits:
        inside = [f"    {line}" for line in self.lines]
        errors = "(KeyError, IndexError, AttributeError, TypeError, ValueError)"
        lines = ["try:", *inside, f"except {errors}:", "    return None"]
        fits: Fits = written("guard", "tensors", lines, self.names)
        return fits

    # -- spelling ------------------------------------------------------------------------------

    def _require(self, condition: str) -> None:
        """Something that holds; in parentheses, if it is one or the other."""
        self._conditions.append(condition)

    def _add(self, line: str) -> None:
        if self._conditions:
            self.lines.append(f"if not ({' and '.join(self._conditions)}): return None")
            self._conditions = []
        self.lines.append(line)

    def _spelled(self, x: Any) -> str:
        return self._at(x) if isinstance(x, Place) else self._object(x)

    def _new_name(self, expression: str) -> str:
        self._count += 1
        self._add(f"v{self._count} = {expression}")
        return f"v{self._count}"

    def _at(self, place: Place) -> str:
        """A local name for what is at a place."""
        name = self._places.get(id(place))
        if name is None:
            name = self._places[id(place)] = self._new_name(place.spelling(self._spelled))
        return name

    def _once(self, place: Place) -> str:
        """What is at a place that need not have a name."""
        return self._places.get(id(place)) or place.spelling(self._spelled)

    def _gradient(self, place: Place) -> str:
        """The gradient there, which may never have been set."""
        if isinstance(place, ArgumentPlace):
            return place.spelling(self._spelled)
        return f"{self._object(place.holder)}.get('grad')"

    # -- conditions ----------------------------------------------------------------------------

    def _container(self, container: Container) -> None:
        held, place = container.held, container.place
        name = self._object(held) if place is None else self._at(place)
        self._require(f"len({name}) == {len(held)}")

    def _value(self, place: Place, value: Any) -> None:
        if value is MISSING:
            if isinstance(place.holder, dict):
                self._require(f"{place.key!r} not in {self._object(place.holder)}")
            return
        if value is None or value is True or value is False:
            self._require(f"{self._once(place)} is {value}")
        elif is_scalar(value):
            known = self._object(value)
            self._require(f"((v := {self._once(place)}) is {known} or same(v, {known}))")
        elif type(value) in (list, dict) or isinstance(value, tuple):
            name = self._at(place)
            self._require(f"{name}.__class__ is {self._object(type(value))}")
            if isinstance(value, tuple):
                self._require(f"len({name}) == {len(value)}")
        elif isinstance(value, np.ndarray) and value.nbytes <= _SMALL:
            self._require(f"same_array({self._once(place)}, {self._object(value.copy())})")
        else:
            self._require(f"{self._once(place)} is {self._object(value)}")

    def _leaf(self, leaf: Leaf, is_used: bool) -> None:
        """Of a Tensor that requires grad it must be that Tensor; of others another will do."""
        if leaf.argument is not None:  # what arguments are is in the key
            name = self._new_name(f"tensors[{leaf.argument}]")
        else:
            assert leaf.place is not None
            name = self._at(leaf.place)
            if leaf.requires_grad and leaf.tensor.op is None:
                self._require(f"{name} is {self._object(leaf.tensor)}")
                self._require(f"{name}._hooks is {self._object(leaf.tensor._hooks)}")
            else:
                self._require(f"{name}.__class__ is {self._object(type(leaf.tensor))}")
            self._require(f"{name}.requires_grad is {leaf.requires_grad}")
        self._leaves[id(leaf)] = name
        if is_used:
            self._add(f"d{name} = {name}.cached_data")
            self._add(f"if d{name} is None: d{name} = {name}.realize_cached_data()")
            self._require(f"d{name}._layout is {self._object(leaf.layout)}")

    def _ties(self, trace: Trace, gradients: set[int]) -> None:
        """Places that held one Tensor still do; and what was no argument is none."""
        for place, leaf in trace.ties:
            name = self._leaves.get(id(leaf))
            if name is not None and id(place) not in gradients:
                self._require(f"{place.spelling(self._spelled)} is {name}")
        for leaf in trace.leaves.values():
            name = self._leaves.get(id(leaf))
            if leaf.argument is not None or name is None or not leaf.requires_grad:
                continue
            self.names.setdefault("captured", set()).add(id(leaf.tensor))
        if trace.tensors and "captured" in self.names:
            for number, tensor in enumerate(trace.tensors):
                if tensor.requires_grad:
                    self._require(f"id(tensors[{number}]) not in captured")
        updated = [leaf for leaf in trace.leaves.values() if leaf.updated is not None]
        loose = [leaf for leaf in updated if id(leaf) in self._leaves and not leaf.requires_grad]
        if len(loose) > 1:  # Tensors that were two may have become one
            ids = ", ".join(f"id({self._leaves[id(leaf)]})" for leaf in loose)
            self._require(f"len({{{ids}}}) == {len(loose)}")

    def _numbers(self, trace: Trace) -> None:
        given = []
        for place, number in trace.counted:
            name = self._at(place)
            self._require(f"{name}.__class__ is {type(number.value).__name__}")
            given.append(f"{name}, ")
        for place, first in trace.equal:
            self._require(f"{self._at(place)} == {self._at(first)}")
        self._add(f"n = ({''.join(given)})")
        if trace.numbers.answers:
            self.names["asks"] = trace.numbers.asks()
            self._require("asks(n)")


def _same(a: Any, b: Any) -> bool:
    return type(a) is type(b) and is_scalar(a) and (a == b and _sign(a) == _sign(b))


def _sign(x: Any) -> str:
    """What tells 0.0 from -0.0."""
    return str(x) if type(x) is float and x == 0 else ""


def _same_array(a: Any, b: Any) -> bool:
    if type(a) is not type(b) or a.dtype != b.dtype or a.shape != b.shape:
        return False
    return bool(a.tobytes() == b.tobytes())  # bit by bit: NaN is NaN

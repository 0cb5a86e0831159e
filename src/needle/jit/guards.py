"""Guards: whether everything is as it was when a function was traced, as one Python function.

What has to be looked at is known when the function has been traced: some hundred attributes and
items. So their expressions are written down as source, and compiled: a look costs some 40 ns.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from needle.jit.places import MISSING, ArgumentPlace, Place
from needle.jit.reach import Container
from needle.jit.tracing import Leaf, Trace, is_scalar

__all__ = ["Fits", "make_guard"]

# of the Tensors given: arrays, numbers, and Tensors; None if something is not as it was
Fits = Callable[[Sequence[Any]], "tuple[tuple[Any, ...], tuple[Any, ...], tuple[Any, ...]] | None"]
_SMALL = 1024  # bytes of an array of NumPy whose elements are compared


def make_guard(trace: Trace, used: Sequence[Leaf], fetched: Sequence[Leaf]) -> Fits:
    """The function that looks whether `trace` still holds.

    It fetches what `used` leaves hold, the numbers, and the Tensors of `fetched` leaves.
    """
    return _Source(trace, used, fetched).function()


class _Source:
    """Source, line by line, and what its names stand for."""

    def __init__(self, trace: Trace, used: Sequence[Leaf], fetched: Sequence[Leaf]) -> None:
        self.lines: list[str] = []
        self.names: dict[str, Any] = {"same": _same, "MISSING": MISSING, "same_array": _same_array}
        self._objects: dict[int, str] = {}
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
        for leaf in trace.leaves.values():
            if leaf in used or leaf in fetched or id(leaf.place) not in gradients:
                self._leaf(leaf, leaf in used)
        self._ties(trace, gradients)
        for place, gradient in trace.gradients_read:
            not_one = " is None" if gradient is None else " is not None"
            self._require(f"{self._gradient(place)}{not_one}")
        self._numbers(trace)
        arrays = "".join(f"d{self._leaves[id(leaf)]}, " for leaf in used)
        tensors = "".join(f"t{self._leaves[id(leaf)]}, " for leaf in fetched)
        self.lines.append(f"return ({arrays}), n, ({tensors})")

    def function(self) -> Fits:
        body = "\n".join(f"        {line}" for line in self.lines)
        source = (
            f"def fits(tensors):\n    try:\n{body}\n"
            "    except (KeyError, IndexError, AttributeError, TypeError, ValueError):\n"
            "        return None\n"
        )
        exec(compile(source, "<guard>", "exec"), self.names)
        fits: Fits = self.names.pop("fits")
        return fits

    # -- spelling ------------------------------------------------------------------------------

    def _require(self, condition: str) -> None:
        self.lines.append(f"if not ({condition}): return None")

    def _object(self, x: Any) -> str:
        name = self._objects.get(id(x))
        if name is None:
            name = self._objects[id(x)] = f"k{len(self._objects)}"
            self.names[name] = x
        return name

    def _spelled(self, x: Any) -> str:
        return self._at(x) if isinstance(x, Place) else self._object(x)

    def _at(self, place: Place) -> str:
        """A local name for what is at a place."""
        name = self._places.get(id(place))
        if name is None:
            self._count += 1
            name = f"v{self._count}"
            self.lines.append(f"{name} = {place.spelling(self._spelled)}")
            self._places[id(place)] = name
        return name

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
        name = self._at(place)
        if value is None or value is True or value is False:
            self._require(f"{name} is {value}")
        elif is_scalar(value):
            known = self._object(value)
            self._require(f"{name} is {known} or same({name}, {known})")
        elif type(value) in (list, dict) or isinstance(value, tuple):
            size = f" and len({name}) == {len(value)}" if isinstance(value, tuple) else ""
            self._require(f"{name}.__class__ is {self._object(type(value))}{size}")
        elif isinstance(value, np.ndarray) and value.nbytes <= _SMALL:
            self._require(f"same_array({name}, {self._object(value.copy())})")
        else:
            self._require(f"{name} is {self._object(value)}")

    def _leaf(self, leaf: Leaf, is_used: bool) -> None:
        """Of a Tensor that requires grad it must be that Tensor; of others another will do."""
        if leaf.argument is not None:
            self._count += 1
            name = self._leaves[id(leaf)] = str(self._count)
            self.lines.append(f"t{name} = tensors[{leaf.argument}]")
        else:
            assert leaf.place is not None
            found = self._at(leaf.place)
            name = self._leaves[id(leaf)] = found[1:]
            self.lines.append(f"t{name} = {found}")
            if leaf.requires_grad and leaf.tensor.op is None:
                self._require(f"t{name} is {self._object(leaf.tensor)}")
                hooks = leaf.tensor._hooks
                self._require(f"t{name}._hooks is {self._object(hooks)}")
            else:
                self._require(f"t{name}.__class__ is {self._object(type(leaf.tensor))}")
        if leaf.argument is None:  # what arguments are is in the key
            self._require(f"t{name}.requires_grad is {leaf.requires_grad}")
        if is_used:
            self.lines.append(f"d{name} = t{name}.cached_data")
            self.lines.append(f"if d{name} is None: d{name} = t{name}.realize_cached_data()")
            self._require(f"d{name}._layout is {self._object(leaf.layout)}")

    def _ties(self, trace: Trace, gradients: set[int]) -> None:
        """Places that held one Tensor still do; and what was no argument is none."""
        for place, leaf in trace.ties:
            name = self._leaves.get(id(leaf))
            if name is not None and id(place) not in gradients:
                self._require(f"{place.spelling(self._spelled)} is t{name}")
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
            ids = ", ".join(f"id(t{self._leaves[id(leaf)]})" for leaf in loose)
            self._require(f"len({{{ids}}}) == {len(loose)}")

    def _numbers(self, trace: Trace) -> None:
        given = []
        for place, number in trace.counted:
            name = self._at(place)
            self._require(f"{name}.__class__ is {type(number.value).__name__}")
            given.append(f"{name}, ")
        for place, first in trace.equal:
            self._require(f"{self._at(place)} == {self._at(first)}")
        self.lines.append(f"n = ({''.join(given)})")
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

"""What surrounds a run of a program, as one Python function: memory before it, state after it.

As with guards, all of it is known when the function has been traced, and written down as source:
a small step has some hundred outputs, for each of which a loop would ask what kind it is.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any

from needle import autograd
from needle.autograd import Tensor
from needle.backend_ndarray.layout import Layout
from needle.backend_ndarray.ndarray import NDArray, new_array
from needle.jit.gradient import Spent
from needle.jit.leaf import Leaf
from needle.jit.outcome import Output
from needle.jit.places import MISSING, ArgumentPlace, CellPlace, Place, SlotPlace
from needle.jit.source import Source, written
from needle.jit.tracing import Trace
from needle.jit.trees import Hole, unflatten
from needle.runtime.call import runtime_function

__all__ = ["Around", "make_around"]

# of arrays, fetched Tensors, arguments' Tensors, numbers, and what executes the program: the
# returned arrays and what was drawn; None where the program has found a value at fault
Around = Callable[..., "tuple[tuple[Any, ...], Any] | None"]


def make_around(
    trace: Trace,
    used: Sequence[Leaf],
    layouts: Sequence[Layout],
    reused: Sequence[tuple[int, int | None, int | None]],
    numbers_from: int,
) -> Around:
    """The function that runs the program of `trace` and changes what the traced function changed.

    used          leaves whose arrays it reads
    layouts       of the outputs: what is returned, what is stored, new data of leaves
    reused        outputs that may go where a leaf lies: their number, the leaf's, and of what is
                  stored the number of the Tensor in its place among those fetched; no leaf: where
                  that lies which is in its place now, whatever it is
    numbers_from  where among the numbers those begin that places get
    """
    return _Around(trace, used, layouts, reused, numbers_from).function()


class _Around(Source):
    def __init__(
        self, trace: Trace, used: Any, layouts: Any, reused: Any, numbers_from: int
    ) -> None:
        super().__init__()
        self.names |= {
            "new": runtime_function("new"), "own": runtime_function("own"), "array": new_array,
            "NDArray": NDArray, "count": sys.getrefcount, "make": Tensor.__new__, "Tensor": Tensor,
            "spent": Spent.op, "package": autograd, "unflatten": unflatten,
        }  # fmt: skip
        self._layouts = layouts
        self._reused = {number: (given, at) for number, given, at in reused if given is not None}
        self._replaced = {number for number, given, _ in reused if given is None}
        updated = sum(leaf.updated is not None for leaf in trace.leaves.values())
        self._fetched = 1 + max([updated - 1, *[at for _, _, at in reused if at is not None]])
        self._begin(trace, used)
        did = trace.outcome
        position = len(did.returned)
        for place, tree, outputs in did.stored:
            self._store(place, tree, outputs, position)
            position += len(outputs)
        for number in range(updated):
            self._update(number, position + number)
        for place, value in did.set:
            self._assign(place, self._object(value), value is MISSING)
        for number, (place, _) in enumerate(did.counts):
            self._assign(place, f"numbers[{numbers_from + number}]")
        returned = "".join(f"{self._array(i)}, " for i in range(len(did.returned)))
        self.lines.append(f"return ({returned}), drawn")

    def function(self) -> Around:
        parameters = "arrays, fetched, tensors, numbers, execute"
        around: Around = written("around", parameters, self.lines, self.names)
        return around

    # -- before --------------------------------------------------------------------------------

    def _begin(self, trace: Trace, used: Sequence[Leaf]) -> None:
        """Addresses of the inputs, and memory for each output: of its own, or of what it replaces.

        That is memory that nobody else holds, nor the array on it, nor, unless it is that Tensor's
        data that is replaced, the Tensor.
        """
        if used:
            self.lines.append("".join(f"a{i}, " for i in range(len(used))) + "= arrays")
        if self._fetched:
            names = "".join(f"f{i}, " for i in range(self._fetched))
            self.lines.append(f"{names}= fetched[:{self._fetched}]")  # a star has a limit of 255
        places = _places(trace)
        for number, layout in enumerate(self._layouts):
            if number in self._replaced:
                self._memory_at(places[number], number, layout)
            else:
                self._memory(number, layout)
        if self._replaced:
            self.lines.append("t = d = None")
        inputs = "".join(f"a{i}._memory, {_offset(i, leaf)}, " for i, leaf in enumerate(used))
        outputs = "".join(f"m{i}, 0, " for i in range(len(self._layouts)))
        self.lines.append(f"done, drawn = execute([{inputs}], [{outputs}])")
        self.lines.append("if not done: return None")

    def _memory(self, number: int, layout: Layout) -> None:
        found, nbytes = self._reused.get(number), self._object(layout.nbytes)
        new = f"m{number} = new({nbytes})"
        if found is None:
            self.lines.append(new)
            return
        given, at = found
        self.lines.append(f"m{number} = a{given}._memory")
        held = f"count(a{given}) > {_OF_ARRAY} or {_is_held(number, nbytes)}"
        if at is not None:
            held += f" or count(f{at}) > {_OF_TENSOR}"
        self.lines.append(f"n{number} = {held} or a{given}._offset")
        self.lines.append(f"if n{number}: {new}")

    def _memory_at(self, place: Place, number: int, layout: Layout) -> None:
        """Of the Tensor that is at a place, whose contents are of no use any more."""
        nbytes = self._object(layout.nbytes)
        self.lines += [
            f"t = {self._now(place)}",
            "d = t.cached_data if t.__class__ is Tensor else None",
            f"n{number} = d.__class__ is not NDArray or d._layout is not {self._object(layout)}",
            f"if not n{number}:",
            f"    m{number} = d._memory",
            f"    n{number} = count(t) > {_OF_TENSOR_THERE} or count(d) > {_OF_ARRAY_THERE}",
            f"    n{number} = n{number} or d._offset or {_is_held(number, nbytes)}",
            f"if n{number}: m{number} = new({nbytes})",
        ]

    def _now(self, place: Place) -> str:
        """What is at a place, where there may be nothing."""
        if type(place) is Place and isinstance(place.holder, dict):
            return f"{self._object(place.holder)}.get({self._object(place.key)})"
        if type(place) is ArgumentPlace:
            return self._spelled(place)
        return f"{self._object(place)}.get()"

    # -- after ---------------------------------------------------------------------------------

    def _store(self, place: Place, tree: Any, outputs: Sequence[Output], position: int) -> None:
        is_one = type(tree) is Hole
        indent = ""
        if is_one and position in self._reused:
            self.lines.append(f"if n{position}:")
            indent = "    "
        names = []
        for number, output in enumerate(outputs, start=position):
            name = f"t{number}"
            names.append(name)
            kind = self._object(type(output.value)) if output.is_leaf else "Tensor"
            made = f"{name} = make({kind}); {name}.cached_data = {self._array(number)}"
            if output.requires_grad:
                made += f"; {name}.requires_grad = True"
                made += "" if output.is_leaf else f"; {name}.op = spent"
            self.lines.append(f"{indent}{made}; package.TENSOR_COUNTER += 1")
        value = names[0] if is_one else f"unflatten({self._object(tree)}, ({', '.join(names)},))"
        self._assign(place, value, indent=indent)

    def _update(self, number: int, position: int) -> None:
        condition = f"if n{position}: " if position in self._reused else ""
        made = f"f{number}.cached_data = {self._array(position)}; f{number}._leaf = None"
        self.lines.append(condition + made)

    def _assign(self, place: Place, value: str, is_special: bool = False, indent: str = "") -> None:
        if type(place) in (Place, CellPlace, SlotPlace, ArgumentPlace) and not is_special:
            self.lines.append(f"{indent}{self._spelled(place)} = {value}")
        else:
            self.lines.append(f"{indent}{self._object(place)}.set({value})")

    def _array(self, number: int) -> str:
        return f"array({self._object(self._layouts[number])}, m{number})"

    def _spelled(self, x: Any) -> str:
        return x.spelling(self._spelled) if isinstance(x, Place) else self._object(x)


def _is_held(number: int, nbytes: str) -> str:
    """Whether memory is somebody else's too, or was not made for that."""
    return f"count(m{number}) > {_OF_MEMORY} or not own(m{number}, {nbytes})"


def _places(trace: Trace) -> dict[int, Place]:
    """Where what is stored goes, by the number of the output that goes there alone."""
    places, number = {}, len(trace.outcome.returned)
    for place, _, outputs in trace.outcome.stored:
        places[number] = place
        number += len(outputs)
    return places


def _offset(number: int, leaf: Leaf) -> str:
    """In bytes, from where the record's memory begins."""
    itemsize = leaf.layout.itemsize
    if leaf.begin:
        return f"(a{number}._offset - {leaf.begin}) * {itemsize}"
    return f"a{number}._offset * {itemsize}"


class _Holder:
    """What `_references` and `_references_there` count with."""

    _memory: Any


def _references() -> tuple[int, int, int]:
    """What `sys.getrefcount` gives in the function for what nobody else holds."""
    given = _Holder()
    given._memory = _Holder()
    given._memory._memory = object()
    arrays, fetched = (given._memory,), (given,)
    place = {"there": given}
    del given
    (a,), (f,) = arrays, fetched
    m, count = a._memory, sys.getrefcount
    found = count(a), count(m), count(f)
    place.clear()
    return found


def _references_there() -> tuple[int, int]:
    """The same of a Tensor that is looked up at its place, and of its array."""
    place = {"there": _Holder()}
    place["there"]._memory = _Holder()
    t, count = place["there"], sys.getrefcount
    d = t._memory
    return count(t), count(d)


_OF_ARRAY, _OF_MEMORY, _OF_TENSOR = _references()
_OF_TENSOR_THERE, _OF_ARRAY_THERE = _references_there()

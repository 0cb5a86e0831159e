"""What ops do, written down: their `compute` runs on arrays without data."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np

from needle.autograd.value import Edge, Value, _compute
from needle.backend_ndarray.devices import cpu, making_traced
from needle.backend_ndarray.ndarray import NDArray
from needle.backend_ndarray.ndarray_backend_trace import Node, Operand, recorded, traced
from needle.origins import Origin, current
from needle.runtime.call import runtime_function

__all__ = ["Record", "Source"]

Source: TypeAlias = "tuple[Any, int]"  # memory, and how many bytes in it an input begins
Arrays: TypeAlias = "NDArray | tuple[NDArray, ...]"


class Record:
    """A record of ops.

    checks  what has to be true of values, as views of bools
    """

    def __init__(self) -> None:
        self.checks: list[Operand] = []
        self._made: dict[int, Arrays] = {}  # traced, of each value taken, by its identity
        self._lifted: dict[int, NDArray] = {}  # traced, of each array that was there
        self._sources: dict[Node, Source] = {}
        self._keep: list[NDArray] = []

    def take(self, value: Value) -> bool:
        """Write down how `value` is computed; False for what has to be computed by itself.

        That is what looks at elements, or is not on the device `cpu()`. So is what fails: there
        it raises the error that eager mode raises.
        """
        inputs = [self._read(edge) for edge in value._edges]
        if not all(_is_native(array) for x in inputs for array in _row(x)):
            return False
        known = len(self.checks)
        current.origin = value._origin if isinstance(value._origin, Origin) else None
        try:
            with making_traced(self):
                made = _compute(type(value), value.op, inputs)  # type: ignore[arg-type]
        except Exception:  # whatever it is, running the op on real arrays tells what it is
            made = None
        finally:
            current.origin = None
        if made is None or not all(map(_is_native, _row(made))):
            del self.checks[known:]
            return False
        self._made[id(value)] = made
        return True

    def operands(self, value: Value) -> list[Operand]:
        """What was made of a value: of a tuple, its items."""
        return [recorded(array) for array in _row(self._made[id(value)])]

    def source(self, node: Node) -> Source:
        """Where the data of an input lies, or of a constant."""
        found = self._sources.get(node)
        if found is None:
            found = self._sources[node] = _memory_of_constant(node.parameters)
        return found

    # -- what `compute` tells its listener ----------------------------------------------------

    def check(self, holds: NDArray) -> None:
        """Something that must be true of values."""
        self.checks.append(recorded(holds))

    def from_outside(self, values: Any) -> None:
        """Values that an op has of its own: a constant, which is read afresh at each run."""

    # -- inputs -------------------------------------------------------------------------------

    def _read(self, edge: Edge) -> Any:
        data = edge.cached_data
        if data is None:
            return self._made[id(edge)]
        if type(data) is tuple:
            return tuple([self._lift(item) for item in data])
        return self._lift(data)

    def _lift(self, array: NDArray) -> NDArray:
        found = self._lifted.get(id(array))
        if found is None:
            found = self._lifted[id(array)] = traced(array)
            begin = (array._offset - found._offset) * array._layout.itemsize
            self._sources[recorded(found).node] = (array._memory, begin)
            self._keep.append(array)
        return found


def _row(made: Any) -> Sequence[NDArray]:
    return made if type(made) is tuple else (made,)


def _is_native(array: NDArray) -> bool:
    return array.device.real is cpu()


def _memory_of_constant(given: dict[str, Any]) -> Source:
    if "memory" in given:
        return given["memory"], 0
    values = np.ascontiguousarray(given["values"])
    address = values.__array_interface__["data"][0]
    return runtime_function("foreign")(address, values, values.nbytes), 0

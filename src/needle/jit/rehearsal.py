"""Runs of a compiled function that change nothing, so that they can be timed."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any

import numpy as np

from needle.backend_ndarray.ndarray import NDArray, new_array
from needle.jit.leaf import Leaf
from needle.jit.variant import Variant
from needle.jit.watch import JitError
from needle.runtime.call import runtime_function

__all__ = ["Rehearsal"]


class Rehearsal:
    """A variant's program on its state as it is, and on the arguments that it was compiled for.

    What is updated in place is updated in a copy. Random numbers are a stream of their own.

    tensors  the arguments of a call; None for those that nobody holds any more
    """

    def __init__(self, variant: Variant, tensors: Sequence[Any] = ()) -> None:
        self._new, self._address = runtime_function("new"), runtime_function("address")
        self._executable = variant.executable
        self._arrays = [_now(leaf, tensors) for leaf in variant.leaves]
        self._drawn = [
            np.asarray(getattr(np.random.RandomState(0), draw.name)(*draw.shape))
            for draw in variant.draws
        ]
        memories: list[Any] = [array._memory for array in self._arrays]
        begins = [
            (array._offset - leaf.begin) * array._layout.itemsize
            for leaf, array in zip(variant.leaves, self._arrays, strict=True)
        ]
        results: list[Any] = []
        for number, layout in enumerate(variant.layouts):
            source = variant.sources[number]
            if variant.in_place[number] and source is not None and not begins[source]:
                memories[source] = self._copied(self._arrays[source])
                results.append(memories[source])
            else:
                results.append(self._new(layout.nbytes))
        drawn = [_foreign(values) for values in self._drawn]
        self._arguments = _pairs([*memories, *drawn], [*begins, *[0] * len(drawn)])
        self._results = _pairs(results, [0] * len(results))

    def run(self) -> Any:
        """Begin, end (ns) and thread of each task of a run.

        Raises JitError where the arguments are not fit for it any more.
        """
        done, table = self._executable.run_timed(self._arguments, self._results)
        if not done:
            raise JitError(
                "explain: expected arguments that the function takes, got some that it found at "
                "fault. Call it once more with others."
            )
        return table

    def _copied(self, array: NDArray) -> Any:
        """New memory with the same contents."""
        nbytes = array._layout.nbytes
        memory = self._new(nbytes)
        ctypes.memmove(self._address(memory), self._address(array._memory), nbytes)
        return memory


def _now(leaf: Leaf, tensors: Sequence[Any]) -> NDArray:
    """What a leaf holds now; zeros that lie alike, if it is gone."""
    tensor = leaf.now(tensors)
    data = None if tensor is None else tensor.cached_data
    if isinstance(data, NDArray) and data._layout is leaf.layout:
        return data
    nbytes = leaf.node.layout.nbytes
    memory = runtime_function("new")(nbytes)
    ctypes.memset(runtime_function("address")(memory), 0, nbytes)
    zeros = new_array(leaf.layout, memory)
    zeros._offset = leaf.begin
    return zeros


def _pairs(memories: list[Any], begins: list[int]) -> list[Any]:
    return [item for pair in zip(memories, begins, strict=True) for item in pair]


def _foreign(values: np.ndarray[Any, Any]) -> Any:
    address = values.__array_interface__["data"][0]
    return runtime_function("foreign")(address, values, values.nbytes)

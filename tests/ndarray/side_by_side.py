"""An NDArray and the NumPy array it is held to, led through the same views."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from strategies import SEEDS, shapes

import needle.backend_ndarray as nd

Shape = tuple[int, ...]

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
FLOATS = [BFLOAT16, *map(np.dtype, ("float16", "float32", "float64"))]
INTEGERS = [np.dtype(f"{kind}{bits}") for kind in ("int", "uint") for bits in (8, 16, 32, 64)]
DTYPES = [*FLOATS, *INTEGERS, np.dtype(bool)]
DEVICES = [nd.cpu(), nd.cpu_numpy()]

each_device = pytest.mark.parametrize("device", DEVICES, ids=str)
each_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: dtype.name)


def whole_numbers(shape: Shape, dtype: Any, seed: int = 0) -> np.ndarray:
    """Small whole numbers, of which sums and products are exact in every dtype."""
    dtype = np.dtype(dtype)
    low = 0 if dtype.kind in "ub" else -3
    return np.asarray(np.random.RandomState(seed).randint(low, 4, shape)).astype(dtype)


def address(x: nd.NDArray) -> int:
    """Of the first element."""
    return x._handle.ptr() + x._offset * x.dtype.itemsize


def numpy_address(array: np.ndarray) -> int:
    return array.__array_interface__["data"][0]


@dataclass(frozen=True)
class Pair:
    """`x` and `array` are the same view, each of memory of its own, from these addresses on."""

    x: nd.NDArray
    array: np.ndarray
    memory: int
    numpy_memory: int

    @staticmethod
    def of(array: np.ndarray, device: nd.Device) -> Pair:
        array = np.array(array, order="C")
        x = nd.array(array, array.dtype, device)
        return Pair(x, array, address(x), numpy_address(array))

    def seen(self, view: Callable[[Any], Any], numpy_view: Callable[[Any], Any]) -> Pair:
        """Both through a view."""
        return Pair(view(self.x), numpy_view(self.array), self.memory, self.numpy_memory)

    def check(self) -> None:
        """The same values, dtype, shape, strides and place in the memory."""
        require_equal(self.x, self.array)
        if not self.array.size:
            return
        assert address(self.x) - self.memory == numpy_address(self.array) - self.numpy_memory
        steps = [
            (mine * self.array.itemsize, theirs)
            for n, mine, theirs in zip(
                self.x.shape, self.x.strides, self.array.strides, strict=True
            )
            if n > 1
        ]
        assert all(mine == theirs for mine, theirs in steps), steps


def require_equal(x: nd.NDArray, expected: np.ndarray, exact: bool = True) -> None:
    """The same dtype, shape and values, bits even; else within a few roundings."""
    assert isinstance(x, nd.NDArray)
    assert (x.dtype, x.shape) == (expected.dtype, expected.shape)
    if exact or expected.dtype not in FLOATS:
        np.testing.assert_array_equal(x.numpy(), expected)
        return
    wide = expected.astype(np.float64)
    eps = float(ml_dtypes.finfo(expected.dtype).eps)
    np.testing.assert_allclose(x.numpy().astype(np.float64), wide, rtol=4 * eps, atol=4 * eps)


def repeats(pair: Pair) -> bool:
    """Whether it is not to be written: an axis shows the same element again and again, or it is a
    view of an array of which one did."""
    steps = zip(pair.array.shape, pair.array.strides, strict=True)
    again = bool(pair.array.size) and any(n > 1 and not step for n, step in steps)
    return again or not np.asarray(pair.x).flags.writeable


@st.composite
def pairs(draw: Any, dtypes: Any = DTYPES, steps: int = 4, **limits: int) -> Pair:
    """A chain of views of a random array, on a random device; each step is held to NumPy's."""
    dtype, device = draw(st.sampled_from(dtypes)), draw(st.sampled_from(DEVICES))
    shape = draw(shapes(**limits))
    pair = Pair.of(whole_numbers(shape, dtype, draw(SEEDS)), device)
    for _ in range(draw(st.integers(0, steps))):
        pair = draw(st.sampled_from(_STEPS))(draw, pair)
        pair.check()
    return pair


def ints_kept(key: Any) -> tuple[Any, ...]:
    """The key with which NumPy keeps the axes of ints, as NDArrays do, and always gives a view."""
    parts = key if isinstance(key, tuple) else (key,)
    kept = [slice(p, p + 1 or None) if isinstance(p, int) else p for p in parts]
    return tuple(kept if any(p is ... for p in kept) else [*kept, ...])


def _index(draw: Any, pair: Pair) -> Pair:
    key = draw(hnp.basic_indices(pair.array.shape, allow_newaxis=True, max_dims=5))
    return pair.seen(lambda x: x[key], lambda a: a[ints_kept(key)])


def _permute(draw: Any, pair: Pair) -> Pair:
    axes = tuple(draw(st.permutations(range(pair.array.ndim))))
    return pair.seen(lambda x: x.permute(axes), lambda a: a.transpose(axes))


def _reverse(draw: Any, pair: Pair) -> Pair:
    steps = [draw(st.sampled_from([1, -1, -2])) for _ in pair.array.shape]
    key = tuple([slice(None, None, step) for step in steps])
    return pair.seen(lambda x: x[key], lambda a: a[(*key, ...)])


def _repeat(draw: Any, pair: Pair) -> Pair:
    target = [draw(st.integers(1, 3)) if n == 1 else n for n in pair.array.shape]
    shape = (*draw(st.sampled_from([(), (2,), (1,)])), *target)
    if len(shape) > 6:
        return pair
    strides = np.broadcast_to(pair.array, shape).strides  # of which NumPy lets nobody write
    return pair.seen(
        lambda x: x.broadcast_to(shape),
        lambda a: np.lib.stride_tricks.as_strided(a, shape, strides),
    )


def _reshape(draw: Any, pair: Pair) -> Pair:
    shape = draw(shapes_of_size(pair.array.size))
    try:
        view = np.reshape(pair.array, shape, copy=False)
    except ValueError:  # neither has a view of that shape
        copied = pair.x.reshape(shape)
        assert address(copied) != address(pair.x) or not pair.array.size
        array = pair.array.reshape(shape)
        return Pair(copied, array, address(copied), numpy_address(array))
    return pair.seen(lambda x: x.reshape(shape), lambda a: view)


@st.composite
def shapes_of_size(draw: Any, size: int) -> Shape:
    """Shapes with that many elements; one extent may be left for the array to find."""
    if not size:
        return draw(st.sampled_from([(0,), (0, 3), (2, 0)]))
    shape, rest = [], size
    for _ in range(draw(st.integers(0, 3))):
        shape.append(draw(st.sampled_from([n for n in range(1, rest + 1) if rest % n == 0])))
        rest //= shape[-1]
    shape.append(rest if draw(st.booleans()) else -1)
    assert math.prod(shape) in (size, -size // rest)
    return tuple(shape)


def _new_axis(draw: Any, pair: Pair) -> Pair:
    axis = draw(st.integers(-pair.array.ndim - 1, pair.array.ndim))
    if pair.array.ndim > 4:
        return pair
    return pair.seen(lambda x: x.expand_dims(axis), lambda a: np.expand_dims(a, axis))


def _squeeze(draw: Any, pair: Pair) -> Pair:
    return pair.seen(lambda x: x.squeeze(), np.squeeze)


def _windows(draw: Any, pair: Pair) -> Pair:
    """Windows of neighbours on the last axis, which overlap."""
    array = pair.array
    if array.ndim in (0, 5) or not array.size:
        return pair
    width = draw(st.integers(1, array.shape[-1]))
    shape = (*array.shape[:-1], array.shape[-1] - width + 1, width)
    strides, in_bytes = [(*each.strides, each.strides[-1]) for each in (pair.x, array)]
    return pair.seen(
        lambda x: x.as_strided(shape, strides),
        lambda a: np.lib.stride_tricks.as_strided(a, shape, in_bytes),
    )


_STEPS = [_index, _index, _permute, _reverse, _repeat, _reshape, _new_axis, _squeeze, _windows]

"""Pooling: the largest element, or the mean, of each window of a picture.

Pictures are x (N, *spatial, C), channels last as for `conv`, with any number of spatial axes. Along
one of them window o has the k places s·o - p + d·i, of which those outside x count as less than
everything for the maximum and as 0 for the mean; s, p, d are stride, padding and dilation.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from itertools import product
from typing import Any, NamedTuple

import numpy as np

from needle.autograd.tensor import Tensor, TensorOp
from needle.backend_selection import Array, array_api, primitives
from needle.dtypes import is_floating, is_integer
from needle.errors import OptionError, ShapeError, describe
from needle.ops.indexing import ScatterAlong, take, take_along
from needle.ops.linalg import einsum
from needle.ops.reductions import argmax
from needle.ops.spatial import whole_numbers

__all__ = [
    "ArgMaxPool",
    "AvgPool",
    "AvgUnpool",
    "MaxPool",
    "adaptive_avg_pool",
    "adaptive_max_pool",
    "avg_pool",
    "max_pool",
]


class _Axis(NamedTuple):
    """The windows along one spatial axis of n places."""

    n: int
    kernel: int
    stride: int
    padding: int
    dilation: int
    out: int

    @property
    def behind(self) -> int:
        """How far the last window reaches beyond x."""
        end = (self.out - 1) * self.stride - self.padding + self.dilation * (self.kernel - 1) + 1
        return max(end - self.n, 0)

    @property
    def starts(self) -> np.ndarray[Any, Any]:
        return np.arange(self.out) * self.stride - self.padding


class _Pooling(TensorOp):
    """The options: a number for all spatial axes, or one each. Without a stride, the kernel's."""

    expects = "x [N, *spatial, C]"

    def __init__(
        self,
        kernel: Any,
        stride: Any = None,
        padding: Any = 0,
        dilation: Any = 1,
        ceil_mode: bool = False,
    ) -> None:
        self.kernel, self.stride = kernel, kernel if stride is None else stride
        self.padding, self.dilation, self.ceil_mode = padding, dilation, ceil_mode

    def _axes(self, shape: Sequence[int]) -> list[_Axis]:
        """The windows along each spatial axis of a picture of this shape."""
        spatial = shape[1:-1]
        options = [
            whole_numbers(self.name, option, getattr(self, option), len(spatial), least)
            for option, least in [("kernel", 1), ("stride", 1), ("padding", 0), ("dilation", 1)]
        ]
        return [self._axis(*numbers) for numbers in zip(spatial, *options, strict=True)]

    def _axis(self, n: int, kernel: int, stride: int, padding: int, dilation: int) -> _Axis:
        span = dilation * (kernel - 1) + 1
        if 2 * padding > span:
            raise OptionError(
                f"{self.name}: expected padding of at most half the kernel, got padding {padding} "
                f"for a kernel that spans {span}."
            )
        room = n + 2 * padding - span
        if n < 1 or room < 0:
            raise ShapeError(
                f"{self.name}: expected a kernel that fits into the padded picture, got one that "
                f"spans {span} for {n} padded by {padding}."
            )
        out = room // stride + 1
        # rounded up, there is one window more where it begins in x or in the padding before it
        if self.ceil_mode and room % stride and out * stride < n + padding:
            out += 1
        return _Axis(n, kernel, stride, padding, dilation, out)

    def _windows(self, x: Array, outside: float) -> Array:
        """A view (N, *out, C, *kernel) of x with a border."""
        _require_pictures(self.name, x)
        axes = self._axes(x.shape)
        if any(axis.padding or axis.behind for axis in axes):
            widths = [(axis.padding, axis.behind) for axis in axes]
            x = array_api.pad(x, [(0, 0), *widths, (0, 0)], constant_values=outside)
        return primitives.windows(
            x,
            range(1, x.ndim - 1),
            [axis.kernel for axis in axes],
            [axis.stride for axis in axes],
            [axis.dilation for axis in axes],
        )


def _require_pictures(name: str, x: Any) -> None:
    if x.ndim < 3:
        raise ShapeError(f"{name}: expected x [N, *spatial, C], got {describe(x)}.")


def _flat(x: Tensor) -> Tensor:
    """(N, *spatial, C) as (N, places, C)."""
    return x.reshape((x.shape[0], math.prod(x.shape[1:-1]), x.shape[-1]))


def _constant(values: np.ndarray[Any, Any], dtype: Any, like: Tensor) -> Tensor:
    """Numbers on the device of `like`."""
    return Tensor(values, dtype=dtype, device=like.device, requires_grad=False)


# -- the maximum ---------------------------------------------------------------------------------


class MaxPool(_Pooling):
    """y[n, o, c] = max over i of x[n, s·o - p + d·i, c]; NaN if there is one.

    x: (N, *spatial, C) -> y: (N, *out, C), x's dtype, with out = (n + 2 p - d·(k - 1) - 1) / s + 1,
    rounded down, or up with ceil_mode.
    Gradient: dy to the first of the largest places of each window, row by row.
    """

    name = "max_pool"

    def compute(self, x: Array) -> Array:
        view = self._windows(x, _lowest(x.dtype))
        return array_api.max(view, axis=tuple(range(x.ndim, view.ndim)))

    def gradient(self, out_grad: Tensor, node: Tensor) -> Any:
        (x,) = node.inputs
        places = _constant(_places(tuple(self._axes(x.shape))), "int64", x)
        options = self.kernel, self.stride, self.padding, self.dilation, self.ceil_mode
        winners = ArgMaxPool(*options)(x, node, places)
        shape = x.shape[0], math.prod(x.shape[1:-1]), x.shape[-1]
        return ScatterAlong(shape, 1)(_flat(out_grad), _flat(winners)).reshape(x.shape)


class ArgMaxPool(_Pooling):
    """y = the number in the picture of the first place in each window where x is the maximum.

    x: (N, *spatial, C), its `max_pool`: (N, *out, C), places: (*kernel, *out, 1) with the numbers
    of the windows' places -> y: (N, *out, C), of the dtype of places. Not differentiable.
    """

    name = "argmax_pool"
    expects = "x [N, *spatial, C], its max_pool, and the numbers of the windows' places"
    differentiable = False

    def compute(self, x: Array, maximum: Array, places: Array) -> Array:
        view = self._windows(x, _lowest(x.dtype))
        *others, last = product(*[range(n) for n in view.shape[x.ndim :]])
        winners = array_api.broadcast_to(primitives.index(places, last), maximum.shape)
        for tap in reversed(others):  # the first of equals is the last to be written
            found = primitives.index(view, (..., *tap)) == maximum
            winners = array_api.where(found, primitives.index(places, tap), winners)
        return winners


def _lowest(dtype: Any) -> float:
    """What no element is less than."""
    if is_floating(dtype):
        return -math.inf
    return int(np.iinfo(dtype).min) if is_integer(dtype) else 0


@lru_cache(maxsize=64)
def _places(axes: tuple[_Axis, ...]) -> np.ndarray[Any, Any]:
    """The numbers in the picture of the windows' places: int64 (*kernel, *out, 1).

    Places outside have the number of one at the edge, and so count where all is -inf.
    """
    rank = len(axes)
    numbers: Any = 0
    for i, axis in enumerate(axes):
        along = axis.starts + np.arange(axis.kernel)[:, None] * axis.dilation
        shape = [1] * (2 * rank)
        shape[i], shape[rank + i] = along.shape
        numbers = numbers * axis.n + along.clip(0, axis.n - 1).reshape(shape)
    return np.asarray(numbers[..., None])


def max_pool(
    a: Tensor,
    kernel: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
) -> Tensor:
    """The largest element of each window of pictures a (N, *spatial, C).

    kernel, stride, padding, dilation  an int, or one for each spatial axis; stride: the kernel's
    ceil_mode  whether windows that reach beyond the padding count too, if they begin before it

    Returns (N, *out, C) with out = (n + 2 padding - dilation · (kernel - 1) - 1) / stride + 1.
    """
    return MaxPool(kernel, stride, padding, dilation, ceil_mode)(a)


# -- the mean ------------------------------------------------------------------------------------


class AvgPool(_Pooling):
    """y[n, o, c] = Σ x[n, s·o - p + i, c] / divisor over i.

    x: (N, *spatial, C) -> y: (N, *out, C), x's dtype (float64 for integers), with
    out = (n + 2 p - k) / s + 1, rounded down, or up with ceil_mode. divisor: default, the number of
    a window's places.
    Gradient: dy / divisor, added at each window's places.
    """

    name = "avg_pool"

    def __init__(
        self,
        kernel: Any,
        stride: Any = None,
        padding: Any = 0,
        ceil_mode: bool = False,
        divisor: float | None = None,
    ) -> None:
        super().__init__(kernel, stride, padding, 1, ceil_mode)
        self.divisor = divisor

    def _divisor(self, axes: Sequence[_Axis]) -> float:
        return math.prod(axis.kernel for axis in axes) if self.divisor is None else self.divisor

    def compute(self, x: Array) -> Array:
        return primitives.in_float32(self._mean, x)

    def _mean(self, x: Array) -> Array:
        view = self._windows(x, 0)
        total = primitives.total(view, tuple(range(x.ndim, view.ndim)))
        return total / self._divisor(self._axes(x.shape))

    def gradient(self, out_grad: Tensor, node: Tensor) -> Any:
        options = self.kernel, self.stride, self.padding, self.ceil_mode, self.divisor
        return AvgUnpool(node.inputs[0].shape, *options)(out_grad)


class AvgUnpool(AvgPool):
    """x[n, s·o - p + i, c] += y[n, o, c] / divisor, for all o and i: the adjoint of `AvgPool`.

    y: (N, *out, C) -> x of `shape`, (N, *spatial, C). Gradient: dy = avg_pool of dx.
    """

    name = "avg_unpool"
    expects = "y [N, *out, C], of pictures of the given shape"

    def __init__(self, shape: Sequence[int], *options: Any) -> None:
        super().__init__(*options)
        self.shape = tuple(shape)

    def _mean(self, y: Array) -> Array:
        axes = self._axes(self.shape)
        share = y / self._divisor(axes)
        if all(axis.n == axis.out * axis.kernel for axis in axes):  # each place in one window
            return self._repeated(share, axes)
        # one share where each window begins; a place sees the k beginnings up to its own
        firsts = [axis.kernel - 1 - axis.padding for axis in axes]
        key = [
            slice(first, first + (axis.out - 1) * axis.stride + 1, axis.stride)
            for first, axis in zip(firsts, axes, strict=True)
        ]
        extents = [axis.n + axis.kernel - 1 for axis in axes]
        spread = primitives.put((y.shape[0], *extents, y.shape[-1]), (slice(None), *key), share)
        ones, kernel = [1] * len(axes), [axis.kernel for axis in axes]
        view = primitives.windows(spread, range(1, y.ndim - 1), kernel, ones, ones)
        return primitives.total(view, tuple(range(y.ndim, view.ndim)))

    def _repeated(self, share: Array, axes: Sequence[_Axis]) -> Array:
        between = range(2, 2 * len(axes) + 1, 2)
        blocks = [extent for axis in axes for extent in (axis.out, axis.kernel)]
        whole = (self.shape[0], *blocks, self.shape[-1])
        share = array_api.expand_dims(share, tuple(between))
        return array_api.reshape(array_api.broadcast_to(share, whole), self.shape)

    def gradient(self, out_grad: Tensor, node: Tensor) -> Any:
        options = self.kernel, self.stride, self.padding, self.ceil_mode, self.divisor
        return AvgPool(*options)(out_grad)


def avg_pool(
    a: Tensor,
    kernel: Any,
    stride: Any = None,
    padding: Any = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Tensor:
    """The mean of each window of pictures a (N, *spatial, C).

    kernel, stride, padding  an int, or one for each spatial axis; stride: the kernel's
    ceil_mode          whether windows that reach beyond the padding count too, if they begin before
    count_include_pad  whether zeros of the padding count as places of a window
    divisor_override   what sums are divided by instead of the number of places

    Returns (N, *out, C) with out = (n + 2 padding - kernel) / stride + 1.
    """
    options = kernel, stride, padding, ceil_mode
    if divisor_override is not None:
        (divisor,) = whole_numbers("avg_pool", "divisor_override", divisor_override, 1, 1)
        return AvgPool(*options, divisor)(a)
    _require_pictures("avg_pool", a)
    axes = AvgPool(*options)._axes(a.shape)
    counts = [_counts(axis, count_include_pad) for axis in axes]
    if all((c == axis.kernel).all() for c, axis in zip(counts, axes, strict=True)):
        return AvgPool(*options)(a)
    sums = AvgPool(*options, 1)(a)
    areas = np.asarray(math.prod(np.ix_(*counts)))[None, ..., None]
    return sums / _constant(areas, sums.dtype, a)


def _counts(axis: _Axis, include_pad: bool) -> np.ndarray[Any, Any]:
    """The number of each window's places that are in x, or in its padding."""
    ends = np.minimum(axis.starts + axis.kernel, axis.n + axis.padding)
    if include_pad:
        return np.asarray(ends - axis.starts)
    return np.asarray(np.minimum(ends, axis.n) - np.maximum(axis.starts, 0))


# -- a given number of windows -------------------------------------------------------------------


def adaptive_avg_pool(a: Tensor, size: Any) -> Tensor:
    """The means of `size` windows along each spatial axis of pictures a (N, *spatial, C).

    Window i of m along n places is from ⌊i n / m⌋ to ⌈(i + 1) n / m⌉: they cover all places,
    overlap by one at most, and are equal where m divides n.

    size  an int, or one for each spatial axis; None: as many as there are places
    """
    sizes = _sizes("adaptive_avg_pool", a, size)
    spatial = a.shape[1:-1]
    if all(n % m == 0 for n, m in zip(spatial, sizes, strict=True)):
        return AvgPool([n // m for n, m in zip(spatial, sizes, strict=True)])(a)
    dtype = a.dtype if is_floating(a.dtype) else "float64"
    for i, (n, m) in enumerate(zip(spatial, sizes, strict=True)):
        if n != m:
            letters = "nopqrstuv"[: a.ndim - 1]
            weights = _constant(_bin_weights(n, m), dtype, a)
            subscripts = f"{letters}c,{letters[i + 1]}z->{letters.replace(letters[i + 1], 'z')}c"
            a = einsum(subscripts, a, weights)
    return a


def adaptive_max_pool(a: Tensor, size: Any) -> Tensor:
    """The largest elements of `size` windows along each spatial axis of pictures a.

    a: (N, *spatial, C). The windows and `size` are those of `adaptive_avg_pool`.
    """
    sizes = _sizes("adaptive_max_pool", a, size)
    if set(sizes) == {1}:
        return _max_of_all(a)
    kernel = []
    for i, (n, m) in enumerate(zip(a.shape[1:-1], sizes, strict=True)):
        starts, ends = _bins(n, m)
        longest = int((ends - starts).max())
        if n % m:  # shorter windows see their last place twice: the first of equals wins
            places = np.minimum(starts[:, None] + np.arange(longest), ends[:, None] - 1)
            a = take(a, places.reshape(-1), i + 1)
        kernel.append(longest)
    return MaxPool(kernel)(a)


def _max_of_all(a: Tensor) -> Tensor:
    """(N, 1, ..., C): the largest places of each channel, found at once and not place by place."""
    flat = _flat(a)
    first = argmax(flat, 1).reshape((a.shape[0], 1, a.shape[-1]))
    largest = take_along(flat, first, 1)
    return largest.reshape((a.shape[0], *[1] * (a.ndim - 2), a.shape[-1]))


def _sizes(name: str, a: Any, size: Any) -> list[int]:
    """How many windows there are along each spatial axis."""
    _require_pictures(name, a)
    spatial = a.shape[1:-1]
    if not all(spatial):
        raise ShapeError(f"{name}: expected pictures of 1 place or more, got {describe(a)}.")
    given = [size] * len(spatial) if size is None else size
    if isinstance(given, (list, tuple)) and len(given) == len(spatial):
        given = [n if m is None else m for n, m in zip(spatial, given, strict=True)]
    return whole_numbers(name, "size", given, len(spatial), 1)


def _bins(n: int, m: int) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Where the m windows of n places begin and end."""
    i = np.arange(m)
    return i * n // m, -(-(i + 1) * n // m)


def _bin_weights(n: int, m: int) -> np.ndarray[Any, Any]:
    """(n, m): the share of each place in the mean of each window."""
    starts, ends = _bins(n, m)
    place = np.arange(n)[:, None]
    return np.asarray(((starts <= place) & (place < ends)) / (ends - starts))

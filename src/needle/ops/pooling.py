"""Pooling: the largest element, or the mean, of each window of a picture.

Pictures are x (N, *spatial, C), channels last as for `conv`, with any number of spatial axes. Along
one of them window o has the k places s·o - p + d·i, of which those outside x count as less than
everything for the maximum and as 0 for the mean; s, p, d are stride, padding and dilation.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache, reduce
from itertools import product
from typing import Any, NamedTuple

import numpy as np

from needle.autograd.tensor import Tensor, TensorOp
from needle.backend_selection import Array, array_api, primitives
from needle.dtypes import is_floating, is_integer, is_narrow
from needle.errors import ShapeError, describe
from needle.fixed import fixed
from needle.ops.broadcasting import require_tensors
from needle.ops.comparison import equal, where
from needle.ops.indexing import ScatterAlong, take
from needle.ops.reductions import argmax
from needle.ops.spatial import require_half_padding, whole_numbers

__all__ = [
    "ArgMaxPool",
    "AvgPool",
    "AvgUnpool",
    "MaxPool",
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
    def places(self) -> np.ndarray[Any, Any]:
        """(out, kernel): those of each window; -1 for what lies outside."""
        starts = np.arange(self.out)[:, None] * self.stride - self.padding
        places = starts + np.arange(self.kernel) * self.dilation
        return fixed(np.where((places >= 0) & (places < self.n), places, -1))

    @property
    def tiles(self) -> bool:
        """Whether each place is in one window, and each window inside."""
        return (
            self.stride == self.kernel
            and self.dilation == 1
            and self.padding == 0
            and self.n == self.out * self.kernel
        )


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
        require_half_padding(self.name, kernel, padding)
        span = dilation * (kernel - 1) + 1
        room = n + 2 * padding - span
        out = room // stride + 1
        # rounded up, there is one window more where it begins in x or in the padding before it
        if self.ceil_mode and room % stride and out * stride < n + padding:
            out += 1
        if n < 1 or out < 1:
            raise ShapeError(
                f"{self.name}: expected a kernel that fits into the padded picture, got one that "
                f"spans {span} for {n} padded by {padding}."
            )
        return _Axis(n, kernel, stride, padding, dilation, out)

    def _windows(self, x: Array, outside: float) -> Array:
        """A view (N, *out, C, *kernel) of x with a border."""
        require_pictures(self.name, x)
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


def require_pictures(name: str, x: Any) -> None:
    """Raise ShapeError unless x has spatial axes between that of samples and that of channels."""
    if x.ndim < 3:
        raise ShapeError(f"{name}: expected x [N, *spatial, C], got {describe(x)}.")


def _flat(x: Tensor) -> Tensor:
    """(N, *spatial, C) as (N, places, C)."""
    return x.reshape((x.shape[0], math.prod(x.shape[1:-1]), x.shape[-1]))


def constant(values: np.ndarray[Any, Any], dtype: Any, like: Tensor) -> Tensor:
    """Numbers on the device of `like`."""
    return Tensor(values, dtype=dtype, device=like.device, requires_grad=False)


# -- the maximum ---------------------------------------------------------------------------------


class MaxPool(_Pooling):
    """y[n, o, c] = max over i of x[n, s·o - p + d·i, c]; NaN if there is one.

    x: (N, *spatial, C) -> y: (N, *out, C), x's dtype, with out = (n + 2 p - d·(k - 1) - 1) / s + 1,
    rounded down, or up with ceil_mode.
    Gradient: dy to the first of the largest places of each window, row by row; to its last NaN.
    """

    name = "max_pool"

    def compute(self, x: Array) -> Array:
        view = self._windows(x, _lowest(x.dtype))
        return array_api.max(view, axis=tuple(range(x.ndim, view.ndim)))

    def gradient(self, out_grad: Tensor, node: Tensor) -> Any:
        (x,) = node.inputs
        axes = tuple(self._axes(x.shape))
        winners = self._winners(x.detach(), node.detach(), axes)
        if all(axis.tiles for axis in axes):  # each place looks whether it is its window's
            numbers = constant(_numbers(axes), _NUMBER, x).reshape((1, *_tiled(axes), 1))
            won = equal(numbers, _spread(winners, axes))
            return where(won, _spread(out_grad, axes), 0).reshape(x.shape)
        if any(axis.padding and axis.dilation > 1 for axis in axes):  # nothing may be in a window
            empty = _product([_counts(axis, include_pad=False) for axis in axes]) == 0
            out_grad = where(constant(empty, "bool", x), 0, out_grad)
        shape = x.shape[0], math.prod(x.shape[1:-1]), x.shape[-1]
        return ScatterAlong(shape, 1)(_flat(out_grad), _flat(winners)).reshape(x.shape)

    def _winners(self, x: Tensor, y: Tensor, axes: tuple[_Axis, ...]) -> Tensor:
        """The numbers in the picture of the windows' first maxima, or, as in PyTorch, last NaN."""
        options = self.kernel, self.stride, self.padding, self.dilation, self.ceil_mode
        if all(axis.tiles for axis in axes) and math.prod(axis.kernel for axis in axes) > _MANY:
            first = _first_of_blocks(x, axes)
        else:
            first = ArgMaxPool(*options)(x, y, constant(_places(axes), _NUMBER, x))
        numbers = constant(_numbers(axes)[..., None], _NUMBER, x)
        return where(equal(y, y), first, MaxPool(*options)(where(equal(x, x), -1, numbers)))


_NUMBER = "int32"  # of a place in a picture
_MANY = 9  # places of a window that are looked at one by one


def _first_of_blocks(x: Tensor, axes: tuple[_Axis, ...]) -> Tensor:
    """The numbers of the first maxima of windows that tile the picture, by one argmax of each."""
    rank, batch, channels = len(axes), x.shape[0], x.shape[-1]
    blocks = x.reshape((batch, *_tiled(axes), channels))
    outs, kernels = range(1, 2 * rank, 2), range(2, 2 * rank + 1, 2)
    rows = blocks.permute((0, *outs, *kernels, 2 * rank + 1))
    out, size = [axis.out for axis in axes], math.prod(axis.kernel for axis in axes)
    places = argmax(rows.reshape((batch, math.prod(out), size, channels)), 2)
    numbers = _places(axes).reshape(size, -1)  # of a place in a window, and of a window
    in_first = take(constant(numbers[:, 0], _NUMBER, x), places)
    starts = constant((numbers[0] - numbers[0, 0])[:, None], _NUMBER, x)
    return (in_first + starts).reshape((batch, *out, channels))


def _tiled(axes: Sequence[_Axis]) -> list[int]:
    """The spatial axes, each as one of windows and one of places in them."""
    return [n for axis in axes for n in (axis.out, axis.kernel)]


def _spread(y: Tensor, axes: Sequence[_Axis]) -> Tensor:
    """(N, *out, C) so that it broadcasts to windows that tile a picture, as in `_tiled`."""
    ones = [n for axis in axes for n in (axis.out, 1)]
    return y.reshape((y.shape[0], *ones, y.shape[-1]))


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
    """The numbers in the picture of the windows' places: (*kernel, *out, 1).

    Places outside have the number of the window's first inside: it wins where all are -inf.
    """
    rank = len(axes)
    numbers: Any = 0
    for i, axis in enumerate(axes):
        places = axis.places
        first = np.take_along_axis(places, (places >= 0).argmax(1)[:, None], 1)
        along = np.where(places < 0, first, places).clip(0).T
        shape = [1] * (2 * rank)
        shape[i], shape[rank + i] = along.shape
        numbers = numbers * axis.n + along.reshape(shape)
    return fixed(numbers[..., None])


def _numbers(axes: Sequence[_Axis]) -> np.ndarray[Any, Any]:
    """Those of all places of the picture, row by row."""
    return fixed(np.arange(math.prod(axis.n for axis in axes)).reshape([axis.n for axis in axes]))


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
    a window's places; or a second input (*out, 1), one for each window, which is a constant.
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

    def _divisor(self, axes: Sequence[_Axis], divisors: Sequence[Array]) -> Any:
        if divisors:
            return divisors[0]
        return math.prod(axis.kernel for axis in axes) if self.divisor is None else self.divisor

    def compute(self, x: Array, *divisors: Array) -> Array:
        return primitives.in_float32(self._mean, x, divisors=divisors)

    def _mean(self, x: Array, divisors: Sequence[Array]) -> Array:
        view = self._windows(x, 0)
        total = primitives.total(view, tuple(range(x.ndim, view.ndim)))
        return total / self._divisor(self._axes(x.shape), divisors)

    def gradient(self, out_grad: Tensor, node: Tensor) -> Any:
        x, *divisors = node.inputs
        options = self.kernel, self.stride, self.padding, self.ceil_mode, self.divisor
        return AvgUnpool(x.shape, *options)(out_grad, *divisors), *[None] * len(divisors)


class AvgUnpool(AvgPool):
    """x[n, s·o - p + i, c] += y[n, o, c] / divisor, for all o and i: the adjoint of `AvgPool`.

    y: (N, *out, C) -> x of `shape`, (N, *spatial, C). Gradient: dy = avg_pool of dx.
    """

    name = "avg_unpool"
    expects = "y [N, *out, C], of pictures of the given shape"

    def __init__(self, shape: Sequence[int], *options: Any) -> None:
        super().__init__(*options)
        self.shape = tuple(shape)

    def _mean(self, y: Array, divisors: Sequence[Array]) -> Array:
        axes = self._axes(self.shape)
        share = y / self._divisor(axes, divisors)
        if all(axis.tiles for axis in axes):
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
        whole = (self.shape[0], *_tiled(axes), self.shape[-1])
        share = array_api.expand_dims(share, tuple(between))
        return array_api.reshape(array_api.broadcast_to(share, whole), self.shape)

    def gradient(self, out_grad: Tensor, node: Tensor) -> Any:
        divisors = node.inputs[1:]
        options = self.kernel, self.stride, self.padding, self.ceil_mode, self.divisor
        return AvgPool(*options)(out_grad, *divisors), *[None] * len(divisors)


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
    require_tensors("avg_pool", a)
    require_pictures("avg_pool", a)
    axes = AvgPool(*options)._axes(a.shape)
    if not any(axis.padding or axis.behind for axis in axes):
        return AvgPool(*options)(a)
    counts = [_counts(axis, count_include_pad) for axis in axes]
    if all((c == axis.kernel).all() for c, axis in zip(counts, axes, strict=True)):
        return AvgPool(*options)(a)
    return AvgPool(*options)(a, constant(_product(counts), dtype_of_sums(a), a))


def dtype_of_sums(a: Tensor) -> Any:
    """What means are computed in: 32 bits at least, float64 for integers."""
    if not is_floating(a.dtype):
        return "float64"
    return "float32" if is_narrow(a.dtype) else a.dtype


def _counts(axis: _Axis, include_pad: bool) -> np.ndarray[Any, Any]:
    """The number of each window's places that are in x, or in its padding."""
    if not include_pad:
        return np.asarray((axis.places >= 0).sum(1))
    starts = np.arange(axis.out) * axis.stride - axis.padding
    return np.asarray(np.minimum(starts + axis.kernel, axis.n + axis.padding) - starts)


def _product(counts: Sequence[np.ndarray[Any, Any]]) -> np.ndarray[Any, Any]:
    """(*out, 1): the number of places in windows, from those along each axis."""
    return fixed(reduce(np.multiply.outer, counts)[..., None])

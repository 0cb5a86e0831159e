"""Pictures at another resolution: by their nearest places, by lines between them, by channels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from numbers import Real
from typing import Any

import numpy as np

from needle.autograd.tensor import Tensor, TensorOp
from needle.backend_selection import Array, primitives
from needle.dtypes import is_floating
from needle.errors import DTypeError, OptionError, ShapeError, describe
from needle.fixed import fixed
from needle.ops.broadcasting import require_tensors
from needle.ops.indexing import take
from needle.ops.pooling import constant, dtype_of_sums, require_pictures
from needle.ops.shapes import broadcast_to, permute, reshape
from needle.ops.spatial import whole_numbers

__all__ = ["PutBetween", "TakeBetween", "interpolate", "pixel_shuffle", "pixel_unshuffle"]

_LINEAR = {1: "linear", 2: "bilinear", 3: "trilinear"}  # by the number of spatial axes


def interpolate(
    a: Tensor,
    size: Any = None,
    scale_factor: Any = None,
    mode: str = "nearest",
    align_corners: bool = False,
) -> Tensor:
    """Pictures a (N, *spatial, C) with m places in place of the n along each spatial axis.

    size           m: an int, or one for each spatial axis
    scale_factor   or m / n, a number or several; m is rounded down
    mode           "nearest": place i has the element at ⌊i n / m⌋; "nearest-exact": at
                   ⌊(i + 1/2) n / m⌋; "linear", "bilinear", "trilinear" for 1, 2, 3 axes: what is
                   on the line between the two elements around (i + 1/2) n / m - 1/2
    align_corners  True: lines have the first and last elements at their ends, i (n - 1) / (m - 1)

    Where scale_factor is given, it stands for m / n. Raises OptionError, ShapeError.
    """
    require_tensors("interpolate", a)
    require_pictures("interpolate", a)
    spatial = a.shape[1:-1]
    linear = _is_linear(mode, align_corners, len(spatial))
    sizes, ratios = _sizes(a, size, scale_factor)
    if linear and not is_floating(a.dtype):
        raise DTypeError(f"interpolate: expected floats for mode {mode!r}, got {describe(a)}.")
    if not linear:
        return _nearest(a, sizes, ratios, 0.5 if mode == "nearest-exact" else 0.0)
    wide = a.astype(dtype_of_sums(a))
    for axis, (n, m, ratio) in enumerate(zip(spatial, sizes, ratios, strict=True), start=1):
        if n != m or not (align_corners or ratio == 1):
            wide = _between(wide, axis, _points(n, m, ratio, align_corners))
    return wide.astype(a.dtype)


def _is_linear(mode: Any, align_corners: bool, count: int) -> bool:
    known = ["nearest", "nearest-exact", *[_LINEAR[count]] * (count in _LINEAR)]
    if mode not in known:
        raise OptionError(
            f"interpolate: expected mode of {', '.join(known)} for {count} spatial axes, got "
            f"{mode!r}."
        )
    linear = bool(mode == _LINEAR.get(count))
    if align_corners and not linear:
        raise OptionError(f"interpolate: expected align_corners=False with mode {mode!r}.")
    return linear


def _sizes(a: Tensor, size: Any, scale_factor: Any) -> tuple[list[int], list[float]]:
    """How many places there are along each axis, and how far apart they are in a."""
    spatial = a.shape[1:-1]
    if (size is None) == (scale_factor is None):
        raise OptionError(
            f"interpolate: expected size or scale_factor, got {size!r} and {scale_factor!r}."
        )
    if size is not None:
        sizes = whole_numbers("interpolate", "size", size, len(spatial), 1)
        ratios = [n / m for n, m in zip(spatial, sizes, strict=True)]
    else:
        factors = _factors(scale_factor, len(spatial))
        sizes = [math.floor(n * factor) for n, factor in zip(spatial, factors, strict=True)]
        ratios = [1 / factor for factor in factors]
    if not all(spatial) or not all(sizes):
        raise ShapeError(
            f"interpolate: expected pictures of 1 place or more, got {describe(a)} for size "
            f"{tuple(sizes)}."
        )
    return sizes, ratios


def _factors(given: Any, count: int) -> Sequence[float]:
    factors = list(given) if isinstance(given, (list, tuple)) else [given] * count
    if len(factors) != count or not all(
        isinstance(f, Real) and 0 < float(f) < math.inf for f in factors
    ):
        several = "" if count == 1 else f" or {count} of them"
        raise OptionError(
            f"interpolate: expected scale_factor above 0, a number{several}, got {given!r}."
        )
    return factors


def _nearest(a: Tensor, sizes: Sequence[int], ratios: Sequence[float], shift: float) -> Tensor:
    spatial = a.shape[1:-1]
    repeats = [m // n for n, m in zip(spatial, sizes, strict=True)]
    if all(ratio * repeat == 1 for ratio, repeat in zip(ratios, repeats, strict=True)):
        return _repeated(a, repeats)
    for axis, (n, m, ratio) in enumerate(zip(spatial, sizes, ratios, strict=True), start=1):
        # in float32, as PyTorch rounds
        places = np.floor((np.arange(m, dtype=np.float32) + np.float32(shift)) * np.float32(ratio))
        a = take(a, fixed(np.minimum(places.astype(np.int64), n - 1)), axis)
    return a


def _repeated(a: Tensor, repeats: Sequence[int]) -> Tensor:
    """Every element as a block: a broadcast, whose gradient is a sum."""
    blocks, shape, apart = [a.shape[0]], [a.shape[0]], [a.shape[0]]
    for n, repeat in zip(a.shape[1:-1], repeats, strict=True):
        apart += [n, 1]
        blocks += [n, repeat]
        shape.append(n * repeat)
    channels = a.shape[-1:]
    spread = broadcast_to(reshape(a, (*apart, *channels)), (*blocks, *channels))
    return reshape(spread, (*shape, *channels))


def _points(n: int, m: int, ratio: float, align_corners: bool) -> np.ndarray[Any, Any]:
    """Where the m places lie among n, as real numbers in 0..n-1."""
    if align_corners:
        return np.arange(m) * ((n - 1) / (m - 1) if m > 1 else 0.0)
    centres = (np.arange(m) + 0.5) * ratio - 0.5
    return np.asarray(np.maximum(centres, 0.0))


def _between(x: Tensor, axis: int, points: np.ndarray[Any, Any]) -> Tensor:
    """x at `points` along `axis`, on the lines between neighbours."""
    n = x.shape[axis]
    left = np.minimum(points.astype(np.int64), n - 1)
    right = np.minimum(left + 1, n - 1)
    weight = np.minimum(points - left, 1.0).reshape((-1,) + (1,) * (x.ndim - axis - 1))
    places = [constant(fixed(indices), "int64", x) for indices in (left, right)]
    return TakeBetween(axis)(x, *places, constant(fixed(weight), x.dtype, x))


class TakeBetween(TensorOp):
    """y[..., i, ...] = (1 - w_i) · x[..., l_i, ...] + w_i · x[..., r_i, ...], along `axis`.

    x: (..., n, ...); l, r: (m,), integers in 0..n-1; w: (m, 1, ...) -> y: (..., m, ...).
    Gradient: dx by `PutBetween`; l, r and w are constants.
    """

    name = "take_between"
    expects = "places l and r of x, and a weight for each"

    def __init__(self, axis: int) -> None:
        self.axis = axis

    def compute(self, x: Array, left: Array, right: Array, weight: Array) -> Array:
        before = (slice(None),) * self.axis
        y = primitives.index(x, (*before, left)) * (1 - weight)
        return primitives.multiply_add(primitives.index(x, (*before, right)), weight, y)

    def gradient(self, out_grad: Tensor, node: Tensor) -> Any:
        x, *constants = node.inputs
        return PutBetween(self.axis, x.shape)(out_grad, *constants), None, None, None


class PutBetween(TensorOp):
    """x = zeros of `shape`, with (1 - w) · y added at l and w · y at r: `TakeBetween`'s adjoint."""

    name = "put_between"

    def __init__(self, axis: int, shape: Sequence[int]) -> None:
        self.axis, self.shape = axis, tuple(shape)

    def compute(self, y: Array, left: Array, right: Array, weight: Array) -> Array:
        before = (slice(None),) * self.axis
        x = primitives.scatter_add(self.shape, (*before, left), y * (1 - weight))
        return x + primitives.scatter_add(self.shape, (*before, right), y * weight)

    def gradient(self, out_grad: Tensor, node: Tensor) -> Any:
        return TakeBetween(self.axis)(out_grad, *node.inputs[1:]), None, None, None


# -- channels as places ----------------------------------------------------------------------------


def pixel_shuffle(a: Tensor, factor: int) -> Tensor:
    """(N, H, W, C r²) -> (N, H r, W r, C): r² channels of a place become r by r places.

    Channel c r² + r i + j becomes row i and column j of channel c.
    Source: Shi et al., "Real-Time Single Image Super-Resolution", 2016, eq. 4.
    """
    r = _require_planes("pixel_shuffle", a, factor)
    batch, height, width, channels = a.shape
    if channels % (r * r):
        raise ShapeError(
            f"pixel_shuffle: expected channels that {r * r} divides, got {describe(a)}."
        )
    parts = reshape(a, (batch, height, width, channels // (r * r), r, r))
    return reshape(
        permute(parts, (0, 1, 4, 2, 5, 3)), (batch, height * r, width * r, channels // (r * r))
    )


def pixel_unshuffle(a: Tensor, factor: int) -> Tensor:
    """(N, H r, W r, C) -> (N, H, W, C r²): what `pixel_shuffle` undoes."""
    r = _require_planes("pixel_unshuffle", a, factor)
    batch, height, width, channels = a.shape
    if height % r or width % r:
        raise ShapeError(
            f"pixel_unshuffle: expected height and width that {r} divides, got {describe(a)}."
        )
    parts = reshape(a, (batch, height // r, r, width // r, r, channels))
    return reshape(
        permute(parts, (0, 1, 3, 5, 2, 4)), (batch, height // r, width // r, channels * r * r)
    )


def _require_planes(name: str, a: Any, factor: Any) -> int:
    require_tensors(name, a)
    if a.ndim != 4:
        raise ShapeError(f"{name}: expected x [N, H, W, C], got {describe(a)}.")
    return whole_numbers(name, "factor", factor, 1, 1)[0]

"""Pooling to a given number of windows, which cover a picture of any size."""

from __future__ import annotations

from typing import Any

import numpy as np

from needle.autograd.tensor import Tensor
from needle.dtypes import is_floating
from needle.errors import ShapeError, describe
from needle.fixed import fixed
from needle.ops.broadcasting import require_tensors
from needle.ops.comparison import where
from needle.ops.indexing import take
from needle.ops.pooling import AvgPool, MaxPool, constant, dtype_of_sums, require_pictures
from needle.ops.spatial import whole_numbers

__all__ = ["adaptive_avg_pool", "adaptive_max_pool"]


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
    means = a.astype(dtype_of_sums(a))
    for i, (n, m) in enumerate(zip(spatial, sizes, strict=True)):
        means = _means_of_bins(means, i + 1, n, m)
    return means.astype(a.dtype) if is_floating(a.dtype) else means


def _means_of_bins(x: Tensor, axis: int, n: int, m: int) -> Tensor:
    """x with the means of m windows in place of the n places along `axis`."""
    if n == m:
        return x
    places, inside = _bins(n, m)
    behind = (1,) * (x.ndim - axis - 1)
    shape = [*x.shape[:axis], *places.shape, *x.shape[axis + 1 :]]
    rows = take(x, places.reshape(-1), axis).reshape(shape)
    if not inside.all():
        rows = where(constant(inside.reshape((*inside.shape, *behind)), "bool", x), rows, 0)
    return rows.sum(axis + 1) / constant(inside.sum(1).reshape((m, *behind)), x.dtype, x)


def adaptive_max_pool(a: Tensor, size: Any) -> Tensor:
    """The largest elements of `size` windows along each spatial axis of pictures a.

    a: (N, *spatial, C). The windows and `size` are those of `adaptive_avg_pool`.
    """
    sizes = _sizes("adaptive_max_pool", a, size)
    kernel = []
    for i, (n, m) in enumerate(zip(a.shape[1:-1], sizes, strict=True)):
        places, _ = _bins(n, m)
        if n % m:
            a = take(a, places.reshape(-1), i + 1)
        kernel.append(places.shape[1])
    return MaxPool(kernel)(a)


def _sizes(name: str, a: Any, size: Any) -> list[int]:
    """How many windows there are along each spatial axis."""
    require_tensors(name, a)
    require_pictures(name, a)
    spatial = a.shape[1:-1]
    if not all(spatial):
        raise ShapeError(f"{name}: expected pictures of 1 place or more, got {describe(a)}.")
    given = [size] * len(spatial) if size is None else size
    if isinstance(given, (list, tuple)) and len(given) == len(spatial):
        given = [n if m is None else m for n, m in zip(spatial, given, strict=True)]
    return whole_numbers(name, "size", given, len(spatial), 1)


def _bins(n: int, m: int) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """The places of the m windows of n places, in rows; which of them are in the window.

    Shorter windows have their last place twice, so that the first of equals is still the first.
    """
    i = np.arange(m)[:, None]
    starts, ends = i * n // m, -(-(i + 1) * n // m)
    places = starts + np.arange((ends - starts).max())
    return fixed(np.minimum(places, ends - 1)), fixed(places < ends)

"""Convolution and pooling in NumPy the plain way, place by place of a window or of the result."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from typing import Any

import numpy as np

Places = tuple[np.ndarray, ...]


def _each(value: Any, count: int) -> list[Any]:
    """One value per spatial axis."""
    return list(value) if isinstance(value, (tuple, list)) else [value] * count


def _options(spatial: Any, stride: Any, padding: Any, dilation: Any) -> list[Any]:
    rank = len(spatial)
    pads = [_each(pad, 2) for pad in _each(padding, rank)]
    return list(zip(spatial, _each(stride, rank), pads, _each(dilation, rank), strict=True))


# -- convolution ---------------------------------------------------------------------------------


def _grouped(x: np.ndarray, groups: int) -> np.ndarray:
    return x.reshape(*x.shape[:-1], groups, x.shape[-1] // groups)


def _taps(
    spatial: Any, kernel: Any, stride: Any, padding: Any, dilation: Any
) -> Iterator[tuple[Any, Any]]:
    """Places in the kernel, each with the slices of the padded picture that meet it."""
    options = _options(spatial, stride, padding, dilation)
    for tap in product(*map(range, kernel)):
        window = [slice(None)]
        for (n, s, (before, behind), d), k, size in zip(options, tap, kernel, strict=True):
            out = (n + before + behind - d * (size - 1) - 1) // s + 1
            window.append(slice(d * k, d * k + (out - 1) * s + 1, s))
        yield tap, tuple(window)


def _padded(x: np.ndarray, padding: Any) -> np.ndarray:
    pads = [_each(pad, 2) for pad in _each(padding, x.ndim - 2)]
    return np.pad(x, [(0, 0), *pads, (0, 0)])


def conv(
    a: Any, b: Any, stride: Any = 1, padding: Any = 1, dilation: Any = 1, groups: int = 1
) -> Any:
    x, w = _grouped(_padded(a, padding), groups), _grouped(b, groups)
    y: Any = 0
    for tap, window in _taps(a.shape[1:-1], b.shape[:-2], stride, padding, dilation):
        y = y + np.einsum("...gc,cgf->...gf", x[window], w[tap])
    return y.reshape(*y.shape[:-2], -1) if y.size else y.reshape(*y.shape[:-2], b.shape[-1])


def conv_weight(
    x: Any, y: Any, kernel: Any, stride: Any = 1, padding: Any = 0, dilation: Any = 1,
    groups: int = 1,
) -> Any:  # fmt: skip
    pictures, grads = _grouped(_padded(x, padding), groups), _grouped(y, groups)
    w = np.zeros((*kernel, x.shape[-1] // groups, y.shape[-1]), x.dtype)
    for tap, window in _taps(x.shape[1:-1], kernel, stride, padding, dilation):
        seen, dy = (z.reshape(-1, *z.shape[-2:]) for z in (pictures[window], grads))
        w[tap] = np.einsum("ngc,ngf->cgf", seen, dy).reshape(w[tap].shape)
    return w


def conv_transpose(
    a: Any, b: Any, stride: Any = 1, padding: Any = 0, output_padding: Any = 0, dilation: Any = 1,
    groups: int = 1,
) -> Any:  # fmt: skip
    kernel, rank = b.shape[:-2], a.ndim - 2
    extra = _each(output_padding, rank)
    options = _options(a.shape[1:-1], stride, padding, dilation)
    whole = [
        (n - 1) * s + d * (k - 1) + 1 + e
        for (n, s, _, d), k, e in zip(options, kernel, extra, strict=True)
    ]
    y, w = _grouped(a, groups), _grouped(b, groups)
    x = np.zeros((a.shape[0], *whole, groups, b.shape[-2]), a.dtype)
    for tap in product(*map(range, kernel)):
        window = [
            slice(d * k, d * k + (n - 1) * s + 1, s)
            for (n, s, _, d), k in zip(options, tap, strict=True)
        ]
        x[(slice(None), *window)] += np.einsum("...gf,cgf->...gc", y, w[tap])
    inner = [
        slice(before, n - behind)
        for (_, _, (before, behind), _), n in zip(options, whole, strict=True)
    ]
    x = x[(slice(None), *inner)]
    return x.reshape(*x.shape[:-2], groups * b.shape[-2])


def dilate(a: Any, axes: Any, dilation: int) -> Any:
    for axis in axes:
        if axis < a.ndim:
            zeros = [np.zeros_like(a)] * dilation
            stacked = np.stack([a, *zeros], axis=axis + 1)
            shape = list(a.shape)
            shape[axis] *= dilation + 1
            a = stacked.reshape(shape)
    return a


def undilate(a: Any, axes: Any, dilation: int) -> Any:
    for axis in axes:
        if axis < a.ndim:
            a = np.take(a, range(0, a.shape[axis], dilation + 1), axis)
    return a


# -- pooling -------------------------------------------------------------------------------------


def windows(
    spatial: Any, kernel: Any, stride: Any, padding: Any, dilation: Any, ceil_mode: bool
) -> list[list[np.ndarray]]:
    """For each spatial axis the places of each window, those outside among them."""
    axes = []
    options = _options(spatial, stride, padding, dilation)
    for (n, s, (p, _), d), k in zip(options, _each(kernel, len(spatial)), strict=True):
        span = d * (k - 1) + 1
        room = n + 2 * p - span
        out = 1 + (-(-room // s) if ceil_mode else room // s)
        starts = [-p + s * i for i in range(out) if not ceil_mode or -p + s * i < n]
        axes.append([start + d * np.arange(k) for start in starts])
    return axes


def _pooled(x: np.ndarray, axes: Any, reduce: Any) -> Any:
    """`reduce` of the elements of each window that are in x, and of the window's places."""
    out = [len(places) for places in axes]
    results = []
    for chosen in product(*axes):
        inside = [p[(0 <= p) & (p < n)] for p, n in zip(chosen, x.shape[1:-1], strict=True)]
        part = x[np.ix_(range(x.shape[0]), *inside, range(x.shape[-1]))]
        results.append(reduce(part, chosen, inside))
    return np.stack(results, axis=1).reshape(x.shape[0], *out, x.shape[-1])


def max_pool(
    a: Any, kernel: Any, stride: Any = None, padding: Any = 0, dilation: Any = 1,
    ceil_mode: bool = False,
) -> Any:  # fmt: skip
    axes = windows(a.shape[1:-1], kernel, stride or kernel, padding, dilation, ceil_mode)
    inner = tuple(range(1, a.ndim - 1))
    return _pooled(a, axes, lambda part, chosen, inside: part.max(axis=inner))


def argmax_pool(a: Any, kernel: Any, stride: Any = None, padding: Any = 0) -> Any:
    spatial = a.shape[1:-1]
    axes = windows(spatial, kernel, stride or kernel, padding, 1, False)

    def first(part: Any, chosen: Any, inside: Any) -> Any:
        numbers = np.ravel_multi_index(np.ix_(*inside), spatial).reshape(-1)
        flat = part.reshape(len(part), len(numbers), part.shape[-1])
        return numbers[flat.argmax(axis=1)]

    return _pooled(a, axes, first)


def avg_pool(
    a: Any, kernel: Any, stride: Any = None, padding: Any = 0, ceil_mode: bool = False,
    count_include_pad: bool = True, divisor_override: Any = None,
) -> Any:  # fmt: skip
    axes = windows(a.shape[1:-1], kernel, stride or kernel, padding, 1, ceil_mode)
    pads = _each(padding, a.ndim - 2)
    limits = list(zip(a.shape[1:-1], pads, strict=True))
    inner = tuple(range(1, a.ndim - 1))

    def mean(part: Any, chosen: Any, inside: Any) -> Any:
        padded = [(places < n + p).sum() for places, (n, p) in zip(chosen, limits, strict=True)]
        counts = padded if count_include_pad else [len(places) for places in inside]
        return part.sum(axis=inner) / (divisor_override or np.prod(counts))

    return _pooled(a, axes, mean)


def avg_unpool(y: Any, shape: Any, kernel: Any, stride: Any = None, padding: Any = 0) -> Any:
    axes = windows(shape[1:-1], kernel, stride or kernel, padding, 1, False)
    x = np.zeros(shape, np.result_type(y, np.float16))
    size = np.prod([len(places[0]) for places in axes])
    for o in product(*[range(len(places)) for places in axes]):
        chosen = [places[i] for places, i in zip(axes, o, strict=True)]
        inside = [p[(0 <= p) & (p < n)] for p, n in zip(chosen, shape[1:-1], strict=True)]
        place = np.ix_(range(shape[0]), *inside, range(shape[-1]))
        share = y[(slice(None), *o)] / size
        x[place] += share.reshape(shape[0], *[1] * len(axes), shape[-1])
    return x

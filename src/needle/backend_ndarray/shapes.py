"""The same elements otherwise arranged: copies, casts, joins, padding, triangles."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any

import numpy as np

from needle.backend_ndarray import elementwise, promotion
from needle.backend_ndarray.creation import arange, assign_plan, fill_plan, memory_for
from needle.backend_ndarray.device import Device, Run
from needle.backend_ndarray.indexing import basic_view
from needle.backend_ndarray.layout import (
    Layout,
    Shape,
    as_shape,
    normalize_axes,
    require_extents,
    result_strides,
)
from needle.backend_ndarray.ndarray import NDArray, new_array, require_array
from needle.backend_ndarray.plans import Plan, Plans, checked
from needle.errors import OptionError, ShapeError, describe

__all__ = [
    "astype",
    "broadcast_to",
    "compact",
    "concatenate",
    "expand_dims",
    "flip",
    "pad",
    "permute_dims",
    "reshape",
    "squeeze",
    "stack",
    "swapaxes",
    "to",
    "tril",
    "triu",
]

_copies = Plans()
_pads = Plans()


def copied(name: str, x: NDArray, dtype: np.dtype[Any] | None = None) -> NDArray:
    """The elements, converted, in fresh memory: row after row, but for `astype` in x's own order
    of axes. `name` is who wants it."""
    plan = _copies.find((name, x._layout, dtype), lambda: _copy_plan(name, x._layout, dtype))
    return new_array(plan.layout, plan.run(x._memory, x._offset))


def _copy_plan(name: str, layout: Layout, dtype: np.dtype[Any] | None) -> Plan:
    strides = result_strides(layout.shape, [layout]) if name == "astype" else None
    device: Any = layout.device
    out = Layout.of(device, dtype or layout.dtype, layout.shape, strides)
    run = device.elementwise("copy", [layout], [out.dtype], out)
    return Plan(out, checked(name, run, out))


def astype(x: NDArray, dtype: Any, copy: bool = True) -> NDArray:
    """The values in another dtype, rounded as NumPy rounds; a copy even if nothing changes.

    NumPy, and so `cpu_numpy`, leaves open which integer a float out of range becomes. On `cpu` it
    is the nearest of 32 or 64 bits, of which narrower integers take the low bits; NaN becomes 0.
    """
    require_array("astype", x)
    wanted = promotion.as_supported(dtype)
    if not copy and wanted == x.dtype:
        return x
    return copied("astype", x, wanted)


def compact(x: NDArray) -> NDArray:
    """The array itself if it lies row after row and fills its memory, else a copy that does.

    A view of a broadcast array, which nothing is written to, is copied too.
    """
    require_array("compact", x)
    return x if x.is_compact() and not x._layout.repeats else copied("compact", x)


def to(x: NDArray, device: Device) -> NDArray:
    """The array on another device; itself if it is there."""
    if device in (x.device, x.device.real):
        return x
    if not x.device.has_memory:
        from needle.backend_ndarray.ndarray_backend_trace import moved

        return moved(x, device)
    from needle.backend_ndarray.creation import array

    return array(x, x.dtype, device)


def broadcast_to(x: NDArray, shape: Sequence[int]) -> NDArray:
    """x, repeated to fill `shape`: a view."""
    require_array("broadcast_to", x)
    return x.broadcast_to(shape)


def reshape(x: NDArray, shape: Any) -> NDArray:
    """The elements in another shape."""
    require_array("reshape", x)
    return x.reshape(shape)


def expand_dims(x: NDArray, axis: Any) -> NDArray:
    """Axes of length 1 at these places of the result: a view."""
    require_array("expand_dims", x)
    return x.expand_dims(axis)


def squeeze(x: NDArray, axis: Any = None) -> NDArray:
    """x without axes of length 1: a view."""
    require_array("squeeze", x)
    return x.squeeze(axis)


def swapaxes(x: NDArray, axis1: int, axis2: int) -> NDArray:
    """Two axes exchanged: a view."""
    require_array("swapaxes", x)
    return x.swapaxes(axis1, axis2)


def permute_dims(x: NDArray, axes: Sequence[int] | None = None) -> NDArray:
    """The axes in another order, reversed by default: a view."""
    require_array("permute_dims", x)
    return x.T if axes is None else x.permute(axes)


def flip(x: NDArray, axis: int | Sequence[int] | None = None) -> NDArray:
    """A fresh array, reversed along the axes; None means all."""
    require_array("flip", x)
    axes = None if axis is None else as_shape("flip", axis)
    return copied("flip", x._view(x._layout.flip(axes)))


def pad(x: NDArray, widths: Sequence[tuple[int, int]], constant_values: Any = 0) -> NDArray:
    """x with a border of one value: (before, after) for each axis."""
    require_array("pad", x)
    pairs = _width_pairs(x, widths)
    plan = _pads.find((x._layout, pairs), lambda: _pad_plan(x._layout, pairs))
    number = promotion.stored(constant_values, x.dtype)
    return new_array(plan.layout, plan.run(x._memory, x._offset, number))


def _pad_plan(layout: Layout, pairs: Sequence[tuple[int, int]]) -> Plan:
    """Fill all, then copy the inside: the borders alone are as many pieces, and no faster."""
    shape = tuple([b + n + a for (b, a), n in zip(pairs, layout.shape, strict=True)])
    device: Any = layout.device
    out = Layout.of(device, layout.dtype, shape)
    inner = tuple([slice(b, b + n) for (b, _), n in zip(pairs, layout.shape, strict=True)])
    place, start = basic_view(out, inner, True)
    fill, copy = fill_plan(out), assign_plan(layout, place)

    def run(memory: Any, offset: int, number: Any) -> Any:
        made = memory_for("pad", out)
        fill.run(made, 0, number)
        copy.run(memory, offset, made, start)
        return made

    return Plan(out, run)


def _width_pairs(x: NDArray, widths: Any) -> tuple[tuple[int, int], ...]:
    try:
        pairs = tuple([(operator.index(before), operator.index(after)) for before, after in widths])
    except (TypeError, ValueError):  # no pairs, or no ints
        pairs = None
    if pairs is None or len(pairs) != x.ndim or any(min(pair) < 0 for pair in pairs):
        raise OptionError(
            f"pad: expected {x.ndim} pairs of widths of 0 or more for {describe(x)}, got {widths}."
        )
    return pairs


def concatenate(arrays: Sequence[NDArray], axis: int = 0) -> NDArray:
    """Arrays one after another along an axis that they have, laid out as they lie."""
    return _joined("concatenate", arrays, axis)


# the result's layout; for each part, where in it that begins, and what writes it there
_joins: dict[Any, tuple[Layout, list[tuple[int, Run]]]] = {}
_MOST_JOINS = 1024


def _joined(name: str, arrays: Sequence[NDArray], axis: int) -> NDArray:
    arrays = tuple(arrays)
    require_array(name, *arrays)
    key = (axis, *[x._layout for x in arrays])
    found = _joins.get(key)
    if found is None:
        if len(_joins) >= _MOST_JOINS:
            _joins.clear()
        found = _joins[key] = _join(name, arrays, axis)
    layout, parts = found
    memory = memory_for(name, layout)
    for x, (start, run) in zip(arrays, parts, strict=True):
        run(x._memory, x._offset, memory, start)
    return new_array(layout, memory)


def _join(
    name: str, arrays: tuple[NDArray, ...], axis: int
) -> tuple[Layout, list[tuple[int, Run]]]:
    if not arrays:
        raise ShapeError(f"{name}: expected at least one array, got none.")
    first = arrays[0]
    (place,) = normalize_axes(name, (axis,), first.ndim)
    others = [x.shape[:place] + x.shape[place + 1 :] for x in arrays]
    if any(x.ndim != first.ndim for x in arrays) or any(s != others[0] for s in others):
        raise ShapeError(
            f"{name}: expected arrays of the same shape but for axis {axis}, "
            f"got {describe(*arrays)}."
        )
    length = sum(x.shape[place] for x in arrays)
    shape = (*first.shape[:place], length, *first.shape[place + 1 :])
    device, dtype = elementwise.one_device(name, arrays), _common_dtype(arrays)
    require_extents(name, shape, dtype.itemsize)
    layout = Layout.of(device, dtype, shape, _joined_strides(shape, arrays, place))
    parts, start = [], 0
    for x in arrays:
        window = (slice(None),) * place + (slice(start, start + x.shape[place]),)
        view, offset = basic_view(layout, window, False)
        parts.append((offset, assign_plan(x._layout, view).run))
        start += x.shape[place]
    return layout, parts


def _joined_strides(shape: Shape, arrays: Sequence[NDArray], place: int) -> Shape:
    """In the parts' own order of axes; one of length 1 along `place` has no say where that goes."""
    layouts = [x._layout for x in arrays]
    along = [
        layout.broadcast_to(shape)[0] if layout.shape[place] == 1 else layout for layout in layouts
    ]
    return result_strides(shape, along)


def stack(arrays: Sequence[NDArray], axis: int = 0) -> NDArray:
    """Arrays of equal shape joined along a new axis."""
    arrays = tuple(arrays)
    require_array("stack", *arrays)
    if not arrays or any(x.shape != arrays[0].shape for x in arrays):
        raise ShapeError(f"stack: expected arrays of equal shape, got {describe(*arrays)}.")
    (place,) = normalize_axes("stack", (axis,), arrays[0].ndim + 1)
    return _joined("stack", [x.expand_dims((place,)) for x in arrays], place)


def _common_dtype(arrays: Sequence[NDArray]) -> np.dtype[Any]:
    dtype = arrays[0].dtype
    for x in arrays[1:]:
        if x.dtype != dtype:
            dtype = promotion.result_dtypes("maximum", (dtype, x.dtype))[1]
    return dtype


def tril(x: NDArray, k: int = 0) -> NDArray:
    """x on and below the k-th diagonal of its last two axes, 0 above it."""
    return elementwise.apply("where", _below("tril", x, k), x, _zero(x))


def triu(x: NDArray, k: int = 0) -> NDArray:
    """x on and above the k-th diagonal of its last two axes, 0 below it."""
    return elementwise.apply("where", _below("triu", x, k - 1), _zero(x), x)


def _zero(x: NDArray) -> Any:
    """The 0 that stands next to x without promoting it."""
    return False if x.dtype.kind == "b" else 0


def _below(name: str, x: NDArray, k: int) -> NDArray:
    """True on and below the k-th diagonal."""
    require_array(name, x)
    if x.ndim < 2:
        raise ShapeError(f"{name}: expected [..., m, n], got {describe(x)}.")
    rows, columns = x.shape[-2:]
    row = arange(rows, device=x.device).reshape((rows, 1))
    return arange(columns, device=x.device) <= row + k  # type: ignore[no-any-return]

"""What `x[key]` means: ints, slices, None and ... make a view, arrays pick elements.

A key with arrays is brought into a normal form, `AdvancedIndex`: one view, one reordering of its
axes, and an array of positions for each of some neighbouring axes. No data is looked at here.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from needle.backend_ndarray.layout import Layout, Shape, View
from needle.dtypes import is_integer
from needle.errors import DTypeError, OptionError, OutOfRangeError, describe

__all__ = [
    "AdvancedIndex",
    "basic_view",
    "ints_as_slices",
    "is_basic",
    "is_int",
    "process_slice",
    "split_advanced",
]

# where a mask is true: for each of its axes one integer array of positions
Nonzero = Callable[[Any], Sequence[Any]]

_WHOLE = slice(None)
_BASIC = frozenset({int, slice, type(None), type(...)})
_HASHABLE = _BASIC - {slice}  # which is hashable from Python 3.12 on
_BOUNDS = frozenset({int, type(None)})


def is_basic(key: Any) -> bool:
    """Whether a key has only ints, slices, None and ..., so that x[key] is a view."""
    parts = _parts(key)
    return _BASIC.issuperset(map(type, parts)) or all(
        type(part) in _BASIC or is_int(part) for part in parts
    )


def is_int(part: Any) -> bool:
    """True for Python's and NumPy's ints. A bool is a mask, and a 0-d array is an array."""
    if isinstance(part, bool) or (hasattr(part, "shape") and not isinstance(part, np.integer)):
        return False
    return hasattr(part, "__index__")


def _parts(key: Any) -> tuple[Any, ...]:
    return key if isinstance(key, tuple) else (key,)


def process_slice(part: slice, extent: int) -> slice:
    """A slice of an axis this long, with its start, stop and step as `range` takes them.

    >>> process_slice(slice(None, None, -2), 5)
    slice(4, -1, -2)
    """
    try:
        return slice(*part.indices(extent))
    except ValueError:
        raise OptionError(f"getitem: expected a step other than 0, got {part}.") from None
    except TypeError:
        raise DTypeError(f"getitem: expected a slice of ints, got {part}.") from None


def basic_view(layout: Layout, key: Any, keep_axes: bool = False) -> View:
    """The view x[key] for a key of ints, slices, None and ...

    keep_axes: an int leaves an axis of length 1, where NumPy (False) leaves none.
    Raises OutOfRangeError for an int outside its axis and for more indices than axes.
    """
    parts = tuple([p if type(p) in _HASHABLE else _hashable(p) for p in _parts(key)])
    found: View | None = layout.views.get((keep_axes, parts))
    if found is None:
        found = layout.remember((keep_axes, parts), _basic_view(layout, parts, keep_axes))
    return found


def _hashable(part: Any) -> Any:
    """A part of a key as it is remembered: an int, or a slice as a tuple."""
    if isinstance(part, slice):
        bounds = part.start, part.stop, part.step
        # 2.0 must not pass for a remembered 2
        return bounds if _BOUNDS.issuperset(map(type, bounds)) else _int_bounds(part)
    if is_int(part):
        return operator.index(part)
    raise DTypeError(f"getitem: expected ints, slices, None and ... as indices, got {part!r}.")


def _int_bounds(part: slice) -> tuple[int | None, ...]:
    bounds = part.start, part.stop, part.step
    try:
        return tuple([None if each is None else operator.index(each) for each in bounds])
    except TypeError:
        raise DTypeError(f"getitem: expected a slice of ints, got {part}.") from None


def _basic_view(layout: Layout, parts: tuple[Any, ...], keep_axes: bool) -> View:
    shape, strides, offset, axis = [], [], 0, 0
    for part in _without_ellipsis(parts, layout.shape):
        if part is None:
            shape.append(1)
            strides.append(0)
            continue
        extent, stride = layout.shape[axis], layout.strides[axis]
        if isinstance(part, int):
            offset += stride * _position(part, axis, layout.shape)
            if keep_axes:
                shape.append(1)
                strides.append(stride)
        else:
            taken = process_slice(slice(*part) if isinstance(part, tuple) else part, extent)
            length = len(range(taken.start, taken.stop, taken.step))
            offset += stride * taken.start if length else 0
            shape.append(length)
            # a step that is not taken may be too long for any stride
            strides.append(stride * taken.step if length > 1 else stride)
        axis += 1
    return layout.strided(tuple(shape), tuple(strides)), offset


def ints_as_slices(key: Any, shape: Shape) -> tuple[Any, ...]:
    """A key with a slice of length 1 for each int, beside arrays: the int keeps its axis."""
    parts = [_as_part(part) for part in _parts(key)]
    hidden = _axes_left(parts, shape)
    result: list[Any] = []
    axis = 0
    for part in parts:
        if isinstance(part, int):
            place = _position(part, axis, shape)
            part = slice(place, place + 1)
        result.append(part)
        axis += hidden if part is ... else _axes_taken(part)
    return tuple(result)


def _position(index: int, axis: int, shape: Shape) -> int:
    """`index` counted from the front. Raises OutOfRangeError."""
    extent = shape[axis]
    if not -extent <= index < extent:
        raise OutOfRangeError(
            f"getitem: expected an index in [{-extent}, {extent}) at axis {axis} of shape "
            f"{shape}, got {index}."
        )
    return index % extent


def _without_ellipsis(parts: Sequence[Any], shape: Shape) -> list[Any]:
    """Parts with `slice(None)` for each axis that ... stands for, or that none is given for."""
    hidden = _axes_left(parts, shape)
    place = next((place for place, part in enumerate(parts) if part is ...), len(parts))
    return [*parts[:place], *[_WHOLE] * hidden, *parts[place + 1 :]]


def _axes_left(parts: Sequence[Any], shape: Shape) -> int:
    """How many axes no part is for. Raises OutOfRangeError for too many parts, or two of ..."""
    given = sum(_axes_taken(part) for part in parts)
    if given > len(shape):
        raise OutOfRangeError(
            f"getitem: expected at most {len(shape)} indices for shape {shape}, got {given}."
        )
    times = sum(part is ... for part in parts)
    if times > 1:
        raise OutOfRangeError(f"getitem: expected ... at most once, got it {times} times.")
    return len(shape) - given


def _axes_taken(part: Any) -> int:
    """How many axes of x a part of a key is for."""
    if part is None or part is ...:
        return 0
    return part.ndim if _is_mask(part) else 1


def _is_mask(part: Any) -> bool:
    return hasattr(part, "shape") and bool(part.dtype == np.bool_)


@dataclass(frozen=True)
class AdvancedIndex:
    """The normal form of a key with arrays.

    x[key] is: the view x[basic], its axes permuted to `order`; there, the axes from `first` on,
    one per array and as long as `extents`, are replaced by axes of `shape`, to which the arrays
    broadcast, and along which they say which elements to take. Positions may be negative, and
    nothing is known of them yet.

    For x of shape (4, 5, 6, 7) and integer arrays i of shape (2, 1) and j of shape (3,):

    key                  basic             order         first  arrays  extents  result
    x[:, i, j]           [:, :, :]         (0, 1, 2, 3)      1  (i, j)  (5, 6)   (4, 2, 3, 7)
    x[i, 0, :, j]        [:, 0, :, :]      (0, 2, 1)         0  (i, j)  (4, 7)   (2, 3, 6)
    x[1:, None, ..., j]  [1:, None, :, :, :]  (0, ..., 4)    4  (j,)    (7,)     (3, 1, 5, 6, 3)

    A mask of r axes is r arrays; a bool is a mask of the axis of length 1 that a None makes.
    """

    basic: tuple[Any, ...]
    order: Shape
    first: int
    arrays: tuple[Any, ...]
    extents: Shape
    shape: Shape


def split_advanced(key: Any, shape: Shape, nonzero: Nonzero) -> AdvancedIndex:
    """The normal form of a key for an array of this shape, by NumPy's rules.

    Arrays in the key are of any kind that has shape, dtype and ndim; lists become NumPy arrays.
    nonzero: makes positions of a mask, which only the mask's device can do. It is called with
    masks of at least one axis, and may be called with NumPy's (for a bool in the key).
    Raises DTypeError for arrays that are not of integers or bools, OutOfRangeError for masks of a
    wrong shape and positions that do not broadcast together.
    """
    parts = [_as_part(part) for part in _parts(key)]
    basic: list[Any] = []
    arrays: list[Any] = []
    extents: list[int] = []
    indexed: list[int] = []  # axes of the view x[basic], in which ints leave no axis
    axis = view_axis = 0
    for part in _without_ellipsis(parts, shape):
        taken = _axes_taken(part)
        if hasattr(part, "shape"):
            found = _positions(part, axis, shape, nonzero)
            basic += [_WHOLE] * taken or [None]
            arrays += found
            extents += shape[axis : axis + taken] or (1,)
            indexed += range(view_axis, view_axis + len(found))
            view_axis += len(found)
        else:
            basic.append(part)
            view_axis += not isinstance(part, int)
        axis += taken
    order, first = _order(parts, indexed, view_axis)
    together = _broadcast(arrays)
    return AdvancedIndex(tuple(basic), order, first, tuple(arrays), tuple(extents), together)


def _order(parts: list[Any], indexed: list[int], ndim: int) -> tuple[Shape, int]:
    """The view's axes with the indexed ones side by side, and where the first of those then is.

    They stay in their place if no slice, None or ... stands between the arrays and ints of the
    key, even one for no axes; else they go in front.
    """
    chosen = [isinstance(part, int) or hasattr(part, "shape") for part in parts]
    together = "".join("x" if each else " " for each in chosen).split()
    if not indexed or len(together) == 1:
        return tuple(range(ndim)), indexed[0] if indexed else 0
    return (*indexed, *[axis for axis in range(ndim) if axis not in indexed]), 0


def _broadcast(arrays: list[Any]) -> Shape:
    """The shape that index arrays have together."""
    try:
        return np.broadcast_shapes(*[array.shape for array in arrays])
    except ValueError:
        raise OutOfRangeError(
            "getitem: expected index arrays whose shapes broadcast together, "
            f"got {describe(*arrays)}."
        ) from None


def _as_part(part: Any) -> Any:
    """A part of a key with lists and bools as arrays and ints as Python's."""
    if part is None or part is ... or isinstance(part, slice):
        return part
    if is_int(part):
        return operator.index(part)
    if isinstance(part, (bool, list, tuple, range)):
        part = _as_array(part)
    if not hasattr(part, "shape"):
        raise DTypeError(
            f"getitem: expected ints, slices, None, ... and arrays as indices, got {part!r}."
        )
    if not is_integer(part.dtype) and not _is_mask(part):
        raise DTypeError(f"getitem: expected integer or bool indices, got {describe(part)}.")
    return part


def _as_array(part: Any) -> Any:
    """NumPy's array of a bool or a list; of integers if that is empty."""
    try:
        array = np.asarray(part)
    except ValueError:  # rows of several lengths
        return part
    return array if array.size else array.astype(np.int64)


def _positions(part: Any, axis: int, shape: Shape, nonzero: Nonzero) -> list[Any]:
    """The integer arrays, one per axis, that an array in a key stands for."""
    if not _is_mask(part):
        return [part]
    expected = shape[axis : axis + part.ndim]
    if part.shape != expected:
        raise OutOfRangeError(
            f"getitem: expected a mask of shape {expected} at axis {axis} of shape {shape}, "
            f"got {describe(part)}."
        )
    return list(nonzero(part if part.ndim else part.reshape((1,))))

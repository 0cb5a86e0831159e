"""How an array lies in memory, and every view of it: arithmetic on shapes and strides, no data.

A `Layout` is device, dtype, shape and strides. Equal layouts are one object for as long as anybody
holds it, so that a table of plans can be searched by identity. The methods marked as views give
`(layout, change of offset)`, strides and offsets being counted in elements, and are remembered by
the layout they start from.
"""

from __future__ import annotations

import math
import operator
import os
from collections.abc import Callable, Hashable, Sequence
from functools import wraps
from threading import RLock
from typing import Any, Concatenate, ParamSpec, TypeVar
from weakref import WeakValueDictionary

import numpy as np

from needle.errors import AxisError, DTypeError, OutOfRangeError, ShapeError, describe

__all__ = [
    "Layout",
    "Shape",
    "View",
    "as_shape",
    "compact_strides",
    "normalize_axes",
    "require_extents",
    "result_strides",
]

Shape = tuple[int, ...]
View = tuple["Layout", int]
P = ParamSpec("P")
T = TypeVar("T")

_MOST_LAYOUTS = 4096
_MOST_VIEWS = 1024  # of one layout
_MISSING: Any = object()
_INT = frozenset({int})
_MOST = 2**63 - 1  # what an address, or a count of bytes, can be
_MOST_AXES = 64  # as in NumPy, which looks at the memory

_layouts: dict[Hashable, Layout] = {}  # those of late, to be found fast
_alive: WeakValueDictionary[Hashable, Layout] = WeakValueDictionary()  # all that anybody holds
_making = RLock()  # of two threads that ask for one layout at once, both get the same object


def _renew_lock() -> None:
    """After a fork nobody holds the lock, whoever held it before."""
    global _making
    _making = RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_lock)


def compact_strides(shape: Sequence[int]) -> Shape:
    """Strides, in elements, of an array that lies row after row without gaps.

    >>> compact_strides((2, 3, 4))
    (12, 4, 1)
    """
    strides, step = [], 1
    for extent in reversed(shape):
        strides.append(step)
        step *= extent or 1
    return tuple(reversed(strides))


def as_shape(op: str, shape: Any) -> Shape:
    """A shape, axes or another row of ints as a tuple of Python's ints; an int as a row of one."""
    if type(shape) is tuple and _INT.issuperset(map(type, shape)):
        return shape
    try:
        return (operator.index(shape),)
    except TypeError:
        pass
    try:
        return tuple([operator.index(extent) for extent in shape])
    except TypeError:
        raise DTypeError(f"{op}: expected ints, got {shape!r}.") from None


def require_extents(op: str, shape: Shape, itemsize: int = 1) -> None:
    """Raise ShapeError, naming the op, for extents that no memory could ever have."""
    if any(n < 0 for n in shape):
        raise ShapeError(f"{op}: expected extents of 0 or more, got {shape}.")
    if math.prod(n or 1 for n in shape) * itemsize > _MOST or len(shape) > _MOST_AXES:
        raise ShapeError(
            f"{op}: expected at most {_MOST_AXES} axes and 2**63 - 1 bytes, got shape {shape} of "
            f"elements of {itemsize} bytes."
        )


def normalize_axes(op: str, axes: Any, ndim: int) -> Shape:
    """An axis, or a row of axes, as numbers in 0..ndim-1; None means all.

    Raises AxisError for an axis that is not there or is named twice.
    """
    if axes is None:
        return tuple(range(ndim))
    numbers = as_shape(op, axes)
    for number in numbers:
        if not -ndim <= number < ndim:
            raise AxisError(
                f"{op}: expected axes in [{-ndim}, {ndim}) of an array with {ndim} axes, "
                f"got {number}."
            )
    found = tuple([number % ndim for number in numbers])
    if len(set(found)) != len(found):
        raise AxisError(f"{op}: expected each axis once, got {numbers}.")
    return found


def _remembered(make: Callable[Concatenate[Layout, P], T]) -> Callable[Concatenate[Layout, P], T]:
    """A method whose results the layout keeps, by the arguments; those have to be hashable."""
    kind = make.__name__

    @wraps(make)
    def method(self: Layout, /, *args: P.args, **kwargs: P.kwargs) -> T:
        key = (kind, args, *kwargs.items()) if kwargs else (kind, args)
        found = self.views.get(key, _MISSING)
        if found is _MISSING:
            return self.remember(key, make(self, *args, **kwargs))
        return found  # type: ignore[no-any-return]

    return method


class Layout:
    """Device, dtype, shape and strides (in elements) of an array. Made by `Layout.of` only.

    compact: whether the elements lie row after row without gaps. Axes of length 1 do not matter
    to that, and an array without elements always does, as in NumPy.
    repeats: whether it shows an element more than once, by a stride of 0, or is a view of what
    does. Nothing is written to such an array, so that a write changes one element.

    >>> layout = Layout.of("cpu", np.dtype("float32"), (2, 3))
    >>> layout.permute((1, 0))
    (Layout(float32[3,2], strides (1, 3), cpu), 0)
    """

    __slots__ = (
        "__weakref__",
        "compact",
        "device",
        "dtype",
        "itemsize",
        "nbytes",
        "ndim",
        "repeats",
        "shape",
        "size",
        "strides",
        "views",
    )

    def __init__(
        self, device: Any, dtype: np.dtype[Any], shape: Shape, strides: Shape, repeats: bool
    ) -> None:
        require_extents("array", shape, dtype.itemsize)
        self.repeats = repeats
        self.device, self.dtype, self.shape, self.strides = device, dtype, shape, strides
        self.ndim, self.size, self.itemsize = len(shape), math.prod(shape), dtype.itemsize
        self.nbytes = self.size * self.itemsize
        self.compact = self.size == 0 or all(
            n == 1 or step == plain
            for n, step, plain in zip(shape, strides, compact_strides(shape), strict=True)
        )
        self.views: dict[Hashable, Any] = {}

    @staticmethod
    def of(
        device: Any,
        dtype: np.dtype[Any],
        shape: Shape,
        strides: Shape | None = None,
        repeats: bool = False,
    ) -> Layout:
        """The layout of these; the same object each time. Without strides, the compact one.

        repeats: True for a view of an array that repeats; else the strides tell.
        """
        if strides is None:
            strides = compact_strides(shape)
        key = (device, dtype, shape, strides, repeats)
        found = _layouts.get(key)
        if found is None:
            repeats = repeats or _repeats(shape, strides)
            with _making:
                found = _layouts[key] = _the_one(device, dtype, shape, strides, repeats)
        return found

    def __repr__(self) -> str:
        return f"Layout({describe(self)}, strides {self.strides}, {self.device})"

    def remember(self, key: Hashable, view: T) -> T:
        """Keep a view under `key` in `views`, and hand it back."""
        if len(self.views) >= _MOST_VIEWS:
            self.views.clear()
        self.views[key] = view
        return view

    def strided(self, shape: Shape, strides: Shape) -> Layout:
        """The same device and dtype with this shape and these strides, unchecked: of a view."""
        return Layout.of(self.device, self.dtype, shape, strides, self.repeats)

    @_remembered
    def moved(self, device: Any) -> Layout:
        """The compact layout of the same shape and dtype on another device: of a copy."""
        return Layout.of(device, self.dtype, self.shape)

    @_remembered
    def with_dtype(self, dtype: np.dtype[Any]) -> Layout:
        """The compact layout of the same shape in another dtype: of a copy."""
        return Layout.of(self.device, dtype, self.shape)

    @_remembered
    def reach(self) -> tuple[int, int]:
        """Where the lowest and the highest element lie, counted from the first; it has elements."""
        return _reach(self.shape, self.strides)

    @_remembered
    def permute(self, axes: Shape) -> View:
        """A view whose axis i is this array's axis `axes[i]`; each axis is named once."""
        order = normalize_axes("permute", axes, self.ndim)
        if len(order) != self.ndim:
            raise AxisError(f"permute: expected every axis of {describe(self)}, got {axes}.")
        return self._picked(order), 0

    @_remembered
    def swapaxes(self, first: int, second: int) -> View:
        """A view with two axes exchanged."""
        a, b = (normalize_axes("swapaxes", (axis,), self.ndim)[0] for axis in (first, second))
        order = list(range(self.ndim))
        order[a], order[b] = b, a
        return self._picked(order), 0

    def _picked(self, axes: Sequence[int]) -> Layout:
        """The layout of these axes, in this order."""
        return self.strided(
            tuple([self.shape[axis] for axis in axes]),
            tuple([self.strides[axis] for axis in axes]),
        )

    @_remembered
    def reshape(self, shape: Shape) -> View | None:
        """A view of another shape, one extent of which may be -1; None if only a copy will do."""
        shape = self._complete(shape)
        if shape == self.shape:
            return self, 0
        strides = compact_strides(shape) if self.compact else _regrouped_strides(self, shape)
        return None if strides is None else (self.strided(shape, strides), 0)

    def _complete(self, shape: Shape) -> Shape:
        """`shape` with -1 replaced. Raises ShapeError unless it has as many elements."""
        given = as_shape("reshape", shape)
        unknown, known = given.count(-1), math.prod(n for n in given if n != -1)
        if unknown > 1 or any(n < -1 for n in given):
            raise ShapeError(f"reshape: expected extents from 0 and at most one -1, got {given}.")
        fits = known == self.size if not unknown else known and self.size % known == 0
        if not fits:
            raise ShapeError(
                f"reshape: expected as many elements as {describe(self)} has, got shape {given}."
            )
        return tuple([self.size // known if n == -1 else n for n in given])

    @_remembered
    def broadcast_to(self, shape: Shape) -> View:
        """A view in which axes of length 1, and new axes in front, repeat: their stride is 0."""
        target = as_shape("broadcast_to", shape)
        new = len(target) - self.ndim
        fits = new >= 0 and all(n in (1, m) for n, m in zip(self.shape, target[new:], strict=True))
        if not fits or any(n < 0 for n in target):
            raise ShapeError(
                f"broadcast_to: expected a shape that {describe(self)} broadcasts to, got {target}."
            )
        repeated = [0 if n == 1 else step for n, step in zip(self.shape, self.strides, strict=True)]
        require_extents("broadcast_to", target, self.itemsize)
        return self.strided(target, (0,) * new + tuple(repeated)), 0

    @_remembered
    def flip(self, axes: Shape | None) -> View:
        """A view that runs backwards along these axes; None means all."""
        strides, offset = list(self.strides), 0
        for axis in normalize_axes("flip", axes, self.ndim):
            if self.shape[axis]:
                offset += (self.shape[axis] - 1) * strides[axis]
                strides[axis] = -strides[axis]
        return self.strided(self.shape, tuple(strides)), offset

    @_remembered
    def expand_dims(self, axes: Shape) -> View:
        """A view with axes of length 1 at these places of the result."""
        places = normalize_axes("expand_dims", axes, self.ndim + len(axes))
        extents = iter(self.shape)
        shape = tuple([1 if i in places else next(extents) for i in range(self.ndim + len(axes))])
        view = self.reshape(shape)
        assert view is not None, "axes of length 1 fit in anywhere"
        return view

    @_remembered
    def squeeze(self, axes: Shape | None) -> View:
        """A view without these axes, which have length 1; None means all of length 1."""
        if axes is None:
            gone: Shape = tuple([axis for axis, n in enumerate(self.shape) if n == 1])
        else:
            gone = normalize_axes("squeeze", axes, self.ndim)
        for axis in gone:
            if self.shape[axis] != 1:
                raise ShapeError(
                    f"squeeze: expected axes of length 1, got axis {axis} of {describe(self)}."
                )
        return self._picked([axis for axis in range(self.ndim) if axis not in gone]), 0

    @_remembered
    def merge_axes(self, groups: tuple[Shape, ...]) -> View:
        """A view with one axis per group, on which the group's axes are walked in step.

        Each axis is in one group. `x.merge_axes(((0, 2), (1,)))` has the elements x[i, j, i].
        """
        axes = normalize_axes("merge_axes", [axis for group in groups for axis in group], self.ndim)
        if len(axes) != self.ndim or () in groups:
            raise AxisError(f"merge_axes: expected each axis of {describe(self)}, got {groups}.")
        shape, strides = [], []
        for group in groups:
            extents = {self.shape[axis] for axis in group}
            if len(extents) > 1:
                raise ShapeError(
                    f"merge_axes: expected axes {group} of one length, got {describe(self)}."
                )
            shape.append(extents.pop())
            strides.append(sum(self.strides[axis] for axis in group))
        return self.strided(tuple(shape), tuple(strides)), 0

    @_remembered
    def windows(self, axes: Shape, sizes: Shape, strides: Shape, dilations: Shape) -> View:
        """A view of windows: axis `axes[i]` counts them, a new axis at the end walks through one.

        A window has `sizes[i]` elements, `dilations[i]` apart; the next begins `strides[i]` on. All
        of them fit into the array. Nothing is written to the view, as windows overlap.
        Raises ShapeError for windows that are longer than the axis.
        """
        shape, steps = list(self.shape), list(self.strides)
        for axis, size, stride, dilation in zip(axes, sizes, strides, dilations, strict=True):
            span = (size - 1) * dilation + 1
            if span > max(shape[axis], 1):
                raise ShapeError(
                    f"windows: expected windows that fit along axis {axis} of {describe(self)}, "
                    f"got {size} elements {dilation} apart."
                )
            shape[axis] = (shape[axis] - span) // stride + 1
            steps[axis] *= stride
            steps.append(self.strides[axis] * dilation)
        return Layout.of(self.device, self.dtype, (*shape, *sizes), tuple(steps), repeats=True), 0

    @_remembered
    def as_strided(
        self, shape: Shape, strides: Shape, offset: int, memory_size: int, op: str = "as_strided"
    ) -> View:
        """A view of any shape and strides from the array's first element on.

        That element is the one at `offset` of the `memory_size` elements of its memory, and the
        view must not leave them: OutOfRangeError, in which `op` is named.
        """
        shape, strides = as_shape(op, shape), as_shape(op, strides)
        too_long = any(abs(step) * self.itemsize > _MOST for step in strides)
        if len(shape) != len(strides) or any(n < 0 for n in shape) or too_long:
            raise ShapeError(
                f"{op}: expected extents from 0 and as many strides within 2**63 bytes, "
                f"got shape {shape} and strides {strides}."
            )
        require_extents(op, shape, self.itemsize)
        first, last = _reach(shape, strides)
        if 0 not in shape and not 0 <= offset + first <= offset + last < memory_size:
            raise OutOfRangeError(
                f"{op}: expected a view within the memory's {memory_size} elements, got "
                f"shape {shape} and strides {strides}, which reach from {offset + first} to "
                f"{offset + last}."
            )
        return self.strided(shape, strides), 0


def _the_one(
    device: Any, dtype: np.dtype[Any], shape: Shape, strides: Shape, repeats: bool
) -> Layout:
    """The layout of these that somebody holds, or a new one; room is made in the table first.

    Layouts that leave it forget their views, which remember them in turn: no circle is left.
    """
    if len(_layouts) >= _MOST_LAYOUTS:
        for layout in _layouts.values():
            layout.views.clear()
        _layouts.clear()
    key = (device, dtype, shape, strides, repeats)
    found = _alive.get(key)
    if found is None:
        found = _alive[key] = Layout(device, dtype, shape, strides, repeats)
    return found


def _reach(shape: Shape, strides: Shape) -> tuple[int, int]:
    """Where the lowest and the highest element lie, counted from the first."""
    spans = [(n - 1) * step for n, step in zip(shape, strides, strict=True)]
    return sum(span for span in spans if span < 0), sum(span for span in spans if span > 0)


def _repeats(shape: Shape, strides: Shape) -> bool:
    """Whether an axis shows the same elements again and again."""
    return 0 not in shape and any(n > 1 and not s for n, s in zip(shape, strides, strict=True))


def _regrouped_strides(layout: Layout, shape: Shape) -> Shape | None:
    """Strides with which `shape` walks the same elements, if there are any.

    Both shapes are cut into the shortest groups of axes with equally many elements. A group of
    the old axes that lies without gaps is walked by any new axes. The layout has elements.
    """
    axes = [(n, s) for n, s in zip(layout.shape, layout.strides, strict=True) if n != 1]
    extents = iter(shape)
    strides: list[int] = []
    while axes:
        old, new = [axes.pop(0)], [next(extents)]
        while (length := math.prod(n for n, _ in old)) != math.prod(new):
            if math.prod(new) < length:
                new.append(next(extents))
            else:
                old.append(axes.pop(0))
        step = old[-1][1]
        if [s for _, s in old] != [step * s for s in compact_strides([n for n, _ in old])]:
            return None
        strides += [step * s for s in compact_strides(new)]
    return tuple(strides + strides[-1:] * (len(shape) - len(strides)))  # what is left are 1s


def result_strides(shape: Shape, layouts: Sequence[Layout]) -> Shape:
    """Strides of a fresh elementwise result, laid out as its inputs lie (NumPy's order "K").

    The layouts have been broadcast to `shape`. An axis goes inside another if every input that
    moves along both takes shorter steps on it; where they disagree, or none moves along both,
    the axes stay in order.
    """
    rows = [
        [0 if n == 1 else abs(step) for n, step in zip(shape, layout.strides, strict=True)]
        for layout in layouts
    ]
    order: list[int] = []  # innermost first
    for axis in reversed(range(len(shape))):
        place = len(order)
        for position in reversed(range(len(order))):
            other = order[position]
            both = [(row[axis], row[other]) for row in rows if row[axis] and row[other]]
            if any(step >= step_of_other for step, step_of_other in both):
                break
            if both:
                place = position
        order.insert(place, axis)
    strides, step = [0] * len(shape), 1
    for axis in order:
        strides[axis] = step
        step *= shape[axis] or 1
    return tuple(strides)

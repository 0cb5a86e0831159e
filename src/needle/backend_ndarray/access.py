"""x[key] and x[key] = value: views for ints and slices, gathers and scatters for arrays."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from needle.backend_ndarray import indexing
from needle.backend_ndarray.creation import (
    arange,
    array,
    as_numbers,
    assign_plan,
    fill_plan,
    filled,
    memory_for,
)
from needle.backend_ndarray.elementwise import (
    apply,
    as_operand,
    broadcast_shapes,
    goes_first,
    one_device,
)
from needle.backend_ndarray.flat import Flat
from needle.backend_ndarray.layout import Layout, Shape, normalize_axes, require_extents
from needle.backend_ndarray.ndarray import NDArray, new_array
from needle.backend_ndarray.plans import Plan, Plans, checked
from needle.backend_ndarray.promotion import stored
from needle.errors import (
    DTypeError,
    OptionError,
    OutOfRangeError,
    ShapeError,
    describe,
    kind_of,
)
from needle.fixed import fixed

__all__ = [
    "along",
    "assign",
    "getitem",
    "index",
    "put",
    "put_parts",
    "scatter_add",
    "scatter_along",
    "setitem",
    "take_along",
]

_LONGEST_KEPT = 4096
_MOST = np.iinfo(np.int64).max

_assignments = Plans()
_gathers = Plans()
_scatters = Plans()


def getitem(x: NDArray, key: Any) -> NDArray:
    """x[key]; an int leaves an axis of length 1, which NumPy takes away."""
    if indexing.is_basic(key):
        return x._view(indexing.basic_view(x._layout, key, True))
    return index(x, indexing.ints_as_slices(key, x.shape))


def index(x: NDArray, key: Any) -> NDArray:
    """x[key] by NumPy's rules: ints drop their axes; a view if the key has no arrays."""
    if indexing.is_basic(key):
        return x._view(indexing.basic_view(x._layout, key, False))
    form = indexing.split_advanced(_on_device(key, x), x.shape, _nonzero)
    view = x._view(indexing.basic_view(x._layout, form.basic, False)).permute(form.order)
    return _gather(view, form.arrays, form.first)


def _on_device(key: Any, x: NDArray) -> tuple[Any, ...]:
    """The key with NDArrays of x's device for lists and NumPy arrays."""
    parts = key if isinstance(key, tuple) else (key,)
    result: list[Any] = []
    for part in parts:
        if isinstance(part, (list, range)):
            part = np.asarray(part, dtype=None if len(part) else np.int64)
        if isinstance(part, (np.ndarray, np.bool_, bool)):
            values = np.asarray(part)
            part = array(values, values.dtype, x.device)
        if isinstance(part, Flat):
            part = part[:]
        _require_place("getitem", part, x)
        result.append(part)
    return tuple(result)


def _require_place(name: str, part: Any, x: NDArray) -> None:
    """Raise unless a part of a key, if it is an array, lies where x does."""
    if not isinstance(part, NDArray):
        _require_no_tensor(name, part)
    elif part.device != x.device:
        one_device(name, [x, part])


def _require_no_tensor(name: str, value: Any) -> None:
    """Raise DTypeError for what has a graph, which indices and what is written cannot be in."""
    if goes_first(value):
        raise DTypeError(
            f"{name}: expected an NDArray, got {kind_of(value)}, {describe(value)}. "
            "Use its array, realize_cached_data()."
        )


def _nonzero(mask: NDArray) -> tuple[NDArray, ...]:
    """Where a mask is true: its data decides on the result's shape."""
    places: Any = np.nonzero(np.asarray(mask))
    if not mask.device.has_memory:  # what values a trace has stay as they are
        places = map(fixed, places)
    return tuple([array(i, "int64", mask.device) for i in places])


def _gather(x: NDArray, indices: Sequence[NDArray], axis: int) -> NDArray:
    views = _index_views(x, indices)
    key = (x._layout, axis, *[i._layout for i in views])
    plan = _gathers.get(key)
    if plan is None:
        where = views[0].shape
        shape = x.shape[:axis] + where + x.shape[axis + len(views) :]
        device = one_device("getitem", [x, *views])
        out = Layout.of(device, x.dtype, shape)
        run = device.gather(x._layout, [i._layout for i in views], axis, out)
        plan = _gathers.keep(key, Plan(out, checked("getitem", run, out)))
    return new_array(plan.layout, _run("getitem", plan, x, views, indices, x.shape[axis:]))


def _index_views(x: NDArray, indices: Sequence[Any]) -> list[NDArray]:
    """Index arrays as int64, of one shape."""
    arrays = [i if i.dtype == np.int64 else _as_int64(i) for i in indices]
    shape = broadcast_shapes("getitem", arrays)
    return [i if i.shape == shape else i.broadcast_to(shape) for i in arrays]


def _as_int64(i: NDArray) -> NDArray:
    """Positions as int64; one too large for that stays too large, and is found to be so."""
    if i.dtype == np.uint64:
        i = apply("minimum", i, _MOST)
    return i.astype("int64")  # type: ignore[no-any-return]


def _run(
    name: str,
    plan: Plan,
    x: NDArray,
    views: Sequence[NDArray],
    indices: Sequence[NDArray],
    extents: Sequence[int],
) -> Any:
    """Run a plan on x and int64 views of the indices, which are there for the message."""
    arguments: list[Any] = [x._memory, x._offset]
    for i in views:
        arguments += (i._memory, i._offset)
    try:
        return plan.run(*arguments)
    except IndexError as error:
        if not error.args or not isinstance(error.args[0], int):
            raise
        given = [i.broadcast_to(view.shape) for i, view in zip(indices, views, strict=True)]
        raise _out_of_range(name, error.args[0], given, extents) from None


def _out_of_range(
    name: str, position: int, indices: Sequence[NDArray], extents: Sequence[int]
) -> OutOfRangeError:
    """Which index it was, and where it should have been."""
    for i, extent in zip(indices, extents, strict=False):
        number = int(np.asarray(i).reshape(-1)[position])
        if not -extent <= number < extent:
            return _outside(name, number, extent)
    return OutOfRangeError(f"{name}: expected indices within {tuple(extents)}.")


def _outside(name: str, index: int, extent: int) -> OutOfRangeError:
    return OutOfRangeError(f"{name}: expected indices in [{-extent}, {extent}), got {index}.")


def scatter_add(shape: Sequence[int], key: Any, values: NDArray) -> NDArray:
    """Zeros of `shape` with `values` added at `key`; places named twice get both."""
    shape = tuple(shape)
    if indexing.is_basic(key):
        return put(shape, key, values)
    form = indexing.split_advanced(_on_device(key, values), shape, _nonzero)
    whole = filled("scatter_add", Layout.of(values.device, values.dtype, shape), 0)
    view = whole._view(indexing.basic_view(whole._layout, form.basic, False)).permute(form.order)
    added = _scatter(view.shape, form.arrays, form.first, values)
    _assign_view(view, added)
    return whole


def _scatter(
    shape: tuple[int, ...], indices: Sequence[NDArray], axis: int, values: NDArray
) -> NDArray:
    views = _index_views(values, indices)
    where = views[0].shape
    values = values.broadcast_to(shape[:axis] + where + shape[axis + len(views) :])
    key = (values._layout, shape, axis, *[i._layout for i in views])
    plan = _scatters.get(key)
    if plan is None:
        device = one_device("scatter_add", [values, *views])
        out = Layout.of(device, values.dtype, shape)
        run = device.scatter_add(values._layout, [i._layout for i in views], axis, out)
        plan = _scatters.keep(key, Plan(out, checked("scatter_add", run, out)))
    return new_array(plan.layout, _run("scatter_add", plan, values, views, indices, shape[axis:]))


def put(shape: Sequence[int], key: Any, values: NDArray) -> NDArray:
    """Zeros of `shape` with `values` at a key of ints and slices, which drop axes as NumPy's."""
    shape = tuple(shape)
    require_extents("put", shape)
    out = filled("put", Layout.of(values.device, values.dtype, shape), 0)
    _assign_view(out._view(indexing.basic_view(out._layout, key, False)), values)
    return out


def put_parts(
    shape: Sequence[int], keys: Sequence[Any], parts: Sequence[NDArray], like: NDArray
) -> NDArray:
    """Zeros of `shape`, of the dtype of `like`, with each of `parts` at its key, as in `put`.

    No place is in two keys: if they have as many as the array, no zeros are written first.
    """
    shape = tuple(shape)
    require_extents("put_parts", shape)
    layout = Layout.of(like.device, like.dtype, shape)
    views = [indexing.basic_view(layout, key, False) for key in keys]
    if sum(view.size for view, _ in views) == layout.size:
        out = new_array(layout, memory_for("put_parts", layout))
    else:
        out = filled("put_parts", layout, 0)
    for view, part in zip(views, parts, strict=True):
        _assign_view(out._view(view), part)
    return out


def setitem(x: NDArray, key: Any, value: Any) -> None:
    """x[key] = value, written through to the memory that x shares with its views.

    value   a number, or an array that broadcasts to the place or has as many elements
    Raises OptionError for an x that shows elements more than once, and for views of such.
    """
    if indexing.is_basic(key):
        assign(x, key, value)
        return
    _require_own_places(x)
    _set_advanced(x, key, value)


def assign(x: NDArray, key: Any, value: Any) -> None:
    """x[key] = value for a key without arrays."""
    _require_own_places(x)
    _assign_view(x._view(indexing.basic_view(x._layout, key, True)), value)


def _require_own_places(x: NDArray) -> None:
    """Raise OptionError for a broadcast array: one write would show in several places."""
    if x._layout.repeats:
        raise OptionError(
            f"setitem: expected an element of its own at each place of {describe(x)}, got "
            f"strides {x.strides}, of a broadcast array or a view of one. Use compact()."
        )


def _value(value: Any, place: NDArray) -> Any:
    """What is to be written: an NDArray or a Python number. Lists take the place's dtype."""
    if isinstance(value, NDArray):
        return value
    if isinstance(value, Flat):
        return value[:]
    if isinstance(value, (list, tuple, range)):
        value = as_numbers(value, place.dtype, "setitem")
        return array(value, place.dtype, place.device)
    _require_no_tensor("setitem", value)
    return as_operand("setitem", value, place)


def _assign_view(place: NDArray, value: Any) -> None:
    value = _value(value, place)
    if not isinstance(value, NDArray):
        plan = fill_plan(place._layout)
        plan.run(place._memory, place._offset, stored(value, place.dtype))
        return
    same_place = value._memory is place._memory and value._offset == place._offset
    if same_place and value._layout is place._layout:
        return  # the second half of x[0] += 1
    if one_device("setitem", [place, value]) != place.device:
        value._shared()  # has no data, which it says
    source = _fitted(place, value)
    if _may_overlap(source, place):
        source = source.astype(source.dtype)
    key = (source._layout, place._layout)
    plan = _assignments.find(key, lambda: assign_plan(source._layout, place._layout))
    plan.run(source._memory, source._offset, place._memory, place._offset)


def _may_overlap(source: NDArray, place: NDArray) -> bool:
    """Whether writing to `place` may change what is yet to be read of `source`."""
    if not place.device.has_memory:
        return source._memory is place._memory
    if not place.size:
        return False
    begin, end = _bytes_of(source)
    start, stop = _bytes_of(place)
    if source._layout is place._layout and begin == start:
        return False  # each element is read before it is written, and only then
    return begin < stop and start < end


def _bytes_of(x: NDArray) -> tuple[int, int]:
    """The addresses between which an array's elements lie."""
    first, last = x._layout.reach()
    start, itemsize = x.device.address(x._memory), x._layout.itemsize
    return start + (x._offset + first) * itemsize, start + (x._offset + last + 1) * itemsize


def _fitted(place: NDArray | Layout, value: NDArray) -> NDArray:
    """`value` in the place's shape: broadcast, or rearranged where it has as many elements."""
    if value.shape == place.shape:
        return value
    extra = value.ndim - place.ndim
    if extra > 0 and value.size != place.size and value.shape[:extra] == (1,) * extra:
        value = value.reshape(value.shape[extra:])
    try:
        return value.broadcast_to(place.shape)
    except ShapeError:
        if value.size != place.size:
            raise ShapeError(
                f"setitem: expected a value that fits {describe(place)}, got {describe(value)}."
            ) from None
        return value.reshape(place.shape)


def _set_advanced(x: NDArray, key: Any, value: Any) -> None:
    """Where the key has arrays: through NumPy, on the device's own memory."""
    whole = x._shared()
    parts = [p[:] if isinstance(p, Flat) else p for p in indexing.ints_as_slices(key, x.shape)]
    for part in parts:
        _require_place("setitem", part, x)
    arrays = [np.asarray(part) if isinstance(part, NDArray) else part for part in parts]
    form = indexing.split_advanced(tuple(arrays), x.shape, np.nonzero)
    if 0 not in form.shape:  # where nothing is picked, NumPy looks at no index
        _require_within(form)
    basic = (*form.basic, ...)  # which makes it a view even of a 0-d array
    view = whole[basic].transpose(form.order)
    after = view.shape[form.first + len(form.arrays) :]
    place = view.shape[: form.first] + form.shape + after
    view[(slice(None),) * form.first + form.arrays] = _values_for(x, place, value)


def _require_within(form: indexing.AdvancedIndex) -> None:
    for index, extent in zip(form.arrays, form.extents, strict=True):
        wrong = index[(index < -extent) | (index >= extent)]
        if wrong.size:
            raise _outside("setitem", wrong[0], extent)


def _values_for(x: NDArray, shape: Shape, value: Any) -> Any:
    """What is written to places of that shape in x: a number, or a NumPy array that fits."""
    value = _value(value, x)
    if not isinstance(value, NDArray):
        return stored(value, x.dtype)
    one_device("setitem", [x, value])
    value = value.astype(x.dtype, copy=_may_overlap(value, x))  # as the device converts
    return np.asarray(_fitted(Layout.of(x.device, x.dtype, shape), value))


def take_along(x: NDArray, indices: NDArray, axis: int) -> NDArray:
    """y[..., j, ...] = x[..., indices[..., j, ...], ...] along `axis`; other axes broadcast."""
    one_device("take_along", [x, indices])
    return _gather(x, along(x.shape, indices, axis), 0)


def scatter_along(shape: Sequence[int], indices: NDArray, axis: int, values: NDArray) -> NDArray:
    """Zeros of `shape` with `values` added at the places that `take_along` reads."""
    one_device("scatter_along", [indices, values])
    return _scatter(tuple(shape), along(shape, indices, axis), 0, values)


def along(shape: Sequence[int], indices: NDArray, axis: int) -> tuple[NDArray, ...]:
    """An index that runs over every axis in step, and along `axis` through `indices`."""
    (place,) = normalize_axes("take_along", (axis,), len(shape))
    if indices.ndim != len(shape):
        raise ShapeError(
            f"take_along: expected indices with {len(shape)} axes, got {describe(indices)}."
        )
    mesh = []
    for position, extent in enumerate(shape):
        line = (1,) * position + (extent,) + (1,) * (len(shape) - position - 1)
        mesh.append(indices if position == place else _ids_along(extent, line, indices.device))
    return tuple(mesh)


def _ids_along(extent: int, line: tuple[int, ...], device: Any) -> NDArray:
    """0, 1, ... along one axis; short ones are kept, as every step of training asks for them."""
    short = extent <= _LONGEST_KEPT and device.has_memory
    return (_kept_ids if short else _fresh_ids)(extent, line, device)


def _fresh_ids(extent: int, line: tuple[int, ...], device: Any) -> NDArray:
    return arange(extent, device=device).reshape(line)


_kept_ids = lru_cache(maxsize=64)(_fresh_ids)

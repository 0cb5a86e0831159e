"""Keys of every kind against NumPy: views by their layout, arrays through their normal form."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from ndarray.laid_over import layout_of, seen
from strategies import SEEDS, arrays, shapes

from needle.backend_ndarray.indexing import (
    basic_view,
    is_basic,
    process_slice,
    split_advanced,
)
from needle.backend_ndarray.layout import Layout
from needle.errors import DTypeError, NeedleError, OptionError, OutOfRangeError


@st.composite
def keyed(draw: Any) -> tuple[np.ndarray, Any]:
    """An array in any layout, and a key of ints, slices, None and ... for it."""
    array = draw(arrays(draw(shapes())))
    return array, draw(hnp.basic_indices(array.shape, allow_newaxis=True, max_dims=6))


@given(keyed())
def test_basic_keys_give_numpys_view(pair: tuple[np.ndarray, Any]) -> None:
    array, key = pair
    assert is_basic(key)
    expected = array[(*key, ...) if isinstance(key, tuple) and ... not in key else key]
    layout, offset = basic_view(layout_of(array), key)
    np.testing.assert_array_equal(seen(array, (layout, offset)), expected)
    if expected.size:
        assert tuple([stride * 8 for stride in layout.strides]) == expected.strides


@given(keyed())
def test_an_int_leaves_its_axis_where_axes_are_kept(pair: tuple[np.ndarray, Any]) -> None:
    array, key = pair
    parts = key if isinstance(key, tuple) else (key,)
    ranges = [slice(part, part + 1 or None) if isinstance(part, int) else part for part in parts]
    view = basic_view(layout_of(array), key, keep_axes=True)
    np.testing.assert_array_equal(seen(array, view), array[tuple(ranges)])
    assert view[0].ndim == array.ndim + parts.count(None)


def test_a_key_is_worked_out_once() -> None:
    layout = Layout.of("cpu", np.dtype("float32"), (4, 5))
    key = (slice(1, None), 2)
    assert basic_view(layout, key) is basic_view(layout, key)
    assert basic_view(layout, (slice(1, None), np.int64(2))) is basic_view(layout, key)
    assert basic_view(layout, key) != basic_view(layout, key, keep_axes=True)


def test_what_merely_equals_a_remembered_key_is_refused_all_the_same() -> None:
    layout = Layout.of("cpu", np.dtype("float32"), (4, 5))
    basic_view(layout, (1, slice(2, 3)))
    for key in [(True, slice(2, 3)), (1.0, slice(2, 3)), (1, slice(2.0, 3)), (1, (2, 3, None))]:
        with pytest.raises(DTypeError, match=r"^getitem: expected"):
            basic_view(layout, key)


def test_views_of_a_view_keep_count_of_the_offset() -> None:
    array = np.arange(120.0).reshape(4, 5, 6)
    first = basic_view(layout_of(array), (slice(None, None, -1), ..., slice(1, 5, 2)))
    second = basic_view(first[0], (2, None, slice(-2, None)))
    view = second[0], first[1] + second[1]
    np.testing.assert_array_equal(seen(array, view), array[::-1, ..., 1:5:2][2, None, -2:])


@given(st.slices(7), st.integers(0, 7))
def test_processed_slices_walk_the_same_places(part: slice, extent: int) -> None:
    explicit = process_slice(part, extent)
    places = list(range(explicit.start, explicit.stop, explicit.step))
    assert places == list(range(extent))[part]


def test_processed_slices_are_explicit() -> None:
    assert process_slice(slice(None), 5) == slice(0, 5, 1)
    assert process_slice(slice(-3, -1), 5) == slice(2, 4, 1)
    assert process_slice(slice(None, None, -2), 5) == slice(4, -1, -2)
    assert process_slice(slice(2, 100), 5) == slice(2, 5, 1)


def nonzero(mask: Any) -> tuple[np.ndarray, ...]:
    assert mask.ndim, "masks without axes cannot be searched"
    return np.nonzero(mask)


def picked(array: np.ndarray, key: Any) -> np.ndarray:
    """array[key] through the normal form: arrays on neighbouring axes, nothing else in the key."""
    index = split_advanced(key, array.shape, nonzero)
    start = array[index.basic].transpose(index.order)
    layout, offset = basic_view(layout_of(array), index.basic)
    turned, _ = layout.permute(index.order)
    np.testing.assert_array_equal(seen(array, (turned, offset)), start)

    count = len(index.extents)
    assert start.shape[index.first : index.first + count] == index.extents
    for each, extent in zip(index.arrays, index.extents, strict=True):
        assert each.shape == () or np.broadcast_shapes(each.shape, index.shape) == index.shape
        if np.any((each < -extent) | (each >= extent)):
            raise IndexError
    return start[(slice(None),) * index.first + tuple(index.arrays)]


@st.composite
def advanced(draw: Any) -> tuple[np.ndarray, tuple[Any, ...]]:
    """An array in any layout, and a key with arrays, bools, ints, slices, None and ..."""
    array = draw(arrays(draw(shapes(max_dims=4))))
    together = draw(shapes(max_dims=2, min_side=1))
    key: list[Any] = []
    axis, spread, masks = 0, False, draw(st.integers(0, 5)) == 0
    while axis < array.ndim and draw(st.integers(0, 7)):
        kinds = ["array", "array", "slice", "int", "none", "ellipsis", "bool", "mask"]
        kind = draw(st.sampled_from(kinds))
        extent = array.shape[axis]
        if kind == "array" and extent and not masks:
            shape = tuple([draw(st.sampled_from([n, n, 1])) for n in together])
            shape = shape[draw(st.integers(0, len(shape))) :]
            rng = np.random.RandomState(draw(SEEDS))
            part = rng.randint(-extent, extent, shape).astype(draw(st.sampled_from(["i8", "i1"])))
            key.append(part.tolist() if part.ndim and draw(st.booleans()) else part)
        elif kind == "mask" and masks:
            ndim = draw(st.integers(0, array.ndim - axis))
            key.append(
                np.random.RandomState(draw(SEEDS)).rand(*array.shape[axis : axis + ndim]) > 0.4
            )
            masks = False
            axis += ndim
            continue
        elif kind == "bool" and not masks:
            key.append(True)
            continue
        elif kind == "int" and extent:
            key.append(draw(st.integers(-extent, extent - 1)))
        elif kind == "ellipsis" and not spread:
            key.append(...)
            spread = True
            axis += draw(st.integers(0, array.ndim - axis))
            continue
        elif kind == "none":
            key.append(None)
            continue
        else:
            key.append(draw(st.slices(extent)))
        axis += 1
    if spread:  # so that the parts behind it meet the axes that they were made for
        key += [slice(None)] * (array.ndim - axis)
    return array, tuple(key)


@given(advanced())
def test_keys_with_arrays_pick_what_numpy_picks(pair: tuple[np.ndarray, tuple[Any, ...]]) -> None:
    array, key = pair
    np.testing.assert_array_equal(picked(array, key), array[key])


def test_index_axes_stand_in_place_or_in_front_as_numpys() -> None:
    x = np.arange(2.0 * 3 * 4 * 5).reshape(2, 3, 4, 5)
    i, j, mask = np.array([0, 1]), np.array([[-1], [0], [1]]), np.eye(3, 4) > 0
    keys: list[Any] = [
        np.array([1, 0, 1]), [0, 1], [], (slice(None), [], 0), (i, j), (i, slice(None), j),
        (slice(None), i, j), (0, slice(None), i), (slice(None), 0, ..., i), (i, ..., j),
        (slice(None), i, i, ..., 0), (i, i, i, ..., i), (i, None, j), (None, i, None, j),
        (slice(None), mask), (i[:1], mask), (..., mask, 0),
        (slice(None), mask[:, 0], slice(None), j[:1, 0]),
        x > 3, True, False, (True, i), (False, i[:1]), (i, True, j), (slice(None), True, None, i),
        (np.array(True), 0), (slice(None), np.array(1)), (np.array(1), slice(None), i),
        ((0, 1),), (range(2), slice(1, None), i),
    ]  # fmt: skip
    for key in keys:
        np.testing.assert_array_equal(picked(x, key), x[key], err_msg=str(key))


def test_the_normal_form_of_separated_arrays() -> None:
    i, j = np.zeros((2, 1), int), np.zeros(3, int)
    index = split_advanced((i, 0, slice(None), j), (4, 5, 6, 7), nonzero)
    assert index.basic == (slice(None), 0, slice(None), slice(None))
    assert (index.order, index.first) == ((0, 2, 1), 0)
    assert index.arrays[0] is i
    assert index.arrays[1] is j
    assert (index.extents, index.shape) == ((4, 7), (2, 3))


def test_no_data_of_index_arrays_is_looked_at() -> None:
    opaque = SimpleNamespace(shape=(2, 3), ndim=2, dtype=np.dtype("int32"))
    index = split_advanced((slice(None), opaque), (4, 5), nonzero)
    assert index.arrays[0] is opaque
    assert (index.first, index.extents, index.shape) == (1, (5,), (2, 3))


def test_keys_with_arrays_are_not_basic() -> None:
    for key in [
        True,
        [0],
        np.array(0),
        np.True_,
        (0, [1]),
        (..., False),
        SimpleNamespace(shape=()),
    ]:
        assert not is_basic(key)
    assert is_basic((0, np.int64(1), ..., None, slice(2)))


X = Layout.of("cpu", np.dtype("float32"), (2, 3))
ERRORS = [
    (lambda: basic_view(X, 2), OutOfRangeError,
     "getitem: expected an index in [-2, 2) at axis 0 of shape (2, 3), got 2."),
    (lambda: basic_view(X, (..., -4)), OutOfRangeError,
     "getitem: expected an index in [-3, 3) at axis 1 of shape (2, 3), got -4."),
    (lambda: basic_view(X, (0, 0, None, 0)), OutOfRangeError,
     "getitem: expected at most 2 indices for shape (2, 3), got 3."),
    (lambda: basic_view(X, (..., ...)), OutOfRangeError,
     "getitem: expected ... at most once, got it 2 times."),
    (lambda: basic_view(X, slice(0, 2, 0)), OptionError,
     "getitem: expected a step other than 0, got slice(0, 2, 0)."),
    (lambda: basic_view(X, slice("a")), DTypeError,
     "getitem: expected a slice of ints, got slice(None, 'a', None)."),
    (lambda: basic_view(X, 1.0), DTypeError,
     "getitem: expected ints, slices, None and ... as indices, got 1.0."),
    (lambda: process_slice(slice(0.5), 3), DTypeError,
     "getitem: expected a slice of ints, got slice(None, 0.5, None)."),
    (lambda: split_advanced([0.5], (2, 3), nonzero), DTypeError,
     "getitem: expected integer or bool indices, got float64[1]."),
    (lambda: split_advanced("a", (2, 3), nonzero), DTypeError,
     "getitem: expected ints, slices, None, ... and arrays as indices, got 'a'."),
    (lambda: split_advanced([[0], [0, 1]], (2, 3), nonzero), DTypeError,
     "getitem: expected ints, slices, None, ... and arrays as indices, got [[0], [0, 1]]."),
    (lambda: split_advanced(([0], [0], [0]), (2, 3), nonzero), OutOfRangeError,
     "getitem: expected at most 2 indices for shape (2, 3), got 3."),
    (lambda: split_advanced(([0, 1], [0, 1, 2]), (2, 3), nonzero), OutOfRangeError,
     "getitem: expected index arrays whose shapes broadcast together, got int64[2] and int64[3]."),
    (lambda: split_advanced((0, [True, False]), (2, 3), nonzero), OutOfRangeError,
     "getitem: expected a mask of shape (3,) at axis 1 of shape (2, 3), got bool[2]."),
]  # fmt: skip


@pytest.mark.parametrize(("act", "kind", "message"), ERRORS, ids=[row[2] for row in ERRORS])
def test_a_bad_key_says_what_was_expected(act: Any, kind: type[NeedleError], message: str) -> None:
    with pytest.raises(kind) as caught:
        act()
    assert str(caught.value) == message


def test_numpy_refuses_the_same_positions() -> None:
    x = np.zeros((2, 3))
    for key in [([0, 2],), (0, [-4]), (slice(None), [3])]:
        for pick in (picked, lambda x, key: x[key]):
            with pytest.raises(IndexError):
                pick(x, key)

"""Layouts and their views, laid over memory and compared with NumPy's views of it."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from ndarray.laid_over import layout_of, seen, steps_of
from strategies import SEEDS, Shape, arrays, broadcastable, shapes

from needle.backend_ndarray import layout as layout_module
from needle.backend_ndarray.layout import Layout, View, compact_strides, result_strides
from needle.compiler.walk import coalesce
from needle.errors import AxisError, DTypeError, NeedleError, OutOfRangeError, ShapeError

F32, I64 = np.dtype("float32"), np.dtype("int64")


def assert_is_view(array: np.ndarray, view: View, expected: np.ndarray) -> None:
    """The view has NumPy's shape, strides and elements."""
    assert view[0].shape == expected.shape
    np.testing.assert_array_equal(seen(array, view), expected)
    if expected.size:
        assert view[0].strides == steps_of(expected)


@st.composite
def views(draw: Any) -> np.ndarray:
    """Distinct integers in any layout."""
    array = draw(arrays(draw(shapes())))
    return array if array.strides else array.copy()


def made(shape: Shape = (2, 3), strides: Shape | None = None) -> Layout:
    return Layout.of("cpu", F32, shape, strides)


def test_equal_layouts_are_one_object() -> None:
    assert made((2, 3)) is made((2, 3), (3, 1))
    assert made((2, 3)) is not made((2, 3), (1, 2))
    assert made((2, 3)) is not Layout.of("cpu", I64, (2, 3))
    assert made((2, 3)) is not Layout.of("elsewhere", F32, (2, 3))


def test_layout_knows_its_sizes() -> None:
    layout = made((2, 3, 4))
    assert (layout.ndim, layout.size, layout.itemsize, layout.nbytes) == (3, 24, 4, 96)
    scalar = made(())
    assert (scalar.ndim, scalar.size, scalar.strides, scalar.compact) == (0, 1, (), True)
    assert repr(made((2, 3))) == "Layout(float32[2,3], strides (3, 1), cpu)"


def test_tables_of_layouts_and_views_stay_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layout_module, "_layouts", {})
    monkeypatch.setattr(layout_module, "_MOST_LAYOUTS", 10)
    monkeypatch.setattr(layout_module, "_MOST_VIEWS", 5)
    base = made((60,))
    for extent in range(1, 60):
        base.as_strided((extent,), (1,), 0, 60)
        assert len(layout_module._layouts) <= 10
        assert len(base.views) <= 5


def test_a_layout_that_is_held_stays_the_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layout_module, "_layouts", {})
    monkeypatch.setattr(layout_module, "_MOST_LAYOUTS", 10)
    held, repeating = made((2, 3)), made((2, 3), (0, 1))
    for extent in range(100, 160):
        made((extent,))
    assert made((2, 3)) is held
    assert made((2, 3), (0, 1)) is repeating
    assert Layout.of("cpu", F32, (2, 3), (0, 1), repeats=True) is repeating


def test_layouts_that_nobody_holds_are_freed_without_the_collector(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(layout_module, "_layouts", {})
    monkeypatch.setattr(layout_module, "_MOST_LAYOUTS", 10)
    gc.disable()
    try:
        gone = weakref.ref(made((2, 71)))
        made((2, 71)).swapaxes(0, 1)[0].swapaxes(0, 1)  # layouts that remember each other
        for extent in range(100, 120):
            made((extent,))
        assert gone() is None
    finally:
        gc.enable()


def test_a_view_is_worked_out_once() -> None:
    layout = made((2, 3))
    assert layout.permute((1, 0)) is layout.permute((1, 0))
    assert layout.permute(axes=(1, 0)) is layout.permute(axes=(1, 0))


def test_layouts_out_of_the_table_are_freed(monkeypatch: pytest.MonkeyPatch) -> None:
    class Device:
        pass

    device = Device()
    gone = weakref.ref(device)
    monkeypatch.setattr(layout_module, "_layouts", {})
    layout = Layout.of(device, F32, (2, 3))
    layout.swapaxes(0, 1)[0].swapaxes(0, 1)  # layouts that remember each other
    layout_module._layouts.clear()
    del layout, device
    gc.collect()
    assert gone() is None


def test_moved_and_with_dtype_are_compact() -> None:
    turned = made((2, 3), (1, 2))
    assert turned.moved("elsewhere") is Layout.of("elsewhere", F32, (2, 3))
    assert turned.with_dtype(I64) is Layout.of("cpu", I64, (2, 3))


@given(views())
def test_compact_is_numpys_c_contiguous(array: np.ndarray) -> None:
    assert layout_of(array).compact == array.flags.c_contiguous
    if array.size:
        assert compact_strides(array.shape) == steps_of(np.empty(array.shape))


@given(views(), st.data())
def test_permute_and_swapaxes_are_numpys(array: np.ndarray, data: Any) -> None:
    axes = tuple(data.draw(st.permutations(range(array.ndim))))
    assert_is_view(array, layout_of(array).permute(axes), array.transpose(axes))
    if array.ndim:
        a, b = data.draw(st.tuples(*[st.integers(-array.ndim, array.ndim - 1)] * 2))
        assert_is_view(array, layout_of(array).swapaxes(a, b), array.swapaxes(a, b))


@st.composite
def same_size(draw: Any, size: int) -> Shape:
    """A shape of `size` elements: its prime factors in groups, with 1s among them."""
    factors, rest = [], size
    for prime in (2, 3):
        while rest and rest % prime == 0:
            factors.append(prime)
            rest //= prime
    shape: list[int] = []
    for factor in draw(st.permutations([*factors, 1, 1])) if size else [0, 2]:
        if shape and draw(st.booleans()):
            shape[-1] *= factor
        else:
            shape.append(factor)
    return tuple(shape)


@given(views(), st.data())
def test_reshape_copies_only_where_numpy_does(array: np.ndarray, data: Any) -> None:
    shape = data.draw(same_size(array.size))
    view = layout_of(array).reshape(shape)
    expected = array.reshape(shape)
    if array.size and not np.shares_memory(array, expected):
        assert view is None
    else:
        assert view is not None
        assert_is_view(array, view, expected)


@given(views(), st.data())
def test_reshape_back_from_merged_axes_is_a_view(array: np.ndarray, data: Any) -> None:
    layout = layout_of(array)
    cut = data.draw(st.integers(0, array.ndim))
    first, second = array.shape[:cut], array.shape[cut:]
    shape = tuple(part for n in first for part in (1, n)) + second
    view = layout.reshape(shape)
    assert view is not None
    assert_is_view(array, view, array.reshape(shape))


def test_reshape_completes_one_extent() -> None:
    assert made((2, 6)).reshape((3, -1)) == (made((3, 4)), 0)
    assert made((0, 6)).reshape((-1, 3)) == (made((0, 3)), 0)
    assert made(()).reshape((-1,)) == (made((1,)), 0)
    assert made((1, 1)).reshape(()) == (made(()), 0)


@given(broadcastable(2), st.data())
def test_broadcast_to_is_numpys(pair: tuple[Shape, Shape], data: Any) -> None:
    array = data.draw(arrays(pair[0]))
    target = np.broadcast_shapes(*pair)
    assert_is_view(array, layout_of(array).broadcast_to(target), np.broadcast_to(array, target))


@given(views(), st.data())
def test_flip_is_numpys(array: np.ndarray, data: Any) -> None:
    axes = tuple(data.draw(st.sets(st.sampled_from(range(array.ndim))))) if array.ndim else ()
    assert_is_view(array, layout_of(array).flip(axes), np.flip(array, axes))
    assert_is_view(array, layout_of(array).flip(None), np.flip(array))


@given(views(), st.data())
def test_expand_dims_and_squeeze_are_numpys(array: np.ndarray, data: Any) -> None:
    count = data.draw(st.integers(0, 2))
    ndim = array.ndim + count
    places = tuple(data.draw(st.permutations(range(-ndim, 0)))[:count])
    layout, offset = layout_of(array).expand_dims(places)
    expected = np.expand_dims(array, places)
    assert_is_view(array, (layout, offset), expected)
    assert_is_view(array, layout.squeeze(places), np.squeeze(expected, places))
    assert_is_view(array, layout.squeeze(None), np.squeeze(expected))


@given(st.integers(0, 4), st.integers(0, 3), SEEDS)
def test_merge_axes_walks_axes_in_step(n: int, m: int, seed: int) -> None:
    array = np.random.RandomState(seed).rand(n, m, n, n).transpose(3, 1, 0, 2)
    merged = layout_of(array).merge_axes(((1,), (0, 3, 2)))
    np.testing.assert_array_equal(seen(array, merged), np.einsum("ijii->ji", array))
    split = layout_of(array).merge_axes(((0,), (2, 3), (1,)))
    np.testing.assert_array_equal(seen(array, split), np.einsum("ijkk->ikj", array))


def test_as_strided_stays_within_the_memory() -> None:
    memory = np.arange(12.0)
    windows = layout_of(memory).as_strided((3, 4), (2, 1), 0, 12)
    np.testing.assert_array_equal(seen(memory, windows), memory[np.r_[0, 2, 4][:, None] + range(4)])
    backwards = layout_of(memory[11:]).as_strided((12,), (-1,), 11, 12)
    np.testing.assert_array_equal(seen(memory[11:], backwards), memory[::-1])
    assert made((2, 3)).as_strided((0, 9), (100, 1), 0, 6)[0].size == 0


@given(views(), st.data())
def test_chains_of_views_are_numpys(array: np.ndarray, data: Any) -> None:
    layout, offset, expected = layout_of(array), 0, array
    for _ in range(data.draw(st.integers(1, 4))):
        view, expected = data.draw(links(layout, expected))
        layout, offset = view[0], offset + view[1]
        assert_is_view(array, (layout, offset), expected)


@st.composite
def links(draw: Any, layout: Layout, array: np.ndarray) -> tuple[View, np.ndarray]:
    """One view of a layout, and NumPy's view of the array."""
    kind = draw(st.sampled_from(["permute", "flip", "broadcast", "expand", "reshape"]))
    if kind == "permute":
        axes = tuple(draw(st.permutations(range(array.ndim))))
        return layout.permute(axes), array.transpose(axes)
    if kind == "flip":
        return layout.flip(None), np.flip(array)
    if kind == "broadcast":
        target = (2, *[3 if n == 1 else n for n in array.shape])
        return layout.broadcast_to(target), np.broadcast_to(array, target)
    shape = draw(same_size(array.size)) if kind == "reshape" and array.size < 100 else array.shape
    view = layout.reshape(shape)
    if view is None or not array.size:
        return layout.expand_dims((0,)), np.expand_dims(array, 0)
    return view, array.reshape(shape)


ERRORS = [
    (lambda x: x.permute((0, 0)), AxisError, "permute: expected each axis once, got (0, 0)."),
    (lambda x: x.permute((0,)), AxisError,
     "permute: expected every axis of float32[2,3], got (0,)."),
    (lambda x: x.swapaxes(0, 2), AxisError,
     "swapaxes: expected axes in [-2, 2) of an array with 2 axes, got 2."),
    (lambda x: x.permute((0, 1.0)), DTypeError, "permute: expected ints, got (0, 1.0)."),
    (lambda x: x.reshape((4, 2)), ShapeError,
     "reshape: expected as many elements as float32[2,3] has, got shape (4, 2)."),
    (lambda x: x.reshape((4, -1)), ShapeError,
     "reshape: expected as many elements as float32[2,3] has, got shape (4, -1)."),
    (lambda x: x.reshape((0, -1)), ShapeError,
     "reshape: expected as many elements as float32[2,3] has, got shape (0, -1)."),
    (lambda x: x.reshape((-1, -1)), ShapeError,
     "reshape: expected extents from 0 and at most one -1, got (-1, -1)."),
    (lambda x: x.reshape((-2, -3)), ShapeError,
     "reshape: expected extents from 0 and at most one -1, got (-2, -3)."),
    (lambda x: x.broadcast_to((4, 2)), ShapeError,
     "broadcast_to: expected a shape that float32[2,3] broadcasts to, got (4, 2)."),
    (lambda x: x.broadcast_to((3,)), ShapeError,
     "broadcast_to: expected a shape that float32[2,3] broadcasts to, got (3,)."),
    (lambda x: x.broadcast_to((-1, 2, 3)), ShapeError,
     "broadcast_to: expected a shape that float32[2,3] broadcasts to, got (-1, 2, 3)."),
    (lambda x: x.flip((2,)), AxisError,
     "flip: expected axes in [-2, 2) of an array with 2 axes, got 2."),
    (lambda x: x.expand_dims((3,)), AxisError,
     "expand_dims: expected axes in [-3, 3) of an array with 3 axes, got 3."),
    (lambda x: x.squeeze((1,)), ShapeError,
     "squeeze: expected axes of length 1, got axis 1 of float32[2,3]."),
    (lambda x: x.merge_axes(((0, 1),)), ShapeError,
     "merge_axes: expected axes (0, 1) of one length, got float32[2,3]."),
    (lambda x: x.merge_axes(((0,),)), AxisError,
     "merge_axes: expected each axis of float32[2,3], got ((0,),)."),
    (lambda x: x.as_strided((2, 4), (3, 1), 0, 6), OutOfRangeError,
     "as_strided: expected a view within the memory's 6 elements, got shape (2, 4) and strides "
     "(3, 1), which reach from 0 to 6."),
    (lambda x: x.as_strided((2,), (-1,), 0, 6), OutOfRangeError,
     "as_strided: expected a view within the memory's 6 elements, got shape (2,) and strides "
     "(-1,), which reach from -1 to 0."),
    (lambda x: x.as_strided((2,), (1, 1), 0, 6), ShapeError,
     "as_strided: expected extents from 0 and as many strides within 2**63 bytes, got shape (2,) "
     "and strides (1, 1)."),
]  # fmt: skip


@pytest.mark.parametrize(("act", "kind", "message"), ERRORS, ids=[row[2] for row in ERRORS])
def test_a_bad_view_says_what_was_expected(act: Any, kind: type[NeedleError], message: str) -> None:
    with pytest.raises(kind) as caught:
        act(made((2, 3)))
    assert str(caught.value) == message


def walked(shape: Shape, rows: list[Shape]) -> set[tuple[int, ...]]:
    """The offsets that the operands are at, together, somewhere on a walk."""
    return {
        tuple(sum(i * step for i, step in zip(place, row, strict=True)) for row in rows)
        for place in np.ndindex(*shape)
    }


@given(broadcastable(3), st.data())
def test_coalesce_walks_the_same_elements(inputs: tuple[Shape, ...], data: Any) -> None:
    shape = np.broadcast_shapes(*inputs)
    operands = [np.broadcast_to(data.draw(arrays(each)), shape) for each in inputs]
    rows = [steps_of(each) for each in operands]
    rows.append(result_strides(shape, [layout_of(each) for each in operands]))
    fewer, merged = coalesce(shape, rows)
    assert walked(fewer, merged) == walked(shape, rows)
    assert 1 <= len(fewer) <= max(1, len(shape))
    assert list(merged[-1]) == sorted(merged[-1], reverse=True)
    for row in merged:
        assert len(row) == len(fewer)


def test_coalesce_merges_as_far_as_every_operand_allows() -> None:
    assert coalesce((2, 3, 4), [(12, 4, 1), (12, 4, 1)]) == ((24,), [(1,), (1,)])
    assert coalesce((2, 3, 4), [(0, 0, 1), (12, 4, 1)]) == ((6, 4), [(0, 1), (4, 1)])
    assert coalesce((2, 3), [(1, 2), (1, 2)]) == ((6,), [(1,), (1,)])
    assert coalesce((2, 3), [(1, 2), (3, 1)]) == ((2, 3), [(1, 2), (3, 1)])
    assert coalesce((4, 1, 3), [(-3, 7, -1), (3, 9, 1)]) == ((12,), [(-1,), (1,)])
    assert coalesce((2, 3, 4), [(0, 0, 0), (12, 4, 1)]) == ((24,), [(0,), (1,)])
    # reduced axes, on which the result stands still, stay inside and in the input's order
    assert coalesce((2, 3, 4), [(1, 2, 6), (0, 1, 0)]) == ((3, 4, 2), [(2, 6, 1), (1, 0, 0)])


def test_coalesce_has_at_least_one_axis() -> None:
    assert coalesce((), [(), ()]) == ((1,), [(1,), (1,)])
    assert coalesce((1, 1), [(0, 5)]) == ((1,), [(1,)])
    assert coalesce((3, 0, 2), [(0, 2, 1), (2, 2, 1)]) == ((0,), [(1,), (1,)])


@given(broadcastable(2), st.data())
def test_result_strides_are_numpys(inputs: tuple[Shape, ...], data: Any) -> None:
    a, b = (data.draw(arrays(each)) for each in inputs)
    check_result_strides(np.add(a, b), [a, b])


@given(st.data())
def test_result_strides_of_one_and_three_inputs_are_numpys(data: Any) -> None:
    a, b, c = (data.draw(arrays(each)) for each in data.draw(broadcastable(3)))
    check_result_strides(np.exp(a), [a])
    flags = [["readonly"]] * 3 + [["writeonly", "allocate"]]
    three = np.nditer([a, b, c, None], ["zerosize_ok"], flags)
    check_result_strides(three.operands[3], [a, b, c])


def check_result_strides(result: Any, inputs: list[np.ndarray]) -> None:
    result = np.asarray(result)
    layouts = [layout_of(np.broadcast_to(each, result.shape)) for each in inputs]
    strides = result_strides(result.shape, layouts)
    matter = [axis for axis, n in enumerate(result.shape) if n > 1]
    if result.size:
        assert [strides[axis] for axis in matter] == [steps_of(result)[axis] for axis in matter]

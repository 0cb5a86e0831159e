"""Views of NDArrays against NumPy's, on every device: values, strides, and whose memory it is."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from ndarray.side_by_side import (
    DTYPES,
    Pair,
    address,
    each_device,
    each_dtype,
    pairs,
    repeats,
    require_equal,
    whole_numbers,
)

import needle.backend_ndarray as nd
from needle.errors import (
    AxisError,
    DTypeError,
    NeedleError,
    OptionError,
    OutOfRangeError,
    ShapeError,
)


@given(pairs(steps=6))
def test_a_chain_of_views_is_numpys(pair: Pair) -> None:
    pair.check()
    assert pair.x.size == pair.array.size
    assert pair.x.nbytes == pair.array.nbytes
    assert pair.x.ndim == pair.array.ndim


@given(pairs())
def test_a_view_writes_through_to_numpys_places(pair: Pair) -> None:
    if repeats(pair):
        with pytest.raises(OptionError, match=r"^setitem: expected an element of its own"):
            pair.x[...] = 1
        return
    pair.x[...] = 1
    pair.array[...] = 1
    pair.check()


@given(pairs())
def test_compact_is_a_copy_unless_it_need_not_be(pair: Pair) -> None:
    compact = pair.x.compact()
    assert compact.is_compact()
    assert (compact is pair.x) == pair.x.is_compact()
    require_equal(compact, pair.array)
    plain = nd.NDArray.compact_strides(pair.array.shape)
    steps = zip(compact.shape, compact.strides, plain, strict=True)
    assert not compact.size or all(n == 1 or step == expected for n, step, expected in steps)


@given(pairs())
def test_a_view_with_room_around_it_is_not_compact(pair: Pair) -> None:
    fills = pair.array.flags.c_contiguous and pair.x._handle.size == pair.array.size
    assert pair.x.is_compact() == fills


@given(pairs(max_dims=3))
def test_the_transpose_and_swapped_axes_are_views(pair: Pair) -> None:
    pair.seen(lambda x: x.T, lambda a: a.T).check()
    if pair.array.ndim > 1:
        pair.seen(lambda x: x.swapaxes(0, -1), lambda a: a.swapaxes(0, -1)).check()


@given(pairs(), st.data())
def test_flat_reads_and_writes_in_order(pair: Pair, data: Any) -> None:
    flat = pair.x.flat
    assert len(flat) == pair.array.size
    if not pair.array.size or repeats(pair):
        return
    place = data.draw(st.integers(-pair.array.size, pair.array.size - 1))
    assert flat[place].item() == pair.array.flat[place]
    flat[place] = pair.array.flat[place] = 1
    pair.check()


@each_device
@pytest.mark.parametrize("view", [lambda x: x, lambda x: x.T, lambda x: x[:, ::-2]])
def test_one_element_of_flat_can_be_added_to(device: nd.Device, view: Any) -> None:
    pair = Pair.of(np.arange(12.0, dtype="float32").reshape(3, 4), device).seen(view, view)
    pair.x.flat[4] += 0.5
    pair.array.flat[4] += 0.5
    pair.x.flat[1:3] = pair.x.flat[2:4]
    pair.array.flat[1:3] = pair.array.flat[2:4]
    pair.check()


@each_device
@each_dtype
def test_every_dtype_keeps_its_bits_through_numpy_and_back(device: nd.Device, dtype: Any) -> None:
    array = whole_numbers((3, 4), dtype)
    x = nd.array(array, dtype, device)
    assert x.dtype == dtype
    assert x.numpy().dtype == dtype
    require_equal(x.T[::-1], array.T[::-1])


@each_device
def test_a_copy_and_its_source_share_nothing(device: nd.Device) -> None:
    x = nd.ones((2, 3), device=device)
    for copy in (nd.array(x), nd.NDArray(x), x.astype("float32"), x.flip((0,)), +1 * x):
        copy[...] = 5
    x.numpy()[...] = 7
    require_equal(x, np.ones((2, 3), "float32"))


@each_device
def test_an_array_moves_to_the_other_device_and_stays_on_its_own(device: nd.Device) -> None:
    x = nd.array(np.arange(6).reshape(2, 3), "int16", device).T
    other = nd.cpu_numpy() if device == nd.cpu() else nd.cpu()
    assert x.to(device) is x
    moved = x.to(other)
    assert moved.device == other
    require_equal(moved, x.numpy())
    require_equal(moved.to(device), x.numpy())


@each_device
@pytest.mark.parametrize("step", [2**40, 2**61, 2**62, 10**30, -(2**62)])
def test_a_step_too_long_to_be_taken_makes_no_stride(device: nd.Device, step: int) -> None:
    pair = Pair.of(np.arange(6.0, dtype="float32").reshape(2, 3), device)
    view = pair.x[:, ::step]
    assert view.strides == (3, 1)
    require_equal(view, pair.array[:, :1] if step > 0 else pair.array[:, -1:])
    assert view.sum().item() == pair.array[:, :: 2 if step > 0 else -3][:, :1].sum()
    assert repr(pair.x.as_strided((1,), (2**60,))) == repr(pair.x[0, :1].reshape(1))


@each_device
@pytest.mark.parametrize("view", [lambda x: x, lambda x: x.T, lambda x: x[:, ::-2]])
def test_flat_is_an_array_to_compute_with(device: nd.Device, view: Any) -> None:
    pair = Pair.of(np.arange(12.0, dtype="float32").reshape(3, 4), device).seen(view, view)
    flat, row = pair.x.flat, pair.array.ravel()
    assert (flat.shape, flat.size, flat.ndim, flat.dtype) == (row.shape, row.size, 1, row.dtype)
    assert flat.device == device and flat.tolist() == row.tolist() and 3 in flat
    require_equal(flat + 1, row + 1)
    require_equal(1 - flat, 1 - row)
    require_equal(np.ones(row.size) * flat, np.ones(row.size) * row)
    require_equal(pair.x.compact().reshape((-1,)) + flat, row + row)
    require_equal(flat * flat, row * row)
    require_equal(flat >= flat, row >= row)
    require_equal(-flat, -row)
    require_equal(flat @ flat, np.asarray(row @ row))
    require_equal(flat[1:3], row[1:3])
    assert np.array_equal(np.asarray(flat), row) and np.array_equal(flat.numpy(), row)
    assert [x.item() for x in flat] == row.tolist()
    assert str(flat) == str(row) and "[" in repr(flat) and repr(device) in repr(flat)
    require_equal(nd.array(flat, device=device), row)


@each_device
@pytest.mark.parametrize("view", [lambda x: x, lambda x: x.T, lambda x: x[:, ::-2]])
def test_flat_can_be_assigned(device: nd.Device, view: Any) -> None:
    pair = Pair.of(np.arange(12.0, dtype="float32").reshape(3, 4), device).seen(view, view)
    x, array = pair.x, pair.array
    x.flat += 1
    array.flat[:] = array.ravel() + 1
    pair.check()
    x.flat = np.arange(x.size)[::-1]
    array.flat = np.arange(x.size)[::-1]
    pair.check()
    x.flat = x[::-1].flat
    array.flat = array[::-1].ravel()
    pair.check()
    x.flat = array.flat = 3
    pair.check()
    with pytest.raises(ShapeError, match=r"^setitem: expected a value that fits"):
        x.flat = [1, 2, 3, 4, 5]
    with pytest.raises(ValueError, match=r"no copy|avoid copy"):
        np.array(x.flat, copy=False, dtype="int8")


BAD_VIEWS: list[tuple[str, Any, type[NeedleError], str]] = [
    ("reshape", lambda x: x.reshape((4, 4)), ShapeError,
     r"reshape: expected as many elements as float32\[2,3\] has, got shape \(4, 4\)\."),
    ("reshape -1", lambda x: x.reshape((-1, 4)), ShapeError, r"got shape \(-1, 4\)\."),
    ("reshape -1 -1", lambda x: x.reshape(-1, -1), ShapeError, "at most one -1"),
    ("reshape text", lambda x: x.reshape("ab"), DTypeError, "expected ints"),
    ("permute", lambda x: x.permute((0, 0)), AxisError, "each axis once"),
    ("permute few", lambda x: x.permute((0,)), AxisError, r"every axis of float32\[2,3\]"),
    ("permute far", lambda x: x.permute((0, 2)), AxisError, r"axes in \[-2, 2\)"),
    ("broadcast", lambda x: x.broadcast_to((2, 4)), ShapeError,
     r"float32\[2,3\] broadcasts to, got \(2, 4\)\."),
    ("broadcast few", lambda x: x.broadcast_to((3,)), ShapeError, r"got \(3,\)\."),
    ("squeeze", lambda x: x.squeeze(1), ShapeError, "axes of length 1, got axis 1"),
    ("expand", lambda x: x.expand_dims(4), AxisError, r"axes in \[-3, 3\)"),
    ("strides", lambda x: x.as_strided((3, 3), (3, 1)), OutOfRangeError,
     r"within the memory's 6 elements, got shape \(3, 3\).* reach from 0 to 8"),
    ("strides behind", lambda x: x.as_strided((2,), (-1,)), OutOfRangeError, "from -1 to 0"),
    ("strides long", lambda x: x.as_strided((1,), (2**61,)), ShapeError,
     r"^as_strided: .* as many strides within 2\*\*63 bytes, got shape \(1,\)"),
    ("strides few", lambda x: x.as_strided((2, 2), (1,)), ShapeError, "as many strides"),
]  # fmt: skip


@each_device
@pytest.mark.parametrize(("act", "kind", "message"), [row[1:] for row in BAD_VIEWS],
                         ids=[row[0] for row in BAD_VIEWS])  # fmt: skip
def test_a_bad_view_is_refused(
    device: nd.Device, act: Any, kind: type[NeedleError], message: str
) -> None:
    x = nd.ones((2, 3), device=device)
    with pytest.raises(kind, match=message):
        act(x)


@each_device
def test_zero_size_and_0d_arrays_go_through_every_view(device: nd.Device) -> None:
    for dtype in DTYPES[::3]:
        empty, point = nd.empty((2, 0, 3), dtype, device), nd.full((), 1, dtype, device)
        assert empty.permute((2, 0, 1)).reshape((0, 4)).broadcast_to((2, 0, 4)).shape == (2, 0, 4)
        assert empty[:, :, ::-1].numpy().shape == (2, 0, 3)
        assert empty.is_compact() and point.is_compact()
        assert point.reshape((1, 1)).squeeze().item() == 1
        assert point.broadcast_to((2, 2)).numpy().tolist() == [[1, 1], [1, 1]]
        assert point[...].shape == point[()].shape == ()
        assert address(point.expand_dims(0)) == address(point)

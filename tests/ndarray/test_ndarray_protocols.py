"""NDArrays as Python and NumPy see them: numbers, sequences, text, buffers."""

from __future__ import annotations

import operator
import sys
from collections import deque
from typing import Any, NamedTuple

import numpy as np
import pytest
from ndarray.side_by_side import DTYPES, address, each_device, each_dtype, numpy_address

import needle.backend_ndarray as nd
from needle.errors import DTypeError, ShapeError


@each_device
@each_dtype
def test_asarray_shares_and_numpy_copies(device: nd.Device, dtype: Any) -> None:
    x = nd.ones((2, 3), dtype, device).T
    shared, copy = np.asarray(x), x.numpy()
    assert shared.dtype == copy.dtype == dtype
    assert numpy_address(shared) == address(x)
    assert shared.strides == tuple([step * x.dtype.itemsize for step in x.strides])
    assert not np.shares_memory(copy, shared)
    assert copy.flags.c_contiguous
    shared[0, 1] = 0
    assert x.tolist() == [[1, 0], [1, 1], [1, 1]]
    assert copy.all()


@each_device
def test_array_takes_a_dtype_and_a_wish_to_copy(device: nd.Device) -> None:
    x = nd.ones((2,), device=device)
    assert np.asarray(x, dtype="float64").dtype == "float64"
    assert not np.shares_memory(np.array(x), np.asarray(x))
    assert np.shares_memory(np.array(x, copy=False), np.asarray(x))
    assert np.array(x, copy=False, dtype="float32").dtype == "float32"
    with pytest.raises(ValueError, match=r"no copy|avoid copy"):
        np.array(x, copy=False, dtype="int8")


@each_device
def test_numpys_view_keeps_the_memory(device: nd.Device) -> None:
    shared = np.asarray(nd.full((100_000,), 7, device=device))
    for _ in range(5):
        nd.zeros((100_000,), device=device)
    assert (shared == 7).all()


@each_device
def test_one_element_passes_for_a_number(device: nd.Device) -> None:
    x = nd.full((1, 1), 2.5, device=device)
    assert float(x) == 2.5 and int(x) == 2 and bool(x) and x.item() == 2.5
    assert type(x.item()) is float
    assert operator.index(nd.full((), 3, "int8", device)) == 3
    assert [10, 20, 30][nd.full((1,), 1, "uint16", device)] == 20
    assert f"{nd.full((), 2, device=device).item():.1f}" == "2.0"
    for other in (x, nd.ones((2,), "int8", device)):
        with pytest.raises(DTypeError, match=r"^index: expected one integer, got (float|int)"):
            operator.index(other)


@each_device
def test_many_elements_pass_for_none(device: nd.Device) -> None:
    x = nd.ones((2,), device=device)
    for act in (bool, float, int, nd.NDArray.item):
        message = rf"^{act.__name__}: expected one element, got float32\[2\]\."
        with pytest.raises(ShapeError, match=message):
            act(x)
    with pytest.raises(TypeError, match="unhashable"):
        hash(x)


@each_device
def test_in_asks_whether_some_element_equals(device: nd.Device) -> None:
    x = nd.array([[1, 2], [3, np.nan]], device=device)
    array = x.numpy()
    for value in (3, 99, np.nan, 2.0, "a", np.array([1, 99])):
        assert (value in x) is (not isinstance(value, str) and value in array)
    assert nd.array([[9], [3]], device=device) in x
    with pytest.raises(ShapeError, match=r"^equal: expected shapes that broadcast"):
        nd.ones(3, device=device) in x  # noqa: B015  it raises


@each_device
def test_numpy_may_not_write_to_what_repeats(device: nd.Device) -> None:
    x = nd.zeros((1, 2), device=device)
    repeated = x.broadcast_to((3, 2))
    for view in (repeated, repeated[1:], repeated.T, repeated[0], repeated.as_strided((1,), (1,))):
        assert not np.asarray(view).flags.writeable
        assert view.__buffer__(0).readonly
        assert np.shares_memory(np.asarray(view), np.asarray(x))
    for own in (x, x.broadcast_to((1, 1, 2)), repeated.compact(), repeated[:1].compact()):
        assert np.asarray(own).flags.writeable
    assert repeated.numpy().flags.writeable


@each_device
def test_it_has_a_length_and_rows(device: nd.Device) -> None:
    x = nd.array([[1, 2], [3, 4], [5, 6]], device=device)
    assert len(x) == 3
    assert [row.numpy().tolist() for row in x] == [[[1, 2]], [[3, 4]], [[5, 6]]]
    with pytest.raises(TypeError, match=r"^len: expected at least one axis"):
        len(nd.ones((), device=device))
    with pytest.raises(TypeError, match=r"^iter: expected at least one axis"):
        list(nd.ones((), device=device))


@each_device
def test_it_prints_as_numpy_does(device: nd.Device) -> None:
    x = nd.array([[1, 2.5], [3, 4]], device=device)
    assert str(x) == str(x.numpy()) == "[[1.  2.5]\n [3.  4. ]]"
    assert repr(x) == f"NDArray([[1. , 2.5],\n         [3. , 4. ]], device={device})"
    assert repr(nd.ones((), device=device)) == f"NDArray(1., device={device})"
    bools = nd.array([True, False], "bool", device)
    assert repr(bools) == f"NDArray([ True, False], dtype=bool, device={device})"
    assert repr(nd.empty((0,), device=device)) == f"NDArray([], device={device})"
    empty = nd.empty((0, 2), "int8", device)
    assert repr(empty) == f"NDArray([], shape=(0, 2), dtype=int8, device={device})"
    assert repr(nd.ones((2000,), device=device)).endswith(f"], shape=(2000,), device={device})")
    assert str(nd.ones((), "bfloat16", device)) == "1"
    assert "..." in str(nd.ones((2000,), device=device))


@each_device
@each_dtype
def test_it_offers_a_buffer_where_the_dtype_has_a_code(device: nd.Device, dtype: Any) -> None:
    x = nd.ones((2, 3), dtype, device).T
    if dtype.name == "bfloat16":
        with pytest.raises(BufferError, match=r"^buffer: .* got bfloat16\[3,2\]"):
            x.__buffer__(0)
        return
    buffer = memoryview(x) if sys.version_info >= (3, 12) else x.__buffer__(0)
    assert buffer.shape == (3, 2) and not buffer.readonly
    assert buffer.format == np.dtype(dtype).char.replace("p", "l")
    assert np.shares_memory(np.asarray(buffer), np.asarray(x))


@each_device
def test_bytes_are_the_elements_row_after_row(device: nd.Device) -> None:
    x = nd.array([[0, 1], [2, 3]], "uint8", device)
    assert bytes(x.T) == b"\x00\x02\x01\x03"
    assert bytes(nd.full((1,), 3, "uint8", device)) == b"\x03"
    assert len(bytes(nd.ones((3,), "bfloat16", device))) == 6


@each_device
def test_lists_and_numbers_become_arrays(device: nd.Device) -> None:
    assert nd.array([[1, 2], [3, 4]], device=device).dtype == "float32"
    assert nd.array(3, device=device).shape == ()
    assert nd.array(range(3), device=device).tolist() == [0, 1, 2]
    assert nd.asarray([1, 2]).dtype == "int64"
    assert nd.asarray(2.5).dtype == "float64"
    x = nd.array([1.5], "float64", device)
    assert nd.asarray(x) is x
    assert nd.array(x).dtype == "float64" and nd.array(x) is not x
    assert nd.array(x, "int8").tolist() == [1]


@each_device
@pytest.mark.parametrize("dtype", ["complex64", "S3", "O", "datetime64[s]", "longdouble"])
def test_other_dtypes_are_refused_with_those_there_are(device: nd.Device, dtype: str) -> None:
    with pytest.raises(DTypeError, match=r"^dtype: expected one of float16, .*bool, got"):
        nd.empty((2,), dtype, device)
    with pytest.raises(DTypeError, match=r"^dtype: expected one of"):
        nd.ones((2,), device=device).astype(dtype)


@each_device
def test_every_dtype_has_a_name_that_makes_it(device: nd.Device) -> None:
    for dtype in DTYPES:
        assert nd.empty((1,), dtype.name, device).dtype == dtype
        assert nd.empty((1,), dtype.type, device).dtype == dtype
    big = nd.array(np.arange(3, dtype=">i4"), ">i4", device)
    assert big.dtype.isnative and big.tolist() == [0, 1, 2]


def test_a_device_that_is_none_is_refused() -> None:
    from needle.errors import DeviceError

    for act in (nd.ones, nd.empty, nd.array):
        with pytest.raises(DeviceError, match=r"^device: expected a device .* got 'cpu'"):
            act((2,), device="cpu")  # type: ignore[arg-type]


class Pair(NamedTuple):
    """A sequence that is neither a list nor exactly a tuple."""

    a: Any
    b: Any


@each_device
def test_numpys_functions_find_arrays_in_any_sequence(device: nd.Device) -> None:
    x = nd.array([1, 2], device=device)
    for pair in (Pair(x, x), deque([x, x]), [x, x], (x, np.ones(2))):
        joined = np.concatenate(pair)
        assert type(joined) is np.ndarray
        assert joined.shape == (4,)


@each_device
def test_what_numpy_writes_into_is_what_it_gives_back(device: nd.Device) -> None:
    x, out = nd.array([[1, 2], [3, 4]], device=device), nd.zeros(2, device=device)
    assert np.sum(x, axis=0, out=out) is out
    assert out.tolist() == [4, 6]
    assert np.add(np.ones(2, "float32"), x[0].reshape(2), out=out) is out
    assert out.tolist() == [2, 3]
    target = np.zeros(2)
    np.add.at(target, [0, 1], x[1].reshape(2))
    assert target.tolist() == [3, 4]

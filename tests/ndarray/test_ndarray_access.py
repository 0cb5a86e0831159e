"""x[key] and x[key] = value against NumPy, for views, arrays and masks, on every device."""

from __future__ import annotations

import operator
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from ndarray.side_by_side import (
    DTYPES,
    Pair,
    address,
    each_device,
    each_dtype,
    ints_kept,
    pairs,
    repeats,
    require_equal,
    whole_numbers,
)
from strategies import indices

import needle as ndl
import needle.backend_ndarray as nd
from needle.errors import (
    DeviceError,
    DTypeError,
    NeedleError,
    OptionError,
    OutOfRangeError,
    ShapeError,
)


def written(pair: Pair) -> bool:
    """Whether each element is in a place of its own, so that writing is well defined."""
    if repeats(pair):
        return False
    return not pair.array.size or len(np.unique(_places(pair.array))) == pair.array.size


def _places(array: np.ndarray) -> np.ndarray:
    """Where each element lies, in bytes from the first."""
    at = np.zeros(array.shape, int)
    for axis, (n, step) in enumerate(zip(array.shape, array.strides, strict=True)):
        at += (np.arange(n) * step).reshape((-1,) + (1,) * (array.ndim - axis - 1))
    return at


@given(pairs(max_dims=3), st.data())
def test_arrays_and_masks_pick_what_numpy_picks(pair: Pair, data: Any) -> None:
    key = ints_kept(data.draw(indices(pair.array.shape)))
    picked = pair.x[key]
    require_equal(picked, pair.array[key])
    if any(isinstance(part, np.ndarray) for part in key) and picked.size:
        assert picked._memory is not pair.x._memory


@given(pairs(max_dims=3), st.data())
def test_writing_at_any_key_is_numpys(pair: Pair, data: Any) -> None:
    if not written(pair):
        return
    key = ints_kept(data.draw(indices(pair.array.shape)))
    arrays = any(isinstance(part, np.ndarray) and part.dtype != bool for part in key)
    place = pair.array[key]
    if arrays or data.draw(st.booleans()):
        pair.x[key] = 2
        pair.array[key] = np.asarray(2).astype(pair.array.dtype)
    else:
        dtype = data.draw(st.sampled_from([pair.array.dtype, *DTYPES]))
        source = whole_numbers(place.shape, dtype, seed=5)
        if pair.array.dtype.kind in "ub":
            source = abs(source)  # how a negative float becomes unsigned is not defined
        pair.x[key] = nd.array(source, dtype, pair.x.device)
        pair.array[key] = source.astype(pair.array.dtype)
    pair.check()


@given(pairs(max_dims=3), st.data())
def test_the_address_and_strides_stay_when_written_to(pair: Pair, data: Any) -> None:
    if repeats(pair):
        return
    key = data.draw(hnp.basic_indices(pair.array.shape))
    before = (address(pair.x), pair.x.strides, pair.x._memory)
    pair.x[key] = 1
    pair.array[ints_kept(key)] = 1
    assert before == (address(pair.x), pair.x.strides, pair.x._memory)
    pair.check()


OVERLAPS = [
    (slice(1, None), slice(None, -1)),
    (slice(None, -1), slice(1, None)),
    (slice(None), slice(None, None, -1)),
    (slice(None, None, 2), slice(1, None, 2)),
    (slice(2, 5), slice(0, 3)),
    (slice(None, None, -1), slice(None)),
]


@each_device
@pytest.mark.parametrize(("to", "source"), OVERLAPS, ids=str)
@pytest.mark.parametrize("n", [6, 5000])
def test_overlapping_parts_are_read_before_they_are_written(
    device: nd.Device, to: slice, source: slice, n: int
) -> None:
    pair = Pair.of(np.arange(2.0 * n, dtype="float32").reshape(n, 2), device)
    pair.x[to] = pair.x[source]
    pair.array[to] = pair.array[source].copy()
    pair.check()


@each_device
def test_an_array_takes_its_own_transpose(device: nd.Device) -> None:
    pair = Pair.of(np.arange(900, dtype="int32").reshape(30, 30), device)
    pair.x[...] = pair.x.T
    pair.array[...] = pair.array.T.copy()
    pair.check()
    pair.x[[0, 1, 2]] = pair.x[2::-1]
    pair.array[[0, 1, 2]] = pair.array[2::-1].copy()
    pair.check()


@each_device
def test_overlap_is_seen_through_memory_adopted_twice(device: nd.Device) -> None:
    memory = np.arange(8.0)
    first, second = nd.from_numpy(memory, device), nd.from_numpy(memory, device)
    first[1:] = second[:-1]
    assert memory.tolist() == [0, 0, 1, 2, 3, 4, 5, 6]


@each_device
def test_values_are_broadcast_or_rearranged_to_the_place(device: nd.Device) -> None:
    x = nd.zeros((3, 4), device=device)
    x[1] = nd.array([1, 2, 3, 4], device=device)
    x[:, 1:2] = nd.array([5, 6, 7], device=device)  # as many elements, though of another shape
    x[2:, 2:] = nd.array([[[8, 9]]], device=device)
    x[[0, 2], 3] = nd.array([1, 2], device=device)
    x[0, :2] = np.array([3, 3])
    x[np.eye(3, 4, dtype=bool)] = 0.5
    assert x.numpy().tolist() == [[0.5, 3, 0, 1], [1, 0.5, 3, 4], [0, 7, 0.5, 2]]
    x[...] = nd.full((1, 1, 1, 1), 9, device=device)
    assert (x.numpy() == 9).all()


@each_device
@each_dtype
def test_numbers_of_every_kind_are_written(device: nd.Device, dtype: Any) -> None:
    x = nd.zeros((8,), dtype, device)
    values = [1, True, 1.0, np.float32(1), np.int8(1), np.array(1), np.array([1.0]),
              nd.ones((1,), device=device)]  # fmt: skip
    for place, value in enumerate(values):
        x[place] = value
    require_equal(x, np.ones(8, dtype))
    x.fill(0)
    require_equal(x, np.zeros(8, dtype))


@each_device
def test_a_number_is_converted_as_numpy_converts_it(device: nd.Device) -> None:
    x = nd.zeros((3,), "int8", device)
    x[:2] = 2.75
    x[2] = -2.75
    assert x.tolist() == [2, 2, -2]
    big = nd.zeros((2,), "uint64", device)
    big[0] = 2**64 - 1
    assert big.tolist() == [2**64 - 1, 0]
    half = nd.zeros((1,), "float16", device)
    half[0] = 1e6
    assert half.tolist() == [np.inf]
    flags = nd.zeros((2,), "bool", device)
    flags[0], flags[1] = 256, float("nan")
    assert flags.tolist() == [True, True]
    wide = nd.zeros((1,), device=device)
    wide[0] = 10**30
    assert wide.tolist() == [float(np.float32(1e30))]


def elsewhere(x: nd.NDArray) -> nd.NDArray:
    """An index on the other device."""
    return nd.array([0], "int64", nd.cpu_numpy() if x.device == nd.cpu() else nd.cpu())


BAD: list[tuple[str, Any, type[NeedleError], str]] = [
    ("far", lambda x: x[2], OutOfRangeError,
     r"expected an index in \[-2, 2\) at axis 0 of shape \(2, 3\), got 2\."),
    ("many", lambda x: x[0, 0, 0], OutOfRangeError, r"at most 2 indices for shape \(2, 3\), got 3"),
    ("text", lambda x: x["a"], DTypeError, "got 'a'"),
    ("float", lambda x: x[1.0], DTypeError, "got 1.0"),
    ("step", lambda x: x[::0], OptionError, "step other than 0"),
    ("dots", lambda x: x[..., ...], OutOfRangeError, "at most once, got it 2 times"),
    ("position", lambda x: x[:, [0, 3]], OutOfRangeError, r"indices in \[-3, 3\), got 3\."),
    ("beside", lambda x: x[[0], 5], OutOfRangeError, r"in \[-3, 3\) at axis 1 .* got 5\."),
    ("float array", lambda x: x[np.array([0.5])], DTypeError, r"integer or bool .* float64\[1\]"),
    ("mask", lambda x: x[np.ones((2, 2), bool)], OutOfRangeError,
     r"mask of shape \(2, 3\) at axis 0 of shape \(2, 3\), got bool\[2,2\]"),
    ("together", lambda x: x[[0, 1], [0, 1, 2]], OutOfRangeError, "broadcast together"),
    ("value", lambda x: x.__setitem__(0, nd.ones((4,), device=x.device)), ShapeError,
     r"^setitem: expected a value that fits float32\[1,3\], got float32\[4\]\."),
    ("value at", lambda x: x.__setitem__([0, 1, 0], nd.ones((2,), device=x.device)), ShapeError,
     r"^setitem: expected a value that fits float32\[3,3\], got float32\[2\]\."),
    ("position to", lambda x: x.__setitem__([0, -3], 1), OutOfRangeError,
     r"^setitem: expected indices in \[-2, 2\), got -3\."),
    ("text to", lambda x: x.__setitem__(0, "a"), DTypeError, "^setitem: .* got str 'a'"),
    ("too large", lambda x: x.astype("uint8").__setitem__(0, 256), DTypeError,
     r"^uint8: expected a number in 0\.\.255, got 256\."),
    ("too large at", lambda x: x.astype("int8").__setitem__([0], -129), DTypeError, "got -129"),
    ("no integer", lambda x: x.astype("int64").__setitem__(0, float("nan")), DTypeError, "got nan"),
    ("repeated", lambda x: x[:1].broadcast_to((5, 3)).__setitem__(
        ..., nd.ones((5, 3), device=x.device)), OptionError,
     r"^setitem: expected an element of its own at each place of float32\[5,3\], got "
     r"strides \(0, 1\)"),
    ("repeated one", lambda x: x[:1].broadcast_to((5, 3)).__setitem__(0, 5), OptionError,
     r"^setitem: expected an element of its own at each place of float32\[5,3\]"),
    ("repeated part", lambda x: operator.iadd(x[:1].broadcast_to((5, 3))[1:2], 5), OptionError,
     r"^setitem: expected an element of its own at each place of float32\[1,3\]"),
    ("repeated at", lambda x: x[:1].broadcast_to((5, 3)).__setitem__([0, 1], 5), OptionError,
     r"^setitem: expected an element of its own .* of a broadcast array or a view of one\."),
    ("repeated mask", lambda x: (y := x[:1].broadcast_to((5, 3))).__setitem__(y == 0, 5),
     OptionError, r"^setitem: expected an element of its own"),
    ("repeated flat", lambda x: x[:1].broadcast_to((5, 3)).flat.__setitem__(0, 5), OptionError,
     r"^setitem: expected an element of its own"),
    ("unsigned", lambda x: x[nd.array([[1], [2**64 - 1]], "uint64", x.device), [0, 1]],
     OutOfRangeError, r"^getitem: expected indices in \[-2, 2\), got 18446744073709551615\."),
    ("unsigned to", lambda x: x.__setitem__(nd.array([2**64 - 1], "uint64", x.device), 1),
     OutOfRangeError, r"^setitem: expected indices in \[-2, 2\), got 18446744073709551615\."),
    ("elsewhere", lambda x: x[elsewhere(x)], DeviceError, "^getitem: expected arrays on one dev"),
    ("elsewhere to", lambda x: x.__setitem__(elsewhere(x), 1), DeviceError,
     "^setitem: expected arrays on one device"),
    ("Tensor", lambda x: x[ndl.Tensor([0, 1], dtype="int64", device=x.device)], DTypeError,
     r"^getitem: .* an NDArray, got a Tensor, int64\[2\]\. Use its array, realize_cached_data\(\)"),
    ("at a Tensor", lambda x: x.__setitem__(ndl.Tensor([0], dtype="int64"), 1), DTypeError,
     r"^setitem: expected an NDArray, got a Tensor, int64\[1\]\."),
    ("a Tensor to", lambda x: x.__setitem__(0, ndl.Tensor([1.0])), DTypeError,
     r"^setitem: expected an NDArray, got a Tensor, float32\[1\]\. Use its array"),
    ("a Tensor to array", lambda x: x.__setitem__([0], ndl.Tensor([1.0])), DTypeError,
     r"^setitem: expected an NDArray, got a Tensor, float32\[1\]\. Use its array"),
    ("repeated number", lambda x: x[:1].broadcast_to((5, 3)).fill(1), OptionError,
     r"^setitem: expected an element of its own"),
]  # fmt: skip


@each_device
@pytest.mark.parametrize(("act", "kind", "message"), [row[1:] for row in BAD],
                         ids=[row[0] for row in BAD])  # fmt: skip
def test_a_bad_index_or_value_is_refused_and_nothing_written(
    device: nd.Device, act: Any, kind: type[NeedleError], message: str
) -> None:
    x = nd.zeros((2, 3), device=device)
    with pytest.raises(kind, match=message):
        act(x)
    assert not x.numpy().any()


@each_device
@pytest.mark.parametrize("dtype", ["int8", "int32", "int64", "uint64", "bool", "bfloat16"])
def test_every_kind_of_key_converts_alike(device: nd.Device, dtype: str) -> None:
    values = nd.array([np.nan, 1e10, -1e30, 2.75], device=device)
    x = nd.zeros((3, 4), dtype, device)
    x[0] = values
    x[[1]] = values
    x[nd.array([False, False, True], "bool", device)] = values
    rows = [x[i].numpy().tobytes() for i in range(3)]
    assert rows == [values.astype(dtype).numpy().tobytes()] * 3


@each_device
def test_where_nothing_is_picked_no_index_is_looked_at(device: nd.Device) -> None:
    pair = Pair.of(np.zeros((5, 1, 7), "float32"), device)
    none = np.zeros(0, int)
    for key in ((none, ..., [[5], [-5]]), ([[5], [-5]], ..., none), (none, ..., [[9], [-9]])):
        require_equal(pair.x[key], pair.array[key])
        pair.x[key] = 1
    pair.check()
    with pytest.raises(OutOfRangeError, match=r"^setitem: .* got 7\."):
        nd.zeros((3, 0), device=device)[[7]] = 1


@each_device
def test_an_int_keeps_its_axis_beside_arrays_too(device: nd.Device) -> None:
    x = nd.array(np.arange(24).reshape(2, 3, 4), "int64", device)
    assert x[1].shape == (1, 3, 4)
    assert x[-1, [0, 2]].numpy().tolist() == [[[12, 13, 14, 15], [20, 21, 22, 23]]]
    assert x[..., [1], 3].shape == (2, 1, 1)
    assert x[[0, 1], ..., 2].shape == (2, 3, 1)
    x[-1, [0, 2]] = x[0, [1, 1]]
    assert x[1, :, 0].numpy().ravel().tolist() == [4, 16, 4]

"""What arrays do not take, on every device: one line each that names the op and what it was given.

Beside each refusal stands what is taken, where the two are easily confused.
"""

from __future__ import annotations

import operator
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from ndarray.side_by_side import each_device, require_equal

import needle.backend_ndarray as nd
from needle.errors import (
    DeviceError,
    DTypeError,
    NeedleError,
    OptionError,
    OutOfRangeError,
    ShapeError,
)

TEN_TO_400 = 10**400


class Given:
    """What the rows below act on."""

    def __init__(self, device: nd.Device) -> None:
        self.device = device
        self.x = nd.array(np.arange(6).reshape(2, 3), device=device)
        self.i8 = nd.array([1, 2, 3], "int8", device)
        self.bools = nd.array([True, False], "bool", device)
        self.one = nd.ones((1, 1), device=device)
        self.numpy = np.ones((3, 2))
        self.other = nd.cpu() if device == nd.cpu_numpy() else nd.cpu_numpy()


REFUSED: list[tuple[Any, type[Exception], str]] = [
    # text is no number
    (lambda g: g.x + "3", DTypeError, r"add: expected an NDArray or a number, got str '3'"),
    (lambda g: g.x.__setitem__(0, "5"), DTypeError, r"setitem: expected .*, got str '5'"),
    (lambda g: g.x + b"3", DTypeError, "add: expected an NDArray or a number"),
    (lambda g: operator.add(g.x, ["a"]), DTypeError, "add: expected real numbers, got a list"),
    (lambda g: nd.full((2,), "a"), DTypeError, "full: expected a number, got str 'a'"),
    (lambda g: nd.full((2,), [1, 2]), DTypeError, r"full: expected a number, got \(int 1"),
    # integers have no reciprocals
    (lambda g: g.i8**-1, DTypeError,
     r"power: expected floats for negative exponents, got int8\[3\] and -1\.$"),
    (lambda g: g.i8**-g.i8, DTypeError, r"power: .* exponents, got int8\[3\] and int8\[3\]\.$"),
    (lambda g: 2**-g.i8, DTypeError, r"power: .* exponents, got int8\[3\]\.$"),
    (lambda g: nd.ones((2,), "uint8", g.device) ** -1, DTypeError, r"power: .* and -1\.$"),
    # numbers too large for any dtype
    (lambda g: g.x + TEN_TO_400, DTypeError, "add: expected a number that a float64 can hold"),
    (lambda g: nd.array([TEN_TO_400], device=g.device), DTypeError, "array: expected numbers"),
    # axes
    (lambda g: (g.x.sum(0), g.x.sum(axis=0.0)), DTypeError, r"sum: expected ints, got 0\.0"),
    (lambda g: (g.x.sum((0, 1)), g.x.sum((0.0, 1.0))), DTypeError, "sum: expected ints"),
    (lambda g: (g.x.permute((1, 0)), g.x.permute((1.0, 0.0))), DTypeError, "permute: expected"),
    (lambda g: (g.one.broadcast_to((2, 3)), g.one.broadcast_to((2.0, 3))), DTypeError,
     "broadcast_to: expected ints"),
    (lambda g: (g.x.swapaxes(0, 1), g.x.swapaxes(0.0, 1)), DTypeError, "swapaxes: expected ints"),
    (lambda g: (g.x.argmax(0), g.x.argmax(0.0)), DTypeError, r"argmax: expected one axis, .* 0\.0"),
    (lambda g: nd.cumsum(g.x, "a"), DTypeError, "cumsum: expected one axis, an int, got 'a'"),
    (lambda g: g.x.permute(0), NeedleError, "permute: expected every axis"),
    (lambda g: g.x.broadcast_to(5), ShapeError, r"broadcast_to: .*, got \(5,\)"),
    (lambda g: g.x.pad(1), OptionError, "pad: expected 2 pairs of widths"),
    (lambda g: g.x.pad((1, 1)), OptionError, r"pad: expected 2 pairs .*, got \(1, 1\)"),
    (lambda g: g.x.pad([(1, 1.5), (0, 0)]), OptionError, "pad: expected 2 pairs of widths"),
    # sizes
    (lambda g: nd.zeros((1 << 62, 4), device=g.device), ShapeError, r"zeros: .* 2\*\*63"),
    (lambda g: nd.ones((2**70,), device=g.device), ShapeError, "ones: expected at most"),
    (lambda g: nd.zeros((2**70, 0), device=g.device), ShapeError, "zeros: expected at most"),
    (lambda g: nd.ones((1,) * 65, device=g.device), ShapeError, "ones: expected at most 64 axes"),
    (lambda g: g.one.broadcast_to((2**40, 2**40)).sum(), ShapeError, "broadcast_to: expected at"),
    (lambda g: g.one.broadcast_to((2**40, 1)) + g.one.broadcast_to((1, 2**40)), ShapeError,
     "add: expected at most"),
    (lambda g: g.one.broadcast_to((2**40, 1)) @ g.one.broadcast_to((1, 2**40)), ShapeError,
     "matmul: expected at most"),
    (lambda g: g.one.as_strided((1,), (2**70,)), ShapeError, "as_strided: expected extents"),
    # what is no NDArray
    (lambda g: nd.sum(g.numpy), DTypeError, r"sum: expected NDArrays, got float64\[3,2\]"),
    (lambda g: nd.argmax(g.numpy), DTypeError, "argmax: expected NDArrays"),
    (lambda g: nd.cumsum(g.numpy), DTypeError, "cumsum: expected NDArrays"),
    (lambda g: nd.mean(g.numpy), DTypeError, "mean: expected NDArrays"),
    (lambda g: nd.exp(g.numpy), DTypeError, "exp: expected NDArrays"),
    (lambda g: nd.matmul(g.numpy, g.numpy), DTypeError, "matmul: expected NDArrays"),
    (lambda g: nd.reshape(g.numpy, (6,)), DTypeError, "reshape: expected NDArrays"),
    (lambda g: nd.flip(g.numpy), DTypeError, "flip: expected NDArrays"),
    (lambda g: nd.tril(g.numpy), DTypeError, "tril: expected NDArrays"),
    (lambda g: nd.einsum("ij->ji", g.numpy), DTypeError, "einsum: expected NDArrays"),
    (lambda g: nd.concatenate([g.x, g.numpy]), DTypeError,
     r"concatenate: expected NDArrays, got float32\[2,3\] and float64\[3,2\]"),
    (lambda g: nd.stack([g.x, g.numpy]), DTypeError, "stack: expected NDArrays"),
    (lambda g: nd.full_like(g.numpy, 2), DTypeError, "full_like: expected NDArrays"),
    (lambda g: g.x @ 2, DTypeError, r"matmul: expected NDArrays, got float32\[2,3\] and int 2"),
    (lambda g: 2 @ g.x, DTypeError, r"matmul: expected NDArrays, got int 2 and float32"),
    # subscripts
    (lambda g: nd.einsum("ij,jk->ik", g.x), ShapeError,
     r"einsum: expected a term for each array.* got 'ij,jk->ik' for float32\[2,3\]"),
    (lambda g: nd.einsum("i->i", g.x), ShapeError, "einsum: .* a letter for each axis"),
    (lambda g: nd.einsum("ij->k", g.x), ShapeError, "einsum: expected an output of letters of"),
    (lambda g: nd.einsum("ij->ijj", g.x), ShapeError, "einsum: .*, each once, got 'ij->ijj'"),
    (lambda g: nd.einsum("...j->j...", g.x), OptionError, r"einsum: .* Name every axis"),
    (lambda g: nd.einsum("ij->j->i", g.x), OptionError, "einsum: expected letters, commas and one"),
    (lambda g: nd.einsum("ii->i", g.x[:1]), ShapeError,
     r"einsum: expected equal extents for 'i' in 'ii->i', got float32\[1,3\]\.$"),
    (lambda g: nd.einsum(3, g.x), DTypeError, "einsum: expected subscripts, got int 3"),
    # numbers of elements
    (lambda g: nd.arange(3, 9, 0), DTypeError, "arange: .* and a step other than 0"),
    (lambda g: nd.arange("a"), DTypeError, "arange: expected finite numbers"),
    (lambda g: nd.arange(float("inf")), DTypeError, "arange: expected finite numbers"),
    (lambda g: nd.arange(2**63, 2**63 + 3), DTypeError,
     r"arange: expected numbers that int64 can hold, got 9223372036854775808\.\.92233720368547758"),
    (lambda g: nd.arange(2**64, 2**64 + 3, dtype="uint64"), DTypeError,
     r"arange: expected numbers that uint64 can hold"),
    # dtypes of results
    (lambda g: g.x.max(dtype="float64"), DTypeError,
     r"max: expected no dtype, got float64\. Use astype\(dtype\)\."),
    (lambda g: g.x.sum(dtype="complex64"), DTypeError, r"dtype: expected one of float16"),
    (lambda g: g.x.permute(0, 1, 2), NeedleError, r"permute: expected axes in \[-2, 2\) of"),
    (lambda g: g.x.broadcast_to(2, 2), ShapeError, r"broadcast_to: .*, got \(2, 2\)"),
    # two devices
    (lambda g: nd.where(g.x, g.x, nd.ones((1,), device=g.other)), DeviceError,
     r"where: expected arrays on one device, got (cpu\(\) and cpu_numpy\(\)|cpu_numpy\(\) and "
     r"cpu\(\))\."),
    # memory that an array is put on
    (lambda g: nd.NDArray.make((2,), device=nd.cuda(), handle=g.x._handle), DeviceError,
     r"make: expected a handle of cuda\(\), got one of"),
    (lambda g: nd.NDArray.make((2,), handle=object()), DTypeError, "make: expected an Array"),
    (lambda g: nd.NDArray.make((2,), device=g.device, offset=1.5), DTypeError, "make: expected"),
    (lambda g: nd.NDArray.make((2,), (9,), g.device, g.x._handle), OutOfRangeError,
     "make: expected a view within"),
    # bools have no differences
    (lambda g: g.bools - g.bools, DTypeError, r"subtract: .*, got bool and bool\. Use a \^ b\."),
    (lambda g: -g.bools, DTypeError, r"negative: expected integers or floats, got bool\. Use ~x"),
    (lambda g: f"{g.x:.2f}", ShapeError, r"format: expected one element for '\.2f'"),
]  # fmt: skip


@each_device
@pytest.mark.parametrize(("act", "kind", "message"), REFUSED, ids=[row[2] for row in REFUSED])
def test_it_is_refused_by_name(
    device: nd.Device, act: Any, kind: type[Exception], message: str
) -> None:
    given = Given(device)
    for _ in range(2):  # the second time with plans made
        with pytest.raises(kind, match=f"^{message}"):
            act(given)


@each_device
def test_a_row_of_ints_may_be_numpys_or_one_int(device: nd.Device) -> None:
    x, array = Given(device).x, np.arange(6, dtype="float32").reshape(2, 3)
    zero = np.int64(0)
    require_equal(x.flip(zero), array[::-1])
    require_equal(x.expand_dims(zero).squeeze(zero), array)
    require_equal(x.sum(axis=np.array([0])), array.sum(0))
    require_equal(x.sum(axis=[0, 1]), array.sum())
    require_equal(x[0].reshape(3).permute(0), array[0])
    require_equal(x[0, 0].reshape(1).broadcast_to(5), np.zeros(5, "float32"))
    require_equal(x.reshape(np.array([3, 2])), array.reshape(3, 2))
    assert nd.NDArray.make(4, device=device).shape == (4,)


@each_device
def test_what_is_neither_number_nor_array_equals_no_element(device: nd.Device) -> None:
    for x in vars(Given(device)).values():
        if isinstance(x, nd.NDArray):
            for other in (None, "a", TEN_TO_400, -TEN_TO_400):
                require_equal(x == other, np.zeros(x.shape, bool))
                require_equal(x != other, np.ones(x.shape, bool))
    infinite = nd.array([np.inf, -np.inf, 1], device=device)
    assert (infinite == TEN_TO_400).tolist() == [False, False, False]
    assert (infinite < TEN_TO_400).tolist() == [False, True, True]


@each_device
def test_exponents_of_zero_and_more_are_taken(device: nd.Device) -> None:
    given = Given(device)
    assert (given.i8**2).tolist() == [1, 4, 9]
    assert (given.i8**given.i8).tolist() == [1, 4, 27]
    assert (given.i8**-1.0).dtype == (np.ones(1, "int8") ** -1.0).dtype
    assert (given.x[1] ** -1).tolist() == [[np.float32(1) / 3, 0.25, np.float32(0.2)]]


@each_device
def test_numbers_are_true_or_false_where_bools_are_wanted(device: nd.Device) -> None:
    x = nd.array([0, 1, 2], device=device)
    for number in (2.5, 0.5, float("nan"), 0.0, 3, True):
        require_equal(nd.logical_and(x, number), np.logical_and([0, 1, 2], number))
        require_equal(nd.logical_or(x, number), np.logical_or([0, 1, 2], number))
        require_equal(nd.where(number, x, -x), np.asarray(x if number else -x))


@each_device
def test_numpys_arrays_keep_their_dtype_and_shape_beside_an_array(device: nd.Device) -> None:
    x, i8 = nd.ones((), device=device), Given(device).i8
    a, b = np.ones((), "float32"), np.array([1, 2, 3], "int8")
    for other in (np.array([1.5]), np.array(2), np.array([300]), np.ones((1, 1), "float16")):
        require_equal(x + other, np.asarray(a + other))
        require_equal(other - x, np.asarray(other - a))
        require_equal(i8 * other, np.asarray(b * other))
    assert (nd.ones((2,), device=device) + np.float64(2)).dtype == "float32"
    with pytest.raises(DTypeError, match=r"expected one of float16, .*, got (longdouble|float\d+)"):
        x + np.ones(2, np.longdouble)


@each_device
def test_lists_are_arrays(device: nd.Device) -> None:
    x = nd.ones((2, 3), device=device)
    require_equal(operator.mul(x, [2.0, 3.0, 4.0]), np.tile(np.array([2, 3, 4], "float32"), (2, 1)))
    assert (operator.add(Given(device).i8, [1, 2, 300])).tolist() == [2, 4, 303]
    x[0] = [1, 2, 3]
    x[1, :2] = (4.5, Fraction(11, 2))
    x[[0, 1], [2, 2]] = [7, 8]
    assert x.tolist() == [[1, 2, 7], [4.5, 5.5, 8]]
    with pytest.raises(DTypeError, match=r"^setitem: expected values for int8, got a list"):
        Given(device).i8[:] = [1, 2, 300]


@each_device
def test_subscripts_are_read_as_numpys(device: nd.Device) -> None:
    x, array = Given(device).x, np.arange(6, dtype="float32").reshape(2, 3)
    for subscripts in ("ij,kj", "i j , k j -> i k", "ij,ij", "ji,ki"):
        require_equal(nd.einsum(subscripts, x, x), np.asarray(np.einsum(subscripts, array, array)))
    require_equal(nd.einsum("ba", x), np.einsum("ba", array))


@each_device
def test_matrices_of_numpy_stand_beside_an_array(device: nd.Device) -> None:
    given = Given(device)
    require_equal(nd.matmul(given.x, given.numpy), np.asarray(given.x) @ given.numpy)
    require_equal(nd.matmul(given.numpy, given.x), given.numpy @ np.asarray(given.x))


@each_device
def test_clip_without_limits_is_a_copy(device: nd.Device) -> None:
    x = nd.ones((2,), device=device)
    y = nd.clip(x)
    y[:] = 5
    assert x.tolist() == [1, 1]

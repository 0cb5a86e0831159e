"""Numbers beside arrays, promotion and operators, on every device, as in NumPy 2."""

from __future__ import annotations

import operator
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from ndarray.side_by_side import (
    BFLOAT16,
    DEVICES,
    DTYPES,
    FLOATS,
    each_device,
    require_equal,
    whole_numbers,
)

import needle.backend_ndarray as nd
from needle.errors import DTypeError

ARITHMETIC = [operator.add, operator.sub, operator.mul, operator.truediv, operator.floordiv,
              operator.mod, operator.pow]  # fmt: skip
BITS = [operator.and_, operator.or_, operator.xor]
COMPARISONS = [operator.eq, operator.ne, operator.lt, operator.le, operator.gt, operator.ge]
OPERATORS = [*ARITHMETIC, *BITS, *COMPARISONS]


def one_to_three(dtype: Any, device: nd.Device) -> tuple[nd.NDArray, np.ndarray]:
    array = np.array([[1, 2, 3], [3, 1, 2]]).astype(dtype)
    return nd.array(array, dtype, device), array


def expected_of(act: Any, *operands: Any) -> Any:
    """NumPy's result, or None where it knows none; bfloat16 takes any number for its own."""
    try:
        with np.errstate(all="ignore"):
            return act(*operands)
    except TypeError:
        return None


@given(st.sampled_from(DTYPES), st.sampled_from(DTYPES), st.sampled_from(OPERATORS),
       st.sampled_from(DEVICES))  # fmt: skip
def test_operators_on_two_dtypes_are_numpys(first: Any, second: Any, act: Any, device: Any) -> None:
    x, a = one_to_three(first, device)
    y, b = one_to_three(second, device)
    y, b = y[:, ::-1], b[:, ::-1]
    expected = expected_of(act, a, b)
    if expected is None:
        with pytest.raises(DTypeError, match="expected"):
            act(x, y)
    else:
        require_equal(act(x, y), expected, exact=act not in (operator.truediv, operator.pow))


@given(st.sampled_from(DTYPES), st.sampled_from([2, 2.0, True]), st.sampled_from(OPERATORS),
       st.booleans(), st.sampled_from(DEVICES))  # fmt: skip
def test_operators_on_a_number_are_numpys(
    dtype: Any, number: Any, act: Any, reflected: bool, device: Any
) -> None:
    x, array = one_to_three(dtype, device)
    if dtype == BFLOAT16:  # next to which NumPy takes 2 for an int64
        other: Any = BFLOAT16.type(number)
    else:
        other = number
    order = (lambda a, b: (b, a)) if reflected else (lambda a, b: (a, b))
    expected = expected_of(act, *order(array, other))
    if expected is None:
        with pytest.raises(DTypeError, match="expected"):
            act(*order(x, number))
    else:
        exact = act not in (operator.truediv, operator.pow)
        require_equal(act(*order(x, number)), expected, exact)


@each_device
@pytest.mark.parametrize(
    "number",
    [2, 2.0, True, np.float64(2), np.float32(2), np.int64(2), np.uint8(2),
     np.bool_(True), Fraction(1, 2)],
    ids=repr,
)  # fmt: skip
def test_no_number_makes_float32_anything_else(device: nd.Device, number: Any) -> None:
    x = nd.ones((2,), device=device)
    for result in (x + number, number + x, x / number, number / x, x**number, number - x):
        assert isinstance(result, nd.NDArray)
        assert result.dtype == "float32"
        assert result.device == device
    require_equal(x * number, np.full(2, float(np.asarray(number).item()), "float32"))


@each_device
def test_numpy_arrays_beside_an_array_become_arrays(device: nd.Device) -> None:
    x = nd.ones((2, 3), device=device)
    row = np.arange(3, dtype="float32")
    for result in (x + row, row + x):
        require_equal(result, np.ones((2, 3), "float32") + row)
    require_equal(row - x, row - np.ones((2, 3), "float32"))
    require_equal(x @ row, np.full(2, 3, "float32"))
    require_equal(np.ones((4, 2), "float32") @ x, np.full((4, 3), 2, "float32"))
    assert (x + np.arange(3)).dtype == "float64"


@each_device
def test_comparisons_pass_for_zeros_and_ones(device: nd.Device) -> None:
    x = nd.array([1, 2, 3], device=device)
    for act in COMPARISONS:
        result = act(x, 2)
        assert result.dtype == "bool"
        expected = act(np.array([1.0, 2.0, 3.0]), 2).astype("float32")
        np.testing.assert_allclose(result.numpy(), expected, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(np.asarray(result), expected)
        np.testing.assert_equal(result.numpy(), expected)
    assert ((x >= 2) * x).dtype == "float32"
    assert (x >= 2).sum().item() == 2
    assert (1.0 - (x == 2)).numpy().tolist() == [1, 0, 1]


@each_device
@pytest.mark.parametrize("dtype", ["int8", "uint8", "int64", "uint64"])
def test_integers_are_compared_with_numbers_they_cannot_hold(device: nd.Device, dtype: str) -> None:
    array = np.array([0, 100, np.iinfo(dtype).max], dtype)
    x = nd.array(array, dtype, device)
    for number in (-1, 255, 2**63, 2**64, -(2**70)):
        for act in COMPARISONS:
            require_equal(act(x, number), act(array, number))
            require_equal(act(number, x), act(number, array))


@each_device
def test_a_number_that_an_integer_dtype_cannot_hold_is_refused(device: nd.Device) -> None:
    x = nd.ones((2,), "int8", device)
    assert (x + 100).tolist() == [101, 101]
    with pytest.raises(DTypeError, match=r"^int8: expected a number in -128\.\.127, got 300\."):
        x + 300
    assert (x + 300.0).dtype == "float64"


@each_device
def test_integers_wrap_and_floats_overflow_without_a_warning(device: nd.Device) -> None:
    assert (nd.full((1,), 127, "int8", device) + 1).tolist() == [-128]
    assert (nd.zeros((1,), "uint8", device) - 1).tolist() == [255]
    assert (nd.full((1,), 3e38, device=device) * 10).tolist() == [np.inf]
    assert np.isnan((nd.full((1,), -1, device=device) ** 0.5).item())
    assert (1 / nd.zeros((1,), device=device)).tolist() == [np.inf]
    assert nd.full((1,), 7, "int32", device)[0].item() // 2 == 3


@each_device
@pytest.mark.parametrize("dtype", ["int32", "uint8", "float32"])
def test_division_by_zero_is_numpys(device: nd.Device, dtype: str) -> None:
    x, array = one_to_three(dtype, device)
    for act in (operator.floordiv, operator.mod, operator.truediv):
        with np.errstate(all="ignore"):
            require_equal(act(x, 0), act(array, 0))


@each_device
def test_a_reflected_operator_is_asked_of_the_other_operand(device: nd.Device) -> None:
    for dtype in FLOATS:
        x = nd.array(whole_numbers((3,), dtype, 1), dtype, device)
        require_equal(2 - x, np.asarray(-(x - 2).numpy()))
        assert (2**x).dtype == dtype


@pytest.mark.parametrize(
    ("values", "dtype", "message"),
    [
        (["a"], None, "array: expected real numbers, got a list of dtype <U1"),
        ([1 + 2j], None, "array: expected real numbers, got a list of dtype complex128"),
        ([None], None, "array: expected real numbers, got a list of dtype object"),
        (object(), None, "array: expected real numbers, got a object of dtype object"),
        ([[1, 2], [3]], None, "array: expected values for float32|rows of equal length"),
        ([2**40], "int8", "array: expected values for int8, got a list"),
        ([float("nan")], "int32", "array: expected values for int32, got a list"),
    ],
)
def test_what_are_no_numbers_is_refused(values: Any, dtype: Any, message: str) -> None:
    with pytest.raises(DTypeError, match=message):
        nd.array(values, dtype)


def test_an_ndarray_given_keeps_its_dtype_unless_one_is_named() -> None:
    ids = nd.arange(3)
    assert nd.array(ids).dtype == "int64"
    assert nd.array(ids, "float32").dtype == "float32"
    assert nd.array([1, 2]).dtype == "float32"


@each_device
def test_operators_of_numpys_arrays_leave_it_to_the_array(device: nd.Device) -> None:
    """On their right, as on their left, an NDArray comes of it, of NumPy's dtype."""
    array = np.array([[1, 2, 3], [3, 1, 2]], "int32")
    x = nd.array(array, "int32", device)
    others = (array[:, ::-1], array[0].astype("float32"), np.array(2), np.float64(2), np.int16(3))
    for other in others:
        for act in [*ARITHMETIC, *COMPARISONS]:
            result = act(other, x)
            assert isinstance(result, nd.NDArray)
            np.testing.assert_allclose(result.numpy(), act(other, array), rtol=1e-6)
        for mine, theirs in zip(divmod(other, x), divmod(other, array), strict=True):
            np.testing.assert_array_equal(mine.numpy(), theirs)
    for act in BITS:
        require_equal(act(array[0], x), act(array[0], array))
    require_equal(array.T @ x, array.T @ array)


@each_device
def test_no_other_ufunc_of_numpys_takes_an_array(device: nd.Device) -> None:
    x = nd.ones((2, 2), device=device)
    for act in (np.sin, np.add.reduce, lambda x: np.add(x, x, where=np.ones((2, 2), bool))):
        message = r"^(sin|add): expected NumPy's arrays, got float32\[2,2\].*; __array_ufunc__ is"
        with pytest.raises(TypeError, match=message):
            act(x)


@each_device
def test_lists_of_ints_take_the_dtype_of_floats(device: nd.Device) -> None:
    for dtype in FLOATS:
        x = nd.ones((3,), dtype, device)
        require_equal(operator.add(x, [1, 2, 3]), np.array([2, 3, 4]).astype(dtype))
        require_equal(operator.sub([1, 2, 3], x), np.array([0, 1, 2]).astype(dtype))
        assert nd.where(x > 0, x, [1, 2, 3]).dtype == dtype
        assert nd.where(x > 0, [1, 2, 3], x).dtype == dtype
    assert operator.add(nd.ones((3,), "int8", device), range(3)).dtype == "int64"
    assert operator.add(nd.ones((2,), "float32", device), [0.5, 2]).dtype == "float32"


@each_device
@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "bfloat16"])
@pytest.mark.parametrize("exponent", [0.5, 2, 2.0])
def test_squares_and_roots_are_numpys_at_the_edges(
    device: nd.Device, dtype: str, exponent: float
) -> None:
    x = np.array([-np.inf, -4.0, -0.0, 0.0, 2.25, np.inf, np.nan], "float32")
    with np.errstate(invalid="ignore"):
        wanted = x**exponent
    given = nd.array(x, dtype, device)
    in_place = given.copy()
    in_place **= exponent
    for found in (given**exponent, nd.power(given, exponent), in_place):
        assert found.dtype == given.dtype
        values = np.asarray(found.astype("float32"))
        np.testing.assert_array_equal(values, wanted)
        np.testing.assert_array_equal(np.signbit(values[2:6]), np.signbit(wanted[2:6]))


@each_device
def test_whole_numbers_keep_their_dtype_when_squared_and_become_floats_under_a_root(
    device: nd.Device,
) -> None:
    x = nd.array([3, -4], "int32", device)
    assert (x**2).dtype == np.dtype("int32")
    assert (x**2).tolist() == [9, 16]
    assert nd.array([4, 9], "int32", device).__pow__(0.5).tolist() == [2.0, 3.0]


@each_device
def test_numpys_scalars_are_exponents_as_pythons_numbers_are(device: nd.Device) -> None:
    x = nd.array([-np.inf, -0.0, 9.0], device=device)
    for half in (np.float64(0.5), np.float32(0.5), Fraction(1, 2)):
        np.testing.assert_array_equal(np.asarray(x**half), [np.nan, -0.0, 3.0])
    assert (x ** np.int64(2)).tolist() == [np.inf, 0.0, 81.0]


@each_device
def test_whole_numbers_in_lists_are_not_rounded_to_be_compared(device: nd.Device) -> None:
    assert (nd.array([16777216.0], device=device) == [16777217]).tolist() == [False]

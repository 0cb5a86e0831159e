"""dtypes of results, held to what NumPy 2 (and ml_dtypes, for bfloat16) really returns."""

from __future__ import annotations

import itertools
import subprocess
import sys
from typing import Any

import numpy as np
import pytest

from needle.backend_ndarray.promotion import (
    SUPPORTED,
    as_supported,
    check_fits,
    fits,
    reduction_dtype,
    result_dtypes,
)
from needle.errors import DTypeError

UNARY = [
    "negative", "abs", "sign", "sqrt", "exp", "expm1", "log", "log1p", "log2", "tanh", "sin", "cos",
    "floor", "ceil", "rint", "reciprocal", "isnan", "isfinite", "isinf", "logical_not", "invert",
    "square",
]  # fmt: skip
COMPARISONS = ["equal", "not_equal", "less", "less_equal", "greater", "greater_equal"]
BINARY = [
    "add", "subtract", "multiply", "divide", "power", "remainder", "floor_divide", "maximum",
    "minimum", "logical_and", "logical_or", "bitwise_and", "bitwise_or", "bitwise_xor",
    *COMPARISONS,
]  # fmt: skip
DTYPES = [as_supported(name) for name in SUPPORTED]
NATIVE = [dtype for dtype in DTYPES if dtype.name != "bfloat16"]
BF16 = as_supported("bfloat16")
F32, F64, I8 = np.dtype("float32"), np.dtype("float64"), np.dtype("int8")


def ours(name: str, *dtypes: Any) -> Any:
    """Our result's dtype; None where there is none."""
    try:
        inputs, result = result_dtypes(name, dtypes)
    except DTypeError:
        return None
    assert len(inputs) == len(dtypes)
    assert {dtype.name for dtype in (*inputs, result)} <= set(SUPPORTED)
    return result


def numpys(name: str, *operands: Any) -> Any:
    """NumPy's; None where it has none."""
    try:
        return getattr(np, name)(*operands).dtype
    except TypeError:
        return None


@pytest.mark.parametrize("name", UNARY)
def test_one_input_gives_numpys_dtype(name: str) -> None:
    for dtype in DTYPES:
        assert ours(name, dtype) == numpys(name, np.ones(2, dtype)), dtype


@pytest.mark.parametrize("name", BINARY)
def test_two_arrays_give_numpys_dtype(name: str) -> None:
    for a, b in itertools.product(DTYPES, DTYPES):
        expected = numpys(name, np.ones(2, a), np.ones(2, b))
        assert ours(name, a, b) == expected, (a, b)


@pytest.mark.parametrize("name", BINARY)
def test_array_and_python_number_give_numpys_dtype(name: str) -> None:
    for dtype, number in itertools.product(NATIVE, (True, 1, 1.0)):
        x = np.ones(2, dtype)
        assert ours(name, dtype, type(number)) == numpys(name, x, number), (dtype, number)
        assert ours(name, type(number), dtype) == numpys(name, number, x), (dtype, number)


@pytest.mark.parametrize("name", BINARY)
def test_inputs_are_converted_to_what_numpy_computes_in(name: str) -> None:
    for a, b in itertools.product(NATIVE, NATIVE):
        if ours(name, a, b) is None:
            continue
        inputs, result = result_dtypes(name, (a, b))
        expected = getattr(np, name).resolve_dtypes((a, b, None))
        assert (*inputs, result) == expected
        if {dtype.name for dtype in inputs} == {"int64", "uint64"}:
            assert name in COMPARISONS  # which are exact for these two, without a common dtype
        else:
            assert inputs[0] == inputs[1]
        assert all(dtype is np.dtype(dtype.name) for dtype in inputs)


def test_where_promotes_its_values_and_takes_any_condition() -> None:
    boolean = np.dtype(bool)
    for a, b in itertools.product(NATIVE, NATIVE):
        expected = np.where(np.ones(2, bool), np.ones(2, a), np.ones(2, b)).dtype
        assert result_dtypes("where", (F32, a, b)) == ((boolean, expected, expected), expected)
    for a, number in itertools.product(NATIVE, (True, 1, 1.0)):
        expected = np.where(np.ones(2, bool), np.ones(2, a), number).dtype
        assert result_dtypes("where", (boolean, a, type(number)))[1] == expected
        assert result_dtypes("where", (boolean, type(number), a))[1] == expected
    assert result_dtypes("where", (boolean, BF16, float)) == ((boolean, BF16, BF16), BF16)
    assert result_dtypes("where", (boolean, int, float))[1] == F64
    assert result_dtypes("where", (BF16, I8, int)) == ((boolean, I8, I8), I8)


def test_multiply_add_computes_in_the_dtype_that_its_two_steps_end_in() -> None:
    assert result_dtypes("multiply_add", (I8, I8, F32)) == ((F32, F32, F32), F32)
    assert result_dtypes("multiply_add", (BF16, BF16, float)) == ((BF16, BF16, BF16), BF16)
    assert result_dtypes("multiply_add", (F32, F64, I8)) == ((F64, F64, F64), F64)


def test_bfloat16_stays_itself_next_to_python_numbers() -> None:
    for name, number in itertools.product(
        ("add", "divide", "power", "maximum"), (bool, int, float)
    ):
        assert result_dtypes(name, (BF16, number)) == ((BF16, BF16), BF16)
        assert result_dtypes(name, (number, BF16)) == ((BF16, BF16), BF16)
    assert result_dtypes("less", (BF16, float)) == ((BF16, BF16), np.dtype(bool))
    assert result_dtypes("add", (BF16, F32)) == ((F32, F32), F32)
    assert result_dtypes("add", (BF16, np.dtype("float16"))) == ((F32, F32), F32)


def test_erf_and_sigmoid_follow_exp_and_copy_follows_its_input() -> None:
    for dtype in DTYPES:
        assert result_dtypes("erf", (dtype,)) == result_dtypes("exp", (dtype,))
        assert result_dtypes("sigmoid", (dtype,)) == result_dtypes("exp", (dtype,))
        assert result_dtypes("copy", (dtype,)) == ((dtype,), dtype)


@pytest.mark.parametrize("name", ["sum", "prod", "cumsum", "mean", "max", "min", "all", "any"])
def test_reductions_have_numpys_dtype(name: str) -> None:
    for dtype in NATIVE:
        assert reduction_dtype(name, dtype) == getattr(np, name)(np.ones(2, dtype)).dtype, dtype
    expected = np.dtype(bool) if name in ("all", "any") else BF16
    assert reduction_dtype(name, BF16) == expected


def test_argmax_gives_int64() -> None:
    assert reduction_dtype("argmax", F32) == reduction_dtype("argmin", I8) == np.dtype("int64")


def test_supported_dtypes_come_from_names_types_and_dtypes() -> None:
    assert as_supported("float32") is as_supported(np.float32) is F32
    assert as_supported(float) == F64
    assert as_supported(np.dtype(">f4")) is F32
    assert as_supported(BF16) is BF16


@pytest.mark.parametrize("dtype", ["int8", "int64", "uint8", "uint64"])
def test_an_integer_dtype_holds_its_limits_and_nothing_beyond(dtype: str) -> None:
    limits = np.iinfo(dtype)
    for value in (limits.min, limits.max, float(limits.min), 0.5):
        check_fits(value, np.dtype(dtype))
    for value in (limits.min - 1, limits.max + 1, 1e30, float("nan"), float("inf")):
        assert not fits(value, np.dtype(dtype))


def test_float_and_bool_dtypes_hold_every_number_that_float64_does() -> None:
    for value in (10**300, float("nan"), -1e300):
        check_fits(value, F32)
        check_fits(value, np.dtype(bool))
    assert not fits(10**400, F32)


ERRORS = [
    (lambda: result_dtypes("negative", (np.dtype(bool),)),
     "negative: expected integers or floats, got bool. Use ~x."),
    (lambda: result_dtypes("subtract", (np.dtype(bool), bool)),
     "subtract: expected integers or floats, got bool and bool. Use a ^ b."),
    (lambda: result_dtypes("bitwise_and", (F32, int)),
     "bitwise_and: expected integers or bools, got float32 and int."),
    (lambda: result_dtypes("invert", (BF16,)),
     "invert: expected integers or bools, got bfloat16."),
    (lambda: as_supported("complex64"),
     "dtype: expected one of float16, bfloat16, float32, float64, int8, int16, int32, int64, "
     "uint8, uint16, uint32, uint64, bool, got complex64."),
    (lambda: check_fits(300, np.dtype("uint8")),
     "uint8: expected a number in 0..255, got 300. Convert the array to a wider dtype first."),
    (lambda: check_fits(float("nan"), I8),
     "int8: expected a number in -128..127, got nan. Convert the array to a wider dtype first."),
]  # fmt: skip


@pytest.mark.parametrize(("act", "message"), ERRORS, ids=[message for _, message in ERRORS])
def test_a_dtype_that_cannot_be_is_named(act: Any, message: str) -> None:
    with pytest.raises(DTypeError) as caught:
        act()
    assert str(caught.value) == message


@pytest.mark.parametrize("dtype", [object, str, "datetime64[s]", "V8", None])
def test_other_dtypes_are_refused(dtype: Any) -> None:
    with pytest.raises(DTypeError, match=r"^dtype: expected"):
        as_supported(dtype)


def test_ml_dtypes_is_imported_for_bfloat16_only() -> None:
    code = (
        "import sys; from needle.backend_ndarray.promotion import *; import numpy as np\n"
        "result_dtypes('add', (as_supported('float32'), float)); as_supported('bool')\n"
        "assert 'ml_dtypes' not in sys.modules\n"
        "as_supported('bfloat16'); assert 'ml_dtypes' in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)

"""Elementwise functions in registers against NumPy: values, special values, every target."""

import math

import numpy as np
import pytest
from native_calls import DTYPES, INTEGERS
from native_functions import HOST, RUNNABLE, applied, writer

from needle.backend_numpy import erf, sigmoid
from needle.compiler import build, functions
from needle.compiler.code import Code
from needle.compiler.target import TARGETS
from needle.compiler.types import TYPES

FLOATS = [np.dtype("float32"), np.dtype("float64")]
SIGNED = [d for d in INTEGERS if d.kind == "i"]
EXACT_LOGIC = ("equal", "not_equal", "less", "less_equal", "greater", "greater_equal")

REFERENCE = {
    name: getattr(np, name)
    for name in ("exp", "expm1", "log", "log1p", "log2", "tanh", "sin", "cos")
} | {"erf": erf, "sigmoid": sigmoid}

# Where a function changes its method, overflows, leaves its domain or is at its hardest.
THRESHOLDS = (
    0.0, -0.0, math.inf, -math.inf, math.nan, 1.0, -1.0, 0.5, -0.5, 0.8, 0.9, 2.0**-26, 2.0**-24,
    2.0**-126, 1.4e-45, 3.4028235e38, -3.4028235e38, 89.0, 88.722839, -87.33655, -100.0, -103.97208,
    -104.0, -18.0, 17.0, 9.01, 10.0, 3.92, 4.0, math.sqrt(0.5), math.sqrt(2), math.log(2) / 2,
    math.pi / 4, math.pi / 2, math.pi, 355.0, 1e6, 16367173 * 2.0**72, 2.0**24, 2.0**127,
)  # fmt: skip

# Likewise in float64, and which functions have vectors of their own there.
WIDE_THRESHOLDS = (
    710.0, 709.782712893384, 708.3964185322641, -745.1332191019411, -746.0, -708.0, -38.0, 18.71,
    19.06, 2.0**-28, 2.0**-27, 2.0**-54, 2.0**-53, 2.0**-1022, 2.0**53, 5e-324, 1e300, -1e300,
    1.7976931348623157e308, math.sqrt(0.5) - 1, math.sqrt(2) - 1, 2.0**1023,
)  # fmt: skip
WIDE = ("exp", "expm1", "log", "log1p", "tanh", "sigmoid")


@pytest.fixture(autouse=True)
def quiet():
    with np.errstate(all="ignore"):
        yield


def float32_sample():
    """All exponents and signs, mantissas spread evenly, NaNs, and what surrounds the thresholds."""
    even = np.arange(0, 2**32, 65_521, dtype=np.uint64).astype(np.uint32).view(np.float32)
    special = np.array(THRESHOLDS, np.float32)
    around = [special, np.nextafter(special, np.float32(9e9)), np.nextafter(special, np.float32(0))]
    usual = np.linspace(-12, 12, 20_001, dtype=np.float32)
    return np.concatenate([even, *around, -special, usual])


def float64_sample():
    """The same in float64; and numbers close to 0, 1 and -1, denormals, multiples of ln 2 / 2."""
    step = 2**64 // 60_000 + 1
    even = (np.arange(60_000, dtype=np.uint64) * np.uint64(step)).view(np.float64)
    special = np.array([*THRESHOLDS, *WIDE_THRESHOLDS])
    special = np.concatenate([special, np.arange(1, 2060, 2) * (math.log(2) / 2)])
    around = [special, np.nextafter(special, 9e300), np.nextafter(special, 0.0)]
    usual = np.linspace(-2, 2, 40_001), np.linspace(-40, 40, 40_001), np.linspace(-750, 715, 20_001)
    close = np.exp2(np.linspace(-60, 0, 20_001))
    denormal = np.exp2(np.linspace(-1074, -1020, 2_001))
    both = np.concatenate([*around, close, denormal])
    return np.concatenate([even, both, -both, *usual, 1 + close, 1 - close, close - 1])


def assert_within(got, exact, ulps):
    """Like `exact` rounded, but for some units in the last place; `exact` has more of them."""
    rounded = exact.astype(got.dtype)
    finite = np.isfinite(rounded)
    assert_same(got[~finite], rounded[~finite])
    got, exact, rounded = got[finite], exact[finite], rounded[finite]
    assert np.array_equal(np.signbit(got), np.signbit(rounded))
    wide = np.longdouble if got.dtype == np.float64 else np.float64
    error = np.abs(got.astype(wide) - exact) / np.spacing(np.abs(rounded)).astype(wide)
    assert error.max(initial=0) <= ulps


def assert_same(got, expected):
    """The same values; zeros with their signs, NaN being NaN."""
    assert got.dtype == expected.dtype
    np.testing.assert_array_equal(got, expected)
    if got.dtype.kind == "f":
        number = ~np.isnan(got)
        assert np.array_equal(np.signbit(got[number]), np.signbit(expected[number]))


@pytest.mark.parametrize("target", RUNNABLE.values(), ids=RUNNABLE)
@pytest.mark.parametrize("name", REFERENCE)
def test_float32_functions_are_within_2_ulp_of_float64_over_the_whole_range(name, target):
    x = float32_sample()
    assert_within(applied(name, x, target=target), REFERENCE[name](x.astype(np.float64)), 2)


@pytest.mark.parametrize("target", RUNNABLE.values(), ids=RUNNABLE)
def test_float32_power_is_within_2_ulp_and_has_the_special_cases_of_numpy(target):
    random = np.random.default_rng(0)
    bits = random.integers(0, 2**32, (2, 40_000), dtype=np.uint64).astype(np.uint32)
    x, y = bits.view(np.float32)
    x, y = np.concatenate([x, abs(x), random.random(20_000, np.float32) * 4]), np.resize(y, 100_000)
    y[80_000:] = random.standard_normal(20_000) * 60
    special = np.array([*THRESHOLDS, 2, -2, 3, -3, 16777215, -16777215, 0.25, 1.5], np.float32)
    left, right = (grid.ravel() for grid in np.meshgrid(special, special))
    x, y = np.concatenate([x, left]), np.concatenate([y, right])
    assert_within(
        applied("power", x, y, target=target), np.power(x.astype("f8"), y.astype("f8")), 2
    )


@pytest.mark.parametrize("target", RUNNABLE.values(), ids=RUNNABLE)
@pytest.mark.parametrize("name", WIDE)
def test_float64_functions_are_within_2_ulp_over_the_whole_range(name, target):
    x = float64_sample()
    assert_within(applied(name, x, target=target), REFERENCE[name](x.astype(np.longdouble)), 2)


@pytest.mark.parametrize("name", sorted(REFERENCE.keys() - WIDE))
def test_float64_functions_of_the_library_agree_with_numpy(name):
    x = np.concatenate([np.array(THRESHOLDS), np.linspace(-30, 30, 2001), [1e300, -1e300, 5e-324]])
    assert_within(applied(name, x), REFERENCE[name](x), 4)


def test_float64_power_agrees_with_numpy():
    x, y = (grid.ravel() for grid in np.meshgrid(THRESHOLDS, [*THRESHOLDS, 2.0, 3.0, -3.0, 1.5]))
    assert_within(applied("power", x, y), np.power(x, y), 4)


@pytest.mark.parametrize("target", RUNNABLE.values(), ids=RUNNABLE)
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("name", ["exp", "tanh", "log1p", "sin", "power", "remainder"])
def test_no_result_depends_on_its_place_among_the_lanes(name, dtype, target):
    x = np.array([0.3, 1e-40, 700.0, 2e6, math.nan, -2.5, 5.0] * 5, dtype)
    operands = (x, x[::-1]) if name in ("power", "remainder") else (x,)
    whole = applied(name, *operands, target=target)
    for size in range(20):
        assert_same(applied(name, *[o[:size] for o in operands], target=target), whole[:size])


# -- exact functions -------------------------------------------------------------------------------


def values_of(dtype):
    """Values of a dtype, small, extreme, special."""
    if dtype.kind == "b":
        return np.array([False, True])
    if dtype.kind in "iu":
        limits = np.iinfo(dtype)
        extreme = [limits.min, limits.max, limits.max - 1, limits.max // 2 + 1]
        return (
            np.array(extreme, dtype).repeat(2).astype(dtype).tolist()
            + list(range(8))
            + ([-1, -2, -3, -7] if dtype.kind == "i" else [])
        )
    half = [0.0, -0.0, 1.0, -1.0, 0.5, 1.5, 2.5, -2.5, -0.4, 3.0, 7.25, -7.25, math.inf, -math.inf]
    return [*half, math.nan, 65504.0, 6e-8, *([] if dtype.itemsize == 2 else [1e30, -1e30, 1e-40])]


def pairs_of(dtype):
    values = np.array(values_of(dtype), dtype)
    return [np.ascontiguousarray(grid.ravel()) for grid in np.meshgrid(values, values)]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    "name",
    ["add", "subtract", "multiply", "divide", "floor_divide", "remainder", "maximum", "minimum"],
)
def test_binary_arithmetic_has_the_bits_of_numpy(name, dtype):
    if dtype.kind == "b" and name not in ("add", "multiply", "maximum", "minimum"):
        pytest.skip("NumPy refuses or promotes bools")
    if dtype.kind in "iu" and name == "divide":
        pytest.skip("integers are divided as floats")
    a, b = pairs_of(dtype)
    if dtype.itemsize == 2 and dtype.kind not in "iu":  # computed in float32, rounded at the end
        expected = getattr(np, name)(a.astype(np.float32), b.astype(np.float32)).astype(dtype)
        got = applied(name, a, b)
        assert_same(got.astype(np.float32), expected.astype(np.float32))
        return
    assert_same(applied(name, a, b), getattr(np, name)(a, b))


@pytest.mark.parametrize("target", RUNNABLE.values(), ids=RUNNABLE)
@pytest.mark.parametrize("name", ["remainder", "floor_divide"])
def test_float_division_with_remainder_is_exact_for_all_magnitudes(name, target):
    random = np.random.default_rng(1)
    bits = random.integers(0, 2**32, (2, 20_000), dtype=np.uint64).astype(np.uint32)
    for a, b in (bits.view(np.float32), random.standard_normal((2, 20_000)).astype(np.float32)):
        assert_same(applied(name, a, b, target=target), getattr(np, name)(a, b))
        whole = np.trunc(a * 8), np.trunc(b * 8)
        assert_same(applied(name, *whole, target=target), getattr(np, name)(*whole))


@pytest.mark.parametrize("dtype", [d for d in DTYPES if d.itemsize > 2 or d.kind in "iub"], ids=str)
@pytest.mark.parametrize("name", (*EXACT_LOGIC, "logical_and", "logical_or"))
def test_comparisons_and_logic_have_the_bits_of_numpy(name, dtype):
    a, b = pairs_of(dtype)
    assert_same(applied(name, a, b, out=bool), getattr(np, name)(a, b))


@pytest.mark.parametrize("dtype", [np.dtype(bool), *INTEGERS], ids=str)
@pytest.mark.parametrize("name", ["bitwise_and", "bitwise_or", "bitwise_xor"])
def test_bitwise_functions_have_the_bits_of_numpy(name, dtype):
    a, b = pairs_of(dtype)
    assert_same(applied(name, a, b), getattr(np, name)(a, b))
    assert_same(applied("invert", a), np.invert(a))


@pytest.mark.parametrize("target", RUNNABLE.values(), ids=RUNNABLE)
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize(
    "name", ["sqrt", "floor", "ceil", "rint", "abs", "sign", "negative", "square", "reciprocal"]
)
def test_unary_functions_of_floats_have_the_bits_of_numpy(name, dtype, target):
    x = np.array([*values_of(dtype), *THRESHOLDS, 8388609.0, -4194304.5, 4503599627370497.5], dtype)
    assert_same(applied(name, x, target=target), getattr(np, name)(x))


@pytest.mark.parametrize("dtype", INTEGERS, ids=str)
@pytest.mark.parametrize("name", ["abs", "sign", "negative", "square", "floor", "ceil"])
def test_unary_functions_of_integers_have_the_bits_of_numpy(name, dtype):
    x = np.array(values_of(dtype), dtype)
    assert_same(applied(name, x), getattr(np, name)(x))


def test_the_reciprocal_of_integers_is_cut_off_and_that_of_zero_is_zero():
    for dtype in INTEGERS:
        x = np.array([0, 1, 2, 100], dtype)
        assert applied("reciprocal", x).tolist() == [0, 1, 0, 0]
    assert applied("reciprocal", np.array([-1, -2], np.int16)).tolist() == [-1, 0]


@pytest.mark.parametrize("dtype", INTEGERS, ids=str)
def test_integer_powers_wrap_as_numpys_do(dtype):
    x, n = pairs_of(dtype)
    x, n = x[n >= 0], n[n >= 0]
    assert_same(applied("power", x, n), np.power(x, n))


@pytest.mark.parametrize("dtype", [*FLOATS, np.dtype("int32"), np.dtype(bool)], ids=str)
@pytest.mark.parametrize("name", ["isnan", "isinf", "isfinite", "logical_not"])
def test_tests_of_values_agree_with_numpy(name, dtype):
    x = np.array(values_of(dtype), dtype)
    assert_same(applied(name, x, out=bool), getattr(np, name)(x))


@pytest.mark.parametrize("dtype", [*FLOATS, np.dtype("int8"), np.dtype(bool)], ids=str)
def test_where_picks_by_the_truth_of_its_condition(dtype):
    a, b = pairs_of(dtype)
    assert_same(applied("where", a > b, a, b), np.where(a > b, a, b))
    condition = np.resize(np.array([0.0, math.nan, -0.0, 2.0]), a.shape)
    assert_same(applied("where", condition, a, b), np.where(condition, a, b))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_multiply_add_rounds_at_most_as_often_as_its_two_steps(dtype):
    a, b = pairs_of(np.dtype(dtype))
    c = np.resize(np.array([1.0, -3.5, 0.0, 1e6]), a.shape).astype(dtype)
    got = applied("multiply_add", a, b, c)
    with np.errstate(all="ignore"):
        wide, separate = a.astype(np.longdouble) * b + c, a * b + c
        apart = np.abs(got - wide)
    finite = np.isfinite(separate) & np.isfinite(got)
    np.testing.assert_array_equal(np.isnan(got), np.isnan(separate))
    with np.errstate(all="ignore"):
        step = np.finfo(dtype)
        limit = step.eps * (np.abs(wide) + np.abs(a * b)) + step.smallest_subnormal
    assert (apart[finite] <= limit[finite]).all()


@pytest.mark.parametrize("dtype", [np.dtype("int32"), np.dtype("int8")], ids=str)
def test_multiply_add_of_integers_wraps_as_its_two_steps_do(dtype):
    a, b = pairs_of(dtype)
    with np.errstate(all="ignore"):
        assert_same(applied("multiply_add", a, b, a), a * b + a)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_copy_changes_nothing(dtype):
    x = np.array(values_of(dtype), dtype)
    got = applied("copy", x)
    assert_same(got.astype(np.float64), x.astype(np.float64))


def test_an_operand_of_one_lane_is_spread_over_the_others():
    def write(module, target):
        code = Code(module, build.ENTRY, target)
        vector = code.row([1.0, 2.0, 3.0, 4.0], TYPES["float32"])
        scalar = code.constant(2.0, TYPES["float32"])
        assert functions.apply(code, "power", vector, scalar).lanes == 4
        assert functions.apply(code, "add", scalar, scalar).lanes == 1
        code.finish()

    build.optimized(write, HOST, HOST.machine())


# -- every target ----------------------------------------------------------------------------------

WHOLE = {"bitwise_and", "bitwise_or", "bitwise_xor", "invert"}
TERNARY, UNARY = {"where", "multiply_add"}, {
    *REFERENCE, "copy", "square", "reciprocal", "negative", "abs", "sign", "sqrt", "floor", "ceil",
    "rint", "isnan", "isinf", "isfinite", "logical_not", "invert",
}  # fmt: skip
PROMOTED = {*REFERENCE, "sqrt", "divide", "rint"}


@pytest.mark.parametrize("dtype", ["float32", "float64", "int64"])
@pytest.mark.parametrize("target", TARGETS, ids=lambda t: t.name)
def test_every_function_lowers_for_every_target(target, dtype):
    names = functions.NAMES - (WHOLE if TYPES[dtype].is_float else PROMOTED)

    def write(module, target):
        for name in sorted(names):
            count = 1 if name in UNARY else 3 if name in TERNARY else 2
            is_bool = name in EXACT_LOGIC or name.startswith(("is", "logical"))
            out = "bool" if is_bool else dtype
            writer(name, (dtype,) * count, out, symbol=f"kernel_{name}")(module, target)

    text = build.assembly(write, target)
    assert all(f"kernel_{name}:" in text for name in names)

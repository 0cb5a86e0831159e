"""float16 and bfloat16 to float32 and back, by instructions and by integers."""

import math

import numpy as np
import pytest
from native_calls import BFLOAT16
from native_functions import RUNNABLE, applied, writer

from needle.compiler import build
from needle.compiler.target import TARGETS

HALVES = [np.dtype(np.float16), BFLOAT16]

pytestmark = [
    pytest.mark.parametrize("target", RUNNABLE.values(), ids=RUNNABLE),
    pytest.mark.parametrize("half", HALVES, ids=str),
]


def assert_same(got, expected):
    """Equal bits, but for the contents of NaN; its sign counts."""
    assert got.dtype == expected.dtype
    bits = np.dtype(f"uint{8 * got.itemsize}")
    nan = np.isnan(expected.astype(np.float32))
    assert np.array_equal(np.isnan(got.astype(np.float32)), nan)
    assert np.array_equal(got.view(bits)[~nan], expected.view(bits)[~nan])
    sign = bits.type(1 << (8 * got.itemsize - 1))
    assert np.array_equal(got.view(bits)[nan] & sign, expected.view(bits)[nan] & sign)


def all_values(half):
    return np.arange(2**16, dtype=np.uint16).view(half)


def test_widening_gives_each_of_the_65536_values(half, target):
    x = all_values(half)
    got = applied("copy", x, out=np.float32, target=target)
    assert_same(got, x.astype(np.float32))


def test_narrowing_gives_back_every_value(half, target):
    x = all_values(half)
    assert_same(applied("copy", x.astype(np.float32), out=half, target=target), x)


def test_ties_between_neighbours_go_to_even_and_what_lies_beside_them_to_the_nearest(half, target):
    x = all_values(half).astype(np.float32)
    x = x[np.isfinite(x)]
    following = np.append(x[1:], np.float32(0))
    middle = (x.astype(np.float64) + following) / 2
    ties = middle[middle == middle.astype(np.float32)].astype(np.float32)
    around = np.concatenate([ties, np.nextafter(ties, np.float32(math.inf)),
                             np.nextafter(ties, np.float32(-math.inf))])  # fmt: skip
    with np.errstate(over="ignore"):
        expected = around.astype(half)
    assert_same(applied("copy", around, out=half, target=target), expected)


def test_narrowing_agrees_with_numpy_over_the_whole_range(half, target):
    x = np.arange(0, 2**32, 19_997, dtype=np.uint64).astype(np.uint32).view(np.float32)
    special = np.array([65504, 65519.996, 65520, 65536, 1e38, 3.4028235e38, 2.0**-14, 2.0**-24,
                        2.0**-25, 1.4e-45, 0.0, math.inf, math.nan], np.float32)  # fmt: skip
    x = np.concatenate([x, special, -special])
    with np.errstate(all="ignore"):
        expected = x.astype(half)
    assert_same(applied("copy", x, out=half, target=target), expected)


def beside_ties(half, wide):
    """Numbers of a wider dtype next to the middle of neighbours, and which of them is nearer."""
    values = all_values(half)[: all_values(half).view(np.uint16).searchsorted(1 << 15)]
    values = values[np.isfinite(values.astype(np.float32))]
    low, high = values[:-1], values[1:]
    middle = (low.astype(np.float64) + high.astype(np.float64)) / 2
    if np.dtype(wide).kind == "f":
        below, above = np.nextafter(middle, -math.inf), np.nextafter(middle, math.inf)
    else:
        far = (high.astype(np.float64) - low.astype(np.float64) >= 4) & (
            middle < np.iinfo(wide).max
        )
        low, high, middle = low[far], high[far], middle[far].astype(wide)
        below, above = middle - middle.dtype.type(1), middle + middle.dtype.type(1)
    x, nearest = np.concatenate([below, above]), np.concatenate([low, high])
    if np.dtype(wide).kind == "u":
        return x, nearest
    return np.concatenate([x, -x]), np.concatenate([nearest, -nearest])


@pytest.mark.parametrize("wide", ["float64", "int32", "uint32", "int64", "uint64"])
def test_what_is_wider_than_float32_is_rounded_once(half, target, wide):
    x, nearest = beside_ties(half, wide)
    assert len(x) > 1000
    assert_same(applied("copy", x, out=half, target=target), nearest)


def test_float64_beyond_float32_becomes_infinite_or_zero(half, target):
    x = np.array([1e300, math.inf, math.nan, 1e-300, 5e-324, 1e39, 3.4028235677973366e38, 0.0])
    expected = np.array([math.inf] * 2 + [math.nan, 0, 0, math.inf, math.inf, 0.0]).astype(half)
    assert_same(applied("copy", x, out=half, target=target), expected)
    assert_same(applied("copy", -x, out=half, target=target), -expected)


@pytest.mark.parametrize("wide", ["int64", "uint64"])
def test_the_extremes_of_64_bit_integers_are_rounded_once(half, target, wide):
    limits = np.iinfo(wide)
    x = np.array([limits.min, limits.max, 2**53 + 1, 2**53 - 1, 1, 0], wide)
    expected = np.array([limits.min, limits.max, 2**53, 2**53, 1, 0], np.float32)
    with np.errstate(over="ignore"):
        assert_same(applied("copy", x, out=half, target=target), expected.astype(half))


def test_a_scalar_rest_is_converted_like_the_vectors(half, target):
    x = np.array([0.1, 1e-7, 65520.0, -math.nan, 3.0] * 8, np.float32)
    whole = applied("copy", x, out=half, target=target)
    for size in (1, 3, 7, 17, 33):
        assert_same(applied("copy", x[:size], out=half, target=target), whole[:size])


def test_conversions_lower_for_every_target_without_a_call_to_a_library(half, target):
    for machine in TARGETS:
        ways = [(half.name, "float32")]
        ways += [(wide, half.name) for wide in ("float32", "float64", "int64")]
        for given, out in ways:
            text = build.assembly(writer("copy", (given,), out), machine)
            assert "__extendhf" not in text
            assert "__trunc" not in text

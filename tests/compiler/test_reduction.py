"""Reductions against NumPy: values, accuracy, layouts, dtypes, tasks, targets."""

import math

import numpy as np
import pytest
import strategies
from hypothesis import given
from hypothesis import strategies as st
from native_calls import BFLOAT16, DTYPES, View, call, view

from needle.compiler import build
from needle.compiler.kernels import reduction
from needle.compiler.kernels.monoid import Monoid
from needle.compiler.kernels.reduction_layout import MOST_LEAVES, Walk
from needle.compiler.kernels.reduction_leaves import writer
from needle.compiler.target import TARGETS

NAMES = ("sum", "prod", "max", "min", "any", "all")
KINDS = ("rows", "short", "columns", "narrow", "strided", "strided_rows")
# Views of one shape of which the reduced axes make each class of layout.
BY_KIND = {
    "rows": ((2, 3000), (1,), lambda x: x),
    "short": ((70, 37), (1,), lambda x: x),
    "columns": ((70, 300), (0,), lambda x: x),
    "narrow": ((700, 3), (0,), lambda x: x),
    "strided": ((40, 50, 2), (0,), lambda x: x[:, :, 1]),
    "strided_rows": ((3000, 2), (0,), lambda x: x[:, 1]),
}


def result_dtype(name, dtype):
    """What NumPy gives; half floats, which it widens nowhere, stay what they are."""
    if name in ("any", "all"):
        return np.dtype(bool)
    if name in ("max", "min") or dtype == BFLOAT16:
        return dtype
    return getattr(np, name)(np.ones(1, dtype)).dtype


def reduced(name, x, axes, tasks=1, dtype=None):
    """The kernel's result, in memory whose surroundings must not change."""
    shape = tuple(n for axis, n in enumerate(x.shape) if axis not in axes)
    size = math.prod(shape)
    memory = np.full(size + 64, 113).astype(dtype or result_dtype(name, x.dtype))
    out = memory[32 : 32 + size].reshape(shape)
    call(reduction.prepare(name, view(x), axes, view(out)), x, out, tasks=tasks)
    assert np.all(memory[:32] == memory[-1])
    assert np.all(memory[32 + size :] == memory[-1])
    return out


def close(result, expected, rtol=1e-12):
    np.testing.assert_allclose(result, expected, rtol=rtol, atol=rtol)


@st.composite
def problems(draw):
    shape = draw(strategies.shapes())
    x = draw(strategies.arrays(shape))
    axes = tuple(axis for axis in range(x.ndim) if draw(st.booleans()))
    return draw(st.sampled_from(NAMES)), x, axes, draw(st.integers(2, 4))


@given(problems())
def test_any_layout_and_axes_give_what_numpy_gives(problem):
    name, x, axes, tasks = problem
    if name in ("max", "min") and x.size == 0:
        return
    result = reduced(name, x, axes)
    copied = x if result.dtype != bool else x != 0
    close(result, getattr(np, name)(x, axis=axes) if axes else copied)
    assert reduced(name, x, axes, tasks).tobytes() == result.tobytes()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_dtype_in_every_class_of_layout(kind, dtype):
    shape, axes, cut = BY_KIND[kind]
    x = cut(np.random.RandomState(0).randint(0, 3, shape).astype(dtype))
    for name in {"rows": ("sum", "any"), "columns": ("sum", "max")}.get(kind, ("sum",)):
        result = reduced(name, x, axes)
        expected = getattr(np, name)(x.astype(np.float64), axis=axes)
        assert result.tolist() == expected.astype(result.dtype).tolist()


@pytest.mark.parametrize("kind", KINDS)
def test_products_and_all(kind):
    shape, axes, cut = BY_KIND[kind]
    x = cut(np.random.RandomState(1).uniform(0.98, 1.02, shape))
    close(reduced("prod", x, axes), np.prod(x, axis=axes), 1e-9)
    assert reduced("all", x, axes).all()
    last = x.copy()
    last[(slice(-1, None),) * x.ndim] = 0
    assert np.array_equal(reduced("all", last, axes), np.all(last, axis=axes))


@pytest.mark.parametrize("n", [1, 2, 7, 15, 16, 17, 31, 33, 63, 65, 127, 129, 1023, 1025, 9001])
def test_sizes_around_the_width_of_vectors(n):
    x = np.random.RandomState(n).randint(-8, 8, (3, n)).astype(np.float32)
    for y, axes in ((x, (1,)), (x, (0,)), (x, (0, 1)), (x.T, (0,)), (x[:, ::-1], (1,))):
        assert np.array_equal(reduced("sum", y, axes), y.sum(axis=axes))
        assert np.array_equal(reduced("max", y, axes), y.max(axis=axes))


@pytest.mark.parametrize(
    ("shape", "axes"),
    [
        ((300_001,), (0,)),
        ((3, 200_000), (1,)),
        ((5000, 70), (0,)),
        ((64, 3, 40, 40), (0, 2, 3)),
        ((2, 50_000, 3), (1,)),
    ],
)
def test_chunks_give_the_same_bits_for_any_number_of_tasks(shape, axes):
    x = np.random.RandomState(3).standard_normal(shape).astype(np.float32)
    for y in (x, x[..., ::-1], np.asfortranarray(x)):
        first = reduced("sum", y, axes)
        close(first, y.sum(axis=axes, dtype=np.float64), 1e-3)
        for tasks in (2, 3, 7):
            assert reduced("sum", y, axes, tasks).tobytes() == first.tobytes()


def test_results_of_chunks_are_not_rounded_to_half():
    x = np.full((200_000,), 0.25, np.float16)
    assert reduced("sum", x, (0,), 3) == np.float16(50_000)
    assert reduced("any", x, (0,), 3) == np.True_


def test_ten_million_ones_sum_exactly_in_float32():
    ones = np.ones(10_000_000, np.float32)
    assert reduced("sum", ones, (0,)) == 1e7
    assert reduced("sum", ones.reshape(-1, 10), (0,)).tolist() == [1e6] * 10
    assert reduced("sum", np.broadcast_to(ones[:1], ones.shape), (0,)) == 1e7


@pytest.mark.parametrize(("shape", "axis"), [((1 << 20,), 0), ((64, 1000), 1), ((20, 50_000), 1)])
def test_errors_of_float_sums_are_like_those_of_pairwise_sums(shape, axis):
    x = np.random.RandomState(4).uniform(0, 1, (8, *shape)).astype(np.float32)
    exact = x.sum(axis=axis + 1, dtype=np.float64)
    ours = np.abs(reduced("sum", x, (axis + 1,)) - exact)
    assert np.sqrt((ours**2).mean()) <= 4 * np.sqrt(((x.sum(axis=axis + 1) - exact) ** 2).mean())


@pytest.mark.parametrize("columns", [3, 20])
def test_sums_down_columns_do_not_drift(columns):
    x = np.full((1_000_000, columns), 0.1, np.float32)
    close(reduced("sum", x, (0,)), np.full(columns, 1e6 * float(np.float32(0.1))), 1e-6)


def test_columns_fewer_than_lanes_are_narrow_where_rows_leave_no_gap():
    def kind(x, axes=(0,)):
        return Walk(view(x), axes, 16, repeats=True).kind

    x = np.zeros((700, 15), np.float32)
    assert kind(x) == kind(x[:, ::-1]) == kind(x[::-1]) == "narrow"
    assert kind(np.zeros((5, 700, 3), np.float32), (1,)) == "narrow"
    assert kind(np.zeros((700, 16), np.float32)) == kind(x[:, 1:]) == kind(x[::2]) == "columns"


@pytest.mark.parametrize("columns", [2, 3, 7, 15])
@pytest.mark.parametrize("rows", [2, 15, 16, 17, 1023, 1025, 70_001])
def test_a_few_columns_of_any_number_of_rows(rows, columns):
    x = np.random.RandomState(rows).randint(-8, 8, (3, rows, columns)).astype(np.float32)
    for y, axes in ((x[0], (0,)), (x, (1,)), (x, (0, 1)), (x[:, ::-1, ::-1], (1,))):
        for name in ("sum", "max"):
            result = reduced(name, y, axes)
            assert np.array_equal(result, getattr(y, name)(axis=axes))
            assert reduced(name, y, axes, tasks=3).tobytes() == result.tobytes()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["max", "min"])
def test_nan_is_the_extreme_wherever_it_stands(kind, name):
    shape, axes, cut = BY_KIND[kind]
    for place in (0, 0.3, 0.999):
        x = np.random.RandomState(5).standard_normal(shape)
        y = cut(x)
        y[int(place * y.shape[0])] = np.nan
        np.testing.assert_array_equal(reduced(name, y, axes), getattr(np, name)(y, axis=axes))


def test_infinities_are_extremes():
    x = np.array([[np.inf, 1, -np.inf], [-np.inf] * 3, [np.inf] * 3], np.float32)
    assert reduced("max", x, (1,)).tolist() == [np.inf, -np.inf, np.inf]
    assert reduced("min", x, (1,)).tolist() == [-np.inf, -np.inf, np.inf]


def test_extremes_of_the_least_and_the_largest_integers():
    for dtype in (np.int8, np.uint8, np.int64, np.uint64):
        limits = np.iinfo(dtype)
        x = np.array([[limits.min] * 70, [limits.max] * 70], dtype)
        assert reduced("max", x, (1,)).tolist() == [limits.min, limits.max]
        assert reduced("min", x, (1,)).tolist() == [limits.min, limits.max]


@pytest.mark.parametrize(
    ("name", "identity"), [("sum", 0), ("prod", 1), ("any", False), ("all", True)]
)
def test_reductions_of_nothing_give_the_identity(name, identity):
    for shape, axes in (((0,), (0,)), ((3, 0), (1,)), ((0, 3), (0,)), ((2, 0, 3), (0, 1))):
        result = reduced(name, np.ones(shape, np.float32), axes)
        assert np.all(result == identity)
    assert reduced(name, np.ones((3, 0), np.float32), (0,)).shape == (0,)
    apart = np.ones((4, 6, 8), np.float32)[:0, ::2, ::3]
    assert np.all(reduced(name, apart, (0, 1)) == identity)
    assert reduced(name, apart, (0, 1, 2)) == identity


def test_no_axes_and_no_dimensions_copy():
    x = np.arange(24.0).reshape(2, 3, 4)
    assert np.array_equal(reduced("sum", x.T, ()), x.T)
    assert reduced("sum", np.array(3.5), ()) == 3.5
    assert reduced("any", np.array(3.5), ()) == np.True_


def test_integers_and_bools_are_summed_wide():
    x = np.full((3, 1000), 100, np.int8)
    assert reduced("sum", x, (1,)).tolist() == [100_000] * 3
    assert reduced("sum", x > 0, (0,), dtype=np.int64).tolist() == [3] * 1000


def test_a_sum_may_be_computed_in_a_wider_float():
    x = np.full(100_000, 0.1, np.float32)
    close(reduced("sum", x, (0,), dtype=np.float64), 1e5 * float(np.float32(0.1)), 1e-13)


def test_repeated_elements_count_in_a_sum():
    x = np.broadcast_to(np.float32([[1], [2]]), (2, 50))
    assert reduced("sum", x, (1,)).tolist() == [50, 100]
    assert reduced("sum", x, (0,)).tolist() == [3] * 50
    assert reduced("prod", x, (0,)).tolist() == [2] * 50
    assert reduced("max", x, (0, 1)) == 2


def test_odd_views_of_four_axes():
    x = np.random.RandomState(6).randint(-9, 9, (5, 6, 7, 8)).astype(np.float32)
    views = (x[1:, ::2], x[:, :, ::-1, 1:6], x.transpose(2, 0, 3, 1), x[..., :1], x[::-2, :, 3:])
    for y in views:
        for axes in ((0,), (1, 3), (0, 2), (2, 3), (0, 1, 3), (0, 1, 2, 3)):
            assert np.array_equal(reduced("sum", y, axes), y.sum(axis=axes))
            assert np.array_equal(reduced("min", y, axes), y.min(axis=axes))


def test_a_small_reduction_stays_on_one_thread_and_a_large_one_does_not():
    small, large = np.ones((10, 10)), np.ones((1000, 1000))
    assert reduction.prepare("sum", view(small), (0, 1), view(np.ones(()))).tasks == 1
    assert reduction.prepare("sum", view(large), (0, 1), view(np.ones(()))).tasks > 1


@pytest.mark.parametrize("strides", [(0,), (1,), (3,)])
def test_the_cascade_has_room_for_any_extent(strides):
    walk = Walk(View(np.dtype("float32"), (1 << 50,), strides), (0,), 16, repeats=True)
    assert walk.runs / walk.leaf_runs * walk.run.extent / walk.leaf < MOST_LEAVES


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
def test_kernels_lower_for_every_target(kind, target):
    for name, source, result in (
        ("sum", "float32", "float32"),
        ("max", "float64", "float64"),
        ("min", "int8", "int8"),
        ("prod", "float16", "float16"),
        ("all", "bfloat16", "bool"),
    ):
        write = writer(kind, Monoid(name, source, result), source)
        assert "kernel" in build.assembly(write, target)

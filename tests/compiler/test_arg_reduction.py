"""argmax and argmin against NumPy."""

import numpy as np
import pytest
import strategies
from hypothesis import assume, given
from hypothesis import strategies as st
from native_calls import DTYPES, call, view

from needle.compiler import build
from needle.compiler.kernels import arg_reduction
from needle.compiler.target import TARGETS

NAMES = ("argmax", "argmin")


def place(name, x, axis, tasks=1):
    shape = x.shape[:axis] + x.shape[axis + 1 :]
    out = np.full(shape, -7, np.int64)
    call(arg_reduction.prepare(name, view(x), axis, view(out)), x, out, tasks=tasks)
    return out


def check(x, axis, tasks=1):
    for name in NAMES:
        expected = getattr(np, name)(x, axis=axis)
        np.testing.assert_array_equal(place(name, x, axis, tasks), expected)


@given(strategies.shapes(min_dims=1).flatmap(strategies.arrays), st.data(), st.integers(1, 3))
def test_any_layout_gives_what_numpy_gives(x, data, tasks):
    axis = data.draw(st.integers(0, x.ndim - 1))
    assume(x.shape[axis] > 0)
    check(x, axis, tasks)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_the_first_of_equals_wins_in_every_dtype(dtype):
    x = np.random.RandomState(0).randint(0, 5, (6, 130)).astype(dtype)
    for y in (x, x[:, ::-1], x[:, ::2]):
        check(y, 0)
        check(y, 1)


@pytest.mark.parametrize("n", [1, 2, 16, 17, 33, 64, 1023, 1024, 1025, 3000])
def test_lengths_around_vectors_and_blocks(n):
    x = np.random.RandomState(n).standard_normal((3, n)).astype(np.float32)
    check(x, 1)
    check(x.T, 1)
    check(x[:, ::-1], 1)
    x[:, -1] = 9
    check(x, 1)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_the_first_nan_wins(dtype):
    for places in ((0,), (5,), (1500, 1501), (2998, 2999), (700, 2000)):
        x = np.random.RandomState(1).standard_normal((2, 3000)).astype(dtype)
        x[1, list(places)] = np.nan
        check(x, 1)
        check(x.T, 0)
        check(x, 0)


def test_infinities_and_rows_of_one_value():
    x = np.array([[np.inf] * 40, [-np.inf] * 40, [0.0] * 40, [-0.0, 0.0] * 20], np.float32)
    check(x, 1)
    check(x, 0)


def test_least_and_largest_integers():
    for dtype in (np.int8, np.uint64):
        limits = np.iinfo(dtype)
        x = np.array([[limits.min] * 40 + [limits.max], [limits.max] * 40 + [limits.min]], dtype)
        check(x, 1)
        check(x, 0)


def test_no_outputs_write_nothing():
    for name in NAMES:
        assert place(name, np.ones((0, 3)), 1).shape == (0,)
        assert place(name, np.ones((3, 0)), 0).shape == (0,)


def test_many_rows_on_many_tasks():
    x = np.random.RandomState(2).standard_normal((5000, 20)).astype(np.float32)
    check(x, 0, 3)
    check(x, 1, 3)
    check(x[:, :7], 1, 4)


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
@pytest.mark.parametrize("kind", ["rows", "columns", "strided"])
def test_kernels_lower_for_every_target(kind, target):
    for name, source in (("argmax", "float32"), ("argmin", "bfloat16"), ("argmax", "bool")):
        writer = arg_reduction.writer(name, kind, source)
        assert "kernel" in build.assembly(writer, target)

"""Running sums against NumPy."""

import numpy as np
import pytest
import strategies
from hypothesis import given
from hypothesis import strategies as st
from native_calls import DTYPES, call, view

from needle.compiler import build
from needle.compiler.kernels import scan
from needle.compiler.target import TARGETS


def running(x, axis, tasks=1, dtype=None):
    """The kernel's result, in memory whose surroundings must not change."""
    if dtype is None:
        dtype = x.dtype if x.dtype.kind not in "biu" else np.cumsum(x[..., :0]).dtype
    memory = np.full(x.size + 64, 113).astype(dtype)
    out = memory[32 : 32 + x.size].reshape(x.shape)
    call(scan.prepare("cumsum", view(x), axis, view(out)), x, out, tasks=tasks)
    assert np.all(memory[:32] == memory[-1])
    assert np.all(memory[32 + x.size :] == memory[-1])
    return out


@given(strategies.shapes(min_dims=1).flatmap(strategies.arrays), st.data(), st.integers(1, 3))
def test_any_layout_gives_the_very_sums_of_numpy(x, data, tasks):
    axis = data.draw(st.integers(0, x.ndim - 1))
    assert np.array_equal(running(x, axis, tasks), np.cumsum(x, axis=axis))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_dtype_along_rows_and_columns(dtype):
    x = np.random.RandomState(0).randint(0, 3, (9, 37)).astype(dtype)
    for axis in (0, 1):
        result = running(x, axis)
        assert (
            result.tolist() == np.cumsum(x.astype(np.float64), axis).astype(result.dtype).tolist()
        )


@pytest.mark.parametrize("columns", [1, 3, 15, 16, 17, 70])
def test_columns_around_the_width_of_vectors(columns):
    x = np.random.RandomState(1).standard_normal((5, columns)).astype(np.float32)
    assert np.array_equal(running(x, 0), np.cumsum(x, axis=0))
    assert np.array_equal(running(x.T, 1), np.cumsum(x.T, axis=1))


def test_half_floats_are_summed_in_float32():
    x = np.full(5000, 0.25, np.float16)
    assert running(x, 0)[-1] == np.float16(1250)


def test_small_integers_and_bools_are_summed_wide():
    assert running(np.full(3, 100, np.int8), 0).tolist() == [100, 200, 300]
    assert running(np.array([True, False, True]), 0).tolist() == [1, 1, 2]


def test_minus_zero_and_nan_stay():
    assert np.signbit(running(np.array([-0.0]), 0)).all()
    result = running(np.array([1.0, np.nan, 2.0]), 0)
    assert result[0] == 1
    assert np.isnan(result[1:]).all()


def test_nothing_gives_nothing():
    for shape in ((0,), (3, 0), (0, 3)):
        assert running(np.ones(shape), 0).shape == shape


def test_many_rows_on_many_tasks():
    x = np.random.RandomState(2).standard_normal((3000, 20)).astype(np.float32)
    for axis in (0, 1):
        assert np.array_equal(running(x, axis, 3), np.cumsum(x, axis=axis))


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
@pytest.mark.parametrize("columns", [True, False])
def test_kernels_lower_for_every_target(columns, target):
    for source, result in (("float32", "float32"), ("int8", "int64"), ("float16", "float16")):
        writer = scan.writer("cumsum", columns, source, result)
        assert "kernel" in build.assembly(writer, target)

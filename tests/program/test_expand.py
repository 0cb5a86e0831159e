"""Products with vectors, and one element of each row, as what loops do."""

from __future__ import annotations

import numpy as np
import pytest

import needle as ndl
from needle import nn
from needle.jit import jit

pytestmark = pytest.mark.nd_mode


def tensor(*shape, seed=0):
    return ndl.Tensor(np.random.RandomState(seed).randn(*shape).astype("float32"))


def kernels(step, *arguments):
    """How many a jitted function has, once it has run."""
    step(*arguments)
    return step.compiled[0].kernels


@pytest.mark.parametrize("shape", [(70, 33), (5, 1), (1, 40), (64, 300)])
@pytest.mark.parametrize("side", ["rows", "columns", "outer"])
def test_products_with_vectors_agree_with_eager(shape, side):
    rows, columns = shape
    x, v, w = tensor(rows, columns), tensor(columns, seed=1), tensor(rows, seed=2)

    def function(x, v, w):
        y = ndl.tanh(x) * 0.5 + x
        if side == "rows":
            return y @ v, y.sum()
        if side == "columns":
            return w @ y, y.sum()
        return w.reshape((rows, 1)) @ v.reshape((1, columns)) + y

    eager, compiled = function(x, v, w), jit(function)(x, v, w)
    for a, b in (
        zip(eager, compiled, strict=True) if isinstance(eager, tuple) else [(eager, compiled)]
    ):
        np.testing.assert_allclose(b.numpy(), a.numpy(), rtol=1e-5, atol=1e-5)


def test_sums_of_products_need_no_kernel_of_their_own():
    x, v = tensor(64, 300), tensor(300, seed=1)

    def function(x, v):
        y = ndl.tanh(x)
        return y, y @ v

    assert kernels(jit(function), x, v) == 1


@pytest.mark.parametrize("shape", [(300, 64), (20, 5, 200), (3, 5000), (8192, 1)])
def test_a_sum_of_everything_is_one_of_rows(shape):
    x = tensor(*shape)
    step = jit(lambda x: (x * x).sum())
    np.testing.assert_allclose(step(x).numpy(), (x * x).sum().numpy(), rtol=2e-6)
    assert step.compiled[0].kernels == 2


def test_what_a_sum_of_everything_reads_is_not_written():
    x = tensor(300, 64)
    step = jit(lambda x: (x * x).sum())
    step(x)
    assert step.compiled[0].nbytes < 1.1 * x.numpy().nbytes


@pytest.mark.parametrize("classes", [2, 7, 65, 300])
def test_cross_entropy_reads_the_logits_alone(classes):
    logits = tensor(40, classes)
    ids = ndl.Tensor(np.random.RandomState(1).randint(0, classes, 40), dtype="int64")
    loss = nn.SoftmaxLoss()

    def function(logits, ids):
        value = loss(logits, ids)
        value.backward()
        return value, logits.grad

    eager, compiled = function(logits, ids), jit(function)(logits, ids)
    for a, b in zip(eager, compiled, strict=True):
        np.testing.assert_allclose(b.numpy(), a.numpy(), rtol=2e-6, atol=1e-7)


@pytest.mark.parametrize("wrong", [-8, 7, 1 << 40])
def test_an_index_that_names_no_column_is_refused(wrong):
    x = tensor(4, 7)
    step = jit(lambda x, i: ndl.take_along(ndl.tanh(x), i, 1))
    good = ndl.Tensor(np.array([[0], [-1], [6], [-7]]), dtype="int64")
    np.testing.assert_allclose(
        step(x, good).numpy()[:, 0], np.tanh(x.numpy())[range(4), [0, 6, 6, 0]], rtol=1e-6
    )
    with pytest.raises(IndexError):
        step(x, ndl.Tensor(np.array([[0], [wrong], [1], [2]]), dtype="int64"))


@pytest.mark.parametrize("picked", [-0.0, 0.0, np.inf, -np.inf, np.nan, -1.5])
@pytest.mark.parametrize("others", [0.0, np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_picked_elements_keep_their_bits(picked, others, dtype):
    values = np.full((3, 5), others, dtype)
    values[range(3), [4, 0, 2]] = picked
    ids = ndl.Tensor(np.array([[4], [0], [2]]), dtype="int64")
    step = jit(lambda x, i: ndl.take_along(ndl.maximum(x, x), i, 1))
    found = step(ndl.Tensor(values, dtype=dtype), ids).numpy()
    expected = np.full((3, 1), picked, dtype)
    assert np.array_equal(found, expected, equal_nan=True)
    assert np.array_equal(np.signbit(found), np.signbit(expected)) or np.isnan(picked)
    assert [node.primitive for node in _nodes(step)].count("gather") == 0


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_what_is_added_to_zeros_is_no_negative_zero(dtype):
    ids = ndl.Tensor(np.array([[4], [0]]), dtype="int64", requires_grad=False)
    slope = ndl.Tensor(np.array([[-0.0], [-1.5]]), dtype=dtype)

    def function(x, slope):
        ndl.take_along(x * 1, ids, 1).backward(slope)
        return x.grad

    x = ndl.Tensor(np.ones((2, 5)), dtype=dtype)
    eager = function(x, slope).numpy()
    step = jit(function)
    found = step(x, slope).numpy()
    assert np.array_equal(found, eager)
    assert np.array_equal(np.signbit(found), np.signbit(eager))
    assert [node.primitive for node in _nodes(step)].count("scatter_add") == 0


def _nodes(step):
    return step._latest.executable.compiled.graph.nodes

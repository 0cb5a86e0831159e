"""Cheap values are computed again by the loops that read them, not kept."""

from __future__ import annotations

import numpy as np
import pytest

import needle as ndl
from needle.jit import jit

pytestmark = pytest.mark.nd_mode


def tensor(*shape, seed=0):
    values = np.random.default_rng(seed).standard_normal(shape)
    return ndl.Tensor(values.astype(np.float32), requires_grad=False)


def kept(step, *arguments):
    """How many buffers of the size of the first argument its program keeps for later loops."""
    step(*arguments)
    spans = step._latest.executable.compiled.memory.spans.values()
    return sum(span.buffer.nbytes == 4 * arguments[0].size for span in spans)


def assert_agrees(function, *arguments):
    for a, b in zip(function(*arguments), jit(function)(*arguments), strict=True):
        np.testing.assert_allclose(b.numpy(), a.numpy(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dear", [False, True])
def test_cheap_values_are_not_kept_and_dear_ones_are(dear):
    def two_loops(x):
        """One along rows, and one that waits for the sums of columns."""
        y = ndl.exp(x) if dear else x * 2 + 1
        rows = ndl.softmax(y, 1)
        return rows, y - rows.sum(0, keepdims=True)

    x = tensor(60, 200)
    assert kept(jit(two_loops), x) == dear
    assert_agrees(two_loops, x)


def test_a_mean_is_subtracted_again_on_the_way_back():
    def function(x, g):
        centred = x - x.sum(0, keepdims=True) / 300
        scale = (centred * centred).sum(0, keepdims=True)
        return (g * centred).sum(0), centred * scale

    x, g = tensor(300, 64), tensor(300, 64, seed=1)
    assert kept(jit(function), x, g) == 0
    assert_agrees(function, x, g)


def test_what_an_update_overwrites_is_not_read_later():
    p, x = ndl.nn.Parameter(tensor(50, 40)), tensor(50, 40, seed=1)

    def step(x):
        y = p * 2 + 1
        p.data = ndl.softmax(y, 1)
        return y - y.max(0, keepdims=True) + x

    before = p.numpy()
    want = step(x).numpy()
    p.data = ndl.Tensor(before)
    np.testing.assert_allclose(jit(step)(x).numpy(), want, rtol=1e-6, atol=1e-6)


def test_what_was_made_again_before_is_read_by_what_is_made_again_next():
    def two_values(x):
        y = x * 2 - 1
        total = ndl.sin(y.sum(0))
        z = y * y
        w = z + total
        return w + y, w * z, w - z

    assert_agrees(two_values, tensor(8, 9))


def test_a_value_that_one_loop_reads_in_two_orders_is_kept():
    def turned(x):
        y = x * 2 - 1
        w = y * ndl.sin((y * y).sum(0))
        return (w.T * y * y).sum(1), w.T + y

    assert_agrees(turned, tensor(8, 8))

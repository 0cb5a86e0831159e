"""Steps in the order of what they read and write over."""

from __future__ import annotations

import numpy as np
import pytest
from program.agreement import assert_compiled_as_eager, normal, tensor

import needle as ndl
from needle.autograd import TensorOp
from needle.backend_selection import array_api

pytestmark = pytest.mark.nd_mode


class WrittenOver(TensorOp):
    """Writes to a part of what a product reads, when the product is not needed any more."""

    def compute(self, x, w):
        y = array_api.exp(x)
        z = array_api.tanh(y @ w + x)  # the tail of the product
        y[1:3] = x[0:2] * 2
        return z + y


class WrittenBetween(TensorOp):
    """Reads an array before it is written to, and after."""

    def compute(self, x, w):
        y = array_api.empty(x.shape, dtype=x.dtype, device=x.device)
        y[:] = x
        z = y @ w
        y[1:3] = x[0:2] * 2
        return array_api.exp(z) + y @ w


@pytest.mark.parametrize("op", [WrittenOver, WrittenBetween])
def test_a_product_reads_what_was_there_before_it_is_written_over(op):
    def apply(x, w):
        return op()(x, w)

    assert_compiled_as_eager(apply, normal(4, 8), normal(8, 8))


@pytest.mark.parametrize("first", ["zeros", "pad"])
def test_zeros_that_are_returned_are_not_those_that_something_is_written_into(first):
    def apply(x):
        if first == "zeros":
            return ndl.zeros(4, 4), ndl.pad(x, ((1, 1), (1, 1)))
        return ndl.pad(x, ((1, 1), (1, 1))), ndl.zeros(4, 4)

    assert_compiled_as_eager(apply, normal(2, 2))


def test_what_a_later_loop_adds_up_as_it_goes_is_not_added_up_before():
    @ndl.jit
    def apply(x, w):
        y = x @ w
        total = y.sum(axes=(0,))  # stands before the loop that reads y
        z = ndl.tanh(y)
        return y, total, z / z.sum(axes=(1,), keepdims=True)

    y, total, _ = apply(tensor(normal(500, 64)), tensor(normal(64, 100)))
    np.testing.assert_allclose(total.numpy(), y.numpy().sum(0), rtol=1e-4, atol=1e-2)
    lowered = apply._latest.executable.compiled.lowered
    assert str(lowered).count("sum(float32[500,100], axes=(0,))") == 1


@pytest.mark.parametrize("axes", [(1,), (0, 1), (1, 3)])
@pytest.mark.parametrize("order", [(2, 0, 3, 1), (3, 0, 1, 2), (0, 1, 2, 3)])
def test_sums_over_permuted_axes_lie_as_their_readers_expect(axes, order):
    def apply(x):
        y = ndl.permute(x, order) * 2
        return y.sum(axes=axes), y.sum(axes=axes, keepdims=True) + 1

    assert_compiled_as_eager(apply, normal(2, 3, 4, 5))


def test_sums_of_parts_of_rows_beside_sums_of_all_of_them():
    def apply(x, w):
        y = ndl.tanh(x @ w)
        parts = y.reshape((2, 3, 20)).sum(axes=(0,))
        return parts, y.sum(axes=(0,)), y.reshape((3, 2, 20)).sum(axes=(0,)), y

    assert_compiled_as_eager(apply, normal(6, 8), normal(8, 20))

"""Steps in the order of what they read and write over."""

from __future__ import annotations

import pytest
from program.agreement import assert_compiled_as_eager, normal

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

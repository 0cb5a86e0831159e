"""Fused kernels: what they read, round, keep and write."""

from __future__ import annotations

import numpy as np
import pytest
from program.agreement import assert_compiled_as_eager, normal, tensor

import needle as ndl
from needle.jit import jit

pytestmark = pytest.mark.nd_mode


def test_what_lies_where_something_is_written_is_read_before():
    kept = {"a": tensor(normal(40)), "b": tensor(normal(40, seed=1))}

    def step(x):
        a = kept["a"]
        kept["a"], kept["b"] = x * 0, kept["b"] + a
        return a - x

    compiled, x = jit(step), tensor(normal(40, seed=2))
    for _ in range(3):
        a, b = kept["a"].numpy(), kept["b"].numpy()
        np.testing.assert_array_equal(compiled(x).numpy(), a - x.numpy())
        np.testing.assert_array_equal(kept["a"].numpy(), 0 * x.numpy())
        np.testing.assert_array_equal(kept["b"].numpy(), b + a)


def test_the_tail_of_a_contraction_reads_its_result_before_it_writes_there():
    def step(a, b, c):
        y = a @ b
        return c * 0, c * 0 + y, y * c

    assert_compiled_as_eager(step, normal(1, 11), normal(11, 20), normal(1, 20))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_floats_of_16_bits_are_rounded_after_each_primitive(dtype):
    x = ndl.Tensor(normal(70, 33, dtype="float64"), dtype=dtype)
    chains = [
        lambda x: (x / 3) ** 3,
        lambda x: ndl.log(x**2 + 1.5),
        lambda x: ndl.leaky_relu(x),
        lambda x: ndl.exp(x * 30) * 0.01,  # infinite on the way in float16
        lambda x: (x.max(1, keepdims=True) * 1.1 - x) * 0.3,
    ]
    for chain in chains:
        assert_compiled_as_eager(chain, x, rtol=0)


def test_a_cast_to_16_bits_and_back_rounds():
    x = tensor(normal(100))
    assert_compiled_as_eager(lambda x: x.astype("float16").astype("float32") * 1.0, x, rtol=0)


def test_both_zeros_are_numbers_of_their_own():
    x = tensor(np.array([0.0, -0.0, 1.0, -1.0, 3.0]).astype("float32"))
    assert_compiled_as_eager(lambda x: [(x + 1) * 0.0, (x + 1) * -0.0, x + 0.0, x + -0.0], x)


def test_a_chain_in_which_each_is_read_twice_is_looked_at_once():
    """2^60 ways lead through it."""

    def step(x):
        for _ in range(60):
            x = (x + x) * 0.5
        return x

    assert_compiled_as_eager(step, normal(3, 5))

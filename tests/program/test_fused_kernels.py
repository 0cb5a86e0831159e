"""Fused kernels: what they read, round, keep and write."""

from __future__ import annotations

import numpy as np
import pytest
from program.agreement import assert_compiled_as_eager, normal, tensor
from program.guarded import guarded

import needle as ndl
from needle.compiler import build
from needle.compiler.kernels import fused
from needle.compiler.target import Target
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


# -- past the caches -------------------------------------------------------------------------------


def rows_and_gradients(x, w, b, adjoint):
    """Whole rows out of whole rows, twice."""
    y = ndl.normalize(x, -1, w, b)
    return y, ndl.softmax(x, -1), *ndl.grad(y, [x, w, b], adjoint)


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "bfloat16"])
@pytest.mark.parametrize("columns", [16_384, 8200, 8193, 8255])  # some rows begin between vectors
@pytest.mark.parametrize("threads", [1, 2])
def test_long_rows_past_the_caches_are_the_same_bits(monkeypatch, threads, columns, dtype):
    shapes = [(5, columns), (columns,), (columns,), (5, columns)]
    x, w, b, adjoint = (
        ndl.Tensor(normal(*shape, dtype="float64", seed=i), dtype=dtype)
        for i, shape in enumerate(shapes)
    )
    before, found = ndl.get_num_threads(), []
    ndl.set_num_threads(threads)
    try:
        for least in (1, 1 << 60):
            monkeypatch.setattr(fused, "_STREAMED", least)
            with guarded():
                found.append([y.numpy() for y in jit(rows_and_gradients)(x, w, b, adjoint)])
    finally:
        ndl.set_num_threads(before)
    for streamed, cached in zip(*found, strict=True):
        assert streamed.tobytes() == cached.tobytes()


def test_how_many_rows_there_are_does_not_change_the_code(monkeypatch):
    step, x = jit(lambda x: ndl.softmax(x, -1)), tensor(normal(5, 8192))
    expected = ndl.softmax(x, -1).numpy()
    step(tensor(normal(3, 8192)))
    before = build.made.compiled + build.made.loaded
    monkeypatch.setattr(fused, "_STREAMED", 5 * 8192 * 4)
    np.testing.assert_allclose(step(x).numpy(), expected, rtol=1e-5)
    assert build.made.compiled + build.made.loaded == before


@pytest.mark.skipif(
    not Target.host().triple.startswith("x86_64"), reason="looks for an instruction of x86-64"
)
@pytest.mark.parametrize(("columns", "streams"), [(8192, True), (64, False)])
def test_only_long_rows_may_go_past_the_caches(columns, streams):
    step = jit(lambda x: ndl.softmax(x, -1))
    step(tensor(normal(3, columns)))
    (kernel,) = step.explain().kernels
    _, assembly = build.kernel_at(kernel.facts.codes[0]).texts()
    assert ("movnt" in assembly) == streams

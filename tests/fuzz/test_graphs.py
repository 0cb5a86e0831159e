"""Random graphs of 10 to 60 ops: gradients are right, with and without a record, lazy or not.

Values are float64 and a few units large. In nd mode lazy values are held against eager ones by
`test_programs`: to compile a graph takes ten times as long as to measure its slopes.

FUZZ_EXAMPLES=5000 FUZZ_SEED=1000000 makes a long run from another seed: a fifth as many graphs, as
each is run dozens of times to measure its slopes.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import numpy as np
import pytest
from fuzz.random_graphs import compiled, random_graph, reproducer

import needle as ndl
from needle.testing import assert_close, check_grads

EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "160")) // 5
FIRST = int(os.environ.get("FUZZ_SEED", "0"))


def values_and_gradients(graph: Callable[..., Any], inputs: list[np.ndarray], mode: Any) -> Any:
    """All results and all inputs' gradients, computed in that mode."""
    with mode:
        leaves = [ndl.Tensor(x, dtype=x.dtype) for x in inputs]
        results = graph(*leaves)
        total = sum((y * (i + 1)).sum() for i, y in enumerate(results))
        grads = ndl.grad(total, leaves) if total.requires_grad else []
    return [y.numpy() for y in results], [g.numpy() for g in grads]


def check(seed: int) -> None:
    source, inputs = random_graph(seed)
    graph = compiled(source)
    try:
        eager = values_and_gradients(graph, inputs, nullcontext())
        if ndl.BACKEND == "np":
            lazy = values_and_gradients(graph, inputs, ndl.lazy())
            for a, b in zip(eager[0] + eager[1], lazy[0] + lazy[1], strict=True):
                assert_close(b, a, rtol=0, atol=0, same_dtype=True, what="lazy")
        without_graph, _ = values_and_gradients(graph, inputs, ndl.no_grad())
        for a, b in zip(eager[0], without_graph, strict=True):
            assert_close(b, a, rtol=0, atol=0, same_dtype=True, what="no_grad")
        _check_gradients(graph, inputs)
    except Exception as error:
        raise AssertionError(f"{error}\n{reproducer(seed, source, inputs)}") from error


def _check_gradients(graph: Callable[..., Any], inputs: list[np.ndarray]) -> None:
    try:
        check_grads(graph, *inputs, order=1)
    except AssertionError:  # a kink within reach of the step: closer, in another direction
        check_grads(graph, *inputs, order=1, eps=1e-5, seed=1, rtol=1e-5)


@pytest.mark.parametrize("block", range(8))
def test_random_graphs(block):
    for seed in range(FIRST + block, FIRST + EXAMPLES, 8):
        check(seed)


def test_failure_prints_the_seed_and_a_script_that_runs(monkeypatch):
    def fail(*args, **kwargs):
        raise AssertionError("order 1: wrong")

    monkeypatch.setitem(globals(), "check_grads", fail)
    with pytest.raises(AssertionError, match="order 1: wrong\nseed 3; to run it again:") as caught:
        check(3)
    script = str(caught.value).split("to run it again:")[1]
    exec(script, {})


def test_graphs_are_the_same_for_the_same_seed():
    assert random_graph(5)[0] == random_graph(5)[0] != random_graph(6)[0]


def test_second_order_of_a_few_graphs():
    for seed in range(FIRST, FIRST + max(4, EXAMPLES // 10)):
        source, inputs = random_graph(seed)
        graph = compiled(source)
        check_grads(graph, *inputs, order=2, rtol=1e-5)

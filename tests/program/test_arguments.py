"""Whatever is handed to a compiled function: views, one Tensor twice, parts of its own state."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from program.agreement import assert_compiled_as_eager, assert_same, normal, tensor

import needle as ndl
from needle.jit import jit

pytestmark = pytest.mark.nd_mode

VIEWS = {
    "mirrored": lambda x: x[::-1],
    "mirrored in steps": lambda x: x[::-2, ::-3],
    "a part": lambda x: x[2:, 1:7],
    "a column": lambda x: x[:, 3],
    "turned": lambda x: x.T,
    "turned and mirrored": lambda x: x.T[::-1],
    "repeated": lambda x: x[0].broadcast_to((5, 8)),
    "one element": lambda x: x[3, 4],
    "none": lambda x: x[3:3],
}


@pytest.mark.parametrize("view", VIEWS.values(), ids=VIEWS)
def test_views_are_read_where_they_lie(view):
    x = view(tensor(normal(8, 8)))
    assert_compiled_as_eager(lambda x: [x * 2, ndl.exp(x).sum(), x], x)


def test_one_tensor_twice_is_not_two():
    difference = jit(lambda a, b: a - b)
    a, b = tensor(normal(5)), tensor(normal(5, seed=1))
    for x, y in ((a, a), (a, b), (b, b), (b, a)):
        assert_same(difference(x, y), x - y)


def test_what_is_returned_as_it_came_follows_the_argument():
    same = jit(lambda x: x)
    for seed in range(3):
        x = tensor(normal(5, seed=seed))
        assert_same(same(x), x)


def run_twice(prepare: Any) -> None:
    """Four calls of a function with state, as written and compiled: the same results and state."""
    seen = []
    for way in (lambda f: f, jit):
        function, arguments, state = prepare()
        function = way(function)
        seen.append([])
        for call in range(4):
            result = function(*arguments(call))
            seen[-1] += [result.numpy(), *[x.numpy() for x in state()]]
    for expected, given in zip(*seen, strict=True):
        np.testing.assert_allclose(given, expected, rtol=1e-6)


def test_state_that_changes_places():
    def prepare():
        kept = {"a": tensor(normal(5)), "b": tensor(normal(5, seed=1))}

        def swapping(x):
            kept["a"], kept["b"] = kept["b"], kept["a"] * 0.5 + x
            return kept["a"] + kept["b"]

        return swapping, lambda call: [tensor(normal(5, seed=call))], kept.values

    run_twice(prepare)


def test_state_that_becomes_one_and_two_again():
    def prepare():
        a, b = tensor(normal(5)), tensor(normal(5, seed=1))
        kept = {"a": a, "b": b}

        def updating(x):
            kept["a"].data = kept["a"].data + x
            kept["b"].data = kept["b"].data * 0.5
            return kept["a"] + kept["b"]

        def arguments(call):
            kept["b"] = a if call % 2 else b
            return [tensor(normal(5, seed=call))]

        return updating, arguments, kept.values

    run_twice(prepare)


@pytest.mark.parametrize("view", ["part", "whole", "itself"])
def test_a_view_of_state_keeps_what_it_showed(view):
    def prepare():
        kept = tensor(normal(6, 3))
        views = []

        def updating(x):
            kept.data = kept.data * 0.5 + 1
            return x * 1.5

        def arguments(call):
            part = {"part": lambda: kept.data[1:4], "whole": kept.detach, "itself": lambda: kept}
            views[:] = [part[view]()]
            return views

        return updating, arguments, lambda: [kept, *views]

    run_twice(prepare)


def test_state_of_many_tensors():
    def prepare():
        kept = [tensor(normal(2, seed=i)) for i in range(300)]

        def halving(x):
            for w in kept:
                w.data = w.data * 0.5 + x
            return x * 2

        return halving, lambda call: [tensor(normal(2, seed=call))], lambda: kept

    run_twice(prepare)

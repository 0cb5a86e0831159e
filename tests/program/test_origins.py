"""Each recorded primitive knows the operator and the line that it comes from."""

from __future__ import annotations

import sys

import numpy as np
import pytest

import needle as ndl
from needle.jit import jit
from needle.origins import Origin, current, in_gradient_of, origin_here

pytestmark = pytest.mark.nd_mode


def nodes_of(step):
    return step._latest.executable.compiled.graph.nodes


def line_here():
    frame = sys._getframe(1)
    return f"{frame.f_code.co_filename}:{frame.f_lineno}"


def test_forward_and_gradient_have_the_line_of_the_operator():
    x = ndl.Tensor(np.ones((4, 3), np.float32))
    w = ndl.Tensor(np.ones((3, 2), np.float32))
    lines = {}

    @jit
    def step(x, w):
        y, lines["matmul"] = x @ w, line_here()
        z, lines["tanh"] = ndl.tanh(y), line_here()
        z.sum().backward()
        return w.grad

    step(x, w)
    found = {(n.origin.title, n.origin.line) for n in nodes_of(step) if n.origin}
    assert ("matmul", lines["matmul"]) in found
    assert ("tanh", lines["tanh"]) in found
    assert ("gradient of tanh", lines["tanh"]) in found
    assert ("gradient of matmul", lines["matmul"]) in found
    assert all(node.origin for node in nodes_of(step) if node.inputs)


def test_modules_and_optimisers_are_named_beside_the_users_line():
    model = ndl.nn.Linear(3, 2)
    opt = ndl.optim.SGD(model.parameters(), lr=0.1)
    lines = {}

    @jit
    def step(x):
        opt.reset_grad()
        y, lines["model"] = model(x), line_here()
        y.sum().backward()
        opt.step(), lines.update(opt=line_here())
        return y

    step(ndl.Tensor(np.ones((4, 3), np.float32)))
    within = {(n.origin.line, n.origin.within.split(":")[0]) for n in nodes_of(step) if n.origin}
    assert (lines["model"], "nn/layers.py") in within
    assert (lines["opt"], "optim/sgd.py") in within


def test_lazy_values_have_the_line_where_they_were_made():
    with ndl.lazy():
        y, line = ndl.exp(ndl.Tensor([1.0, 2.0])) + 1, line_here()
    assert y._origin == Origin("add_scalar", line)


def test_nothing_is_recorded_in_eager_mode():
    x = ndl.Tensor([1.0])
    assert (x * 2)._origin is None
    assert current.origin is None and current.gradient is None


def test_an_error_leaves_no_gradient_at_work():
    with pytest.raises(KeyError), in_gradient_of("exp", None):
        raise KeyError
    assert current.gradient is None


def test_a_gradient_within_a_gradient_goes_back_to_the_outer_one():
    outer = Origin("exp", "a.py:1")
    with in_gradient_of("exp", outer):
        with in_gradient_of("log", Origin("log", "a.py:2")):
            assert origin_here("add").title == "gradient of log"
        assert origin_here("add") == Origin("exp", "a.py:1", is_gradient=True)


def test_an_origin_reads_as_its_line():
    assert str(Origin("exp", "a.py:1", "nn/x.py:2")) == "a.py:1"

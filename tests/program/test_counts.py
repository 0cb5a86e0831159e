"""Kernels, bytes and allocations of known steps. Who changes the passes changes this table.

A row: kernels in a step, kinds of machine code, bytes moved, memories allocated at each step.
"""

from __future__ import annotations

import numpy as np
import pytest

import needle as ndl
from needle import nn, optim
from needle.jit import jit

pytestmark = pytest.mark.nd_mode

EXPECTED = {
    "mlp": (20, 14, 2_485_176, 1),
    "softmax": (1, 1, 1_048_576, 1),
    "layer norm": (1, 1, 1_050_624, 1),
    "layer norm and its gradient": (3, 2, 1_084_416, 1),
    "AdamW": (1, 2, 65_408, 0),
}


def tensor(*shape, seed=0):
    values = np.random.default_rng(seed).standard_normal(shape)
    return ndl.Tensor(values.astype(np.float32), requires_grad=False)


def mlp():
    """Two layers, softmax loss and SGD, on a batch of 100."""
    model = nn.Sequential(nn.Linear(784, 100), nn.ReLU(), nn.Linear(100, 10))
    opt, loss_of = optim.SGD(model.parameters(), lr=0.1), nn.SoftmaxLoss()

    @jit
    def step(x, y):
        opt.reset_grad()
        loss = loss_of(model(x), y)
        loss.backward()
        opt.step()
        return loss

    return step, (tensor(100, 784), ndl.Tensor(np.arange(100) % 10, requires_grad=False))


def softmax():
    """Rows of 256."""
    return jit(lambda x: ndl.softmax(x, axis=-1)), (tensor(512, 256),)


def layer_norm():
    """Without a gradient."""
    norm = nn.LayerNorm(256)

    @jit
    def step(x):
        with ndl.no_grad():
            return norm(x)

    return step, (tensor(512, 256),)


def layer_norm_and_gradient():
    """Of rows of 256, with weight and bias."""
    norm = nn.LayerNorm(256)

    @jit
    def step(x):
        x = x.detach()
        x.requires_grad = True
        (norm(x) * 2.0).sum().backward()
        return x.grad

    return step, (tensor(512, 256),)


def adamw():
    """The update of three parameters."""
    params = [nn.Parameter(tensor(*shape)) for shape in ((64, 32), (32,), (32, 8))]
    opt = optim.AdamW(params, lr=1e-3)

    for p in params:
        p.grad = tensor(*p.shape, seed=1)
    return jit(opt.step), ()


STEPS = {
    "mlp": mlp,
    "softmax": softmax,
    "layer norm": layer_norm,
    "layer norm and its gradient": layer_norm_and_gradient,
    "AdamW": adamw,
}


@pytest.mark.parametrize("name", STEPS)
def test_counts(name):
    threads = ndl.get_num_threads()
    ndl.set_num_threads(1)
    try:
        step, arguments = STEPS[name]()
        for _ in range(2):
            step(*arguments)
        (built,) = step.compiled
    finally:
        ndl.set_num_threads(threads)
    assert (built.kernels, built.codes, built.nbytes, built.allocations) == EXPECTED[name]


def test_every_row_is_of_a_step():
    assert EXPECTED.keys() == STEPS.keys()

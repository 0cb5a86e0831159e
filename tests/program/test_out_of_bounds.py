"""Compiled programs write to what is theirs, and read what has been written: see `guarded`."""

from __future__ import annotations

import numpy as np
import pytest
from fuzz.random_programs import random_program
from fuzz.running import run
from program import guarded as guards
from program.agreement import assert_compiled_as_eager, normal, tensor
from program.guarded import OutOfBounds, guarded

import needle as ndl
from needle import nn, optim
from needle.jit import jit

pytestmark = pytest.mark.nd_mode


@pytest.mark.parametrize(
    "rows, deep, columns", [(70, 130, 66), (33, 17, 129), (1, 5, 3), (13, 1, 9)]
)
def test_products_with_tails_and_column_sums(rows, deep, columns):
    def step(a, b, c):
        y = ndl.tanh(a @ b + c)
        return y, y.sum(0), ndl.softmax(a @ b, -1), (a @ b).T

    with guarded():
        assert_compiled_as_eager(step, normal(rows, deep), normal(deep, columns), normal(columns))


def test_a_network_that_trains():
    np.random.seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 5, 3, padding=1), nn.BatchNorm2d(5), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
        nn.Linear(5 * 9, 33), nn.LayerNorm(33), nn.GELU(), nn.Linear(33, 7),
    )  # fmt: skip
    opt, loss_of = optim.Adam(model.parameters(), lr=0.01), nn.SoftmaxLoss()

    def step(x, y):
        opt.reset_grad()
        loss = loss_of(model(x), y)
        loss.backward()
        opt.step()
        return loss

    x, y = tensor(normal(13, 3, 7, 7)), tensor(np.arange(13) % 7)
    with guarded():
        compiled = jit(step)
        losses = [compiled(x, y).item() for _ in range(4)]
    assert losses[-1] < losses[0]


@pytest.mark.parametrize("seed", range(4))
def test_random_programs_stay_within_bounds(seed):
    source = random_program(seed).source()
    with np.errstate(all="ignore"):
        plain = run(source, jit)
        with guarded():
            found = run(source, jit)
    for a, b in zip(plain, found, strict=True):
        assert [x.tobytes() for x in a] == [x.tobytes() for x in b]


def test_a_write_beyond_a_result_is_found(monkeypatch):
    class Short(guards._Guarded):
        def __init__(self, address, nbytes):
            super().__init__(address, nbytes - 4 if nbytes > 4 else nbytes)

    monkeypatch.setattr(guards, "_Guarded", Short)
    x = tensor(np.arange(40))
    with guarded(), pytest.raises(OutOfBounds, match="written beyond binding"):
        jit(lambda x: x * 2)(x)


def test_a_write_beyond_a_buffer_is_found():
    def two_loops(x):
        y = ndl.exp(x)
        return y.flip(0) + y

    x = tensor(normal(40))
    with guarded():
        compiled = jit(two_loops)
        compiled(x)
        plan = compiled._latest.executable.compiled.memory
        for span in plan.spans.values():
            span.buffer.nbytes -= 4
        with pytest.raises(OutOfBounds, match="written beyond"):
            compiled(x)

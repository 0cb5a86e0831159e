"""Cheap values are made once more for the way back; between, their memory is free."""

from __future__ import annotations

import numpy as np
import pytest

import needle as ndl
from needle import nn
from needle.jit import jit
from needle.program import pipeline

pytestmark = pytest.mark.nd_mode
LARGE = 4 * 256 * 1024  # bytes of the values of a layer


@pytest.fixture
def without(monkeypatch):
    """Inside, a program keeps what it has made."""

    def run(function):
        def rematerialize(fused):
            return fused

        with monkeypatch.context() as changed:
            changed.setattr(pipeline, "rematerialize", rematerialize)
            return function()

    return run


def tensor(*shape, seed=0):
    values = np.random.default_rng(seed).standard_normal(shape)
    return ndl.Tensor(values.astype(np.float32), requires_grad=False)


class Block(nn.Module):
    """x + linear(act(linear(norm(x))))"""

    def __init__(self, act):
        super().__init__()
        self.norm, self.act = nn.LayerNorm(64), act
        self.first, self.second = nn.Linear(64, 64), nn.Linear(64, 64)

    def forward(self, x):
        return x + self.second(self.act(self.first(self.norm(x))))


def blocks(depth=6, act=ndl.tanh):
    np.random.seed(0)
    return nn.Sequential(nn.Linear(64, 64), *[Block(act) for _ in range(depth)])


def pictures():
    np.random.seed(0)
    layers = [
        part
        for _ in range(4)
        for part in (nn.Conv2d(16, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU())
    ]
    return nn.Sequential(*layers)


def step_of(model):
    """Gradients of the sum of squares."""

    def step(x):
        model.zero_grad()
        loss = (model(x) ** 2).sum() / x.size
        loss.backward()
        return (loss, *[p.grad for p in model.parameters()])

    return step


def memory(step, *arguments):
    step(*arguments)
    return step._latest.executable.compiled.memory


@pytest.mark.parametrize(
    ("make", "shape", "values"),
    [(blocks, (16, 256, 64), 4), (pictures, (4, 16, 64, 64), 3)],
    ids=["norms and products", "convolutions"],
)
def test_inputs_of_layers_are_made_again(without, make, shape, values):
    model, x = make(), tensor(*shape)
    kept = without(lambda: memory(jit(step_of(model)), x))
    again = memory(jit(step_of(model)), x)
    assert kept.peak - again.peak >= (values - 1) * LARGE
    assert again.stages == kept.stages


@pytest.mark.parametrize("make", [blocks, pictures])
def test_gradients_are_those_of_the_written_step(make):
    model = make()
    x = tensor(*((16, 256, 64) if make is blocks else (4, 16, 64, 64)))
    compiled = jit(step_of(model))(x)
    for a, b in zip(step_of(model)(x), compiled, strict=True):
        size = np.abs(a.numpy()).max()
        np.testing.assert_allclose(b.numpy(), a.numpy(), rtol=0, atol=1e-4 * size)


def test_small_values_and_dear_ones_are_kept(without):
    x, model = tensor(15, 256, 64), blocks()
    step = jit(step_of(model))
    assert memory(step, x).peak == without(lambda: memory(jit(step_of(model)), x)).peak
    x, model = tensor(16, 256, 64), blocks(1)
    model.modules[1].norm = nn.Identity()  # tanh is all that is left
    step = jit(step_of(model))
    assert memory(step, x).peak == without(lambda: memory(jit(step_of(model)), x)).peak


def test_what_an_update_overwrites_is_made_from_before():
    """Each norm's weight and bias, which the norm is made of once more, are updated in the step."""
    found = []
    for way in (lambda f: f, jit):
        model, x = blocks(), tensor(16, 256, 64)
        opt = ndl.optim.SGD(model.parameters(), lr=0.1)
        step = step_of(model)

        def train(x, step=step, opt=opt):
            loss, *_ = step(x)
            opt.step()
            return loss

        train = way(train)
        losses = [train(x).item() for _ in range(3)]
        found.append((losses, [p.numpy() for p in model.parameters()]))
        if way is jit:
            (built,) = train.compiled
            assert built.allocations == 1
    np.testing.assert_allclose(found[1][0], found[0][0], rtol=1e-5)
    for a, b in zip(found[0][1], found[1][1], strict=True):
        np.testing.assert_allclose(b, a, rtol=0, atol=1e-4 * np.abs(a).max())


class Checkpointed(nn.Sequential):
    """Its modules one after the other, each of which is run again on the way back."""

    def forward(self, x):
        for module in self.modules:
            x = ndl.checkpoint(module, x)
        return x


@pytest.mark.parametrize("act", [nn.ReLU, nn.Tanh])
def test_checkpointed_convolutions_give_the_same_bits_in_less_memory(act):
    np.random.seed(0)

    def block():
        parts = [(nn.Conv2d(16, 16, 3, padding=1), act()) for _ in range(2)]
        return nn.Sequential(*[part for pair in parts for part in pair])

    layers, x = [block() for _ in range(4)], tensor(4, 16, 64, 64)
    found, peaks = [], []
    for model in (nn.Sequential(*layers), Checkpointed(*layers)):
        step = jit(step_of(model))
        peaks.append(memory(step, x).peak)
        found.append([result.numpy().tobytes() for result in step(x)])
    assert found[0] == found[1]
    assert peaks[1] < 0.8 * peaks[0]

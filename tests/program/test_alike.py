"""Loops alike run as one: the updates of all parameters, and what must not be united."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from program.agreement import assert_compiled_as_eager, normal, tensor
from program.guarded import guarded

import needle as ndl
from needle import nn, optim
from needle.jit import jit

pytestmark = pytest.mark.nd_mode

SIZES = [3, 1, 17, 2, 5, 300, 4]
OPTIMIZERS = [
    lambda p: optim.SGD(p, lr=0.1),
    lambda p: optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=0.01),
    lambda p: optim.Adam(p, lr=0.01),
    lambda p: optim.AdamW(p, lr=0.01),
]


def steps_of(compiled):
    return compiled._latest.executable.compiled.lowered.steps


def trained(make, wrap, steps=3):
    """Parameters and gradients after some steps of a deep, narrow network."""
    np.random.seed(0)
    layers = [nn.Linear(a, b) for a, b in pairwise(SIZES)]
    model = nn.Sequential(*[layer for one in layers for layer in (one, nn.Tanh())])
    opt = make(model.parameters())

    def step(x):
        opt.reset_grad()
        loss = (model(x) ** 2).sum()
        loss.backward()
        opt.step()
        return loss

    run = wrap(step)
    losses = [run(tensor(normal(6, 3))).item() for _ in range(steps)]
    values = [x.numpy() for p in model.parameters() for x in (p, p.grad)]
    return run, losses, values


@pytest.mark.parametrize("make", OPTIMIZERS)
def test_updates_are_one_kernel(make):
    with guarded():
        run, losses, values = trained(make, jit)
    _, expected_losses, expected = trained(make, lambda step: step)
    np.testing.assert_allclose(losses, expected_losses, 1e-4)
    for a, b in zip(values, expected, strict=True):
        np.testing.assert_allclose(a, b, 2e-4, 2e-5)
    united = [step for step in steps_of(run) if step.alike]
    assert len(united) == 1
    # the others are the tails of products, whose results they are
    assert len(united[0].alike) >= len(SIZES) - 1
    assert len({one.prepared.address for one in united[0].alike}) == 1


def test_it_says_what_it_is():
    run, _, _ = trained(OPTIMIZERS[2], jit)
    (facts,) = [k.facts for k in run.explain().kernels if k.facts.kind == "loops alike"]
    assert "sqrt" in str(facts.ops)
    assert len(facts.codes) == 2
    assert "alike:" in str(run._latest.executable.compiled.lowered)


def test_all_stays_in_place():
    run, _, _ = trained(OPTIMIZERS[3], jit)
    assert run.explain().summary.allocations == 1  # the loss


def test_what_somebody_reads_is_not_united():
    def step(a, b):
        return ndl.exp(a) + 1, (ndl.exp(b) + 1).sum(), ndl.exp(b) + 1

    compiled = assert_compiled_as_eager(step, normal(5), normal(7, 3))
    for one in (part for step in steps_of(compiled) for part in step.alike):
        assert not any(place.buffer.in_arena for place in one.writes)


def test_nothing_large_is_kept_for_it():
    """A gradient that nobody else asks for is used as soon as it is known."""
    x = tensor(normal(64, 300))

    def step(x, *weights):
        leaves = [ndl.Tensor(w.detach(), requires_grad=True) for w in weights]
        y = x
        for w in leaves:
            y = ndl.tanh(y @ w)
        (y * y).sum().backward()
        return tuple(w - 0.1 * leaf.grad for w, leaf in zip(weights, leaves, strict=True))

    weights = [normal(300, 300, seed=i) / 17 for i in range(4)]
    compiled = assert_compiled_as_eager(step, x, *weights, rtol=1e-3)
    for one in (part for step in steps_of(compiled) for part in step.alike):
        assert not any(place.buffer.in_arena for place in one.places_read)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_the_same_bits_for_any_number_of_threads(count):
    threads = ndl.get_num_threads()
    expected = trained(OPTIMIZERS[3], jit)[2]
    try:
        ndl.set_num_threads(count)
        values = trained(OPTIMIZERS[3], jit)[2]
    finally:
        ndl.set_num_threads(threads)
    for a, b in zip(values, expected, strict=True):
        assert np.array_equal(a, b)

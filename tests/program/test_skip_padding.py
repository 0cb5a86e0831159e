"""Windows read pictures where they lie: no copy with zeros around it, no products with zeros."""

from __future__ import annotations

import numpy as np
import pytest
from program.agreement import assert_compiled_as_eager, assert_same, normal, tensor

import needle as ndl
from needle import nn, ops, optim
from needle.jit import jit

pytestmark = pytest.mark.nd_mode


def primitives(compiled):
    """How often each primitive is in the latest program."""
    nodes = compiled._latest.executable.compiled.graph.nodes
    names = [node.primitive for node in nodes]
    return {name: names.count(name) for name in ("contract", "convolve", "assign")}


def with_gradients(**options):
    def function(x, w, adjoint):
        y = ops.conv(x, w, **options)
        return y, *ndl.grad(y, [x, w], adjoint, create_graph=False)

    return function


def operands(x, w, **options):
    x, w = [tensor(normal(*shape, seed=seed), True) for seed, shape in enumerate((x, w))]
    adjoint = normal(*ops.conv(x, w, **options).shape, seed=2)
    return x, w, tensor(adjoint)


def test_a_convolution_and_its_gradients_copy_nothing():
    given = operands((8, 8, 8, 32), (3, 3, 32, 48), padding=1)
    compiled = assert_compiled_as_eager(with_gradients(padding=1), *given)
    assert primitives(compiled) == {"contract": 0, "convolve": 3, "assign": 0}


def test_it_gives_the_bits_of_the_padded_sums():
    given = operands((8, 7, 5, 40), (3, 3, 40, 33), padding=1)
    function = with_gradients(padding=1)
    for a, b in zip(jit(function)(*given), function(*given), strict=True):
        np.testing.assert_array_equal(a.numpy(), b.numpy())


@pytest.mark.parametrize(
    "x, w, options",
    [
        ((4, 9, 9, 16), (3, 3, 16, 32), {"stride": 2, "padding": 1}),
        ((4, 10, 7, 16), (5, 3, 16, 32), {"padding": (2, 1)}),
        ((4, 10, 10, 16), (3, 3, 16, 32), {"padding": 2, "dilation": 2}),
        ((4, 10, 10, 16), (3, 3, 16, 32), {"padding": ((0, 2), (1, 0)), "stride": (1, 2)}),
        ((4, 8, 8, 32), (3, 3, 16, 64), {"padding": 1, "groups": 2}),
        ((2, 20, 24), (5, 24, 40), {"padding": 2}),
        ((2, 5, 6, 5, 16), (3, 3, 3, 16, 20), {"padding": 1}),
        ((32, 2, 2, 24), (3, 3, 24, 24), {"padding": 1}),
        ((32, 1, 1, 24), (3, 3, 24, 24), {"padding": 1}),
        ((6, 5, 5, 3), (3, 3, 3, 16), {"padding": 1}),
        ((6, 5, 5, 8), (3, 3, 1, 8), {"padding": 1, "groups": 8}),
        ((2, 6, 6, 16), (7, 7, 16, 20), {"padding": 6}),
        ((3, 6, 6, 16), (3, 3, 16, 1), {"padding": 1}),
    ],
)
def test_any_window_gives_what_eager_gives(x, w, options):
    assert_compiled_as_eager(with_gradients(**options), *operands(x, w, **options))


@pytest.mark.parametrize(
    "x, w, options",
    [
        ((0, 6, 6, 16), (3, 3, 16, 24), {"padding": 1}),
        ((0, 6, 16), (3, 16, 24), {"padding": 1, "stride": 2}),
        ((4, 6, 6, 0), (3, 3, 0, 24), {"padding": 1}),
        ((4, 6, 6, 16), (3, 3, 16, 0), {"padding": 1}),
        ((4, 0, 6, 16), (3, 3, 16, 24), {"padding": 2}),
        ((0, 6, 6, 0), (3, 3, 0, 0), {"padding": 1}),
    ],
    ids=["pictures", "rows", "channels", "kernels", "places", "anything"],
)
def test_convolutions_without(x, w, options):
    assert_compiled_as_eager(with_gradients(**options), *operands(x, w, **options))


@pytest.mark.parametrize("first, second", [(4, 0), (0, 4)])
def test_a_batch_of_none_before_or_after_others(first, second):
    np.random.seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 8, 3, stride=2, padding=1)
    )

    def step(x):
        return model(x), *ndl.grad((model(x) ** 2).sum(), list(model.parameters()))

    compiled = jit(step)
    for count in (first, second, first):
        x = tensor(normal(count, 3, 8, 8))
        for a, b in zip(compiled(x), step(x), strict=True):
            assert_same(a, b, 1e-4)


def test_rows_that_there_are_none_of():
    """A transposed convolution with gaps, of which some windows have no rows."""

    def step(x, w):
        return ndl.conv_transpose(x, w, padding=1, stride=2, dilation=2) * 0.5

    assert_compiled_as_eager(step, normal(5, 2, 3, 1), normal(1, 3, 2, 1))


@pytest.mark.parametrize("dtype", ["float64", "float16", "bfloat16"])
def test_every_dtype_of_floats(dtype):
    x, w, adjoint = [
        value.astype(dtype) for value in operands((4, 6, 6, 16), (3, 3, 16, 24), padding=1)
    ]
    assert_compiled_as_eager(with_gradients(padding=1), x, w, adjoint)


def test_gradients_of_gradients():
    def function(x, w):
        y = ops.conv(x, w, padding=1)
        dx, dw = ndl.grad((y * y).sum(), [x, w], create_graph=True)
        return ndl.grad((dx * dx).sum() + dw.sum(), [x, w], create_graph=False)

    x, w, _ = operands((3, 5, 5, 12), (3, 3, 12, 20), padding=1)
    assert_compiled_as_eager(function, x, w, rtol=1e-4)


def test_a_copy_that_is_asked_for_is_made_and_windows_leave_it_alone():
    def function(x, w):
        padded = ops.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
        return padded, ops.conv(padded, w, padding=0)

    x, w, _ = operands((8, 4, 4, 32), (3, 3, 32, 32), padding=1)
    compiled = assert_compiled_as_eager(function, x, w)
    assert primitives(compiled)["assign"] == 1


def test_a_border_of_another_number_stays():
    def function(x, w):
        shifted = ops.pad(x - 1.0, ((0, 0), (1, 1), (1, 1), (0, 0))) + 1.0
        return ops.conv(shifted, w, padding=0)

    x, w, _ = operands((8, 4, 4, 32), (3, 3, 32, 32), padding=1)
    assert_compiled_as_eager(function, x, w)


def test_windows_of_a_flipped_or_turned_picture():
    def function(x, w):
        flipped = ops.flip(x, (1,))
        turned = ops.transpose(x, (1, 2))
        return [ops.conv(y, w, padding=1) for y in (flipped, turned, x[:, 1:, ::2])]

    x, w, _ = operands((4, 6, 6, 16), (3, 3, 16, 24), padding=1)
    assert_compiled_as_eager(function, x, w)


def blocks(side, channels):
    """A training step of a residual block, whose norms are tails with sums."""
    np.random.seed(1)
    model = nn.Sequential(
        nn.Conv(channels, channels, 3, bias=False), nn.BatchNorm2d(channels), nn.ReLU(),
        nn.Conv(channels, channels, 3, bias=False), nn.BatchNorm2d(channels), nn.ReLU(),
        nn.Conv(channels, channels, 3, stride=2), nn.ReLU(), nn.Flatten(),
        nn.Linear(channels * (side // 2) ** 2, 7),
    )  # fmt: skip
    opt, loss_of = optim.SGD(model.parameters(), lr=0.1), nn.SoftmaxLoss()

    def step(x, y):
        opt.reset_grad()
        loss = loss_of(model(x), y)
        loss.backward(create_graph=False)
        opt.step()
        return loss

    return step, model


@pytest.mark.parametrize("side, channels", [(4, 32), (10, 16)])
def test_a_network_trains_as_eagerly_and_with_any_number_of_threads(side, channels):
    x = tensor(normal(6, channels, side, side))
    y = tensor(np.arange(6) % 7)
    step, model = blocks(side, channels)
    expected = [step(x, y).item() for _ in range(4)]
    states, threads = [], ndl.get_num_threads()
    try:
        for count in (1, 2, 3):
            ndl.set_num_threads(count)
            step, model = blocks(side, channels)
            compiled = jit(step)
            losses = [compiled(x, y).item() for _ in range(4)]
            np.testing.assert_allclose(losses, expected, rtol=1e-3)
            states.append([p.numpy().tobytes() for p in model.parameters()])
    finally:
        ndl.set_num_threads(threads)
    assert states[0] == states[1] == states[2]
    steps = compiled._latest.executable.compiled.lowered.steps
    assert any(s.tail and s.nodes[0].primitive == "convolve" for s in steps)

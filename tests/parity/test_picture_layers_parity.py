"""Layers that pictures pass between convolutions, against PyTorch's: values and gradients."""

from __future__ import annotations

import numpy as np
import pytest
from parity.side_by_side import compare, torch
from tensors import tensor

from needle import nn

F, tnn = torch.nn.functional, torch.nn


def array(*shape, seed=0):
    return np.random.RandomState(seed).standard_normal(shape)


# -- nonlinearities ----------------------------------------------------------------------------

ACTIVATIONS = {
    "LeakyReLU": (nn.LeakyReLU(), tnn.LeakyReLU()),
    "LeakyReLU steep": (nn.LeakyReLU(1.5), tnn.LeakyReLU(1.5)),
    "LeakyReLU flat": (nn.LeakyReLU(0), tnn.LeakyReLU(0)),
    "ELU": (nn.ELU(), tnn.ELU()),
    "ELU 0.5": (nn.ELU(0.5), tnn.ELU(0.5)),
    "Hardtanh": (nn.Hardtanh(-2, 0.5), tnn.Hardtanh(-2, 0.5)),
    "ReLU6": (nn.ReLU6(), tnn.ReLU6()),
    "Hardswish": (nn.Hardswish(), tnn.Hardswish()),
}


@pytest.mark.parametrize("name", ACTIVATIONS)
@pytest.mark.parametrize("shape", [(4, 5), (3,), (), (2, 3, 4), (0, 3)])
def test_activation(name, shape):
    compare(*ACTIVATIONS[name], np.asarray(array(*shape) * 4))


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activation_far_out(name):
    far = np.array([-700.0, -40.0, -1e-8, 1e-8, 40.0, 700.0])
    compare(*ACTIVATIONS[name], far)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activation_and_its_gradient_at_the_kinks(name):
    kinks = np.array([-3.0, -2.0, 0.0, 0.5, 3.0, 6.0])
    compare(*ACTIVATIONS[name], kinks, order=1)


@pytest.mark.parametrize(
    ("count", "shape"), [(1, (4, 5)), (1, (3,)), (3, (2, 3)), (3, (2, 3, 4, 2))]
)
def test_prelu(count, shape):
    def ours(x, weight):
        layer = nn.PReLU(count)
        layer.weight = weight
        return layer(x)

    compare(ours, F.prelu, array(*shape), array(count, seed=1))


@pytest.mark.parametrize("scale", [1.0, 0.0, 300.0])
def test_hardsigmoid(scale):
    x = np.array([-3.0, -1.0, 0.5, 2.9, 3.0]) * scale
    # PyTorch has 1/6 as a float32 in the gradient, and no derivative of that
    compare(nn.Hardsigmoid(), tnn.Hardsigmoid(), x, order=1, rtol=1e-7)


def test_prelu_starts_as_torch_does():
    ours, theirs = nn.PReLU(3).weight.numpy(), tnn.PReLU(3).weight.detach().numpy()
    np.testing.assert_array_equal(ours, theirs)


# -- resolution --------------------------------------------------------------------------------

SIZES = [(1, 1), (3, 3), (5, 7), (10, 14), (10, 7), (15, 3), (2, 20)]
FACTORS = [2, 1.5, 0.6, (2.7, 1.0), (1.0, 0.35), 3.3]
MODES = [("nearest", None), ("nearest-exact", None), ("bilinear", False), ("bilinear", True)]


@pytest.mark.parametrize(("mode", "align"), MODES)
@pytest.mark.parametrize("size", SIZES)
def test_upsample_to_a_size(size, mode, align):
    options = {"size": size, "mode": mode, "align_corners": align}
    compare(nn.Upsample(**options), tnn.Upsample(**options), array(2, 3, 5, 7))


@pytest.mark.parametrize(("mode", "align"), MODES)
@pytest.mark.parametrize("factor", FACTORS)
def test_upsample_by_a_factor(factor, mode, align):
    options = {"scale_factor": factor, "mode": mode, "align_corners": align}
    compare(nn.Upsample(**options), tnn.Upsample(**options), array(2, 3, 5, 7))


@pytest.mark.parametrize(
    ("mode", "align"), [("nearest", None), ("linear", True), ("linear", False)]
)
@pytest.mark.parametrize("options", [{"size": 11}, {"size": 4}, {"scale_factor": 2.5}])
def test_upsample_of_one_axis(options, mode, align):
    options = {**options, "mode": mode, "align_corners": align}
    compare(nn.Upsample(**options), tnn.Upsample(**options), array(2, 3, 6))


@pytest.mark.parametrize("mode", ["nearest", "trilinear"])
def test_upsample_of_three_axes(mode):
    options = {"scale_factor": (2, 1.5, 2), "mode": mode}
    compare(nn.Upsample(**options), tnn.Upsample(**options), array(1, 2, 3, 4, 2))


@pytest.mark.parametrize("mode", ["nearest", "nearest-exact"])
def test_nearest_places_are_torchs_for_every_pair_of_lengths(mode):
    for n in range(1, 40, 3):
        x = np.arange(n, dtype=np.float32).reshape(1, 1, n)
        for m in range(1, 60):
            ours = nn.Upsample(m, mode=mode)(tensor(x)).numpy()
            theirs = F.interpolate(torch.tensor(x), m, mode=mode).numpy()
            np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("factor", [1, 2, 3])
def test_pixel_shuffle_and_back(factor):
    x = array(2, 2 * factor**2, 3, 4)
    compare(nn.PixelShuffle(factor), tnn.PixelShuffle(factor), x)
    y = array(2, 2, 3 * factor, 4 * factor)
    compare(nn.PixelUnshuffle(factor), tnn.PixelUnshuffle(factor), y)


# -- borders -----------------------------------------------------------------------------------

SIDES = [1, (2, 0, 1, 3), (-1, 2, 0, -2), (0, 0, 0, 0), (-2, -1, -1, -3)]
KINDS = ["ZeroPad2d", "ReflectionPad2d", "ReplicationPad2d"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("sides", SIDES)
def test_padding_of_planes(kind, sides):
    compare(getattr(nn, kind)(sides), getattr(tnn, kind)(sides), array(2, 3, 5, 6))


@pytest.mark.parametrize("sides", [1, (2, 0, 1, 3), (5, 6, 0, 5)])
def test_circular_padding(sides):
    compare(nn.CircularPad2d(sides), tnn.CircularPad2d(sides), array(2, 3, 5, 6))


@pytest.mark.parametrize(
    "kind", ["ZeroPad1d", "ReflectionPad1d", "ReplicationPad1d", "CircularPad1d"]
)
def test_padding_of_rows(kind):
    compare(getattr(nn, kind)((2, 3)), getattr(tnn, kind)((2, 3)), array(2, 3, 5))


def test_padding_by_a_constant():
    compare(nn.ConstantPad2d((1, -2, 0, 2), 1.5), tnn.ConstantPad2d((1, -2, 0, 2), 1.5),
            array(2, 3, 5, 6))  # fmt: skip
    compare(nn.ConstantPad1d(2, 1.5), tnn.ConstantPad1d(2, 1.5), array(2, 3, 5))


# -- axes, channels, losses --------------------------------------------------------------------


@pytest.mark.parametrize("dims", [(1, -1), (0, -1), (1, 2), (-2, -1), (2, 2)])
def test_flatten(dims):
    start, end = dims
    compare(nn.Flatten(start_dim=start, end_dim=end), tnn.Flatten(start, end), array(2, 3, 4, 5))


@pytest.mark.parametrize(("dim", "size"), [(1, (2, 3)), (-1, (2, -1)), (0, (1, 4))])
def test_unflatten(dim, size):
    compare(nn.Unflatten(dim, size), tnn.Unflatten(dim, size), array(4, 6))


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("beta", [1.0, 0.3, 0])
def test_smooth_l1(beta, reduction):
    compare(nn.SmoothL1Loss(beta, reduction), tnn.SmoothL1Loss(reduction=reduction, beta=beta),
            array(3, 4), array(3, 4, seed=1))  # fmt: skip

"""Convolution and pooling layers against PyTorch, over their options: values, both derivatives."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from parity.side_by_side import compare, torch
from tensors import tensor

import needle as ndl
from needle import nn, ops

tnn = torch.nn
F = torch.nn.functional
RANDOM = np.random.RandomState(5)


def array(*shape):
    return np.asarray(RANDOM.randn(*shape))


def distinct(*shape):
    """No two equal: a maximum is at one place."""
    return RANDOM.permutation(math.prod(shape)).reshape(shape) / 7.0


def options(**choices):
    """Every combination of the choices, as dicts."""
    names = list(choices)
    rows = itertools.product(*choices.values())
    return [pytest.param(dict(zip(names, row, strict=True)), id=str(row)) for row in rows]


def as_torchs(weight):
    """(*K, in / groups, out) as PyTorch's (out, in / groups, *K)."""
    return weight.permute(weight.ndim - 1, weight.ndim - 2, *range(weight.ndim - 2))


def compare_layers(ours, theirs, x, order=2):
    """The two layers, which have the same weights, on x."""
    weights = [ours.weight.numpy()] + ([] if ours.bias is None else [ours.bias.numpy()])

    def mine(x, weight, *bias):
        ours.weight = weight
        ours.bias = bias[0] if bias else None
        return ours(x)

    def other(x, weight, *bias):
        parameters = {"weight": as_torchs(weight), **({"bias": bias[0]} if bias else {})}
        return torch.func.functional_call(theirs, parameters, (x,))

    compare(mine, other, x, *weights, order=order)


# -- convolution ---------------------------------------------------------------------------------


@pytest.mark.parametrize("kernel", [1, 2, 3, 5])
@pytest.mark.parametrize("stride, bias", [(1, True), (2, False), (4, True)])
def test_the_contracts_conv(kernel, stride, bias):
    ours = nn.Conv(2, 3, kernel, stride, bias=bias, dtype="float64")
    theirs = tnn.Conv2d(2, 3, kernel, stride, padding=(kernel - 1) // 2, bias=bias).double()
    compare_layers(ours, theirs, array(2, 2, 7, 8))


@pytest.mark.parametrize(
    "choice",
    options(kernel_size=[(3, 2)], stride=[1, (2, 3)], padding=[0, (2, 1)], dilation=[1, 2],
            groups=[1, 2])
    + options(kernel_size=[3], stride=[2], padding=[1], bias=[False])
    + options(kernel_size=[(4, 3)], dilation=[1, 2], padding=["same", "valid"]),
)  # fmt: skip
@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
def test_conv2d(choice):
    ours = nn.Conv2d(4, 6, **choice, dtype="float64")
    theirs = tnn.Conv2d(4, 6, **choice).double()
    compare_layers(ours, theirs, array(2, 4, 8, 7))


@pytest.mark.parametrize(
    "choice",
    options(kernel_size=[1, 4], stride=[1, 3], padding=[0, 2], dilation=[1, 2], groups=[2])
    + options(kernel_size=[4], padding=["same", "valid"], bias=[True, False]),
)
def test_conv1d(choice):
    ours = nn.Conv1d(4, 2, **choice, dtype="float64")
    compare_layers(ours, tnn.Conv1d(4, 2, **choice).double(), array(2, 4, 9))


@pytest.mark.parametrize("mode", ["zeros", "reflect", "replicate", "circular"])
@pytest.mark.parametrize("padding", [(2, 1), "same"])
@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
def test_padding_modes(mode, padding):
    choice = {"kernel_size": (3, 4), "padding": padding, "padding_mode": mode}
    ours = nn.Conv2d(2, 3, **choice, dtype="float64")
    compare_layers(ours, tnn.Conv2d(2, 3, **choice).double(), array(2, 2, 5, 6))


@pytest.mark.parametrize("mode", ["reflect", "circular"])
def test_padding_modes_along_one_axis(mode):
    choice = {"kernel_size": 4, "padding": 2, "padding_mode": mode}
    ours = nn.Conv1d(2, 3, **choice, dtype="float64")
    compare_layers(ours, tnn.Conv1d(2, 3, **choice).double(), array(2, 2, 5))


@pytest.mark.parametrize("multiplier", [1, 2])
@pytest.mark.parametrize("stride", [1, 2])
def test_depthwise_convolution(multiplier, stride):
    choice = {"kernel_size": 3, "stride": stride, "padding": 1, "groups": 4}
    ours = nn.Conv2d(4, 4 * multiplier, **choice, dtype="float64")
    theirs = tnn.Conv2d(4, 4 * multiplier, **choice).double()
    compare_layers(ours, theirs, array(2, 4, 6, 5))


@pytest.mark.parametrize(
    "choice",
    options(kernel_size=[(3, 2)], stride=[1, (2, 3)], padding=[0, (1, 0)], groups=[1, 2],
            dilation=[1, 2])
    + options(kernel_size=[3], stride=[2], output_padding=[1], padding=[1], bias=[True, False])
    + options(kernel_size=[3], stride=[(3, 2)], output_padding=[(2, 1)], dilation=[1, 3])
    + options(kernel_size=[2], stride=[3]),
)  # fmt: skip
def test_conv_transpose2d(choice):
    ours = nn.ConvTranspose2d(4, 2, **choice, dtype="float64")
    compare_layers(ours, tnn.ConvTranspose2d(4, 2, **choice).double(), array(2, 4, 4, 5))


@pytest.mark.parametrize(
    "choice",
    options(kernel_size=[1, 4], stride=[1, 2, 5], groups=[2], dilation=[1, 2])
    + options(kernel_size=[4], stride=[3], padding=[2], output_padding=[0, 2]),
)
def test_conv_transpose1d(choice):
    ours = nn.ConvTranspose1d(4, 2, **choice, dtype="float64")
    compare_layers(ours, tnn.ConvTranspose1d(4, 2, **choice).double(), array(2, 4, 6))


@pytest.mark.parametrize("mine", ["Conv1d", "Conv2d", "ConvTranspose1d", "ConvTranspose2d"])
def test_initial_weights_are_spread_as_torchs(mine):
    ours, theirs = (getattr(library, mine)(32, 64, 3, groups=2) for library in (nn, tnn))
    for name in ("weight", "bias"):
        drawn, other = getattr(ours, name).numpy(), getattr(theirs, name).detach().numpy()
        np.testing.assert_allclose(np.abs(drawn).max(), np.abs(other).max(), rtol=0.15)
        assert drawn.size == other.size
    np.testing.assert_allclose(drawn.std(), other.std(), rtol=0.3)


def test_three_spatial_axes():
    def ours(x, w):
        return ops.conv(x, w, stride=(1, 2, 1), padding=1)

    def theirs(x, w):
        y = F.conv3d(x.permute(0, 4, 1, 2, 3), as_torchs(w), stride=(1, 2, 1), padding=1)
        return y.permute(0, 2, 3, 4, 1)

    compare(ours, theirs, array(1, 3, 5, 4, 2), array(2, 3, 2, 2, 3))


@pytest.mark.parametrize("name", ["Conv2d", "ConvTranspose2d"])
def test_float32_agrees_closely(name):
    ours, theirs = (getattr(library, name)(16, 24, 3, stride=2) for library in (nn, tnn))
    with torch.no_grad():
        theirs.weight.copy_(as_torchs(torch.tensor(ours.weight.numpy())))
        theirs.bias.copy_(torch.tensor(ours.bias.numpy()))
    x = array(3, 16, 11, 12).astype("float32")
    y, other = ours(tensor(x)), theirs(torch.tensor(x))
    np.testing.assert_allclose(y.numpy(), other.detach().numpy(), rtol=1e-5, atol=1e-5)


# -- pooling -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "choice",
    options(kernel_size=[2, (2, 3)], stride=[None, (2, 3)], padding=[0, 1],
            ceil_mode=[False, True])
    + options(kernel_size=[(3, 2)], dilation=[2, (1, 3)], padding=[1], stride=[1, 2],
              ceil_mode=[False, True]),
)  # fmt: skip
def test_max_pool2d(choice):
    compare(nn.MaxPool2d(**choice), tnn.MaxPool2d(**choice), distinct(2, 2, 7, 8))


@pytest.mark.parametrize("kernel, stride, padding", [(2, 2, 0), (3, 2, 1), (3, 1, 1)])
def test_the_first_of_equals_takes_the_gradient_of_a_maximum(kernel, stride, padding):
    x = RANDOM.randint(0, 2, (2, 3, 8, 8)).astype(float)
    compare(nn.MaxPool2d(kernel, stride, padding), tnn.MaxPool2d(kernel, stride, padding), x)
    compare(nn.AdaptiveMaxPool2d((3, 5)), tnn.AdaptiveMaxPool2d((3, 5)), x)
    compare(nn.GlobalMaxPool(keepdims=True), tnn.AdaptiveMaxPool2d(1), x)


@pytest.mark.parametrize(
    "choice",
    options(kernel_size=[2, (2, 3)], stride=[None, (2, 3)], padding=[0, 1],
            ceil_mode=[False, True], count_include_pad=[True, False])
    + options(kernel_size=[3], stride=[1], padding=[1])
    + options(kernel_size=[3], stride=[2], padding=[1], divisor_override=[1, 5]),
)  # fmt: skip
def test_avg_pool2d(choice):
    compare(nn.AvgPool2d(**choice), tnn.AvgPool2d(**choice), array(2, 2, 7, 8))


@pytest.mark.parametrize("ceil_mode", [False, True])
@pytest.mark.parametrize("kernel, stride, padding", [(2, None, 0), (3, 2, 1), (4, 3, 2), (1, 3, 0)])
def test_pooling_along_one_axis(kernel, stride, padding, ceil_mode):
    x = distinct(2, 3, 11)
    for name in ("MaxPool1d", "AvgPool1d"):
        kinds = (getattr(library, name) for library in (nn, tnn))
        compare(*(kind(kernel, stride, padding, ceil_mode=ceil_mode) for kind in kinds), x)


PADDED_SIDE_BY_SIDE = [  # windows times their width make the extent, and yet do not cover it
    ("AvgPool1d", (6,), {"kernel_size": 3, "stride": 3, "padding": 1}),
    ("AvgPool1d", (6,), {"kernel_size": 3, "stride": 5, "padding": 1}),
    ("AvgPool1d", (6,), {"kernel_size": 3, "padding": 1, "count_include_pad": False}),
    ("AvgPool2d", (3, 5), {"kernel_size": (3, 1), "stride": (5, 1), "padding": (1, 0),
                           "ceil_mode": True}),
    ("AvgPool2d", (6, 4), {"kernel_size": (3, 2), "padding": (1, 0), "divisor_override": 5}),
    ("MaxPool2d", (6, 4), {"kernel_size": (3, 2), "padding": (1, 0)}),
    ("MaxPool2d", (1, 6), {"kernel_size": (2, 4), "ceil_mode": True}),
    ("AvgPool1d", (3,), {"kernel_size": 4, "stride": 5, "ceil_mode": True}),
    ("AvgPool1d", (3,), {"kernel_size": 4, "ceil_mode": True, "count_include_pad": False}),
    ("MaxPool1d", (1,), {"kernel_size": 2, "stride": 2, "ceil_mode": True}),
]  # fmt: skip


@pytest.mark.parametrize(("name", "shape", "choice"), PADDED_SIDE_BY_SIDE)
def test_windows_that_do_not_fit_evenly(name, shape, choice):
    compare(getattr(nn, name)(**choice), getattr(tnn, name)(**choice), distinct(2, 3, *shape))


@pytest.mark.parametrize(
    ("name", "options", "shape"),
    [
        ("MaxPool2d", (2,), (4, 6)),
        ("MaxPool2d", (3, 2, 1), (5, 6)),
        ("MaxPool1d", (3, 1, 1, 2), (7,)),
        ("MaxPool2d", (4,), (8, 4)),
        ("AdaptiveMaxPool1d", (3,), (5,)),
        ("AdaptiveMaxPool2d", ((2, 3),), (5, 7)),
        ("AdaptiveMaxPool2d", (1,), (4, 5)),
    ],
)
@pytest.mark.parametrize("value", [np.nan, -np.inf])
def test_gradients_go_to_the_same_nan_and_infinity(name, options, shape, value):
    x = RANDOM.choice([value, 1.0, 2.0], (3, 4, *shape), p=[0.6, 0.2, 0.2])
    x[0] = value
    compare(getattr(nn, name)(*options), getattr(tnn, name)(*options), x)


@pytest.mark.parametrize("size", [1, 3, 9, (1, 8), (5, None), (14, 4)])
@pytest.mark.parametrize("name", ["AdaptiveAvgPool2d", "AdaptiveMaxPool2d"])
def test_adaptive_pooling(name, size):
    compare(getattr(nn, name)(size), getattr(tnn, name)(size), distinct(2, 2, 7, 8))


@pytest.mark.parametrize("size", [1, 2, 3, 7, 10])
@pytest.mark.parametrize("name", ["AdaptiveAvgPool1d", "AdaptiveMaxPool1d"])
def test_adaptive_pooling_along_one_axis(name, size):
    compare(getattr(nn, name)(size), getattr(tnn, name)(size), distinct(2, 2, 7))


@pytest.mark.parametrize("shape", [(2, 3, 5), (2, 3, 4, 5), (2, 3, 2, 3, 4)])
def test_global_pooling(shape):
    axes = tuple(range(2, len(shape)))
    compare(nn.GlobalAvgPool(), lambda x: x.mean(axes), distinct(*shape))
    compare(nn.GlobalMaxPool(), lambda x: x.amax(axes), distinct(*shape))


def test_nan_is_the_maximum_of_its_windows_and_spoils_its_means():
    x = array(1, 1, 6, 6)
    x[0, 0, 2, 3] = np.nan
    for name in ("MaxPool2d", "AvgPool2d"):
        ours, theirs = (getattr(library, name)(3, 2, 1) for library in (nn, tnn))
        np.testing.assert_allclose(ours(tensor(x)).numpy(), theirs(torch.tensor(x)).numpy())


def test_a_network_trains_as_torchs_does():
    """Ten steps of plain gradient descent from the same weights."""
    np.random.seed(0)
    ours = nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(4, 6, 3, groups=2),
        nn.ReLU(), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(6, 3),
    )  # fmt: skip
    theirs = tnn.Sequential(
        tnn.Conv2d(1, 4, 3, padding=1), tnn.ReLU(), tnn.MaxPool2d(2), tnn.Conv2d(4, 6, 3, groups=2),
        tnn.ReLU(), tnn.AvgPool2d(2), tnn.Flatten(), tnn.Linear(6, 3),
    )  # fmt: skip
    with torch.no_grad():
        for mine, other in zip(ours, theirs, strict=True):
            if hasattr(other, "weight"):
                other.weight.copy_(as_torchs(torch.tensor(mine.weight.numpy())))
                other.bias.copy_(torch.tensor(mine.bias.numpy().reshape(-1)))
    x, y = array(5, 1, 8, 8).astype("float32"), RANDOM.randint(0, 3, 5)
    losses = []
    for _ in range(10):
        loss = nn.SoftmaxLoss()(ours(tensor(x)), tensor(y))
        loss.backward()
        for parameter in ours.parameters():
            parameter.data = parameter.data - 0.1 * parameter.grad.data
        other = F.cross_entropy(theirs(torch.tensor(x)), torch.tensor(y))
        slopes = torch.autograd.grad(other, list(theirs.parameters()))
        with torch.no_grad():
            for parameter, slope in zip(theirs.parameters(), slopes, strict=True):
                parameter -= 0.1 * slope
        losses.append((float(loss.numpy()), other.item()))
    assert losses[-1][1] < losses[0][1]
    np.testing.assert_allclose(*zip(*losses, strict=True), rtol=1e-4)


def test_layers_keep_channels_last_in_memory_in_nd_mode():
    if ndl.BACKEND != "nd":
        pytest.skip("about the strides of Needle's arrays")
    x = tensor(array(2, 3, 8, 8), dtype="float32")
    y = nn.MaxPool2d(2)(nn.Conv2d(3, 4, 3)(x).relu())
    assert y.realize_cached_data().permute((0, 2, 3, 1)).is_compact()

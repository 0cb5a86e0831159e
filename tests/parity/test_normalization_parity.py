"""Normalising layers against PyTorch's: values, all gradients, second order, running statistics."""

from __future__ import annotations

import numpy as np
import pytest
from parity.side_by_side import compare, torch
from tensors import tensor

import needle as ndl
from needle import nn, ops

tnn = torch.nn
F = torch.nn.functional
RANDOM = np.random.RandomState(3)


def array(*shape):
    return np.asarray(RANDOM.randn(*shape))


def side_by_side(ours, theirs, x, rtol=1e-10):
    """The two layers with the same weights on x, differentiated by x and by these."""
    names = [name for name in ("weight", "bias") if getattr(ours, name) is not None]
    weights = [array(*getattr(ours, name).shape) for name in names]

    def mine(x, *weights):
        for name, weight in zip(names, weights, strict=True):
            setattr(ours, name, weight)
        return ours(x)

    def other(x, *weights):
        return torch.func.functional_call(theirs, dict(zip(names, weights, strict=True)), (x,))

    compare(mine, other, x, *weights, rtol=rtol)


def same_running_statistics(ours, theirs, inputs, scale=1.0):
    """After training on the inputs; `scale`: what our variances are of PyTorch's."""
    for x in inputs:
        ours(tensor(x))
        theirs(torch.tensor(x))
    np.testing.assert_allclose(ours.running_mean.numpy(), theirs.running_mean.numpy(), rtol=1e-12)
    theirs_var = theirs.running_var.numpy()
    np.testing.assert_allclose(ours.running_var.numpy() - 0.7**3, scale * (theirs_var - 0.7**3))


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(
    ("ours", "theirs", "shape"),
    [
        (nn.BatchNorm1d, tnn.BatchNorm1d, (5, 3)),
        (nn.BatchNorm1d, tnn.BatchNorm1d, (4, 3, 5)),
        (nn.BatchNorm2d, tnn.BatchNorm2d, (2, 3, 4, 5)),
        (nn.BatchNorm2d, tnn.BatchNorm2d, (1, 3, 2, 2)),
    ],
)
def test_batch_norm(ours, theirs, shape, training):
    mine, other = ours(3, eps=1e-3, dtype="float64"), theirs(3, eps=1e-3, dtype=torch.float64)
    mean, var = array(3), array(3) ** 2
    mine.running_mean = tensor(mean, requires_grad=False)
    mine.running_var = tensor(var, requires_grad=False)
    other.running_mean, other.running_var = torch.tensor(mean), torch.tensor(var)
    side_by_side(mine.train(training), other.train(training), array(*shape))


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize(("track", "training"), [(False, True), (False, False), (True, True)])
def test_batch_norm_without_weights_or_statistics(affine, track, training):
    options = {"affine": affine, "track_running_stats": track}
    mine = nn.BatchNorm2d(3, **options, dtype="float64").train(training)
    other = tnn.BatchNorm2d(3, **options, dtype=torch.float64).train(training)
    side_by_side(mine, other, array(2, 3, 4, 5))


def test_batch_norm_2d_of_channels_last_memory():
    mine, other = nn.BatchNorm2d(3, dtype="float64"), tnn.BatchNorm2d(3, dtype=torch.float64)
    weights = [array(3), array(3)]

    def ours(x, weight, bias):
        mine.weight, mine.bias = weight, bias
        return mine(x.permute((0, 3, 1, 2)))

    def theirs(x, weight, bias):
        weights = {"weight": weight, "bias": bias}
        return torch.func.functional_call(other, weights, (x.permute(0, 3, 1, 2),))

    compare(ours, theirs, array(2, 4, 5, 3), *weights, rtol=1e-10)


def test_batch_norm_2d_keeps_the_biased_variance():
    inputs = [array(2, 3, 4, 5) + 2.0 for _ in range(3)]
    mine = nn.BatchNorm2d(3, momentum=0.3, dtype="float64")
    other = tnn.BatchNorm2d(3, momentum=0.3, dtype=torch.float64)
    same_running_statistics(mine, other, inputs, scale=39 / 40)


@pytest.mark.parametrize(
    ("ours", "theirs", "shape"),
    [
        (nn.InstanceNorm1d, tnn.InstanceNorm1d, (2, 3, 5)),
        (nn.InstanceNorm1d, tnn.InstanceNorm1d, (3, 5)),
        (nn.InstanceNorm2d, tnn.InstanceNorm2d, (2, 3, 4, 5)),
        (nn.InstanceNorm2d, tnn.InstanceNorm2d, (3, 4, 5)),
    ],
)
@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize(("track", "training"), [(False, True), (True, True), (True, False)])
def test_instance_norm(ours, theirs, shape, affine, track, training):
    options = {"eps": 1e-3, "affine": affine, "track_running_stats": track}
    mine = ours(3, **options, dtype="float64").train(training)
    other = theirs(3, **options, dtype=torch.float64).train(training)
    side_by_side(mine, other, array(*shape))


def test_instance_norm_keeps_pytorchs_statistics():
    options = {"momentum": 0.3, "track_running_stats": True}
    mine = nn.InstanceNorm2d(3, **options, dtype="float64")
    other = tnn.InstanceNorm2d(3, **options, dtype=torch.float64)
    same_running_statistics(mine, other, [array(2, 3, 4, 5) + 2.0 for _ in range(3)])


@pytest.mark.parametrize(
    ("shape", "groups"),
    [((2, 6), 1), ((2, 6), 3), ((2, 6, 3), 6), ((2, 6, 4, 3), 2), ((2, 6, 2, 1, 3), 3)],
)
def test_group_norm(shape, groups):
    mine = nn.GroupNorm(groups, 6, eps=1e-3, dtype="float64")
    side_by_side(mine, tnn.GroupNorm(groups, 6, eps=1e-3, dtype=torch.float64), array(*shape))


def test_group_norm_without_affine():
    mine = nn.GroupNorm(2, 6, affine=False, dtype="float64")
    other = tnn.GroupNorm(2, 6, affine=False, dtype=torch.float64)
    side_by_side(mine, other, array(2, 6, 3))


@pytest.mark.parametrize(("shape", "last"), [((3, 5), 5), ((2, 3, 5), (3, 5)), ((2, 3, 5), (5,))])
@pytest.mark.parametrize(("affine", "bias"), [(True, True), (True, False), (False, True)])
def test_layer_norm(shape, last, affine, bias):
    mine = nn.LayerNorm(last, 1e-3, affine, bias, dtype="float64")
    other = tnn.LayerNorm(last, 1e-3, affine, bias, dtype=torch.float64)
    side_by_side(mine, other, array(*shape))


@pytest.mark.parametrize(("shape", "last"), [((3, 5), 5), ((2, 3, 5), (3, 5))])
@pytest.mark.parametrize("affine", [True, False])
def test_rms_norm(shape, last, affine):
    mine = nn.RMSNorm(last, 1e-3, affine, dtype="float64")
    side_by_side(mine, tnn.RMSNorm(last, 1e-3, affine, dtype=torch.float64), array(*shape))


@pytest.mark.parametrize(
    ("axes", "theirs", "shape"),
    [
        (1, lambda x: F.layer_norm(x, (4,)), (3, 4)),
        ((2, 3), F.instance_norm, (2, 3, 4, 5)),
        ((0, 2, 3), lambda x: F.batch_norm(x, None, None, training=True), (2, 3, 4, 5)),
    ],
)
def test_normalize_over_any_axes(axes, theirs, shape):
    compare(lambda x: ops.normalize(x, axes), theirs, array(*shape), rtol=1e-10)


@pytest.mark.parametrize(
    ("make", "other", "shape"),
    [
        (lambda: nn.BatchNorm2d(8), lambda: tnn.BatchNorm2d(8), (4, 8, 5, 6)),
        (lambda: nn.LayerNorm1d(40), lambda: tnn.LayerNorm(40), (7, 40)),
        (lambda: nn.GroupNorm(2, 8), lambda: tnn.GroupNorm(2, 8), (4, 8, 5, 6)),
    ],
)
def test_float32_is_as_good_as_pytorchs(make, other, shape):
    """Far from 0, measured against float64: errors at most twice those of PyTorch."""
    x = array(*shape).astype("float32") + 30
    weight, g = array(shape[1]), array(*shape)
    exact, mine, theirs = [], [], []
    for dtype, found in ((torch.float64, exact), (torch.float32, theirs)):
        layer, t = other().to(dtype), torch.tensor(x, dtype=dtype, requires_grad=True)
        layer.weight.data = torch.tensor(weight, dtype=dtype)
        layer(t).backward(torch.tensor(g, dtype=dtype))
        found += [layer(t), t.grad, layer.weight.grad]
    layer, t = make(), ndl.Tensor(x, dtype="float32")
    layer.weight.data = tensor(weight, dtype="float32")
    y = layer(t)
    y.backward(tensor(g, dtype="float32"))
    mine += [y, t.grad, layer.weight.grad]
    for e, a, b in zip(exact, mine, theirs, strict=True):
        e, b = e.detach().numpy(), b.detach().numpy()
        error, allowed = abs(a.numpy() - e).max(), abs(b - e).max()
        assert error <= 2 * allowed + 1e-5 * abs(e).max()

"""Contract, sections 6.2, 10.2 and 12: the layers of convolutional networks, and ResNet9."""

from __future__ import annotations

import numpy as np
import pytest
from apps.models import ResNet9
from contract.course_references import (
    arrays,
    assert_like,
    assert_module_like,
    assert_values,
    batch_norm_nchw,
    conv_draws,
    conv_nchw,
    cross_entropy,
    linear_draws,
    sigmoid,
)

import needle as ndl
from needle import nn
from needle.autograd import Tensor

SEED = 11
CONV = {"rtol": 1e-4, "atol": 1e-4}


def tensor(array, device=None, **options):
    return Tensor(array, device=device, dtype="float32", **options)


# -- Conv --------------------------------------------------------------------------------------


def test_conv_has_a_weight_kkio_and_a_bias_o(each_device):
    layer = nn.Conv(4, 6, 3, device=each_device)
    assert isinstance(layer.weight, nn.Parameter) and isinstance(layer.bias, nn.Parameter)
    assert (layer.weight.shape, layer.bias.shape) == ((3, 3, 4, 6), (6,))
    assert layer.weight.device == layer.bias.device == each_device
    assert layer.weight.dtype == layer.bias.dtype == "float32"
    assert len(layer.parameters()) == 2
    bare = nn.Conv(4, 6, 3, 1, False, each_device, "float32")
    assert bare.bias is None and len(bare.parameters()) == 1


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("k", [1, 3, 7])
def test_trap_4_conv_draws_its_weight_and_then_its_bias(k, bias):
    np.random.seed(SEED)
    layer = nn.Conv(5, 4, k, stride=2, bias=bias)
    following = np.random.rand()
    np.random.seed(SEED)
    assert_values(layer.parameters(), conv_draws(5, 4, k, bias))
    assert following == np.random.rand()


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(
    ("shape", "out", "k", "stride"),
    [
        ((3, 3, 4, 4), 4, 3, 1),
        ((2, 2, 6, 5), 3, 3, 2),
        ((2, 2, 4, 4), 2, 5, 1),
        ((1, 2, 8, 8), 1, 7, 4),
        ((2, 4, 3, 4), 3, 1, 1),
        ((2, 2, 5, 4), 3, 1, 2),
        ((1, 2, 4, 5), 2, 2, 1),
    ],
)
def test_conv_is_nchw_with_same_padding(each_device, shape, out, k, stride, bias):
    layer = nn.Conv(shape[1], out, k, stride=stride, bias=bias, device=each_device)
    assert_module_like(
        layer,
        ["weight", "bias"] if bias else ["weight"],
        lambda x, w, b=0.0: conv_nchw(x, w, b, stride),
        *arrays(shape),
        device=each_device,
        **CONV,
    )


def test_conv_keeps_the_size_of_the_image_at_stride_1():
    x = tensor(np.ones((2, 3, 11, 8)))
    for k in (1, 3, 5, 7):
        assert nn.Conv(3, 4, k)(x).shape == (2, 4, 11, 8)


def test_conv_takes_the_first_of_a_tuple():
    layer = nn.Conv(3, 4, (3, 3), stride=(2, 2))
    assert layer.weight.shape == (3, 3, 3, 4)
    x = tensor(np.ones((1, 3, 8, 8)))
    assert layer(x).shape == (1, 4, 4, 4)


# -- BatchNorm2d -------------------------------------------------------------------------------


def test_batch_norm_2d_begins_as_batch_norm_1d_and_draws_nothing(each_device):
    np.random.seed(SEED)
    norm = nn.BatchNorm2d(4, device=each_device, dtype="float32")
    following = np.random.rand()
    np.random.seed(SEED)
    assert following == np.random.rand()
    assert (norm.eps, norm.momentum) == (1e-5, 0.1)
    assert_values(norm.parameters(), [np.ones(4), np.zeros(4)])
    assert_values([norm.weight, norm.bias], [np.ones(4), np.zeros(4)])
    assert_values([norm.running_mean, norm.running_var], [np.zeros(4), np.ones(4)])
    for running in (norm.running_mean, norm.running_var):
        assert not isinstance(running, nn.Parameter)
        assert running.device == each_device


def test_batch_norm_2d_takes_its_arguments_in_order():
    norm = nn.BatchNorm2d(3, 1e-3, 0.2, ndl.cpu(), "float32")
    assert (norm.eps, norm.momentum) == (1e-3, 0.2)


def test_batch_norm_2d_normalises_each_channel_over_batch_and_image(each_device):
    norm = nn.BatchNorm2d(3, device=each_device)
    norm.weight.data, norm.bias.data = (tensor(a, each_device) for a in arrays((3,), (3,)))
    (x,) = arrays((4, 3, 3, 2))
    assert_module_like(norm, ["weight", "bias"], batch_norm_nchw, x, device=each_device)


def test_trap_5_batch_norm_2d_runs_with_the_biased_variance(each_device):
    norm = nn.BatchNorm2d(3, momentum=0.3, device=each_device)
    mean, var = np.zeros(3), np.ones(3)
    for seed in range(3):
        (x,) = arrays((2, 3, 2, 2), seed=seed)
        norm(tensor(x, each_device))
        mean = 0.7 * mean + 0.3 * x.mean((0, 2, 3))
        var = 0.7 * var + 0.3 * x.var((0, 2, 3))
    assert_values([norm.running_mean, norm.running_var], [mean, var])
    for running in (norm.running_mean, norm.running_var):
        assert running.is_leaf() and not running.requires_grad
        assert running.dtype == "float32" and running.device == each_device


def test_batch_norm_2d_in_evaluation_uses_running_statistics_and_leaves_them(each_device):
    norm = nn.BatchNorm2d(3, device=each_device)
    for seed in range(3):
        norm(tensor(arrays((2, 3, 4, 4), seed=seed)[0] * 3 + 2, each_device))
    norm.eval()
    mean, var = norm.running_mean.numpy(), norm.running_var.numpy()
    assert_like(
        norm,
        lambda x: batch_norm_nchw(x, np.ones(3), np.zeros(3), mean, var),
        *arrays((1, 3, 2, 3), seed=7),
        device=each_device,
    )
    np.testing.assert_array_equal(norm.running_mean.numpy(), mean)
    np.testing.assert_array_equal(norm.running_var.numpy(), var)


# -- Sigmoid, Flatten, Residual, Sequential after a convolution --------------------------------


def test_sigmoid(each_device):
    assert_like(nn.Sigmoid(), sigmoid, 3 * arrays((4, 5))[0], device=each_device)
    assert nn.Sigmoid().parameters() == []


def test_sigmoid_of_large_numbers_is_quiet_and_finite(each_device):
    x = tensor([-1e4, -200.0, 0.0, 200.0, 1e4])
    y = nn.Sigmoid()(x)
    np.testing.assert_allclose(y.numpy(), [0, 0, 0.5, 1, 1], atol=1e-30)
    y.sum().backward()
    np.testing.assert_allclose(x.grad.numpy(), [0, 0, 0.25, 0, 0], atol=1e-30)


def test_flatten_after_a_convolution_is_in_the_order_channel_row_column(each_device):
    layer = nn.Conv(2, 3, 3, device=each_device)
    x = tensor(arrays((2, 2, 4, 4))[0], each_device)
    y = layer(x)
    flat = nn.Flatten()(y)
    assert flat.shape == (2, 48)
    np.testing.assert_array_equal(flat.numpy(), y.numpy().reshape(2, 48))


def test_residual_of_convolutions_adds_the_input(each_device):
    block = nn.Sequential(nn.Conv(3, 3, 3, device=each_device), nn.BatchNorm2d(3), nn.ReLU())
    block.eval()
    x = tensor(arrays((2, 3, 4, 4))[0], each_device)
    y = nn.Residual(block.to(each_device))(x)
    np.testing.assert_allclose(y.numpy(), block(x).numpy() + x.numpy(), rtol=1e-6)
    assert block.modules[0].weight.shape == (3, 3, 3, 3)


def test_train_and_eval_reach_norms_in_nested_networks():
    model = nn.Sequential(nn.Residual(nn.Sequential(nn.Conv(2, 2, 3), nn.BatchNorm2d(2))))
    norm = model.modules[0].fn.modules[1]
    model.eval()
    assert norm.training is False
    model.train()
    assert norm.training is True


# -- ResNet9 -----------------------------------------------------------------------------------

CONV_BNS = [  # channels in and out, kernel, stride, in forward order
    (3, 16, 7, 4), (16, 32, 3, 2), (32, 32, 3, 1), (32, 32, 3, 1),
    (32, 64, 3, 2), (64, 128, 3, 2), (128, 128, 3, 1), (128, 128, 3, 1),
]  # fmt: skip


def resnet9_draws():
    """Every parameter in forward order: weight, bias, norm's weight, norm's bias; then Linears."""
    found = []
    for i, o, k, _ in CONV_BNS:
        found += [*conv_draws(i, o, k), np.ones(o), np.zeros(o)]
    return found + linear_draws(128, 128) + linear_draws(128, 10)


def resnet9_forward(x, parameters):
    blocks = [parameters[4 * i : 4 * i + 4] for i in range(8)]

    def conv_bn(x, i):
        w, b, weight, bias = blocks[i]
        y = conv_nchw(x, w, b, CONV_BNS[i][3])
        return np.maximum(batch_norm_nchw(y, weight, bias), 0)

    x = conv_bn(conv_bn(x, 0), 1)
    x = conv_bn(conv_bn(x, 2), 3) + x
    x = conv_bn(conv_bn(x, 4), 5)
    x = conv_bn(conv_bn(x, 6), 7) + x
    w1, b1, w2, b2 = parameters[32:]
    return np.maximum(x.reshape(len(x), -1) @ w1 + b1, 0) @ w2 + b2


def test_resnet9_has_431946_parameters():
    model = ResNet9(device=ndl.cpu(), dtype="float32")
    assert sum(int(np.prod(p.shape)) for p in model.parameters()) == 431946
    assert len(model.parameters()) == 8 * 4 + 2 * 2


def test_resnet9_draws_in_forward_order(each_device):
    np.random.seed(SEED)
    model = ResNet9(device=each_device)
    following = np.random.rand()
    np.random.seed(SEED)
    assert_values(model.parameters(), resnet9_draws())
    assert following == np.random.rand()
    assert {p.device for p in model.parameters()} == {each_device}


def test_resnet9_computes_what_the_contract_says(each_device):
    np.random.seed(SEED)
    model = ResNet9(device=each_device)
    (x,), y = arrays((3, 3, 32, 32), seed=1), np.array([3, 9, 0])
    parameters = [p.numpy().astype("float64") for p in model.parameters()]
    logits = model(tensor(x, each_device))
    assert logits.shape == (3, 10)
    expected = resnet9_forward(x.astype("float64"), parameters)
    np.testing.assert_allclose(logits.numpy(), expected, **CONV)
    loss = nn.SoftmaxLoss()(logits, tensor(y, each_device))
    loss.backward()
    assert all(p.grad is not None and p.grad.shape == p.shape for p in model.parameters())
    directions = [np.random.randn(*p.shape) for p in parameters]
    found = sum(
        np.sum(p.grad.numpy() * d) for p, d in zip(model.parameters(), directions, strict=True)
    )

    def loss_along(step):
        moved = [p + step * d for p, d in zip(parameters, directions, strict=True)]
        return cross_entropy(resnet9_forward(x, moved), y).mean()

    slope = (loss_along(1e-7) - loss_along(-1e-7)) / 2e-7
    np.testing.assert_allclose(found, slope, rtol=1e-3)


def test_resnet9_in_evaluation_gives_each_image_its_own_logits():
    model = ResNet9()
    x = arrays((4, 3, 32, 32), seed=2)[0]
    model(tensor(x))
    model.eval()
    together = model(tensor(x)).numpy()
    np.testing.assert_allclose(model(tensor(x[1:2])).numpy(), together[1:2], **CONV)


def test_resnet9_learns_with_adam():
    np.random.seed(0)
    model = ResNet9()
    x, y = tensor(arrays((6, 3, 32, 32))[0]), tensor([0, 1, 2, 3, 4, 5])
    optimizer = ndl.optim.Adam(model.parameters(), lr=0.001, weight_decay=0.001)
    losses = []
    for _ in range(4):
        optimizer.reset_grad()
        loss = nn.SoftmaxLoss()(model(x), y)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] / 2
    assert all(p.dtype == "float32" for p in model.parameters())

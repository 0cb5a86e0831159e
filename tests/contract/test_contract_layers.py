"""Contract, section 6.2: the layers that need no convolution, in np mode."""

from __future__ import annotations

import numpy as np
import pytest

import needle as ndl
from needle import nn
from needle.autograd import Tensor


def tensor(*shape, seed=0, dtype="float32"):
    return Tensor(np.random.RandomState(seed).randn(*shape), dtype=dtype)


def test_identity_returns_x():
    x = tensor(2, 3)
    assert nn.Identity()(x) is x


# -- Linear ------------------------------------------------------------------------------------


def test_linear_shapes():
    linear = nn.Linear(10, 5)
    assert isinstance(linear.weight, nn.Parameter)
    assert isinstance(linear.bias, nn.Parameter)
    assert linear.weight.shape == (10, 5)
    assert linear.bias.shape == (1, 5)
    assert linear.weight.dtype == linear.bias.dtype == "float32"
    assert nn.Linear(10, 5, bias=False).bias is None


def test_linear_is_x_times_weight_plus_bias():
    linear, x = nn.Linear(4, 3), tensor(5, 4)
    expected = x.numpy() @ linear.weight.numpy() + linear.bias.numpy()
    assert linear(x).shape == (5, 3)
    np.testing.assert_allclose(linear(x).numpy(), expected, rtol=1e-6)
    bare = nn.Linear(4, 3, bias=False)
    np.testing.assert_allclose(bare(x).numpy(), x.numpy() @ bare.weight.numpy(), rtol=1e-6)


def test_linear_works_on_three_axes():
    linear, x = nn.Linear(10, 5), tensor(1, 3, 10)
    expected = x.numpy() @ linear.weight.numpy() + linear.bias.numpy()
    assert linear(x).shape == (1, 3, 5)
    np.testing.assert_allclose(linear(x).numpy(), expected, rtol=1e-6)
    linear(x).sum().backward()
    assert linear.bias.grad.shape == (1, 5)
    np.testing.assert_allclose(linear.bias.grad.numpy(), np.full((1, 5), 3.0))


def test_linear_works_after_its_bias_was_replaced_by_one_of_shape_out():
    linear, x = nn.Linear(4, 5), tensor(2, 4)
    replacement = tensor(5, seed=1)
    linear.bias.data = replacement
    expected = x.numpy() @ linear.weight.numpy() + replacement.numpy()
    np.testing.assert_allclose(linear(x).numpy(), expected, rtol=1e-6)
    linear(x).sum().backward()
    assert linear.bias.grad.shape == (5,)


def test_linear_takes_device_and_dtype():
    linear = nn.Linear(2, 3, True, ndl.cpu(), "float64")
    assert linear.weight.dtype == linear.bias.dtype == "float64"
    assert linear.weight.device == ndl.cpu()


# -- Flatten, ReLU, Sequential, Residual -------------------------------------------------------


@pytest.mark.parametrize(
    ("shape", "flat"), [((2, 3, 4, 5), (2, 60)), ((3, 2), (3, 2)), ((4,), (4, 1)), ((0, 2), (0, 2))]
)
def test_flatten_keeps_the_batch(shape, flat):
    x = tensor(*shape)
    y = nn.Flatten()(x)
    assert y.shape == flat
    np.testing.assert_array_equal(y.numpy().ravel(), x.numpy().ravel())
    y.sum().backward()
    assert x.grad.shape == shape


def test_relu():
    x = Tensor([-1.0, 0.0, 2.0])
    y = nn.ReLU()(x)
    np.testing.assert_array_equal(y.numpy(), [0.0, 0.0, 2.0])
    y.backward()
    np.testing.assert_array_equal(x.grad.numpy(), [0.0, 0.0, 1.0])


def test_sequential_keeps_its_tuple_of_modules():
    inner = nn.Sequential(nn.Linear(3, 2))
    model = nn.Sequential(nn.ReLU(), inner)
    assert isinstance(model.modules, tuple)
    assert model.modules[1] is inner
    assert model.modules[1].modules[0].weight.shape == (3, 2)
    x = tensor(4, 3)
    expected = np.maximum(x.numpy(), 0) @ inner.modules[0].weight.numpy()
    expected = expected + inner.modules[0].bias.numpy()
    np.testing.assert_allclose(model(x).numpy(), expected, rtol=1e-5)


def test_residual_adds_the_input():
    x = tensor(2, 3)
    np.testing.assert_array_equal(nn.Residual(nn.Identity())(x).numpy(), 2 * x.numpy())


# -- SoftmaxLoss -------------------------------------------------------------------------------


def by_hand(z, y):
    z = z.astype("float64")
    shift = z.max(1, keepdims=True)
    log_sums = np.log(np.exp(z - shift).sum(1)) + shift[:, 0]
    return np.mean(log_sums - z[np.arange(len(z)), y])


@pytest.mark.parametrize("label_dtype", ["int64", "int32", "uint8", "float32", "float64"])
def test_softmax_loss_takes_class_ids_of_any_dtype(label_dtype):
    z, y = tensor(6, 10), np.array([9, 0, 3, 3, 1, 8])
    loss = nn.SoftmaxLoss()(z, Tensor(y, dtype=label_dtype))
    assert loss.shape == ()
    assert loss.dtype == "float32"
    np.testing.assert_allclose(loss.numpy(), by_hand(z.numpy(), y), rtol=1e-6)


def test_softmax_loss_gradient_is_softmax_minus_one_hot_over_n():
    z, y = tensor(4, 3, dtype="float64"), np.array([2, 0, 1, 1])
    nn.SoftmaxLoss()(z, Tensor(y)).backward()
    powers = np.exp(z.numpy())
    expected = (powers / powers.sum(1, keepdims=True) - np.eye(3)[y]) / 4
    np.testing.assert_allclose(z.grad.numpy(), expected, atol=1e-12)


@pytest.mark.parametrize("size", [5e5, 1e10])
def test_softmax_loss_is_stable_for_extreme_logits(size):
    z = np.array([[size, 0.0, -size], [-size, size, 0.0]])
    loss = nn.SoftmaxLoss()(Tensor(z), Tensor([0, 1]))
    assert loss.item() == 0.0
    worst = nn.SoftmaxLoss()(Tensor(z), Tensor([2, 0]))
    assert worst.item() == 2 * size


# -- BatchNorm1d -------------------------------------------------------------------------------


def test_batch_norm_parameters_and_running_statistics():
    norm = nn.BatchNorm1d(4)
    assert (norm.eps, norm.momentum) == (1e-5, 0.1)
    assert [p.shape for p in norm.parameters()] == [(4,), (4,)]
    np.testing.assert_array_equal(norm.weight.numpy(), np.ones(4))
    np.testing.assert_array_equal(norm.bias.numpy(), np.zeros(4))
    for running, value in ((norm.running_mean, 0.0), (norm.running_var, 1.0)):
        assert not isinstance(running, nn.Parameter)
        np.testing.assert_array_equal(running.numpy(), np.full(4, value))


def test_batch_norm_normalises_with_the_biased_variance():
    norm, x = nn.BatchNorm1d(4), tensor(6, 4)
    norm.weight.data = tensor(4, seed=1)
    norm.bias.data = tensor(4, seed=2)
    a = x.numpy().astype("float64")
    expected = (a - a.mean(0)) / np.sqrt(a.var(0) + 1e-5)
    expected = expected * norm.weight.numpy() + norm.bias.numpy()
    np.testing.assert_allclose(norm(x).numpy(), expected, rtol=1e-5, atol=1e-6)


def test_batch_norm_keeps_running_statistics_of_mean_and_biased_variance():
    norm = nn.BatchNorm1d(3, momentum=0.3)
    mean, var = np.zeros(3), np.ones(3)
    for seed in range(4):
        x = tensor(5, 3, seed=seed)
        norm(x)
        mean = 0.7 * mean + 0.3 * x.numpy().mean(0)
        var = 0.7 * var + 0.3 * x.numpy().var(0)
    np.testing.assert_allclose(norm.running_mean.numpy(), mean, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(norm.running_var.numpy(), var, rtol=1e-5)
    assert norm.running_mean.shape == norm.running_var.shape == (3,)
    assert norm.running_mean.dtype == norm.running_var.dtype == "float32"
    assert not norm.running_mean.requires_grad
    assert norm.running_mean.is_leaf()


def test_batch_norm_in_evaluation_uses_running_statistics_and_leaves_them():
    norm = nn.BatchNorm1d(3)
    norm(tensor(5, 3))
    norm.eval()
    mean, var = norm.running_mean.numpy(), norm.running_var.numpy()
    x = tensor(2, 3, seed=7)
    expected = (x.numpy() - mean) / np.sqrt(var + 1e-5)
    np.testing.assert_allclose(norm(x).numpy(), expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(norm.running_mean.numpy(), mean)
    np.testing.assert_array_equal(norm.running_var.numpy(), var)


# -- LayerNorm1d -------------------------------------------------------------------------------


def test_layer_norm_normalises_each_row_with_the_biased_variance():
    norm, x = nn.LayerNorm1d(4), tensor(6, 4)
    assert [p.shape for p in norm.parameters()] == [(4,), (4,)]
    norm.weight.data = tensor(4, seed=1)
    norm.bias.data = tensor(4, seed=2)
    a = x.numpy().astype("float64")
    expected = (a - a.mean(1, keepdims=True)) / np.sqrt(a.var(1, keepdims=True) + 1e-5)
    expected = expected * norm.weight.numpy() + norm.bias.numpy()
    np.testing.assert_allclose(norm(x).numpy(), expected, rtol=1e-5, atol=1e-6)


def test_layer_norm_of_one_feature_gives_zero_and_gradient_zero():
    norm, x = nn.LayerNorm1d(1), tensor(5, 1)
    y = norm(x)
    y.sum().backward()
    np.testing.assert_array_equal(y.numpy(), np.zeros((5, 1)))
    np.testing.assert_array_equal(x.grad.numpy(), np.zeros((5, 1)))


# -- Dropout -----------------------------------------------------------------------------------


@pytest.mark.parametrize("p", [0.1, 0.5, 0.75])
def test_dropout_keeps_where_the_draw_is_at_most_one_minus_p(p):
    x = tensor(4, 5)
    np.random.seed(3)
    y = nn.Dropout(p)(x)
    np.random.seed(3)
    kept = np.random.rand(4, 5) <= 1 - p
    np.testing.assert_allclose(y.numpy(), x.numpy() * kept / (1 - p), rtol=1e-6)
    assert y.dtype == "float32"


def test_dropout_passes_everything_in_evaluation_and_draws_nothing():
    dropout, x = nn.Dropout(0.5), tensor(4, 5)
    dropout.eval()
    np.random.seed(3)
    y = dropout(x)
    following = np.random.rand()
    np.random.seed(3)
    assert following == np.random.rand()
    np.testing.assert_array_equal(y.numpy(), x.numpy())


def test_dropout_default_is_a_half():
    assert nn.Dropout().p == 0.5

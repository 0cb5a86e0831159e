"""Contract, section 12: which numbers of NumPy's global stream each object draws, in order."""

from __future__ import annotations

import numpy as np
import pytest

import needle as ndl
from needle import nn
from needle.autograd import Tensor

SEED = 11


def kaiming(fan_in, *shape):
    bound = np.sqrt(6 / fan_in)
    return np.random.rand(*shape) * 2 * bound - bound


def linear_by_hand(fan_in, fan_out, bias=True):
    """Weight (i, o), then bias drawn as (o, 1) and laid flat; the bias' bound uses out_features."""
    weight = kaiming(fan_in, fan_in, fan_out)
    return [weight, kaiming(fan_out, fan_out, 1).reshape(1, fan_out)] if bias else [weight]


def next_draw():
    return np.random.rand()


def assert_parameters(module, expected):
    parameters = module.parameters()
    assert len(parameters) == len(expected)
    for parameter, value in zip(parameters, expected, strict=True):
        assert parameter.shape == value.shape
        np.testing.assert_allclose(parameter.numpy(), value, rtol=1e-6)


@pytest.mark.parametrize("bias", [True, False])
def test_linear_draws_weight_then_bias(bias):
    np.random.seed(SEED)
    linear = nn.Linear(7, 4, bias=bias)
    following = next_draw()
    np.random.seed(SEED)
    assert_parameters(linear, linear_by_hand(7, 4, bias))
    assert following == next_draw()


@pytest.mark.parametrize(
    "make",
    [
        lambda: nn.BatchNorm1d(4),
        lambda: nn.LayerNorm1d(4),
        nn.ReLU,
        nn.Flatten,
        nn.Identity,
        nn.SoftmaxLoss,
        lambda: nn.Dropout(0.3),
        lambda: nn.Residual(nn.ReLU()),
        lambda: nn.Sequential(nn.ReLU()),
    ],
)
def test_other_layers_draw_nothing(make):
    np.random.seed(SEED)
    make()
    following = next_draw()
    np.random.seed(SEED)
    assert following == next_draw()


def test_sequential_and_residual_draw_in_the_order_of_their_arguments():
    np.random.seed(SEED)
    model = nn.Sequential(
        nn.Linear(3, 5),
        nn.Residual(nn.Sequential(nn.Linear(5, 2), nn.ReLU(), nn.Linear(2, 5, bias=False))),
        nn.Linear(5, 1),
    )
    np.random.seed(SEED)
    sizes = [(3, 5), (5, 2), (2, 5, False), (5, 1)]
    assert_parameters(model, [array for size in sizes for array in linear_by_hand(*size)])


@pytest.mark.parametrize("shape", [(4,), (3, 5), (2, 3, 4, 4)])
def test_dropout_draws_one_number_per_element_and_call(shape):
    dropout, x = nn.Dropout(0.4), Tensor(np.ones(shape), dtype="float32")
    np.random.seed(SEED)
    first, second = dropout(x), dropout(x)
    following = next_draw()
    np.random.seed(SEED)
    for result in (first, second):
        expected = (np.random.rand(*shape) <= 0.6) / 0.6
        np.testing.assert_allclose(result.numpy(), expected, rtol=1e-6)
    assert following == next_draw()


def test_losses_and_forward_passes_draw_nothing():
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.LayerNorm1d(4))
    x = Tensor(np.ones((2, 3)), dtype="float32")
    np.random.seed(SEED)
    nn.SoftmaxLoss()(model(x), Tensor([1, 3])).backward()
    following = next_draw()
    np.random.seed(SEED)
    assert following == next_draw()


def test_loader_draws_one_permutation_at_each_iter_and_nothing_at_construction():
    dataset = ndl.data.NDArrayDataset(np.arange(10.0))
    np.random.seed(SEED)
    loader = ndl.data.DataLoader(dataset, batch_size=3, shuffle=True)
    passes = [np.concatenate([batch[0].numpy() for batch in loader]) for _ in range(2)]
    following = next_draw()
    np.random.seed(SEED)
    for found in passes:
        np.testing.assert_array_equal(found, np.random.permutation(10))
    assert following == next_draw()


def test_loader_permutation_equals_a_shuffled_range():
    np.random.seed(SEED)
    order = np.arange(10)
    np.random.shuffle(order)
    np.random.seed(SEED)
    np.testing.assert_array_equal(order, np.random.permutation(10))


def test_random_flip_draws_one_number_per_image_always():
    image = np.arange(12.0).reshape(2, 3, 2)
    for p in (0.0, 0.5, 1.0):
        np.random.seed(SEED)
        found = ndl.data.RandomFlipHorizontal(p)(image)
        following = next_draw()
        np.random.seed(SEED)
        flipped = np.random.rand() < p
        np.testing.assert_array_equal(found, image[:, ::-1] if flipped else image)
        assert following == next_draw()


def test_random_crop_draws_its_two_shifts_in_one_call():
    image = np.arange(75.0).reshape(5, 5, 3)
    np.random.seed(SEED)
    found = ndl.data.RandomCrop(padding=2)(image)
    following = next_draw()
    np.random.seed(SEED)
    rows, columns = np.random.randint(low=-2, high=3, size=2)
    padded = np.pad(image, ((2, 2), (2, 2), (0, 0)))
    expected = padded[2 + rows : 7 + rows, 2 + columns : 7 + columns]
    np.testing.assert_array_equal(found, expected)
    assert following == next_draw()

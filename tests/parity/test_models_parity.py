"""Models against PyTorch's, with the same weights: losses and all gradients, in float64."""

from __future__ import annotations

import numpy as np
import pytest
from parity import foreign_models
from parity.foreign_models import WordModel, randomize
from parity.side_by_side import torch

import needle as ndl
from needle import nn
from needle.models import GPT, LanguageModel, ResNet9, ResNet18, foreign_state, load_foreign
from needle.models.foreign_layouts import ForeignNames, entries
from needle.testing import assert_close

tnn = torch.nn
RANDOM = np.random.RandomState(4)


class Residual(tnn.Module):
    """fn(x) + x."""

    def __init__(self, fn):
        super().__init__()
        self.fn = fn

    def forward(self, x):
        return self.fn(x) + x


def conv_bn(inputs, outputs, kernel, stride):
    conv = tnn.Conv2d(inputs, outputs, kernel, stride, kernel // 2)
    return tnn.Sequential(conv, tnn.BatchNorm2d(outputs), tnn.ReLU())


class TorchResNet9(tnn.Module):
    """The course's ResNet-9."""

    def __init__(self):
        super().__init__()
        self.layers = tnn.Sequential(
            conv_bn(3, 16, 7, 4),
            conv_bn(16, 32, 3, 2),
            Residual(tnn.Sequential(conv_bn(32, 32, 3, 1), conv_bn(32, 32, 3, 1))),
            conv_bn(32, 64, 3, 2),
            conv_bn(64, 128, 3, 2),
            Residual(tnn.Sequential(conv_bn(128, 128, 3, 1), conv_bn(128, 128, 3, 1))),
            tnn.Flatten(),
            tnn.Linear(128, 128),
            tnn.ReLU(),
            tnn.Linear(128, 10),
        )

    def forward(self, x):
        return self.layers(x)


def pair(kind):
    """The model here and there, and what both are given."""
    like = {"dtype": "float64"}
    images = RANDOM.randn(3, 3, 32, 32)
    tokens = RANDOM.randint(13, size=(8, 3))
    if kind == "resnet9":
        return ResNet9(**like), TorchResNet9(), images
    if kind == "resnet18":
        small = images[:, :, :9, :9]
        return ResNet18(10, **like), foreign_models.ResNet18(10, small_images=True), small
    if kind == "gpt":
        sizes = (13, 3, 2, 2, 12)
        return GPT(*sizes, **like), foreign_models.GPT(tnn.Linear, *sizes), tokens
    return LanguageModel(6, 13, 7, 2, kind, **like), WordModel(kind, 13, 6, 7, 2), tokens


@pytest.mark.parametrize("kind", ["resnet9", "resnet18", "rnn", "lstm", "gru", "gpt"])
def test_losses_and_gradients_of_a_training_step(kind):
    ours, theirs, x = pair(kind)
    randomize(theirs).double().train()
    load_foreign(ours, theirs.state_dict())
    dtype = "float64" if x.dtype == np.float64 else "int64"
    found, expected = ours.train()(ndl.Tensor(x, dtype=dtype)), theirs(torch.tensor(x))
    if isinstance(found, tuple):
        found, expected = found[0], expected[0]
    classes = found.shape[-1]
    found, expected = found.reshape((-1, classes)), expected.reshape(-1, classes)
    targets = RANDOM.randint(classes, size=found.shape[0])
    loss = nn.SoftmaxLoss()(found, ndl.Tensor(targets, dtype="int64"))
    loss.backward()
    theirs_loss = tnn.functional.cross_entropy(expected, torch.tensor(targets))
    theirs_loss.backward()
    assert_close(loss.numpy(), theirs_loss.detach().numpy(), rtol=1e-10)
    compare_gradients(ours, theirs)


def compare_gradients(ours, theirs):
    """Every gradient of the one is the other's, in its layout."""
    names = getattr(ours, "foreign_names", ForeignNames())
    expected = {name: p.grad.numpy() for name, p in theirs.named_parameters()}
    parameters = dict(ours.named_parameters())
    for entry in entries(ours, names):
        if entry.own in parameters:
            name = entry.name if entry.name in expected else f"transformer.{entry.name}"
            wanted = entry.as_ours(expected.pop(name), False).numpy()
            gradient = parameters[entry.own].grad.numpy()
            assert_close(gradient, wanted, rtol=1e-7, what=entry.own)
    assert not expected


def test_running_statistics_of_one_step_differ_by_the_count_less_one():
    ours, theirs = ResNet9(dtype="float64"), TorchResNet9().double()
    load_foreign(ours, theirs.state_dict())
    x = RANDOM.randn(2, 3, 32, 32)
    ours(ndl.Tensor(x, dtype="float64"))
    theirs(torch.tensor(x))
    found, expected = foreign_state(ours), theirs.state_dict()
    mean, var = "layers.0.1.running_mean", "layers.0.1.running_var"
    assert_close(found[mean], expected[mean].numpy(), rtol=1e-10)
    count = 2 * 8 * 8
    unbiased = 0.9 + (found[var] - 0.9) * count / (count - 1)
    assert_close(unbiased, expected[var].numpy(), rtol=1e-10)

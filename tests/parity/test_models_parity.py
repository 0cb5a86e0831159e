"""Models against PyTorch's, with the same weights: losses and all gradients, in float64."""

from __future__ import annotations

import numpy as np
import pytest
from parity import foreign_models
from parity.foreign_models import randomize, torch_networks
from parity.side_by_side import torch

import needle as ndl
from needle import nn
from needle.models import GPT, LanguageModel, ResNet9, ResNet18, foreign_state, load_foreign
from needle.testing import assert_close

tnn = torch.nn
RANDOM = np.random.RandomState(4)


def pair(kind):
    """The model here and there, and what both are given."""
    like = {"dtype": "float64"}
    images = RANDOM.randn(3, 3, 32, 32)
    tokens = RANDOM.randint(13, size=(8, 3))
    if kind == "resnet9":
        return ResNet9(**like), torch_networks.ResNet9(), images
    if kind == "resnet18":
        small = images[:, :, :9, :9]
        return ResNet18(10, **like), torch_networks.ResNet18(), small
    if kind == "gpt":
        sizes = (13, 3, 2, 2, 12)
        return GPT(*sizes, **like), foreign_models.GPT(tnn.Linear, *sizes), tokens
    theirs = torch_networks.LanguageModel(kind, 13, 6, 7, 2)
    return LanguageModel(6, 13, 7, 2, kind, **like), theirs, tokens


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
    theirs_of = {name: p.grad.numpy() for name, p in theirs.named_parameters()}
    for _, parameter in ours.named_parameters():
        parameter.data = parameter.grad.detach()
    for name, gradient in foreign_state(ours).items():
        name = name if name in theirs_of else f"transformer.{name}"
        if name in theirs_of:  # else a running statistic
            assert_close(gradient, theirs_of.pop(name), rtol=1e-7, what=name)
    assert not theirs_of


def test_running_statistics_of_one_step_differ_by_the_count_less_one():
    ours, theirs = ResNet9(dtype="float64"), torch_networks.ResNet9().double()
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

"""Contract, section 10.1: training on CIFAR-10, against softmax regression in NumPy."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from contract.course_references import assert_pair, cross_entropy, softmax, weights_of

import needle as ndl
from needle import nn
from needle.autograd import Tensor

sys.path.append(str(Path(__file__).resolve().parent.parent.parent / "apps"))

import models
import simple_ml

COUNT = 23


class Classifier(nn.Module):
    """Softmax regression that remembers modes and the first pixel of what it saw."""

    def __init__(self, device=None):
        super().__init__()
        self.flatten, self.linear = nn.Flatten(), nn.Linear(12, 4, device=device)
        self.modes, self.seen = [], []

    def forward(self, x):
        self.modes.append(self.training)
        self.seen.append(x.numpy()[:, 0, 0, 0])
        return self.linear(self.flatten(x))


@pytest.fixture
def pictures():
    draw = np.random.RandomState(0)
    return draw.rand(COUNT, 3, 2, 2).astype("float32"), draw.randint(4, size=COUNT)


def loader_of(pictures, batch_size=5, shuffle=False):
    return ndl.data.DataLoader(ndl.data.NDArrayDataset(*pictures), batch_size, shuffle=shuffle)


def cifar_by_hand(pictures, weights, batch_size, lr=0.0, decay=0.0, shuffle=False):
    """One epoch of SGD -> accuracy and loss per image, each counted before its step."""
    np.random.seed(4)
    order = np.random.permutation(COUNT) if shuffle else np.arange(COUNT)
    x, y = pictures[0].reshape(COUNT, -1).astype("float64")[order], pictures[1][order]
    w, b = weights
    correct, loss = 0, 0.0
    for i in range(0, COUNT, batch_size):
        part, labels = x[i : i + batch_size], y[i : i + batch_size]
        logits = part @ w + b
        correct += np.sum(logits.argmax(1) == labels)
        loss += cross_entropy(logits, labels).sum()
        g = (softmax(logits) - np.eye(4)[labels]) / len(labels)
        w, b = w - lr * (part.T @ g + decay * w), b - lr * (g.sum(0) + decay * b)
    return (correct / COUNT, loss / COUNT), [w, b]


@pytest.mark.parametrize("batch_size", [5, 23, 10])
def test_evaluate_cifar10_is_weighted_by_the_size_of_the_batch(pictures, batch_size):
    model = Classifier()
    weights = weights_of(model)
    found = simple_ml.evaluate_cifar10(model, loader_of(pictures, batch_size))
    assert_pair(found, cifar_by_hand(pictures, weights, batch_size)[0])
    assert set(model.modes) == {False}
    for before, after in zip(weights, weights_of(model), strict=True):
        np.testing.assert_array_equal(before, after)


@pytest.mark.parametrize("shuffle", [True, False])
def test_an_epoch_with_an_optimizer_trains(pictures, shuffle):
    model = Classifier()
    model.eval()  # whatever mode it is handed in
    weights = weights_of(model)
    optimizer = ndl.optim.SGD(model.parameters(), lr=0.5, weight_decay=0.01)
    np.random.seed(99)
    found = simple_ml.epoch_general_cifar10(
        loader_of(pictures, shuffle=shuffle), model, loss_fn=nn.SoftmaxLoss(), opt=optimizer
    )
    expected, after = cifar_by_hand(pictures, weights, 5, 0.5, 0.01, shuffle)
    assert_pair(found, expected)
    for values, p in zip(after, model.parameters(), strict=True):
        np.testing.assert_allclose(p.numpy(), values, rtol=1e-4, atol=1e-6)
    assert set(model.modes) == {True}


def test_an_epoch_without_an_optimizer_evaluates(pictures):
    model = Classifier()
    expected, _ = cifar_by_hand(pictures, weights_of(model), 5)
    assert_pair(simple_ml.epoch_general_cifar10(loader_of(pictures), model), expected)
    assert set(model.modes) == {False}


def test_train_cifar10_gives_the_last_epoch_and_builds_its_optimizer(pictures):
    model = Classifier()
    weights = weights_of(model)
    found = simple_ml.train_cifar10(
        model, loader_of(pictures, shuffle=True), n_epochs=3, optimizer=ndl.optim.SGD, lr=0.5,
        weight_decay=0.01, loss_fn=nn.SoftmaxLoss,
    )  # fmt: skip
    for _ in range(3):
        expected, weights = cifar_by_hand(pictures, weights, 5, 0.5, 0.01, shuffle=True)
    assert_pair(found, expected)
    for values, p in zip(weights, model.parameters(), strict=True):
        np.testing.assert_allclose(p.numpy(), values, rtol=1e-4, atol=1e-6)


def test_train_cifar10_uses_adam_by_default(pictures):
    model, other = Classifier(), Classifier()
    for mine, theirs in zip(model.parameters(), other.parameters(), strict=True):
        theirs.data = Tensor(mine.numpy(), dtype="float32")
    simple_ml.train_cifar10(model, loader_of(pictures))
    optimizer = ndl.optim.Adam(other.parameters(), lr=0.001, weight_decay=0.001)
    for x, y in loader_of(pictures):
        optimizer.reset_grad()
        nn.SoftmaxLoss()(other(x), y).backward()
        optimizer.step()
    for mine, theirs in zip(model.parameters(), other.parameters(), strict=True):
        np.testing.assert_allclose(mine.numpy(), theirs.numpy(), rtol=1e-6)


def test_trap_7_every_epoch_reseeds_before_the_loader_permutes(pictures):
    model = Classifier()
    simple_ml.train_cifar10(model, loader_of(pictures, 8, shuffle=True), n_epochs=2)
    seen = np.concatenate(model.seen)
    np.testing.assert_array_equal(seen[:COUNT], seen[COUNT:])
    np.random.seed(4)
    np.testing.assert_array_equal(seen[:COUNT], pictures[0][np.random.permutation(COUNT), 0, 0, 0])


@pytest.mark.nd_mode
def test_batches_of_pictures_follow_the_model_to_its_device(pictures):
    model = Classifier(ndl.cpu_numpy())
    loader = loader_of(pictures)
    assert next(iter(loader))[0].device == ndl.cpu()
    simple_ml.train_cifar10(model, loader)
    simple_ml.evaluate_cifar10(model, loader)
    assert {p.device for p in model.parameters()} == {ndl.cpu_numpy()}


def test_resnet9_goes_through_the_functions():
    draw = np.random.RandomState(0)
    pictures = draw.rand(6, 3, 32, 32).astype("float32"), np.arange(6)
    model = models.ResNet9()
    first = simple_ml.train_cifar10(model, loader_of(pictures, 3, shuffle=True), lr=0.001)
    last = simple_ml.train_cifar10(model, loader_of(pictures, 3, shuffle=True), n_epochs=3)
    assert last[1] < first[1]
    assert np.array(simple_ml.evaluate_cifar10(model, loader_of(pictures, 4))).shape == (2,)


def test_dropout_repeats_its_stream_each_epoch(pictures):
    class Dropping(Classifier):
        def forward(self, x):
            kept = nn.Dropout(0.5)(Tensor(np.ones(8), dtype="float32"))
            self.kept = [*getattr(self, "kept", []), kept.numpy()]
            return super().forward(x)

    model = Dropping()
    simple_ml.train_cifar10(model, loader_of(pictures, shuffle=True), n_epochs=2)
    half = len(model.kept) // 2
    np.testing.assert_array_equal(model.kept[:half], model.kept[half:])

"""The course's loops over CIFAR-10 and Penn Treebank: `apps/simple_ml.py` against NumPy."""

from __future__ import annotations

import inspect
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from data_files import write_cifar
from tensors import tensor

import needle as ndl
from needle import nn
from needle.data import CIFAR10Dataset, DataLoader, NDArrayDataset, batchify
from needle.errors import OptionError, ShapeError
from needle.models import LanguageModel

APPS = Path(__file__).resolve().parent.parent / "apps"
sys.path.append(str(APPS))

from simple_ml import (  # noqa: E402
    epoch_general_cifar10,
    epoch_general_ptb,
    evaluate_cifar10,
    evaluate_ptb,
    train_cifar10,
    train_ptb,
)


def cross_entropy(logits, y):
    y = y.astype(int)
    return np.log(np.exp(logits).sum(1)) - logits[np.arange(len(y)), y]


# -- CIFAR-10 ------------------------------------------------------------------------------------


class Noted(nn.Module):
    """A linear classifier that remembers the modes and the batch sizes it saw."""

    def __init__(self):
        super().__init__()
        self.flatten, self.linear = nn.Flatten(), nn.Linear(12, 10)
        self.seen = []

    def forward(self, x):
        self.seen.append((self.training, x.shape[0]))
        return self.linear(self.flatten(x))


@pytest.fixture
def images():
    draw = np.random.RandomState(0)
    return draw.rand(23, 3, 2, 2).astype("float32"), draw.randint(10, size=23)


def test_evaluation_gives_means_over_examples_and_changes_nothing(images):
    x, y = images
    model = Noted()
    weights = [p.numpy().copy() for p in model.parameters()]
    accuracy, loss = evaluate_cifar10(model, DataLoader(NDArrayDataset(x, y), 10))
    logits = x.reshape(23, 12) @ weights[0] + weights[1]
    assert accuracy == pytest.approx((logits.argmax(1) == y).mean())
    assert loss == pytest.approx(cross_entropy(logits, y).mean(), rel=1e-5)
    assert model.seen == [(False, 10), (False, 10), (False, 3)]
    for parameter, before in zip(model.parameters(), weights, strict=True):
        np.testing.assert_array_equal(parameter.numpy(), before)
        assert parameter.grad is None


def test_an_epoch_of_training_is_gradient_descent_in_the_loaders_order(images):
    x, y = images
    model = Noted()
    w, b = (p.numpy().astype("float64") for p in model.parameters())
    total = 0.0
    np.random.seed(4)  # as the epoch does, before the loader draws
    order = np.random.permutation(23)
    for start in range(0, 23, 10):
        rows = order[start : start + 10]
        flat, classes = x[rows].reshape(-1, 12), y[rows]
        logits = flat @ w + b
        total += cross_entropy(logits, classes).sum()
        shares = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
        dz = (shares - np.eye(10)[classes]) / len(rows)
        w, b = w - 0.5 * flat.T @ dz, b - 0.5 * dz.sum(0)
    loader = DataLoader(NDArrayDataset(x, y), 10, shuffle=True)
    opt = ndl.optim.SGD(model.parameters(), lr=0.5)
    _, loss = epoch_general_cifar10(loader, model, opt=opt)
    assert loss == pytest.approx(total / 23, rel=1e-5)
    np.testing.assert_allclose(model.linear.weight.numpy(), w, rtol=1e-4, atol=1e-6)
    assert all(training for training, _ in model.seen)


def test_training_returns_the_last_epoch_and_every_epoch_has_the_same_draws(images):
    loader = DataLoader(NDArrayDataset(*images), 5, shuffle=True)
    np.random.seed(0)
    model = Noted()
    result = train_cifar10(model, loader, n_epochs=3, optimizer=ndl.optim.SGD, lr=0.1)
    np.random.seed(0)
    again = Noted()
    opt = ndl.optim.SGD(again.parameters(), lr=0.1, weight_decay=0.001)
    for _ in range(3):
        expected = epoch_general_cifar10(loader, again, nn.SoftmaxLoss(), opt)
    assert result == expected
    np.testing.assert_array_equal(model.linear.weight.numpy(), again.linear.weight.numpy())


def test_a_network_learns_the_images_of_a_folder(tmp_path):
    loader = DataLoader(CIFAR10Dataset(write_cifar(tmp_path), train=True), 8, shuffle=True)
    model = nn.Sequential(nn.Flatten(), nn.Linear(3072, 32), nn.ReLU(), nn.Linear(32, 10))
    train_cifar10(model, loader, n_epochs=30)
    accuracy, loss = evaluate_cifar10(model, loader)
    assert accuracy == 1
    assert loss < 0.3


def test_losses_are_given_as_classes_or_instances(images):
    loader = DataLoader(NDArrayDataset(*images), 10)
    np.random.seed(0)
    model = Noted()
    expected = evaluate_cifar10(model, loader)
    assert evaluate_cifar10(model, loader, nn.SoftmaxLoss()) == expected
    assert evaluate_cifar10(model, loader, nn.CrossEntropyLoss) == pytest.approx(expected)
    assert epoch_general_cifar10(loader, model, nn.SoftmaxLoss) == expected
    smoothed = nn.CrossEntropyLoss(label_smoothing=0.5)
    assert evaluate_cifar10(model, loader, smoothed)[1] != pytest.approx(expected[1])


# -- Penn Treebank -------------------------------------------------------------------------------


class Accumulator(nn.Module):
    """A language model whose state, a tuple, is the sum of the embeddings so far."""

    def __init__(self, words):
        super().__init__()
        self.embedding = nn.Linear(words, 6)
        self.head = nn.Linear(6, words)
        self.words, self.states = words, []

    def forward(self, x, h=None):
        self.states.append((h, self.training))
        total = 0 if h is None else h[0]
        logits = []
        for t in range(x.shape[0]):
            one_hot = ndl.init.one_hot(self.words, x[t], dtype="float32", device=x.device)
            total = total + self.embedding(one_hot)
            logits.append(self.head(total))
        return ndl.concatenate(logits), (total,)


def columns(words=7, batch_size=3, length=50):
    ids = np.random.RandomState(2).randint(words, size=length)
    return batchify(ids.tolist(), batch_size)


@pytest.mark.parametrize("seq_len", [1, 4, 15, 40])
def test_the_state_is_carried_over_and_every_word_counts_once(seq_len):
    data, model = columns(), Accumulator(7)
    accuracy, loss = evaluate_ptb(model, data, seq_len=seq_len)
    with ndl.no_grad():
        logits = model(tensor(data[:-1]))[0].numpy()
    targets = data[1:].reshape(-1)
    assert accuracy == pytest.approx((logits.argmax(1) == targets).mean())
    assert loss == pytest.approx(cross_entropy(logits, targets).mean(), rel=1e-5)


def test_the_state_begins_anew_each_epoch_and_has_no_graph():
    data, model = columns(), Accumulator(7)
    train_ptb(model, data, seq_len=10, n_epochs=2, lr=0.1)
    assert [h is None for h, _ in model.states] == [True, False] * 2
    assert all(training for _, training in model.states)
    for h, _ in model.states:
        assert h is None or (isinstance(h, tuple) and h[0].is_leaf() and not h[0].requires_grad)


def test_training_goes_chunk_by_chunk_with_clipped_gradients():
    data = columns()
    np.random.seed(0)
    model = Accumulator(7)
    result = train_ptb(model, data, seq_len=10, lr=2.0, clip=0.05)
    np.random.seed(0)
    again = Accumulator(7)
    opt, loss_function = ndl.optim.SGD(again.parameters(), lr=2.0), nn.SoftmaxLoss()
    total, right, h = 0.0, 0, None
    for start in (0, 10):
        rows = data[start : start + 10]
        targets = data[start + 1 : start + 11].reshape(-1)
        rows = rows[: len(targets) // 3]
        logits, h = again(tensor(rows), h)
        h = (h[0].detach(),)
        loss = loss_function(logits, tensor(targets))
        opt.reset_grad()
        loss.backward()
        assert opt.clip_grad_norm(0.05).item() > 0.05
        opt.step()
        total += loss.item() * len(targets)
        right += (logits.numpy().argmax(1) == targets).sum()
    assert result == pytest.approx((right / 45, total / 45), rel=1e-5)
    for parameter, other in zip(model.parameters(), again.parameters(), strict=True):
        np.testing.assert_allclose(parameter.numpy(), other.numpy(), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("kind", ["rnn", "lstm", "gru", "transformer"])
def test_a_language_model_learns_a_text(kind):
    data = batchify([*range(8)] * 40, 4)
    model = LanguageModel(8, 8, 16, seq_model=kind, seq_len=10)
    train_ptb(model, data, 10, n_epochs=20, optimizer=ndl.optim.Adam, lr=0.01, clip=1.0)
    accuracy, loss = evaluate_ptb(model, data, 10)
    assert accuracy > 0.95
    assert loss < 0.5


@pytest.mark.nd_mode
def test_batches_go_where_the_model_is(images):
    elsewhere = ndl.cpu_numpy()
    model = Noted().to(elsewhere)
    train_cifar10(model, DataLoader(NDArrayDataset(*images), 10))
    words = Accumulator(7).to(elsewhere)
    train_ptb(words, columns(), lr=0.1)
    assert {p.device for p in (*model.parameters(), *words.parameters())} == {elsewhere}
    train_ptb(Accumulator(7), columns(), lr=0.1, device=ndl.cpu())


# -- names and signatures ------------------------------------------------------------------------


def test_the_signatures_are_the_courses():
    wanted = {
        epoch_general_cifar10: "dataloader model loss_fn opt",
        train_cifar10: "model dataloader n_epochs optimizer lr weight_decay loss_fn",
        evaluate_cifar10: "model dataloader loss_fn",
        epoch_general_ptb: "data model seq_len loss_fn opt clip device dtype",
        train_ptb: "model data seq_len n_epochs optimizer lr weight_decay loss_fn clip device "
        "dtype",
        evaluate_ptb: "model data seq_len loss_fn device dtype",
    }
    for function, names in wanted.items():
        assert " ".join(inspect.signature(function).parameters) == names


def test_simple_training_is_the_same_under_an_older_name_flat_and_as_a_package():
    code = (
        "import sys; sys.path += ['apps', '.']\n"
        "import simple_ml, simple_training, apps.simple_ml, apps.simple_training\n"
        "assert simple_training.train_ptb is simple_ml.train_ptb\n"
        "assert apps.simple_training.train_ptb is apps.simple_ml.train_ptb\n"
        "assert simple_training.__all__ == simple_ml.__all__\n"
        "from simple_training import *\n"
        "assert evaluate_cifar10 is simple_ml.evaluate_cifar10\n"
    )
    subprocess.run([sys.executable, "-c", code], cwd=APPS.parent, check=True)


def test_the_first_thing_each_function_does_is_to_seed(images):
    loader, data = DataLoader(NDArrayDataset(*images), 10), columns()
    calls = [
        lambda: train_cifar10(Noted(), loader),
        lambda: evaluate_cifar10(Noted(), loader),
        lambda: train_ptb(Accumulator(7), data, lr=0.1),
        lambda: evaluate_ptb(Accumulator(7), data),
    ]
    np.random.seed(4)
    expected = np.random.rand()
    for call in calls:
        np.random.seed(0)
        call()
        assert np.random.rand() == expected


# -- bad input -----------------------------------------------------------------------------------


def test_a_loader_without_batches_is_refused():
    with pytest.raises(
        OptionError, match=r"epoch_general_cifar10: expected one batch or more, got"
    ):
        evaluate_cifar10(Noted(), [])


@pytest.mark.parametrize("epochs", [0, -1, 2.5])
def test_epochs_that_are_no_number_of_passes_are_refused(images, epochs):
    loader = DataLoader(NDArrayDataset(*images), 10)
    with pytest.raises(
        OptionError, match=f"train_cifar10: expected n_epochs of 1 or more, got {epochs}"
    ):
        train_cifar10(Noted(), loader, epochs)
    with pytest.raises(
        OptionError, match=f"train_ptb: expected n_epochs of 1 or more, got {epochs}"
    ):
        train_ptb(Accumulator(7), columns(), n_epochs=epochs)


@pytest.mark.parametrize("data", [np.zeros((1, 4)), np.zeros(9), None])
def test_what_are_no_columns_of_text_is_refused(data):
    with pytest.raises(ShapeError, match=r"expected columns of text \[n, B\], n of 2 or more, as"):
        evaluate_ptb(Accumulator(7), data)


def test_chunks_of_no_rows_are_refused():
    with pytest.raises(
        OptionError, match="epoch_general_ptb: expected seq_len of 1 or more, got 0"
    ):
        train_ptb(Accumulator(7), columns(), seq_len=0)


def test_a_bound_that_is_none_is_refused():
    with pytest.raises(OptionError, match="expected max_norm to be a number from 0 on, got -1"):
        train_ptb(Accumulator(7), columns(), clip=-1)

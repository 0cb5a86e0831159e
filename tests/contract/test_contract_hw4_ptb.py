"""Contract, section 10.1: training on Penn Treebank, against NumPy and step by step."""

from __future__ import annotations

import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from contract.course_references import assert_pair, cross_entropy, rnn_step, weights_of

import needle as ndl
from needle import nn
from needle.autograd import Tensor

sys.path.append(str(Path(__file__).resolve().parent.parent.parent / "apps"))

import models
import simple_ml


class Words(nn.Module):
    """A language model that remembers its modes, the length of each chunk, and the states given."""

    def __init__(self, vocabulary, kind="rnn", device=None):
        super().__init__()
        self.model = models.LanguageModel(3, vocabulary, 4, 1, kind, device=device)
        self.modes, self.lengths, self.states = [], [], []

    def forward(self, x, h=None):
        self.modes.append(self.training)
        self.lengths.append(x.shape[0])
        self.states.append(h)
        return self.model(x, h)


ROWS, COLUMNS, VOCABULARY = 14, 3, 7


def columns(rows=ROWS):
    ids = np.random.RandomState(1).randint(VOCABULARY, size=rows * COLUMNS)
    return ndl.data.batchify(list(ids), COLUMNS, device=ndl.cpu(), dtype="float32")


def ptb_by_hand(rows, model):
    """Accuracy and loss per target of a one-layer RNN, whatever the chunks: state is carried."""
    table, w_ih, w_hh, b_ih, b_hh, weight, bias = weights_of(model)
    ids, h = rows.astype(int), np.zeros((COLUMNS, 4))
    losses, correct = [], []
    for row, target in pairwise(ids):
        h = rnn_step(table[row], h, w_ih, w_hh, b_ih, b_hh)
        logits = h @ weight + bias
        losses += [*cross_entropy(logits, target)]
        correct += [*(logits.argmax(1) == target)]
    return np.mean(correct), np.mean(losses)


@pytest.mark.parametrize("seq_len", [1, 4, 5, 13, 40])
def test_trap_11_evaluate_ptb_weights_by_targets_and_carries_the_state(seq_len):
    model, rows = Words(VOCABULARY), columns()
    expected = ptb_by_hand(rows, model)
    before = weights_of(model)
    assert_pair(simple_ml.evaluate_ptb(model, rows, seq_len=seq_len), expected)
    assert_pair(simple_ml.epoch_general_ptb(rows, model, seq_len), expected)
    for old, new in zip(before, weights_of(model), strict=True):
        np.testing.assert_array_equal(old, new)
    assert set(model.modes) == {False}


@pytest.mark.parametrize(("rows", "lengths"), [(14, [4, 4, 4, 1]), (13, [4, 4, 4]), (2, [1]),
                                              (5, [4]), (6, [4, 1])])  # fmt: skip
def test_the_last_chunk_is_short_and_kept(rows, lengths):
    model = Words(VOCABULARY)
    simple_ml.evaluate_ptb(model, columns(rows), seq_len=4)
    assert model.lengths == lengths


def ptb_step_by_step(model, rows, seq_len, optimizer, clip=None):
    """An epoch of training, as the contract tells it."""
    np.random.seed(4)
    total, correct, count, h = 0.0, 0, 0, None
    for i in range(0, len(rows) - 1, seq_len):
        x, y = ndl.data.get_batch(rows, i, seq_len, device=ndl.cpu(), dtype="float32")
        logits, h = model(x, h)
        h = tuple(s.detach() for s in h) if isinstance(h, tuple) else h.detach()
        loss = nn.SoftmaxLoss()(logits, y)
        optimizer.reset_grad()
        loss.backward()
        if clip is not None:
            optimizer.clip_grad_norm(clip)
        optimizer.step()
        total += loss.item() * y.shape[0]
        correct += np.sum(logits.numpy().argmax(1) == y.numpy())
        count += y.shape[0]
    return correct / count, total / count


@pytest.mark.parametrize("clip", [None, 0.25])
@pytest.mark.parametrize("kind", ["rnn", "lstm"])
def test_train_ptb_is_sgd_chunk_by_chunk(kind, clip):
    model, other = Words(VOCABULARY, kind), Words(VOCABULARY, kind)
    for mine, theirs in zip(model.parameters(), other.parameters(), strict=True):
        theirs.data = Tensor(mine.numpy(), dtype="float32")
    rows = columns()
    model.eval()
    found = simple_ml.train_ptb(
        model, rows, seq_len=5, n_epochs=2, optimizer=ndl.optim.SGD, lr=1.0, weight_decay=0.01,
        loss_fn=nn.SoftmaxLoss, clip=clip, device=ndl.cpu(), dtype="float32",
    )  # fmt: skip
    optimizer = ndl.optim.SGD(other.parameters(), lr=1.0, weight_decay=0.01)
    for _ in range(2):
        expected = ptb_step_by_step(other, rows, 5, optimizer, clip)
    assert_pair(found, expected)
    for mine, theirs in zip(model.parameters(), other.parameters(), strict=True):
        np.testing.assert_allclose(mine.numpy(), theirs.numpy(), rtol=1e-5, atol=1e-6)
        assert mine.dtype == "float32"
    assert set(model.modes) == {True}


def test_train_ptb_uses_sgd_with_a_rate_of_4_by_default():
    model, other = Words(VOCABULARY), Words(VOCABULARY)
    for mine, theirs in zip(model.parameters(), other.parameters(), strict=True):
        theirs.data = Tensor(mine.numpy(), dtype="float32")
    simple_ml.train_ptb(model, columns())
    ptb_step_by_step(other, columns(), 40, ndl.optim.SGD(other.parameters(), lr=4.0))
    for mine, theirs in zip(model.parameters(), other.parameters(), strict=True):
        np.testing.assert_allclose(mine.numpy(), theirs.numpy(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", ["rnn", "lstm"])
def test_trap_11_the_state_is_carried_detached_and_begins_as_none_each_epoch(kind):
    model = Words(VOCABULARY, kind)
    simple_ml.train_ptb(model, columns(), seq_len=5, n_epochs=2, lr=0.1)
    assert [state is None for state in model.states] == [True, False, False] * 2
    for state in filter(None, model.states):
        parts = state if isinstance(state, tuple) else (state,)
        assert isinstance(state, tuple) == (kind == "lstm")
        for part in parts:
            assert part.shape == (1, COLUMNS, 4)
            assert part.is_leaf() and not part.requires_grad
            assert np.any(part.numpy() != 0)


def test_clipping_is_by_the_norm_of_all_gradients():
    free, clipped = Words(VOCABULARY), Words(VOCABULARY)
    for mine, theirs in zip(free.parameters(), clipped.parameters(), strict=True):
        theirs.data = Tensor(mine.numpy(), dtype="float32")
    before = weights_of(free)
    simple_ml.train_ptb(free, columns(), lr=1.0)
    simple_ml.train_ptb(clipped, columns(), lr=1.0, clip=0.01)
    steps = [
        np.sqrt(sum(np.sum((a - b) ** 2) for a, b in zip(weights_of(m), before, strict=True)))
        for m in (free, clipped)
    ]
    assert steps[0] > 0.05
    np.testing.assert_allclose(steps[1], 0.01, rtol=1e-3)


@pytest.mark.nd_mode
def test_words_go_to_the_device_named():
    model = Words(VOCABULARY, device=ndl.cpu_numpy())
    expected = ptb_by_hand(columns(), model)
    found = simple_ml.evaluate_ptb(model, columns(), 4, device=ndl.cpu_numpy(), dtype="float32")
    assert_pair(found, expected)
    simple_ml.train_ptb(model, columns(), 4, lr=0.1, device=ndl.cpu_numpy())
    assert {p.device for p in model.parameters()} == {ndl.cpu_numpy()}


def test_a_language_model_learns_words_in_order():
    rows = ndl.data.batchify([i % 5 for i in range(120)], 4, device=ndl.cpu(), dtype="float32")
    np.random.seed(0)
    model = models.LanguageModel(8, 5, 16, 2, "lstm")
    before = simple_ml.evaluate_ptb(model, rows, seq_len=10)
    simple_ml.train_ptb(model, rows, seq_len=10, n_epochs=30, lr=2.0, clip=1.0)
    after = simple_ml.evaluate_ptb(model, rows, seq_len=10)
    assert after[1] < before[1] / 2 and after[0] > 0.9

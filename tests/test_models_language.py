"""The language model: shapes, states, draws, bad input."""

from __future__ import annotations

import numpy as np
import pytest

import needle as ndl
from needle import nn
from needle.errors import DTypeError, OptionError, OutOfRangeError, ShapeError
from needle.models import LanguageModel

RECURRENT = ["rnn", "lstm", "gru"]


def words(length, batch, vocabulary=11, **options):
    ids = np.random.RandomState(2).randint(vocabulary, size=(length, batch))
    return ndl.Tensor(ids, requires_grad=False, **options)


def flattened(state):
    return list(state) if isinstance(state, tuple) else [state]


def shapes(state):
    return [part.shape for part in flattened(state)]


@pytest.mark.parametrize("kind", RECURRENT)
@pytest.mark.parametrize("layers", [1, 2])
def test_words_become_logits_and_a_state(kind, layers, each_device):
    model = LanguageModel(5, 11, 7, layers, kind, device=each_device)
    logits, h = model(words(4, 3, device=each_device))
    assert logits.shape == (12, 11)
    assert logits.device == each_device
    assert shapes(h) == [(layers, 3, 7)] * (2 if kind == "lstm" else 1)
    targets = words(12, 1, device=each_device).reshape((12,))
    nn.SoftmaxLoss()(logits, targets).backward()
    assert all(p.grad is not None for p in model.parameters())


@pytest.mark.parametrize("kind", RECURRENT)
def test_a_text_in_two_halves_gives_what_it_gives_whole(kind):
    model = LanguageModel(5, 11, 7, 2, kind)
    x = words(6, 3)
    whole, _ = model(x)
    first, h = model(x[:2])
    second, _ = model(x[2:], h)
    halves = np.concatenate([first.numpy(), second.numpy()])
    np.testing.assert_allclose(halves, whole.numpy(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("layers", [1, 2])
def test_a_transformer_looks_at_no_later_word(layers):
    model = LanguageModel(8, 11, 16, layers, "transformer", seq_len=6)
    x = words(6, 2).numpy()
    changed = x.copy()
    changed[4:] = (changed[4:] + 1) % 11
    found, other = (model(ndl.Tensor(ids))[0].numpy().reshape(6, 2, 11) for ids in (x, changed))
    np.testing.assert_allclose(found[:4], other[:4], rtol=1e-5, atol=1e-6)
    assert not np.allclose(found[4:], other[4:])


@pytest.mark.parametrize("kind", [*RECURRENT, "transformer"])
def test_layers_are_drawn_in_the_order_of_the_contract(kind):
    np.random.seed(5)
    model = LanguageModel(8, 11, 16, 1, kind, seq_len=6)
    np.random.seed(5)
    embedding = nn.Embedding(11, 8)
    if kind == "transformer":
        nn.Transformer(8, 16, 1, sequence_len=6)
    else:
        getattr(nn, kind.upper())(8, 16, 1)
    linear = nn.Linear(8 if kind == "transformer" else 16, 11)
    np.testing.assert_array_equal(model.embedding.weight.numpy(), embedding.weight.numpy())
    np.testing.assert_array_equal(model.linear.weight.numpy(), linear.weight.numpy())


def test_training_lowers_the_loss():
    model = LanguageModel(8, 11, 16, 1, "lstm")
    opt = ndl.optim.Adam(model.parameters(), lr=0.03)
    x, y = words(6, 4), ndl.Tensor(np.arange(24) % 11)
    losses = []
    for _ in range(30):
        opt.reset_grad()
        loss = nn.SoftmaxLoss()(model(x)[0], y)
        loss.backward()
        opt.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]


def test_dropout_acts_in_training_only():
    model = LanguageModel(8, 11, 16, 2, "lstm", dropout=0.5)
    x = words(6, 4)
    first, second = model(x)[0].numpy(), model(x)[0].numpy()
    assert not np.allclose(first, second)
    model.eval()
    np.testing.assert_array_equal(model(x)[0].numpy(), model(x)[0].numpy())


@pytest.mark.parametrize("kind", [*RECURRENT, "transformer"])
def test_ids_outside_the_vocabulary_are_refused(kind):
    model = LanguageModel(8, 11, 16, 1, kind)
    with pytest.raises(OutOfRangeError, match="11"):
        model(ndl.Tensor([[0, 1], [11, 2]]))


def test_what_is_no_matrix_of_ids_is_refused():
    with pytest.raises(ShapeError, match=r"LanguageModel: expected word ids x \[T, B\], T of 1 or"):
        LanguageModel(4, 11, 4)(ndl.Tensor([1, 2, 3]))


@pytest.mark.parametrize("kind", [*RECURRENT, "transformer"])
def test_no_texts_give_no_logits_and_texts_without_words_are_refused(kind):
    model = LanguageModel(8, 11, 16, 1, kind)
    assert model(words(4, 0))[0].shape == (0, 11)
    with pytest.raises(ShapeError, match=r"LanguageModel: .* T of 1 or more, got .*\[0,3\]"):
        model(words(0, 3))


def test_what_a_transformer_gives_as_its_state_it_takes_and_nothing_that_is_no_tensor():
    model, x = LanguageModel(8, 11, 16, 1, "transformer"), words(4, 3)
    logits, h = model(x)
    np.testing.assert_array_equal(model(x, h)[0].numpy(), logits.numpy())
    with pytest.raises(DTypeError, match="Transformer: expected Tensors, got"):
        model(x, (h, h))


def test_another_kind_of_sequence_model_is_refused():
    for kind in ("lstn", ["rnn"]):
        with pytest.raises(OptionError, match="'gru' or 'transformer', got "):
            LanguageModel(4, 11, 4, seq_model=kind)


def test_more_words_than_a_transformer_has_positions_for_are_refused():
    with pytest.raises(ShapeError, match="6"):
        LanguageModel(8, 11, 16, 1, "transformer", seq_len=6)(words(7, 2))

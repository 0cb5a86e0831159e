"""GPT: shapes, sizes, the past alone, the cache, initial weights, bad input."""

from __future__ import annotations

import math

import numpy as np
import pytest

import needle as ndl
from needle import nn
from needle.errors import DTypeError, OptionError, OutOfRangeError, ShapeError
from needle.models import GPT

KINDS = [
    {},
    {"tied": False},
    {"positions": "rotary"},
    {"bias": False},
    {"positions": "rotary", "bias": False, "tied": False},
]


def gpt(**options):
    return GPT(11, 8, 2, 2, 12, **options)


def tokens(batch, length, **options):
    ids = np.random.RandomState(2).randint(11, size=(batch, length))
    return ndl.Tensor(ids, requires_grad=False, **options)


@pytest.mark.parametrize("options", KINDS)
def test_tokens_become_logits_and_every_parameter_learns(options, each_device):
    model = gpt(device=each_device, **options)
    logits = model(tokens(3, 8, device=each_device))
    assert logits.shape == (3, 8, 11)
    assert logits.device == each_device
    targets = tokens(3, 8, device=each_device).reshape((24,))
    nn.SoftmaxLoss()(logits.reshape((24, 11)), targets).backward()
    assert all(p.grad is not None and p.grad.shape == p.shape for p in model.parameters())


def test_gpt2_has_as_many_parameters_as_its_paper_says():
    width, layers, tables = 768, 12, (50_257 + 1024) * 768
    block = 2 * 2 * width + (width + 1) * 3 * width + (width + 1) * width
    block += (width + 1) * 4 * width + (4 * width + 1) * width
    assert tables + layers * block + 2 * width == 124_439_808
    small = GPT(11, 8, 2, 2, 12)
    block = 2 * 2 * 12 + 13 * 36 + 13 * 12 + 13 * 48 + 49 * 12
    assert small.num_parameters() == (11 + 8) * 12 + 2 * block + 2 * 12
    assert gpt(tied=False).num_parameters() == small.num_parameters() + 11 * 12


@pytest.mark.parametrize("options", KINDS)
def test_no_place_looks_at_a_later_one(options):
    model = gpt(**options).eval()
    x = tokens(2, 8).numpy()
    changed = x.copy()
    changed[:, 5:] = (changed[:, 5:] + 1) % 11
    found, other = model(ndl.Tensor(x)).numpy(), model(ndl.Tensor(changed)).numpy()
    np.testing.assert_allclose(found[:, :5], other[:, :5], rtol=1e-5, atol=1e-6)
    assert not np.allclose(found[:, 5:], other[:, 5:])


@pytest.mark.parametrize("options", KINDS)
def test_the_order_of_tokens_matters(options):
    model = gpt(**options).eval()
    model.apply(larger_weights)
    one, other = model(ndl.Tensor([[1, 2, 3]])).numpy(), model(ndl.Tensor([[2, 1, 3]])).numpy()
    assert not np.allclose(one[:, -1], other[:, -1], rtol=1e-3)


def larger_weights(module):
    """So that attention looks at some places more than at others."""
    if isinstance(module, nn.Linear):
        module.weight = nn.Parameter(module.weight * 30)


@pytest.mark.parametrize("options", KINDS)
@pytest.mark.parametrize("chunks", [[1] * 8, [5, 1, 2], [8]])
def test_with_a_cache_the_logits_are_the_same(options, chunks, each_device):
    model = gpt(device=each_device, **options).eval()
    model.apply(larger_weights)
    x = tokens(2, 8, device=each_device)
    cache, found, start = model.new_cache(), [], 0
    with ndl.no_grad():
        for length in chunks:
            found.append(model(x[:, start : start + length], cache=cache).numpy())
            start += length
        expected = model(x).numpy()
    assert cache[0].length == 8
    np.testing.assert_allclose(np.concatenate(found, axis=1), expected, rtol=1e-4, atol=1e-5)


def test_initial_weights_are_gpt2s():
    model = GPT(200, 64, 4, 2, 64)
    weights = dict(model.named_parameters())
    for name in ("token_embedding", "position_embedding", "blocks.0.attention.in_proj"):
        assert weights[f"{name}.weight"].numpy().std() == pytest.approx(0.02, rel=0.1)
    for last in ("attention.out_proj", "feed_forward.projection"):
        std = weights[f"blocks.1.{last}.weight"].numpy().std()
        assert std == pytest.approx(0.02 / math.sqrt(8), rel=0.1)
        assert (weights[f"blocks.1.{last}.bias"].numpy() == 0).all()
    loss = nn.SoftmaxLoss()(model(ndl.Tensor([[3, 7]]))[0], ndl.Tensor([1, 2])).item()
    assert loss == pytest.approx(math.log(200), rel=0.05)


def test_a_tied_head_is_the_table_of_embeddings():
    model = gpt()
    assert "head" not in {name.split(".")[0] for name in model.state_dict()}
    before = model(tokens(1, 3)).numpy()
    model.token_embedding.weight = nn.Parameter(model.token_embedding.weight * 2)
    assert not np.allclose(model(tokens(1, 3)).numpy(), before)


def test_training_lowers_the_loss():
    model = GPT(11, 8, 2, 2, 16)
    opt = ndl.optim.AdamW(model.parameters(), lr=0.01)
    x, y = tokens(4, 8), ndl.Tensor(np.arange(32) % 11)
    losses = []
    for _ in range(40):
        opt.reset_grad()
        loss = nn.SoftmaxLoss()(model(x).reshape((32, 11)), y)
        loss.backward()
        opt.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]


def test_dropout_acts_in_training_only():
    model = gpt(dropout=0.5)
    x = tokens(2, 8)
    assert not np.allclose(model(x).numpy(), model(x).numpy())
    model.eval()
    np.testing.assert_array_equal(model(x).numpy(), model(x).numpy())


def test_more_tokens_than_the_context_are_refused():
    model = gpt()
    with pytest.raises(ShapeError, match=r"at most 8 tokens \(the context\), got 9\.$"):
        model(tokens(1, 9))
    cache = model.new_cache()
    model(tokens(1, 6), cache)
    with pytest.raises(ShapeError, match=r"at most 8 tokens .* got 3 after 6 in the cache"):
        model(tokens(1, 3), cache)
    assert cache[0].length == 6


def test_a_cache_of_another_model_is_refused():
    with pytest.raises(OptionError, match="a cache for each of 2 blocks, got 1"):
        gpt()(tokens(1, 3), gpt().new_cache()[:1])
    for what, kind in [(3, "an int"), (nn.KeyValueCache(), "a KeyValueCache")]:
        with pytest.raises(DTypeError, match=f"GPT: .* a list of KeyValueCaches, got {kind}"):
            gpt()(tokens(1, 3), what)
    with pytest.raises(DTypeError, match="GPT: expected cache to be a KeyValueCache, got a None"):
        gpt()(tokens(1, 3), [None, None])


def test_failed_call_leaves_the_caches_as_they_were():
    model = gpt()
    cache = model.new_cache()
    model(tokens(1, 3), cache)
    model.blocks[1].feed_forward.forward = lambda x: 1 / 0
    with pytest.raises(ZeroDivisionError):
        model(tokens(1, 3), cache)
    assert [one.length for one in cache] == [3, 3]


@pytest.mark.parametrize("shape", [(3,), (2, 0), (1, 2, 3)])
def test_what_is_no_matrix_of_ids_is_refused(shape):
    with pytest.raises(ShapeError, match=r"GPT: expected token ids \[B, T\], T of 1 or more, got "):
        gpt()(ndl.Tensor(np.zeros(shape, "int64")))


@pytest.mark.parametrize("options", KINDS)
def test_no_texts_give_no_logits(options):
    assert gpt(**options)(ndl.Tensor(np.zeros((0, 2), "int64"))).shape == (0, 2, 11)


def test_ids_outside_the_vocabulary_are_refused():
    with pytest.raises(OutOfRangeError, match="11"):
        gpt()(ndl.Tensor([[1, 11]]))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"heads": 5}, "heads that divide the width 12, got 5"),
        ({"layers": 0}, "layers of 1 or more, got 0"),
        ({"context": 2.5}, "context of 1 or more, got 2.5"),
        ({"positions": "sinus"}, "positions 'learned' or 'rotary', got 'sinus'"),
        ({"dtype": "int32"}, "GPT: expected a float dtype, got int32"),
        ({"dropout": 2}, r"in \[0, 1\], got 2"),
    ],
)
def test_options_that_fit_nothing_are_refused(options, message):
    arguments = {"vocab_size": 11, "context": 8, "layers": 2, "heads": 2, "width": 12}
    with pytest.raises((OptionError, DTypeError), match=message):
        GPT(**(arguments | options))

"""Transformers: the course's, and the encoder and decoder."""

from __future__ import annotations

from inspect import signature

import numpy as np
import pytest
from tensors import tensor

import needle as ndl
from needle import nn, ops
from needle.errors import DTypeError, OptionError, ShapeError
from needle.nn import nn_transformer


def drawn(*shape, seed=0):
    return tensor(np.random.RandomState(seed).randn(*shape))


# -- the course's ------------------------------------------------------------------------------


def kaiming(inputs, outputs):
    return (np.random.rand(inputs, outputs) * 2 - 1) * np.sqrt(6 / inputs)


def test_transformer_draws_its_positions_first_then_layer_by_layer():
    np.random.seed(2)
    model = nn.Transformer(4, 6, 2, num_head=2, dim_head=3, sequence_len=5, dtype="float64")
    np.random.seed(2)
    np.testing.assert_array_equal(model.positional_embedding.weight.numpy(), np.random.randn(5, 4))
    for layer in model.layers:
        attention = layer.attention
        for name in ("q", "k", "v"):
            weight = getattr(attention, f"{name}_projection").weight
            np.testing.assert_allclose(weight.numpy(), kaiming(4, 6), rtol=1e-9)
        np.testing.assert_allclose(attention.out_projection.weight.numpy(), kaiming(6, 4))
        np.testing.assert_allclose(layer.linear1.weight.numpy(), kaiming(4, 6), rtol=1e-9)
        np.testing.assert_allclose(layer.linear1.bias.numpy(), kaiming(6, 1).T, rtol=1e-9)
        np.testing.assert_allclose(layer.linear2.weight.numpy(), kaiming(6, 4), rtol=1e-9)
        np.testing.assert_allclose(layer.linear2.bias.numpy(), kaiming(4, 1).T, rtol=1e-9)
    assert attention.q_projection.bias is attention.out_projection.bias is None


def normalised(x):
    return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)


def course_attention(layer, x, causal, rate):
    """AttentionLayer in NumPy, with its draw."""
    b, t, _ = x.shape
    heads, d = layer.num_head, layer.dim_head
    q, k, v = [
        (normalised(x) @ p.weight.numpy()).reshape(b, t, heads, d).transpose(0, 2, 1, 3)
        for p in (layer.q_projection, layer.k_projection, layer.v_projection)
    ]
    scores = q @ k.swapaxes(2, 3) / np.sqrt(d)
    scores = np.where(np.tri(t), scores, -np.inf) if causal else scores
    probs = np.exp(scores - scores.max(-1, keepdims=True))
    probs = dropped(probs / probs.sum(-1, keepdims=True), rate)
    joined = (probs @ v).transpose(0, 2, 1, 3).reshape(b, t, heads * d)
    return joined @ layer.out_projection.weight.numpy()


def dropped(x, rate):
    return x * (np.random.rand(*x.shape) <= 1 - rate) / (1 - rate) if rate else x


def linear(layer, x):
    return x @ layer.weight.numpy() + layer.bias.numpy()


@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("rate", [0.0, 0.3])
def test_transformer_computes_what_numpy_does_with_the_same_draws(batch_first, causal, rate):
    options = {"num_head": 2, "dim_head": 3, "dropout": rate, "causal": causal}
    model = nn.Transformer(
        4, 6, 2, **options, batch_first=batch_first, sequence_len=7, dtype="float64"
    )
    x = drawn(3, 5, 4)
    np.random.seed(8)
    y, state = model(x if batch_first else x.transpose((0, 1)))
    np.random.seed(8)
    expected = x.numpy() + model.positional_embedding.weight.numpy()[:5]
    for layer in model.layers:
        attended = course_attention(layer.attention, expected, causal, rate)
        expected = expected + dropped(attended, rate)
        hidden = np.maximum(linear(layer.linear1, normalised(expected)), 0)
        expected = expected + dropped(linear(layer.linear2, dropped(hidden, rate)), rate)
    found = y if batch_first else y.transpose((0, 1))
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-10)
    assert state.shape == y.shape
    y.sum().backward()
    assert all(p.grad is not None for p in model.parameters())


def test_attention_layer_of_other_keys_and_values():
    layer = nn.AttentionLayer(
        4, 2, 3, k_features=5, v_features=6, out_features=7, causal=False, dtype="float64"
    )
    y = layer(drawn(2, 3, 4), drawn(2, 8, 5), drawn(2, 8, 6))
    assert y.shape == (2, 3, 7)
    assert layer.prenorm_k.weight.shape == (5,)
    y.sum().backward()
    assert all(p.grad is not None for p in layer.parameters())


def test_values_of_an_attention_layer_are_as_wide_as_its_keys_unless_it_is_told():
    layer = nn.AttentionLayer(4, 2, 3, k_features=5, dtype="float64")
    assert layer(drawn(2, 3, 4), drawn(2, 3, 5)).shape == (2, 3, 4)
    assert layer.prenorm_v.weight.shape == (5,)


def test_sequence_longer_than_the_positions_is_refused():
    model = nn.Transformer(4, 6, 1, num_head=2, dim_head=3, sequence_len=5)
    message = r"^Transformer: expected at most 5 steps, as sequence_len says, got 6 in float32\[6,2"
    with pytest.raises(ShapeError, match=message):
        model(ndl.init.zeros(6, 2, 4))
    with pytest.raises(ShapeError, match=r"expected x \[t, b, 4\], got float32\[5,2,3\]"):
        model(ndl.init.zeros(5, 2, 3))
    with pytest.raises(ShapeError, match=r"AttentionLayer: expected q \[b, t, features\]"):
        nn.AttentionLayer(4, 2, 3)(ndl.init.zeros(3, 4))
    with pytest.raises(ShapeError, match=r"AttentionLayer: .* got float32\[1,3,4\] and float32\[2"):
        nn.AttentionLayer(4, 2, 3)(ndl.init.zeros(1, 3, 4), ndl.init.zeros(2, 3, 4))
    with pytest.raises(DTypeError, match="Transformer: expected Tensors, got int 3"):
        model(ndl.init.zeros(5, 2, 4), 3)
    with pytest.raises(OptionError, match="AttentionLayer: expected num_head of 1 or more, got 0"):
        nn.TransformerLayer(4, 0, 3, 8)


def test_the_courses_module_has_the_transformers():
    assert nn_transformer.Transformer is nn.Transformer
    assert nn_transformer.MultiHeadAttention is nn.MultiHeadAttention


# -- encoder and decoder -----------------------------------------------------------------------


def encoder(**options):
    return nn.TransformerEncoder(
        lambda: nn.TransformerEncoderLayer(8, 2, 12, 0.0, dtype="float64", **options),
        2,
        nn.LayerNorm(8, dtype="float64"),
    )


def decoder(**options):
    return nn.TransformerDecoder(
        lambda: nn.TransformerDecoderLayer(8, 2, 12, 0.0, dtype="float64", **options), 2
    )


@pytest.mark.parametrize("kind", [nn.TransformerEncoderLayer, nn.TransformerDecoderLayer])
def test_layers_take_batch_first_as_in_pytorch_but_not_its_contrary(kind):
    assert kind(8, 2, 16, batch_first=True).norm_first is False
    with pytest.raises(OptionError) as caught:
        kind(8, 2, 16, batch_first=False)
    assert str(caught.value) == (
        f"{kind.__name__}: expected batch_first=True, got False. "
        "Sequences are (B, T, d_model) always."
    )


def test_unknown_options_are_told_with_the_name_of_the_class():
    for kind in (nn.TransformerEncoderLayer, nn.TransformerDecoderLayer):
        with pytest.raises(TypeError, match=rf"^{kind.__name__}\.__init__\(\) got an unexpected"):
            kind(8, 2, heads=3)
        with pytest.raises(TypeError, match=rf"^{kind.__name__}\.forward\(\) got an unexpected"):
            kind(8, 2, 16)(drawn(2, 5, 8), src_mask=None)


@pytest.mark.parametrize("norm_first", [True, False])
def test_causal_encoder_ignores_what_comes_later(norm_first):
    model, x = encoder(norm_first=norm_first), drawn(2, 5, 8)
    y = model(x, causal=True).numpy()
    np.testing.assert_allclose(model(x[:, :3], causal=True).numpy(), y[:, :3], rtol=1e-9)
    assert not np.allclose(model(x).numpy(), y)


@pytest.mark.parametrize("norm_first", [True, False])
def test_encoder_with_caches_gives_the_same_token_by_token(norm_first):
    model = encoder(norm_first=norm_first, rotary=nn.RotaryEmbedding(4))
    x, caches = drawn(2, 5, 8), model.new_cache()
    expected = model(x, causal=True).numpy()
    for t in range(5):
        y = model(x[:, t : t + 1], causal=True, cache=caches).numpy()
        np.testing.assert_allclose(y, expected[:, t : t + 1], rtol=1e-9)


def test_decoder_with_caches_gives_the_same_token_by_token():
    model, x, memory = decoder(), drawn(2, 5, 8), drawn(2, 3, 8, seed=1)
    padding = np.array([[False, False, True], [False, False, False]])
    options = {"memory_key_padding_mask": padding, "causal": True}
    expected, caches = model(x, memory, **options).numpy(), model.new_cache()
    for t in range(5):
        y = model(x[:, t : t + 1], memory, cache=caches, **options).numpy()
        np.testing.assert_allclose(y, expected[:, t : t + 1], rtol=1e-9)


def test_decoder_with_caches_projects_its_memory_once(monkeypatch):
    model, memory, projected = decoder(), drawn(2, 3, 8, seed=1), []
    for layer in model.layers:
        attention = layer.multihead_attn
        project = attention._keys_and_values

        def counted(key, value, project=project):
            projected.append(key)
            return project(key, value)

        monkeypatch.setattr(attention, "_keys_and_values", counted)
    caches, other = model.new_cache(), drawn(2, 4, 8, seed=2)
    for _ in range(3):
        model(drawn(2, 1, 8), memory, cache=caches)
    assert len(projected) == 2  # one for each layer
    found = model(drawn(2, 1, 8), other, cache=caches)
    assert len(projected) == 4 and found.shape == (2, 1, 8)
    for cache in caches:
        cache.reset()
    model(drawn(2, 1, 8), other, cache=caches)
    assert len(projected) == 6


def test_failed_step_leaves_the_caches_of_all_layers_as_they_were():
    model, x, memory = decoder(), drawn(2, 1, 8), drawn(2, 3, 8, seed=1)
    caches = model.new_cache()
    model(x, memory, cache=caches)
    for call in (
        lambda: model(x, drawn(2, 3, 7), cache=caches),
        lambda: model.layers[0](x, drawn(2, 3, 7), cache=caches[0]),
        lambda: model(x, drawn(2, 3, 8), memory_mask=np.ones((1, 4), bool), cache=caches),
    ):
        with pytest.raises(ShapeError):
            call()
        assert [cache.length for cache in caches] == [1, 1]
    keys = [cache.keys for cache in caches]
    model.layers[1].activation = lambda x: 1 / 0
    with pytest.raises(ZeroDivisionError):
        model(x, memory, cache=caches)
    assert all(cache.keys is held for cache, held in zip(caches, keys, strict=True))


def test_padding_of_the_memory_has_no_influence():
    model, x, memory = decoder(norm_first=True), drawn(1, 4, 8), drawn(1, 6, 8, seed=1)
    padding = np.arange(6)[None] >= 4
    y = model(x, memory, memory_key_padding_mask=padding).numpy()
    np.testing.assert_allclose(y, model(x, memory[:, :4]).numpy(), rtol=1e-10)
    by_mask = model(x, memory, memory_mask=np.repeat(~padding, 4, 0)).numpy()
    np.testing.assert_array_equal(by_mask, y)


def test_stack_of_one_layer_copies_it_with_its_weights():
    layer = nn.TransformerEncoderLayer(8, 2, 12)
    model = nn.TransformerEncoder(layer, 3)
    assert len({id(one) for one in [layer, *model.layers]}) == 4
    for one in model.layers:
        for mine, its in zip(layer.parameters(), one.parameters(), strict=True):
            assert mine is not its
            np.testing.assert_array_equal(mine.numpy(), its.numpy())


def test_class_that_needs_nothing_makes_the_layers_of_a_stack():
    class Layer(nn.TransformerEncoderLayer):
        def __init__(self):
            super().__init__(8, 2, 12)

    first, second = nn.TransformerEncoder(Layer, 2).layers
    assert not np.array_equal(first.linear1.weight.numpy(), second.linear1.weight.numpy())


@pytest.mark.parametrize("kind", [nn.TransformerEncoder, nn.TransformerDecoder])
def test_stack_and_its_layers_are_called_with_the_same_names(kind):
    names = [*signature(kind.forward).parameters]
    assert names == [*signature(kind.kind.forward).parameters]
    assert {"mask", "key_padding_mask", "causal", "cache"} < {*names}


@pytest.mark.nd_mode
def test_stack_copies_a_layer_that_has_no_values():
    from needle.backend_ndarray.ndarray_backend_trace import trace

    device = trace(ndl.cpu())
    model = nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 12, device=device), 2)
    assert model(ndl.init.ones(2, 3, 8, device=device)).shape == (2, 3, 8)


def test_dropout_of_a_layer_is_of_training_only():
    layer, x = nn.TransformerEncoderLayer(8, 2, 12, 0.5), ndl.init.randn(2, 3, 8)
    assert not np.array_equal(layer(x).numpy(), layer(x).numpy())
    layer.eval()
    np.testing.assert_array_equal(layer(x).numpy(), layer(x).numpy())


def test_activation_may_be_a_function():
    layer = nn.TransformerEncoderLayer(8, 2, 12, 0.0, ops.silu)
    same = nn.TransformerEncoderLayer(8, 2, 12, 0.0, "gelu")
    same.load_state_dict(layer.state_dict())
    x = ndl.init.randn(2, 3, 8)
    assert not np.allclose(layer(x).numpy(), same(x).numpy())
    same.activation = ops.silu
    np.testing.assert_array_equal(layer(x).numpy(), same(x).numpy())


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: nn.TransformerEncoderLayer(8, 3), OptionError, "num_heads=3 and embed_dim=8"),
        (lambda: nn.TransformerDecoderLayer(8, 2, activation="tanh"), OptionError,
         "TransformerDecoderLayer: expected activation 'relu', 'gelu' or a function, got 'tanh'"),
        (lambda: nn.TransformerEncoder(nn.ReLU(), 2), DTypeError,
         "TransformerEncoder: expected a TransformerEncoderLayer, or a function .* got a ReLU"),
        (lambda: nn.TransformerEncoder(lambda: None, 2), DTypeError, "got a NoneType"),
        (lambda: nn.TransformerEncoder(nn.TransformerDecoderLayer(8, 2, 4), 2), DTypeError,
         "expected a TransformerEncoderLayer, .* got a TransformerDecoderLayer"),
        (lambda: nn.TransformerDecoder(nn.TransformerEncoderLayer(8, 2, 4), 2), DTypeError,
         "expected a TransformerDecoderLayer, .* got a TransformerEncoderLayer"),
        (lambda: nn.TransformerEncoder(3, 2), DTypeError, "a TransformerEncoderLayer, .* got an i"),
        (lambda: nn.TransformerEncoder(nn.TransformerEncoderLayer, 2), DTypeError,
         r"got the class TransformerEncoderLayer \(missing a required argument: 'd_model'\)\.$"),
        (lambda: nn.TransformerDecoder(nn.TransformerDecoderLayer, 2), DTypeError,
         "TransformerDecoder: expected a TransformerDecoderLayer, .* got the class Transformer"),
        (lambda: nn.TransformerEncoder(lambda i: encoder().layers[i], 2), DTypeError,
         r"or a function that makes them, got a function \(missing a required argument: 'i'\)\."),
        (lambda: nn.TransformerEncoder(nn.ReLU, 2), DTypeError, "got a ReLU"),
        (lambda: nn.TransformerEncoder([encoder().layers[0]] * 2, 2), DTypeError, "got a list"),
        (lambda: nn.TransformerEncoder(encoder().layers[0], 0), OptionError,
         "TransformerEncoder: expected num_layers of 1 or more, got 0"),
        (lambda: nn.TransformerDecoder(decoder().layers[0], 2.0), OptionError, "got 2.0"),
        (lambda: nn.TransformerEncoderLayer(8, 2, activation=nn.ReLU), OptionError,
         "activation 'relu', 'gelu' or a function, got the class ReLU"),
        (lambda: nn.TransformerEncoder(encoder().layers[0], 2, 3), DTypeError,
         "TransformerEncoder: expected norm to be a module, got 3"),
        (lambda: nn.TransformerEncoderLayer(8, 2, activation=["x"]), OptionError, r"got \['x'\]"),
        (lambda: decoder()(drawn(2, 3, 8), None), DTypeError,
         "TransformerDecoderLayer: expected Tensors, got NoneType None"),
        (lambda: encoder()(drawn(2, 3, 8), cache=3), DTypeError,
         r"expected cache to be a list of KeyValueCaches, got an int. Use new_cache\(\)"),
        (lambda: encoder()(drawn(2, 3, 8), cache=[None] * 2), DTypeError, "got a NoneType"),
        (lambda: encoder()(drawn(2, 3, 8), cache=[nn.KeyValueCache()] * 2), OptionError,
         "for each of 2 layers, got 2, some of them twice"),
        (lambda: encoder().layers[0](drawn(2, 3, 8), cache=3), DTypeError, "got an int"),
        (lambda: encoder()(drawn(2, 3, 8), cache=[]), OptionError,
         r"a cache for each of 2 layers, got 0. Use new_cache\(\)"),
        (lambda: encoder()(drawn(2, 3, 7)), ShapeError, r"query \[b, t, 8\].*float64\[2,3,7\]"),
        (lambda: decoder()(drawn(2, 3, 8), drawn(3, 3, 8)), ShapeError, r"float64\[3,3,8\]"),
    ],
)  # fmt: skip
def test_bad_call_is_refused(make, error, message):
    with pytest.raises(error, match=message) as caught:
        make()
    assert "\n" not in str(caught.value)


def test_caches_that_hold_different_lengths_are_refused():
    model, caches = encoder(), encoder().new_cache()
    caches[1].append(drawn(2, 2, 1, 4), drawn(2, 2, 1, 4))
    with pytest.raises(OptionError, match=r"caches that hold equally many keys, got \[0, 1\]"):
        model(drawn(2, 3, 8), cache=caches)

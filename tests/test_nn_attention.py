"""Attention: masks, grouped heads, dropout, and what is refused."""

from __future__ import annotations

import math

import numpy as np
import pytest
from tensors import tensor

import needle as ndl
from needle import nn
from needle.errors import DTypeError, OptionError, ShapeError
from needle.testing import check_grads

pytestmark = pytest.mark.usefixtures("each_device")
attend = ndl.scaled_dot_product_attention


def drawn(*shape, seed=0):
    return tensor(np.random.RandomState(seed).randn(*shape))


def three(*shape):
    return [drawn(*shape, seed=seed) for seed in range(3)]


def reference(q, k, v, allowed=None, scale=None):
    """Each query by itself, in NumPy."""
    q, k, v = q.numpy(), k.numpy(), v.numpy()
    scores = np.einsum("...td,...sd->...ts", q, k)
    scores *= 1 / np.sqrt(q.shape[-1]) if scale is None else scale
    powers = np.exp(scores) * (1.0 if allowed is None else allowed)
    total = powers.sum(-1, keepdims=True)
    return np.einsum("...ts,...se->...te", powers / np.where(total, total, 1), v)


# -- scaled_dot_product_attention --------------------------------------------------------------


def test_attention_without_options():
    q, k, v = drawn(2, 3, 4, 5), drawn(2, 3, 6, 5), drawn(2, 3, 6, 7)
    np.testing.assert_allclose(attend(q, k, v).numpy(), reference(q, k, v), rtol=1e-12)
    np.testing.assert_allclose(
        attend(q, k, v, scale=0.3).numpy(), reference(q, k, v, scale=0.3), rtol=1e-12
    )


@pytest.mark.parametrize(
    ("t", "s", "past"), [(4, 4, 0), (2, 5, 0), (5, 2, 0), (2, 5, 3), (3, 5, 1)]
)
def test_causal_query_sees_the_past_and_itself(t, s, past):
    q, k, v = drawn(2, t, 3), drawn(2, s, 3), drawn(2, s, 3)
    allowed = np.arange(s) <= past + np.arange(t)[:, None]
    found = attend(q, k, v, causal=True, past=past).numpy()
    np.testing.assert_allclose(found, reference(q, k, v, allowed), rtol=1e-12)


def test_mask_of_bools_and_causality_both_hold():
    q, k, v = three(2, 3, 4, 5)
    mask = np.random.RandomState(0).rand(2, 1, 4, 4) > 0.4
    allowed = mask & np.tri(4, dtype=bool)
    found = attend(q, k, v, mask=mask, causal=True).numpy()
    np.testing.assert_allclose(found, reference(q, k, v, allowed), rtol=1e-12)
    both = attend(q, k, v, mask=(mask, np.tri(4, dtype=bool))).numpy()
    np.testing.assert_array_equal(both, found)


def test_mask_of_floats_is_added_and_gets_a_gradient():
    q, k, v = three(2, 4, 3)
    bias = drawn(4, 4, seed=9)
    check_grads(lambda q, k, v, b: attend(q, k, v, mask=b, causal=True), q, k, v, bias, order=2)
    hidden = np.where(np.tri(4, dtype=bool), 0.0, -np.inf)
    found = attend(q, k, v, mask=tensor(hidden, requires_grad=False)).numpy()
    np.testing.assert_allclose(found, attend(q, k, v, causal=True).numpy(), rtol=1e-12)


@pytest.mark.parametrize("kind", ["bool", "float"])
def test_query_that_may_look_nowhere_gives_zero_and_finite_gradients(kind):
    q, k, v = three(2, 4, 3)
    mask = np.ones((4, 4), bool)
    mask[1] = False
    mask = mask if kind == "bool" else np.where(mask, 0, -np.inf)
    y = attend(q, k, v, mask=mask)
    assert not y.numpy()[:, 1].any()
    assert y.numpy()[:, 0].all()
    (y * y).sum().backward()
    for x in (q, k, v):
        assert np.isfinite(x.grad.numpy()).all()
    assert not q.grad.numpy()[:, 1].any()


def test_hidden_keys_have_no_influence_whatever_they_hold():
    q, k, v = three(1, 3, 2)
    mask = np.array([True, True, False])
    expected = attend(q, k[:, :2], v[:, :2]).numpy()
    far = np.array([[[0.0], [0.0], [1e300]]])
    np.testing.assert_allclose(attend(q, k + far, v, mask=mask).numpy(), expected, rtol=1e-12)


def test_scores_beyond_exp_do_not_overflow():
    q, k, v = (x * 1e4 for x in three(2, 4, 3))
    for options in ({}, {"causal": True}):
        assert np.isfinite(attend(q, k, v, **options).numpy()).all()


def test_fewer_heads_of_keys_serve_neighbouring_heads_of_queries():
    q, k, v = drawn(2, 6, 4, 3), drawn(2, 2, 5, 3), drawn(2, 2, 5, 3)
    every = [tensor(np.repeat(x.numpy(), 3, axis=1)) for x in (k, v)]
    np.testing.assert_allclose(attend(q, k, v).numpy(), attend(q, *every).numpy(), rtol=1e-12)
    check_grads(attend, q, k, v)
    one = attend(q, k[:, :1], v[:, :1])  # one head for all of them
    assert one.shape == (2, 6, 4, 3)


def test_heads_of_values_may_be_fewer_than_those_of_keys():
    q, k, v = drawn(2, 4, 5, 3), drawn(2, 4, 6, 3), drawn(2, 2, 6, 3)
    every = tensor(np.repeat(v.numpy(), 2, axis=1))
    np.testing.assert_allclose(attend(q, k, v).numpy(), attend(q, k, every).numpy(), rtol=1e-12)
    shared = attend(q, k[:1], v[:1], return_weights=True)  # of all of the batch
    expected = attend(q, ndl.concatenate([k[:1]] * 2, 0), ndl.concatenate([v[:1]] * 2, 0))
    np.testing.assert_allclose(shared[0].numpy(), expected.numpy(), rtol=1e-12)
    assert shared[1].shape == (2, 4, 5, 6)


def test_zeros_and_ones_that_are_learned_are_added():
    q, k, v = three(2, 3, 3)
    bias = nn.Parameter(np.eye(3), dtype="float64")
    for mask in (bias, bias * 1):
        expected = attend(q, k, v, mask=tensor(np.eye(3) - 1e-300))
        np.testing.assert_allclose(attend(q, k, v, mask=mask).numpy(), expected.numpy())
    for mask in (np.zeros((3, 3)), np.ones((3, 3)), np.eye(3) / 2, np.zeros((0, 1, 1))):
        attend(q[: len(mask)], k[: len(mask)], v[: len(mask)], mask=mask)


@pytest.mark.parametrize(("dtype", "low"), [("float16", -1e9), ("float32", -1e300)])
def test_mask_beyond_the_dtype_of_the_scores_hides_without_a_warning(dtype, low):
    q, k, v = (x.astype(dtype) for x in three(2, 3, 3))
    mask = np.where(np.tri(3, dtype=bool), 0, low)
    y = attend(q, k, v, mask=mask)
    assert y.dtype == q.dtype
    np.testing.assert_allclose(
        y.astype("float64").numpy(),
        attend(q, k, v, causal=True).astype("float64").numpy(),
        atol=1e-3,
    )


def test_masks_of_causality_are_kept_for_small_sizes_only():
    from needle.ops import attention as module

    module._small_until_now.cache_clear()
    attend(*(x.astype("float32") for x in three(3, 2)), causal=True)
    assert module._small_until_now.cache_info().currsize == 1
    side = math.isqrt(module._SMALL) + 1
    x = ndl.init.zeros(side, 1, dtype="float32")
    attend(x, x, x, causal=True)
    assert module._small_until_now.cache_info().currsize == 1


def test_no_keys_give_zeros():
    y = attend(drawn(2, 3, 4), drawn(2, 0, 4), drawn(2, 0, 5))
    assert y.shape == (2, 3, 5)
    assert not y.numpy().any()
    assert attend(drawn(2, 0, 4), drawn(2, 3, 4), drawn(2, 3, 5), causal=True).shape == (2, 0, 5)


def test_dropout_drops_weights_and_scales_the_others():
    q, k, v = three(2, 3, 4, 4)
    _, weights = attend(q, k, v, return_weights=True)
    np.random.seed(5)
    y, dropped = attend(q, k, v, dropout=0.4, return_weights=True)
    np.random.seed(5)
    kept = np.random.rand(2, 3, 4, 4) <= 0.6
    np.testing.assert_allclose(dropped.numpy(), weights.numpy() * kept / 0.6, rtol=1e-12)
    np.testing.assert_allclose(y.numpy(), dropped.numpy() @ v.numpy(), rtol=1e-12)
    assert not attend(q, k, v, dropout=1.0).numpy().any()


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_dtype_is_kept(dtype):
    q, k, v = (x.astype(dtype) for x in three(2, 4, 3))
    y = attend(q, k, v, mask=np.tri(4, dtype=bool))
    assert y.dtype == q.dtype
    expected = reference(*(x.astype("float64") for x in (q, k, v)), np.tri(4))
    np.testing.assert_allclose(y.astype("float64").numpy(), expected, atol=0.03)


def test_lazy_attention_gives_what_eager_gives():
    q, k, v = three(2, 3, 4, 5)
    mask = tensor(np.tri(4, dtype=bool))
    expected = attend(q, k, v, mask=mask, causal=True).numpy()
    with ndl.lazy():
        y = attend(q, k, v, mask=mask, causal=True)
        assert y.shape == (2, 3, 4, 5)
        np.testing.assert_allclose(y.numpy(), expected, rtol=1e-12)


@pytest.mark.parametrize(
    ("shapes", "options", "error", "message"),
    [
        ([(2, 3), (4, 2), (4, 2)], {}, ShapeError, r"q \[..., t, d\], .* got float64\[2,3\] and"),
        ([(2, 3), (4, 3), (5, 3)], {}, ShapeError, r"float64\[5,3\]"),
        ([(3,), (4, 3), (4, 3)], {}, ShapeError, r"got float64\[3\]"),
        ([(1, 4, 2, 3), (1, 3, 2, 3), (1, 3, 2, 3)], {}, ShapeError, "or a multiple, got 4 and 3"),
        ([(4, 3, 5), (2, 3, 5), (2, 3, 5)], {}, ShapeError, r"got float64\[4,3,5\] and float64\[2"),
        ([(2, 3)] * 3, {"scale": "a"}, OptionError, "expected a number for scale, got 'a'"),
        ([(2, 3)] * 3, {"mask": np.ones((3, 2), bool)}, ShapeError, r"\[2, 2\], got bool\[3,2\]"),
        ([(2, 3)] * 3, {"mask": np.ones((1, 2, 2), bool)}, ShapeError, r"got bool\[1,2,2\]"),
        ([(2, 3)] * 3, {"mask": np.ones((2, 2), int)}, DTypeError, "Compare it first: mask != 0"),
        ([(2, 3)] * 3, {"mask": np.eye(2)}, DTypeError, "zeros and ones: .*dtype='bool'"),
        ([(2, 3)] * 3, {"dropout": 1.5}, OptionError, r"dropout in \[0, 1\], got 1.5"),
        ([(2, 3)] * 3, {"past": -1}, OptionError, "past of 0 or more keys, got -1"),
    ],
)
def test_bad_call_is_refused(shapes, options, error, message):
    q, k, v = [drawn(*shape) for shape in shapes]
    with pytest.raises(error, match=message) as caught:
        attend(q, k, v, **options)
    assert "\n" not in str(caught.value)


def test_attention_wants_tensors_of_one_float_dtype():
    q, k, v = three(2, 3)
    with pytest.raises(DTypeError, match=r"of one float dtype, got float64\[2,3\] and float32"):
        attend(q, k.astype("float32"), v)
    with pytest.raises(DTypeError, match="of one float dtype"):
        attend(q, k, v.numpy())


# -- MultiHeadAttention ------------------------------------------------------------------------


def test_multi_head_attention_gives_the_probabilities_after_dropout():
    q, k, v = three(2, 3, 4, 5)
    layer = nn.MultiHeadAttention(dropout=0.5, causal=True, dtype="float64")
    assert layer.parameters() == []
    np.random.seed(1)
    y, probs = layer(q, k, v)
    np.random.seed(1)
    kept = np.random.rand(2, 3, 4, 4) <= 0.5
    scores = np.where(np.tri(4), q.numpy() @ k.numpy().swapaxes(2, 3) / np.sqrt(5), -np.inf)
    expected = np.exp(scores) / np.exp(scores).sum(-1, keepdims=True) * kept / 0.5
    np.testing.assert_allclose(probs.numpy(), expected, rtol=1e-12)
    np.testing.assert_allclose(y.numpy(), expected @ v.numpy(), rtol=1e-12)
    _, probs = layer.eval()(q, k, v)
    np.testing.assert_allclose(probs.numpy().sum(-1), 1, rtol=1e-12)
    with pytest.raises(ShapeError, match=r"MultiHeadAttention: expected q \[b, heads, t, d\]"):
        layer(q[0], k, v)
    with pytest.raises(ShapeError, match=r"MultiHeadAttention: .* got float64\[1,3,4,5\]"):
        layer(q[:1], k, v)


# -- Attention ---------------------------------------------------------------------------------


def attention(*args, **options):
    layer = nn.Attention(*args, dtype="float64", **options)
    for i, parameter in enumerate(layer.parameters()):
        parameter.data = drawn(*parameter.shape, seed=100 + i) * 0.5
    return layer


def test_attention_with_one_input_is_attention_to_itself():
    layer, x = attention(8, 2), drawn(3, 5, 8)
    y = layer(x)
    assert y.shape == (3, 5, 8)
    for inputs in [(x, x), (x, x, x), (x, tensor(x.numpy()))]:
        np.testing.assert_allclose(layer(*inputs).numpy(), y.numpy(), rtol=1e-10, atol=1e-13)


def test_gradients_reach_every_parameter_by_either_way():
    x, memory = drawn(2, 3, 4), drawn(2, 5, 4, seed=1)
    for inputs in [(x,), (x, memory), (x, memory, memory * 2)]:
        for options in ({}, {"kv_heads": 1}, {"bias": False}):
            layer = attention(4, 2, **options)
            (layer(*inputs) ** 2).sum().backward()
            assert all(p.grad is not None and p.grad.numpy().any() for p in layer.parameters())


def test_attention_can_be_differentiated_twice():
    layer = attention(4, 2, rotary=nn.RotaryEmbedding(2))
    check_grads(lambda x, m: layer(x, m, causal=True), drawn(1, 3, 4), drawn(1, 3, 4, seed=1))
    check_grads(lambda x: layer(x, causal=True), drawn(1, 3, 4), order=2)


def test_padding_has_no_influence():
    layer, x = attention(8, 2), drawn(2, 5, 8)
    padding = np.zeros((2, 5), bool)
    padding[0, 3:] = True
    y = layer(x, key_padding_mask=padding).numpy()
    np.testing.assert_allclose(y[:1, :3], layer(x[:1, :3]).numpy(), rtol=1e-10)
    np.testing.assert_allclose(y[1:], layer(x[1:]).numpy(), rtol=1e-10)
    everything = np.ones((2, 5), bool)
    nowhere = layer(x, key_padding_mask=everything).numpy()
    np.testing.assert_array_equal(nowhere, np.broadcast_to(layer.out_proj.bias.numpy(), (2, 5, 8)))


def test_masks_may_be_of_all_of_each_sequence_or_of_each_head():
    layer, x = attention(8, 2), drawn(3, 4, 8)
    mask = np.random.RandomState(0).rand(3, 2, 4, 4) > 0.3
    for given, full in [
        (mask[0, 0], np.broadcast_to(mask[0, 0], (3, 2, 4, 4))),
        (mask[:, 0], np.broadcast_to(mask[:, :1], (3, 2, 4, 4))),
        (mask, mask),
    ]:
        y, weights = layer(x, mask=given, return_weights=True)
        assert weights.shape == (3, 2, 4, 4)
        assert not weights.numpy()[~full].any()
        assert weights.numpy()[full].all()
        np.testing.assert_allclose(y.numpy(), layer(x, mask=full).numpy(), rtol=1e-12)


def test_fewer_heads_of_keys_are_as_repeated_weights():
    grouped, x = attention(8, 4, kv_heads=2), drawn(2, 5, 8)
    whole = attention(8, 4)
    for name in ("weight", "bias"):
        q, k, v = np.split(getattr(grouped.in_proj, name).numpy(), [8, 12], axis=1)
        k, v = [w.reshape(-1, 2, 1, 2).repeat(2, 2).reshape(-1, 8) for w in (k, v)]
        getattr(whole.in_proj, name).data = tensor(np.concatenate([q, k, v], 1))
        getattr(whole.out_proj, name).data = getattr(grouped.out_proj, name).data
    for options in ({}, {"key": drawn(2, 3, 8, seed=7)}):
        np.testing.assert_allclose(
            grouped(x, **options).numpy(), whole(x, **options).numpy(), rtol=1e-10, atol=1e-12
        )


def test_keys_and_values_of_other_widths():
    layer = attention(8, 2, kdim=3, vdim=5)
    assert [p.shape[0] for p in layer.parameters() if p.shape[0] > 1] == [8, 3, 5, 8]
    y = layer(drawn(2, 4, 8), drawn(2, 6, 3), drawn(2, 6, 5))
    assert y.shape == (2, 4, 8)


def test_dropout_is_of_training_only():
    layer, x = attention(8, 2, dropout=0.5), drawn(2, 4, 8)
    assert not np.array_equal(layer(x).numpy(), layer(x).numpy())
    layer.eval()
    np.testing.assert_array_equal(layer(x).numpy(), layer(x).numpy())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: nn.Attention(8, 3), "num_heads to divide embed_dim, got num_heads=3 and embed_d"),
        (lambda: nn.Attention(8, 4, kv_heads=3), "kv_heads to divide num_heads, got kv_heads=3"),
        (lambda: nn.Attention(8, 0), "num_heads of 1 or more, got 0"),
        (lambda: nn.Attention(8, 2, dropout=2), r"p in \[0, 1\], got 2"),
        (lambda: nn.Attention(8, 2, rotary=nn.RotaryEmbedding(8)), "rotary of dim 4, as the heads"),
        (lambda: nn.Attention(8, 2, rotary=True), "Attention: .* a RotaryEmbedding, got a bool"),
        (lambda: nn.Attention(8, 2, dtype="int32"), "Attention: expected a float dtype, got int32"),
    ],
)
def test_option_outside_its_values_is_refused_at_construction(make, message):
    with pytest.raises((OptionError, DTypeError), match=message):
        make()


@pytest.mark.parametrize("options", [{}, {"kv_heads": 1}, {"kdim": 3}])
def test_attention_of_nothing_gives_nothing_or_the_bias(options):
    layer, width = attention(8, 2, **options), options.get("kdim", 8)
    for b, t, s in [(0, 3, 2), (2, 0, 3), (2, 3, 0)]:
        y = layer(drawn(b, t, 8), drawn(b, s, width), drawn(b, s, 8))
        assert y.shape == (b, t, 8)
    np.testing.assert_array_equal(y.numpy(), np.broadcast_to(layer.out_proj.bias.numpy(), y.shape))


def test_attention_shows_the_options_that_are_not_as_usual():
    assert repr(nn.Attention(8, 2)).startswith("Attention(8, num_heads=2\n")
    layer = nn.Attention(8, 2, kv_heads=1, kdim=3, bias=False)
    assert repr(layer).startswith("Attention(8, num_heads=2, kv_heads=1, kdim=3, bias=False\n")


@pytest.mark.parametrize(
    ("inputs", "options", "error", "message"),
    [
        ([(2, 4, 7)], {}, ShapeError, r"Attention: expected query \[b, t, 8\], .*float64\[2,4,7\]"),
        ([(4, 8)], {}, ShapeError, r"got float64\[4,8\]"),
        ([(2, 4, 8), (3, 5, 8)], {}, ShapeError, r"got float64\[2,4,8\] and float64\[3,5,8\]"),
        ([(2, 4, 8), (2, 5, 8), (2, 6, 8)], {}, ShapeError, r"float64\[2,6,8\]"),
        ([(2, 4, 8)], {"mask": np.ones((4, 5), bool)}, ShapeError,
         r"Attention: expected mask \[4, 4\], \[2, 4, 4\] or \[2, 2, 4, 4\], got bool\[4,5\]"),
        ([(2, 4, 8)], {"mask": np.ones((4, 4), int)}, DTypeError, "mask != 0"),
        ([(2, 4, 8)], {"key_padding_mask": np.ones((4, 2), bool)}, ShapeError,
         r"expected key_padding_mask bool\[2,4\], true where .* got bool\[4,2\]"),
        ([(2, 4, 8)], {"key_padding_mask": np.ones((2, 4))}, DTypeError,
         r"got float64\[2,4\]. Compare it first, or give its Tensor dtype='bool'."),
        ([(2, 4, 8)], {"mask": np.ones((2, 4, 5), bool)}, ShapeError, r"got bool\[2,4,5\]"),
        ([(2, 4, 8)], {"mask": np.tri(4)[None]}, DTypeError, r"float64\[1,4,4\]. .*dtype='bool'"),
        ([(2, 4, 8)], {"cache": 3}, DTypeError, "cache to be a KeyValueCache, got an int"),
        ([(2, 4, 8)], {"cache": [nn.KeyValueCache()]}, DTypeError, "KeyValueCache, got a list"),
    ],
)  # fmt: skip
def test_bad_input_to_attention_is_refused(inputs, options, error, message):
    with pytest.raises(error, match=message) as caught:
        attention(8, 2)(*[drawn(*shape) for shape in inputs], **options)
    assert "\n" not in str(caught.value)


def test_attention_wants_tensors_and_a_cache_of_its_kind():
    layer, x = attention(8, 2), drawn(2, 3, 8)
    for inputs in [(None,), (None, x), (x, x, 3)]:
        with pytest.raises(DTypeError, match="Attention: expected Tensors, got "):
            layer(*inputs)
    with pytest.raises(DTypeError, match="Attention: expected cache to be a KeyValueCache, got an"):
        layer.to_memory(x, x, cache=3)

"""Attention, encoders and decoders with PyTorch's weights: values and gradients."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from parity.side_by_side import compare, torch
from tensors import tensor

from needle import nn, ops

tnn = torch.nn
F = torch.nn.functional
RANDOM = np.random.RandomState(3)


def torchs_attention(*inputs, **options):
    """By the formula: PyTorch's faster ways have no second derivative."""
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        return F.scaled_dot_product_attention(*inputs, **options)


def array(*shape):
    return RANDOM.randn(*shape)


MASKS = {
    "none": None,
    "bools": RANDOM.rand(5, 6) > 0.4,
    "bools per sample": RANDOM.rand(2, 1, 5, 6) > 0.4,
    "floats": array(5, 6),
    "minus infinity": np.where(np.tri(5, 6, 2), 0.0, -np.inf),
}
MASKS["bools"][2] = False  # may look nowhere


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("scale", [None, 0.5])
def test_attention_with_masks(mask, scale):
    given = MASKS[mask]
    theirs = None if given is None else torch.tensor(given)
    compare(
        lambda q, k, v: ops.scaled_dot_product_attention(q, k, v, given, scale=scale),
        lambda q, k, v: torchs_attention(q, k, v, theirs, scale=scale),
        array(2, 3, 5, 4), array(2, 3, 6, 4), array(2, 3, 6, 7),
    )  # fmt: skip


@pytest.mark.parametrize(("t", "s"), [(5, 5), (3, 5), (5, 3)])
def test_causal_attention(t, s):
    compare(
        lambda q, k, v: ops.scaled_dot_product_attention(q, k, v, causal=True),
        lambda q, k, v: torchs_attention(q, k, v, is_causal=True),
        array(2, 3, t, 4), array(2, 3, s, 4), array(2, 3, s, 4),
    )  # fmt: skip


def test_attention_of_grouped_queries():
    compare(
        lambda q, k, v: ops.scaled_dot_product_attention(q, k, v, causal=True),
        lambda q, k, v: torchs_attention(q, k, v, is_causal=True, enable_gqa=True),
        array(2, 6, 5, 4), array(2, 2, 5, 4), array(2, 2, 5, 4),
    )  # fmt: skip


@pytest.mark.parametrize("padding_idx", [None, 1])
def test_embedding(padding_idx):
    ids = np.array([[0, 1, 3], [1, 1, 2]])
    layer = nn.Embedding(4, 3, dtype="float64", padding_idx=padding_idx)

    def ours(weight):
        layer.weight = weight
        return layer(tensor(ids))

    compare(ours, lambda w: F.embedding(torch.tensor(ids), w, padding_idx), array(4, 3))


# -- with the weights of PyTorch's modules -----------------------------------------------------


def values(parameter, matrix=False):
    found = parameter.detach().numpy()
    return tensor(found.T if matrix else found)


def copy_linear(ours, weight, bias):
    ours.weight.data = values(weight, matrix=True)
    if bias is not None:
        ours.bias.data = tensor(bias.detach().numpy()[None])


def copy_attention(ours, theirs):
    copy_linear(ours.out_proj, theirs.out_proj.weight, theirs.out_proj.bias)
    bias = theirs.in_proj_bias
    if theirs.in_proj_weight is not None:
        copy_linear(ours.in_proj, theirs.in_proj_weight, bias)
        return
    for i, name in enumerate("qkv"):
        part = None if bias is None else bias.chunk(3)[i]
        weight = getattr(theirs, f"{name}_proj_weight")
        copy_linear(getattr(ours, f"{name}_proj"), weight, part)


def copy_layer(ours, theirs):
    for name, module in theirs.named_children():
        if isinstance(module, tnn.MultiheadAttention):
            copy_attention(getattr(ours, name), module)
        elif isinstance(module, tnn.Linear):
            copy_linear(getattr(ours, name), module.weight, module.bias)
        elif isinstance(module, tnn.LayerNorm):
            for parameter, value in module.named_parameters():
                getattr(getattr(ours, name), parameter).data = values(value)


def shaken(module):
    """Parameters away from their initial zeros and ones."""
    for parameter in module.parameters():
        parameter.data += 0.2 * torch.tensor(array(*parameter.shape))
    return module


def require_same_gradients(ours, theirs, count):
    """Of as many of our parameters as `count`, whatever their layout: the same numbers."""
    for mine, other in zip(ours, theirs, strict=True):
        assert len(list(mine.parameters())) == count
        found = np.sort(np.concatenate([p.grad.numpy().ravel() for p in mine.parameters()]))
        wanted = np.concatenate([p.grad.numpy().ravel() for p in other.parameters()])
        np.testing.assert_allclose(found, np.sort(wanted), rtol=1e-8, atol=1e-11)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("widths", [{}, {"kdim": 3, "vdim": 5}])
def test_multihead_attention(bias, widths):
    options = {"bias": bias, **widths}
    theirs = shaken(tnn.MultiheadAttention(8, 2, **options, batch_first=True, dtype=torch.float64))
    ours = nn.Attention(8, 2, **options, dtype="float64")
    copy_attention(ours, theirs)
    mask, padding = RANDOM.rand(4, 6) > 0.3, RANDOM.rand(2, 6) > 0.6
    mask[:, 0], padding[:, 0] = True, False
    arrays = [
        array(2, 4, 8),
        array(2, 6, widths.get("kdim", 8)),
        array(2, 6, widths.get("vdim", 8)),
    ]

    def torchs(q, k, v):
        options = {"attn_mask": torch.tensor(~mask), "key_padding_mask": torch.tensor(padding)}
        return theirs(q, k, v, **options, average_attn_weights=False)

    compare(
        lambda q, k, v: ours(
            q, k, v, mask=mask, key_padding_mask=padding, return_weights=True
        ),
        torchs, *arrays, order=1,
    )  # fmt: skip
    x = [tensor(a) for a in arrays]
    (ours(*x, mask=mask) ** 2).sum().backward()
    t = [torch.tensor(a) for a in arrays]
    (theirs(*t, attn_mask=torch.tensor(~mask))[0] ** 2).sum().backward()
    require_same_gradients([ours], [theirs], len(list(ours.parameters())))


OPTIONS = list(itertools.product([True, False], ["relu", "gelu"], [True, False]))


@pytest.mark.parametrize(("norm_first", "activation", "bias"), OPTIONS)
def test_encoder(norm_first, activation, bias):
    sizes = (8, 2, 12, 0.0, activation, 1e-3)
    options = {"norm_first": norm_first, "bias": bias}
    layer = tnn.TransformerEncoderLayer(*sizes, batch_first=True, **options, dtype=torch.float64)
    theirs = tnn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
    ours = nn.TransformerEncoder(nn.TransformerEncoderLayer(*sizes, **options, dtype="float64"), 2)
    for mine, other in zip(ours.layers, theirs.layers, strict=True):
        copy_layer(mine, shaken(other))
    padding = np.array([[False, False, False, True], [False, False, True, True]])
    hidden = torch.triu(torch.ones(4, 4, dtype=torch.bool), 1)
    x = array(2, 4, 8)
    compare(
        lambda x: ours(x, key_padding_mask=padding, causal=True),
        lambda x: theirs(x, mask=hidden, src_key_padding_mask=torch.tensor(padding)),
        x, order=1,
    )  # fmt: skip
    (ours(tensor(x)) ** 2).sum().backward()
    (theirs(torch.tensor(x)) ** 2).sum().backward()
    require_same_gradients(ours.layers, theirs.layers, 12 if bias else 6)


@pytest.mark.parametrize(("norm_first", "activation", "bias"), OPTIONS[::3])
def test_decoder(norm_first, activation, bias):
    sizes = (8, 2, 12, 0.0, activation)
    options = {"norm_first": norm_first, "bias": bias}
    layer = tnn.TransformerDecoderLayer(*sizes, batch_first=True, **options, dtype=torch.float64)
    theirs = tnn.TransformerDecoder(layer, 2, tnn.LayerNorm(8, dtype=torch.float64))
    ours = nn.TransformerDecoder(
        nn.TransformerDecoderLayer(*sizes, **options, dtype="float64"),
        2,
        nn.LayerNorm(8, dtype="float64"),
    )
    for mine, other in zip(ours.layers, theirs.layers, strict=True):
        copy_layer(mine, shaken(other))
    padding = np.array([[False, False, False], [False, False, True]])
    seen = RANDOM.rand(4, 3) > 0.4
    seen[:, 0] = True
    hidden = torch.triu(torch.ones(4, 4, dtype=torch.bool), 1)
    compare(
        lambda x, m: ours(
            x, m, memory_mask=seen, memory_key_padding_mask=padding, causal=True
        ),
        lambda x, m: theirs(
            x, m, tgt_mask=hidden, memory_mask=torch.tensor(~seen),
            memory_key_padding_mask=torch.tensor(padding),
        ),
        array(2, 4, 8), array(2, 3, 8), order=1,
    )  # fmt: skip
    x, memory = array(2, 4, 8), array(2, 3, 8)
    (ours(tensor(x), tensor(memory)) ** 2).sum().backward()
    (theirs(torch.tensor(x), torch.tensor(memory)) ** 2).sum().backward()
    require_same_gradients(ours.layers, theirs.layers, 18 if bias else 9)

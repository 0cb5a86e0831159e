"""Contract, sections 6.3 and 12: attention alone, and between norms and projections."""

from __future__ import annotations

import numpy as np
import pytest
from contract.course_references import (
    TOLERANCE,
    arrays,
    assert_module_like,
    assert_values,
    attention,
    attention_layer,
    projection_draws,
)

from needle import nn
from needle.autograd import Tensor

SEED = 11


def tensor(array, device=None):
    return Tensor(array, device=device, dtype="float32")


# -- MultiHeadAttention ------------------------------------------------------------------------


def test_multi_head_attention_has_no_parameters_and_draws_nothing():
    np.random.seed(SEED)
    assert nn.MultiHeadAttention(dropout=0.1, causal=True).parameters() == []
    following = np.random.rand()
    np.random.seed(SEED)
    assert following == np.random.rand()


@pytest.mark.parametrize("causal", [True, False])
def test_attention_and_its_gradients(each_device, causal):
    module = nn.MultiHeadAttention(causal=causal, device=each_device)

    class Output(nn.Module):
        def forward(self, q, k, v):
            return module(q, k, v)[0]

    inputs = arrays(*[(2, 2, 3, 4)] * 3)
    assert_module_like(
        Output(), [], lambda *x: attention(*x, causal)[0], *inputs, device=each_device
    )


@pytest.mark.parametrize(("batch", "heads", "length", "dim"), [(4, 5, 8, 64), (8, 2, 31, 16),
                                                              (1, 1, 1, 1)])  # fmt: skip
@pytest.mark.parametrize("causal", [True, False])
def test_probabilities_are_rows_over_the_keys(each_device, batch, heads, length, dim, causal):
    module = nn.MultiHeadAttention(causal=causal, device=each_device)
    inputs = arrays(*[(batch, heads, length, dim)] * 3)
    result = module(*(tensor(x, each_device) for x in inputs))
    assert type(result) is tuple
    y, probs = result
    expected = attention(*(x.astype("float64") for x in inputs), causal)
    assert y.shape == (batch, heads, length, dim)
    assert probs.shape == (batch, heads, length, length)
    for found, values in zip((y, probs), expected, strict=True):
        assert found.device == each_device and found.dtype == "float32"
        np.testing.assert_allclose(found.numpy(), values, **TOLERANCE)
    np.testing.assert_allclose(probs.numpy().sum(-1), 1, rtol=1e-5)
    if causal:
        assert np.all(np.triu(probs.numpy(), 1) == 0)


def test_causal_is_off_by_default_in_attention_and_on_in_the_layers():
    x = tensor(arrays((1, 1, 3, 2))[0])
    assert np.all(nn.MultiHeadAttention()(x, x, x)[1].numpy() > 0)


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("p", [0.1, 0.5])
def test_the_probabilities_given_back_are_those_after_dropout(each_device, p, causal):
    module = nn.MultiHeadAttention(dropout=p, causal=causal, device=each_device)
    inputs = arrays(*[(2, 3, 5, 4)] * 3)
    np.random.seed(SEED)
    found = module(*(tensor(x, each_device) for x in inputs))
    following = np.random.rand()
    np.random.seed(SEED)
    expected = attention(*(x.astype("float64") for x in inputs), causal, p)
    for result, values in zip(found, expected, strict=True):
        np.testing.assert_allclose(result.numpy(), values, **TOLERANCE)
    assert following == np.random.rand()
    module.eval()
    _, probs = module(*(tensor(x, each_device) for x in inputs))
    np.testing.assert_allclose(probs.numpy().sum(-1), 1, rtol=1e-5)


@pytest.mark.parametrize("causal", [True, False])
def test_attention_of_large_scores_is_finite(each_device, causal):
    q, k, v = (tensor(x, each_device) for x in arrays(*[(1, 2, 4, 3)] * 3))
    y, probs = nn.MultiHeadAttention(causal=causal, device=each_device)(q * 1e3, k * 1e3, v)
    np.testing.assert_allclose(probs.numpy().sum(-1), 1, rtol=1e-5)
    y.sum().backward()
    assert all(np.all(np.isfinite(x.grad.numpy())) for x in (q, k, v))


def test_probabilities_can_be_differentiated():
    q, k, v = (tensor(x) for x in arrays(*[(1, 1, 3, 2)] * 3))
    _, probs = nn.MultiHeadAttention()(q, k, v)
    (probs * probs).sum().backward()
    assert q.grad.shape == k.grad.shape == (1, 1, 3, 2)


# -- AttentionLayer ----------------------------------------------------------------------------


def test_attention_layer_has_norms_and_projections_without_biases(each_device):
    layer = nn.AttentionLayer(6, 2, 4, k_features=5, v_features=3, out_features=7,
                              device=each_device)  # fmt: skip
    for name, size in {"q": 6, "k": 5, "v": 3}.items():
        norm, projection = getattr(layer, f"prenorm_{name}"), getattr(layer, f"{name}_projection")
        assert isinstance(norm, nn.LayerNorm1d) and norm.weight.shape == (size,)
        assert projection.weight.shape == (size, 8) and projection.bias is None
    assert layer.out_projection.weight.shape == (8, 7) and layer.out_projection.bias is None
    assert len(layer.parameters()) == 3 * 2 + 4
    assert {p.device for p in layer.parameters()} == {each_device}


@pytest.mark.parametrize("sizes", [{}, {"k_features": 5, "v_features": 3, "out_features": 7}])
def test_attention_layer_draws_q_k_v_and_out(sizes):
    np.random.seed(SEED)
    layer = nn.AttentionLayer(6, 2, 4, **sizes)
    following = np.random.rand()
    np.random.seed(SEED)
    names = ["q_projection", "k_projection", "v_projection", "out_projection"]
    expected = projection_draws(6, 8, *sizes.values())
    assert_values([getattr(layer, name).weight for name in names], expected)
    assert following == np.random.rand()


def owners(layer):
    norms = [getattr(layer, f"prenorm_{n}") for n in "qkv"]
    linears = [getattr(layer, f"{n}_projection") for n in ("q", "k", "v", "out")]
    return [(norm, name) for norm in norms for name in ("weight", "bias")] + [
        (linear, "weight") for linear in linears
    ]


@pytest.mark.parametrize("causal", [True, False])
def test_attention_layer_of_three_inputs(each_device, causal):
    layer = nn.AttentionLayer(
        4, 2, 2, k_features=3, v_features=5, out_features=3, causal=causal, device=each_device
    )
    for norm, name in owners(layer)[:6]:
        shape = getattr(norm, name).shape
        setattr(norm, name, nn.Parameter(tensor(np.random.randn(*shape), each_device)))

    def reference(q, k, v, *values):
        norms = list(zip(values[:6:2], values[1:6:2], strict=True))
        return attention_layer(q, k, v, 2, values[6:], causal, norms=norms)

    inputs = arrays((2, 3, 4), (2, 3, 3), (2, 3, 5))
    assert_module_like(layer, owners(layer), reference, *inputs, device=each_device)


def test_attention_layer_of_one_input_attends_to_itself_causally(each_device):
    layer = nn.AttentionLayer(4, 2, 3, device=each_device)

    def reference(x, *values):
        return attention_layer(x, x, x, 2, values)

    assert_module_like(layer, owners(layer)[6:], reference, *arrays((2, 3, 4)), device=each_device)
    x = tensor(arrays((2, 3, 4))[0], each_device)
    np.testing.assert_array_equal(layer(x).numpy(), layer(x, x, x).numpy())


@pytest.mark.parametrize("p", [0.1, 0.4])
def test_attention_layer_drops_probabilities_alone(each_device, p):
    layer = nn.AttentionLayer(6, 2, 4, dropout=p, device=each_device)
    (x,) = arrays((3, 5, 6))
    weights = [owner.weight.numpy().astype("float64") for owner, _ in owners(layer)[6:]]
    np.random.seed(SEED)
    found = layer(tensor(x, each_device))
    following = np.random.rand()
    np.random.seed(SEED)
    x = x.astype("float64")
    expected = attention_layer(x, x, x, 2, weights, True, p)
    np.testing.assert_allclose(found.numpy(), expected, **TOLERANCE)
    assert following == np.random.rand()

"""Contract, sections 6.3 and 12: attention and the Transformer."""

from __future__ import annotations

import inspect

import numpy as np
import pytest
from apps.models import LanguageModel
from contract.course_references import (
    TOLERANCE,
    arrays,
    assert_module_like,
    assert_values,
    layer_draws,
    transformer,
    transformer_layer,
)

from needle import nn
from needle.autograd import Tensor

SEED = 11


def tensor(array, device=None):
    return Tensor(array, device=device, dtype="float32")


def projections_of(module):
    """The parameters that are drawn: matrices, and biases of Linear (1, out)."""
    return [p for p in module.parameters() if len(p.shape) == 2]


# -- signatures --------------------------------------------------------------------------------

SIGNATURES = {
    "MultiHeadAttention": "*, dropout=0.0, causal=False, device=None, dtype='float32'",
    "AttentionLayer": "q_features, num_head, dim_head, *, k_features=None, v_features=None, "
    "out_features=None, dropout=0.0, causal=True, device=None, dtype='float32'",
    "TransformerLayer": "q_features, num_head, dim_head, hidden_size, *, dropout=0.0, causal=True, "
    "device=None, dtype='float32'",
    "Transformer": "embedding_size, hidden_size, num_layers, *, num_head=8, dim_head=32, "
    "dropout=0.0, causal=True, device=None, dtype='float32', batch_first=False, sequence_len=2048",
}


@pytest.mark.parametrize("name", SIGNATURES)
def test_constructors_take_the_contracts_arguments(name):
    """In order, with these defaults; more may follow by keyword."""
    parameters = inspect.signature(getattr(nn, name)).parameters
    by_place, by_keyword = [], {}
    kinds = {"*": None}
    for text in SIGNATURES[name].split(", "):
        if text == "*":
            kinds["keyword"] = True
        elif kinds.get("keyword"):
            word, _, default = text.partition("=")
            by_keyword[word] = default
        else:
            by_place.append(text)
    found = [p.name for p in parameters.values() if p.kind is p.POSITIONAL_OR_KEYWORD]
    assert found == by_place
    for word, default in by_keyword.items():
        assert parameters[word].kind is inspect.Parameter.KEYWORD_ONLY
        assert repr(parameters[word].default) == default


# -- TransformerLayer --------------------------------------------------------------------------


def test_transformer_layer_draws_attention_and_then_two_linears():
    np.random.seed(SEED)
    layer = nn.TransformerLayer(6, 2, 4, 10)
    following = np.random.rand()
    np.random.seed(SEED)
    assert_values(projections_of(layer), layer_draws(6, 2, 4, 10))
    assert following == np.random.rand()
    assert len(layer.parameters()) == 8 + 4 * 2


@pytest.mark.parametrize("p", [0.0, 0.1, 0.5])
@pytest.mark.parametrize("causal", [True, False])
def test_transformer_layer_in_training_drops_in_four_places(each_device, causal, p):
    np.random.seed(SEED)
    layer = nn.TransformerLayer(6, 2, 4, 10, dropout=p, causal=causal, device=each_device)
    (x,) = arrays((3, 5, 6))
    np.random.seed(2)
    out = layer(tensor(x, each_device))
    following = np.random.rand()
    np.random.seed(SEED)
    weights = layer_draws(6, 2, 4, 10)
    np.random.seed(2)
    expected = transformer_layer(x.astype("float64"), 2, weights, causal, p)
    assert out.shape == (3, 5, 6)
    np.testing.assert_allclose(out.numpy(), expected, **TOLERANCE)
    if p:
        assert following == np.random.rand()
    out.sum().backward()
    assert all(p.grad is not None and p.grad.shape == p.shape for p in layer.parameters())


def test_transformer_layers_gradients(each_device):
    layer = nn.TransformerLayer(4, 2, 3, 5, device=each_device)
    found = []

    def collect(module):
        for name, value in vars(module).items():
            if isinstance(value, nn.Parameter) and len(value.shape) == 2:
                found.append((module, name))
        for child in module._children():
            collect(child)

    for child in layer._children():
        collect(child)
    unique = list(dict.fromkeys(found))
    order = {id(p): i for i, p in enumerate(projections_of(layer))}
    unique.sort(key=lambda owner: order[id(getattr(*owner))])
    assert len(unique) == 8

    def reference(x, *values):
        return transformer_layer(x, 2, values)

    assert_module_like(
        layer, unique, reference, *arrays((2, 3, 4)), device=each_device, rtol=1e-4, atol=1e-4
    )


# -- Transformer -------------------------------------------------------------------------------


def transformer_draws(size, hidden, layers, heads, dim, length):
    table = np.random.randn(length, size)
    return table, [layer_draws(size, heads, dim, hidden) for _ in range(layers)]


@pytest.mark.parametrize("layers", [1, 3])
def test_trap_4_the_positional_embedding_is_drawn_before_the_layers(layers):
    np.random.seed(SEED)
    model = nn.Transformer(6, 10, layers, num_head=2, dim_head=4, sequence_len=9)
    following = np.random.rand()
    np.random.seed(SEED)
    table, weights = transformer_draws(6, 10, layers, 2, 4, 9)
    assert following == np.random.rand()
    drawn = {p.shape: p for p in projections_of(model)}
    np.testing.assert_allclose(drawn[(9, 6)].numpy(), table, rtol=1e-6)
    others = [p for p in projections_of(model) if p.shape != (9, 6)]
    assert_values(others, [w for layer in weights for w in layer])


def test_the_positional_embedding_has_2048_rows_and_8_heads_of_32_by_default():
    np.random.seed(SEED)
    model = nn.Transformer(4, 5, 1)
    following = np.random.rand()
    np.random.seed(SEED)
    transformer_draws(4, 5, 1, 8, 32, 2048)
    assert following == np.random.rand()
    assert (2048, 4) in {p.shape for p in model.parameters()}


@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("p", [0.0, 0.1])
@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("layers", [1, 2])
def test_transformer_in_training(each_device, layers, causal, p, batch_first):
    np.random.seed(SEED)
    model = nn.Transformer(
        6, 10, layers, num_head=2, dim_head=4, dropout=p, causal=causal, device=each_device,
        batch_first=batch_first, sequence_len=9,
    )  # fmt: skip
    (x,) = arrays((3, 5, 6))  # (B,T,D)
    np.random.seed(2)
    result = model(tensor(x if batch_first else x.transpose(1, 0, 2), each_device))
    np.random.seed(SEED)
    table, weights = transformer_draws(6, 10, layers, 2, 4, 9)
    np.random.seed(2)
    expected = transformer(x.astype("float64"), 2, table, weights, causal, p)
    assert len(result) == 2
    out = result[0]
    assert out.shape == ((3, 5, 6) if batch_first else (5, 3, 6))
    assert out.device == each_device and out.dtype == "float32"
    found = out.numpy() if batch_first else out.numpy().transpose(1, 0, 2)
    np.testing.assert_allclose(found, expected, **TOLERANCE)
    out.sum().backward()
    assert all(p.grad is not None and p.grad.shape == p.shape for p in model.parameters())


def test_transformer_of_the_courses_size(each_device):
    """8 x 5 x 32 through 2 layers of 8 heads of 32, hidden 64."""
    np.random.seed(SEED)
    model = nn.Transformer(32, 64, 2, device=each_device, batch_first=True)
    x = arrays((8, 5, 32))[0]
    out, _ = model(tensor(x, each_device))
    np.random.seed(SEED)
    table, weights = transformer_draws(32, 64, 2, 8, 32, 2048)
    expected = transformer(x.astype("float64"), 8, table, weights)
    np.testing.assert_allclose(out.numpy(), expected, **TOLERANCE)


def test_the_second_argument_is_taken_and_ignored():
    model = nn.Transformer(4, 6, 1, num_head=1, dim_head=2, sequence_len=8)
    x = tensor(arrays((3, 2, 4))[0])
    out, dummy = model(x)
    np.testing.assert_array_equal(model(x, None)[0].numpy(), out.numpy())
    np.testing.assert_array_equal(model(x, dummy)[0].numpy(), out.numpy())
    np.testing.assert_array_equal(model(x, h=dummy)[0].numpy(), out.numpy())


def test_a_causal_transformer_does_not_look_ahead(each_device):
    model = nn.Transformer(
        6, 10, 2, num_head=2, dim_head=4, batch_first=True, sequence_len=8, device=each_device
    )
    (x,) = arrays((2, 5, 6))
    other = x.copy()
    other[:, 3:] += 1
    first, second = (model(tensor(a, each_device))[0].numpy() for a in (x, other))
    np.testing.assert_allclose(first[:, :3], second[:, :3], rtol=1e-6, atol=1e-7)
    assert not np.allclose(first[:, 3:], second[:, 3:])


def test_dropout_is_off_in_evaluation():
    model = nn.Transformer(4, 6, 1, num_head=1, dim_head=2, dropout=0.5, sequence_len=8)
    model.eval()
    x = tensor(arrays((3, 2, 4))[0])
    np.random.seed(SEED)
    first = model(x)[0].numpy()
    np.testing.assert_array_equal(model(x)[0].numpy(), first)
    following = np.random.rand()
    np.random.seed(SEED)
    assert following == np.random.rand()


def test_the_positional_embedding_is_learned():
    model = nn.Transformer(4, 6, 1, num_head=1, dim_head=2, sequence_len=8)
    model(tensor(arrays((3, 2, 4))[0]))[0].sum().backward()
    (table,) = [p for p in model.parameters() if p.shape == (8, 4)]
    rows = abs(table.grad.numpy()).sum(1)
    assert np.all(rows[:3] > 0) and np.all(rows[3:] == 0)


def test_a_language_model_may_be_a_transformer():
    """The contract recommends it: a head from embedding_size, and causal."""
    model = LanguageModel(8, 11, 16, 1, seq_model="transformer", seq_len=6)
    ids = np.random.RandomState(0).randint(11, size=(6, 3))
    logits, _ = model(tensor(ids))
    assert logits.shape == (18, 11)
    other = ids.copy()
    other[4:] = (other[4:] + 1) % 11
    np.testing.assert_allclose(model(tensor(other))[0].numpy()[:12], logits.numpy()[:12], atol=1e-6)
    logits.sum().backward()
    assert all(p.grad is not None for p in model.parameters())

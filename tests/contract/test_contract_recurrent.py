"""Contract, sections 6.2, 10.2 and 12: recurrence, embeddings, and the language model."""

from __future__ import annotations

import numpy as np
import pytest
from apps.models import LanguageModel
from contract.course_references import (
    TOLERANCE,
    arrays,
    assert_module_like,
    assert_values,
    linear_draws,
    lstm_step,
    recurrent_draws,
    rnn_step,
)

import needle as ndl
from needle import nn
from needle.autograd import Tensor

SEED = 11
NAMES = ["W_ih", "W_hh", "bias_ih", "bias_hh"]


def tensor(array, device=None):
    return Tensor(array, device=device, dtype="float32")


def relu(x):
    return np.maximum(x, 0)


ACTS = {"tanh": np.tanh, "relu": relu}


def assert_draws(make, draw):
    np.random.seed(SEED)
    parameters = make().parameters()
    following = np.random.rand()
    np.random.seed(SEED)
    assert_values(parameters, draw())
    assert following == np.random.rand()


def rnn_draws(inputs, hidden, layers=1, gates=1, bias=True):
    return [
        array
        for layer in range(layers)
        for array in recurrent_draws(hidden if layer else inputs, hidden, gates, bias)
    ]


# -- cells -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "gates"), [("RNNCell", 1), ("LSTMCell", 4)])
def test_cells_have_weights_transposed_from_torchs(each_device, kind, gates):
    cell = getattr(nn, kind)(5, 3, device=each_device, dtype="float32")
    assert [getattr(cell, name).shape for name in NAMES] == [
        (5, 3 * gates), (3, 3 * gates), (3 * gates,), (3 * gates,),
    ]  # fmt: skip
    assert all(isinstance(getattr(cell, name), nn.Parameter) for name in NAMES)
    assert all(p.device == each_device and p.dtype == "float32" for p in cell.parameters())
    bare = getattr(nn, kind)(5, 3, False)
    assert bare.bias_ih is None and bare.bias_hh is None
    assert len(bare.parameters()) == 2


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(("kind", "gates"), [("RNNCell", 1), ("LSTMCell", 4)])
def test_trap_4_cells_draw_w_ih_w_hh_and_then_the_biases(kind, gates, bias):
    assert_draws(
        lambda: getattr(nn, kind)(6, 4, bias=bias), lambda: rnn_draws(6, 4, 1, gates, bias)
    )


@pytest.mark.parametrize("given", [True, False])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("nonlinearity", ["tanh", "relu"])
def test_rnn_cell_is_the_activation_of_two_products(each_device, nonlinearity, bias, given):
    cell = nn.RNNCell(3, 4, bias=bias, nonlinearity=nonlinearity, device=each_device)

    def reference(x, *rest):
        h, weights = (rest[0], rest[1:]) if given else (np.zeros((2, 4)), rest)
        return rnn_step(x, h, *weights, act=ACTS[nonlinearity])

    inputs = arrays((2, 3), (2, 4))[: 1 + given]
    names = NAMES if bias else NAMES[:2]
    assert_module_like(cell, names, reference, *inputs, device=each_device)


def test_rnn_cells_default_is_tanh():
    cell = nn.RNNCell(2, 3)
    (x,) = arrays((4, 2))
    found = cell(tensor(np.concatenate([x, -x]) * 5)).numpy()
    assert np.all(abs(found) < 1) and np.any(found < 0)


@pytest.mark.parametrize("output", [0, 1])
@pytest.mark.parametrize("given", [True, False])
@pytest.mark.parametrize("bias", [True, False])
def test_lstm_cell_has_gates_in_the_order_i_f_g_o(each_device, bias, given, output):
    cell = nn.LSTMCell(3, 2, bias, each_device)

    def state(tensors):
        return (tuple(tensors[1:3]),) if given else ()

    class Output(nn.Module):
        def forward(self, *tensors):
            result = cell(tensors[0], *state(tensors))
            assert type(result) is tuple and len(result) == 2
            return result[output]

    def reference(x, *rest):
        h, c = rest[:2] if given else (np.zeros((2, 2)),) * 2
        return lstm_step(x, h, c, *rest[2 * given :])[output]

    inputs = arrays((2, 3), (2, 2), (2, 2))[: 1 + 2 * given]
    names = [(cell, name) for name in (NAMES if bias else NAMES[:2])]
    assert_module_like(Output(), names, reference, *inputs, device=each_device)


# -- RNN and LSTM ------------------------------------------------------------------------------


def rnn_forward(x, h0, weights, act=np.tanh):
    """x (T,B,I), h0 (L,B,H), weights: a list for each layer -> output, h_n."""
    last = []
    for h, layer in zip(h0, weights, strict=True):
        steps = []
        for row in x:
            h = rnn_step(row, h, *layer, act=act)
            steps.append(h)
        x = np.stack(steps)
        last.append(h)
    return x, np.stack(last)


def lstm_forward(x, h0, c0, weights):
    last = []
    for h, c, layer in zip(h0, c0, weights, strict=True):
        steps = []
        for row in x:
            h, c = lstm_step(row, h, c, *layer)
            steps.append(h)
        x = np.stack(steps)
        last.append((h, c))
    return x, np.stack([h for h, _ in last]), np.stack([c for _, c in last])


def by_layer(weights, layers):
    count = len(weights) // layers
    return [weights[i * count : (i + 1) * count] for i in range(layers)]


@pytest.mark.parametrize("layers", [1, 3])
def test_rnn_and_lstm_draw_cells_from_layer_0_up(layers):
    assert_draws(lambda: nn.RNN(5, 3, layers), lambda: rnn_draws(5, 3, layers))
    assert_draws(lambda: nn.LSTM(5, 3, layers), lambda: rnn_draws(5, 3, layers, 4))
    assert_draws(lambda: nn.RNN(5, 3, layers, False), lambda: rnn_draws(5, 3, layers, 1, False))
    assert_draws(lambda: nn.LSTM(5, 3, layers, False), lambda: rnn_draws(5, 3, layers, 4, False))


def test_cells_are_lists_with_the_right_inputs():
    rnn, lstm = nn.RNN(5, 3, num_layers=2), nn.LSTM(5, 3, num_layers=2)
    assert isinstance(rnn.rnn_cells, list) and isinstance(lstm.lstm_cells, list)
    assert [cell.W_ih.shape for cell in rnn.rnn_cells] == [(5, 3), (3, 3)]
    assert [cell.W_ih.shape for cell in lstm.lstm_cells] == [(5, 12), (3, 12)]


@pytest.mark.parametrize("output", [0, 1])
@pytest.mark.parametrize("nonlinearity", ["tanh", "relu"])
@pytest.mark.parametrize(("layers", "bias", "given"), [(1, True, True), (2, True, False),
                                                      (2, False, True)])  # fmt: skip
def test_rnn_gives_the_last_layer_and_the_last_states(
    each_device, layers, bias, given, nonlinearity, output
):
    model = nn.RNN(2, 3, layers, bias, nonlinearity=nonlinearity, device=each_device)
    names = [(cell, n) for cell in model.rnn_cells for n in (NAMES if bias else NAMES[:2])]

    class Output(nn.Module):
        def forward(self, x, h0=None):
            result = model(x, h0)
            assert len(result) == 2
            return result[output]

    def reference(x, *rest):
        h0, weights = (rest[0], rest[1:]) if given else (np.zeros((layers, 2, 3)), rest)
        return rnn_forward(x, h0, by_layer(weights, layers), ACTS[nonlinearity])[output]

    inputs = arrays((3, 2, 2), (layers, 2, 3))[: 1 + given]
    assert_module_like(Output(), names, reference, *inputs, device=each_device)


@pytest.mark.parametrize("output", [0, 1, 2])
@pytest.mark.parametrize(("layers", "bias", "given"), [(1, True, True), (2, True, False),
                                                      (2, False, True)])  # fmt: skip
def test_lstm_gives_a_tuple_of_last_states(each_device, layers, bias, given, output):
    model = nn.LSTM(2, 2, layers, bias, each_device)
    names = [(cell, n) for cell in model.lstm_cells for n in (NAMES if bias else NAMES[:2])]

    class Output(nn.Module):
        def forward(self, x, *state):
            out, last = model(x, state or None)
            assert type(last) is tuple and len(last) == 2
            return (out, *last)[output]

    def reference(x, *rest):
        h0, c0 = rest[:2] if given else (np.zeros((layers, 2, 2)),) * 2
        return lstm_forward(x, h0, c0, by_layer(rest[2 * given :], layers))[output]

    inputs = arrays((3, 2, 2), (layers, 2, 2), (layers, 2, 2))[: 1 + 2 * given]
    assert_module_like(Output(), names, reference, *inputs, device=each_device)


@pytest.mark.parametrize("kind", ["RNN", "LSTM"])
def test_long_sequences_are_within_the_courses_tolerance(each_device, kind):
    """13 steps, batch 15: section 15's worst case. Values against float64."""
    model = getattr(nn, kind)(11, 12, 2, device=each_device)
    cells = model.rnn_cells if kind == "RNN" else model.lstm_cells
    weights = [[getattr(c, n).numpy().astype("float64") for n in NAMES] for c in cells]
    x, h0, c0 = arrays((13, 15, 11), (2, 15, 12), (2, 15, 12))
    if kind == "RNN":
        expected = rnn_forward(x.astype("float64"), h0, weights)
        out, state = model(tensor(x, each_device), tensor(h0, each_device))
        found = [out, state]
    else:
        expected = lstm_forward(x.astype("float64"), h0, c0, weights)
        out, state = model(
            tensor(x, each_device), (tensor(h0, each_device), tensor(c0, each_device))
        )
        found = [out, *state]
    for result, values in zip(found, expected, strict=True):
        assert result.shape == values.shape
        np.testing.assert_allclose(result.numpy(), values, **TOLERANCE)
    out.sum().backward()
    weight, eps = weights[0][0], 1e-6

    def total(i, j, step):
        moved = [[w.copy() for w in layer] for layer in weights]
        moved[0][0][i, j] += step
        states = [h0] if kind == "RNN" else [h0, c0]
        return (rnn_forward if kind == "RNN" else lstm_forward)(x, *states, moved)[0].sum()

    for i, j in [(0, 0), (5, 7), (10, weight.shape[1] - 1)]:
        slope = (total(i, j, eps) - total(i, j, -eps)) / (2 * eps)
        np.testing.assert_allclose(cells[0].W_ih.grad.numpy()[i, j], slope, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("cells", ["rnn_cells", "lstm_cells"])
def test_trap_10_every_parameter_has_a_gradient_without_an_initial_state(each_device, cells):
    model = {"rnn_cells": nn.RNN, "lstm_cells": nn.LSTM}[cells](3, 4, 2, device=each_device)
    for steps in (1, 3):  # with one step W_hh multiplies zeros alone
        out, _ = model(tensor(arrays((steps, 2, 3))[0], each_device))
        out.sum().backward()
        assert all(p.grad is not None and p.grad.shape == p.shape for p in model.parameters())
    cell = getattr(model, cells)[0]
    result = cell(tensor(arrays((2, 3))[0], each_device))
    for p in cell.parameters():
        p.grad = None
    (result[0] if isinstance(result, tuple) else result).sum().backward()
    assert all(p.grad is not None for p in cell.parameters())
    np.testing.assert_array_equal(cell.W_hh.grad.numpy(), np.zeros(cell.W_hh.shape))


@pytest.mark.parametrize("kind", ["RNN", "LSTM"])
def test_trap_10_weights_assigned_after_construction_are_the_ones_used(each_device, kind):
    model, other = (getattr(nn, kind)(3, 4, 2, device=each_device) for _ in range(2))
    x = tensor(arrays((5, 2, 3))[0], each_device)
    model(x)  # nothing of the first call may be kept
    cells = [m.rnn_cells if kind == "RNN" else m.lstm_cells for m in (model, other)]
    for mine, theirs in zip(*cells, strict=True):
        for name in NAMES:
            setattr(mine, name, tensor(getattr(theirs, name).numpy(), each_device))
    out, _ = model(x)
    np.testing.assert_allclose(out.numpy(), other(x)[0].numpy(), rtol=1e-6, atol=1e-7)
    out.sum().backward()
    other(x)[0].sum().backward()
    for mine, theirs in zip(*cells, strict=True):
        for name in NAMES:
            found, expected = (getattr(cell, name).grad.numpy() for cell in (mine, theirs))
            np.testing.assert_allclose(found, expected, **TOLERANCE)


@pytest.mark.parametrize("kind", ["RNN", "LSTM"])
def test_weights_whose_data_is_replaced_between_calls_are_the_ones_used(kind):
    model = getattr(nn, kind)(3, 4)
    cell = (model.rnn_cells if kind == "RNN" else model.lstm_cells)[0]
    x = tensor(arrays((2, 1, 3))[0])
    before = model(x)[0].numpy()
    cell.W_ih.data = cell.W_ih.data * 0.5
    assert not np.allclose(model(x)[0].numpy(), before)


def test_the_initial_state_gets_a_gradient():
    model = nn.LSTM(3, 4, 2)
    x, h0, c0 = (tensor(a) for a in arrays((2, 5, 3), (2, 5, 4), (2, 5, 4)))
    model(x, (h0, c0))[0].sum().backward()
    assert h0.grad.shape == c0.grad.shape == (2, 5, 4)


# -- Embedding ---------------------------------------------------------------------------------


def test_embedding_draws_its_weight_from_the_normal_distribution(each_device):
    assert_draws(lambda: nn.Embedding(7, 5, device=each_device), lambda: [np.random.randn(7, 5)])
    layer = nn.Embedding(7, 5, each_device, "float32")
    assert isinstance(layer.weight, nn.Parameter) and layer.weight.device == each_device


@pytest.mark.parametrize("shape", [(3, 2), (1, 1), (5, 1)])
def test_embedding_looks_up_ids_stored_as_floats(each_device, shape):
    layer = nn.Embedding(6, 4, device=each_device)
    ids = np.random.RandomState(0).randint(6, size=shape)
    out = layer(tensor(ids, each_device))
    assert out.shape == (*shape, 4) and out.dtype == "float32"
    np.testing.assert_allclose(out.numpy(), layer.weight.numpy()[ids], rtol=1e-6)
    g = np.random.RandomState(1).randn(*out.shape)
    out.backward(tensor(g, each_device))
    expected = np.zeros((6, 4))
    np.add.at(expected, ids, g)  # an id that occurs twice has both gradients
    np.testing.assert_allclose(layer.weight.grad.numpy(), expected, **TOLERANCE)


def test_embedding_uses_a_plain_tensor_assigned_over_its_weight():
    layer = nn.Embedding(4, 2)
    layer.weight = tensor(np.arange(8.0).reshape(4, 2))
    out = layer(tensor([[3.0, 0.0]]))
    np.testing.assert_array_equal(out.numpy(), [[[6, 7], [0, 1]]])
    out.sum().backward()
    np.testing.assert_array_equal(layer.weight.grad.numpy(), [[1, 1], [0, 0], [0, 0], [1, 1]])


# -- LanguageModel -----------------------------------------------------------------------------

GATES = {"rnn": 1, "lstm": 4}


@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("kind", ["rnn", "lstm"])
def test_language_model_draws_embedding_sequence_model_and_head(kind, layers):
    assert_draws(
        lambda: LanguageModel(6, 9, 4, layers, kind),
        lambda: [
            np.random.randn(9, 6),
            *rnn_draws(6, 4, layers, GATES[kind]),
            *linear_draws(4, 9),
        ],
    )


def test_language_models_default_is_one_layer_of_rnn():
    assert_draws(
        lambda: LanguageModel(6, 9, 4),
        lambda: [np.random.randn(9, 6), *rnn_draws(6, 4), *linear_draws(4, 9)],
    )


def language_model_forward(parameters, kind, layers, ids, state):
    """Logits (T*B, V) and the states after the last step."""
    table, *middle, weight, bias = parameters
    forward = {"rnn": rnn_forward, "lstm": lstm_forward}[kind]
    out, *state = forward(table[ids], *state, by_layer(middle, layers))
    return out.reshape(-1, out.shape[2]) @ weight + bias, state


@pytest.mark.parametrize("given", [True, False])
@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("kind", ["rnn", "lstm"])
def test_language_model_gives_logits_and_state(each_device, kind, layers, given):
    model = LanguageModel(6, 9, 4, layers, seq_model=kind, seq_len=5, device=each_device)
    ids = np.random.RandomState(0).randint(9, size=(5, 3))
    states = arrays(*[(layers, 3, 4)] * (1 if kind == "rnn" else 2))
    h = tuple(tensor(s, each_device) for s in states) if kind == "lstm" else None
    h = tensor(states[0], each_device) if kind == "rnn" else h
    logits, last = model(tensor(ids, each_device), h if given else None)
    parameters = [p.numpy().astype("float64") for p in model.parameters()]
    states = states if given else [np.zeros((layers, 3, 4)) for _ in states]
    expected, state = language_model_forward(parameters, kind, layers, ids, states)
    assert logits.shape == (15, 9)
    np.testing.assert_allclose(logits.numpy(), expected, **TOLERANCE)
    assert type(last) is tuple if kind == "lstm" else isinstance(last, Tensor)
    for found, values in zip(last if kind == "lstm" else [last], state, strict=True):
        assert found.shape == (layers, 3, 4)
        np.testing.assert_allclose(found.numpy(), values, **TOLERANCE)
    nn.SoftmaxLoss()(logits, tensor(np.zeros(15), each_device)).backward()
    assert all(p.grad is not None and p.grad.shape == p.shape for p in model.parameters())


@pytest.mark.parametrize("kind", ["rnn", "lstm"])
def test_the_state_given_back_can_be_given_again(kind):
    model = LanguageModel(6, 9, 4, 2, kind)
    ids = np.random.RandomState(0).randint(9, size=(6, 2))
    whole, _ = model(tensor(ids))
    first, h = model(tensor(ids[:4]))
    h = tuple(s.detach() for s in h) if kind == "lstm" else h.detach()
    second, _ = model(tensor(ids[4:]), h)
    parts = np.concatenate([first.numpy(), second.numpy()])
    np.testing.assert_allclose(parts, whole.numpy(), **TOLERANCE)


@pytest.mark.parametrize("kind", ["rnn", "lstm"])
def test_a_language_model_learns_by_sgd(kind):
    np.random.seed(0)
    model = LanguageModel(8, 5, 16, 1, kind)
    ids = np.arange(20).reshape(10, 2) % 5
    x, y = tensor(ids[:-1]), tensor(ids[1:].ravel())
    optimizer = ndl.optim.SGD(model.parameters(), lr=1.0)
    losses = []
    for _ in range(30):
        optimizer.reset_grad()
        loss = nn.SoftmaxLoss()(model(x)[0], y)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] / 2

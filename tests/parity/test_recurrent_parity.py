"""Recurrent cells and layers against PyTorch: every option, values, all gradients, second order."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from parity.side_by_side import compare, torch
from tensors import tensor

from needle import nn

tnn = torch.nn
pack, unpack = tnn.utils.rnn.pack_padded_sequence, tnn.utils.rnn.pad_packed_sequence
KINDS = ["RNN", "LSTM", "GRU"]
NAMES = ("W_ih", "W_hh", "bias_ih", "bias_hh")
TORCHS = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
STEPS, BATCH, INPUTS, HIDDEN = 4, 3, 2, 3
LENGTHS = [2, 4, 1]


def array(*shape, seed=0):
    return np.random.RandomState(seed).randn(*shape)


def cells_of(layer):
    return getattr(layer, layer.cells_name)


def as_in_torch(layer):
    """PyTorch's layer of the same options, its parameters in the order of our cells."""
    kind, first = type(layer).__name__, cells_of(layer)[0]
    options = {"nonlinearity": first.nonlinearity} if kind == "RNN" else {}
    return getattr(tnn, kind)(
        layer.input_size,
        layer.hidden_size,
        layer.num_layers,
        bias=first.bias_ih is not None,
        batch_first=layer.batch_first,
        bidirectional=layer.bidirectional,
        dtype=torch.float64,
        **options,
    )


def weights_of(layer):
    """Every parameter's values, and PyTorch's name and values for each."""
    found = []
    for number, cell in enumerate(cells_of(layer)):
        above, way = divmod(number, layer.directions)
        for ours, theirs in zip(NAMES, TORCHS, strict=True):
            if getattr(cell, ours) is not None:
                name = f"{theirs}_l{above}" + "_reverse" * way
                found.append((cell, ours, name))
    return found


def flat(result):
    """(output, states) as one tuple of tensors."""
    output, states = result
    return (output, *(states if isinstance(states, tuple) else [states]))


def compare_layers(layer, x, *states, lengths=None, pair=False):
    """Both give the same for x, the states and all weights as inputs, to the second order."""
    other, names = as_in_torch(layer), weights_of(layer)
    weights = [getattr(cell, name).numpy() for cell, name, _ in names]

    def given(states):
        return (tuple(states) if pair else states[0]) if states else None

    def ours(x, *rest):
        for (cell, name, _), weight in zip(names, rest, strict=False):
            setattr(cell, name, weight)
        return flat(layer(x, given(rest[len(names) :]), lengths=lengths))

    def theirs(x, *rest):
        parameters = {
            name: weight.T if weight.ndim == 2 else weight
            for (_, _, name), weight in zip(names, rest, strict=False)
        }
        first = layer.batch_first
        if lengths is not None:
            x = pack(x, torch.tensor(lengths), batch_first=first, enforce_sorted=False)
        hidden = rest[len(names) :]
        output, states = torch.func.functional_call(other, parameters, (x, given(hidden)))
        if lengths is not None:
            output, _ = unpack(output, batch_first=first)
        return flat((output, states))

    compare(ours, theirs, x, *weights, *states, rtol=1e-9)


@pytest.mark.parametrize(
    ("kind", "layers", "bias", "both"),
    list(itertools.product(KINDS, [1, 2], [True, False], [True, False])),
)
def test_layer_agrees_to_the_second_order(kind, layers, bias, both):
    np.random.seed(0)
    layer = getattr(nn, kind)(INPUTS, HIDDEN, layers, bias, dtype="float64", bidirectional=both)
    compare_layers(layer, array(STEPS, BATCH, INPUTS))


@pytest.mark.parametrize(("kind", "first"), list(itertools.product(KINDS, [True, False])))
def test_layer_with_states_and_batch_first_agrees(kind, first):
    np.random.seed(1)
    layer = getattr(nn, kind)(
        INPUTS, HIDDEN, 2, dtype="float64", batch_first=first, bidirectional=True
    )
    states = [array(4, BATCH, HIDDEN, seed=k) for k in range(2 if kind == "LSTM" else 1)]
    x = array(BATCH, STEPS, INPUTS) if first else array(STEPS, BATCH, INPUTS)
    compare_layers(layer, x, *states, pair=kind == "LSTM")


@pytest.mark.parametrize(("kind", "both"), list(itertools.product(KINDS, [True, False])))
def test_lengths_agree_with_packed_sequences(kind, both):
    np.random.seed(2)
    layer = getattr(nn, kind)(INPUTS, HIDDEN, 2, dtype="float64", bidirectional=both)
    compare_layers(layer, array(STEPS, BATCH, INPUTS), lengths=LENGTHS)


def test_relu_agrees():
    np.random.seed(3)
    layer = nn.RNN(INPUTS, HIDDEN, 2, True, "relu", dtype="float64", bidirectional=True)
    compare_layers(layer, array(STEPS, BATCH, INPUTS), lengths=LENGTHS)


@pytest.mark.parametrize("kind", KINDS)
def test_cell_agrees_with_torchs(kind):
    np.random.seed(4)
    ours = getattr(nn, f"{kind}Cell")(INPUTS, HIDDEN, dtype="float64")
    theirs = getattr(tnn, f"{kind}Cell")(INPUTS, HIDDEN, dtype=torch.float64)
    with torch.no_grad():
        for mine, other in zip(NAMES, TORCHS, strict=True):
            getattr(theirs, other).copy_(torch.tensor(getattr(ours, mine).numpy().T))

    def with_state(cell):
        def function(x, *states):
            return cell(x, tuple(states) if kind == "LSTM" else states[0])

        return function

    states = [array(BATCH, HIDDEN, seed=k) for k in range(2 if kind == "LSTM" else 1)]
    compare(with_state(ours), with_state(theirs), array(BATCH, INPUTS), *states)
    compare(ours, theirs, array(BATCH, INPUTS))


def test_float32_agrees_over_many_steps():
    np.random.seed(5)
    layer = nn.LSTM(20, 24, 2)
    other = tnn.LSTM(20, 24, 2)
    with torch.no_grad():
        for cell, mine, name in weights_of(layer):
            getattr(other, name).copy_(torch.tensor(getattr(cell, mine).numpy().T))
    x = array(35, 5, 20).astype("float32")
    a, b = tensor(x), torch.tensor(x, requires_grad=True)
    y, z = layer(a)[0], other(b)[0]
    y.sum().backward()
    z.sum().backward()
    np.testing.assert_allclose(y.numpy(), z.detach().numpy(), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(a.grad.numpy(), b.grad.numpy(), rtol=1e-4, atol=1e-5)
    for cell, mine, name in weights_of(layer):
        expected = getattr(other, name).grad.numpy().T
        np.testing.assert_allclose(getattr(cell, mine).grad.numpy(), expected, rtol=1e-4, atol=1e-4)


def test_helpers_of_sequences_agree():
    parts = [array(n, 2, seed=n) for n in (3, 1, 4)]
    ours, theirs = [tensor(p) for p in parts], [torch.tensor(p) for p in parts]
    for first in (False, True):
        mine = nn.pad_sequence(ours, batch_first=first, padding_value=-1.0)
        other = tnn.utils.rnn.pad_sequence(theirs, batch_first=first, padding_value=-1.0)
        np.testing.assert_array_equal(mine.numpy(), other.numpy())
        packed = nn.pack_padded_sequence(mine, [3, 1, 4], batch_first=first)
        torchs = pack(other, torch.tensor([3, 1, 4]), batch_first=first, enforce_sorted=False)
        for total in (None, 6):
            a, n = nn.pad_packed_sequence(packed, first, 7.0, total)
            b, m = unpack(torchs, first, 7.0, total)
            np.testing.assert_array_equal(a.numpy(), b.numpy())
            assert n.numpy().tolist() == m.tolist() == [3, 1, 4]

"""Recurrent cells and layers, and sequences of different lengths, beyond the operators."""

from __future__ import annotations

import math

import numpy as np
import pytest
from tensors import tensor

import needle as ndl
from needle import nn
from needle.autograd.backward import find_topo_sort
from needle.errors import DTypeError, OptionError, ShapeError
from needle.nn import nn_sequence

LAYERS = [nn.RNN, nn.LSTM, nn.GRU]
BLOCKS = {"RNN": 1, "LSTM": 4, "GRU": 3}
every_layer = pytest.mark.parametrize("kind", LAYERS, ids=lambda kind: kind.__name__)


def drawn(*shape, dtype="float64", seed=0):
    return tensor(np.random.RandomState(seed).randn(*shape), dtype=dtype)


def states_of(result):
    """The final states, as a tuple, from what a layer returns."""
    return result[1] if isinstance(result[1], tuple) else (result[1],)


def close(a, b, rtol=1e-9):
    np.testing.assert_allclose(a.numpy(), b.numpy(), rtol=rtol, atol=1e-12)


# -- parameters and draws ----------------------------------------------------------------------


@pytest.mark.parametrize("kind", [nn.RNNCell, nn.LSTMCell, nn.GRUCell])
def test_cell_draws_weights_then_biases_from_numpys_stream(kind):
    np.random.seed(3)
    cell = kind(5, 4)
    width, bound = kind.blocks * 4, 1 / math.sqrt(4)
    np.random.seed(3)
    for name, shape in [("W_ih", (5, width)), ("W_hh", (4, width)), ("bias_ih", (width,)),
                        ("bias_hh", (width,))]:  # fmt: skip
        draw = np.random.rand(*shape) * 2 * bound - bound
        assert isinstance(getattr(cell, name), nn.Parameter)
        np.testing.assert_allclose(getattr(cell, name).numpy(), draw, atol=1e-6)
    cell = kind(5, 4, bias=False)
    assert cell.bias_ih is None and cell.bias_hh is None
    assert len(cell.parameters()) == 2


@every_layer
def test_layer_draws_its_cells_from_layer_0_up_forwards_before_backwards(kind):
    np.random.seed(1)
    layer = kind(5, 4, 2, bidirectional=True)
    np.random.seed(1)
    width = BLOCKS[kind.__name__] * 4
    cells = getattr(layer, kind.__name__.lower() + "_cells")
    assert len(cells) == 4
    for cell, size in zip(cells, [5, 5, 8, 8], strict=True):
        np.testing.assert_allclose(cell.W_ih.numpy(), np.random.rand(size, width) - 0.5, atol=1e-6)
        np.random.rand(4 * width + 2 * width)


def test_the_courses_file_has_the_modules_of_sequences():
    assert nn_sequence.LSTM is nn.LSTM
    assert nn_sequence.RNNCell is nn.RNNCell
    assert nn_sequence.Sigmoid is nn.Sigmoid


# -- values ------------------------------------------------------------------------------------


@every_layer
@pytest.mark.parametrize("given", [False, True])
def test_layer_is_its_cells_one_step_after_the_other(kind, given):
    np.random.seed(0)
    layer = kind(3, 4, 2, dtype="float64")
    cells, x = getattr(layer, layer.cells_name), drawn(5, 2, 3)
    names = cells[0].states
    before = [drawn(2, 2, 4, seed=k) if given else tensor(np.zeros((2, 2, 4))) for k in (1, 2)]
    pair = kind is nn.LSTM
    states = [tuple(s[k] for s in before[: len(names)]) for k in range(2)]
    outputs = []
    for t in range(5):
        below = x[t]
        for k, cell in enumerate(cells):
            after = cell(below, states[k] if pair else states[k][0])
            states[k] = after if pair else (after,)
            below = states[k][0]
        outputs.append(below)
    h = (tuple(before) if pair else before[0]) if given else None
    result = layer(x, h)
    close(result[0], ndl.stack(outputs, 0))
    for column, end in zip(zip(*states, strict=True), states_of(result), strict=True):
        close(end, ndl.stack(column, 0))


@every_layer
def test_weights_are_read_when_it_is_called(kind):
    layer = kind(3, 4)
    cell, x = getattr(layer, layer.cells_name)[0], drawn(5, 2, 3, dtype="float32")
    for name in ("W_ih", "W_hh", "bias_ih", "bias_hh"):
        shape = getattr(cell, name).shape
        setattr(cell, name, ndl.Tensor(np.random.RandomState(1).randn(*shape), dtype="float32"))
    layer(x)[0].sum().backward()
    assert all(getattr(cell, n).grad.shape == getattr(cell, n).shape
               for n in ("W_ih", "W_hh", "bias_ih", "bias_hh"))  # fmt: skip


@pytest.mark.parametrize("kind", [nn.RNNCell, nn.LSTMCell, nn.GRUCell])
def test_every_weight_of_a_cell_has_a_gradient_without_a_state_given(kind):
    cell = kind(3, 4)
    result = cell(drawn(2, 3, dtype="float32"))
    (result[0] if kind is nn.LSTMCell else result).sum().backward()
    assert all(p.grad is not None for p in cell.parameters())
    np.testing.assert_array_equal(cell.W_hh.grad.numpy(), 0)


@every_layer
def test_gradients_reach_states_and_input_through_final_states_alone(kind):
    layer, x = kind(3, 4, 2, dtype="float64"), drawn(3, 2, 3)
    states = [drawn(2, 2, 4, seed=k) for k in range(2 if kind is nn.LSTM else 1)]
    result = layer(x, tuple(states) if kind is nn.LSTM else states[0])
    states_of(result)[-1].sum().backward()
    assert all(np.abs(v.grad.numpy()).min() > 0 for v in (x, *states))


@every_layer
def test_input_and_state_that_need_no_gradient_get_none(kind):
    layer, x = kind(3, 4), ndl.init.randn(5, 2, 3)
    layer(x)[0].sum().backward()
    assert x.grad is None


@every_layer
def test_no_graph_is_kept_under_no_grad(kind):
    with ndl.no_grad():
        output, _ = kind(3, 4)(ndl.init.randn(5, 2, 3))
    assert output.op is None


@every_layer
def test_lazy_is_eager(kind):
    layer, x = kind(3, 4, 2, dtype="float64", bidirectional=True), drawn(5, 2, 3)
    eager = layer(x)[0]
    eager.sum().backward()
    grad = x.grad
    with ndl.lazy():
        lazy = layer(x)[0]
        assert lazy.shape == (5, 2, 8)
        lazy.sum().backward()
        close(lazy, eager)
        close(x.grad, grad)


@every_layer
def test_a_batch_of_none_and_one_step_work(kind):
    output, _ = kind(3, 4, 2, bidirectional=True)(ndl.init.randn(5, 0, 3))
    assert output.shape == (5, 0, 8)
    output, _ = kind(3, 4)(ndl.init.randn(1, 2, 3))
    assert output.shape == (1, 2, 4)


@every_layer
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_narrow_floats_stay_narrow(kind, dtype):
    x = drawn(3, 2, 3, dtype=dtype)
    result = kind(3, 4, 2, dtype=dtype)(x)
    assert {str(y.dtype) for y in (result[0], *states_of(result))} == {dtype}
    result[0].sum().backward()
    assert str(x.grad.dtype) == dtype


def test_names_of_parameters_come_back_from_a_file(tmp_path):
    layer, other = nn.GRU(3, 4, 2), nn.GRU(3, 4, 2)
    ndl.save(layer.state_dict(), tmp_path / "gru.safetensors")
    other.load_state_dict(ndl.load(tmp_path / "gru.safetensors"))
    x = ndl.init.randn(2, 3, 3)
    close(layer(x)[0], other(x)[0])
    assert "gru_cells.1.bias_hh" in layer.state_dict()


# -- options -----------------------------------------------------------------------------------


@every_layer
def test_batch_first_swaps_the_first_two_axes_of_input_and_output(kind):
    layer, x = kind(3, 4, 2, dtype="float64"), drawn(5, 2, 3)
    output, h = layer(x)
    layer.batch_first = True
    swapped, same = layer(x.transpose((0, 1)))
    close(swapped.transpose((0, 1)), output)
    close(states_of((0, same))[0], states_of((0, h))[0])


@every_layer
def test_the_second_direction_goes_through_the_sequence_backwards(kind):
    both, x = kind(3, 4, dtype="float64", bidirectional=True), drawn(5, 2, 3)
    one = kind(3, 4, dtype="float64")
    getattr(one, one.cells_name)[0] = getattr(both, both.cells_name)[1]
    result, backwards = both(x), one(x.flip(0))
    close(result[0][:, :, 4:], backwards[0].flip(0))
    for all_ends, ends in zip(states_of(result), states_of(backwards), strict=True):
        close(all_ends[1:], ends)


@every_layer
def test_dropout_is_between_layers_and_in_training_only(kind):
    layer, x = kind(3, 4, 2, dtype="float64", dropout=0.5), drawn(5, 2, 3)
    bottom, top = kind(3, 4, dtype="float64"), kind(4, 4, dtype="float64")
    cells = getattr(layer, layer.cells_name)
    getattr(bottom, bottom.cells_name)[0], getattr(top, top.cells_name)[0] = cells
    middle = bottom(x)[0]
    np.random.seed(2)
    found = layer(x)[0]
    np.random.seed(2)
    close(found, top(nn.Dropout(0.5)(middle))[0])
    assert layer.eval().dropout.training is False
    close(layer(x)[0], top(middle)[0])


# -- lengths -----------------------------------------------------------------------------------

LENGTHS = [3, 5, 1]


@every_layer
@pytest.mark.parametrize("both", [False, True])
def test_lengths_give_what_each_sequence_gives_alone(kind, both):
    layer = kind(3, 4, 2, dtype="float64", bidirectional=both)
    values = np.random.RandomState(0).randn(5, 3, 3)
    values[3:, 0] = values[1:, 2] = np.nan  # what follows the end has no effect, not even this
    x = tensor(values)
    result = layer(x, lengths=LENGTHS)
    (result[0] * result[0]).sum().backward()
    assert np.isfinite(x.grad.numpy()).all()
    weights = [p.grad for p in layer.parameters()]
    total = [np.zeros(p.shape) for p in weights]
    for b, n in enumerate(LENGTHS):
        alone = layer(tensor(values[:n, b : b + 1]))
        close(result[0][:n, b : b + 1], alone[0])
        assert not result[0].numpy()[n:, b].any()
        for all_ends, ends in zip(states_of(result), states_of(alone), strict=True):
            close(all_ends[:, b : b + 1], ends)
        (alone[0] * alone[0]).sum().backward()
        total = [t + p.grad.numpy() for t, p in zip(total, layer.parameters(), strict=True)]
    for mine, sums in zip(weights, total, strict=True):
        np.testing.assert_allclose(mine.numpy(), sums, rtol=1e-8, atol=1e-12)


@every_layer
def test_a_packed_sequence_in_gives_one_out(kind):
    layer, x = kind(3, 4, bidirectional=True, dtype="float64", batch_first=True), drawn(3, 5, 3)
    packed = nn.pack_padded_sequence(x, LENGTHS, batch_first=True)
    result, expected = layer(packed), layer(x, lengths=tensor(LENGTHS))
    assert repr(result[0]) == "PackedSequence(float64[5,3,8], lengths=[3, 5, 1])"
    close(nn.pad_packed_sequence(result[0], batch_first=True)[0], expected[0])
    close(states_of(result)[0], states_of(expected)[0])


def test_mixed_dtypes_leave_every_gradient_in_the_dtype_of_what_it_is_of():
    for kind in LAYERS:
        for of_weights, of_x in [("float32", "float64"), ("bfloat16", "float32")]:
            layer = kind(3, 4, dtype=of_weights)
            x = ndl.init.randn(5, 2, 3, dtype=of_x, requires_grad=True)
            (grad,) = ndl.grad([(layer(x)[0] ** 2).sum()], [x])
            assert grad.dtype == x.dtype
            (grad * grad).sum().backward()
            assert {p.grad.dtype for p in layer.parameters()} == {layer.parameters()[0].dtype}
            assert x.grad.dtype == x.dtype


# -- one sequence without a batch --------------------------------------------------------------


@every_layer
@pytest.mark.parametrize("given", [False, True])
def test_one_sequence_gives_what_a_batch_of_one_gives(kind, given):
    layer = kind(3, 4, 2, dtype="float64", bidirectional=True, batch_first=True)
    x, states = drawn(5, 3), [drawn(4, 4, seed=1), drawn(4, 4, seed=2)]
    batch = [state.expand_dims(1) for state in states]
    pair = kind is nn.LSTM
    h = (tuple(states) if pair else states[0]) if given else None
    hs = (tuple(batch) if pair else batch[0]) if given else None
    alone, result = layer(x, h), layer(x.expand_dims(0), hs)
    assert alone[0].shape == (5, 8)
    close(alone[0], result[0][0])
    for mine, theirs in zip(states_of(alone), states_of(result), strict=True):
        close(mine, theirs[:, 0])


@pytest.mark.parametrize("kind", [nn.RNNCell, nn.LSTMCell, nn.GRUCell])
def test_cell_steps_without_a_batch(kind):
    cell, x, states = kind(3, 4, dtype="float64"), drawn(3), [drawn(4, seed=1), drawn(4, seed=2)]
    batch = [state.expand_dims(0) for state in states]
    pair = kind is nn.LSTMCell
    alone = cell(x, tuple(states) if pair else states[0])
    result = cell(x.expand_dims(0), tuple(batch) if pair else batch[0])
    for mine, theirs in zip(alone if pair else [alone], result if pair else [result], strict=True):
        assert mine.shape == (4,)
        close(mine, theirs[0])
    assert (cell(x)[0] if pair else cell(x)).shape == (4,)


# -- one step ----------------------------------------------------------------------------------


@every_layer
@pytest.mark.parametrize("bias", [False, True])
def test_a_step_by_itself_is_the_first_of_many(kind, bias):
    layer = kind(3, 4, 2, bias, dtype="float64", bidirectional=True)
    x = drawn(1, 2, 3)
    states = [drawn(4, 2, 4, seed=1), drawn(4, 2, 4, seed=2)]
    h = tuple(states) if kind is nn.LSTM else states[0]
    twice = ndl.concatenate([x, x], 0)
    with_padding = layer(twice, h, lengths=[1, 1])  # the scan over two steps, the second is none
    alone = layer(x, h)
    close(alone[0], with_padding[0][:1])
    for mine, theirs in zip(states_of(alone), states_of(with_padding), strict=True):
        close(mine, theirs)
    leaves = [x, *states[: len(states_of(alone))], *layer.parameters()]
    weights = drawn(1, 2, 8, seed=3)
    both = [ndl.grad([(y[0][:1] * weights).sum()], leaves) for y in (alone, with_padding)]
    for mine, theirs in zip(*both, strict=True):
        close(mine, theirs)


@every_layer
def test_lengths_of_one_step_change_nothing(kind):
    layer, x = kind(3, 4, bidirectional=True, dtype="float64"), drawn(1, 2, 3)
    close(layer(x, lengths=[1, 1])[0], layer(x)[0])


@pytest.mark.parametrize(("kind", "ops"), [(nn.RNNCell, 6), (nn.LSTMCell, 8), (nn.GRUCell, 5)])
def test_a_cell_makes_few_nodes(kind, ops):
    cell, x = kind(3, 4), ndl.init.randn(2, 3)
    states = [ndl.init.randn(2, 4, requires_grad=True) for _ in cell.states]
    after = cell(x, tuple(states) if kind is nn.LSTMCell else states[0])
    outputs = list(after) if kind is nn.LSTMCell else [after]
    nodes = [node for node in find_topo_sort(outputs) if node.op is not None]
    assert len(nodes) == ops, [node.op.name for node in nodes]
    assert not any(node.op.name in ("reshape", "stack", "getitem") for node in nodes)


def test_layers_and_cells_show_the_options_that_are_not_as_usual():
    layer = nn.RNN(3, 4, 2, False, "relu", bidirectional=True)
    shown = "num_layers=2, bias=False, bidirectional=True, nonlinearity='relu'"
    assert repr(layer).startswith(f"RNN(3, 4, {shown}\n")
    assert repr(nn.LSTM(3, 4)).startswith("LSTM(3, 4\n")
    assert repr(nn.RNNCell(3, 4, nonlinearity="relu")).endswith("bias=True, nonlinearity='relu')")


# -- bad input ---------------------------------------------------------------------------------


STATE = ndl.init.zeros(1, 2, 4)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: nn.RNN(0, 4), OptionError, "RNN: expected input_size of 1 or more, got 0"),
        (lambda: nn.LSTM(3, 2.5), OptionError, "LSTM: expected hidden_size of 1 or more, got 2.5"),
        (lambda: nn.GRU(3, 4, 0), OptionError, "GRU: expected num_layers of 1 or more, got 0"),
        (lambda: nn.GRU(3, 4, dropout=1.5), OptionError, r"GRU: expected dropout in \[0, 1\]"),
        (lambda: nn.RNN(3, 4, 1, True, "elu"), OptionError,
         "^RNN: expected nonlinearity 'tanh' or 'relu', got 'elu'"),
        (lambda: nn.RNNCell(3, 4, True, ["relu"]), OptionError,
         r"^RNNCell: expected nonlinearity 'tanh' or 'relu', got \['relu'\]"),
        (lambda: nn.LSTM(3, 4, dtype="int32"), DTypeError, "^LSTM: expected a float dtype, got in"),
        (lambda: nn.LSTM(3, 4)(ndl.init.randn(5, 3), lengths=[5]), OptionError,
         r"LSTM: expected no lengths for one sequence, got float32\[5,3\]"),
        (lambda: nn.GRU(3, 4)(ndl.init.randn(5, 3), STATE), ShapeError,
         r"GRU: expected h0 \[1, 4\], got float32\[1,2,4\]"),
        (lambda: nn.LSTM(3, 4, proj_size=2), TypeError,
         r"^LSTM\.__init__\(\) got an unexpected keyword argument 'proj_size'"),
        (lambda: nn.GRUCell(3), TypeError,
         r"^GRUCell\.__init__\(\) missing 1 required positional argument: 'hidden_size'"),
        (lambda: nn.GRU(3, 4)(STATE, batch_sizes=1), TypeError,
         r"^GRU\.forward\(\) got an unexpected keyword argument 'batch_sizes'"),
        (lambda: nn.LSTMCell("3", 4), OptionError, "LSTMCell: expected input_size of 1 or more"),
        (lambda: nn.RNN(3, 4)(np.ones((5, 2, 3))), DTypeError, "RNN: expected Tensors, got"),
        (lambda: nn.RNN(3, 4)(ndl.init.randn(5, 4)), ShapeError,
         r"RNN: expected x \[T, B, 3\] or \[T, 3\], got float32\[5,4\]"),
        (lambda: nn.GRU(3, 4, batch_first=True)(ndl.init.randn(2, 5, 4)), ShapeError,
         r"GRU: expected x \[B, T, 3\] or \[T, 3\], got float32\[2,5,4\]"),
        (lambda: nn.LSTM(3, 4)(ndl.init.randn(0, 2, 3)), ShapeError,
         r"LSTM: expected a sequence of 1 step or more, got float32\[0,2,3\]"),
        (lambda: nn.RNN(3, 4)(ndl.init.randn(5, 2, 3), ndl.init.zeros(2, 2, 4)), ShapeError,
         r"RNN: expected h0 \[1, 2, 4\], got float32\[2,2,4\]"),
        (lambda: nn.LSTM(3, 4)(ndl.init.randn(5, 2, 3), (STATE, ndl.init.zeros(1, 3, 4))),
         ShapeError, r"LSTM: expected c0 \[1, 2, 4\], got float32\[1,3,4\]"),
        (lambda: nn.LSTM(3, 4)(ndl.init.randn(5, 2, 3), STATE), DTypeError,
         r"LSTM: expected the state as a pair \(h, c\), got float32\[1,2,4\]"),
        (lambda: nn.LSTMCell(3, 4)(ndl.init.randn(2, 3), (STATE[0],)), DTypeError,
         r"LSTMCell: expected the state as a pair \(h, c\), got"),
        (lambda: nn.GRUCell(3, 4)(ndl.init.randn(2, 2)), ShapeError,
         r"GRUCell: expected x \[B, 3\] or \[3\], got float32\[2,2\]"),
        (lambda: nn.RNNCell(3, 4)(ndl.init.randn(2, 3), STATE), ShapeError,
         r"RNNCell: expected h \[2, 4\], got float32\[1,2,4\]"),
        (lambda: nn.LSTM(3, 4)(nn.PackedSequence(ndl.init.randn(5, 1, 3), [5]), lengths=[5]),
         OptionError, "LSTM: expected lengths or a PackedSequence, got both"),
    ],
)  # fmt: skip
def test_bad_input_is_told_in_one_line(call, error, message):
    with pytest.raises(error, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)

"""Recurrent layers: cells one above the other, in one direction or both, for any lengths."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from needle.autograd import Tensor
from needle.errors import OptionError, ShapeError, describe
from needle.nn.checks import (
    require_float_dtype,
    require_number,
    require_positive,
    require_tensors,
    shown_options,
)
from needle.nn.layers import Dropout
from needle.nn.module import Module
from needle.nn.recurrent_cells import (
    GRUCell,
    LSTMCell,
    RNNCell,
    _Cell,
    _pair,
    _require_states,
)
from needle.nn.sequences import PackedSequence
from needle.ops import concatenate, flip, stack
from needle.ops.recurrence import require_nonlinearity

__all__ = ["GRU", "LSTM", "RNN"]


class _Recurrent(Module):
    """Base: cells one above the other, over all steps, in one direction or in both.

    Cells, and rows of states, come in the order layer 0, layer 0 backwards, layer 1, ...
    """

    cell: type[_Cell]
    cells_name = ""  # of the attribute that holds them

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        device: Any = None,
        dtype: Any = "float32",
        *,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
    ) -> None:
        super().__init__()
        name = type(self).__name__
        sizes = {"input_size": input_size, "hidden_size": hidden_size, "num_layers": num_layers}
        require_positive(name, **sizes)
        require_number(name, "dropout in [0, 1]", dropout, lambda p: 0 <= p <= 1)
        require_float_dtype(name, dtype)
        self.input_size, self.hidden_size, self.num_layers = sizes.values()
        self.bias, self.batch_first, self.bidirectional = bias, batch_first, bidirectional
        self.dropout = Dropout(dropout)
        options = {"bias": bias, "device": device, "dtype": dtype, **self._cell_options()}
        cells = [self.cell(size, hidden_size, **options) for size in self._input_sizes()]
        setattr(self, self.cells_name, cells)

    def _cell_options(self) -> dict[str, Any]:
        """What cells are told that not every kind of cell has."""
        return {}

    @property
    def directions(self) -> int:
        """2 if it also goes through the sequence backwards, else 1."""
        return 2 if self.bidirectional else 1

    @property
    def _cells(self) -> list[_Cell]:
        cells: list[_Cell] = getattr(self, self.cells_name)
        return cells

    def _input_sizes(self) -> list[int]:
        """What each cell reads: the input, or both directions of the layer below."""
        above = [self.directions * self.hidden_size] * (self.num_layers - 1)
        return [size for size in (self.input_size, *above) for _ in range(self.directions)]

    def _run(
        self, x: Any, states: Sequence[Any] | None, lengths: Any
    ) -> tuple[Any, tuple[Tensor, ...]]:
        """What the last layer gives, in the form of x, and the states that each cell ends with."""
        if isinstance(x, PackedSequence):
            if lengths is not None:
                name = type(self).__name__
                raise OptionError(f"{name}: expected lengths or a PackedSequence, got both.")
            self._require_input(x.padded, False)
            y, ends = self._over_layers(x.masked(), states, x.lengths)
            return PackedSequence(y, x.lengths), ends
        self._require_input(x, self.batch_first)
        if x.ndim == 2:
            return self._run_unbatched(x, states, lengths)
        if self.batch_first:
            x = x.transpose((0, 1))
        if lengths is not None:
            packed = PackedSequence(x, lengths)
            x, lengths = packed.masked(), packed.lengths
        y, ends = self._over_layers(x, states, lengths)
        return y.transpose((0, 1)) if self.batch_first else y, ends

    def _run_unbatched(
        self, x: Tensor, states: Sequence[Any] | None, lengths: Any
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """One sequence, (T, I), by itself, its states (cells, H): as a batch of one."""
        if lengths is not None:
            raise OptionError(
                f"{type(self).__name__}: expected no lengths for one sequence, got {describe(x)} "
                "and lengths. Cut it to its length."
            )
        if states is not None:
            self._require_states(states, (len(self._cells), self.hidden_size))
            states = [state.expand_dims(1) for state in states]
        y, ends = self._over_layers(x.expand_dims(1), states, None)
        return y.squeeze(1), tuple([state.squeeze(1) for state in ends])

    def _over_layers(
        self, x: Tensor, states: Sequence[Any] | None, lengths: Any
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """(T, B, I) -> (T, B, directions · H), zeros past each end; (cells, B, H) of each state."""
        cells, ends = self._cells, []
        before = self._states_before(x, states)
        for layer in range(self.num_layers):
            if layer and self.dropout.p:
                x = self.dropout(x)
            ways = []
            for way in range(self.directions):
                number = layer * self.directions + way
                own = [state[number] for state in before]
                y, end = _one_way(cells[number], x, own, lengths, backwards=way == 1)
                ways.append(y)
                ends.append(end)
            x = concatenate(ways, -1) if ways[1:] else ways[0]
        y = x if lengths is None else PackedSequence(x, lengths).masked()
        return y, tuple([stack(column, 0) for column in zip(*ends, strict=True)])

    def _states_before(self, x: Tensor, states: Sequence[Any] | None) -> Sequence[Any]:
        """The states given, of the right shape; else zeros for each cell."""
        cells, batch = self._cells, x.shape[1]
        if states is None:
            return [[cell.zeros(x, batch) for cell in cells]] * len(cells[0].states)
        self._require_states(states, (len(cells), batch, self.hidden_size))
        return states

    def _require_states(self, states: Sequence[Any], shape: tuple[int, ...]) -> None:
        name = type(self).__name__
        require_tensors(name, *states)
        _require_states(name, [f"{state}0" for state in self.cell.states], states, shape)

    def _require_input(self, x: Any, batch_first: bool) -> None:
        name, features = type(self).__name__, self._cells[0].W_ih.shape[0]
        require_tensors(name, x)
        if x.ndim not in (2, 3) or x.shape[-1] != features:
            axes = "B, T" if batch_first else "T, B"
            raise ShapeError(
                f"{name}: expected x [{axes}, {features}] or [T, {features}], got {describe(x)}."
            )
        if x.shape[1 if batch_first and x.ndim == 3 else 0] == 0:
            raise ShapeError(f"{name}: expected a sequence of 1 step or more, got {describe(x)}.")

    def forward(self, x: Any, h0: Any = None, *, lengths: Any = None) -> tuple[Any, Any]:
        output, (h_n,) = self._run(x, None if h0 is None else [h0], lengths)
        return output, h_n

    def extra_repr(self) -> str:
        usual = {"num_layers": 1, "bias": True, "batch_first": False, "bidirectional": False}
        return f"{self.input_size}, {self.hidden_size}{shown_options(self, **usual)}"


def _one_way(
    cell: _Cell, x: Tensor, states: Sequence[Tensor], lengths: Any, backwards: bool
) -> tuple[Tensor, list[Tensor]]:
    """One cell over all steps: its output, and each state after the sequence's last step."""
    if x.shape[0] == 1:  # the last step of all, and the first in either direction
        states = cell.one_step(x.reshape(x.shape[1:]), *states)
        return states[0].reshape((1, *states[0].shape)), list(states)
    after = cell.over_time(_reversed(x, lengths) if backwards else x, *states)
    if lengths is None:
        ends = [state[-1] for state in after]
    else:
        ends = [PackedSequence(state, lengths).last() for state in after]
    return _reversed(after[0], lengths) if backwards else after[0], ends


def _reversed(x: Tensor, lengths: Any) -> Tensor:
    """Each sequence back to front."""
    return flip(x, 0) if lengths is None else PackedSequence(x, lengths).reversed().padded


class RNN(_Recurrent):
    """Cells h_t = act(x_t W_ih + bias_ih + h_{t-1} W_hh + bias_hh), layer above layer.

    x: (T, B, I), T of 1 or more; h0: (L, B, H), zeros if left out
    -> output: (T, B, D · H), of the last layer; h_n: (L, B, H), after each sequence's last step;
    one sequence may come without B, as (T, I), and h0, output and h_n are without it then

    Here L = num_layers · D, and D = 2 if bidirectional, else 1; rows of h0 and h_n come in the
    order layer 0, layer 0 backwards, layer 1, ..., as do the cells in `rnn_cells` (see `RNNCell`).

    batch_first    x and output are (B, T, ...); h0 and h_n stay as they are
    dropout        between layers, in training (see `Dropout` for the draws)
    bidirectional  a second cell in each layer goes backwards; the outputs lie side by side
    lengths        (B,) whole numbers in [1, T]: where each sequence ends. What follows has no
                   effect, the output there is 0, and backwards begins at the end. A PackedSequence
                   for x says the same, and the output then is one too

    >>> import needle as ndl
    >>> rnn = ndl.nn.RNN(4, 3, num_layers=2)
    >>> output, h_n = rnn(ndl.init.randn(5, 2, 4), lengths=[5, 3])
    >>> output.shape, h_n.shape
    ((5, 2, 3), (2, 2, 3))

    Raises ShapeError, OptionError, OutOfRangeError (lengths).
    Schuster and Paliwal, "Bidirectional Recurrent Neural Networks", 1997.
    """

    cell = RNNCell
    cells_name = "rnn_cells"

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        nonlinearity: str = "tanh",
        device: Any = None,
        dtype: Any = "float32",
        *,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
    ) -> None:
        require_nonlinearity("RNN", nonlinearity)
        self.nonlinearity = nonlinearity
        super().__init__(
            input_size, hidden_size, num_layers, bias, device, dtype,
            batch_first=batch_first, dropout=dropout, bidirectional=bidirectional,
        )  # fmt: skip

    def _cell_options(self) -> dict[str, Any]:
        return {"nonlinearity": self.nonlinearity}

    def extra_repr(self) -> str:
        return super().extra_repr() + shown_options(self, nonlinearity="tanh")


class LSTM(_Recurrent):
    """Cells c_t = f · c_{t-1} + i · g, h_t = o · tanh(c_t), layer above layer (see `LSTMCell`).

    x: (T, B, I), T of 1 or more; (h0, c0): (L, B, H) each, zeros if left out
    -> output: (T, B, D · H), of the last layer; (h_n, c_n): (L, B, H) each

    Options, `lengths` and the order of the cells, in `lstm_cells`, are those of `RNN`.

    >>> import needle as ndl
    >>> lstm = ndl.nn.LSTM(4, 3, bidirectional=True)
    >>> output, (h_n, c_n) = lstm(ndl.init.randn(5, 2, 4))
    >>> output.shape, c_n.shape
    ((5, 2, 6), (2, 2, 3))
    """

    cell = LSTMCell
    cells_name = "lstm_cells"

    def forward(
        self, x: Any, h: tuple[Tensor, Tensor] | None = None, *, lengths: Any = None
    ) -> tuple[Any, tuple[Tensor, ...]]:
        return self._run(x, _pair("LSTM", h), lengths)


class GRU(_Recurrent):
    """Cells h_t = (1 - z) · n + z · h_{t-1}, layer above layer (see `GRUCell`).

    x: (T, B, I), T of 1 or more; h0: (L, B, H), zeros if left out
    -> output: (T, B, D · H), of the last layer; h_n: (L, B, H)

    Options, `lengths` and the order of the cells, in `gru_cells`, are those of `RNN`.
    """

    cell = GRUCell
    cells_name = "gru_cells"

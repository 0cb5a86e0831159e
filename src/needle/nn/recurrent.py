"""Recurrent cells and layers: RNN, LSTM, GRU; stacked, in both directions, of any lengths."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from needle import init
from needle.autograd import Tensor
from needle.errors import DTypeError, OptionError, ShapeError, describe
from needle.nn.checks import (
    require_float_dtype,
    require_number,
    require_positive,
    require_tensors,
)
from needle.nn.layers import Dropout
from needle.nn.module import Module, Parameter
from needle.nn.sequences import PackedSequence
from needle.ops import concatenate, flip, gru_scan, lstm_scan, rnn_scan, stack

__all__ = ["GRU", "LSTM", "RNN", "GRUCell", "LSTMCell", "RNNCell"]


class _Cell(Module):
    """Base: the parameters, and what a step reads of its input. `blocks` gates lie side by side."""

    blocks = 1
    states: tuple[str, ...] = ("h",)  # what it keeps from step to step

    def __init__(
        self, input_size: int, hidden_size: int, bias: bool, device: Any, dtype: Any
    ) -> None:
        super().__init__()
        name = type(self).__name__
        require_positive(name, input_size=input_size, hidden_size=hidden_size)
        require_float_dtype(name, dtype)
        self.input_size, self.hidden_size = input_size, hidden_size
        bound, width = 1 / math.sqrt(hidden_size), self.blocks * hidden_size

        def drawn(*shape: int) -> Parameter:
            draw = init.rand(*shape, low=-bound, high=bound, device=device, dtype=dtype)
            return Parameter(draw)

        self.W_ih, self.W_hh = drawn(input_size, width), drawn(hidden_size, width)
        self.bias_ih = drawn(width) if bias else None
        self.bias_hh = drawn(width) if bias else None

    def over_time(self, x: Tensor, *states: Tensor) -> tuple[Tensor, ...]:
        """The states after each step, (T, B, H) each, from x (T, B, I) and those before, (B, H)."""
        raise NotImplementedError

    def zeros(self, x: Tensor, batch: int) -> Tensor:
        """The state to start from where none is given."""
        like = self.W_hh
        return init.zeros(batch, like.shape[0], device=x.device, dtype=like.dtype)

    def _read(self, x: Tensor, *biases: Tensor | None) -> Tensor:
        """x W_ih + the biases for all steps, as one product: (T, B, I) -> (T, B, width)."""
        steps, batch, features = x.shape
        read = x.reshape((steps * batch, features)) @ self.W_ih
        given = [bias for bias in biases if bias is not None]
        if given:
            read = read + (given[0] + given[1] if given[1:] else given[0])
        return read.reshape((steps, batch, self.W_ih.shape[1]))

    def _step(self, x: Tensor, states: Sequence[Any] | None) -> tuple[Tensor, ...]:
        """One step: (B, I), and (B, H) of each state -> (B, H) of each."""
        name = type(self).__name__
        require_tensors(name, x, *states or ())
        if x.ndim != 2 or x.shape[1] != self.W_ih.shape[0]:
            raise ShapeError(f"{name}: expected x [B, {self.W_ih.shape[0]}], got {describe(x)}.")
        shape = (x.shape[0], self.W_hh.shape[0])
        before = states or [self.zeros(x, x.shape[0])] * len(self.states)
        _require_states(name, self.states, before, shape)
        after = self.over_time(x.reshape((1, *x.shape)), *before)
        return tuple([state.reshape(shape) for state in after])

    def extra_repr(self) -> str:
        return f"{self.input_size}, {self.hidden_size}, bias={self.bias_ih is not None}"


class RNNCell(_Cell):
    """h' = act(x W_ih + bias_ih + h W_hh + bias_hh), act = tanh or relu.

    x: (B, I); h: (B, H), zeros if left out -> h': (B, H)
    W_ih: (I, H), W_hh: (H, H), bias_ih, bias_hh: (H,) or None; drawn in this order from U(±1/√H)

    Elman, "Finding Structure in Time", 1990.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        nonlinearity: str = "tanh",
        device: Any = None,
        dtype: Any = "float32",
    ) -> None:
        if nonlinearity not in ("tanh", "relu"):
            raise OptionError(
                f"RNNCell: expected nonlinearity 'tanh' or 'relu', got {nonlinearity!r}."
            )
        super().__init__(input_size, hidden_size, bias, device, dtype)
        self.nonlinearity = nonlinearity

    def forward(self, x: Tensor, h: Tensor | None = None) -> Tensor:
        return self._step(x, None if h is None else [h])[0]

    def over_time(self, x: Tensor, *states: Tensor) -> tuple[Tensor, ...]:
        read = self._read(x, self.bias_ih, self.bias_hh)
        return (rnn_scan(read, self.W_hh, states[0], self.nonlinearity),)


class LSTMCell(_Cell):
    """c' = f · c + i · g, h' = o · tanh(c'), with i, f, o = σ and g = tanh of four blocks.

    The blocks i, f, g, o lie side by side in x W_ih + bias_ih + h W_hh + bias_hh: (B, 4H).
    x: (B, I); (h, c): (B, H) each, zeros if left out -> (h', c')
    W_ih: (I, 4H), W_hh: (H, 4H), bias_ih, bias_hh: (4H,) or None; drawn in this order, U(±1/√H)

    Hochreiter and Schmidhuber, "Long Short-Term Memory", 1997.
    """

    blocks = 4
    states = ("h", "c")

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        device: Any = None,
        dtype: Any = "float32",
    ) -> None:
        super().__init__(input_size, hidden_size, bias, device, dtype)

    def forward(self, x: Tensor, h: tuple[Tensor, Tensor] | None = None) -> tuple[Tensor, ...]:
        return self._step(x, _pair("LSTMCell", h))

    def over_time(self, x: Tensor, *states: Tensor) -> tuple[Tensor, ...]:
        read = self._read(x, self.bias_ih, self.bias_hh)
        return lstm_scan(read, self.W_hh, states[0], states[1])


class GRUCell(_Cell):
    """h' = (1 - z) · n + z · h; r, z = σ(x_r,z + s_r,z), n = tanh(x_n + r · s_n).

    The blocks for r, z, n lie side by side in x W_ih + bias_ih and s = h W_hh + bias_hh: (B, 3H).
    x: (B, I); h: (B, H), zeros if left out -> h': (B, H)
    W_ih: (I, 3H), W_hh: (H, 3H), bias_ih, bias_hh: (3H,) or None; drawn in this order, U(±1/√H)

    Cho et al., "Learning Phrase Representations using RNN Encoder-Decoder", 2014, eq. 5-8, with r
    outside the product with W_hh, as PyTorch has it.
    """

    blocks = 3

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        device: Any = None,
        dtype: Any = "float32",
    ) -> None:
        super().__init__(input_size, hidden_size, bias, device, dtype)

    def forward(self, x: Tensor, h: Tensor | None = None) -> Tensor:
        return self._step(x, None if h is None else [h])[0]

    def over_time(self, x: Tensor, *states: Tensor) -> tuple[Tensor, ...]:
        return (gru_scan(self._read(x, self.bias_ih), self.W_hh, states[0], self.bias_hh),)


# -- layers ----------------------------------------------------------------------------------------


class _Recurrent(Module):
    """Base: cells one above the other, over all steps, in one direction or in both.

    Cells, and rows of states, come in the order layer 0, layer 0 backwards, layer 1, ...
    """

    cells_name = ""  # of the attribute that holds them

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int,
        batch_first: bool,
        dropout: float,
        bidirectional: bool,
    ) -> None:
        super().__init__()
        name = type(self).__name__
        sizes = {"input_size": input_size, "hidden_size": hidden_size, "num_layers": num_layers}
        require_positive(name, **sizes)
        require_number(name, "dropout in [0, 1]", dropout, lambda p: 0 <= p <= 1)
        self.input_size, self.hidden_size, self.num_layers = sizes.values()
        self.batch_first, self.bidirectional = batch_first, bidirectional
        self.dropout = Dropout(dropout)

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
        if self.batch_first:
            x = x.transpose((0, 1))
        if lengths is not None:
            packed = PackedSequence(x, lengths)
            x, lengths = packed.masked(), packed.lengths
        y, ends = self._over_layers(x, states, lengths)
        return y.transpose((0, 1)) if self.batch_first else y, ends

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
        name, names = type(self).__name__, [f"{state}0" for state in cells[0].states]
        require_tensors(name, *states)
        _require_states(name, names, states, (len(cells), batch, self.hidden_size))
        return states

    def _require_input(self, x: Any, batch_first: bool) -> None:
        name, features = type(self).__name__, self._cells[0].W_ih.shape[0]
        require_tensors(name, x)
        if x.ndim != 3 or x.shape[2] != features:
            axes = "B, T" if batch_first else "T, B"
            raise ShapeError(f"{name}: expected x [{axes}, {features}], got {describe(x)}.")
        if x.shape[1 if batch_first else 0] == 0:
            raise ShapeError(f"{name}: expected a sequence of 1 step or more, got {describe(x)}.")

    def extra_repr(self) -> str:
        options = {
            "num_layers": self.num_layers,
            "batch_first": self.batch_first,
            "bidirectional": self.bidirectional,
        }
        shown = [f"{name}={value}" for name, value in options.items() if value not in (1, False)]
        return ", ".join([f"{self.input_size}, {self.hidden_size}", *shown])


def _one_way(
    cell: _Cell, x: Tensor, states: Sequence[Tensor], lengths: Any, backwards: bool
) -> tuple[Tensor, list[Tensor]]:
    """One cell over all steps: its output, and each state after the sequence's last step."""
    after = cell.over_time(_turned(x, lengths) if backwards else x, *states)
    if lengths is None:
        ends = [state[-1] for state in after]
    else:
        ends = [PackedSequence(state, lengths).last() for state in after]
    return _turned(after[0], lengths) if backwards else after[0], ends


def _turned(x: Tensor, lengths: Any) -> Tensor:
    """Each sequence back to front."""
    return flip(x, 0) if lengths is None else PackedSequence(x, lengths).reversed().padded


def _pair(name: str, h: Any) -> Sequence[Tensor] | None:
    """An LSTM's state: two Tensors, or None."""
    if h is None or (isinstance(h, (tuple, list)) and len(h) == 2):
        return h
    raise DTypeError(f"{name}: expected the state as a pair (h, c), got {describe(h)}.")


def _require_states(
    name: str, names: Sequence[str], states: Sequence[Tensor], shape: tuple[int, ...]
) -> None:
    for each, state in zip(names, states, strict=True):
        if state.shape != shape:
            raise ShapeError(f"{name}: expected {each} {list(shape)}, got {describe(state)}.")


class RNN(_Recurrent):
    """Cells h_t = act(x_t W_ih + bias_ih + h_{t-1} W_hh + bias_hh), layer above layer.

    x: (T, B, I), T of 1 or more; h0: (L, B, H), zeros if left out
    -> output: (T, B, D · H), of the last layer; h_n: (L, B, H), after each sequence's last step

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
        super().__init__(input_size, hidden_size, num_layers, batch_first, dropout, bidirectional)
        self.rnn_cells = [
            RNNCell(size, hidden_size, bias, nonlinearity, device, dtype)
            for size in self._input_sizes()
        ]

    def forward(
        self, x: Any, h0: Tensor | None = None, *, lengths: Any = None
    ) -> tuple[Any, Tensor]:
        output, (h_n,) = self._run(x, None if h0 is None else [h0], lengths)
        return output, h_n


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

    cells_name = "lstm_cells"

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
        super().__init__(input_size, hidden_size, num_layers, batch_first, dropout, bidirectional)
        self.lstm_cells = [
            LSTMCell(size, hidden_size, bias, device, dtype) for size in self._input_sizes()
        ]

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

    cells_name = "gru_cells"

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
        super().__init__(input_size, hidden_size, num_layers, batch_first, dropout, bidirectional)
        self.gru_cells = [
            GRUCell(size, hidden_size, bias, device, dtype) for size in self._input_sizes()
        ]

    def forward(
        self, x: Any, h0: Tensor | None = None, *, lengths: Any = None
    ) -> tuple[Any, Tensor]:
        output, (h_n,) = self._run(x, None if h0 is None else [h0], lengths)
        return output, h_n

"""Recurrent cells, which keep a state from step to step: RNN, LSTM, GRU."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from needle import init
from needle.autograd import Tensor
from needle.errors import DTypeError, ShapeError, describe
from needle.nn.checks import (
    require_float_dtype,
    require_positive,
    require_tensors,
    shown_options,
)
from needle.nn.module import Module, Parameter
from needle.ops import gru_scan, gru_step, lstm_scan, lstm_step, relu, rnn_scan, tanh
from needle.ops.recurrence import require_nonlinearity

__all__ = ["GRUCell", "LSTMCell", "RNNCell"]


class _Cell(Module):
    """Base: the parameters, and what a step reads of its input. `blocks` gates lie side by side."""

    blocks = 1
    states: tuple[str, ...] = ("h",)  # what it keeps from step to step

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        device: Any = None,
        dtype: Any = "float32",
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

    def one_step(self, x: Tensor, *states: Tensor) -> tuple[Tensor, ...]:
        """The states after a step, (B, H) each, from x (B, I) and those before, (B, H)."""
        raise NotImplementedError

    def zeros(self, x: Tensor, batch: int) -> Tensor:
        """The state to start from where none is given."""
        like = self.W_hh
        return init.zeros(batch, like.shape[0], device=x.device, dtype=like.dtype)

    def _read(self, x: Tensor, *biases: Tensor | None) -> Tensor:
        """x W_ih + the biases: (B, I) -> (B, width); all steps, (T, B, I), as one product."""
        if x.ndim == 3:
            rows = self._read(x.reshape((x.shape[0] * x.shape[1], x.shape[2])), *biases)
            return rows.reshape((*x.shape[:2], rows.shape[1]))
        read = x @ self.W_ih
        given = [bias for bias in biases if bias is not None]
        if given:
            read = read + (given[0] + given[1] if given[1:] else given[0])
        return read

    def _step(self, x: Tensor, states: Sequence[Any] | None) -> tuple[Tensor, ...]:
        """One step: (B, I), and (B, H) of each state -> (B, H) of each; or all without B."""
        name, (features, size) = type(self).__name__, (self.W_ih.shape[0], self.W_hh.shape[0])
        require_tensors(name, x, *states or ())
        if x.ndim not in (1, 2) or x.shape[-1] != features:
            raise ShapeError(
                f"{name}: expected x [B, {features}] or [{features}], got {describe(x)}."
            )
        if states:
            _require_states(name, self.states, states, (*x.shape[:-1], size))
        if x.ndim == 1:
            batch = None if states is None else [state.reshape((1, size)) for state in states]
            after = self._step(x.reshape((1, features)), batch)
            return tuple([state.reshape((size,)) for state in after])
        return self.one_step(x, *states or [self.zeros(x, x.shape[0])] * len(self.states))

    def extra_repr(self) -> str:
        return f"{self.input_size}, {self.hidden_size}, bias={self.bias_ih is not None}"


class RNNCell(_Cell):
    """h' = act(x W_ih + bias_ih + h W_hh + bias_hh), act = tanh or relu.

    x: (B, I); h: (B, H), zeros if left out -> h': (B, H); all may be without B
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
        require_nonlinearity("RNNCell", nonlinearity)
        super().__init__(input_size, hidden_size, bias, device, dtype)
        self.nonlinearity = nonlinearity

    def forward(self, x: Tensor, h: Tensor | None = None) -> Tensor:
        return self._step(x, None if h is None else [h])[0]

    def extra_repr(self) -> str:
        return super().extra_repr() + shown_options(self, nonlinearity="tanh")

    def over_time(self, x: Tensor, *states: Tensor) -> tuple[Tensor, ...]:
        read = self._read(x, self.bias_ih, self.bias_hh)
        return (rnn_scan(read, self.W_hh, states[0], self.nonlinearity),)

    def one_step(self, x: Tensor, *states: Tensor) -> tuple[Tensor, ...]:
        act = tanh if self.nonlinearity == "tanh" else relu
        return (act(self._read(x, self.bias_ih, self.bias_hh) + states[0] @ self.W_hh),)


class LSTMCell(_Cell):
    """c' = f · c + i · g, h' = o · tanh(c'), with i, f, o = σ and g = tanh of four blocks.

    The blocks i, f, g, o lie side by side in x W_ih + bias_ih + h W_hh + bias_hh: (B, 4H).
    x: (B, I); (h, c): (B, H) each, zeros if left out -> (h', c'); all may be without B
    W_ih: (I, 4H), W_hh: (H, 4H), bias_ih, bias_hh: (4H,) or None; drawn in this order, U(±1/√H)

    Hochreiter and Schmidhuber, "Long Short-Term Memory", 1997.
    """

    blocks = 4
    states = ("h", "c")

    def forward(self, x: Tensor, h: tuple[Tensor, Tensor] | None = None) -> tuple[Tensor, ...]:
        return self._step(x, _pair("LSTMCell", h))

    def over_time(self, x: Tensor, *states: Tensor) -> tuple[Tensor, ...]:
        read = self._read(x, self.bias_ih, self.bias_hh)
        return lstm_scan(read, self.W_hh, states[0], states[1])

    def one_step(self, x: Tensor, *states: Tensor) -> tuple[Tensor, ...]:
        h, c = states
        return lstm_step(self._read(x, self.bias_ih, self.bias_hh) + h @ self.W_hh, c)


class GRUCell(_Cell):
    """h' = (1 - z) · n + z · h; r, z = σ(x_r,z + s_r,z), n = tanh(x_n + r · s_n).

    The blocks for r, z, n lie side by side in x W_ih + bias_ih and s = h W_hh + bias_hh: (B, 3H).
    x: (B, I); h: (B, H), zeros if left out -> h': (B, H); all may be without B
    W_ih: (I, 3H), W_hh: (H, 3H), bias_ih, bias_hh: (3H,) or None; drawn in this order, U(±1/√H)

    Cho et al., "Learning Phrase Representations using RNN Encoder-Decoder", 2014, eq. 5-8, with r
    outside the product with W_hh, as PyTorch has it.
    """

    blocks = 3

    def forward(self, x: Tensor, h: Tensor | None = None) -> Tensor:
        return self._step(x, None if h is None else [h])[0]

    def over_time(self, x: Tensor, *states: Tensor) -> tuple[Tensor, ...]:
        return (gru_scan(self._read(x, self.bias_ih), self.W_hh, states[0], self.bias_hh),)

    def one_step(self, x: Tensor, *states: Tensor) -> tuple[Tensor, ...]:
        (h,) = states
        of_h = h @ self.W_hh
        if self.bias_hh is not None:
            of_h = of_h + self.bias_hh
        return (gru_step(self._read(x, self.bias_ih), of_h, h),)


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

"""Rows of the table of operators: recurrent cells over all steps, and one step of gates."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy_references import sigmoid
from oprows import Row, bad, case

from needle import errors, ops


def rnn(x: Any, weight: Any, h: Any, nonlinearity: str = "tanh") -> Any:
    act = np.tanh if nonlinearity == "tanh" else lambda s: np.maximum(s, 0)
    steps = []
    for x_t in x:
        h = act(x_t + h @ weight)
        steps.append(h)
    return np.stack(steps)


def lstm_step(gates: Any, c: Any) -> Any:
    i, f, g, o = np.split(gates, 4, axis=-1)
    c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
    return sigmoid(o) * np.tanh(c), c


def lstm(x: Any, weight: Any, h: Any, c: Any) -> Any:
    steps = []
    for x_t in x:
        gates = x_t + h @ weight
        h, c = lstm_step(gates, c)
        steps.append((h, c, gates))
    return tuple([np.stack(column) for column in zip(*steps, strict=True)])


def gru_step(x: Any, s: Any, h: Any) -> Any:
    (x_r, x_z, x_n), (s_r, s_z, s_n) = np.split(x, 3, axis=-1), np.split(s, 3, axis=-1)
    n = np.tanh(x_n + sigmoid(x_r + s_r) * s_n)
    z = sigmoid(x_z + s_z)
    return (1 - z) * n + z * h


def gru(x: Any, weight: Any, h: Any, bias: Any = 0) -> Any:
    steps = []
    for x_t in x:
        s = h @ weight + bias
        h = gru_step(x_t, s, h)
        steps.append((h, s))
    return tuple([np.stack(column) for column in zip(*steps, strict=True)])


NO_STEPS = r"of 1 step or more.*, got float64\[0,2,"

ROWS_RECURRENCE = [
    Row(ops.RNNScan, ops.rnn_scan, rnn,
        [case((3, 2, 2), (2, 2), (2, 2)), case((1, 2, 3), (3, 3), (2, 3)),
         case((3, 2, 2), (2, 2), (2, 2), nonlinearity="relu"), case((2, 0, 3), (3, 3), (0, 3))],
        [bad(errors.ShapeError, NO_STEPS, (0, 2, 3), (3, 3), (2, 3)),
         bad(errors.ShapeError, r"weight \[H, H\] and h0 \[B, H\], got float64\[3,2,2\] and "
             r"float64\[2,2\] and float64\[1,2\]", (3, 2, 2), (2, 2), (1, 2)),
         bad(errors.ShapeError, r"float64\[2,3\]", (3, 2, 2), (2, 3), (2, 2)),
         bad(errors.ShapeError, r"x \[T, B, H\]", (2, 2), (2, 2), (2, 2)),
         bad(errors.OptionError, "'tanh' or 'relu', got 'elu'", (3, 2, 2), (2, 2), (2, 2),
             nonlinearity="elu")],
        integers=False),
    Row(ops.LSTMScan, lambda *inputs: ops.LSTMScan()(*inputs), lstm,
        [case((3, 2, 8), (2, 8), (2, 2), (2, 2)), case((1, 2, 4), (1, 4), (2, 1), (2, 1)),
         case((2, 0, 8), (2, 8), (0, 2), (0, 2))],
        [bad(errors.ShapeError, NO_STEPS, (0, 2, 8), (2, 8), (2, 2), (2, 2)),
         bad(errors.ShapeError, r"h0 and c0 \[B, H\]", (3, 2, 8), (2, 8), (2, 2), (1, 2)),
         bad(errors.ShapeError, r"x \[T, B, 4H\]", (3, 2, 6), (2, 8), (2, 2), (2, 2)),
         bad(errors.ShapeError, r"got float64\[3,2,8\].*float64\[2\]",
             (3, 2, 8), (2, 8), (2,), (2,))],
        integers=False),
    Row(ops.GRUScan, lambda *inputs: ops.GRUScan()(*inputs), gru,
        [case((3, 2, 6), (2, 6), (2, 2), (6,)), case((3, 2, 6), (2, 6), (2, 2)),
         case((1, 2, 3), (1, 3), (2, 1), (3,)), case((2, 0, 6), (2, 6), (0, 2), (6,))],
        [bad(errors.ShapeError, NO_STEPS, (0, 2, 6), (2, 6), (2, 2)),
         bad(errors.ShapeError, r"bias \[3H\], got float64\[1,6\]",
             (3, 2, 6), (2, 6), (2, 2), (1, 6)),
         bad(errors.ShapeError, r"weight \[H, 3H\]", (3, 2, 6), (2, 4), (2, 2), (6,))],
        integers=False),
    Row(ops.LSTMStep, ops.lstm_step, lstm_step,
        [case((2, 8), (2, 2)), case((4,), (1,)), case((2, 3, 4), (2, 3, 1)),
         case((0, 8), (0, 2))],
        [bad(errors.ShapeError, r"gates \[..., 4H\] and c \[..., H\], got float64\[2,6\] and "
             r"float64\[2,2\]", (2, 6), (2, 2)),
         bad(errors.ShapeError, r"c \[..., H\], got float64\[2,8\] and float64\[1,2\]",
             (2, 8), (1, 2)),
         bad(errors.ShapeError, r"got float64\[4\] and float64\[\]", (4,), ())],
        integers=False),
    Row(ops.GRUStep, ops.gru_step, gru_step,
        [case((2, 6), (2, 6), (2, 2)), case((3,), (3,), (1,)), case((0, 6), (0, 6), (0, 2))],
        [bad(errors.ShapeError, r"x and s \[..., 3H\] and h \[..., H\], got float64\[2,8\]",
             (2, 8), (2, 6), (2, 2)),
         bad(errors.ShapeError, r"got float64\[2,6\] and float64\[1,6\] and float64\[2,2\]",
             (2, 6), (1, 6), (2, 2))],
        integers=False),
]  # fmt: skip

"""Recurrent layers over all their steps at once: one op per kind of cell; and gates of one step.

What a step reads of its input does not depend on the step before, so it is one product for all
steps, made outside. The op here is what remains: step after step, the product of the state with
`weight`, and the gates. Its gradient runs the steps backwards and leaves the weight's gradient to
one product over all steps.

The formulas of the gradients are written once, on raw arrays and on Tensors alike: `compute` calls
them on the first, and what differentiates them, on the second.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import needle
from needle.autograd.alias import alias
from needle.autograd.backward import gradients
from needle.autograd.modes import enable_grad
from needle.autograd.tensor import Tensor, TensorOp, TensorTuple, TensorTupleOp
from needle.backend_selection import Array, array_api, primitives
from needle.errors import OptionError, ShapeError, describe
from needle.ops.activations import ReLU, Sigmoid, Tanh
from needle.ops.broadcasting import unbroadcast
from needle.ops.elementwise import Sign
from needle.ops.indexing import getitem
from needle.ops.linalg import MatMul, matmul
from needle.ops.ops_tuple import stack
from needle.ops.shapes import Concatenate, Reshape, Transpose, concatenate
from needle.unrolled import unrolled

__all__ = [
    "GRUScan",
    "GRUStep",
    "LSTMScan",
    "LSTMStep",
    "RNNScan",
    "gru_scan",
    "gru_step",
    "lstm_scan",
    "lstm_step",
    "rnn_scan",
]


Arrays = tuple[Any, ...]  # raw ones, or Tensors


class RNNScan(TensorOp):
    """h_t = act(x_t + h_{t-1} W), act = tanh or relu.

    x: (T, B, H), T of 1 or more; weight W: (H, H); h0: (B, H) -> h: (T, B, H)
    Gradient: the steps backwards, with dh_{t-1} gaining (dh_t · act') Wᵀ.
    Source: Elman, "Finding Structure in Time", 1990.
    """

    name = "rnn_scan"
    expects = "x [T, B, H] of 1 step or more, weight [H, H] and h0 [B, H]"

    def __init__(self, nonlinearity: str = "tanh") -> None:
        require_nonlinearity(self.name, nonlinearity)
        self.nonlinearity = nonlinearity

    def compute(self, x: Array, weight: Array, h: Array) -> Array:
        _require_shapes(self, 1, x, weight, h)
        act = Tanh() if self.nonlinearity == "tanh" else ReLU()

        def step(states: Arrays, inputs: Arrays) -> tuple[Arrays, Arrays]:
            h = act.compute(inputs[0] + _of(MatMul(), states[0], weight))
            return (h,), (h,)

        return primitives.recur(step, [h], [x])[1][0]

    def gradient(self, out_grad: Tensor, node: Tensor) -> Any:
        _, weight, h0 = node.inputs
        formula = partial(_rnn_gradient, self.nonlinearity)
        dx, dh0 = _FormulaGradient(self.name, formula)(out_grad, weight, node)
        return _in_dtypes_of(node, dx, _weight_gradient(weight, _before(h0, node), dx), dh0)


def _rnn_gradient(nonlinearity: str, dh: Any, weight: Any, h: Any) -> tuple[Any, Any]:
    """dx and dh0."""
    slope = 1 - h * h if nonlinearity == "tanh" else _of(Sign(), h)
    transposed = _transposed(weight)

    def step(states: Arrays, inputs: Arrays) -> tuple[Arrays, Arrays]:
        dh, slope = inputs
        dx = (dh + states[0]) * slope
        return (_of(MatMul(), dx, transposed),), (dx,)

    (dh0,), (dx,) = _recur(step, [_zeros(dh)], [dh, slope], reverse=True)
    return dx, dh0


def require_nonlinearity(name: str, nonlinearity: Any) -> None:
    """Raise OptionError unless `nonlinearity` is one of an RNN's."""
    if not isinstance(nonlinearity, str) or nonlinearity not in ("tanh", "relu"):
        raise OptionError(f"{name}: expected nonlinearity 'tanh' or 'relu', got {nonlinearity!r}.")


def rnn_scan(x: Tensor, weight: Tensor, h0: Tensor, nonlinearity: str = "tanh") -> Tensor:
    """The states h_t = act(x_t + h_{t-1} weight) of all steps, from h0 on."""
    return RNNScan(nonlinearity)(x, weight, h0)


class LSTMScan(TensorTupleOp):
    """c_t = f · c_{t-1} + i · g, h_t = o · tanh(c_t); i, f, o = σ, g = tanh of x_t + h_{t-1} W.

    x: (T, B, 4H), T of 1 or more, the blocks i, f, g, o side by side; weight W: (H, 4H);
    h0, c0: (B, H) -> h, c: (T, B, H) each, and x_t + h_{t-1} W: (T, B, 4H), for the gradient
    Gradient: the steps backwards.
    Source: Hochreiter and Schmidhuber, "Long Short-Term Memory", 1997; with forget gates, Gers,
    Schmidhuber and Cummins, "Learning to Forget", 2000.
    """

    name = "lstm_scan"
    expects = "x [T, B, 4H] of 1 step or more, weight [H, 4H], h0 and c0 [B, H]"

    def compute(self, x: Array, weight: Array, h: Array, c: Array) -> tuple[Array, ...]:
        _require_shapes(self, 4, x, weight, h, c)

        def step(states: Arrays, inputs: Arrays) -> tuple[Arrays, Arrays]:
            gates = inputs[0] + _of(MatMul(), states[0], weight)
            h, c = _lstm_states(gates, states[1])
            return (h, c), (h, c, gates)

        return primitives.recur(step, [h, c], [x])[1]

    def gradient(self, out_grad: TensorTuple, node: TensorTuple) -> Any:
        _, weight, h0, c0 = node.inputs
        h, c, gates = node
        dx, dh0, dc0 = _FormulaGradient(self.name, _lstm_gradient)(
            *out_grad, gates, weight, _before(c0, c), c
        )
        return _in_dtypes_of(node, dx, _weight_gradient(weight, _before(h0, h), dx), dh0, dc0)


def _lstm_states(gates: Array, c: Array) -> tuple[Array, Array]:
    """h and c after a step, from its gates and c before it."""
    i, f, g, o = _lstm_gates(gates)
    c = f * c + i * g
    return o * array_api.tanh(c), c


def _lstm_gates(x: Any) -> tuple[Any, Any, Any, Any]:
    """i, f, g, o: (..., H) each, from (..., 4H)."""
    size = x.shape[-1] // 4
    i, f, g, o = [_part(x, block * size, (block + 1) * size) for block in range(4)]
    return _of(Sigmoid(), i), _of(Sigmoid(), f), _of(Tanh(), g), _of(Sigmoid(), o)


def _lstm_gradient(
    dh: Any, dc: Any, d_gates: Any, gates: Any, weight: Any, c_before: Any, c: Any
) -> tuple[Any, Any, Any]:
    """dx, dh0 and dc0. What a step multiplies its dh and dc by comes first, for all steps."""
    i, f, g, o = _lstm_gates(gates)
    tanh_c = _of(Tanh(), c)
    c_by_h = o * (1 - tanh_c * tanh_c)
    o_by_h = tanh_c * (o * (1 - o))
    ifg_by_c = _stack([g * (i * (1 - i)), c_before * (f * (1 - f)), i * (1 - g * g)], axis=2)
    transposed = _transposed(weight)

    def step(states: Arrays, inputs: Arrays) -> tuple[Arrays, Arrays]:
        dh, dc, d_gates, c_by_h, o_by_h, ifg_by_c, f = inputs
        dh = dh + states[0]
        dc = dc + states[1] + dh * c_by_h
        d_ifg, d_o = _spread(dc, ifg_by_c), dh * o_by_h
        dx = _of(Concatenate(-1), d_ifg + _part(d_gates, 0, o_at), d_o + _part(d_gates, o_at, end))
        return (_of(MatMul(), dx, transposed), dc * f), (dx,)

    end = gates.shape[-1]
    o_at = end // 4 * 3
    inputs = [dh, dc, d_gates, c_by_h, o_by_h, ifg_by_c, f]
    (dh0, dc0), (dx,) = _recur(step, [_zeros(dh), _zeros(dc)], inputs, reverse=True)
    return dx, dh0, dc0


def lstm_scan(x: Tensor, weight: Tensor, h0: Tensor, c0: Tensor) -> tuple[Tensor, Tensor]:
    """The states h and c of an LSTM after each step, from what each step reads of its input."""
    h, c, _ = LSTMScan()(x, weight, h0, c0)
    return h, c


class LSTMStep(TensorTupleOp):
    """c' = f · c + i · g, h' = o · tanh(c'), with i, f, o = σ and g = tanh of the gates' blocks.

    gates: (..., 4H), the blocks i, f, g, o side by side; c: (..., H) -> h', c': (..., H) each
    Gradient: that of `LSTMScan` for one step, whose product of h and the weight is in the gates.
    """

    name = "lstm_step"
    expects = "gates [..., 4H] and c [..., H]"

    def compute(self, gates: Array, c: Array) -> tuple[Array, ...]:
        _require_blocks(self, 4, c, gates)
        return _lstm_states(gates, c)

    def gradient(self, out_grad: TensorTuple, node: TensorTuple) -> Any:
        gradient = _FormulaGradient(self.name, _lstm_step_gradient)
        return _in_dtypes_of(node, *gradient(*out_grad, *node.inputs, node[1]))


def _lstm_step_gradient(dh: Any, dc: Any, gates: Any, c_before: Any, c: Any) -> tuple[Any, Any]:
    """d_gates and dc before the step. s - s² is the slope of s = σ, 1 - t² that of t = tanh."""
    i, f, g, o = _lstm_gates(gates)
    tanh_c = _of(Tanh(), c)
    dc = dc + dh * (o - o * tanh_c * tanh_c)
    by_i = dc * i
    d_if = dc * g * (i - i * i), dc * c_before * (f - f * f)
    d_go = by_i - by_i * g * g, dh * tanh_c * (o - o * o)
    return _of(Concatenate(-1), *d_if, *d_go), dc * f


def lstm_step(gates: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
    """The states h and c of an LSTM after one step, from its gates and c before it."""
    h, c = LSTMStep()(gates, c)
    return h, c


class GRUScan(TensorTupleOp):
    """h_t = (1 - z) · n + z · h_{t-1}; r, z = σ(x_t + s_t), n = tanh(x_t + r · s_t).

    s_t = h_{t-1} W + b; of x_t and s_t, the block for r, for z or for n.
    x: (T, B, 3H), T of 1 or more, the blocks side by side; weight W: (H, 3H); h0: (B, H);
    bias b: (3H,), or left out -> h: (T, B, H), and s: (T, B, 3H), for the gradient
    Gradient: the steps backwards.
    Source: Cho et al., "Learning Phrase Representations using RNN Encoder-Decoder", 2014, eq. 5-8,
    with r outside the product, as cuDNN and PyTorch have it.
    """

    name = "gru_scan"
    expects = "x [T, B, 3H] of 1 step or more, weight [H, 3H], h0 [B, H] and bias [3H]"

    def compute(self, x: Array, weight: Array, h: Array, *bias: Array) -> tuple[Array, ...]:
        _require_shapes(self, 3, x, weight, h)
        if bias and bias[0].shape != weight.shape[1:]:
            raise ShapeError(f"{self.name}: expected {self.expects}, got {describe(*bias)}.")

        def step(states: Arrays, inputs: Arrays) -> tuple[Arrays, Arrays]:
            product = _of(MatMul(), states[0], weight)
            s = product + bias[0] if bias else product
            _, z, n, _ = _gru_gates(inputs[0], s)
            h = n + z * (states[0] - n)
            return (h,), (h, s)

        return primitives.recur(step, [h], [x])[1]

    def gradient(self, out_grad: TensorTuple, node: TensorTuple) -> Any:
        x, weight, h0, *bias = node.inputs
        h, s = node
        h_before = _before(h0, h)
        dx, ds, dh0 = _FormulaGradient(self.name, _gru_gradient)(*out_grad, x, s, weight, h_before)
        d_weight = _weight_gradient(weight, h_before, ds)
        return _in_dtypes_of(node, dx, d_weight, dh0, *[ds.sum((0, 1)) for _ in bias])


def _gru_gates(x: Any, s: Any) -> tuple[Any, Any, Any, Any]:
    """r, z, n and the block of s for n: (..., H) each, from x and s: (..., 3H)."""
    size = x.shape[-1] // 3
    r_and_z = _of(Sigmoid(), _part(x, 0, 2 * size) + _part(s, 0, 2 * size))
    r, z = _part(r_and_z, 0, size), _part(r_and_z, size, 2 * size)
    s_of_n = _part(s, 2 * size, 3 * size)
    return r, z, _of(Tanh(), _part(x, 2 * size, 3 * size) + r * s_of_n), s_of_n


def _gru_gradient(
    dh: Any, d_s: Any, x: Any, s: Any, weight: Any, h_before: Any
) -> tuple[Any, Any, Any]:
    """dx, ds and dh0. What a step multiplies its dh by comes first, for all steps."""
    r, z, n, s_of_n = _gru_gates(x, s)
    n_by_h = (1 - z) * (1 - n * n)
    r_by_h = n_by_h * s_of_n * (r * (1 - r))
    z_by_h = (h_before - n) * (z * (1 - z))
    s_by_h = _stack([r_by_h, z_by_h, n_by_h * r], axis=2)
    transposed = _transposed(weight)

    def step(states: Arrays, inputs: Arrays) -> tuple[Arrays, Arrays]:
        dh, d_s, s_by_h, z = inputs
        dh = dh + states[0]
        ds = _spread(dh, s_by_h) + d_s
        return (dh * z + _of(MatMul(), ds, transposed),), (dh, ds)

    (dh0,), (dh, ds) = _recur(step, [_zeros(dh)], [dh, d_s, s_by_h, z], reverse=True)
    dx = _of(Concatenate(-1), dh * r_by_h, dh * z_by_h, dh * n_by_h)
    return dx, ds, dh0


def gru_scan(x: Tensor, weight: Tensor, h0: Tensor, bias: Tensor | None = None) -> Tensor:
    """The states of a GRU after each step, from what each step reads of its input."""
    states: Tensor = GRUScan()(x, weight, h0, *([] if bias is None else [bias]))[0]
    return states


class GRUStep(TensorOp):
    """h' = (1 - z) · n + z · h; r, z = σ(x + s), n = tanh(x + r · s), each of its block.

    x, s: (..., 3H), the blocks for r, z, n side by side; h: (..., H) -> h': (..., H)
    Gradient: that of `GRUScan` for one step; s is what the step reads of h.
    """

    name = "gru_step"
    expects = "x and s [..., 3H] and h [..., H]"

    def compute(self, x: Array, s: Array, h: Array) -> Array:
        _require_blocks(self, 3, h, x, s)
        _, z, n, _ = _gru_gates(x, s)
        return n + z * (h - n)

    def gradient(self, out_grad: Tensor, node: Tensor) -> Any:
        gradient = _FormulaGradient(self.name, _gru_step_gradient)
        return _in_dtypes_of(node, *gradient(out_grad, *node.inputs))


def _gru_step_gradient(dh: Any, x: Any, s: Any, h: Any) -> tuple[Any, Any, Any]:
    """dx, ds and dh before the step. As in an LSTM's, slopes are s - s² and 1 - t²."""
    r, z, n, s_of_n = _gru_gates(x, s)
    dh_before = dh * z
    dn = dh - dh_before
    d_of_n = dn - dn * n * n
    d_of_r, d_of_z = d_of_n * s_of_n * (r - r * r), dh * (h - n) * (z - z * z)
    dx = _of(Concatenate(-1), d_of_r, d_of_z, d_of_n)
    return dx, _of(Concatenate(-1), d_of_r, d_of_z, d_of_n * r), dh_before


def gru_step(x: Tensor, s: Tensor, h: Tensor) -> Tensor:
    """The state of a GRU after one step, from what it reads of its input and of h."""
    return GRUStep()(x, s, h)


class _FormulaGradient(TensorTupleOp):
    """What `formula` gives for raw arrays; its own gradient is that of `formula` on Tensors."""

    def __init__(self, of: str, formula: Callable[..., tuple[Any, ...]]) -> None:
        self.name, self.formula = f"{of}_gradient", formula

    def compute(self, *arrays: Array) -> tuple[Array, ...]:
        return self.formula(*arrays)

    def gradient(self, out_grad: TensorTuple, node: TensorTuple) -> Any:
        with enable_grad():
            variables = [alias(x) for x in node.inputs]
            outputs = self.formula(*variables)
        return _in_dtypes_of(node, *gradients(outputs, list(out_grad), variables))


# -- what the formulas are made of: on raw arrays as on Tensors ------------------------------------


def _of(op: TensorOp, *inputs: Any) -> Any:
    """The op of Tensors; of raw arrays, what it computes."""
    return op(*inputs) if isinstance(inputs[0], Tensor) else op.compute(*inputs)


def _stack(steps: Sequence[Any], axis: int = 0) -> Any:
    return stack(steps, axis) if isinstance(steps[0], Tensor) else array_api.stack(steps, axis=axis)


def _recur(
    step: Callable[[Arrays, Arrays], tuple[Arrays, Arrays]],
    states: Sequence[Any],
    inputs: Sequence[Any],
    reverse: bool,
) -> tuple[Arrays, Arrays]:
    """`primitives.recur`; on Tensors operator by operator, so that it can be differentiated."""
    if isinstance(inputs[0], Tensor):
        return unrolled(step, states, inputs, reverse, at=_at, stack=stack)
    return primitives.recur(step, states, inputs, reverse)


def _zeros(x: Any) -> Any:
    """In the shape and dtype of a step of x, (T, B, H)."""
    step = _at(x, 0)
    return needle.init.zeros_like(step) if isinstance(x, Tensor) else array_api.full_like(step, 0)


def _at(x: Any, *place: Any) -> Any:
    """x[place]: step t of (T, ...), or what slices name."""
    return getitem(x, place) if isinstance(x, Tensor) else primitives.index(x, place)


def _part(x: Any, start: int, stop: int) -> Any:
    """Part of the last axis."""
    return _at(x, ..., slice(start, stop))


def _spread(d: Any, factors: Any) -> Any:
    """(B, H) times each of (B, k, H), as (B, k H)."""
    batch, blocks, size = factors.shape
    return _of(Reshape((batch, blocks * size)), _of(Reshape((batch, 1, size)), d) * factors)


def _transposed(weight: Any) -> Any:
    """Wᵀ with its rows in memory one after the other, as a product at each step wants it."""
    return _of(Concatenate(0), _of(Transpose(), weight))


# -- shared by the three ---------------------------------------------------------------------------


def _before(first: Tensor, states: Tensor) -> Tensor:
    """The state that each step starts from: (T, B, H)."""
    return concatenate([first.reshape((1, *first.shape)), states[:-1]], 0)


def _weight_gradient(weight: Tensor, h_before: Tensor, d: Tensor) -> Tensor | None:
    """Σ over steps of h_{t-1}ᵀ d_t, as one product."""
    if not weight.requires_grad:
        return None
    rows = d.shape[0] * d.shape[1]
    return matmul(
        h_before.reshape((rows, weight.shape[0])),
        d.reshape((rows, weight.shape[1])),
        transpose_a=True,
    )


def _in_dtypes_of(node: Any, *grads: Any) -> tuple[Any, ...]:
    """The gradients, each in the dtype of the input that it is of, also where dtypes are mixed."""
    pairs = zip(grads, node.inputs, strict=True)
    return tuple([grad if grad is None else unbroadcast(grad, x) for grad, x in pairs])


def _require_blocks(op: Any, blocks: int, state: Array, *gates: Array) -> None:
    wanted = (*state.shape[:-1], blocks * state.shape[-1]) if state.ndim else None
    if any(gate.shape != wanted for gate in gates):
        raise ShapeError(f"{op.name}: expected {op.expects}, got {describe(*gates, state)}.")


def _require_shapes(op: Any, blocks: int, x: Array, weight: Array, *states: Array) -> None:
    batch, size = states[0].shape if states[0].ndim == 2 else (-1, -1)
    fits = x.ndim == 3 and x.shape[0] > 0 and x.shape[1:] == (batch, blocks * size)
    fits = fits and weight.shape == (size, blocks * size)
    if not fits or any(state.shape != (batch, size) for state in states):
        raise ShapeError(f"{op.name}: expected {op.expects}, got {describe(x, weight, *states)}.")

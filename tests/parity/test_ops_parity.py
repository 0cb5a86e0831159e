"""Every operator, function and Tensor method against PyTorch: values, gradients, second order.

Where the two differ on purpose (the biased variance, names of parameters) it shows in what is
passed to PyTorch.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from parity.op_pairs import (
    CLASSES,
    CROP,
    MASK,
    PAD,
    TOGETHER,
    Pair,
    along,
    attentions,
    binary,
    comparisons,
    einsums,
    embeddings,
    indices,
    logic,
    masked_softmaxes,
    on,
    on_pictures,
    one_step,
    products,
    recurrence,
    reductions,
    same,
    scalars,
    swap,
    torch_pad,
    truths,
    unary,
)
from parity.side_by_side import compare, torch
from tensors import tensor

from needle import ops
from needle.autograd.methods import TensorMethods

F = torch.nn.functional


FUNCTIONS: dict[str, list[Pair]] = {
    "add": binary(ops.add, torch.add),
    "subtract": binary(ops.subtract, torch.sub),
    "multiply": binary(ops.multiply, torch.mul),
    "divide": binary(ops.divide, torch.div),
    "power": binary(ops.power, torch.pow, positive=True),
    "add_scalar": scalars(ops.add_scalar, torch.add, 2, -0.5),
    "mul_scalar": scalars(ops.mul_scalar, torch.mul, 2, -0.5),
    "divide_scalar": scalars(ops.divide_scalar, torch.div, 2, -0.5),
    "power_scalar": scalars(ops.power_scalar, torch.pow, 0, 1, 2, 3, -1, -2)
    + scalars(ops.power_scalar, torch.pow, 0.5, -1.5, 2.7, positive=True),
    "negate": unary(ops.negate, torch.neg),
    "exp": unary(ops.exp, torch.exp),
    "log": unary(ops.log, torch.log, positive=True),
    "sqrt": unary(ops.sqrt, torch.sqrt, positive=True),
    "sin": unary(ops.sin, torch.sin),
    "cos": unary(ops.cos, torch.cos),
    "erf": unary(ops.erf, torch.erf),
    "abs": unary(ops.abs, torch.abs),
    "sign": unary(ops.sign, torch.sign),
    "clip": on((2, 3), *[
        (lambda x, lo=lo, hi=hi: ops.clip(x, lo, hi), lambda x, lo=lo, hi=hi: x.clamp(lo, hi))
        for lo, hi in [(-1, 1), (0, None), (None, 0.5)]
    ]),
    "cast": on((2, 3), (lambda x: ops.cast(x, "int32"), lambda x: x.to(torch.int32))),
    "relu": unary(ops.relu, torch.relu),
    "tanh": unary(ops.tanh, torch.tanh),
    "sigmoid": unary(ops.sigmoid, torch.sigmoid),
    "silu": unary(ops.silu, F.silu),
    "softplus": unary(ops.softplus, F.softplus),
    "leaky_relu": [pair for slope in (0.01, -0.5, 1.5) for pair in unary(
        lambda x, s=slope: ops.leaky_relu(x, s), lambda x, s=slope: F.leaky_relu(x, s))],
    "prelu": [Pair(ops.prelu, F.prelu, shapes) for shapes in [((2, 3), (3,)), ((2, 3), (1,))]],
    "elu": [pair for alpha in (1.0, 0.5) for pair in unary(
        lambda x, a=alpha: ops.elu(x, a), lambda x, a=alpha: F.elu(x, a))],
    "hardtanh": unary(ops.hardtanh, F.hardtanh)
    + unary(lambda x: ops.hardtanh(x, -0.5, 1.5), lambda x: F.hardtanh(x, -0.5, 1.5)),
    "relu6": unary(lambda x: ops.relu6(x * 5), lambda x: F.relu6(x * 5)),
    "hardsigmoid": unary(  # whose gradient PyTorch cannot differentiate
        lambda x: ops.hardsigmoid(x * 3), lambda x: F.hardtanh(x * 3, -3, 3) / 6 + 0.5),
    "hardswish": unary(lambda x: ops.hardswish(x * 3), lambda x: F.hardswish(x * 3)),
    "gelu": unary(ops.gelu, F.gelu)
    + unary(lambda x: ops.gelu(x, "tanh"), lambda x: F.gelu(x, approximate="tanh")),
    "equal": comparisons(ops.equal, torch.eq),
    "not_equal": comparisons(ops.not_equal, torch.ne),
    "less": comparisons(ops.less, torch.lt),
    "less_equal": comparisons(ops.less_equal, torch.le),
    "greater": comparisons(ops.greater, torch.gt),
    "greater_equal": comparisons(ops.greater_equal, torch.ge),
    "indicator": on((2, 3), (
        lambda x: ops.indicator(x > 0, x) * x, lambda x: (x > 0).to(x.dtype) * x,
    )),
    "logical_and": logic(ops.logical_and, torch.logical_and),
    "logical_or": logic(ops.logical_or, torch.logical_or),
    "logical_not": on(MASK, (ops.logical_not, torch.logical_not)),
    "maximum": binary(ops.maximum, torch.maximum),
    "minimum": binary(ops.minimum, torch.minimum),
    "where": [Pair(ops.where, torch.where, (MASK, *pair)) for pair in TOGETHER[:3]],
    "summation": reductions(ops.summation, torch.sum),
    "mean": reductions(ops.mean, torch.mean),
    "var": reductions(ops.var, lambda x, **k: torch.var(x, correction=0, **k))[:-2]
    + on((4, 3), (lambda x: ops.var(x, 0, correction=1), lambda x: torch.var(x, 0)))
    + on((4, 3), (lambda x: ops.var(x, correction=3), lambda x: torch.var(x, correction=3))),
    "std": reductions(ops.std, lambda x, **k: torch.std(x, correction=0, **k))[:-2]
    + on((4, 3), (lambda x: ops.std(x, 0, correction=1), lambda x: torch.std(x, 0))),
    "max": reductions(ops.max, torch.amax),
    "min": reductions(ops.min, torch.amin),
    "all": truths(ops.all, torch.all),
    "any": truths(ops.any, torch.any),
    "argmax": on((3, 4), (ops.argmax, torch.argmax),
                 (lambda x: ops.argmax(x, 1), lambda x: torch.argmax(x, 1))),
    "argmin": on((3, 4), (ops.argmin, torch.argmin),
                 (lambda x: ops.argmin(x, -1), lambda x: torch.argmin(x, -1))),
    "cumsum": on((3, 4), *[
        (lambda x, a=a: ops.cumsum(x, a), lambda x, a=a: torch.cumsum(x, a)) for a in (0, 1, -1)
    ]),
    "logsumexp": reductions(ops.logsumexp, torch.logsumexp)[:-2],
    "moments": on((2, 3, 4), (lambda x: ops.moments(x, (0, 2)), lambda x: (
        x.mean((0, 2), keepdim=True), x.var((0, 2), correction=0, keepdim=True)))),
    "normalize": [Pair(lambda x, w, b: ops.normalize(x, -1, w, b),
                       lambda x, w, b: F.layer_norm(x, (4,), w, b), ((3, 4), (4,), (4,)))],
    "softmax": on((3, 4), *[
        (lambda x, a=a: ops.softmax(x, a), lambda x, a=a: torch.softmax(x, a)) for a in (0, -1)
    ]),
    "logsoftmax": on((3, 4), *[
        (lambda x, a=a: ops.logsoftmax(x, a), lambda x, a=a: F.log_softmax(x, a)) for a in (0, -1)
    ]),
    "cross_entropy": on((4, 3), (
        lambda z: ops.cross_entropy(z, tensor(CLASSES)),
        lambda z: F.cross_entropy(z, torch.tensor(CLASSES[:, 0]), reduction="none")[:, None],
    ), (
        lambda z: ops.cross_entropy(z, tensor(CLASSES), mean=True),
        lambda z: F.cross_entropy(z, torch.tensor(CLASSES[:, 0])),
    )),
    "softmax_minus_one_hot": on((4, 3), (
        lambda z: ops.softmax_minus_one_hot(z, tensor(CLASSES)),
        lambda z: F.softmax(z, 1) - F.one_hot(torch.tensor(CLASSES[:, 0]), 3),
    )),
    "transpose": on((2, 3, 4), (ops.transpose, swap),
                    (lambda x: ops.transpose(x, (0, -1)), lambda x: swap(x, (0, -1)))),
    "permute": on((2, 3, 4), *[
        (lambda x, a=a: ops.permute(x, a), lambda x, a=a: x.permute(a))
        for a in [(2, 0, 1), (-1, 0, -2)]
    ]),
    "reshape": on((2, 3, 4), *[
        (lambda x, s=s: ops.reshape(x, s), lambda x, s=s: x.reshape(s))
        for s in [(6, 4), (-1,), (2, -1, 2)]
    ]),
    "flatten": on((2, 3, 4), (ops.flatten, torch.flatten),
                  (lambda x: ops.flatten(x, 1), lambda x: torch.flatten(x, 1))),
    "broadcast_to": on((3, 1), *[
        (lambda x, s=s: ops.broadcast_to(x, s), lambda x, s=s: torch.broadcast_to(x, s))
        for s in [(3, 4), (2, 3, 1), (0, 3, 2)]
    ]),
    "squeeze": on((1, 3, 1), (ops.squeeze, torch.squeeze),
                  (lambda x: ops.squeeze(x, 0), lambda x: torch.squeeze(x, 0))),
    "expand_dims": on((3,), *[
        (lambda x, a=a: ops.expand_dims(x, a), lambda x, a=a: torch.unsqueeze(x, a))
        for a in (0, 1, -1)
    ]),
    "flip": on((2, 3), *[
        (lambda x, a=a: ops.flip(x, a), lambda x, a=a: torch.flip(x, a)) for a in [(0,), (0, 1)]
    ]),
    "concatenate": [
        Pair(lambda *xs: ops.concatenate(xs, 0), lambda *xs: torch.cat(xs, 0),
             ((2, 3), (1, 3), (0, 3))),
        Pair(lambda *xs: ops.concatenate(xs, -1), lambda *xs: torch.cat(xs, -1),
             ((2, 3), (2, 2))),
    ],
    "stack": [
        Pair(lambda *xs, a=a: ops.stack(xs, a), lambda *xs, a=a: torch.stack(xs, a),
             ((2, 3), (2, 3))) for a in (0, 1, -1)
    ],
    "split": on((3, 2), *[
        (lambda x, a=a: ops.split(x, a), lambda x, a=a: torch.unbind(x, a)) for a in (0, 1)
    ]),
    "make_tuple": [Pair(ops.make_tuple, lambda *xs: [x * 1 for x in xs], ((2,), (3,)))],
    "tuple_get_item": on((3, 2), (
        lambda x: ops.tuple_get_item(ops.split(x, 0), 1), lambda x: torch.unbind(x, 0)[1])),
    "fused_add_scalars": on((3,), (
        lambda x: ops.fused_add_scalars(x, 1, 2), lambda x: (x + 1, x + 2))),
    "pad": on((2, 3), (lambda x: ops.pad(x, PAD), lambda x: torch_pad(x, PAD)),
              (lambda x: ops.pad(x, PAD, 2.0), lambda x: torch_pad(x, PAD, 2.0)),
              (lambda x: ops.pad(x, CROP, 2.0), lambda x: torch_pad(x, CROP, 2.0))),
    "interpolate": on_pictures(lambda x: ops.interpolate(x, (7, 4), mode="bilinear"),
                               lambda x: F.interpolate(x, (7, 4), mode="bilinear"), (2, 5, 6, 3)),
    "pixel_shuffle": on_pictures(lambda x: ops.pixel_shuffle(x, 2),
                                 lambda x: F.pixel_shuffle(x, 2), (2, 3, 4, 8)),
    "pixel_unshuffle": on_pictures(lambda x: ops.pixel_unshuffle(x, 2),
                                   lambda x: F.pixel_unshuffle(x, 2), (2, 4, 6, 3)),
    "getitem": indices(),
    "take": on((4, 3), *[
        (lambda x, a=a: ops.take(x, [2, 0, 2], a),
         lambda x, a=a: torch.index_select(x, a, torch.tensor([2, 0, 2]))) for a in (0, 1)
    ]),
    "take_along": along(ops.take_along, torch.take_along_dim),
    "gather": along(lambda x, i, a: ops.gather(x, a, i), lambda x, i, a: torch.gather(x, a, i))
    + on((3, 4), (lambda x: ops.gather(x, 1, np.array([[3, 0, 3]])),
                  lambda x: torch.gather(x, 1, torch.tensor([[3, 0, 3]])))),
    "matmul": products(ops.matmul),
    "einsum": einsums(),
    "embedding": embeddings(),
    "masked_softmax": masked_softmaxes(),
    "scaled_dot_product_attention": attentions(),
    "rnn_scan": recurrence(ops.rnn_scan, "RNN", 1, 1),
    "lstm_scan": recurrence(ops.lstm_scan, "LSTM", 4, 2),
    "gru_scan": recurrence(ops.gru_scan, "GRU", 3, 1),
    "lstm_step": one_step(ops.lstm_step, "LSTM", 4),
    "gru_step": one_step(ops.gru_step, "GRU", 3),
    "tril": on((2, 3, 4), *[
        (lambda x, k=k: ops.tril(x, k), lambda x, k=k: torch.tril(x, k)) for k in (-1, 0, 2)
    ]),
    "triu": on((2, 3, 4), *[
        (lambda x, k=k: ops.triu(x, k), lambda x, k=k: torch.triu(x, k)) for k in (-1, 0, 2)
    ]),
    "conv": on_pictures(ops.conv, lambda x, w: F.conv2d(x, w, padding=1), (2, 4, 5, 3),
                        (3, 2, 3, 2)),
    "conv_transpose": on_pictures(lambda x, w: ops.conv_transpose(x, w, 2),
                                  lambda x, w: F.conv_transpose2d(x, w, stride=2), (2, 3, 4, 3),
                                  (3, 2, 2, 3)),
    "dilate": on((2, 3), (lambda x: ops.dilate(x, (1,), 1),
                          lambda x: torch.stack([x, 0 * x], -1).flatten(1))),
    "undilate": on((3, 5), (lambda x: ops.undilate(x, (0, 1), 1), lambda x: x[::2, ::2])),
    "max_pool": on_pictures(lambda x: ops.max_pool(x, 3, 2, 1),
                            lambda x: F.max_pool2d(x, 3, 2, 1), (2, 5, 6, 3)),
    "avg_pool": on_pictures(lambda x: ops.avg_pool(x, 3, 2, 1),
                            lambda x: F.avg_pool2d(x, 3, 2, 1), (2, 5, 6, 3)),
    "adaptive_avg_pool": on_pictures(lambda x: ops.adaptive_avg_pool(x, (2, 4)),
                                     lambda x: F.adaptive_avg_pool2d(x, (2, 4)), (2, 5, 6, 3)),
    "adaptive_max_pool": on_pictures(lambda x: ops.adaptive_max_pool(x, (2, 4)),
                                     lambda x: F.adaptive_max_pool2d(x, (2, 4)), (2, 5, 6, 3)),
}  # fmt: skip


METHODS: dict[str, list[Pair]] = {
    "__add__": [*same(lambda x: x + 2), *binary(lambda a, b: a + b, torch.add)],
    "__radd__": same(lambda x: 2 + x),
    "__mul__": [*same(lambda x: x * 2), *binary(lambda a, b: a * b, torch.mul)],
    "__rmul__": same(lambda x: 2 * x),
    "__sub__": [*same(lambda x: x - 2), *binary(lambda a, b: a - b, torch.sub)],
    "__rsub__": same(lambda x: 2 - x),
    "__truediv__": [*same(lambda x: x / 2), *binary(lambda a, b: a / b, torch.div)],
    "__rtruediv__": same(lambda x: 2 / x),
    "__pow__": [*same(lambda x: x**3), *binary(lambda a, b: a**b, torch.pow, positive=True)],
    "__rpow__": same(lambda x: 2**x),
    "__matmul__": products(lambda a, b: a @ b),
    "__rmatmul__": on((3, 2), (lambda x: np.ones((2, 3)) @ x,
                               lambda x: torch.ones(2, 3, dtype=torch.float64) @ x)),
    "__neg__": same(lambda x: -x),
    "__abs__": same(lambda x: abs(x)),
    "__getitem__": indices(),
    "__lt__": same(lambda x: x < 0.5),
    "__le__": same(lambda x: x <= 0.5),
    "__gt__": same(lambda x: x > 0.5),
    "__ge__": same(lambda x: x >= 0.5),
    "__and__": same(lambda x: (x > 0) & (x < 1)),
    "__rand__": same(lambda x: True & (x > 0)),
    "__or__": same(lambda x: (x < 0) | (x > 1)),
    "__ror__": same(lambda x: False | (x > 0)),
    "__invert__": same(lambda x: ~(x > 0)),
    "all": same(lambda x: (x > 0).all(0)),
    "any": same(lambda x: (x > 0).any(1)),
    "exp": same(lambda x: x.exp()),
    "log": same(lambda x: x.log(), positive=True),
    "sqrt": same(lambda x: x.sqrt(), positive=True),
    "abs": same(lambda x: x.abs()),
    "sin": same(lambda x: x.sin()),
    "cos": same(lambda x: x.cos()),
    "erf": same(lambda x: x.erf()),
    "tanh": same(lambda x: x.tanh()),
    "sigmoid": same(lambda x: x.sigmoid()),
    "relu": same(lambda x: x.relu()),
    "clip": same(lambda x: x.clip(-1, 1)),
    "astype": on((3,), (lambda x: x.astype("int64"), lambda x: x.long())),
    "matmul": products(lambda a, b: a.matmul(b)),
    "sum": [*same(lambda x: x.sum()), *same(lambda x: x.sum((0, 1))), *same(lambda x: x.sum(1))],
    "mean": [*same(lambda x: x.mean()), *same(lambda x: x.mean(-1))],
    "var": [*same(lambda x: x.var(correction=0)), *same(lambda x: x.var(1, correction=1))],
    "std": [*same(lambda x: x.std(correction=0)), *same(lambda x: x.std(1, correction=1))],
    "max": [*same(lambda x: x.max()), *on((2, 3), (lambda x: x.max(1), lambda x: x.amax(1)))],
    "min": [*same(lambda x: x.min()), *on((2, 3), (lambda x: x.min(0), lambda x: x.amin(0)))],
    "argmax": [*same(lambda x: x.argmax()), *same(lambda x: x.argmax(1))],
    "argmin": [*same(lambda x: x.argmin()), *same(lambda x: x.argmin(1))],
    "cumsum": same(lambda x: x.cumsum(1)),
    "logsumexp": same(lambda x: x.logsumexp(1)),
    "reshape": [*same(lambda x: x.reshape(3, 2)), *same(lambda x: x.reshape((6,)))],
    "broadcast_to": same(lambda x: x.broadcast_to((4, 2, 3))),
    "transpose": on((2, 3, 4), (lambda x: x.transpose(), lambda x: x.mT),
                    (lambda x: x.transpose((0, 1)), lambda x: x.transpose(0, 1))),
    "permute": same(lambda x: x.permute((1, 0))),
    "T": same(lambda x: x.T),
    "squeeze": same(lambda x: x.squeeze(), (1, 3, 1)),
    "expand_dims": on((3,), (lambda x: x.expand_dims(1), lambda x: x.unsqueeze(1))),
    "flatten": [*same(lambda x: x.flatten()), *same(lambda x: x.flatten(1), (2, 3, 4))],
    "flip": same(lambda x: x.flip((0, 1))),
}  # fmt: skip


def cases(table: dict[str, list[Pair]]) -> list[Any]:
    return [
        pytest.param(pair, id=f"{name}-{i}")
        for name, pairs in table.items()
        for i, pair in enumerate(pairs)
    ]


@pytest.mark.parametrize("pair", cases(FUNCTIONS))
def test_function_agrees_to_the_second_order(pair):
    compare(pair.ours, pair.theirs, *pair.arrays())


@pytest.mark.parametrize("pair", cases(METHODS))
def test_method_agrees_to_the_second_order(pair):
    compare(pair.ours, pair.theirs, *pair.arrays())


def test_every_function_is_compared():
    functions = {name for name in ops.__all__ if not isinstance(getattr(ops, name), type)}
    assert functions == set(FUNCTIONS)


def test_every_method_is_compared():
    methods = {name for name, value in vars(TensorMethods).items()
               if callable(value) or isinstance(value, property)}  # fmt: skip
    assert methods == set(METHODS)

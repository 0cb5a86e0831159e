"""PyTorch's answers at kinks, poles, ties, infinities and NaN: the values that users trip over."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from parity.side_by_side import compare, torch
from tensors import tensor

from needle import ops

F = torch.nn.functional
INF, NAN = np.inf, np.nan


def at(*values):
    return np.array(values)


KINKS = {
    "relu": (ops.relu, torch.relu, at(-1.0, 0.0, -0.0, 2.0, INF, -INF)),
    "abs": (ops.abs, torch.abs, at(-1.0, 0.0, -0.0, 2.0, INF)),
    "sign": (ops.sign, torch.sign, at(-1.0, 0.0, -0.0, 3.0, -INF)),
    "clip": (lambda x: ops.clip(x, -1, 1), lambda x: x.clamp(-1, 1), at(-2, -1, 0, 1, 2, INF)),
    "clip-low": (lambda x: ops.clip(x, 0), lambda x: x.clamp(min=0), at(-2.0, 0.0, 1.0)),
    "max-ties": (ops.max, torch.amax, at(1.0, 3.0, 3.0, 2.0)),
    "max-ties-axis": (lambda x: ops.max(x, 1), lambda x: x.amax(1), at([3.0, 3, 1], [0, 0, 0])),
    "min-ties-axes": (lambda x: ops.min(x, (0, 1)), torch.amin, at([1.0, 3, 1], [2, 1, 4])),
    "max-whole": (ops.max, torch.max, at(2.0, 2.0, 1.0)),
    "maximum-ties": (lambda x: ops.maximum(x, -x), lambda x: torch.maximum(x, -x), at(0.0, 1, -1)),
    "minimum-ties": (lambda x: ops.minimum(x, 2 * x), lambda x: torch.minimum(x, 2 * x),
                     at(0.0, 1, -1)),
    "argmax-ties": (ops.argmax, torch.argmax, at(1.0, 3.0, 3.0)),
    "argmin-ties": (ops.argmin, torch.argmin, at(3.0, 1.0, 1.0)),
}  # fmt: skip

FAR = at(-INF, -800.0, -40.0, -1e-300, 0.0, 1e-300, 40.0, 800.0)
LARGE = {
    "softplus": (ops.softplus, F.softplus, at(-INF, -800.0, -40.0, 0.0, 40.0, 800.0, INF)),
    "sigmoid": (ops.sigmoid, torch.sigmoid, at(*FAR, INF)),
    "tanh": (ops.tanh, torch.tanh, at(*FAR, INF)),
    "erf": (ops.erf, torch.erf, at(*FAR, INF, 0.5, 3.9, 4.1, 5.9)),
    "silu": (ops.silu, F.silu, FAR[1:]),
    "gelu": (ops.gelu, F.gelu, FAR[1:]),
    "gelu-tanh": (lambda x: ops.gelu(x, "tanh"), lambda x: F.gelu(x, approximate="tanh"),
                  FAR[1:]),
    "exp": (ops.exp, torch.exp, at(-INF, -800.0, 700.0)),
    "logsumexp": (ops.logsumexp, lambda x: torch.logsumexp(x, 0), at(1e10, 1e10, -1e10)),
    "logsumexp-ninf": (ops.logsumexp, lambda x: torch.logsumexp(x, 0), at(-INF, 1.0, 2.0)),
    "logsoftmax": (ops.logsoftmax, lambda x: F.log_softmax(x, -1), at([5e5, 0, -5e5], [1, 2, 3])),
    "logsoftmax-ninf": (lambda x: ops.logsoftmax(x)[1:], lambda x: F.log_softmax(x, -1)[1:],
                        at(-INF, 1.0, 2.0)),
    "softmax-ninf": (ops.softmax, lambda x: F.softmax(x, -1), at([-INF, 1, 2], [0, -INF, 800])),
}  # fmt: skip

ZEROS = at(0.0, 1.0, 2.0)
POLES = {
    "pow-0": (lambda x: x**0, lambda x: x**0, ZEROS),
    "pow-1": (lambda x: x**1, lambda x: x**1, ZEROS),
    "pow-2": (lambda x: x**2, lambda x: x**2, ZEROS),
    "pow-3": (lambda x: x**3, lambda x: x**3, ZEROS),
    "pow-tensor": (lambda x: ops.power(x, tensor(at(2.0, 1, 3), requires_grad=False)),
                   lambda x: torch.pow(x, torch.tensor([2.0, 1, 3], dtype=torch.float64)), ZEROS),
    "where": (lambda x: ops.where(x > 0, x * 2, 0.0), lambda x: torch.where(x > 0, x * 2, 0.0),
              at(-1.0, 0.0, 2.0)),
    "var-of-one": (ops.var, lambda x: torch.var(x, correction=0), at(3.0)),
}  # fmt: skip

# whose second order PyTorch gives as NaN
ZEROTH_POWERS = {
    "to-zero": (lambda x: ops.power(x, tensor(at(0.0, 0, 0), requires_grad=False)),
                lambda x: torch.pow(x, torch.zeros(3, dtype=torch.float64)), ZEROS),
    "of-zero": (lambda b: ops.power(tensor(at(0.0), requires_grad=False), b),
                lambda b: torch.pow(torch.zeros(1, dtype=torch.float64), b), at(1.0, 2, 0)),
}  # fmt: skip

# NumPy says RuntimeWarning where a derivative is infinite or undefined; PyTorch says nothing
WARNED = {
    "sqrt": (ops.sqrt, torch.sqrt, at(0.0, 1.0, -1.0)),
    "log": (ops.log, torch.log, at(0.0, 1.0, -1.0)),
    "divide": (lambda x: 1 / x, lambda x: 1 / x, at(0.0, -0.0, 2.0)),
    "pow-half": (lambda x: x**0.5, lambda x: x**0.5, at(0.0, 4.0)),
    "where-of-log": (lambda x: ops.where(x > 0, ops.log(x), 0.0),
                     lambda x: torch.where(x > 0, torch.log(x), 0.0), at(0.0, 1.0)),
    "std-of-equals": (lambda x: ops.std(x, 0), lambda x: torch.std(x, 0, correction=0),
                      at([1.0, 2.0], [1.0, 5.0])),
    "logsumexp-inf": (ops.logsumexp, lambda x: torch.logsumexp(x, 0), at(INF, 1.0)),
    "logsumexp-all-ninf": (ops.logsumexp, lambda x: torch.logsumexp(x, 0), at(-INF, -INF)),
    "softmax-all-ninf": (ops.softmax, lambda x: F.softmax(x, 0), at(-INF, -INF)),
    "max-nan": (ops.max, torch.amax, at(1.0, NAN)),
}  # fmt: skip


def cases(table):
    return pytest.mark.parametrize(("ours", "theirs", "x"), table.values(), ids=table.keys())


@cases(KINKS)
def test_kinks_and_ties_agree_to_the_second_order(ours, theirs, x):
    compare(ours, theirs, x)


@cases(LARGE)
def test_large_inputs_neither_overflow_nor_warn(ours, theirs, x):
    compare(ours, theirs, x, order=1)


@cases(POLES)
def test_zeros_agree_to_the_second_order(ours, theirs, x):
    compare(ours, theirs, x)


@cases(ZEROTH_POWERS)
def test_powers_of_and_to_zero_agree(ours, theirs, x):
    compare(ours, theirs, x, order=1)


@cases(WARNED)
def test_infinite_and_undefined_derivatives_agree(ours, theirs, x):
    with np.errstate(all="ignore"):
        compare(ours, theirs, x, order=1)


def test_mean_of_nothing_is_nan():
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # np mode's
        assert np.isnan(ops.mean(tensor(np.zeros(0))).item())
    assert torch.mean(torch.zeros(0)).isnan()


PROMOTIONS = [
    ("float32", "float64"),
    ("float32", "float32"),
    ("int32", "int64"),
    ("uint8", "int16"),
    ("bool", "int32"),
    ("bool", "float32"),
    ("int8", "uint8"),
    ("float16", "float32"),
]


@pytest.mark.parametrize(("a", "b"), PROMOTIONS)
@pytest.mark.parametrize("name", ["add", "multiply", "maximum"])
def test_dtypes_promote_alike_between_arrays(name, a, b):
    theirs = {"add": torch.add, "multiply": torch.multiply, "maximum": torch.maximum}[name]
    x, y = np.ones(2).astype(a), np.ones(2).astype(b)
    ours = getattr(ops, name)(tensor(x), tensor(y))
    assert str(ours.dtype) == str(theirs(torch.tensor(x), torch.tensor(y)).dtype)[len("torch.") :]


@pytest.mark.parametrize("name", ["summation", "cumsum"])
def test_sums_of_bools_and_small_integers_are_int64(name):
    for dtype in ("bool", "int8", "int32"):
        array = np.ones(3).astype(dtype)
        ours = getattr(ops, name)(tensor(array), 0)
        assert ours.dtype == np.int64
        assert torch.sum(torch.tensor(array)).dtype == torch.int64


def test_gradients_come_in_the_dtype_of_their_leaf():
    x, y = np.ones(2, "float32"), np.ones(2)
    a, b = tensor(x), tensor(y)
    (a * b).sum().backward()
    p, q = torch.tensor(x, requires_grad=True), torch.tensor(y, requires_grad=True)
    (p * q).sum().backward()
    assert (a.grad.dtype, b.grad.dtype) == (np.float32, np.float64)
    assert (p.grad.dtype, q.grad.dtype) == (torch.float32, torch.float64)

"""Every operator of the table `opspecs.ROWS`, compiled and eager: results, gradients, layouts."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from compiled_runs import tensors_in
from oprows import Bad, Case, Row
from opspecs import ROWS

import needle as ndl
from needle.dtypes import is_floating
from needle.fixed import fixed
from needle.jit import JitError, jit
from needle.testing import assert_close
from needle.testing.layouts import LAYOUTS, raw_array

pytestmark = pytest.mark.nd_mode

every_row = pytest.mark.parametrize("row", ROWS, ids=lambda row: row.op.__name__)
# few ulp: sums are added up in another order, and a fused kernel rounds as single ones do
BOUNDS = {"float32": (1e-5, 1e-6), "float64": (1e-12, 1e-13), "bfloat16": (1e-2, 1e-2)}
AT_ONCE = 4  # cases that one program computes


def made(array: np.ndarray, layout: str = "") -> ndl.Tensor:
    """A Tensor of an array, laid out in memory as asked for."""
    laid_out = LAYOUTS[layout](array) if layout else array
    data = raw_array(laid_out) if layout else array
    return ndl.Tensor(data, dtype=array.dtype, requires_grad=is_floating(array.dtype))


def results_of(row: Row, case: Case, tensors: list[ndl.Tensor]) -> list[ndl.Tensor]:
    # arrays of the table itself stay what they are
    params = {name: _fixed(value) for name, value in case.params.items()}
    return list(tensors_in(tuple(_items(row.function(*tensors, **params)))))


def _items(result: Any) -> list[Any]:
    return [result] if isinstance(result, ndl.Tensor) else list(result)


def _fixed(value: Any) -> Any:
    if isinstance(value, tuple):
        return tuple([_fixed(item) for item in value])
    return fixed(value) if isinstance(value, np.ndarray) else value


def results_and_gradients(
    row: Row, case: Case, tensors: list[ndl.Tensor], order: int
) -> list[ndl.Tensor]:
    """What the op gives, and the derivatives by its inputs.

    In float32 of a function of what it gives, with which it becomes one kernel where it can. In
    float64 of what it gives itself.
    """
    ys = results_of(row, case, tensors)
    xs = [x for x in tensors if x.requires_grad]
    found = list(ys)
    for _ in range(order):
        parts = [_number(y, order) for y in ys if y.requires_grad]
        if not parts or not xs:
            break
        loss = parts[0]
        for part in parts[1:]:
            loss = loss + part
        for x in xs:
            x.grad = None
        loss.backward(create_graph=order > 1)
        ys = [x.grad for x in xs if x.grad is not None]
        found += ys
    return found


def _number(y: ndl.Tensor, order: int) -> ndl.Tensor:
    return y.sum() if y.dtype == np.float64 and order == 1 else ((y + 0.3) * y).sum()


def assert_compiled_is_eager(
    row: Row, cases: list[Case], dtype: Any, order: int, layout: str = ""
) -> None:
    """Some cases at once, in one program; eager and compiled from Tensors of their own."""

    def run(all_tensors: list[list[ndl.Tensor]]) -> list[list[ndl.Tensor]]:
        return [
            results_and_gradients(row, case, tensors, order)
            for case, tensors in zip(cases, all_tensors, strict=True)
        ]

    def given() -> list[list[ndl.Tensor]]:
        return [[made(a, layout) for a in row.arrays(case, dtype)] for case in cases]

    eager, compiled = run(given()), jit(run)(given())
    rtol, atol = BOUNDS[np.dtype(dtype).name]
    for case, e, c in zip(cases, eager, compiled, strict=True):
        assert len(e) == len(c)
        for number, (expected, actual) in enumerate(zip(e, c, strict=True)):
            what = f"{row.op.__name__}-{case} {layout}, number {number}"
            bounds = {"rtol": rtol, "atol": atol * _largest(expected), "same_dtype": True}
            assert_close(actual, expected, what=what, **bounds)


def _largest(x: ndl.Tensor) -> float:
    values = np.abs(x.numpy().astype(np.float64))
    return float(values[np.isfinite(values)].max(initial=1.0))


def parts_of(row: Row) -> list[list[Case]]:
    return [row.cases[i : i + AT_ONCE] for i in range(0, len(row.cases), AT_ONCE)]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@every_row
def test_compiled_op_and_its_gradient_are_the_eager_ones(row: Row, dtype: str):
    for cases in parts_of(row):
        assert_compiled_is_eager(row, cases, np.dtype(dtype), order=min(row.order, 1))


@pytest.mark.parametrize("layout", LAYOUTS)
@every_row
def test_compiled_op_reads_what_lies_otherwise_in_memory(row: Row, layout: str):
    (cases, *_) = parts_of(row)
    assert_compiled_is_eager(row, cases, np.dtype(np.float32), order=0, layout=layout)


def test_masks_as_indices_are_refused_with_the_line_and_the_way_out():
    x, mask = made(np.ones(3)), ndl.Tensor([True, False, True], dtype="bool", requires_grad=False)
    for function in (lambda x: x[mask], lambda x: x[x > 0]):
        with pytest.raises(JitError, match=r"never looks at values.* line .*ndl\.where"):
            jit(function)(x)


SECOND = [
    "EWiseMul", "EWiseDiv", "PowerScalar", "Exp", "Tanh", "MatMul", "Summation", "LogSoftmax",
    "MaskedSoftmax", "CrossEntropy", "Normalize", "Conv", "GetItem", "GELU",
]  # fmt: skip


@pytest.mark.parametrize("row", [row for row in ROWS if row.op.__name__ in SECOND],
                         ids=lambda row: row.op.__name__)  # fmt: skip
def test_compiled_second_derivatives_are_the_eager_ones(row: Row):
    assert_compiled_is_eager(row, list(row.cases)[:3], np.dtype(np.float64), order=2)


def test_second_derivatives_are_looked_at_for_ops_of_the_table():
    assert set(SECOND) <= {row.op.__name__ for row in ROWS}


BAD = [pytest.param(r, b, id=f"{r.op.__name__}-{i}") for r in ROWS for i, b in enumerate(r.bad)]


@pytest.mark.parametrize(("row", "call"), BAD)
def test_bad_call_in_a_compiled_function_says_what_was_expected_and_got(row: Row, call: Bad):
    arrays = row.arrays(Case(call.inputs, call.params))
    tensors = [made(np.asarray(a)) for a in arrays]
    with pytest.raises(call.error, match=call.message):
        jit(lambda *xs: results_of(row, Case(call.inputs, call.params), list(xs)))(*tensors)


def test_one_result_may_lie_where_what_another_reads_lay():
    w, bias = ndl.init.randn(8, 8), ndl.init.randn(8)

    def results(x: ndl.Tensor, u: ndl.Tensor) -> list[ndl.Tensor]:
        y = ndl.relu(x @ w + bias)  # in the memory of the product lies the mask, afterwards
        mask = ndl.less_equal(u, 0.7).astype("float32")
        return [y * mask, mask, ndl.sign(y)]

    x, u = ndl.init.randn(16, 8), ndl.init.rand(16, 8)
    for compiled, eager in zip(jit(results)(x, u), results(x, u), strict=True):
        assert_close(compiled, eager)

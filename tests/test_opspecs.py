"""Every operator of the table `opspecs.ROWS`, through every check."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from oprows import Bad, Case, Row
from opspecs import ROWS
from tensors import tensor

import needle as ndl
from needle import ops
from needle.dtypes import as_dtype, is_floating
from needle.testing import assert_close, check_op

BAD = [pytest.param(r, b, id=f"{r.op.__name__}-{i}") for r in ROWS for i, b in enumerate(r.bad)]
pytestmark = pytest.mark.usefixtures("each_device")

every_row = pytest.mark.parametrize("row", ROWS, ids=lambda row: row.op.__name__)
every_bad_call = pytest.mark.parametrize(("row", "call"), BAD)


def every_case(which: Callable[[Row], bool] = lambda row: True) -> pytest.MarkDecorator:
    cases = [(row, case) for row in ROWS if which(row) for case in row.cases]
    ids = [f"{row.op.__name__}-{case}" for row, case in cases]
    return pytest.mark.parametrize(("row", "case"), cases, ids=ids)


def exported_ops() -> set[type]:
    kinds = (ndl.TensorOp, ndl.TensorTupleOp)
    return {v for v in vars(ops).values() if inspect.isclass(v) and issubclass(v, kinds)}


def apply(row: Row, case: Case, arrays: list[Any]) -> list[ndl.Tensor]:
    tensors = [tensor(a) for a in arrays]
    result = row.function(*tensors, **case.params)
    return [result] if isinstance(result, ndl.Tensor) else list(result)


def expected(row: Row, case: Case, arrays: list[Any]) -> list[np.ndarray]:
    result = row.reference(*arrays, **case.params)
    results = result if isinstance(result, (tuple, list)) else [result]
    return [np.asarray(y) for y in results]


def test_table_has_one_row_for_each_exported_op() -> None:
    rows = [row.op for row in ROWS]
    assert len(set(rows)) == len(rows)
    missing, foreign = exported_ops() - set(rows), set(rows) - exported_ops()
    assert not missing, f"write a row in tests/opspecs.py for {missing}"
    assert not foreign


@every_row
def test_op_name_is_that_of_its_public_function(row: Row) -> None:
    assert hasattr(ops, row.op.name) == row.public
    if row.public:
        assert row.op.name in ops.__all__
        assert getattr(ndl, row.op.name) is getattr(ops, row.op.name)
        assert getattr(ndl, row.op.__name__) is row.op


@every_row
def test_op_and_function_have_docstrings(row: Row) -> None:
    assert row.op.__doc__ and row.op.__doc__ != row.op.__mro__[1].__doc__
    if row.public:
        assert getattr(ops, row.op.name).__doc__


@every_row
def test_table_has_a_case_that_needs_no_elements(row: Row) -> None:
    assert any(0 in np.shape(a) for case in row.cases for a in row.arrays(case)) or not row.public


@every_case()
def test_op_passes_the_public_battery(row: Row, case: Case) -> None:
    def function(*tensors: Any) -> Any:
        return row.function(*tensors, **case.params)

    function.__name__ = row.op.name
    check_op(
        function,
        *row.arrays(case),
        reference=lambda *arrays: row.reference(*arrays, **case.params),
        order=row.order,
        keeps_dtype=row.keeps_dtype,
    )


@every_case()
def test_float32_agrees_with_the_reference(row: Row, case: Case) -> None:
    arrays = row.arrays(case, np.float32)
    for y, e in zip(apply(row, case, arrays), expected(row, case, arrays), strict=True):
        assert_close(y, e, rtol=1e-5, atol=1e-6)


@every_case(lambda row: row.integers)
def test_integers_give_what_numpy_gives(row: Row, case: Case) -> None:
    rng = np.random.RandomState(0)
    arrays = [
        rng.randint(1, 4, a.shape).astype(np.int32) if a.dtype == np.float64 else a
        for a in row.arrays(case)
    ]
    for y, e in zip(apply(row, case, arrays), expected(row, case, arrays), strict=True):
        assert_close(y, e, same_dtype=not is_floating(e.dtype))


@every_case(lambda row: row.bools)
def test_bools_give_what_numpy_gives(row: Row, case: Case) -> None:
    arrays = [a > 0 if a.dtype == np.float64 else a for a in row.arrays(case)]
    for y, e in zip(apply(row, case, arrays), expected(row, case, arrays), strict=True):
        assert_close(y, e, same_dtype=True)


@pytest.mark.parametrize("name", ["float16", "bfloat16"])
@every_case(lambda row: row.narrow)
def test_narrow_floats_stay_and_agree_with_float32(row: Row, case: Case, name: str) -> None:
    arrays = row.arrays(case, as_dtype(name))
    wide = [a.astype(np.float32) if is_floating(a.dtype) else a for a in arrays]
    for y, e in zip(apply(row, case, arrays), apply(row, case, wide), strict=True):
        if is_floating(e.dtype) and row.keeps_dtype:
            assert y.dtype == as_dtype(name)
        assert_close(y, e, rtol=0.02 if name == "bfloat16" else 0.004, atol=0.02)


@every_bad_call
def test_bad_call_says_what_was_expected_and_got(row: Row, call: Bad) -> None:
    arrays = row.arrays(Case(call.inputs, call.params))
    tensors = [tensor(a) for a in arrays]
    with pytest.raises(call.error, match=call.message) as caught:
        row.function(*tensors, **call.params)
    message = str(caught.value)
    assert "expected" in message
    assert message.startswith((f"{row.op.name}: ", "dtype: ", "add_scalar: "))  # as built on
    assert "\n" not in message

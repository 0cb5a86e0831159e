"""Errors from below an op are told in the op's words: its name, what it expects, every input."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import needle as ndl
from needle.errors import AxisError, DTypeError, OptionError, OutOfRangeError, ShapeError

X = ndl.Tensor(np.ones((2, 3)), dtype="float64")


class Squares(ndl.TensorOp):
    expects = "a matrix with as many rows as columns"

    def __init__(self, compute: Any) -> None:
        self.compute = compute


@pytest.mark.nd_mode
@pytest.mark.parametrize(
    ("compute", "error", "reason"),
    [
        (lambda x: ndl.array_api.matmul(x, x), ShapeError, "matmul: expected a"),
        (lambda x: ndl.array_api.sum(x, 4), AxisError, "sum: expected axes"),
        (lambda x: -(x > 0), DTypeError, "negative: expected "),
        (lambda x: ndl.array_api.pad(x, ((-1, 0), (0, 0))), OptionError, "pad: expected 2 pairs"),
        (lambda x: x[5], OutOfRangeError, "getitem: expected an index"),
    ],
)
def test_an_error_of_the_array_library_names_the_op_and_keeps_its_class(compute, error, reason):
    with pytest.raises(error) as caught:
        Squares(compute)(X)
    assert str(caught.value).startswith(
        f"squares: expected a matrix with as many rows as columns, got float64[2,3]. ({reason}"
    )
    assert type(caught.value) is error


def test_what_an_op_says_itself_stays_as_it_is():
    def compute(x: Any) -> Any:
        raise ShapeError("not square.")

    with pytest.raises(ShapeError, match=r"^not square\.$"):
        Squares(compute)(X)


def test_missing_memory_is_told_with_the_op_and_the_bytes():
    column = ndl.Tensor(np.ones((1 << 23, 1)), dtype="float32", requires_grad=False)
    with pytest.raises(MemoryError, match=r"^multiply: .*(281,474,976,710,656 bytes|256. TiB)"):
        column * column.reshape((1, 1 << 23))


def test_missing_memory_without_a_word_is_told_with_the_inputs():
    def compute(x: Any) -> Any:
        raise MemoryError

    with pytest.raises(MemoryError, match=r"^squares: expected memory for the result of float64"):
        Squares(compute)(X)

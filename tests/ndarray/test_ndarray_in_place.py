"""`x += y` and the like, on every device: they write to the memory that x shares with its views."""

from __future__ import annotations

import operator
from typing import Any

import numpy as np
import pytest
from ndarray.side_by_side import address, each_device, require_equal

import needle as ndl
import needle.backend_ndarray as nd
from needle.errors import DTypeError, ShapeError

FLOAT_OPERATORS = [operator.iadd, operator.isub, operator.imul, operator.itruediv,
                   operator.ifloordiv, operator.imod, operator.ipow]  # fmt: skip
BIT_OPERATORS = [operator.iand, operator.ior, operator.ixor]


def rows(device: nd.Device, dtype: str = "float32") -> tuple[nd.NDArray, np.ndarray]:
    array = np.arange(1, 7, dtype=dtype).reshape(2, 3)
    return nd.array(array, dtype, device), array


@each_device
@pytest.mark.parametrize("act", FLOAT_OPERATORS)
def test_in_place_operators_write_through_views(device: nd.Device, act: Any) -> None:
    x, array = rows(device)
    column, same = x.T[1:], array.T[1:]
    place = address(column)
    result = act(column, 2)
    act(same, 2)
    assert result is column and address(column) == place
    require_equal(x, array)


@each_device
@pytest.mark.parametrize("act", BIT_OPERATORS)
def test_bits_are_set_in_place(device: nd.Device, act: Any) -> None:
    x, array = rows(device, "uint8")
    act(x[:, ::2], 3)
    act(array[:, ::2], 3)
    require_equal(x, array)


@each_device
def test_a_product_is_written_in_place(device: nd.Device) -> None:
    x = nd.array([[1, 2], [3, 4]], device=device)
    view = x[:, :]
    x @= nd.array([[0, 1], [1, 0]], device=device)
    assert view.tolist() == [[2, 1], [4, 3]]


@each_device
def test_elements_rows_masks_and_flat_are_changed_in_place(device: nd.Device) -> None:
    x, array = rows(device)
    x[0] += 1
    array[0] += 1
    x[x > 5] *= 2
    array[array > 5] *= 2
    x.flat[4] -= 0.5
    x.T.flat[1] -= 0.25
    array.flat[4] -= 0.5
    array.T.flat[1] -= 0.25
    require_equal(x, array)


@each_device
def test_a_source_that_overlaps_is_read_first(device: nd.Device) -> None:
    x, array = rows(device)
    x[:, 1:] += x[:, :-1]
    array[:, 1:] += array[:, :-1].copy()
    require_equal(x, array)


@each_device
def test_a_result_of_another_shape_is_refused_in_place(device: nd.Device) -> None:
    x, _ = rows(device)
    y = x[0]
    message = r"^add: .*fits float32\[1,3\] in place, got float32\[2,3\]"
    with pytest.raises(ShapeError, match=message):
        y += x
    assert x.tolist() == [[1, 2, 3], [4, 5, 6]]


@each_device
def test_an_array_keeps_its_dtype_in_place(device: nd.Device) -> None:
    x, _ = rows(device)
    x += nd.ones((3,), "float64", device)
    assert (x.dtype, x.tolist()) == ("float32", [[2, 3, 4], [5, 6, 7]])
    ids, _ = rows(device, "int8")
    ids += nd.ones((3,), "int64", device)
    assert (ids.dtype, ids.tolist()) == ("int8", [[2, 3, 4], [5, 6, 7]])
    message = r"^divide: expected a result that int8 can take in place, got float\d+\[2,3\]"
    with pytest.raises(DTypeError, match=message):
        ids /= 2
    small, _ = rows(device, "uint8")
    with pytest.raises(DTypeError, match="uint8 can take in place, got int16"):
        small += ids


@each_device
def test_an_array_of_numpys_is_changed_in_place(device: nd.Device) -> None:
    x, array = rows(device)
    for act in (*FLOAT_OPERATORS, operator.imatmul):
        square = act is operator.imatmul
        a = np.arange(2.0, 6.0).reshape(2, 2) if square else np.arange(2.0, 8.0).reshape(2, 3)
        mine, other = (x[:, 1:], array[:, 1:]) if square else (x, array)
        expected = act(a.copy(), other)
        view = a[:]
        assert act(a, mine) is a
        np.testing.assert_array_equal(view, expected)
    whole = np.ones(3, "int64")
    with pytest.raises(TypeError, match="casting rule"):
        whole += x[0].reshape((3,))


@each_device
def test_an_array_does_not_become_a_tensor_in_place(device: nd.Device) -> None:
    x, array = rows(device)
    y = x
    for act in (*FLOAT_OPERATORS, operator.imatmul):
        with pytest.raises(DTypeError, match=(
            r"expected an NDArray or a number beside float32\[2,3\] in place, got a Tensor\. "
            r"Use x = x \+ y, or the array of y\."
        )):  # fmt: skip
            act(y, ndl.Tensor([1.0, 2.0, 3.0], device=device))
    require_equal(x, array)

"""What is computed from views against NumPy: functions, reductions, products, conversions."""

from __future__ import annotations

import operator
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from ndarray.side_by_side import (
    DEVICES,
    DTYPES,
    FLOATS,
    INTEGERS,
    Pair,
    each_device,
    pairs,
    repeats,
    require_equal,
    whole_numbers,
)
from strategies import axes_of

import needle.backend_ndarray as nd
from needle.backend_ndarray.promotion import reduction_dtype
from needle.errors import AxisError, DeviceError, DTypeError, ShapeError

NUMBERS = [*FLOATS, *INTEGERS]
EXACT = ["add", "multiply", "maximum", "minimum", "equal", "less", "greater_equal", "not_equal"]
SHARED_DTYPES = [np.dtype(name) for name in ("float32", "bfloat16", "int8", "uint16", "bool")]


def matching(pair: Pair, data: Any) -> Pair:
    """Another array on the same device that broadcasts with it, its axes in some order."""
    shape = [data.draw(st.sampled_from([n, 1])) for n in pair.array.shape]
    dtype = data.draw(st.sampled_from([pair.array.dtype, pair.array.dtype, *SHARED_DTYPES]))
    axes = data.draw(st.permutations(range(len(shape))))
    back = tuple(np.argsort(axes))
    array = whole_numbers(tuple([shape[axis] for axis in axes]), dtype, seed=1)
    other = Pair.of(array, pair.x.device)
    return other.seen(lambda x: x.permute(back), lambda a: a.transpose(back))


@given(pairs(), st.sampled_from(EXACT), st.data())
def test_functions_of_two_arrays_are_numpys(pair: Pair, name: str, data: Any) -> None:
    other = matching(pair, data)
    expected = getattr(np, name)(pair.array, other.array)
    result = getattr(nd, name)(pair.x, other.x)
    require_equal(result, np.asarray(expected))
    assert not pair.array.size or not np.shares_memory(np.asarray(result), np.asarray(pair.x))


@given(pairs(), pairs(dtypes=SHARED_DTYPES))
def test_arrays_on_two_devices_do_not_mix(first: Pair, second: Pair) -> None:
    a, b = first.x, second.x.reshape((-1,))[:1].reshape(()) if second.x.size else first.x
    if a.device == b.device or repeats(first):
        return
    for act in (operator.add, operator.matmul, lambda a, b: operator.setitem(a, ..., b)):
        with pytest.raises(DeviceError, match=r"expected arrays on one device, got cpu"):
            act(a, b)


@given(pairs(dtypes=FLOATS), st.sampled_from(["exp", "tanh", "sqrt", "sin", "log1p", "reciprocal"]))
def test_functions_of_one_array_round_as_numpys(pair: Pair, name: str) -> None:
    with np.errstate(all="ignore"):
        wide = getattr(np, name)(pair.array.astype(np.float64))
        expected = np.asarray(wide).astype(pair.array.dtype)
    require_equal(getattr(nd, name)(pair.x), expected, exact=False)


@given(pairs(dtypes=[*FLOATS, np.dtype("int32"), np.dtype("uint8")]))
def test_signs_and_magnitudes_are_numpys(pair: Pair) -> None:
    require_equal(-pair.x, np.asarray(-pair.array))
    require_equal(abs(pair.x), np.asarray(abs(pair.array)))
    require_equal(nd.square(pair.x), np.asarray(np.square(pair.array)))


@given(pairs(), st.sampled_from(["sum", "prod", "max", "min", "all", "any"]), st.booleans(),
       st.data())  # fmt: skip
def test_reductions_are_numpys(pair: Pair, name: str, keepdims: bool, data: Any) -> None:
    axis = data.draw(axes_of(pair.array.ndim))
    array = pair.array.astype(np.float64) if pair.array.dtype in FLOATS else pair.array
    try:
        expected = getattr(np, name)(array, axis=axis, keepdims=keepdims)
    except ValueError:
        with pytest.raises(ShapeError, match=rf"{name}: expected at least one element"):
            getattr(pair.x, name)(axis, keepdims)
        return
    result = getattr(pair.x, name)(axis=axis, keepdims=keepdims)
    with np.errstate(over="ignore"):
        require_equal(result, np.asarray(expected).astype(reduction_dtype(name, pair.x.dtype)))


@given(pairs(dtypes=[*FLOATS, np.dtype("int16"), np.dtype(bool)]), st.booleans(), st.data())
def test_means_are_numpys(pair: Pair, keepdims: bool, data: Any) -> None:
    if not pair.array.size:
        return
    axis = data.draw(axes_of(pair.array.ndim))
    expected = np.mean(pair.array.astype(np.float64), axis=axis, keepdims=keepdims)
    dtype = reduction_dtype("mean", pair.x.dtype)
    require_equal(pair.x.mean(axis, keepdims), np.asarray(expected).astype(dtype), exact=False)


@given(pairs(min_dims=1), st.sampled_from(["argmax", "argmin"]), st.booleans(), st.data())
def test_places_of_extremes_are_numpys(pair: Pair, name: str, keepdims: bool, data: Any) -> None:
    if not pair.array.size:
        return
    axes = [None, *range(-pair.array.ndim, pair.array.ndim)]
    axis = data.draw(st.sampled_from(axes))
    expected = getattr(np, name)(pair.array, axis=axis, keepdims=keepdims)
    require_equal(getattr(pair.x, name)(axis, keepdims), np.asarray(expected))


@given(pairs(min_dims=1), st.data())
def test_running_sums_are_numpys(pair: Pair, data: Any) -> None:
    if not pair.array.ndim:
        return
    axis = data.draw(st.sampled_from([None, *range(-pair.array.ndim, pair.array.ndim)]))
    array = pair.array.astype(np.float64) if pair.array.dtype in FLOATS else pair.array
    dtype = reduction_dtype("cumsum", pair.x.dtype)
    require_equal(nd.cumsum(pair.x, axis), np.cumsum(array, axis=axis).astype(dtype))


@given(pairs(dtypes=[*FLOATS, np.dtype("int64"), np.dtype("uint8")], min_dims=1, max_dims=3),
       st.data())  # fmt: skip
def test_products_of_matrices_are_numpys(pair: Pair, data: Any) -> None:
    """A view times an array of fitting shape; each result is exact, in every dtype."""
    x, array = pair.x, pair.array
    if not array.ndim:
        return
    k, n = array.shape[-1], data.draw(st.integers(0, 5))
    batch = data.draw(st.sampled_from([(), array.shape[:-2], (1,) * max(0, array.ndim - 2)]))
    other = whole_numbers((n, k), array.dtype, seed=2)
    if array.ndim > 1 and batch:
        other = np.broadcast_to(other, (*batch, n, k))
    right = nd.array(other, array.dtype, x.device).swapaxes(-1, -2)
    wide = np.float64 if array.dtype in FLOATS else array.dtype
    expected = array.astype(wide) @ other.astype(wide).swapaxes(-1, -2)
    require_equal(x @ right, expected.astype(array.dtype))


@given(pairs(), st.sampled_from(DTYPES))
def test_conversions_are_numpys(pair: Pair, dtype: Any) -> None:
    expected = pair.array.astype(dtype)
    same_sign = pair.array.dtype.kind in "ub" or dtype.kind not in "ub" or not pair.array.size
    if same_sign or (pair.array >= 0).all() or pair.array.dtype in INTEGERS or dtype.kind == "b":
        require_equal(pair.x.astype(dtype), expected)
    assert pair.x.astype(pair.x.dtype) is not pair.x
    assert pair.x.astype(pair.x.dtype, copy=False) is pair.x


@given(pairs(max_dims=3), st.data())
def test_joins_and_borders_are_numpys(pair: Pair, data: Any) -> None:
    x, array = pair.x, pair.array
    if not array.ndim:
        return
    axis = data.draw(st.integers(-array.ndim, array.ndim - 1))
    require_equal(nd.concatenate([x, x, x], axis), np.concatenate([array] * 3, axis))
    require_equal(nd.stack([x, x], axis), np.stack([array, array], axis))
    require_equal(x.flip((axis,)), np.flip(array, axis))
    widths = [(data.draw(st.integers(0, 2)), data.draw(st.integers(0, 2))) for _ in array.shape]
    require_equal(x.pad(widths), np.pad(array, widths))


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: dtype.name)
def test_both_devices_agree_on_every_dtype(dtype: Any) -> None:
    """One of everything on the same strided view: the same dtype, shape and values."""
    array = whole_numbers((3, 4), dtype, seed=3)
    a, b = [nd.array(array, dtype, device).T[::-1, 1:] for device in DEVICES]
    acts = [
        lambda x: x * x, lambda x: x == x.T.T, lambda x: x.sum(0), lambda x: x @ x.T,
        lambda x: nd.tril(x), lambda x: x[[1, 0, 1]], lambda x: nd.full_like(x, 1),
    ]  # fmt: skip
    for act in acts:
        first, second = act(a), act(b)
        require_equal(first, second.numpy())
        assert first.device != second.device


@each_device
@pytest.mark.parametrize(
    ("act", "kind", "message"),
    [
        (lambda x: x.sum(3), AxisError, r"^sum: expected axes in \[-2, 2\) of an array with 2"),
        (lambda x: x.max((0, -2)), AxisError, r"^max: expected each axis once, got \(0, -2\)"),
        (lambda x: nd.argmax(x, 2), AxisError, r"^argmax: expected axes in \[-2, 2\)"),
        (lambda x: nd.argmax(x, (0, 1)), DTypeError, r"^argmax: expected one axis, an int"),
        (lambda x: x[:0].max(0), ShapeError, r"^max: .*along axes \(0,\), got float32\[0,3\]"),
        (lambda x: x @ x, ShapeError, r"^matmul: expected a \[..., m, k\] and b \[..., k, n\], "
                                      r"got float32\[2,3\] and float32\[2,3\]"),
        (lambda x: x + x.T, ShapeError, r"^add: expected shapes that broadcast together, got "
                                        r"float32\[2,3\] and float32\[3,2\]"),
        (lambda x: x + "a", DTypeError, r"^add: expected an NDArray or a number, got str 'a'"),
        (lambda x: x + 1j, DTypeError, r"^add: expected an NDArray or a number"),
        (lambda x: x & x, DTypeError, r"^bitwise_and: expected integers or bools, got float32"),
        (lambda x: x.astype("complex64"), DTypeError, r"expected one of float16, .*complex64"),
        (lambda x: x.pad([(1, 1)]), Exception, r"^pad: expected 2 pairs of widths"),
        (lambda x: nd.concatenate([x, x.T]), ShapeError, r"^concatenate: expected arrays of the"),
        (lambda x: nd.stack([]), ShapeError, r"^stack: expected arrays of equal shape"),
    ],
)  # fmt: skip
def test_bad_input_is_one_clear_line(
    device: nd.Device, act: Any, kind: type[Exception], message: str
) -> None:
    with pytest.raises(kind, match=message) as caught:
        act(nd.ones((2, 3), device=device))
    assert "\n" not in str(caught.value)

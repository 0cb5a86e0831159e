"""Operators on random shapes and memory layouts, against NumPy; and their gradients.

What NumPy refuses must be refused too, and nothing else.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import strategies
from hypothesis import given
from hypothesis import strategies as st
from strategies import SEEDS, arrays, axes_of, broadcastable, shapes, tensor

import needle as ndl
from needle import ops
from needle.errors import NeedleError
from needle.testing import assert_close, check_grads

pytestmark = pytest.mark.usefixtures("each_device")

BINARY = {
    "add": np.add,
    "subtract": np.subtract,
    "multiply": np.multiply,
    "divide": np.divide,
    "maximum": np.maximum,
    "minimum": np.minimum,
}
COMPARISONS = {
    "equal": np.equal,
    "not_equal": np.not_equal,
    "less": np.less,
    "less_equal": np.less_equal,
    "greater": np.greater,
    "greater_equal": np.greater_equal,
}
REDUCTIONS = {
    "summation": np.sum,
    "mean": np.mean,
    "max": np.max,
    "min": np.min,
    "var": np.var,
    "std": np.std,
}
VIEWS = ["permute", "flip", "expand", "squeeze", "flat"]
DTYPES = ["bool", "uint8", "int8", "int32", "int64", "float16", "float32", "float64"]


def agree(ours: Any, theirs: Any, *inputs: np.ndarray) -> None:
    """The same value as NumPy's, of the same shape and dtype."""
    assert_close(ours(*map(tensor, inputs)), theirs(*inputs), same_dtype=True)


def both_refuse(ours: Any, theirs: Any) -> bool:
    """Whether NumPy refuses; if it does, Needle must, with an error of its own."""
    try:
        theirs()
    except (ValueError, IndexError, TypeError):
        with pytest.raises(NeedleError, match=r"^\w+: expected"):
            ours()
        return True
    return False


# -- elementwise -------------------------------------------------------------------------------


@given(st.data(), st.sampled_from(sorted(BINARY)))
def test_elementwise_ops_broadcast_as_numpy(data, name):
    a, b = (data.draw(arrays(shape)) for shape in data.draw(broadcastable(2)))
    agree(getattr(ops, name), BINARY[name], a, b)
    if name not in ("maximum", "minimum"):
        check_grads(getattr(ops, name), a, b)


@given(st.data(), st.sampled_from(["add", "where", "power"]))
def test_shapes_that_do_not_broadcast_are_refused(data, name):
    a, b = (np.ones(data.draw(shapes())) for _ in range(2))
    refused = both_refuse(lambda: ops.add(tensor(a), tensor(b)), lambda: a + b)
    assert refused or ops.add(tensor(a), tensor(b)).shape == np.broadcast_shapes(a.shape, b.shape)


@given(st.data())
def test_power_broadcasts_as_numpy(data):
    a, b = (data.draw(arrays(shape, low=0.5)) for shape in data.draw(broadcastable(2)))
    agree(ops.power, np.power, a, b)
    check_grads(ops.power, a, b)


@given(st.data())
def test_where_broadcasts_three_ways(data):
    shape, *others = data.draw(broadcastable(3))
    condition = data.draw(arrays(shape)) > 0
    a, b = (data.draw(arrays(other)) for other in others)
    agree(ops.where, np.where, condition, a, b)
    check_grads(lambda x, y: ops.where(tensor(condition), x, y), a, b)


@given(st.data(), st.sampled_from(sorted(COMPARISONS)))
def test_comparisons_of_any_dtypes_are_numpys(data, name):
    first, second = data.draw(broadcastable(2))
    rng = np.random.RandomState(data.draw(SEEDS))
    a = np.asarray(rng.randint(0, 3, first)).astype(data.draw(st.sampled_from(DTYPES)))
    b = np.asarray(rng.randint(0, 3, second)).astype(data.draw(st.sampled_from(DTYPES)))
    agree(getattr(ops, name), COMPARISONS[name], a, b)


@given(st.sampled_from(sorted(COMPARISONS)), st.sampled_from(DTYPES), st.integers(-300, 300))
def test_comparisons_with_any_number_are_numpys(name, dtype, number):
    x = np.array([0, 1, 44, 100]).astype(dtype)
    expected = COMPARISONS[name](x.astype(np.float64), number)
    assert_close(getattr(ops, name)(tensor(x), number), expected, same_dtype=True)


@given(st.sampled_from(["add", "multiply", "maximum", "divide"]), st.sampled_from(DTYPES),
       st.sampled_from(DTYPES))  # fmt: skip
def test_dtypes_promote_as_numpys(name, first, second):
    a, b = np.ones((2, 1)).astype(first), np.ones(3).astype(second)
    agree(getattr(ops, name), BINARY[name], a, b)


@given(st.sampled_from(["__add__", "__mul__", "__truediv__", "__pow__"]),
       st.sampled_from([d for d in DTYPES if d != "bool"]), st.sampled_from([1, 2, 0.5, 1.0]),
       st.sampled_from([(), (1,), (2, 3)]))  # fmt: skip
def test_dtypes_with_python_numbers_are_numpys(method, dtype, number, shape):
    x = np.full(shape, 3).astype(dtype)
    assert_close(getattr(tensor(x), method)(number), getattr(x, method)(number), same_dtype=True)


@given(st.data(), st.sampled_from(["exp", "sin", "tanh", "sigmoid", "relu", "abs", "gelu"]))
def test_functions_of_one_array_do_not_mind_its_layout(data, name):
    x = data.draw(arrays(data.draw(shapes())))
    function = getattr(ops, name)
    assert_close(function(tensor(x)), function(tensor(x.copy(order="C"))))
    check_grads(function, x)


# -- reductions --------------------------------------------------------------------------------


@given(st.data(), st.sampled_from(sorted(REDUCTIONS)), st.booleans())
def test_reductions_over_any_axes_are_numpys(data, name, keepdims):
    x = data.draw(arrays(data.draw(shapes(min_side=1))))
    axes = data.draw(axes_of(x.ndim))

    def ours(t):
        return getattr(ops, name)(t, axes, keepdims=keepdims)

    agree(ours, lambda a: REDUCTIONS[name](a, axis=axes, keepdims=keepdims), x)
    if name in ("summation", "mean", "var"):  # no kinks
        check_grads(ours, x)


@given(st.data(), st.booleans())
def test_sums_over_axes_of_no_extent_are_zero(data, keepdims):
    x = data.draw(arrays(data.draw(shapes())))
    axes = data.draw(axes_of(x.ndim))
    agree(lambda t: t.sum(axes, keepdims), lambda a: a.sum(axes, keepdims=keepdims), x)
    check_grads(lambda t: t.sum(axes, keepdims), x, order=1)


@given(st.data(), st.booleans())
def test_logsumexp_over_any_axes(data, keepdims):
    x = data.draw(arrays(data.draw(shapes(min_side=1))))
    axes = data.draw(axes_of(x.ndim))

    def ours(t):
        return ops.logsumexp(t, axes, keepdims)

    agree(ours, lambda a: np.log(np.sum(np.exp(a), axis=axes, keepdims=keepdims)), x)
    check_grads(ours, x)


@given(st.data(), st.sampled_from(["cumsum", "softmax", "logsoftmax"]))
def test_ops_along_one_axis(data, name):
    x = data.draw(arrays(data.draw(shapes(min_dims=1, max_dims=3))))
    axis = data.draw(st.integers(-x.ndim, x.ndim - 1))
    reference = {
        "cumsum": lambda a: np.cumsum(a, axis),
        "softmax": lambda a: np.exp(a) / np.exp(a).sum(axis, keepdims=True),
        "logsoftmax": lambda a: a - np.log(np.exp(a).sum(axis, keepdims=True)),
    }[name]
    if x.shape[axis]:
        agree(lambda t: getattr(ops, name)(t, axis), reference, x)
    check_grads(lambda t: getattr(ops, name)(t, axis), x)


@given(st.data())
def test_axes_that_are_not_there_are_refused(data):
    x = np.ones(data.draw(shapes(min_dims=1, max_dims=2, min_side=1)))
    axes = data.draw(st.one_of(st.integers(-4, 4), st.tuples(*[st.integers(-3, 3)] * 2)))
    refused = both_refuse(lambda: tensor(x).sum(axes), lambda: x.sum(axes))
    assert refused or tensor(x).sum(axes).shape == x.sum(axes).shape


# -- products ----------------------------------------------------------------------------------


@given(st.data())
def test_matrix_products_broadcast_as_numpys(data):
    batch_a, batch_b = data.draw(broadcastable(2))
    m, k, n = data.draw(st.tuples(*[st.integers(0, 3)] * 3))
    a_shape = data.draw(st.sampled_from([(k,), (m, k), (*batch_a, m, k)]))
    b_shape = data.draw(st.sampled_from([(k,), (k, n), (*batch_b, k, n)]))
    a, b = data.draw(arrays(a_shape)), data.draw(arrays(b_shape))
    agree(ops.matmul, np.matmul, a, b)
    check_grads(ops.matmul, a, b)


@given(shapes(max_dims=3), shapes(max_dims=3))
def test_products_that_numpy_refuses_are_refused(first, second):
    a, b = np.ones(first), np.ones(second)
    refused = both_refuse(lambda: tensor(a) @ tensor(b), lambda: a @ b)
    assert refused or (tensor(a) @ tensor(b)).shape == (a @ b).shape


@given(st.data(), strategies.einsums())
def test_einsum_of_any_subscripts_is_numpys(data, drawn):
    subscripts, found = drawn
    inputs = [data.draw(arrays(shape)) for shape in found]
    agree(lambda *t: ops.einsum(subscripts, *t), lambda *a: np.einsum(subscripts, *a), *inputs)
    check_grads(lambda *t: ops.einsum(subscripts, *t), *inputs)


# -- indexing ----------------------------------------------------------------------------------


@given(st.data())
def test_any_index_reads_as_numpys_and_its_gradient_adds_up(data):
    x = data.draw(arrays(data.draw(shapes(max_dims=3))))
    index = data.draw(strategies.indices(x.shape))
    if data.draw(st.booleans()) and len(index) == x.ndim and all(p is not None for p in index):
        index = (..., *index)
    leaf = tensor(x)
    y = leaf[index]
    assert_close(y, x[index], same_dtype=True)
    out_grad = np.random.RandomState(0).standard_normal(y.shape)
    expected = np.zeros(x.shape)
    np.add.at(expected, index, out_grad)
    assert_close(ndl.grad(y, leaf, tensor(np.asarray(out_grad))), expected)


@given(st.data())
def test_indices_may_be_tensors_and_lists(data):
    x = data.draw(arrays((3, 4)))
    rows = data.draw(st.lists(st.integers(-3, 2), max_size=4))
    mask = data.draw(st.lists(st.booleans(), min_size=3, max_size=3))
    for index in (rows, tuple(rows) and (tuple(rows),), mask):
        expected = x[np.array(index, dtype=bool if index is mask else int).reshape(-1)]
        assert_close(tensor(x)[index if index else []], expected)
        as_tensor = tensor(np.array(index, dtype=bool if index is mask else int).reshape(-1))
        assert_close(tensor(x)[as_tensor], expected)


@given(st.data())
def test_indices_that_numpy_refuses_are_refused(data):
    x = np.zeros(data.draw(shapes(max_dims=2)))
    part = st.one_of(
        st.integers(-5, 5),
        st.slices(4),
        st.sampled_from([None, ..., [0, 1], [4], [True, False], 1.0, "a", [[0], [1]]]),
    )
    index = tuple(data.draw(st.lists(part, max_size=3)))
    if sum(p is ... for p in index) > 1:
        index = tuple(p for p in index if p is not ...)
    refused = both_refuse(lambda: tensor(x)[index], lambda: x[index])
    assert refused or tensor(x)[index].shape == x[index].shape


@given(st.data())
def test_take_along_any_axis_is_numpys(data):
    x = data.draw(arrays(data.draw(shapes(min_dims=1, max_dims=3, min_side=1))))
    axis = data.draw(st.integers(-x.ndim, x.ndim - 1))
    shape = list(x.shape)
    shape[axis] = data.draw(st.integers(0, 5))
    rng = np.random.RandomState(data.draw(SEEDS))
    where = rng.randint(-x.shape[axis], x.shape[axis], shape)
    agree(lambda t: ops.take_along(t, where, axis), lambda a: np.take_along_axis(a, where, axis), x)
    check_grads(lambda t: ops.take_along(t, where, axis), x)


# -- shapes ------------------------------------------------------------------------------------


@given(st.data())
def test_chains_of_views_are_numpys(data):
    x = data.draw(arrays(data.draw(shapes(max_dims=3))))
    steps = data.draw(st.lists(st.sampled_from(VIEWS),
                               max_size=4))  # fmt: skip
    seed = data.draw(SEEDS)

    def chain(t, library):
        rng = np.random.RandomState(seed)
        for step in steps:
            if step == "permute":
                order = tuple(rng.permutation(t.ndim).tolist())
                t = t.permute(order) if library is ndl else np.transpose(t, order)
            elif step == "flip" and t.ndim:
                t = library.flip(t, int(rng.randint(t.ndim)))
            elif step == "expand":
                t = library.expand_dims(t, int(rng.randint(t.ndim + 1)))
            elif step == "squeeze":
                t = library.squeeze(t)
            else:
                t = t.reshape((-1,)) if t.size else t
        return t

    agree(lambda t: chain(t, ndl), lambda a: chain(a, np), x)
    check_grads(lambda t: chain(t, ndl) ** 2, x)


@given(shapes(max_dims=3), st.lists(st.integers(-1, 4), max_size=3))
def test_reshapes_that_numpy_refuses_are_refused(shape, target):
    x = np.zeros(shape)
    refused = both_refuse(lambda: tensor(x).reshape(target), lambda: x.reshape(target))
    assert refused or tensor(x).reshape(target).shape == x.reshape(target).shape


@given(shapes(max_dims=3), shapes(max_dims=3))
def test_broadcasts_that_numpy_refuses_are_refused(shape, target):
    x = np.zeros(shape)
    refused = both_refuse(
        lambda: tensor(x).broadcast_to(target), lambda: np.broadcast_to(x, target)
    )
    if not refused:
        assert tensor(x).broadcast_to(target).shape == target
        check_grads(lambda t: t.broadcast_to(target), x, order=1)


@given(st.data())
def test_joining_and_splitting_are_numpys(data):
    shape = data.draw(shapes(min_dims=1, max_dims=3))
    axis = data.draw(st.integers(-len(shape), len(shape) - 1))
    pieces = []
    for _ in range(data.draw(st.integers(1, 3))):
        extents = list(shape)
        extents[axis] = data.draw(st.integers(0, 3))
        pieces.append(data.draw(arrays(tuple(extents))))
    agree(lambda *t: ops.concatenate(t, axis), lambda *a: np.concatenate(a, axis), *pieces)
    check_grads(lambda *t: ops.concatenate(t, axis) ** 2, *pieces)
    same = [data.draw(arrays(shape)) for _ in range(2)]
    agree(lambda *t: ops.stack(t, axis), lambda *a: np.stack(a, axis), *same)
    parts = ops.split(tensor(same[0]), axis)
    for part, expected in zip(parts, np.moveaxis(same[0], axis, 0), strict=True):
        assert_close(part, expected)


@given(st.data())
def test_padding_is_numpys(data):
    x = data.draw(arrays(data.draw(shapes(min_dims=1, max_dims=3))))
    widths = [data.draw(st.tuples(st.integers(0, 2), st.integers(0, 2))) for _ in x.shape]
    agree(lambda t: ops.pad(t, widths, 7), lambda a: np.pad(a, widths, constant_values=7), x)
    check_grads(lambda t: ops.pad(t, widths) ** 2, x)

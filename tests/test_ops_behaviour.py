"""What the table of ops cannot say: dtypes that must not drift, edges, the contract's shapes."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from tensors import tensor

import needle as ndl
from needle import ops
from needle.errors import AxisError, DTypeError, NeedleError, OutOfRangeError, ShapeError
from needle.testing import assert_close, check_grads

FLOATS = ["float16", "bfloat16", "float32", "float64"]


def leaf(*values, dtype="float64"):
    return tensor(np.array(values, dtype=dtype))


# -- dtypes ------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("shape", [(), (3,)])
def test_numbers_do_not_promote_floats(dtype, shape):
    x = ndl.ones(*shape, dtype=dtype)
    results = [x + 1, x + 0.5, 2 - x, x * 0.1, 1 / x, x / 3, x**2, x**0.5, 2**x, x.clip(0.1, 2.5)]
    results += [ops.maximum(x, 0.3), ops.where(x > 0, x, 0.0), x.mean(), x.std(), x.sum()]
    assert [str(y.dtype) for y in results] == [dtype] * len(results)


@pytest.mark.parametrize(
    "number", [np.float64(0.5), np.array([0.5]), np.array(0.5), Fraction(1, 2), np.int64(2), True]
)
def test_numbers_of_any_kind_do_not_promote_floats(number):
    x = leaf(1.0, 2.0, dtype="float32")
    value = float(np.asarray(number, dtype=float).reshape(()))
    for y, expected in [(x + number, [1 + value, 2 + value]), (x / number, [1 / value, 2 / value])]:
        assert y.dtype == np.float32
        assert_close(y, expected)


@pytest.mark.parametrize("dtype", FLOATS)
def test_gradients_stay_in_the_dtype_of_their_leaf(dtype):
    x = ndl.ones(2, 3, dtype=dtype, requires_grad=True)
    y = ops.gelu(x * 0.5 + 1) / 3 + x.std() + ops.softmax(x).mean() + (x**1.5).clip(0.2, 3)
    y.sum().backward()
    assert str(x.grad.dtype) == dtype


@pytest.mark.parametrize(
    "join",
    [
        lambda a, b: ops.concatenate([a, b]),
        lambda a, b: ops.stack([a, b]),
        lambda a, b: a @ b,
        lambda a, b: ops.einsum("ii,ij->i", a, b),
        lambda a, b: ops.where(a > 0, a, b),
        lambda a, b: a**b,
        lambda a, b: ops.maximum(a, b),
    ],
)
def test_gradients_of_mixed_dtypes_come_in_that_of_their_leaf(join):
    a = ndl.ones(2, 2, dtype="float32", requires_grad=True)
    b = ndl.ones(2, 2, dtype="float64", requires_grad=True)
    y = join(a, b)
    y.sum().backward()
    assert y.dtype == np.float64
    assert (a.grad.dtype, b.grad.dtype) == (np.float32, np.float64)


def test_comparisons_with_numbers_outside_an_integer_dtype_are_right():
    x = leaf(1, 200, dtype="uint8")
    assert (x > -1).tolist() == [True, True]
    assert (x < 300).tolist() == [True, True]
    assert ops.equal(leaf(True, False, dtype="bool"), 2).tolist() == [False, False]
    assert ops.maximum(x, 3).dtype == np.uint8
    assert ops.maximum(x, -1).tolist() == [1, 200]


def test_integers_are_differentiated_in_floats():
    x = leaf(1, 2, dtype="int64")
    ops.exp(x * 2).sum().backward()
    assert_close(x.grad, 2 * np.exp([2.0, 4.0]))


@pytest.mark.parametrize("function", [ops.softmax, ops.logsoftmax, ops.logsumexp])
def test_integers_are_taken_as_floats_by_the_softmax_family(function):
    assert_close(function(leaf(1, 2, 3, dtype="int32")), function(leaf(1.0, 2.0, 3.0)))


def test_gradient_of_a_cast_comes_back_in_the_dtype_it_came_from():
    x = leaf(1.0, 2.0)
    y = ops.cast(x, "float32")
    assert y.dtype == np.float32
    slope = ndl.grad((y**3).sum(), x)
    assert slope.dtype == np.float64
    assert_close(slope, [3.0, 12.0])
    assert_close(ndl.grad(slope.sum(), x), [6.0, 12.0])
    assert not ops.cast(x, "int32").requires_grad
    assert ops.cast(x, "float64") is x


# -- edges -------------------------------------------------------------------------------------


def test_log_of_the_sum_of_nothing_is_minus_infinity_without_a_warning():
    assert ops.logsumexp(leaf(-np.inf, -np.inf)).item() == -np.inf
    assert ops.logsumexp(leaf()).item() == -np.inf
    assert ops.logsoftmax(tensor(np.zeros((2, 0)))).shape == (2, 0)


def test_masked_scores_get_no_weight_and_no_gradient():
    x = leaf(-np.inf, 1.0, 2.0)
    (ops.softmax(x) * leaf(1.0, 2.0, 3.0)).sum().backward()
    assert x.grad.numpy()[0] == 0
    assert np.isfinite(x.grad.numpy()).all()


def test_deviation_of_equal_values_has_gradient_zero():
    x = tensor([[2.0, 2.0], [1.0, 3.0]])
    x.std(1).sum().backward()
    assert_close(x.grad, [[0.0, 0.0], [-0.5, 0.5]])


def test_second_order_of_power_is_right_at_exponent_zero():
    a, b = leaf(2.0), leaf(0.0)
    slope = ndl.grad(ops.power(a, b), a)
    assert_close(ndl.grad(slope, b), [0.5])  # a^(b-1) (1 + b log a)


def test_zero_to_the_zero_has_finite_gradients():
    a, b = leaf(0.0), leaf(0.0)
    ops.power(a, b).backward()
    assert (a.grad.item(), b.grad.item()) == (0.0, 0.0)


def test_where_guards_hide_the_other_branch_without_a_warning():
    x = leaf(0.0, 4.0)
    inside = ops.where(x > 0, x, 1.0)
    ops.where(x > 0, ops.sqrt(inside), 0.0).sum().backward()
    assert_close(x.grad, [0.0, 0.25])


def test_functions_of_large_inputs_do_not_warn():
    x = leaf(-1e4, 1e4)
    for function in (ops.sigmoid, ops.tanh, ops.softplus, ops.silu, ops.gelu, ops.softmax, ops.erf):
        y = function(x)
        y.sum().backward()
        assert np.isfinite(y.numpy()).all()
        assert np.isfinite(x.grad.numpy()).all()


@pytest.mark.np_mode("Needle's own arrays never warn")
def test_domain_errors_warn_as_numpy_does():
    with pytest.warns(RuntimeWarning, match="divide by zero"):
        ops.log(leaf(0.0))
    with pytest.warns(RuntimeWarning, match="invalid value"):
        ops.sqrt(leaf(-1.0))


def test_ties_share_the_gradient_of_extremes_equally():
    x = leaf(3.0, 1.0, 3.0)
    x.max().backward()
    assert x.grad.tolist() == [0.5, 0.0, 0.5]
    a, b = leaf(1.0), leaf(1.0)
    ops.maximum(a, b).backward()
    assert (a.grad.item(), b.grad.item()) == (0.5, 0.5)


# -- axes, indices and joins -------------------------------------------------------------------


@pytest.mark.parametrize("axis", [np.int64(0), np.int32(-1), 0, -1])
def test_axes_may_be_numpys_integers(axis):
    x = ndl.ones(2, 2)
    for y in (x.sum(axis), x.flip(axis), x.expand_dims(axis), ops.softmax(x, axis), x.cumsum(axis)):
        assert y.ndim in (1, 2, 3)


@pytest.mark.parametrize(
    "call",
    [
        lambda x: x.cumsum(None),
        lambda x: ops.concatenate([x, x], None),
        lambda x: ops.split(x, None),
        lambda x: ops.take(x, [0], None),
        lambda x: x.flatten((0, 1)),
    ],
)
def test_one_axis_is_asked_for_where_one_is_needed(call):
    with pytest.raises(DTypeError, match="expected one axis, an int, got"):
        call(ndl.ones(2, 2))


def test_repeated_places_add_up_however_they_are_written():
    for index in ([0, 0, 1], (0, 0, 1), np.array([0, 0, 1]), leaf(0, 0, 1, dtype="int64")):
        x = leaf(1.0, 2.0, 3.0)
        x[(index,)].sum().backward()
        assert x.grad.tolist() == [2.0, 1.0, 0.0]


def test_lists_that_are_no_index_are_refused():
    x = ndl.ones(3)
    with pytest.raises(DTypeError, match="expected numbers, got a list of Tensors"):
        x[[leaf(1.0), leaf(2.0)]]
    with pytest.raises(DTypeError, match="expected an array of numbers, got a list"):
        x[[[0], [1, 2]]]


def test_gather_and_take_say_what_is_out_of_range():
    x = ndl.ones(2, 3)
    with pytest.raises(OutOfRangeError, match=r"index 3 is out|in \[-3, 3\), got 3"):
        ops.gather(x, 1, np.array([[3]]))
    with pytest.raises(OutOfRangeError, match=r"index 2 is out|in \[-2, 2\), got 2"):
        ops.take(x, [2])
    with pytest.raises(ShapeError, match=r"gather: expected .*got int64\[3,1\] for float32\[2,3\]"):
        ops.gather(x, 1, np.zeros((3, 1), int))
    with pytest.raises(AxisError, match="take: expected axes in"):
        ops.take(x, [0], 2)


def test_single_element_arrays_multiply_as_matrices():
    column = tensor([[1.0], [2.0]])
    assert_close(column @ np.array([2.0]), [2.0, 4.0])
    assert_close(np.array([2.0]) @ tensor([[3.0, 4.0]]), [6.0, 8.0])


# -- the contract, where a table of values does not reach --------------------------------------


def test_transpose_is_its_own_inverse_and_swaps_the_last_two_axes():
    x = ndl.randn(2, 3, 4)
    assert x.transpose().shape == (2, 4, 3)
    assert x.transpose((0, -1)).shape == (4, 3, 2)
    assert_close(x.transpose((0, 2)).transpose((0, 2)), x)


def test_sum_of_all_axes_is_a_scalar_and_of_lists_of_axes_works():
    x = ndl.ones(2, 3)
    assert x.sum().shape == ()
    assert x.sum([0, -1]).shape == ()
    assert ops.summation(x, axes=(1,)).shape == (2,)


def test_logs_of_sums_stay_finite_at_ten_billion():
    x = tensor([[1e10, 1e10], [-1e10, 1.0]])
    assert_close(ops.logsumexp(x, axes=1), [1e10 + np.log(2), 1.0])
    assert ops.logsumexp(x, axes=1).dtype == np.float64
    assert_close(ops.logsoftmax(tensor([[5e5, -5e5]])), [[0.0, -1e6]])


def test_power_takes_shapes_that_only_broadcast_together():
    a, b = tensor([[1.0, 2.0, 3.0]]), tensor([1.0, 2.0, 3.0])
    y = ops.power(a, b)
    y.sum().backward()
    assert (y.shape, a.grad.shape, b.grad.shape) == ((1, 3), (1, 3), (3,))


def test_stack_has_one_tuple_as_input_and_gives_it_a_tuple():
    a, b = ndl.ones(2, requires_grad=True), ndl.ones(2, requires_grad=True)
    y = ops.stack((a, b), axis=1)
    assert isinstance(y.inputs[0], ndl.TensorTuple)
    (grad,) = y.op.gradient_as_tuple(tensor(np.arange(4.0).reshape(2, 2)), y)
    assert isinstance(grad, ndl.TensorTuple)
    assert [g.tolist() for g in grad] == [[0.0, 2.0], [1.0, 3.0]]


def test_split_gives_a_tuple_whose_gradient_is_the_stack():
    x = tensor(np.arange(6.0).reshape(2, 3))
    parts = ops.split(x, axis=1)
    assert isinstance(parts, ndl.TensorTuple)
    assert len(parts) == 3
    (grad,) = parts.op.gradient_as_tuple(ops.make_tuple(*[ndl.ones(2)] * 3), parts)
    assert grad.shape == (2, 3)


def test_item_of_a_tuple_just_made_is_the_tensor_itself():
    a, b = leaf(1.0), leaf(2.0)
    assert ops.tuple_get_item(ops.make_tuple(a, b), 1) is b


def test_gradient_of_a_tuple_item_is_zero_in_the_other_slots():
    x = tensor([[1.0, 2.0], [3.0, 4.0]])
    item = ops.tuple_get_item(ops.split(x, 0), 1)
    (grad,) = item.op.gradient_as_tuple(tensor([5.0, 6.0]), item)
    assert [g.tolist() for g in grad] == [[0.0, 0.0], [5.0, 6.0]]


def test_item_of_something_else_is_refused():
    with pytest.raises(DTypeError, match=r"tuple_get_item: expected a TensorTuple, got float32"):
        ops.tuple_get_item(ndl.ones(2), 0)
    for item in (ndl.ones(2), leaf(1.0)):
        with pytest.raises(OutOfRangeError, match=r"tuple_get_item: expected an index below 1"):
            ops.tuple_get_item(ops.make_tuple(item), 2)


def test_fused_add_scalars_sums_both_gradients():
    x = ndl.ones(2, requires_grad=True)
    both = ops.fused_add_scalars(x, 1, 2)
    assert (both.op.c0, both.op.c1) == (1, 2)
    (both[0] + both[1] * 3).sum().backward()
    assert x.grad.tolist() == [4.0, 4.0]


def test_difference_is_a_sum_with_a_negation():
    a, b = ndl.ones(2, requires_grad=True), ndl.ones(2)
    y = ops.subtract(a, b)
    assert isinstance(y.op, ops.EWiseAdd)
    assert isinstance(y.inputs[1].op, ops.Negate) or not y.inputs[1].requires_grad


def test_derivative_of_relu_at_zero_is_zero():
    x = leaf(0.0, -0.0, 1.0)
    ops.relu(x).sum().backward()
    assert x.grad.tolist() == [0.0, 0.0, 1.0]


def test_third_order_of_a_mixture_is_right():
    def function(x, w):
        return ops.logsumexp(ops.tanh(x @ w) * x.sum(0), 1) + ops.var(x, 1)

    rng = np.random.RandomState(0)
    check_grads(function, rng.standard_normal((3, 2)), rng.standard_normal((2, 2)), order=3)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float8_e4m3fn"])
def test_einsum_of_narrow_floats_adds_up_in_float32(dtype):
    x, y = ndl.ones(4096, dtype=dtype), ndl.ones(4096, dtype=dtype, requires_grad=True)
    total = ops.einsum("i,i->", x * 0.25, y * 0.25)
    assert (str(total.dtype), total.astype("float32").item()) == (dtype, 256.0)
    total.backward()
    assert (str(y.grad.dtype), float(y.grad.numpy()[0])) == (dtype, 0.0625)


def test_einsum_along_a_diagonal_of_bfloat16_can_be_differentiated():
    x = ndl.ones(3, 3, dtype="bfloat16", requires_grad=True)
    ops.einsum("ii->", x).backward()
    assert_close(x.grad, np.eye(3))


def test_einsum_of_bfloat16_and_another_float_gives_the_wider():
    narrow = ndl.ones(2, dtype="bfloat16")
    for other, dtype in [("float16", "float32"), ("float32", "float32"), ("float64", "float64")]:
        assert ops.einsum("i,i", narrow, ndl.ones(2, dtype=other)).dtype == dtype


def test_logical_functions_take_a_number_on_the_right():
    x = tensor([True, False])
    assert ops.logical_and(x, True).tolist() == [True, False]
    assert ops.logical_or(x, False).tolist() == [True, False]
    assert ops.logical_and(x, 256).tolist() == [True, False]
    assert ops.logical_or(tensor([0.0, 2.0]), 0).tolist() == [False, True]
    assert ops.logical_and(x, np.array([True, True])).tolist() == [True, False]


def test_all_of_nothing_holds_and_any_does_not():
    assert ops.all(ndl.zeros(0)).item() is True
    assert ops.any(ndl.zeros(0)).item() is False


def test_logic_and_its_reductions_cut_the_graph():
    x = leaf(1.0, 0.0)
    for y in (ops.logical_and(x, x), ops.logical_or(x, True), ops.all(x), ops.any(x, 0)):
        assert y.dtype == bool
        assert not y.requires_grad


def test_every_error_of_an_op_is_a_needle_error_and_pythons_own():
    with pytest.raises(ValueError, match="matmul"):
        ndl.ones(2) @ ndl.ones(3)
    with pytest.raises(IndexError, match="getitem"):
        ndl.ones(2)[5]
    with pytest.raises(TypeError, match="exp"):
        ops.exp("x")
    assert issubclass(NeedleError, Exception)

"""Contract, sections 3.3 and 3.4: Tensor and TensorTuple."""

from __future__ import annotations

import numpy as np
import pytest
from tensors import taken_as

import needle as ndl
from needle.autograd import Tensor

# -- 3.3 Tensor: construction ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "dtype", "shape"),
    [
        ([1.0, 2.0], "float64", (2,)),
        ([[1, 2], [3, 4]], "int64", (2, 2)),
        (1.5, "float64", ()),
        (3, "int64", ()),
        ([True, False], "bool", (2,)),
        (np.ones((2, 3), dtype="float32"), "float32", (2, 3)),
        (np.arange(3, dtype="uint8"), "uint8", (3,)),
        (np.float32(2.0), "float32", ()),
        (np.ones((0, 4)), "float64", (0, 4)),
    ],
)
def test_dtype_is_inferred_as_numpy_does_in_np_mode(source, dtype, shape):
    x = Tensor(source)
    assert x.dtype == taken_as(dtype)
    assert x.shape == shape
    assert isinstance(x.cached_data, ndl.NDArray)
    np.testing.assert_array_equal(x.numpy(), source)


def test_object_array_of_numbers_is_taken():
    source = np.array([1, 2.5], dtype=object)
    np.testing.assert_array_equal(Tensor(source, dtype="float32").numpy(), [1, 2.5])
    assert [float(v) for v in Tensor(source).numpy()] == [1.0, 2.5]


@pytest.mark.parametrize("dtype", ["float32", np.float32, np.dtype("float32")])
def test_dtype_may_be_a_name_or_a_type_object(dtype):
    assert Tensor([1, 2], dtype=dtype).dtype == "float32"


def test_array_is_always_copied():
    array = np.ones(3)
    x = Tensor(array)
    array[0] = 7
    np.testing.assert_array_equal(x.numpy(), np.ones(3))
    assert not np.shares_memory(x.cached_data, array)


def test_tensor_of_a_tensor_shares_storage_unless_the_dtype_changes():
    source = Tensor([1.0, 2.0], dtype="float32")
    same = Tensor(source)
    assert same.dtype == "float32"
    assert same.device == source.device
    assert same.cached_data is source.cached_data
    assert same.is_leaf()
    other = Tensor(source, dtype="float64")
    assert other.dtype == "float64"
    assert not np.shares_memory(other.cached_data, source.cached_data)


def test_requires_grad_is_true_by_default():
    assert Tensor([1.0]).requires_grad is True
    assert Tensor([1]).requires_grad is True
    assert Tensor([1.0], requires_grad=False).requires_grad is False


def test_tensor_is_subclassable_as_a_plain_constructor():
    class Weight(Tensor):
        pass

    weight = Weight([1.0, 2.0], dtype="float32")
    assert isinstance(weight, Weight)
    assert (weight * 2).numpy().tolist() == [2.0, 4.0]


# -- 3.3 Tensor: members -----------------------------------------------------------------------


def test_data_is_the_tensor_detached():
    x = Tensor([1.0]) * 2
    for constant in (x.data, x.detach()):
        assert constant.cached_data is x.cached_data
        assert constant.op is None
        assert constant.requires_grad is False


def test_setting_data_takes_over_the_storage():
    x, other = Tensor([1.0]), Tensor([5.0])
    x.data = other
    assert x.cached_data is other.cached_data
    assert x.requires_grad is True


def test_setting_data_does_not_check_the_shape():
    bias = Tensor(np.zeros((1, 5)))
    bias.data = Tensor(np.ones(5))
    assert bias.shape == (5,)


def test_setting_data_checks_type_and_dtype():
    x = Tensor([1.0], dtype="float32")
    with pytest.raises(Exception, match=r"data: expected dtype float32, got float64\[1\]"):
        x.data = Tensor([1.0], dtype="float64")
    with pytest.raises(Exception, match="data: expected a Tensor, got float"):
        x.data = np.ones(1, dtype="float32")
    assert x.numpy() == 1


def test_shape_dtype_and_device():
    x = Tensor(np.ones((2, 3)), dtype="float32")
    assert x.shape == (2, 3)
    assert type(x.shape) is tuple
    assert x.dtype == "float32"
    assert x.dtype == np.float32
    assert x.device == ndl.cpu()


def test_numpy_is_a_copy():
    x = Tensor([1.0])
    x.numpy()[0] = 9
    assert x.numpy() == 1


def test_grad_is_none_before_backward():
    assert Tensor([1.0]).grad is None


def test_backward_defaults_to_ones_of_the_tensors_dtype_and_returns_none():
    x = Tensor(np.ones((2, 3)), dtype="float32")
    assert (x * 3).backward() is None
    assert x.grad.dtype == "float32"
    np.testing.assert_array_equal(x.grad.numpy(), np.full((2, 3), 3.0))


def test_backward_takes_an_out_grad():
    x = Tensor([1.0, 2.0])
    (x * 3).backward(Tensor([10.0, 100.0]))
    np.testing.assert_array_equal(x.grad.numpy(), [30.0, 300.0])


def test_integer_tensor_of_one_element_can_be_differentiated():
    x = Tensor([3], dtype="int64")
    (x * x + x).backward()
    assert x.dtype == "int64"
    np.testing.assert_array_equal(x.grad.numpy(), [7])


def test_methods_that_are_ops():
    array = np.arange(6.0).reshape(2, 3)
    x = Tensor(array)
    np.testing.assert_array_equal(x.matmul(x.transpose()).numpy(), array @ array.T)
    np.testing.assert_array_equal(x.sum().numpy(), array.sum())
    np.testing.assert_array_equal(x.sum(axes=(1,)).numpy(), array.sum(1))
    np.testing.assert_array_equal(x.sum(0).numpy(), array.sum(0))
    np.testing.assert_array_equal(x.reshape((3, 2)).numpy(), array.reshape(3, 2))
    np.testing.assert_array_equal(x.transpose(axes=(0, 1)).numpy(), array.T)
    expected = np.broadcast_to(array, (4, 2, 3))
    np.testing.assert_array_equal(x.broadcast_to((4, 2, 3)).numpy(), expected)
    assert x.sum().shape == ()


def test_printing_works_for_any_shape():
    assert "1." in repr(Tensor([1.0]))
    assert str(Tensor([1.0, 2.0])) == "[1. 2.]"
    assert repr(Tensor([1.0])) == "needle.Tensor([1.])"


# -- 3.3 Tensor: operators ---------------------------------------------------------------------


def operators():
    a, b = Tensor([4.0]), Tensor([2.0])
    return [
        (a + b, ndl.EWiseAdd, 6.0),
        (a + 1, ndl.AddScalar, 5.0),
        (a * b, ndl.EWiseMul, 8.0),
        (a * 3, ndl.MulScalar, 12.0),
        (a**b, ndl.EWisePow, 16.0),
        (a**3, ndl.PowerScalar, 64.0),
        (a / b, ndl.EWiseDiv, 2.0),
        (a / 8, ndl.DivScalar, 0.5),
        (-a, ndl.Negate, -4.0),
        (a @ b, ndl.MatMul, 8.0),
        (a - 1, ndl.AddScalar, 3.0),
        (1 + a, ndl.AddScalar, 5.0),
        (3 * a, ndl.MulScalar, 12.0),
        (a - b, ndl.EWiseAdd, 2.0),
    ]


@pytest.mark.parametrize("number", range(14))
def test_operator_builds_the_op_of_the_contract(number):
    result, kind, value = operators()[number]
    assert type(result.op) is kind
    assert result.numpy() == value


def test_subtraction_of_tensors_is_a_sum_with_a_negated_tensor():
    a, b = Tensor([4.0]), Tensor([2.0])
    difference = a - b
    assert type(difference.op) is ndl.EWiseAdd
    assert difference.inputs[0] is a
    assert type(difference.inputs[1].op) is ndl.Negate
    assert difference.inputs[1].inputs[0] is b
    assert len(ndl.autograd.find_topo_sort([difference])) == 4


@pytest.mark.parametrize("build", [lambda a: 1 + a, lambda a: 2 * a, lambda a: a - 1])
def test_reflected_sum_and_product_and_scalar_difference_are_one_node(build):
    assert len(ndl.autograd.find_topo_sort([build(Tensor([4.0]))])) == 2


def test_reflected_operators_are_correct():
    a = Tensor([4.0])
    assert (10 - a).numpy() == 6
    assert (2 / a).numpy() == 0.5
    assert (2**a).numpy() == 16
    assert (np.array([3.0]) @ a).numpy() == 12


SCALARS = [2, 2.5, True, np.float32(2.5), np.float64(2.5), np.int64(2), np.array([2.5])]


@pytest.mark.parametrize("scalar", SCALARS, ids=lambda s: f"{type(s).__name__}")
@pytest.mark.parametrize("operator", ["add", "sub", "mul", "truediv", "pow"])
def test_scalars_keep_float32(operator, scalar):
    x = Tensor([1.0, 2.0, 3.0], dtype="float32")
    result = getattr(x, f"__{operator}__")(scalar)
    assert result.dtype == "float32"
    value = float(np.asarray(scalar).reshape(()))
    expected = getattr(np.array([1.0, 2.0, 3.0]), f"__{operator}__")(value)
    np.testing.assert_allclose(result.numpy(), expected, rtol=1e-6)


@pytest.mark.parametrize("scalar", SCALARS, ids=lambda s: f"{type(s).__name__}")
@pytest.mark.parametrize("operator", ["radd", "rsub", "rmul", "rtruediv", "rpow"])
def test_reflected_scalars_keep_float32(operator, scalar):
    x = Tensor([1.0, 2.0, 3.0], dtype="float32")
    result = getattr(x, f"__{operator}__")(scalar)
    assert result.dtype == "float32"
    value = float(np.asarray(scalar).reshape(()))
    expected = getattr(np.array([1.0, 2.0, 3.0]), f"__{operator}__")(value)
    np.testing.assert_allclose(result.numpy(), expected, rtol=1e-6)


def test_division_by_an_array_of_one_element_through_the_function():
    divisor = np.array([-0.37])
    x = Tensor(np.arange(6.0).reshape(2, 3))
    result = ndl.divide_scalar(x, scalar=divisor)
    assert result.shape == (2, 3)
    np.testing.assert_allclose(result.numpy(), x.numpy() / -0.37)
    result.backward()
    np.testing.assert_allclose(x.grad.numpy(), np.full((2, 3), 1 / -0.37))


def test_gradients_keep_float32_through_numpy_scalars():
    x = Tensor([1.0, 2.0], dtype="float32")
    ((x * np.float64(2.0) + np.float64(1.0)) ** 2 / np.float64(3.0)).backward()
    assert x.grad.dtype == "float32"


# -- 3.3 Tensor: identity ----------------------------------------------------------------------


def test_tensors_compare_by_identity_and_can_be_keys():
    a, b = Tensor([1.0]), Tensor([1.0])
    assert a == a
    assert a != b
    assert (a == b) is False
    assert {a: 1, b: 2}[b] == 2
    assert len({a, b}) == 2


def test_tuples_of_tensors_compare_as_plain_booleans():
    a, b, c = Tensor([1.0]), Tensor([2.0]), Tensor([1.0])
    assert ((a, b) != (c, b)) is True
    assert ((a, b) != (a, b)) is False
    assert (a, b) == (a, b)


@pytest.mark.parametrize("array", [0.0, [0.0], [0], np.zeros((0, 3)), np.zeros((2, 2))])
def test_a_tensor_of_numbers_is_always_true(array):
    assert bool(Tensor(array)) is True


# -- 3.4 TensorTuple ---------------------------------------------------------------------------


def test_tensor_tuple_has_length_items_and_a_python_tuple():
    a, b = Tensor([1.0]), Tensor([2.0, 3.0])
    both = ndl.make_tuple(a, b)
    assert isinstance(both, ndl.TensorTuple)
    assert len(both) == 2
    assert both[0] is a
    assert both[1] is b
    assert type(both.tuple()) is tuple
    assert both.tuple() == (a, b)
    first, second = both
    assert (first, second) == (a, b)
    with pytest.raises(IndexError):
        both[2]


def test_items_of_a_computed_tuple_carry_gradients():
    x = Tensor(np.arange(6.0).reshape(2, 3))
    parts = ndl.split(x, 0)
    assert isinstance(parts, ndl.TensorTuple)
    assert len(parts) == 2
    (parts[1] * 5).backward()
    np.testing.assert_array_equal(x.grad.numpy(), [[0, 0, 0], [5, 5, 5]])


def test_tuples_of_equal_length_add_elementwise():
    left = ndl.make_tuple(Tensor([1.0]), Tensor([2.0]))
    right = ndl.make_tuple(Tensor([10.0]), Tensor([20.0]))
    total = left + right
    assert isinstance(total, ndl.TensorTuple)
    assert [t.item() for t in total] == [11.0, 22.0]
    with pytest.raises(ValueError, match="length 2"):
        left + ndl.make_tuple(Tensor([1.0]))


def test_tuple_detaches_and_prints():
    both = ndl.make_tuple(Tensor([1.0]), Tensor([2.0]))
    detached = both.detach()
    assert isinstance(detached, ndl.TensorTuple)
    assert detached.op is None
    assert all(not item.requires_grad for item in detached)
    assert "needle.Tensor([1.])" in repr(both)


def test_fused_add_scalars_gives_both_sums():
    x = Tensor([1.0])
    low, high = ndl.fused_add_scalars(x, 1, 10)
    assert (low.item(), high.item()) == (2.0, 11.0)
    (low + high).backward()
    assert x.grad.numpy() == 2

"""Topological order, the walk backwards, and graphs of great depth and width."""

from __future__ import annotations

import sys
import time
import tracemalloc

import numpy as np
import pytest
from tensors import tensor

import needle as ndl
from needle import autograd, nn
from needle.autograd import find_topo_sort, sum_node_list
from needle.autograd.backward import gradients
from needle.errors import DTypeError, GradientError, ShapeError
from needle.testing import check_grads


def values(nodes):
    return [float(node.numpy().reshape(-1)[0]) for node in nodes]


def test_topological_order_is_post_order_left_to_right():
    a, b = tensor([2.0]), tensor([5.0])
    c = 3 * a * a + 4 * b * a - a
    assert values(find_topo_sort([c])) == [2, 6, 12, 5, 20, 40, 52, -2, 50]


def test_topological_order_visits_a_shared_node_once():
    a, b = tensor([[2.0]]), tensor([[5.0]])
    e = 3 * ((b @ a) + (2.5 * b) @ a) + 1.5
    assert values(find_topo_sort([e])) == [5, 2, 10, 12.5, 25, 35, 105, 106.5]


def test_topological_order_of_several_roots_keeps_their_order():
    a = tensor([1.0])
    b, c = a + 1, a + 2
    assert find_topo_sort([c, b, a]) == [a, c, b]


def test_subtraction_is_an_addition_of_the_negative():
    a, b = tensor([3.0]), tensor([1.0])
    difference = a - b
    assert difference.op.name == "add"
    assert difference.inputs[1].op.name == "negate"


def test_inputs_of_a_node_are_the_very_tensors():
    a, b = tensor([1.0]), tensor([2.0])
    first, second = (a * b).inputs
    assert first is a
    assert second is b


def test_gradient_arrives_by_every_path():
    x = tensor([3.0])
    y = x * x + x * 2 + x
    y.backward()
    np.testing.assert_allclose(x.grad.numpy(), [2 * 3 + 2 + 1])


def test_gradient_of_a_gradient_of_a_gradient():
    x = tensor([2.0])
    slopes = []
    y = x**5
    for _ in range(3):
        y.backward()
        y = x.grad
        slopes.append(y.item())
    assert slopes == pytest.approx([5 * 2**4, 20 * 2**3, 60 * 2**2])


def test_backward_overwrites_the_gradient():
    x = tensor([3.0])
    for _ in range(2):
        (x * x).backward()
        np.testing.assert_allclose(x.grad.numpy(), [6.0])


def test_backward_accumulates_when_told_to_and_keeps_no_graph():
    x = tensor([3.0])
    (x * x).backward(accumulate=True)
    (x * x * x).backward(accumulate=True)
    np.testing.assert_allclose(x.grad.numpy(), [6.0 + 27.0])
    assert not x.grad.requires_grad


def test_accumulated_gradients_can_carry_the_graph_on_request():
    x = tensor([3.0])
    (x * x).backward(accumulate=True, create_graph=True)
    (x * x * x).backward(accumulate=True, create_graph=True)
    x.grad.backward()
    np.testing.assert_allclose(x.grad.numpy(), [2.0 + 18.0])


def test_backward_without_a_graph_for_second_derivatives_when_told_so():
    x = tensor([3.0])
    (x**3).backward(create_graph=False)
    np.testing.assert_allclose(x.grad.numpy(), [27.0])
    assert x.grad.is_leaf()
    assert not x.grad.requires_grad


def test_backward_takes_an_adjoint():
    x = tensor([1.0, 2.0])
    (x * x).backward(tensor([1.0, 10.0]))
    np.testing.assert_allclose(x.grad.numpy(), [2.0, 40.0])


def test_backward_of_an_integer_tensor():
    x = tensor(np.array([4]))
    (x * x).backward()
    np.testing.assert_array_equal(x.grad.numpy(), [8])


def test_constants_receive_no_gradient():
    x, c = tensor([1.0]), tensor([2.0], requires_grad=False)
    (x * c).backward()
    assert c.grad is None


@pytest.mark.parametrize(
    "make",
    [
        lambda: tensor([1.0]),
        lambda: tensor([1.0], requires_grad=False) * 2,
        lambda: (tensor([1.0]) * 2).detach(),
    ],
)
def test_backward_of_something_without_a_graph_raises(make):
    with pytest.raises(GradientError, match=r"backward: expected .*float64\[1\] with no graph"):
        make().backward()


def test_backward_with_an_adjoint_of_another_shape_raises():
    y = tensor([1.0, 2.0]) * 2
    with pytest.raises(ShapeError, match=r"float64\[3\] for float64\[2\]"):
        y.backward(tensor([1.0, 2.0, 3.0]))


def test_an_error_while_going_back_leaves_every_gradient_as_it_was():
    class Broken(ndl.TensorOp):
        def compute(self, x):
            return x * 1

        def gradient(self, out_grad, node):
            raise RuntimeError("broken")

    x, z = tensor([1.0]), tensor([2.0])
    (z * 3).backward()
    before = z.grad
    with pytest.raises(RuntimeError, match="broken"):
        (z * 5 + Broken()(x)).backward()
    assert z.grad is before
    assert x.grad is None


def test_an_op_that_returns_too_few_gradients_is_named():
    class Forgetful(ndl.TensorOp):
        def compute(self, a, b):
            return a + b

        def gradient(self, out_grad, node):
            return out_grad

    y = Forgetful()(tensor([1.0]), tensor([1.0]))
    with pytest.raises(GradientError, match=r"forgetful: expected .* 2 gradients, one per input"):
        y.backward()


def test_ops_refuse_what_is_no_tensor():
    with pytest.raises(DTypeError, match=r"exp: expected Tensors, got float64\[2\]"):
        ndl.exp(np.ones(2))


def test_sum_node_list_makes_no_zero():
    x = tensor([1.0])
    assert sum_node_list([x]) is x


def test_data_assigned_after_an_op_does_not_change_its_gradient():
    x = tensor([3.0])
    y = x * x
    x.data = tensor([100.0])
    y.backward()
    np.testing.assert_allclose(x.grad.numpy(), [6.0])


def test_a_leaf_read_before_and_after_new_data_gets_both_gradients():
    x = tensor([3.0])
    y = x * x
    x.data = tensor([5.0])
    (y + x * x).backward()
    np.testing.assert_allclose(x.grad.numpy(), [6.0 + 10.0])


def test_tuple_outputs_add_up_slot_by_slot():
    x = tensor(np.arange(6.0).reshape(3, 2))
    first, second, _ = ndl.split(x, 0)
    (first * 2 + second * first).sum().backward()
    np.testing.assert_allclose(x.grad.numpy(), [[2 + 2, 2 + 3], [0, 1], [0, 0]])


def test_splitting_into_many_is_linear():
    def seconds(n):
        x = tensor(np.ones((n, 1)))
        start = time.perf_counter()
        ndl.stack([piece * 2 for piece in ndl.split(x, 0)], 0).sum().backward()
        return time.perf_counter() - start

    seconds(100)
    assert seconds(2000) < 60 * max(seconds(200), 1e-3)  # quadratic would be 100 times


def test_a_chain_of_100_000_ops_differentiates_without_recursion():
    x = y = tensor([1.0])
    for _ in range(100_000):
        y = y + 1
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(200)
    try:
        y.backward()
        assert len(find_topo_sort([y])) == 100_001
        del y
    finally:
        sys.setrecursionlimit(limit)
    np.testing.assert_array_equal(x.grad.numpy(), [1.0])


def test_a_lazy_chain_of_100_000_ops_is_computed_without_recursion():
    with ndl.lazy():
        y = tensor([0.0])
        for _ in range(100_000):
            y = y + 1
    np.testing.assert_array_equal(y.numpy(), [100_000.0])


@pytest.mark.slow
def test_a_graph_1000_wide_and_1000_deep_differentiates():
    x = tensor([1.0])
    branches = [x * 1.0 for _ in range(1000)]
    for _ in range(999):
        branches = [branch + 1 for branch in branches]
    y = sum_node_list(branches)
    y.backward(create_graph=False)
    np.testing.assert_array_equal(x.grad.numpy(), [1000.0])


def test_time_grows_linearly_with_a_dense_graph():
    def seconds(layers):
        x = y = tensor([1.0])
        for _ in range(layers):  # 2^layers paths, 2 · layers ops
            y = (y + y) * 0.5
        start = time.perf_counter()
        y.backward()
        assert x.grad.item() == 1.0
        return time.perf_counter() - start

    seconds(100)
    assert seconds(4000) < 30 * max(seconds(400), 1e-3)


def test_differences_of_small_integers_do_not_wrap_around():
    one = tensor(np.array([1], "uint8"))
    assert (tensor(np.array([5], "float32")) - one).item() == 4
    assert (tensor(np.array([5])) - one).item() == 4
    assert (5.0 - one).item() == 4.0
    assert (5 - one).item() == 4
    assert (np.array([5.0]) - one).item() == 4.0
    five = tensor(np.array([5], "uint8"))
    assert (five - 1).item() == 4
    assert (five - 1).dtype == np.uint8
    assert (tensor([5.0]) - np.uint8(1)).item() == 4.0
    assert (tensor([5.0]) - np.array([1, 2], "u1")).tolist() == [4.0, 3.0]
    assert (tensor([5.0]) - np.True_).item() == 4.0
    lowest = tensor(np.array([-128], "int8"))
    assert (tensor(np.array([1], "float32")) - lowest).item() == 129.0


def test_gradients_of_two_leaves_are_two_tensors():
    a, b = tensor([1.0]), tensor([2.0])
    (a + b).sum().backward()
    assert a.grad is not b.grad
    given = tensor([1.0])
    (a + 1).backward(given)
    assert a.grad is not given


def test_a_gradient_that_is_the_given_adjoint_leads_to_it():
    x, adjoint = tensor([1.0, 2.0]), tensor([1.0, 1.0])
    (x + 1).backward(adjoint)
    assert x.grad is not adjoint
    (x.grad * tensor([5.0, 6.0])).sum().backward()
    np.testing.assert_array_equal(adjoint.grad.numpy(), [5.0, 6.0])


def test_gradients_by_an_adjoint_reach_it_through_every_leaf():
    a, b, adjoint = tensor([1.0, 2.0]), tensor([3.0, 4.0]), tensor([1.0, 1.0])
    found = gradients([a + b], [adjoint], [a, b])
    assert found[0] is not found[1] and adjoint not in found
    loss = (found[0] * tensor([5.0, 6.0]) + found[1] * tensor([1.0, 2.0])).sum()
    (by_adjoint,) = gradients([loss], [tensor(1.0)], [adjoint])
    np.testing.assert_array_equal(by_adjoint.numpy(), [6.0, 8.0])


def test_a_gradient_leads_to_an_adjoint_that_was_computed():
    x, adjoint = tensor([1.0, 2.0]), 2 * tensor([1.0, 1.0])
    (found,) = gradients([x + 1], [adjoint], [x])
    (by_adjoint,) = gradients([found * found], [tensor([1.0, 1.0])], [adjoint])
    np.testing.assert_array_equal(by_adjoint.numpy(), [4.0, 4.0])


def test_no_leaf_becomes_a_gradient_itself():
    class AtSlopeOne(autograd.TensorOp):
        """y = x w, at an adjoint of 1."""

        def compute(self, x, w):
            return x * w

        def gradient(self, out_grad, node):
            return node.inputs[1], None

    x, w = tensor([1.0, 2.0]), tensor([3.0, 4.0])
    AtSlopeOne()(x, w).backward()
    assert x.grad is not w
    (x.grad * x.grad).sum().backward()
    np.testing.assert_array_equal(w.grad.numpy(), [6.0, 8.0])


def test_layer_norm_of_one_row_has_second_derivatives():
    layer = nn.LayerNorm(3, dtype="float64")

    def normalized(x, weight, bias):
        layer.weight, layer.bias = weight, bias
        return layer(x) ** 2

    check_grads(normalized, *np.random.randn(3, 3))


def test_many_partial_adjoints_do_not_pile_up():
    x = tensor(np.ones((500, 100)))
    y = tensor(0.0)
    for row in x:
        y = y + (row * row).sum()
    tracemalloc.start()
    y.backward(create_graph=False)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    np.testing.assert_array_equal(x.grad.numpy(), 2 * np.ones((500, 100)))
    assert peak < 10 * x.numpy().nbytes


def test_an_adjoint_of_another_dtype_is_cast():
    x = tensor(np.ones(2, "float32"))
    (x * 2).backward(tensor(np.ones(2)))
    assert x.grad.dtype == np.float32


class Returns(ndl.TensorOp):
    """x, with a gradient of the test's choice."""

    def __init__(self, make):
        self.make = make

    def compute(self, x):
        return x * 1

    def gradient(self, out_grad, node):
        return self.make(out_grad)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda g: g.sum(), r"a gradient of the shape of float64\[2\], got float64\[\]"),
        (lambda g: g.numpy(), "returns: expected gradient\\(\\) to return Tensors"),
    ],
)
def test_a_gradient_of_another_kind_is_refused(make, message):
    x = tensor([1.0, 2.0])
    with pytest.raises(GradientError, match=message):
        Returns(make)(x).sum().backward()


def test_a_hook_of_another_shape_is_refused():
    x = tensor([1.0, 2.0])
    x.register_hook(lambda grad: grad.sum())
    with pytest.raises(GradientError, match="hook: expected a gradient like"):
        (x * 2).sum().backward()


@pytest.mark.parametrize(
    "call",
    [
        lambda x: ndl.exp(ndl.ops.make_tuple(x)),
        lambda x: ndl.ops.make_tuple(ndl.ops.make_tuple(x)),
        lambda x: ndl.ops.make_tuple(x)[0:1],
        lambda x: x < "a",
    ],
)
def test_values_of_the_wrong_kind_are_refused(call):
    with pytest.raises((DTypeError, TypeError)):
        call(tensor([1.0]))


def test_failed_ops_and_constructors_leave_the_count_of_live_values():
    a, b = tensor([1.0, 2.0]), tensor([1.0, 2.0, 3.0])
    live = autograd.TENSOR_COUNTER
    for _ in range(3):
        with pytest.raises(ShapeError):
            a + b
        with pytest.raises(DTypeError):
            tensor("abc")
    assert autograd.TENSOR_COUNTER == live

"""Contract, sections 3.5 and 3.6: topological order, backward, and what stays alive."""

from __future__ import annotations

import gc

import numpy as np
import pytest

import needle as ndl
from needle.autograd import (
    Tensor,
    compute_gradient_of_variables,
    find_topo_sort,
    sum_node_list,
    topo_sort_dfs,
)


def values(order):
    return [node.numpy() for node in order]


def assert_values(order, expected):
    assert len(order) == len(expected)
    for found, value in zip(values(order), expected, strict=True):
        np.testing.assert_allclose(found, value)


def test_order_of_a_polynomial():
    a, b = Tensor(np.array([[2.0, 3.0]])), Tensor(np.array([[5.0, 7.0]]))
    result = 3 * a * a + 4 * b * a - a
    order = find_topo_sort([result])
    u, v = a.numpy(), b.numpy()
    expected = [u, 3 * u, 3 * u * u, v, 4 * v, 4 * v * u, 3 * u * u + 4 * v * u, -u]
    assert_values(order, [*expected, 3 * u * u + 4 * v * u - u])
    assert order[0] is a
    assert order[3] is b
    assert order[-1] is result


def test_order_of_a_chain_of_products():
    a, b = Tensor([[1.0, 2.0], [3.0, 4.0]]), Tensor([[5.0, 6.0], [7.0, 8.0]])
    result = 3 * ((b @ a) + (2.3412 * b) @ a) + 1.5
    u, v = a.numpy(), b.numpy()
    total = v @ u + (2.3412 * v) @ u
    order = find_topo_sort([result])
    expected = [v, u, v @ u, 2.3412 * v, (2.3412 * v) @ u, total, 3 * total, 3 * total + 1.5]
    assert_values(order, expected)
    assert order[0] is b
    assert order[1] is a


def test_order_of_a_shared_difference():
    a, b = Tensor([1.0]), Tensor([4.0])
    c = a - b
    result = c * c + b
    order = find_topo_sort([result])
    assert_values(order, [[1.0], [4.0], [-4.0], [-3.0], [9.0], [13.0]])
    assert order[3] is c


def test_several_roots_are_sorted_in_turn_each_node_once():
    a = Tensor([1.0])
    first, second = a + 1, a * 2
    assert find_topo_sort([first, second, first]) == [a, first, second]


def test_depth_first_search_skips_what_was_visited_and_appends():
    a = Tensor([1.0])
    b = a + 1
    order: list = []
    topo_sort_dfs(b, {a}, order)
    assert order == [b]


def test_sum_node_list_adds_without_a_zero_node():
    nodes = [Tensor([1.0]), Tensor([2.0]), Tensor([3.0])]
    total = sum_node_list(nodes)
    assert total.item() == 6
    assert len(find_topo_sort([total])) == 5
    assert sum_node_list(nodes[:1]) is nodes[0]


def test_adjoints_from_several_users_are_added():
    x = Tensor([3.0])
    (x * x + x * 2 + x).backward()
    np.testing.assert_array_equal(x.grad.numpy(), [9.0])


def test_compute_gradient_of_variables_sets_the_grads():
    x, y = Tensor([3.0]), Tensor([4.0])
    assert compute_gradient_of_variables(x * y, Tensor([10.0])) is None
    assert x.grad.numpy() == 40
    assert y.grad.numpy() == 30


def test_grad_is_overwritten_by_every_backward_call():
    x = Tensor([2.0])
    (x * 3).backward()
    (x * 5).backward()
    assert x.grad.numpy() == 5
    y = x * x * x
    y.backward()
    y.backward()
    assert x.grad.numpy() == 12


def test_second_backward_leaves_only_the_second_derivative():
    x = Tensor(np.array([2.0, 3.0]))
    y = (x * x * x + x * 4).sum()
    y.backward()
    np.testing.assert_allclose(x.grad.numpy(), 3 * x.numpy() ** 2 + 4)
    x.grad.backward()
    np.testing.assert_allclose(x.grad.numpy(), 6 * x.numpy())


def test_gradients_of_two_variables_are_differentiable():
    x, y = Tensor([2.0]), Tensor([5.0])
    f = x * x * x + x * y
    f.backward()
    dx, dy = x.grad, y.grad
    np.testing.assert_allclose(dx.numpy(), 3 * 4 + 5)
    np.testing.assert_allclose(dy.numpy(), 2)
    dx.backward()
    np.testing.assert_allclose(x.grad.numpy(), 12)
    np.testing.assert_allclose(y.grad.numpy(), 1)


def test_gradient_of_an_integer_tensor_of_shape_one():
    x = Tensor([7])
    (2 * x + x * x).backward()
    assert x.grad.numpy() == 16


def test_gradient_through_an_implicit_broadcast_has_the_inputs_shape():
    wide, narrow = Tensor(np.ones((1, 3))), Tensor(np.full(3, 2.0))
    ndl.power(wide, narrow).backward()
    assert wide.grad.shape == (1, 3)
    assert narrow.grad.shape == (3,)


def test_backward_of_a_tensor_of_several_elements():
    x = Tensor(np.arange(6.0).reshape(2, 3))
    (x * x).backward()
    np.testing.assert_array_equal(x.grad.numpy(), 2 * np.arange(6.0).reshape(2, 3))


@pytest.mark.parametrize("length", [20_000])
def test_long_chains_need_no_recursion(length):
    x = Tensor([1.0])
    y = x
    for _ in range(length):
        y = y + 1
    assert len(find_topo_sort([y])) == length + 1
    y.backward()
    assert x.grad.numpy() == 1


def train(steps):
    """A training step in the course's manner: the gradient's data into the parameter's data."""
    weight = Tensor(np.ones((4, 3)), dtype="float32")
    bias = Tensor(np.zeros((1, 3)), dtype="float32")
    x = Tensor(np.ones((5, 4)), dtype="float32", requires_grad=False)
    momentum = [p.detach() * 0 for p in (weight, bias)]
    for _ in range(steps):
        ((ndl.relu(x @ weight + bias.broadcast_to((5, 3)))) ** 2).sum().backward()
        for i, p in enumerate((weight, bias)):
            momentum[i] = momentum[i] * 0.9 + p.grad.detach() * 0.1
            p.data = p.data - momentum[i] * np.float32(0.001)
    return ndl.autograd.TENSOR_COUNTER


def test_live_values_do_not_grow_with_the_number_of_steps():
    gc.collect()
    gc.disable()
    try:
        few, many = train(5), train(60)
    finally:
        gc.enable()
    assert many <= few + 5

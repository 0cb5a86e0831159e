"""grad, value_and_grad, jacobian, hvp, checkpoint."""

from __future__ import annotations

import numpy as np
import pytest
from tensors import tensor

import needle as ndl
from needle import nn
from needle.errors import DTypeError, GradientError, ShapeError


def cube(x):
    return (x**3).sum()


def test_grad_of_a_function_and_of_its_gradient():
    x = tensor([1.0, 2.0])
    np.testing.assert_allclose(ndl.grad(cube)(x).numpy(), [3, 12])
    second = ndl.grad(lambda y: ndl.grad(cube)(y).sum())
    np.testing.assert_allclose(second(x).numpy(), [6, 12])
    third = ndl.grad(lambda y: second(y).sum())
    np.testing.assert_allclose(third(x).numpy(), [6, 6])


def test_grad_leaves_every_gradient_attribute_alone():
    x, w = tensor([1.0]), tensor([2.0])
    ndl.grad(lambda y: (y * w).sum())(x)
    assert x.grad is None
    assert w.grad is None


def test_grad_by_several_arguments():
    a, b = tensor([2.0]), tensor([3.0])
    da, db = ndl.grad(lambda a, b: (a * a * b).sum(), (0, 1))(a, b)
    assert (da.item(), db.item()) == (12.0, 4.0)
    assert ndl.grad(lambda a, b: (a * a * b).sum(), 1)(a, b).item() == 4.0


def test_grad_of_tensors_by_tensors():
    x, unused = tensor([2.0]), tensor([1.0])
    middle = x * x
    y = middle * 3
    assert ndl.grad(y, x).item() == 12.0
    by_middle, by_unused = ndl.grad(y, [middle, unused])
    assert by_middle.item() == 3.0
    assert by_unused.item() == 0.0
    assert ndl.grad(y, x, tensor([10.0])).item() == 120.0


def test_grad_with_something_to_hand_on():
    slope, extra = ndl.grad(lambda x: ((x * x).sum(), "seen"), has_aux=True)(tensor([2.0]))
    assert slope.item() == 4.0
    assert extra == "seen"


def test_grad_by_a_constant_argument_works():
    x = tensor([2.0], requires_grad=False)
    assert ndl.grad(cube)(x).item() == 12.0


def test_value_and_grad():
    value, slope = ndl.value_and_grad(cube)(tensor([2.0]))
    assert (value.item(), slope.item()) == (8.0, 12.0)


def test_gradients_without_a_graph():
    slope = ndl.grad(cube, create_graph=False)(tensor([2.0]))
    assert not slope.requires_grad


@pytest.mark.parametrize(
    ("call", "kind", "message"),
    [
        (lambda: ndl.grad(lambda x: x * 2)(tensor([1.0, 2.0])), ShapeError, "one element"),
        (lambda: ndl.grad(cube)(3.0), DTypeError, "argument 0 to be a Tensor"),
        (lambda: ndl.grad(cube, 1)(tensor([1.0])), DTypeError, "argument 1"),
        (
            lambda: ndl.grad(tensor([1.0]) * 2, tensor([1.0], requires_grad=False)),
            GradientError,
            "grad: expected tensors that require grad",
        ),
        (lambda: ndl.grad([], tensor([1.0])), DTypeError, "one Tensor or more"),
        (
            lambda: ndl.grad(tensor([1.0]) * 2, tensor([1.0]), []),
            DTypeError,
            "grad: expected one Tensor or more",
        ),
        (lambda: ndl.jacobian(lambda x: (x, x), tensor([1.0])), DTypeError, "jacobian: .*f to"),
        (lambda: ndl.hvp(cube, np.ones(1), np.ones(1)), DTypeError, "hvp: expected Tensors"),
        (
            lambda: ndl.hvp(cube, tensor([1.0]), tensor([1.0, 2.0])),
            ShapeError,
            r"float64\[2\] for float64\[1\]",
        ),
    ],
)
def test_misuse_is_named(call, kind, message):
    with pytest.raises(kind, match=message):
        call()


def test_jacobian_of_a_vector_function():
    a = np.random.rand(3, 2)
    x = tensor(np.random.rand(2))
    found = ndl.jacobian(lambda x: ndl.sin(tensor(a, requires_grad=False) @ x), x)
    np.testing.assert_allclose(found.numpy(), np.cos(a @ x.numpy())[:, None] * a)


def test_jacobian_shapes_and_several_inputs():
    a, b = tensor(np.random.rand(2, 3)), tensor(np.random.rand(3, 4))
    by_a, by_b = ndl.jacobian(lambda a, b: a @ b, a, b)
    assert by_a.shape == (2, 4, 2, 3)
    assert by_b.shape == (2, 4, 3, 4)
    np.testing.assert_allclose(by_a.numpy()[0, 1, 0], b.numpy()[:, 1])
    assert ndl.jacobian(lambda x: x * x)(a).shape == (2, 3, 2, 3)


def test_hvp_is_the_hessian_times_the_vector():
    x, v = tensor(np.random.rand(4)), tensor(np.random.rand(4))

    def f(x):
        return (ndl.exp(x) * x[0]).sum() + (x**3).sum()

    hessian = ndl.jacobian(lambda x: ndl.grad(f)(x), x).numpy()
    np.testing.assert_allclose(hessian, hessian.T)
    np.testing.assert_allclose(ndl.hvp(f, x, v).numpy(), hessian @ v.numpy())


def test_derivatives_of_linear_functions_are_zeros():
    x, v = tensor([1.0, 2.0]), tensor([1.0, 1.0])
    np.testing.assert_array_equal(ndl.hvp(lambda x: (x * 3).sum(), x, v).numpy(), [0, 0])
    np.testing.assert_array_equal(
        ndl.jacobian(lambda x: tensor(np.ones(3)), x).numpy(), np.zeros((3, 2))
    )


@pytest.mark.parametrize(
    "kinked",
    [
        ndl.relu,
        ndl.abs,
        ndl.max,
        ndl.min,
        lambda x: ndl.clip(x, -1, 1),
        lambda x: ndl.maximum(x, 0),
    ],
)
def test_ops_with_kinks_have_a_second_derivative_of_zero(kinked):
    x = tensor([0.5, -2.0, 3.0])
    kinked(x).sum().backward()
    x.grad.backward()
    np.testing.assert_array_equal(x.grad.numpy(), np.zeros(3))


def test_one_tensor_as_two_arguments_counts_for_each():
    x = tensor([3.0])
    first, second = ndl.grad(lambda a, b: (a * a * b).sum(), (0, 1))(x, x)
    assert (first.item(), second.item()) == (18.0, 9.0)
    assert ndl.grad(lambda a: (a * x).sum())(x).item() == 3.0
    by_a, by_b = ndl.jacobian(lambda a, b: a * a * b, x, x)
    assert (by_a.item(), by_b.item()) == (18.0, 9.0)


def test_grad_by_an_intermediate_value_and_by_what_it_was_computed_from():
    x = tensor([3.0])
    h = x * 2
    by_h, by_x = ndl.grad((h * h).sum(), [h, x])
    assert (by_h.item(), by_x.item()) == (12.0, 24.0)


def test_grad_takes_argnums_by_name_and_as_numpy_integers():
    a, b = tensor([2.0]), tensor([3.0])
    assert ndl.grad(lambda a, b: (a * b).sum(), argnums=np.int64(1))(a, b).item() == 2.0


# -- checkpoint ------------------------------------------------------------------------------------


def block(x, w):
    return ndl.tanh(x @ w) * x


def test_checkpoint_gives_the_same_values_and_gradients():
    x, w = tensor(np.random.rand(4, 4)), tensor(np.random.rand(4, 4))
    plain = block(x * 1, w)
    plain.sum().backward()
    expected = x.grad.numpy(), w.grad.numpy()
    kept = ndl.checkpoint(block, x * 1, w)
    kept.sum().backward()
    np.testing.assert_array_equal(kept.numpy(), plain.numpy())
    np.testing.assert_array_equal(x.grad.numpy(), expected[0])
    np.testing.assert_array_equal(w.grad.numpy(), expected[1])


def test_checkpoint_differentiates_by_what_the_function_captures():
    x, w = tensor(np.random.rand(3, 3)), tensor(np.random.rand(3, 3))
    block(x, w).sum().backward()
    expected = w.grad.numpy()
    w.grad = None
    ndl.checkpoint(lambda x: block(x, w), x).sum().backward()
    np.testing.assert_array_equal(w.grad.numpy(), expected)


def test_checkpoint_of_a_checkpoint_to_second_order():
    x = tensor(np.random.rand(3))

    def inner(x):
        return ndl.exp(x) * x

    def outer(x):
        return ndl.checkpoint(inner, x * 2) * x

    def plain(x):
        return inner(x * 2) * x

    def second(f):
        return ndl.grad(lambda y: (ndl.grad(lambda z: f(z).sum())(y) ** 2).sum())(x).numpy()

    np.testing.assert_allclose(second(outer), second(plain), rtol=1e-12)


def test_checkpoint_repeats_the_random_draws_and_leaves_the_stream_alone():
    dropout = nn.Dropout(0.5)
    x = tensor(np.ones(100))
    np.random.seed(3)
    dropout(x * 1).sum().backward()
    expected, after = x.grad.numpy(), np.random.rand()
    np.random.seed(3)
    ndl.checkpoint(dropout, x * 1).sum().backward()
    np.testing.assert_array_equal(x.grad.numpy(), expected)
    assert np.random.rand() == after


def test_checkpoint_counts_running_statistics_once():
    norms = nn.BatchNorm1d(3), nn.BatchNorm1d(3)
    x = tensor(np.random.rand(5, 3).astype("float32"))
    norms[0](x).sum().backward()
    ndl.checkpoint(norms[1], x).sum().backward()
    np.testing.assert_array_equal(norms[1].running_mean.numpy(), norms[0].running_mean.numpy())


def test_checkpoint_of_several_results_and_other_arguments():
    x = tensor([2.0])
    a, b = ndl.checkpoint(lambda x, n: (x * n, x * x), x, 5)
    (a + b).sum().backward()
    assert x.grad.item() == 5 + 4


def test_checkpoint_refuses_a_parameter_that_changed_in_between():
    w, x = tensor([2.0]), tensor([3.0])
    y = ndl.checkpoint(lambda x: x * w, x)
    w.data = tensor([7.0])
    with pytest.raises(GradientError, match="to be as it was in the forward pass"):
        y.backward()


def test_checkpoint_of_a_function_that_returns_no_tensor_raises():
    with pytest.raises(DTypeError, match="checkpoint: expected a Tensor"):
        ndl.checkpoint(lambda x: 3, tensor([1.0]))


def test_checkpoint_counts_a_tensor_given_twice_or_captured_once_for_each():
    w = tensor([3.0])
    ndl.checkpoint(lambda a, b: a * b, w, w).sum().backward()
    assert w.grad.item() == 6.0
    ndl.checkpoint(lambda a: a * w, w).sum().backward()
    assert w.grad.item() == 6.0


def test_checkpoint_runs_the_hooks_of_what_it_captures_once():
    w, x = tensor([3.0]), tensor([2.0])
    w.register_hook(lambda grad: grad * 10)
    ndl.checkpoint(lambda x: x * w, x).sum().backward()
    assert w.grad.item() == 20.0


def test_checkpoint_results_require_grad_as_those_of_a_plain_call():
    x = tensor([2.0, 3.0])
    index, value = ndl.checkpoint(lambda x, *, k: (ndl.argmax(x), x * k), x, k=4)
    assert not index.requires_grad
    assert value.requires_grad


def test_checkpoint_refuses_a_second_run_of_another_shape():
    sizes = iter([2, 3])
    x = tensor([1.0])
    y = ndl.checkpoint(lambda x: ndl.broadcast_to(x, (next(sizes),)), x)
    with pytest.raises(GradientError, match="the second run to give"):
        y.sum().backward()

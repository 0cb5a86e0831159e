"""Every optimiser against its equations written out in NumPy."""

from __future__ import annotations

import numpy as np
import pytest
from tensors import tensor

import needle as ndl
from needle import optim
from needle.errors import OptionError


def sgd(p, grads, lr=0.01, momentum=0.0, weight_decay=0.0, nesterov=False):
    u = np.zeros_like(p)
    for grad in grads:
        g = grad + weight_decay * p
        u = momentum * u + (1 - momentum) * g
        p = p - lr * (momentum * u + (1 - momentum) * g if nesterov else u)
    return p


def adam(p, grads, lr=0.01, beta1=0.9, beta2=0.999, eps=1e-8, weight_decay=0.0, decoupled=False):
    m, v = np.zeros_like(p), np.zeros_like(p)
    for t, grad in enumerate(grads, 1):
        g = grad if decoupled else grad + weight_decay * p
        p = p - lr * weight_decay * p if decoupled else p
        m = beta1 * m + (1 - beta1) * g
        v = beta2 * v + (1 - beta2) * g**2
        p = p - lr * (m / (1 - beta1**t)) / (np.sqrt(v / (1 - beta2**t)) + eps)
    return p


def adamw(p, grads, weight_decay=0.01, **options):
    return adam(p, grads, weight_decay=weight_decay, decoupled=True, **options)


def rmsprop(
    p, grads, lr=0.01, alpha=0.99, eps=1e-8, weight_decay=0.0, momentum=0.0, centered=False
):
    v, m, u = np.zeros_like(p), np.zeros_like(p), np.zeros_like(p)
    for grad in grads:
        g = grad + weight_decay * p
        v = alpha * v + (1 - alpha) * g**2
        m = alpha * m + (1 - alpha) * g
        u = momentum * u + g / (np.sqrt(v - m**2 if centered else v) + eps)
        p = p - lr * u
    return p


def adagrad(
    p, grads, lr=0.01, lr_decay=0.0, weight_decay=0.0, initial_accumulator_value=0.0, eps=1e-10
):
    v = np.full_like(p, initial_accumulator_value)
    for t, grad in enumerate(grads, 1):
        g = grad + weight_decay * p
        v = v + g**2
        p = p - lr / (1 + (t - 1) * lr_decay) * g / (np.sqrt(v) + eps)
    return p


def lion(p, grads, lr=1e-4, beta1=0.9, beta2=0.99, weight_decay=0.0):
    m = np.zeros_like(p)
    for grad in grads:
        c = beta1 * m + (1 - beta1) * grad
        p = p - lr * (np.sign(c) + weight_decay * p)
        m = beta2 * m + (1 - beta2) * grad
    return p


CASES = [
    (optim.SGD, sgd, {}),
    (optim.SGD, sgd, {"lr": 0.3, "weight_decay": 0.2}),
    (optim.SGD, sgd, {"lr": 0.3, "momentum": 0.9}),
    (optim.SGD, sgd, {"lr": 0.3, "momentum": 0.5, "weight_decay": 0.1}),
    (optim.SGD, sgd, {"lr": 0.3, "momentum": 0.8, "weight_decay": 0.1, "nesterov": True}),
    (optim.Adam, adam, {}),
    (optim.Adam, adam, {"lr": 0.1, "beta1": 0.5, "beta2": 0.8, "eps": 0.1, "weight_decay": 0.3}),
    (optim.Adam, adam, {"beta1": 0.0, "beta2": 0.0}),
    (optim.AdamW, adamw, {}),
    (optim.AdamW, adamw, {"lr": 0.1, "beta1": 0.7, "weight_decay": 0.5, "eps": 0.01}),
    (optim.RMSprop, rmsprop, {}),
    (optim.RMSprop, rmsprop, {"lr": 0.1, "alpha": 0.5, "eps": 0.1, "weight_decay": 0.2}),
    (optim.RMSprop, rmsprop, {"momentum": 0.9, "centered": True, "alpha": 0.9}),
    (optim.Adagrad, adagrad, {}),
    (optim.Adagrad, adagrad, {"lr": 0.1, "lr_decay": 0.3, "initial_accumulator_value": 0.5}),
    (optim.Adagrad, adagrad, {"weight_decay": 0.2, "eps": 0.1}),
    (optim.Lion, lion, {}),
    (optim.Lion, lion, {"lr": 0.1, "beta1": 0.5, "beta2": 0.7, "weight_decay": 0.3}),
]


@pytest.mark.parametrize(("kind", "reference", "options"), CASES)
@pytest.mark.parametrize(("dtype", "rtol"), [("float64", 1e-12), ("float32", 2e-5)])
def test_twenty_steps_equal_the_equations(kind, reference, options, dtype, rtol):
    start = np.random.randn(4, 3)
    grads = np.random.randn(20, 4, 3)
    p = tensor(start, dtype=dtype)
    opt = kind([p], **options)
    for grad in grads:
        p.grad = tensor(grad, dtype=dtype)
        opt.step()
    np.testing.assert_allclose(p.numpy(), reference(start, grads, **options), rtol=rtol, atol=rtol)


def test_sgd_keeps_state_only_with_momentum():
    p = tensor([1.0])
    for momentum, expected in [(0.0, 0), (0.9, 1)]:
        opt = optim.SGD([p], momentum=momentum)
        p.grad = tensor([1.0])
        opt.step()
        assert len(opt.u) == expected
        assert ("u.0" in opt.state_dict()) == bool(expected)


def test_plain_sgd_makes_two_tensors_a_step():
    made = []
    p = tensor([1.0])
    opt = optim.SGD([p], lr=0.5)
    p.grad = tensor([1.0])
    original = ndl.Tensor.make_from_op
    try:
        ndl.Tensor.make_from_op = classmethod(
            lambda cls, op, inputs: made.append(op.name) or original(op, inputs)
        )
        opt.step()
    finally:
        ndl.Tensor.make_from_op = original
    assert made == ["mul_scalar", "add"]


def test_adam_state_has_the_names_of_the_contract():
    p = tensor([1.0, 2.0])
    opt = optim.Adam([p])
    assert opt.t == 0
    p.grad = tensor([1.0, -1.0])
    opt.step()
    assert opt.t == 1
    np.testing.assert_allclose(opt.m[p].numpy(), [0.1, -0.1])
    np.testing.assert_allclose(opt.v[p].numpy(), [0.001, 0.001])
    assert not opt.m[p].requires_grad
    assert set(opt.state_dict()) == {
        *("t", "lr.0", "beta1.0", "beta2.0", "eps.0", "weight_decay.0"),
        *("m.0", "v.0", "steps.0"),
    }


def test_centered_rmsprop_of_a_constant_gradient_stays_finite():
    p = tensor([1.0], dtype="float32")
    opt = optim.RMSprop([p], centered=True, alpha=0.5, eps=1e-2)
    for _ in range(100):
        p.grad = tensor([0.3], dtype="float32")
        opt.step()
    assert np.isfinite(p.numpy()).all()


@pytest.mark.parametrize(
    ("kind", "option"),
    [
        (optim.SGD, "momentum"),
        (optim.Adam, "beta1"),
        (optim.AdamW, "beta2"),
        (optim.RMSprop, "alpha"),
        (optim.RMSprop, "momentum"),
        (optim.Lion, "beta1"),
        (optim.Lion, "beta2"),
    ],
)
@pytest.mark.parametrize("value", [-0.1, 1.0, 1.5, float("nan")])
def test_averaging_factors_outside_0_to_1_are_refused(kind, option, value):
    with pytest.raises(OptionError) as caught:
        kind([tensor([1.0])], **{option: value})
    assert str(caught.value) == f"{kind.__name__}: expected {option} in [0, 1), got {value!r}."


@pytest.mark.parametrize("kind", [optim.Adam, optim.AdamW, optim.RMSprop, optim.Adagrad])
def test_negative_eps_is_refused(kind):
    with pytest.raises(OptionError, match="expected eps to be finite and at least 0, got -1e-08"):
        kind([tensor([1.0])], eps=-1e-8)


def test_other_options_outside_their_range_are_refused():
    p = tensor([1.0])
    with pytest.raises(OptionError, match="lr_decay"):
        optim.Adagrad([p], lr_decay=-1.0)
    with pytest.raises(OptionError, match="initial_accumulator_value"):
        optim.Adagrad([p], initial_accumulator_value=-1.0)
    with pytest.raises(OptionError, match="centered to be True or False, got 'yes'"):
        optim.RMSprop([p], centered="yes")
    with pytest.raises(OptionError, match="nesterov to be True or False, got 3"):
        optim.SGD([p], nesterov=3)

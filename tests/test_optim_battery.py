"""One battery, run over every optimiser."""

from __future__ import annotations

import gc

import numpy as np
import pytest
from tensors import tensor

import needle as ndl
from needle import optim
from needle.errors import DTypeError, GradientError, OptionError, ShapeError, StateDictError

OPTIMIZERS = {
    "SGD": (optim.SGD, {"lr": 0.1}),
    "SGD-momentum": (optim.SGD, {"lr": 0.1, "momentum": 0.9}),
    "SGD-nesterov": (optim.SGD, {"lr": 0.1, "momentum": 0.9, "nesterov": True}),
    "Adam": (optim.Adam, {"lr": 0.1}),
    "AdamW": (optim.AdamW, {"lr": 0.1}),
    "RMSprop": (optim.RMSprop, {"lr": 0.02}),
    "RMSprop-all": (optim.RMSprop, {"lr": 0.005, "momentum": 0.5, "centered": True}),
    "Adagrad": (optim.Adagrad, {"lr": 0.5, "initial_accumulator_value": 0.1}),
    "Lion": (optim.Lion, {"lr": 0.02}),
}


@pytest.fixture(params=OPTIMIZERS)
def make(request):
    kind, options = OPTIMIZERS[request.param]
    return lambda params, **more: kind(params, **{**options, **more})


TARGET = np.array([[1.0, -2.0, 0.5], [0.0, 3.0, -1.0]])


def parameters(dtype="float64"):
    return [
        tensor(np.random.randn(2, 3), dtype=dtype),
        tensor(np.random.randn(3), dtype=dtype),
    ]


def loss_of(params):
    weight, bias = params
    target = tensor(TARGET, dtype=weight.dtype, requires_grad=False)
    return ((weight + bias - target) ** 2).sum()


def train(opt, params, steps):
    for _ in range(steps):
        opt.reset_grad()
        loss_of(params).backward()
        opt.step()


def values(params):
    return [p.numpy() for p in params]


def test_finds_the_bottom_of_a_quadratic(make):
    params = parameters()
    opt = make(params, weight_decay=0.0)
    train(opt, params, 400)
    assert loss_of(params).item() < 0.02


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32", "float64"])
def test_parameters_and_state_keep_their_dtype(make, dtype):
    params = parameters(dtype)
    opt = make(params, weight_decay=0.1)
    opt.lr = np.float64(0.01)
    train(opt, params, 3)
    state = opt.state_dict()
    arrays = [value for value in state.values() if isinstance(value, np.ndarray)]
    assert {str(x.dtype) for x in [*params, *arrays]} == {dtype}


def test_gradients_are_left_as_they_are(make):
    params = parameters()
    opt = make(params, weight_decay=0.1)
    loss_of(params).backward()
    grads = [p.grad for p in params]
    before = values(grads)
    opt.step()
    assert all(p.grad is grad for p, grad in zip(params, grads, strict=True))
    for grad, copy in zip(grads, before, strict=True):
        np.testing.assert_array_equal(grad.numpy(), copy)


def test_values_read_before_a_step_do_not_change_with_it(make):
    params = parameters()
    before = [p.detach() for p in params]
    copies = values(before)
    opt = make(params)
    train(opt, params, 2)
    for old, copy, p in zip(before, copies, params, strict=True):
        np.testing.assert_array_equal(old.numpy(), copy)
        assert not np.array_equal(p.numpy(), copy)


def test_live_values_are_steady_over_200_steps_without_the_cyclic_collector(make):
    params = parameters()
    opt = make(params, weight_decay=0.1)
    train(opt, params, 2)
    gc.collect()
    gc.disable()
    try:
        train(opt, params, 1)
        before = ndl.autograd.TENSOR_COUNTER
        train(opt, params, 200)
        assert before == ndl.autograd.TENSOR_COUNTER
    finally:
        gc.enable()


def test_parameters_stay_leaves_that_require_grad(make):
    params = parameters()
    train(make(params), params, 2)
    assert all(p.is_leaf() and p.requires_grad for p in params)


def test_lazy_mode_takes_the_same_steps(make):
    eager, lazy = parameters(), parameters()
    for a, b in zip(eager, lazy, strict=True):
        b.data = a.data
    train(make(eager), eager, 3)
    with ndl.lazy():
        train(make(lazy), lazy, 3)
    for a, b in zip(eager, lazy, strict=True):
        np.testing.assert_array_equal(a.numpy(), b.numpy())


def test_lazy_mode_leaves_no_state_waiting(make):
    params = parameters()
    opt = make(params)
    with ndl.lazy():
        train(opt, params, 2)
        before = ndl.autograd.TENSOR_COUNTER
        train(opt, params, 5)
        assert before == ndl.autograd.TENSOR_COUNTER


def test_parameters_without_gradient_are_skipped_silently_after_the_first_step(make):
    params = parameters()
    opt = make(params, weight_decay=0.1)
    train(opt, params, 1)
    kept = params[1].numpy()
    params[1].grad = None
    opt.step()
    np.testing.assert_array_equal(params[1].numpy(), kept)


def test_skipped_steps_leave_no_trace_in_a_parameters_path(make):
    params, alone = parameters(), parameters()
    alone[1].data = params[1].data
    opt, reference = make(params, weight_decay=0.1), make(alone[1:], weight_decay=0.1)
    for step in range(6):
        grad = tensor(np.random.randn(3))
        params[0].grad = tensor(np.random.randn(2, 3))
        params[1].grad = None if step in (1, 2, 4) else grad
        opt.step()
        if step not in (1, 2, 4):
            alone[1].grad = grad
            reference.step()
    np.testing.assert_array_equal(params[1].numpy(), alone[1].numpy())


def test_weight_decay_pulls_towards_zero_where_the_gradient_is_zero(make):
    p = tensor([2.0, -3.0])
    opt = make([p], weight_decay=0.5)
    for _ in range(3):
        p.grad = tensor([0.0, 0.0])
        opt.step()
    assert (np.abs(p.numpy()) < [2.0, 3.0]).all()
    np.testing.assert_array_equal(np.sign(p.numpy()), [1.0, -1.0])


def test_a_zero_gradient_without_weight_decay_moves_nothing(make):
    p = tensor([2.0, -3.0])
    opt = make([p], weight_decay=0.0)
    p.grad = tensor([0.0, 0.0])
    opt.step()
    np.testing.assert_array_equal(p.numpy(), [2.0, -3.0])


def test_shared_parameters_are_stepped_once(make):
    w, other = tensor([1.0, -2.0]), tensor([1.0, -2.0])
    opt, once = make([w, w]), make([other])
    for p in (w, other):
        p.grad = tensor([0.5, 0.25])
    opt.step()
    once.step()
    assert opt.params == [w]
    np.testing.assert_array_equal(w.numpy(), other.numpy())


def test_scalar_and_empty_parameters_are_stepped(make):
    scalar, empty = tensor(1.0), tensor(np.zeros((0, 3)))
    opt = make([scalar, empty])
    scalar.grad, empty.grad = tensor(2.0), tensor(np.zeros((0, 3)))
    opt.step()
    assert scalar.shape == ()
    assert scalar.item() < 1.0
    assert empty.shape == (0, 3)


def test_learning_rate_zero_moves_nothing(make):
    params = parameters()
    before = values(params)
    train(make(params, lr=0.0), params, 2)
    for p, copy in zip(params, before, strict=True):
        np.testing.assert_array_equal(p.numpy(), copy)


def test_saved_and_restored_training_goes_on_bit_for_bit(make, tmp_path):
    params, again = parameters("float32"), parameters("float32")
    opt = make(params, weight_decay=0.01)
    train(opt, params, 5)
    ndl.save({"p": dict(enumerate_names(params)), "opt": opt.state_dict()}, tmp_path / "s")
    train(opt, params, 5)

    loaded = ndl.load(tmp_path / "s")
    for name, p in enumerate_names(again):
        p.data = loaded[f"p.{name}"]
    fresh = make(again, lr=0.77)
    state = {k[len("opt.") :]: v for k, v in loaded.items() if k.startswith("opt.")}
    fresh.load_state_dict(state)
    assert (fresh.lr, fresh.t) == (opt.lr, 5)
    train(fresh, again, 5)
    for a, b in zip(params, again, strict=True):
        np.testing.assert_array_equal(a.numpy(), b.numpy())


def enumerate_names(params):
    return [(str(i), p) for i, p in enumerate(params)]


def test_state_dict_is_a_snapshot(make):
    params = parameters()
    opt = make(params)
    train(opt, params, 1)
    state = opt.state_dict()
    copies = {key: np.copy(value) for key, value in state.items()}
    train(opt, params, 1)
    for key, value in state.items():
        np.testing.assert_array_equal(value, copies[key])


def test_state_before_the_first_step_has_every_key_and_loads(make):
    params, again = parameters(), parameters()
    for a, b in zip(params, again, strict=True):
        b.data = a.data
    opt, fresh = make(params), make(again)
    fresh.load_state_dict(opt.state_dict())
    train(opt, params, 2)
    train(fresh, again, 2)
    assert opt.state_dict().keys() == make(parameters()).state_dict().keys()
    np.testing.assert_array_equal(params[0].numpy(), again[0].numpy())


def test_loading_names_every_key_at_fault_and_changes_nothing(make):
    params = parameters()
    opt = make(params)
    train(opt, params, 2)
    before = opt.state_dict()
    state = make(parameters()).state_dict()
    del state["t"]
    del state["lr.0"]
    state["head.weight"] = np.zeros(3)
    state["weight_decay.0"] = np.zeros(2)
    with pytest.raises(StateDictError) as caught:
        opt.load_state_dict(state)
    assert str(caught.value) == (
        f"load_state_dict: expected the keys and shapes of this {type(opt).__name__}, got "
        "4 at fault: weight_decay.0: expected a number from 0 on, got float64[2]; t: missing; "
        "lr.0: missing; head.weight: unexpected."
    )
    after = opt.state_dict()
    for key, value in before.items():
        np.testing.assert_array_equal(after[key], value)


def test_loading_state_of_other_shapes_is_refused(make):
    opt = make(parameters())
    state = opt.state_dict()
    arrays = [key for key, value in state.items() if isinstance(value, np.ndarray)]
    for key in arrays:
        with pytest.raises(StateDictError, match=f"{key}: expected float64.*, got float64.7."):
            opt.load_state_dict({**state, key: np.zeros(7)})
    with pytest.raises(StateDictError, match=r"t: expected a whole number from 0 on, got str 'x'"):
        opt.load_state_dict({**state, "t": "x"})


def test_a_gradient_of_another_shape_is_refused_before_anything_changes(make):
    params = parameters()
    before = values(params)
    opt = make([("weight", params[0]), ("bias", params[1])])
    params[0].grad, params[1].grad = tensor(TARGET), tensor([[1.0]])
    with pytest.raises(ShapeError) as caught:
        opt.step()
    assert str(caught.value) == (
        f"{type(opt).__name__}.step: expected a gradient of the shape of bias float64[3], "
        "got float64[1,1]."
    )
    for p, copy in zip(params, before, strict=True):
        np.testing.assert_array_equal(p.numpy(), copy)
    assert opt.t == 0


def test_a_gradient_that_is_no_tensor_is_refused(make):
    (p, _) = parameters()
    opt = make([p])
    p.grad = TARGET
    with pytest.raises(DTypeError, match=r"gradient of parameter 0 float64\[2,3\] to be a Tensor"):
        opt.step()


def test_a_float64_gradient_of_a_float32_parameter_is_cast(make):
    p = tensor([1.0, 2.0], dtype="float32")
    opt = make([p])
    p.grad = tensor([1.0, 2.0])
    opt.step()
    assert p.dtype == np.float32


def test_a_first_step_without_any_gradient_raises(make):
    opt = make(parameters())
    with pytest.raises(GradientError) as caught:
        opt.step()
    assert str(caught.value) == (
        f"{type(opt).__name__}.step: expected gradients, got none on any of 2 parameters "
        "(parameter 0 float64[2,3], ...). Call backward() on the loss first."
    )


def test_the_first_step_warns_once_of_parameters_without_gradient(make):
    weight, bias = parameters()
    unnamed = tensor(np.zeros((4, 5)))
    frozen = tensor([1.0], requires_grad=False)
    opt = make([weight, ("head.bias", bias), unnamed, ("frozen", frozen)])
    weight.grad = tensor(TARGET)
    with pytest.warns(UserWarning) as caught:
        opt.step()
    assert [str(w.message) for w in caught] == [
        f"{type(opt).__name__}.step: expected a gradient for every parameter, got none for "
        "head.bias float64[3], parameter 2 float64[4,5]. They stay as they are; does the loss "
        "depend on them?"
    ]
    assert caught[0].filename == __file__
    opt.step()  # a second warning would be an error here
    np.testing.assert_array_equal(unnamed.numpy(), np.zeros((4, 5)))


@pytest.mark.parametrize("value", [-0.1, float("nan"), float("inf"), "0.1", None, 1j])
def test_learning_rates_that_make_no_sense_are_refused(make, value):
    with pytest.raises(OptionError, match="expected lr to be finite and at least 0, got"):
        make(parameters(), lr=value)


def test_negative_weight_decay_is_refused(make):
    with pytest.raises(OptionError, match=r"weight_decay to be finite and at least 0, got -1"):
        make(parameters(), weight_decay=-1)


def test_no_parameters_is_refused(make):
    with pytest.raises(OptionError, match="expected at least one parameter, got none"):
        make([])


def test_what_is_no_tensor_is_refused_with_its_position(make):
    with pytest.raises(DTypeError, match=r"Tensors, got NoneType None at position 1\."):
        make([tensor([1.0]), None])
    with pytest.raises(DTypeError, match=r"got float64\[2\]\. Of a single Tensor, write"):
        make(tensor([1.0, 2.0]))
    with pytest.raises(DTypeError, match="expected an iterable of Tensors, got int 3"):
        make(3)
    with pytest.raises(DTypeError, match=r"expected floating parameters, got parameter 0 int64"):
        make([tensor([1, 2])])


def test_results_of_ops_are_refused_as_parameters(make):
    with pytest.raises(GradientError, match=r"parameter 0 float64\[1\], the result of mul_scalar"):
        make([tensor([1.0]) * 0.1])

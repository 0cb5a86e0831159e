"""Parameter groups, options as attributes, the base class."""

from __future__ import annotations

import numpy as np
import pytest
from tensors import tensor

import needle as ndl
from needle import nn, optim
from needle.errors import DeviceError, DTypeError, OptionError, StateDictError


def two():
    return tensor([1.0, 1.0]), tensor([1.0])


def with_grads(*params):
    for p in params:
        p.grad = ndl.init.ones_like(p)


def test_groups_take_their_own_options_and_the_defaults():
    a, b = two()
    opt = optim.SGD([{"params": [a], "lr": 0.5}, {"params": iter([b])}], lr=0.1, momentum=0.9)
    assert [group["lr"] for group in opt.param_groups] == [0.5, 0.1]
    assert [group["momentum"] for group in opt.param_groups] == [0.9, 0.9]
    assert opt.params == [a, b]
    with_grads(a, b)
    opt.step()
    np.testing.assert_allclose(a.numpy(), 1 - 0.5 * 0.1)
    np.testing.assert_allclose(b.numpy(), 1 - 0.1 * 0.1)


def test_lr_reads_the_first_group_and_sets_all():
    a, b = two()
    opt = optim.Adam([{"params": [a], "lr": 0.5}, {"params": [b]}], lr=0.1)
    assert opt.lr == 0.5
    opt.lr = 0.25
    assert [group["lr"] for group in opt.param_groups] == [0.25, 0.25]


def test_options_read_and_set_as_attributes_are_checked():
    opt = optim.Adam([tensor([1.0])], beta1=0.8)
    assert (opt.beta1, opt.weight_decay) == (0.8, 0.0)
    with pytest.raises(OptionError, match=r"Adam: expected beta1 in \[0, 1\), got 1\.0\."):
        opt.beta1 = 1.0
    assert opt.beta1 == 0.8


def test_a_generator_of_parameters_is_used_up_once():
    a, b = two()
    opt = optim.SGD(p for p in (a, b, a))
    assert opt.params == [a, b]


def test_a_module_gives_its_parameters_and_their_names():
    model = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1))
    opt = optim.SGD(model)
    assert opt.params == list(model.parameters())
    names = [name for name, _ in model.named_parameters()]
    with_grads(opt.params[0])
    with pytest.warns(UserWarning) as caught:
        opt.step()
    assert all(f"{name} float32[" in str(caught[0].message) for name in names[1:])


def test_reset_grad_and_zero_grad_drop_every_gradient():
    a, b = two()
    opt = optim.SGD([a, b])
    for method in (opt.reset_grad, opt.zero_grad):
        with_grads(a, b)
        method()
        assert a.grad is None
        assert b.grad is None


def test_misspelt_group_options_are_refused():
    a, b = two()
    with pytest.raises(OptionError) as caught:
        optim.SGD([{"params": [a], "learning_rate": 0.5}, {"params": [b]}])
    assert str(caught.value) == (
        "SGD: expected group options among lr, momentum, weight_decay, nesterov, got learning_rate."
    )


def test_group_options_are_checked_like_the_constructors():
    with pytest.raises(OptionError, match="expected lr to be finite and at least 0, got -1"):
        optim.SGD([{"params": [tensor([1.0])], "lr": -1}])


def test_groups_and_tensors_do_not_mix():
    a, b = two()
    with pytest.raises(OptionError, match="expected groups as dicts with 'params', got"):
        optim.SGD([{"params": [a]}, b])
    with pytest.raises(OptionError, match="expected groups as dicts with 'params', got"):
        optim.SGD([{"lr": 0.1}])


def test_a_parameter_in_two_groups_is_refused():
    a, b = two()
    with pytest.raises(OptionError) as caught:
        optim.SGD([{"params": [a]}, {"params": [b, ("tied", a)]}])
    expected = "SGD: expected each parameter in one group, got tied float64[2] in two."
    assert str(caught.value) == expected


def test_groups_may_be_empty_but_not_all():
    a, _ = two()
    assert optim.SGD([{"params": []}, {"params": [a]}]).params == [a]
    with pytest.raises(OptionError, match="at least one parameter"):
        optim.SGD([{"params": []}, {"params": []}])


def test_wrong_types_in_a_group_are_named():
    with pytest.raises(DTypeError, match="SGD: expected parameters to be Tensors, got str 'w'"):
        optim.SGD([{"params": ["w"]}])


def test_group_state_is_keyed_by_parameter_and_group_number():
    a, b = two()
    opt = optim.SGD([{"params": [a]}, {"params": [b], "momentum": 0.5}], lr=0.1)
    with_grads(a, b)
    opt.step()
    state = opt.state_dict()
    assert {"lr.0", "lr.1", "momentum.1", "u.1"} <= set(state)
    assert "u.0" not in state
    np.testing.assert_allclose(state["u.1"], [0.5])


def test_options_come_back_with_the_state():
    (a, _) = two()
    saved = optim.RMSprop([a], lr=0.3, alpha=0.5, momentum=0.25, centered=True)
    with_grads(a)
    saved.step()
    fresh = optim.RMSprop([tensor(a.numpy())])
    fresh.load_state_dict(saved.state_dict())
    assert (fresh.lr, fresh.alpha, fresh.momentum, fresh.centered) == (0.3, 0.5, 0.25, True)
    assert isinstance(fresh.centered, bool)
    np.testing.assert_array_equal(fresh.u[fresh.params[0]].numpy(), saved.u[a].numpy())


def test_options_out_of_range_in_a_state_are_refused_and_change_nothing():
    opt = optim.SGD([tensor([1.0])], lr=0.1)
    with pytest.raises(StateDictError, match="load_state_dict: SGD: expected lr to be finite"):
        opt.load_state_dict({**opt.state_dict(), "lr.0": -1.0})
    assert opt.lr == 0.1


def test_clip_grad_norm_is_a_method_too():
    a, b = two()
    opt = optim.SGD([a, b])
    a.grad, b.grad = tensor([3.0, 0.0]), tensor([4.0])
    assert float(opt.clip_grad_norm()) == 5.0
    np.testing.assert_allclose(a.grad.numpy(), [0.15, 0.0], rtol=1e-6)


def test_repr_shows_the_options():
    opt = optim.SGD([tensor([1.0])], lr=0.5)
    assert repr(opt) == ("SGD(params=1, lr=0.5, momentum=0.0, weight_decay=0.0, nesterov=False)")


def test_the_base_class_has_no_step():
    p = tensor([1.0])
    opt = optim.Optimizer([p])
    with_grads(p)
    with pytest.raises(NotImplementedError, match="Optimizer: neither step nor update is written"):
        opt.step()
    with pytest.raises(NotImplementedError, match="update is not written"):
        opt.update(p, p.grad, opt.param_groups[0])
    with pytest.raises(AttributeError, match="has no lr"):
        _ = opt.lr


def test_an_optimiser_of_ones_own_may_write_step():
    class Descent(optim.Optimizer):
        def __init__(self, params, lr):
            super().__init__(params)
            self.lr = lr

        def step(self):
            for p in self.params:
                p.data = p.data - self.lr * p.grad.data

    p = tensor([1.0])
    opt = Descent([p], lr=0.25)
    with_grads(p)
    opt.step()
    assert (p.item(), opt.lr) == (0.75, 0.25)
    opt.reset_grad()
    assert p.grad is None


def test_an_optimiser_of_ones_own_with_state_saves_and_loads():
    class Averaged(optim.Optimizer):
        factor = optim.Option(below=1)

        def __init__(self, params, lr=0.1, factor=0.5):
            super().__init__(params, lr=lr, factor=factor)
            self.mean = optim.State()

        def slots(self, group):
            return ("mean",)

        def update(self, p, grad, group):
            mean = self.mean[p] = self.mean[p] * group["factor"] + grad
            return p - mean * group["lr"]

    p = tensor([1.0])
    opt = Averaged([p])
    with_grads(p)
    opt.step()
    assert opt.state_dict() == {"t": 1, "lr.0": 0.1, "factor.0": 0.5, "mean.0": np.array([1.0])}
    with pytest.raises(OptionError, match="Averaged: expected factor in"):
        Averaged([p], factor=2)


IMPOSSIBLE = [{"t": -5}, {"t": 1.5}, {"steps.0": -1}, {"lr.0": -1.0}, {"lr.0": np.nan}]


@pytest.mark.parametrize("change", IMPOSSIBLE, ids=str)
def test_a_state_that_cannot_be_is_refused_and_changes_nothing(change):
    a, _ = two()
    opt = optim.Adam([a])
    with_grads(a)
    opt.step()
    before = opt.state_dict()
    (name,) = change
    with pytest.raises(StateDictError, match=name.partition(".")[0]):
        opt.load_state_dict({**before, **change})
    assert {key: np.asarray(value).tolist() for key, value in opt.state_dict().items()} == {
        key: np.asarray(value).tolist() for key, value in before.items()
    }


@pytest.mark.parametrize("state", [[1], None, 3, "t"])
def test_a_state_that_is_no_dict_is_refused(state):
    with pytest.raises(StateDictError, match="load_state_dict: expected a dict, got"):
        optim.SGD([tensor([1.0])]).load_state_dict(state)


def test_ragged_lists_in_a_state_are_refused():
    opt = optim.SGD([tensor([1.0])])
    with pytest.raises(StateDictError, match=r"lr\.0: expected a number"):
        opt.load_state_dict({**opt.state_dict(), "lr.0": [[1], [1, 2]]})


def test_a_group_can_be_added_with_options_of_its_own():
    a, b = two()
    opt = optim.Adam([a], lr=0.1)
    with_grads(a)
    opt.step()
    opt.add_param_group({"params": [b], "lr": 0.5})
    assert [(group["lr"], group["beta1"]) for group in opt.param_groups] == [(0.1, 0.9), (0.5, 0.9)]
    with_grads(a, b)
    opt.step()
    np.testing.assert_allclose(b.numpy(), 0.5, atol=1e-6)
    assert {"lr.1", "m.1"} <= opt.state_dict().keys()


@pytest.mark.parametrize("group", ["again", "foreign option", "no group"])
def test_a_group_that_cannot_be_added_changes_nothing(group):
    a, b = two()
    opt = optim.SGD([a])
    groups = {"again": {"params": [a]}, "foreign option": {"params": [b], "x": 1}, "no group": [b]}
    with pytest.raises(OptionError, match=r"SGD: expected (each parameter|group)"):
        opt.add_param_group(groups[group])
    assert opt.params == [a]


def test_a_schedule_made_before_a_group_was_added_says_so():
    a, b = two()
    opt = optim.SGD([a])
    schedule = optim.StepLR(opt, 1)
    opt.add_param_group({"params": [b]})
    with pytest.raises(
        OptionError, match="StepLR: expected 1 parameter groups, as when it was made, got 2"
    ):
        schedule.step()


@pytest.mark.nd_mode
@pytest.mark.parametrize("optimizer", [optim.Adam, lambda ps: optim.SGD(ps, momentum=0.9)])
def test_a_model_that_was_moved_after_a_step_is_named(optimizer):
    model = nn.Linear(2, 1)
    opt = optimizer(model.named_parameters())
    with_grads(*model.parameters())
    opt.step()
    model.to(ndl.cpu_numpy())
    with_grads(*model.parameters())
    with pytest.raises(DeviceError) as caught:
        opt.step()
    assert str(caught.value).endswith(
        ".step: expected weight float32[2,1] where it was at the last step, in cpu(), got it in "
        "cpu_numpy(). Make the optimiser after moving the model."
    )


def test_a_model_that_was_cast_after_a_step_is_named():
    model = nn.Linear(2, 1)
    opt = optim.Adam(model.named_parameters())
    with_grads(*model.parameters())
    opt.step()
    model.to("float16")
    with_grads(*model.parameters())
    with pytest.raises(DTypeError, match=r"in float32, got it in float16\. Make the optimiser"):
        opt.step()


def test_an_error_of_an_update_that_is_about_something_else_stays():
    class Wrong(optim.Optimizer):
        def update(self, p, grad, group):
            return p.numpy()

    (p, _) = two()
    with_grads(p)
    with pytest.raises(DTypeError, match=r"^data: expected a Tensor"):
        Wrong([p], lr=0.1).step()

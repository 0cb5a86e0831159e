"""Optimisers, schedules, clipping and averages against PyTorch's."""

from __future__ import annotations

import numpy as np
import pytest
from tensors import tensor

import needle as ndl
from needle import optim

torch = pytest.importorskip("torch")

# ours, PyTorch's, our options, PyTorch's options
ADAM = {"lr": 0.05, "beta1": 0.8, "beta2": 0.95, "eps": 1e-3, "weight_decay": 0.1}
TORCH_ADAM = {"lr": 0.05, "betas": (0.8, 0.95), "eps": 1e-3, "weight_decay": 0.1}
RMSPROP = {"lr": 0.02, "alpha": 0.9, "eps": 1e-4, "weight_decay": 0.1}
ADAGRAD = {"lr": 0.1, "lr_decay": 0.1, "weight_decay": 0.1, "initial_accumulator_value": 0.5}
CASES = {
    "sgd": ("SGD", {"lr": 0.1}, {"lr": 0.1}),
    "sgd-decay": ("SGD", {"lr": 0.1, "weight_decay": 0.2}, {"lr": 0.1, "weight_decay": 0.2}),
    # averaging gradients instead of summing them is a learning rate smaller by 1 - momentum
    "sgd-momentum": (
        "SGD",
        {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.1},
        {"lr": 0.01, "momentum": 0.9, "weight_decay": 0.1},
    ),
    "sgd-nesterov": (
        "SGD",
        {"lr": 0.1, "momentum": 0.8, "nesterov": True},
        {"lr": 0.02, "momentum": 0.8, "nesterov": True},
    ),
    "adam": ("Adam", {"lr": 0.01}, {"lr": 0.01}),
    "adam-all": ("Adam", ADAM, TORCH_ADAM),
    "adamw": ("AdamW", {"lr": 0.01}, {"lr": 0.01}),
    "adamw-all": ("AdamW", ADAM, TORCH_ADAM),
    "rmsprop": ("RMSprop", {}, {}),
    "rmsprop-decay": ("RMSprop", RMSPROP, RMSPROP),
    "rmsprop-momentum": ("RMSprop", {**RMSPROP, "momentum": 0.9}, {**RMSPROP, "momentum": 0.9}),
    "rmsprop-centered": ("RMSprop", {**RMSPROP, "centered": True}, {**RMSPROP, "centered": True}),
    "rmsprop-all": (
        "RMSprop",
        {**RMSPROP, "centered": True, "momentum": 0.5},
        {**RMSPROP, "centered": True, "momentum": 0.5},
    ),
    "adagrad": ("Adagrad", {}, {}),
    "adagrad-all": ("Adagrad", ADAGRAD, ADAGRAD),
}


def pair(dtype="float64"):
    """The same parameters, ours and PyTorch's."""
    arrays = [np.random.randn(4, 3).astype(dtype), np.random.randn(3).astype(dtype)]
    ours = [tensor(array) for array in arrays]
    return ours, [torch.tensor(array, requires_grad=True) for array in arrays]


def set_grads(ours, theirs, skip=()):
    for i, (p, q) in enumerate(zip(ours, theirs, strict=True)):
        grad = np.random.randn(*p.shape).astype(p.dtype)
        p.grad = None if i in skip else tensor(grad)
        q.grad = None if i in skip else torch.tensor(grad)


def assert_same(ours, theirs, rtol=1e-6):
    for p, q in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(p.numpy(), q.detach().numpy(), rtol=rtol, atol=rtol * 1e-2)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize(("dtype", "rtol"), [("float64", 1e-9), ("float32", 1e-4)])
def test_twenty_steps(case, dtype, rtol):
    name, options, torch_options = CASES[case]
    ours, theirs = pair(dtype)
    opt = getattr(optim, name)(ours, **options)
    torch_opt = getattr(torch.optim, name)(theirs, **torch_options)
    for _ in range(20):
        set_grads(ours, theirs)
        opt.step()
        torch_opt.step()
    assert_same(ours, theirs, rtol)


@pytest.mark.parametrize("case", [case for case in CASES if not case.startswith("sgd-")])
def test_steps_without_some_gradients(case):
    name, options, torch_options = CASES[case]
    ours, theirs = pair()
    opt = getattr(optim, name)(ours, **options)
    torch_opt = getattr(torch.optim, name)(theirs, **torch_options)
    for step in range(10):
        set_grads(ours, theirs, skip={1} if step in (2, 3, 6) else ())
        opt.step()
        torch_opt.step()
    assert_same(ours, theirs)


def test_groups_with_their_own_options():
    ours, theirs = pair()
    extra = {"lr": 0.3, "weight_decay": 0.5}
    opt = optim.AdamW([{"params": ours[:1]}, {"params": ours[1:], **extra}], lr=0.1)
    torch_opt = torch.optim.AdamW([{"params": theirs[:1]}, {"params": theirs[1:], **extra}], lr=0.1)
    for _ in range(5):
        set_grads(ours, theirs)
        opt.step()
        torch_opt.step()
    assert_same(ours, theirs)


def halves(step):
    return 0.5**step


SCHEDULES = {
    "step": ("StepLR", {"step_size": 3, "gamma": 0.5}),
    "multi_step": ("MultiStepLR", {"milestones": [2, 5, 5, 11], "gamma": 0.3}),
    "exponential": ("ExponentialLR", {"gamma": 0.9}),
    "cosine": ("CosineAnnealingLR", {"T_max": 12, "eta_min": 0.02}),
    "cosine-beyond": ("CosineAnnealingLR", {"T_max": 7}),
    "lambda": ("LambdaLR", {"lr_lambda": halves}),
    "one_cycle": ("OneCycleLR", {"max_lr": 0.7, "total_steps": 20}),
    "one_cycle-all": (
        "OneCycleLR",
        {
            "max_lr": [0.7, 0.2],
            "total_steps": 25,
            "pct_start": 0.45,
            "div_factor": 10.0,
            "final_div_factor": 50.0,
        },
    ),
}


def two_groups(tensor, kind):
    return kind([{"params": [tensor([1.0])], "lr": 0.3}, {"params": [tensor([2.0])]}], lr=0.05)


def optimizer_pair():
    theirs = two_groups(lambda x: torch.tensor(x, requires_grad=True), torch.optim.SGD)
    return two_groups(ndl.Tensor, optim.SGD), theirs


def assert_same_rates(opt, schedule, torch_opt, torch_schedule, steps=20):
    for step in range(steps + 1):
        rates = [group["lr"] for group in opt.param_groups]
        expected = [group["lr"] for group in torch_opt.param_groups]
        np.testing.assert_allclose(rates, expected, rtol=1e-9, atol=1e-15, err_msg=f"step {step}")
        if step < steps:
            torch_opt.step()  # PyTorch warns of schedules that run ahead of their optimiser
            schedule.step()
            torch_schedule.step()


@pytest.mark.parametrize("case", SCHEDULES)
def test_schedules(case):
    name, options = SCHEDULES[case]
    opt, torch_opt = optimizer_pair()
    # PyTorch's one-cycle cycles the momentum too unless told not to
    more = {"cycle_momentum": False} if name == "OneCycleLR" else {}
    schedule = getattr(optim, name)(opt, **options)
    torch_schedule = getattr(torch.optim.lr_scheduler, name)(torch_opt, **options, **more)
    assert_same_rates(opt, schedule, torch_opt, torch_schedule)


def test_warm_up_and_sequence():
    from torch.optim import lr_scheduler

    opt, torch_opt = optimizer_pair()
    warm = optim.LinearWarmup(opt, 5, start_factor=0.25)
    schedule = optim.SequentialLR(opt, [warm, optim.CosineAnnealingLR(opt, 30)], [6])
    torch_warm = lr_scheduler.LinearLR(torch_opt, start_factor=0.25, total_iters=5)
    torch_cosine = lr_scheduler.CosineAnnealingLR(torch_opt, 30)
    torch_schedule = lr_scheduler.SequentialLR(torch_opt, [torch_warm, torch_cosine], [6])
    assert_same_rates(opt, schedule, torch_opt, torch_schedule)


@pytest.mark.parametrize("max_norm", [0.1, 2.0, 1000.0])
def test_clipping_by_norm(max_norm):
    ours, theirs = pair("float32")
    set_grads(ours, theirs)
    norm = optim.clip_grad_norm(ours, max_norm)
    torch_norm = torch.nn.utils.clip_grad_norm_(theirs, max_norm)
    np.testing.assert_allclose(float(norm), float(torch_norm), rtol=1e-6)
    assert_same([p.grad for p in ours], [p.grad for p in theirs])


def test_clipping_by_value():
    ours, theirs = pair()
    set_grads(ours, theirs)
    optim.clip_grad_value(ours, 0.5)
    torch.nn.utils.clip_grad_value_(theirs, 0.5)
    assert_same([p.grad for p in ours], [p.grad for p in theirs])


def test_moving_average():
    from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

    model = torch.nn.Linear(3, 4, bias=False).double()
    weight = tensor(model.weight.detach().numpy())
    ema = optim.EMA([weight], decay=0.9)
    averaged = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.9))
    averaged.update_parameters(model)  # the first call copies, as our constructor does
    for _ in range(10):
        value = np.random.randn(4, 3)
        weight.data = tensor(value)
        with torch.no_grad():
            model.weight.copy_(torch.tensor(value))
        ema.update()
        averaged.update_parameters(model)
    assert_same(ema.shadow, [averaged.module.weight])

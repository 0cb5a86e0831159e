"""Learning-rate schedules: their formulas, composition, saving, bad input."""

from __future__ import annotations

import math

import numpy as np
import pytest
from tensors import tensor

import needle as ndl
from needle import optim
from needle.errors import DTypeError, OptionError, StateDictError


def optimizer(lr=1.0, groups=1):
    return optim.SGD([{"params": [tensor([1.0])]} for _ in range(groups)], lr=lr)


def rates(schedule, steps):
    """The learning rate before each of `steps` steps, as the optimiser sees it."""
    seen = []
    for _ in range(steps):
        seen.append(schedule.optimizer.lr)
        schedule.step()
    return seen


SCHEDULES = {
    "StepLR": lambda opt: optim.StepLR(opt, 3, gamma=0.5),
    "MultiStepLR": lambda opt: optim.MultiStepLR(opt, [2, 5, 5], gamma=0.5),
    "ExponentialLR": lambda opt: optim.ExponentialLR(opt, 0.9),
    "CosineAnnealingLR": lambda opt: optim.CosineAnnealingLR(opt, 7, eta_min=0.01),
    "LambdaLR": lambda opt: optim.LambdaLR(opt, lambda step: 1 / (1 + step)),
    "LinearWarmup": lambda opt: optim.LinearWarmup(opt, 4),
    "LinearWarmup-after": lambda opt: optim.LinearWarmup(
        opt, 4, after=optim.CosineAnnealingLR(opt, 5)
    ),
    "SequentialLR": lambda opt: optim.SequentialLR(
        opt,
        [optim.LinearWarmup(opt, 3), optim.StepLR(opt, 2), optim.ExponentialLR(opt, 0.9)],
        [3, 6],
    ),
    "WarmupCosine": lambda opt: optim.WarmupCosine(opt, 3, 8, eta_min=0.1),
    "OneCycleLR": lambda opt: optim.OneCycleLR(opt, 0.5, 12),
}


@pytest.fixture(params=SCHEDULES)
def make(request):
    return SCHEDULES[request.param]


def test_the_first_rate_is_set_when_the_schedule_is_made(make):
    schedule = make(optimizer(0.3))
    assert schedule.last_step == 0
    assert schedule.optimizer.lr == schedule.get_lr()[0] == schedule.lr_at(0, 0)


def test_each_step_sets_the_rate_of_the_formula(make):
    schedule = make(optimizer(0.3))
    assert rates(schedule, 10) == [schedule.lr_at(step, 0) for step in range(10)]
    assert schedule.last_step == 10


def test_rates_are_plain_floats(make):
    schedule = make(optimizer(np.float32(0.5)))
    schedule.step()
    assert {type(lr) for lr in schedule.get_lr()} == {float}


def test_saved_and_restored_schedules_go_on_bit_for_bit(make, tmp_path):
    def train(opt, schedule, steps):
        for _ in range(steps):
            (p,) = opt.params
            p.grad = p * 2 + 1
            opt.step()
            schedule.step()

    opt = optim.SGD([tensor([1.0])], lr=0.3)
    schedule = make(opt)
    train(opt, schedule, 5)
    ndl.save(schedule, tmp_path / "schedule")
    p = tensor(opt.params[0].numpy())
    train(opt, schedule, 5)

    fresh = optim.SGD([p], lr=0.9)
    resumed = make(fresh)
    resumed.load_state_dict(ndl.load(tmp_path / "schedule"))
    train(fresh, resumed, 5)
    assert resumed.get_lr() == schedule.get_lr()
    np.testing.assert_array_equal(p.numpy(), opt.params[0].numpy())


def test_every_group_follows_from_its_own_base():
    opt = optim.SGD([{"params": [tensor([1.0])], "lr": lr} for lr in (1.0, 0.1)])
    schedule = optim.StepLR(opt, 1, gamma=0.5)
    schedule.step()
    assert [group["lr"] for group in opt.param_groups] == schedule.get_lr() == [0.5, 0.05]


def test_step_lr_falls_at_every_step_size():
    assert rates(SCHEDULES["StepLR"](optimizer()), 7) == [1, 1, 1, 0.5, 0.5, 0.5, 0.25]


def test_multi_step_lr_falls_at_milestones_twice_where_named_twice():
    assert rates(SCHEDULES["MultiStepLR"](optimizer()), 6) == [1, 1, 0.5, 0.5, 0.5, 0.125]


def test_cosine_runs_from_base_to_eta_min_and_back():
    schedule = optim.CosineAnnealingLR(optimizer(2.0), T_max=4, eta_min=1.0)
    half = math.sqrt(0.5)
    expected = [2, 1.5 + half / 2, 1.5, 1.5 - half / 2, 1, 1.5 - half / 2, 1.5]
    np.testing.assert_allclose(rates(schedule, 7), expected)


def test_linear_warmup_rises_to_base_and_stays():
    schedule = optim.LinearWarmup(optimizer(2.0), 4, start_factor=0.5)
    assert rates(schedule, 6) == [1.0, 1.25, 1.5, 1.75, 2.0, 2.0]


def test_linear_warmup_of_no_steps_is_the_schedule_after_it():
    opt = optimizer()
    schedule = optim.LinearWarmup(opt, 0, after=optim.ExponentialLR(opt, 0.5))
    assert rates(schedule, 3) == [1.0, 0.5, 0.25]


def test_linear_warmup_meets_the_schedule_after_it_without_a_jump():
    opt = optimizer()
    schedule = optim.LinearWarmup(opt, 4, 0.0, after=optim.OneCycleLR(opt, 1.0, 10, div_factor=2.0))
    np.testing.assert_allclose(rates(schedule, 5), [0, 0.125, 0.25, 0.375, 0.5])


def test_sequential_starts_each_schedule_at_its_own_step_0():
    opt = optimizer()
    parts = [optim.ExponentialLR(opt, 0.5), optim.StepLR(opt, 2, gamma=0.1)]
    schedule = optim.SequentialLR(opt, parts, [2])
    np.testing.assert_allclose(rates(schedule, 6), [1, 0.5, 1, 1, 0.1, 0.1])


def test_warmup_cosine_keeps_eta_min_at_the_end():
    schedule = optim.WarmupCosine(optimizer(), 2, 4, start_factor=0.5, eta_min=0.2)
    np.testing.assert_allclose(rates(schedule, 7), [0.5, 0.75, 1, 0.6, 0.2, 0.2, 0.2])


def test_one_cycle_passes_its_three_corners():
    seen = rates(optim.OneCycleLR(optimizer(7.0), 1.0, 10, final_div_factor=100.0), 10)
    np.testing.assert_allclose([seen[0], seen[2], seen[9]], [1 / 25, 1.0, 1 / 2500])
    assert max(seen) == seen[2]


@pytest.mark.parametrize("pct_start", [0.0, 0.1, 1.0])
def test_one_cycle_with_its_top_at_either_end(pct_start):
    seen = rates(optim.OneCycleLR(optimizer(), 1.0, 10, pct_start=pct_start), 10)
    assert all(0 < lr <= 1 for lr in seen)


def test_one_cycle_takes_a_top_for_each_group():
    schedule = optim.OneCycleLR(optimizer(groups=2), [1.0, 2.0], 10, pct_start=0.5)
    for _ in range(4):
        schedule.step()
    np.testing.assert_allclose(schedule.get_lr(), [1.0, 2.0])


def test_one_cycle_refuses_steps_beyond_its_total():
    schedule = optim.OneCycleLR(optimizer(), 1.0, 3)
    rates(schedule, 3)
    before = schedule.state_dict(), schedule.optimizer.lr
    with pytest.raises(OptionError, match="expected at most total_steps=3 steps, got 4"):
        schedule.step()
    assert (schedule.state_dict(), schedule.optimizer.lr) == before


def test_lambda_lr_takes_a_function_for_each_group():
    schedule = optim.LambdaLR(optimizer(groups=2), [lambda step: 1.0, lambda step: 0.5**step])
    schedule.step()
    schedule.step()
    assert schedule.get_lr() == [1.0, 0.25]


def test_a_second_schedule_starts_from_the_base_of_the_first():
    opt = optimizer()
    rates(optim.ExponentialLR(opt, 0.5), 3)
    assert optim.StepLR(opt, 10).base_lrs == [1.0]


def test_a_rate_assigned_by_hand_is_where_the_next_schedule_starts():
    opt = optimizer()
    rates(optim.ExponentialLR(opt, 0.5), 3)
    opt.lr = 0.25
    assert optim.StepLR(opt, 10).base_lrs == [0.25]


def test_the_optimisers_state_does_not_change_its_keys_with_a_schedule():
    opt = optimizer()
    keys = opt.state_dict().keys()
    optim.StepLR(opt, 10)
    assert opt.state_dict().keys() == keys


def test_loading_names_the_keys_at_fault_and_changes_nothing():
    schedule = optim.StepLR(optimizer(), 1)
    schedule.step()
    with pytest.raises(StateDictError) as caught:
        schedule.load_state_dict({"last_step": 7, "base_lr.1": 0.5})
    assert str(caught.value) == (
        "load_state_dict: expected the keys and shapes of this StepLR, got 2 at fault: "
        "base_lr.0: missing; base_lr.1: unexpected."
    )
    assert schedule.last_step == 1
    with pytest.raises(StateDictError, match="expected a dict, got int 3"):
        schedule.load_state_dict(3)
    with pytest.raises(
        StateDictError, match="last_step: expected a whole number from 0 on, got float nan"
    ):
        schedule.load_state_dict({**schedule.state_dict(), "last_step": math.nan})


BAD = {
    "StepLR: expected step_size to be an int from 1 on, got 0": lambda o: optim.StepLR(o, 0),
    "StepLR: expected step_size to be an int from 1 on, got 2.5": lambda o: optim.StepLR(o, 2.5),
    "StepLR: expected gamma to be finite and at least 0, got -1": lambda o: optim.StepLR(o, 1, -1),
    "MultiStepLR: expected milestones in ascending order, got [3, 2]": lambda o: optim.MultiStepLR(
        o, [3, 2]
    ),
    "MultiStepLR: expected each milestone to be an int from 0 on, got 'x'": (
        lambda o: optim.MultiStepLR(o, ["x"])
    ),
    "CosineAnnealingLR: expected T_max to be an int from 1 on, got 0": (
        lambda o: optim.CosineAnnealingLR(o, 0)
    ),
    "LinearWarmup: expected warmup_steps to be an int from 0 on, got -1": (
        lambda o: optim.LinearWarmup(o, -1)
    ),
    "WarmupCosine: expected total_steps to be an int from 6 on, got 5": (
        lambda o: optim.WarmupCosine(o, 5, 5)
    ),
    "OneCycleLR: expected pct_start in [0, 1] and factors above 0, got pct_start 1.5": (
        lambda o: optim.OneCycleLR(o, 1.0, 10, pct_start=1.5)
    ),
    "OneCycleLR: expected 1 of max_lr, one per group, got 2": (
        lambda o: optim.OneCycleLR(o, [1.0, 2.0], 10)
    ),
    "SequentialLR: expected one milestone fewer than schedules, got 0 milestones and 2": (
        lambda o: optim.SequentialLR(o, [optim.StepLR(o, 1), optim.StepLR(o, 1)], [])
    ),
    "SequentialLR: expected at least one schedule, got none": (
        lambda o: optim.SequentialLR(o, [], [])
    ),
    "LinearWarmup: expected schedules of one optimizer, got one of another": (
        lambda o: optim.LinearWarmup(o, 1, after=optim.StepLR(optimizer(), 1))
    ),
}


@pytest.mark.parametrize("message", BAD)
def test_bad_options_are_refused(message):
    with pytest.raises(OptionError) as caught:
        BAD[message](optimizer())
    assert str(caught.value).startswith(message)


def test_wrong_types_are_refused():
    with pytest.raises(DTypeError, match=r"StepLR: expected an Optimizer, got float 0\.1"):
        optim.StepLR(0.1, 3)
    with pytest.raises(DTypeError, match=r"LinearWarmup: expected schedules, got float 0\.1"):
        optim.LinearWarmup(optimizer(), 3, after=0.1)


def test_a_schedule_of_ones_own_writes_lr_at():
    class Inverse(optim.Schedule):
        def lr_at(self, step, group):
            return self.base_lrs[group] / (1 + step)

    assert rates(Inverse(optimizer()), 3) == [1.0, 0.5, 1 / 3]
    with pytest.raises(NotImplementedError, match="Schedule: lr_at is not written"):
        optim.Schedule(optimizer())


@pytest.mark.parametrize(
    "change",
    [{"last_step": -1}, {"last_step": 1.5}, {"base_lr.0": -1.0}, {"base_lr.0": math.inf}],
    ids=str,
)
def test_a_state_that_cannot_be_is_refused_and_changes_nothing(change):
    schedule = optim.LinearWarmup(optimizer(), 4)
    schedule.step()
    before, lr = schedule.state_dict(), schedule.optimizer.lr
    with pytest.raises(StateDictError, match=next(iter(change))):
        schedule.load_state_dict({**before, **change})
    assert schedule.state_dict() == before
    assert schedule.optimizer.lr == lr


def test_a_step_beyond_the_schedule_changes_nothing():
    schedule = optim.OneCycleLR(optimizer(), 1.0, total_steps=5)
    before, lr = schedule.state_dict(), schedule.optimizer.lr
    with pytest.raises(StateDictError, match="expected at most total_steps=5 steps, got 6"):
        schedule.load_state_dict({"last_step": 6, "base_lr.0": 0.5})
    assert schedule.state_dict() == before
    assert schedule.optimizer.lr == lr


@pytest.mark.parametrize("factor", [math.nan, math.inf, -1.0, None, "1"])
def test_a_lambda_that_gives_no_rate_is_refused(factor):
    schedule = optim.LambdaLR(optimizer(), lambda step: factor if step else 1.0)
    with pytest.raises(OptionError, match=r"LambdaLR: expected lr_lambda\(1\) to be finite and"):
        schedule.step()
    assert (schedule.last_step, schedule.optimizer.lr) == (0, 1.0)


def test_a_lambda_that_is_no_function_is_refused():
    for value in (0.5, [0.5], None):
        with pytest.raises(OptionError, match="LambdaLR: expected lr_lambda to be a function"):
            optim.LambdaLR(optimizer(), value)


def test_milestones_and_schedules_that_are_no_lists_are_refused():
    opt = optimizer()
    with pytest.raises(OptionError, match="MultiStepLR: expected a list of milestones, got int 5"):
        optim.MultiStepLR(opt, 5)
    with pytest.raises(DTypeError, match="SequentialLR: expected a list of schedules, got int 5"):
        optim.SequentialLR(opt, 5, [])


def test_a_rate_that_overflows_is_refused():
    schedule = optim.ExponentialLR(optimizer(), 1e200)
    schedule.step()
    with pytest.raises(OptionError, match="ExponentialLR: expected the rate of step 2 to be fini"):
        schedule.step()
    assert schedule.last_step == 1


def test_a_schedule_of_ones_own_that_gives_a_negative_rate_is_refused():
    class Falling(optim.Schedule):
        def lr_at(self, step, group):
            return 1.0 - step

    schedule = Falling(optimizer())
    schedule.step()
    with pytest.raises(OptionError, match=r"Falling: expected the rate of step 2 .* got -1\.0"):
        schedule.step()

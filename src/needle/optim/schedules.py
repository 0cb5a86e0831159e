"""Learning-rate schedules: the learning rate as a function of the step.

Each schedule is one formula, `lr_at(step, group)`; nothing accumulates, so a schedule can be
resumed, plotted and composed exactly. All write `group["lr"]` of their optimiser: at once, for
step 0, and at each `step()`.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from needle.errors import DTypeError, OptionError, StateDictError, describe
from needle.optim.optimizer import Optimizer
from needle.optim.options import check_count, check_number
from needle.optim.state import fit, number_in
from needle.run_numbers import Counting, RunNumber

__all__ = [
    "CosineAnnealingLR",
    "ExponentialLR",
    "LambdaLR",
    "LinearWarmup",
    "MultiStepLR",
    "OneCycleLR",
    "Schedule",
    "SequentialLR",
    "StepLR",
    "WarmupCosine",
]


class Schedule(Counting):
    """Base of the schedules. One's own writes `lr_at`, and calls this `__init__` last.

    base_lrs   each group's learning rate when its first schedule was made
    last_step  how many times `step()` was called; the step that the rates are those of

    Call `step()` after each optimiser step (or epoch: the unit of the formulas is one call).
    """

    # the schedules that this one is put together from
    parts: Sequence[Schedule] = ()

    def __init__(self, optimizer: Optimizer) -> None:
        self._place = {"last_step": 0}
        owner = type(self).__name__
        if not isinstance(optimizer, Optimizer):
            raise DTypeError(f"{owner}: expected an Optimizer, got {describe(optimizer)}.")
        if any(part.optimizer is not optimizer for part in self.parts):
            raise OptionError(f"{owner}: expected schedules of one optimizer, got one of another.")
        self.optimizer: Optimizer = optimizer
        # a schedule made after another must not start from the rate that the other has set
        for group in optimizer.param_groups:
            group.setdefault("initial_lr", group["lr"])
        self.base_lrs = [float(group["initial_lr"]) for group in optimizer.param_groups]
        self._go_to(0)

    @property
    def last_step(self) -> int:
        """How many steps were taken."""
        return self._place["last_step"]

    def counted(self) -> list[dict[Any, Any]]:
        """What holds the number of the step. A compiled function calls `lr_at` at each run."""
        return [self._place]

    def lr_at(self, step: int, group: int) -> float:
        """The learning rate after `step` steps, of parameter group number `group`."""
        raise NotImplementedError(f"{type(self).__name__}: lr_at is not written.")

    def get_lr(self) -> list[float]:
        """The learning rate of each group, now."""
        return self._rates(self.last_step)

    def step(self) -> None:
        """Go one step on and set the optimiser's learning rates."""
        self._go_to(self.last_step + 1)

    def _rates(self, step: int) -> list[float]:
        return [self._rate(step, group) for group in range(len(self.base_lrs))]

    def _rate(self, step: Any, group: int) -> Any:
        if isinstance(step, RunNumber):
            return step.numbers.applied(self._rate, step, group)
        try:
            rate: Any = self.lr_at(step, group)
        except OverflowError:
            rate = math.inf
        return _number(type(self).__name__, f"the rate of step {step}", rate)

    def _go_to(self, step: int) -> None:
        made_for, found = len(self.base_lrs), len(self.optimizer.param_groups)
        if made_for != found:
            raise OptionError(
                f"{type(self).__name__}: expected {made_for} parameter groups, as when it was "
                f"made, got {found}. Make the schedule after add_param_group."
            )
        for group, lr in zip(self.optimizer.param_groups, self._rates(step), strict=True):
            group["lr"] = lr
        self._place["last_step"] = step

    def state_dict(self) -> dict[str, Any]:
        """Where the schedule is: `last_step` and, as `base_lr.0`, each group's base.

        The numbers of the formula are not in it: they come from the constructor.
        """
        bases = {f"base_lr.{i}": base for i, base in enumerate(self.base_lrs)}
        return {"last_step": self.last_step, **bases}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from where `state` was taken, and set the optimiser's learning rates.

        Raises StateDictError naming every missing, unexpected and misshapen key, or for a step
        at which there is no rate; nothing has changed then.
        """
        fitted = fit(type(self).__name__, state, self.state_dict())
        before = self.base_lrs
        self._rebase([fitted[f"base_lr.{i}"] for i in range(len(before))])
        try:
            self._go_to(fitted["last_step"])
        except OptionError as error:
            self._rebase(before)
            raise StateDictError(f"load_state_dict: {error}") from None

    def _rebase(self, base_lrs: list[float]) -> None:
        self.base_lrs = base_lrs
        for part in self.parts:
            part._rebase(base_lrs)


def _number(owner: str, name: str, value: Any) -> float:
    """`value`, perhaps an array of one number, as a float from 0 on."""
    number = number_in(value)
    return check_number(owner, name, value if number is None else number)


def _linear(start: float, end: float, fraction: float) -> float:
    return start + (end - start) * fraction


def _cosine(start: float, end: float, fraction: float) -> float:
    """From `start` at fraction 0 to `end` at 1 along half a cosine wave."""
    return end + (start - end) * (1 + math.cos(math.pi * fraction)) / 2


class LambdaLR(Schedule):
    """lr = base · lr_lambda(step).

    lr_lambda  a function of the step, or a list of them, one per parameter group
    """

    def __init__(
        self,
        optimizer: Optimizer,
        lr_lambda: Callable[[int], float] | Sequence[Callable[[int], float]],
    ) -> None:
        self.lr_lambdas = _per_group("LambdaLR", "lr_lambda", lr_lambda, optimizer)
        for function in self.lr_lambdas:
            if not callable(function):
                raise OptionError(
                    "LambdaLR: expected lr_lambda to be a function of the step, got "
                    f"{describe(function)}."
                )
        super().__init__(optimizer)

    def lr_at(self, step: int, group: int) -> float:
        factor = self.lr_lambdas[group](step)
        return self.base_lrs[group] * _number("LambdaLR", f"lr_lambda({step})", factor)


class StepLR(Schedule):
    """lr = base · gamma^⌊step / step_size⌋.

    >>> import needle as ndl
    >>> opt = ndl.optim.SGD([ndl.Tensor([1.0])], lr=1.0)
    >>> schedule = ndl.optim.StepLR(opt, step_size=2, gamma=0.5)
    >>> [schedule.lr_at(step, group=0) for step in range(5)]
    [1.0, 1.0, 0.5, 0.5, 0.25]
    """

    def __init__(self, optimizer: Optimizer, step_size: int, gamma: float = 0.1) -> None:
        self.step_size = check_count("StepLR", "step_size", step_size)
        self.gamma = check_number("StepLR", "gamma", gamma)
        super().__init__(optimizer)

    def lr_at(self, step: int, group: int) -> float:
        return self.base_lrs[group] * self.gamma ** (step // self.step_size)


class MultiStepLR(Schedule):
    """lr = base · gamma^(number of milestones ≤ step).

    milestones  steps, in ascending order; one given twice counts twice
    """

    def __init__(self, optimizer: Optimizer, milestones: Sequence[int], gamma: float = 0.1) -> None:
        self.milestones = _ascending("MultiStepLR", milestones)
        self.gamma = check_number("MultiStepLR", "gamma", gamma)
        super().__init__(optimizer)

    def lr_at(self, step: int, group: int) -> float:
        return self.base_lrs[group] * self.gamma ** bisect_right(self.milestones, step)


class ExponentialLR(Schedule):
    """lr = base · gamma^step."""

    def __init__(self, optimizer: Optimizer, gamma: float) -> None:
        self.gamma = check_number("ExponentialLR", "gamma", gamma)
        super().__init__(optimizer)

    def lr_at(self, step: int, group: int) -> float:
        return self.base_lrs[group] * self.gamma**step


class CosineAnnealingLR(Schedule):
    """lr = eta_min + (base - eta_min) · (1 + cos(π · step / T_max)) / 2.

    Falls from base to eta_min in T_max steps; beyond, as in PyTorch, it rises again, with period
    2 · T_max. Source: Loshchilov, Hutter, "SGDR: stochastic gradient descent with warm restarts",
    2017, equation 5, without the restarts.
    """

    def __init__(self, optimizer: Optimizer, T_max: int, eta_min: float = 0.0) -> None:
        self.T_max = check_count("CosineAnnealingLR", "T_max", T_max)
        self.eta_min = check_number("CosineAnnealingLR", "eta_min", eta_min)
        super().__init__(optimizer)

    def lr_at(self, step: int, group: int) -> float:
        return _cosine(self.base_lrs[group], self.eta_min, step / self.T_max)


class LinearWarmup(Schedule):
    """lr = target · (start_factor + (1 - start_factor) · step / warmup_steps), then another.

    after  the schedule that follows, its step 0 at step warmup_steps, and whose first rate is
           the target; default: base, and there it stays. Call `step()` of the warm-up only.

    Source: Goyal et al., "Accurate, large minibatch SGD", 2017, section 2.2.

    >>> import needle as ndl
    >>> opt = ndl.optim.SGD([ndl.Tensor([1.0])], lr=1.0)
    >>> schedule = ndl.optim.LinearWarmup(
    ...     opt, 2, start_factor=0.5, after=ndl.optim.ExponentialLR(opt, 0.1)
    ... )
    >>> [schedule.lr_at(step, group=0) for step in range(4)]
    [0.5, 0.75, 1.0, 0.1]
    """

    def __init__(
        self,
        optimizer: Optimizer,
        warmup_steps: int,
        start_factor: float = 0.01,
        after: Schedule | None = None,
    ) -> None:
        self.warmup_steps = check_count("LinearWarmup", "warmup_steps", warmup_steps, least=0)
        self.start_factor = check_number("LinearWarmup", "start_factor", start_factor)
        self.after = after
        self.parts = () if after is None else _schedules("LinearWarmup", [after])
        super().__init__(optimizer)

    def lr_at(self, step: int, group: int) -> float:
        beyond = max(step - self.warmup_steps, 0)
        target = self.base_lrs[group] if self.after is None else self.after.lr_at(beyond, group)
        if step >= self.warmup_steps:
            return target
        return target * _linear(self.start_factor, 1.0, step / self.warmup_steps)


class SequentialLR(Schedule):
    """One schedule after another: each begins, at its own step 0, at its milestone.

    schedules   of the same optimiser; call `step()` of the whole only
    milestones  the steps at which the second, third, ... take over
    """

    def __init__(
        self, optimizer: Optimizer, schedules: Sequence[Schedule], milestones: Sequence[int]
    ) -> None:
        self.parts = _schedules("SequentialLR", schedules)
        self.milestones = _ascending("SequentialLR", milestones)
        if len(self.milestones) != len(self.parts) - 1:
            raise OptionError(
                "SequentialLR: expected one milestone fewer than schedules, got "
                f"{len(self.milestones)} milestones and {len(self.parts)} schedules."
            )
        super().__init__(optimizer)

    def lr_at(self, step: int, group: int) -> float:
        index = bisect_right(self.milestones, step)
        begin = self.milestones[index - 1] if index else 0
        return self.parts[index].lr_at(step - begin, group)


class WarmupCosine(Schedule):
    """Linear warm-up to base in warmup_steps, then half a cosine down to eta_min, which is kept.

    step < warmup_steps   base · (start_factor + (1 - start_factor) · step / warmup_steps)
    else                  eta_min + (base - eta_min) · (1 + cos(π · f)) / 2,
                          f = min(1, (step - warmup_steps) / (total_steps - warmup_steps))
    """

    def __init__(
        self,
        optimizer: Optimizer,
        warmup_steps: int,
        total_steps: int,
        start_factor: float = 0.01,
        eta_min: float = 0.0,
    ) -> None:
        owner = "WarmupCosine"
        self.warmup_steps = check_count(owner, "warmup_steps", warmup_steps, least=0)
        least = self.warmup_steps + 1
        self.total_steps = check_count(owner, "total_steps", total_steps, least=least)
        self.start_factor = check_number(owner, "start_factor", start_factor)
        self.eta_min = check_number(owner, "eta_min", eta_min)
        super().__init__(optimizer)

    def lr_at(self, step: int, group: int) -> float:
        base = self.base_lrs[group]
        if step < self.warmup_steps:
            return base * _linear(self.start_factor, 1.0, step / self.warmup_steps)
        fraction = (step - self.warmup_steps) / (self.total_steps - self.warmup_steps)
        return _cosine(base, self.eta_min, min(1.0, fraction))


class OneCycleLR(Schedule):
    """Up to max_lr and down again to almost nothing, each along half a cosine wave.

        step 0                             max_lr / div_factor
        step pct_start · total_steps - 1   max_lr
        step total_steps - 1               max_lr / div_factor / final_div_factor

    max_lr  a number, or a list of them, one per parameter group

    The optimiser's own learning rate is replaced from the start. Raises OptionError on a step
    beyond total_steps. Momentum is not cycled (PyTorch does that by default).
    Source: Smith, Topin, "Super-convergence: very fast training of neural networks using large
    learning rates", 2018; with cosines, as fast.ai and PyTorch have it.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        max_lr: float | Sequence[float],
        total_steps: int,
        pct_start: float = 0.3,
        div_factor: float = 25.0,
        final_div_factor: float = 1e4,
    ) -> None:
        rates = _per_group("OneCycleLR", "max_lr", max_lr, optimizer)
        self.max_lrs = [check_number("OneCycleLR", "max_lr", rate) for rate in rates]
        self.total_steps = check_count("OneCycleLR", "total_steps", total_steps)
        self.pct_start = check_number("OneCycleLR", "pct_start", pct_start)
        self.div_factor = check_number("OneCycleLR", "div_factor", div_factor)
        self.final_div_factor = check_number("OneCycleLR", "final_div_factor", final_div_factor)
        if self.pct_start > 1 or not self.div_factor or not self.final_div_factor:
            raise OptionError(
                "OneCycleLR: expected pct_start in [0, 1] and factors above 0, got pct_start "
                f"{pct_start!r}, div_factor {div_factor!r}, final_div_factor {final_div_factor!r}."
            )
        super().__init__(optimizer)

    def lr_at(self, step: int, group: int) -> float:
        if step > self.total_steps:
            raise OptionError(
                f"OneCycleLR: expected at most total_steps={self.total_steps} steps, got {step}."
            )
        top = self.max_lrs[group]
        low = top / self.div_factor
        peak, last = self.pct_start * self.total_steps - 1, self.total_steps - 1
        if step <= peak:
            return _cosine(low, top, step / peak if peak else 1.0)
        fraction = (step - peak) / (last - peak) if last > peak else 1.0
        return _cosine(top, low / self.final_div_factor, fraction)


def _per_group(owner: str, name: str, value: Any, optimizer: Optimizer) -> list[Any]:
    """A list with one entry per parameter group, from one for all or from such a list."""
    groups = len(getattr(optimizer, "param_groups", ()))
    if not isinstance(value, (list, tuple)):
        return [value] * groups
    if len(value) != groups:
        raise OptionError(f"{owner}: expected {groups} of {name}, one per group, got {len(value)}.")
    return list(value)


def _ascending(owner: str, milestones: Sequence[int]) -> list[int]:
    if not isinstance(milestones, Iterable):
        raise OptionError(f"{owner}: expected a list of milestones, got {describe(milestones)}.")
    counts = [check_count(owner, "each milestone", milestone, least=0) for milestone in milestones]
    if counts != sorted(counts):
        raise OptionError(f"{owner}: expected milestones in ascending order, got {counts}.")
    return counts


def _schedules(owner: str, parts: Sequence[Any]) -> list[Schedule]:
    if not isinstance(parts, (list, tuple)):
        raise DTypeError(f"{owner}: expected a list of schedules, got {describe(parts)}.")
    for part in parts:
        if not isinstance(part, Schedule):
            raise DTypeError(f"{owner}: expected schedules, got {describe(part)}.")
    if not parts:
        raise OptionError(f"{owner}: expected at least one schedule, got none.")
    return list(parts)

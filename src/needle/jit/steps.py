"""Steps of training and of evaluation as functions of Tensors, and compiled ones that last."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any
from weakref import ref

from needle.autograd.modes import enable_grad, no_grad
from needle.jit import JitError, jit

__all__ = ["Step", "evaluation_step", "lasting_step", "training_step"]

Step = Callable[..., Any]
_NAME = "_compiled_step"
_log = logging.getLogger("needle.jit")


def training_step(objective: Step, optimizer: Any, clip: float | None = None) -> Step:
    """One step of the optimiser down the first that `objective` gives; gives the same.

    objective  from Tensors to a tuple: the loss, and more
    clip       the longest that all gradients together may be; None: any length
    """

    def step(*arguments: Any) -> Any:
        with enable_grad():
            loss, *found = objective(*arguments)
        optimizer.reset_grad()
        loss.backward(create_graph=False)
        if clip is not None:
            optimizer.clip_grad_norm(clip)
        optimizer.step()
        return loss, *found

    return step


def evaluation_step(objective: Step) -> Step:
    """`objective` without a graph."""

    def step(*arguments: Any) -> Any:
        with no_grad():
            return objective(*arguments)

    return step


def lasting_step(
    make: Callable[[Any, Any], Step],
    model: Any,
    loss_fn: Any,
    optimizer: Any = None,
    clip: float | None = None,
) -> Step:
    """A step of training, or without an optimiser of evaluation, that is compiled once.

    It is kept with the optimiser (with the model where there is none) until it is asked for with
    something else, so an epoch that asks for it again does not compile again. It goes when they
    go. What cannot be compiled runs as it is; the log says so, once.

    make     from the model and the loss to what the step minimises: see `training_step`
    loss_fn  a loss's class, or an instance
    """

    def step() -> Step:
        objective = make(model, loss_fn() if isinstance(loss_fn, type) else loss_fn)
        if optimizer is None:
            return evaluation_step(objective)
        return training_step(objective, optimizer, clip)

    owner = model if optimizer is None else optimizer
    kept = vars(owner).get(_NAME)
    if kept is None or kept.owner() is not owner:  # none yet, or that of what this is a copy of
        kept = vars(owner)[_NAME] = _Kept(owner)
    key = (make, model, loss_fn, clip)
    if kept.key != key:
        kept.key, kept.step = key, _Willing(step())
    return kept.step  # type: ignore[no-any-return]


class _Kept:
    """A step beside what it is a step of; it is no attribute to follow, and no copy has it."""

    __slots__ = ("key", "owner", "step")

    def __init__(self, owner: Any) -> None:
        self.owner, self.key, self.step = ref(owner), None, None

    def __reduce__(self) -> Any:
        return _nothing, ()


def _nothing() -> None:
    return None


class _Willing:
    """A compiled function; one that `jit` refuses runs as it is."""

    def __init__(self, function: Step) -> None:
        self.function, self.jitted = function, jit(function)
        self.is_refused = False

    def __call__(self, *arguments: Any) -> Any:
        if self.is_refused:
            return self.function(*arguments)
        try:
            return self.jitted(*arguments)
        except JitError as error:
            self.is_refused = True
            reason = error
        result = self.function(*arguments)
        _log.warning("One operator runs after the other, as a step is not compiled. %s", reason)
        return result

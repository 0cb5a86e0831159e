"""Needle's training steps: eager, and compiled as a whole by `ndl.jit`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import cycle
from typing import Any

import numpy as np
from jobs import Job, Step

import needle as ndl
from needle import nn, optim
from needle.jit import jit

__all__ = ["compiled", "eager", "on_batches", "update_of"]


def eager(job: Job, dropout: float) -> Step:
    """Operator by operator."""
    return on_batches(update_of(job, dropout), job.batches, job.state)


def compiled(job: Job, dropout: float) -> Step:
    """One native program."""
    return on_batches(jit(update_of(job, dropout)), job.batches, job.state)


def update_of(job: Job, dropout: float) -> Callable[..., Any]:
    """A training step: (x, y) -> loss, or (x, y, state) -> (loss, state)."""
    model = job.network(dropout)
    opt = getattr(optim, job.update.rule)(model.parameters(), **job.update.options)
    loss_of, clip = nn.SoftmaxLoss(), job.update.clip

    def learn(logits: ndl.Tensor, y: ndl.Tensor) -> ndl.Tensor:
        loss = loss_of(logits.reshape((-1, logits.shape[-1])), y.reshape((-1,)))
        loss.backward(create_graph=False)
        if clip is not None:
            opt.clip_grad_norm(clip)
        opt.step()
        return loss

    def update(x: ndl.Tensor, y: ndl.Tensor) -> ndl.Tensor:
        opt.reset_grad()
        return learn(model(x), y)

    def update_with_state(x: ndl.Tensor, y: ndl.Tensor, state: Any) -> Any:
        opt.reset_grad()
        logits, (h, c) = model(x, state)
        return learn(logits, y), (h.detach(), c.detach())

    return update if job.state is None else update_with_state


def on_batches(
    update: Callable[..., Any],
    batches: Sequence[tuple[np.ndarray, np.ndarray]],
    state_shape: tuple[int, ...] | None,
) -> Step:
    """The update on one batch after the other, the state carried on from zeros."""
    turns = cycle([(_constant(x), _constant(y)) for x, y in batches])
    if state_shape is None:
        return lambda: update(*next(turns)).item()
    state: Any = tuple(_constant(np.zeros(state_shape, np.float32)) for _ in range(2))

    def step() -> float:
        nonlocal state
        loss, state = update(*next(turns), state)
        return loss.item()

    return step


def _constant(array: np.ndarray) -> ndl.Tensor:
    return ndl.Tensor(np.ascontiguousarray(array), requires_grad=False)

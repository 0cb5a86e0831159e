"""PyTorch's training steps at their best: eager with fused optimisers, and by torch.compile.

Pictures are channels-last, gradients set to None. `compiled` compiles network and loss, forward and
backward, and keeps the fused optimiser; `compiled_whole` compiles the optimiser's step as well.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import cycle
from typing import Any

import numpy as np
import torch
import torch_networks
from jobs import Job, Step
from torch.nn import functional

from needle.models import foreign_state

__all__ = ["compiled", "compiled_whole", "eager", "network"]


def eager(job: Job, dropout: float) -> Step:
    """Operator by operator."""
    return _step(job, network(job, dropout), lambda function: function)


def compiled(job: Job, dropout: float) -> Step:
    """Network and loss compiled."""
    return _step(job, network(job, dropout), torch.compile)


def compiled_whole(job: Job, dropout: float) -> Step:
    """Network, loss and optimiser compiled."""
    return _step(job, network(job, dropout), torch.compile, compiles_optimizer=True)


def network(job: Job, dropout: float) -> torch.nn.Module:
    """PyTorch's network with the job's initial weights."""
    model = torch_networks.build(job.kind, job.sizes, dropout)
    arrays = foreign_state(job.network(dropout))
    report = model.load_state_dict({k: torch.tensor(v) for k, v in arrays.items()}, strict=False)
    missing = [name for name in report.missing_keys if "num_batches" not in name]
    assert not missing and not report.unexpected_keys, (missing, report.unexpected_keys)
    return model.to(memory_format=torch.channels_last) if job.pictures else model


def _step(job: Job, model: torch.nn.Module, compile: Any, compiles_optimizer: bool = False) -> Step:
    opt = _optimizer(job, model, fused=not compiles_optimizer)
    change = _change(job, model, opt)
    change = torch.compile(change) if compiles_optimizer else change
    losses = compile(_losses(model))
    turns = cycle([(_tensor(x, job.pictures), torch.tensor(y)) for x, y in job.batches])
    zero = None if job.state is None else (torch.zeros(job.state), torch.zeros(job.state))
    state: Any = zero

    def step() -> float:
        nonlocal state
        opt.zero_grad(set_to_none=True)
        loss, state = losses(*next(turns), state)
        loss.backward()
        change()
        return loss.item()

    return step


def _losses(model: torch.nn.Module) -> Callable[..., Any]:
    def losses(x: torch.Tensor, y: torch.Tensor, state: Any) -> Any:
        if state is None:
            logits = model(x)
        else:
            logits, state = model(x, state)
            state = tuple(part.detach() for part in state)
        return functional.cross_entropy(logits.flatten(0, -2), y.flatten()), state

    return losses


def _optimizer(job: Job, model: torch.nn.Module, fused: bool) -> torch.optim.Optimizer:
    rule = getattr(torch.optim, job.update.rule)
    return rule(model.parameters(), **job.update.options, fused=fused)


def _change(job: Job, model: torch.nn.Module, opt: torch.optim.Optimizer) -> Callable[[], None]:
    parameters, clip = list(model.parameters()), job.update.clip

    def change() -> None:
        if clip is not None:
            torch.nn.utils.clip_grad_norm_(parameters, clip)
        opt.step()

    return change


def _tensor(x: np.ndarray, pictures: bool) -> torch.Tensor:
    tensor = torch.tensor(x)
    return tensor.contiguous(memory_format=torch.channels_last) if pictures else tensor

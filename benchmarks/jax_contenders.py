"""JAX's training steps: one jitted function of weights, optimiser state and batch, all donated.

Networks are in `jax_networks`, none of them convolutional. Dropout draws from XLA's own generator
("rbg"), the fastest that JAX has here.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from itertools import cycle
from typing import Any

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import jax.numpy as jnp
import numpy as np
from jax_networks import NETWORKS
from jobs import Job, Step, Update

__all__ = ["compiled", "serves"]


def serves(job: Job) -> bool:
    """Whether there is a network for it."""
    return job.kind in NETWORKS


def compiled(job: Job, dropout: float) -> Step:
    """Forward, backward and update as one program."""
    carry = (_weights(job), _Optimizer.start(job.update, _weights(job)))
    if job.state is not None:
        carry = (*carry, tuple(jnp.zeros(job.state) for _ in range(2)))
    update = jax.jit(_update_of(job, dropout), donate_argnums=0)
    turns = cycle([(jnp.asarray(x), jnp.asarray(y)) for x, y in job.batches])
    key = jax.random.key(0, impl="rbg")

    def step() -> float:
        nonlocal carry, key
        loss, carry, key = update(carry, key, *next(turns))
        return float(loss)

    return step


def _weights(job: Job) -> dict[str, Any]:
    state = job.network().state_dict()
    return {
        name: jnp.array(np.asarray(value.numpy() if hasattr(value, "numpy") else value))
        for name, value in state.items()
        if "running" not in name
    }


def _update_of(job: Job, dropout: float) -> Callable[..., Any]:
    network = partial(NETWORKS[job.kind], sizes=job.sizes)

    def loss_of(weights: Any, key: Any, x: Any, y: Any, state: Any) -> tuple[Any, Any]:
        if job.state is None:
            logits = network(weights, x, key, dropout)
        else:
            logits, state = network(weights, x, state)
        return _cross_entropy(logits, y), state

    def update(carry: Any, key: Any, x: Any, y: Any) -> tuple[Any, Any, Any]:
        weights, kept, *state = carry
        key, own = jax.random.split(key) if dropout else (key, key)
        state = state[0] if state else None
        values = jax.value_and_grad(loss_of, has_aux=True)
        (loss, state), grads = values(weights, own, x, y, state)
        weights, kept = _Optimizer.change(
            job.update, weights, _clipped(grads, job.update.clip), kept
        )
        return loss, (weights, kept) if state is None else (weights, kept, state), key

    return update


def _cross_entropy(logits: Any, y: Any) -> Any:
    chosen = jnp.take_along_axis(logits, y[..., None], -1)[..., 0]
    return (jax.nn.logsumexp(logits, -1) - chosen).mean()


def _clipped(grads: Any, largest: float | None) -> Any:
    if largest is None:
        return grads
    norm = jnp.sqrt(sum((g * g).sum() for g in jax.tree.leaves(grads)))
    scale = jnp.minimum(1.0, largest / (norm + 1e-6))
    return jax.tree.map(lambda g: g * scale, grads)


class _Optimizer:
    """SGD, Adam and AdamW as PyTorch and Needle define them."""

    @staticmethod
    def start(update: Update, weights: Any) -> Any:
        """What it remembers: the step, first and second moments."""
        if update.rule == "SGD":
            return ()
        zeros = {name: jnp.zeros_like(w) for name, w in weights.items()}
        return (jnp.zeros((), jnp.int32), zeros, jax.tree.map(jnp.copy, zeros))

    @staticmethod
    def change(update: Update, weights: Any, grads: Any, kept: Any) -> tuple[Any, Any]:
        """New weights, and what is remembered."""
        lr, decay = update.options["lr"], update.options.get("weight_decay", 0.0)
        if update.rule == "SGD":
            return jax.tree.map(lambda w, g: w - lr * (g + decay * w), weights, grads), kept
        assert update.rule == "AdamW" or not decay
        step, eps = kept[0] + 1, update.options.get("eps", 1e-8)
        m = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, kept[1], grads)
        v = jax.tree.map(lambda v, g: 0.999 * v + 0.001 * g * g, kept[2], grads)
        first, second = 1 - 0.9**step, jnp.sqrt(1 - 0.999**step)

        def changed(w: Any, m: Any, v: Any) -> Any:
            return w * (1 - lr * decay) - (lr / first) * m / (jnp.sqrt(v) / second + eps)

        return jax.tree.map(changed, weights, m, v), (step, m, v)

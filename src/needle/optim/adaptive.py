"""RMSprop and Adagrad: each element's step is divided by the size of its past gradients."""

from __future__ import annotations

from collections import Counter
from typing import Any

from needle.autograd import Tensor
from needle.optim.optimizer import Group, Optimizer, add_l2
from needle.optim.options import Flag, Option, check_number
from needle.optim.state import State

__all__ = ["Adagrad", "RMSprop"]


class RMSprop(Optimizer):
    """RMSprop: the gradient over the root of the running average of its square.

        g ← grad + weight_decay · p
        v ← alpha · v + (1 - alpha) · g²             v starts at 0
        d ← g / (√v + eps)
        u ← momentum · u + d                         u starts at 0; without momentum, u = d
        p ← p - lr · u

    centered  divide by √(v - m²) + eps, an estimate of the standard deviation, where
              m ← alpha · m + (1 - alpha) · g

    As in PyTorch, eps stands outside the root. v - m² is kept from falling below 0 by rounding.
    Source: Tieleman, Hinton, "Lecture 6.5: rmsprop", COURSERA, 2012; centered: Graves,
    "Generating sequences with recurrent neural networks", 2013, equations 38 to 41.
    """

    alpha = Option(below=1)
    eps = Option()
    weight_decay = Option()
    momentum = Option(below=1)
    centered = Flag()

    def __init__(
        self,
        params: Any,
        lr: float = 0.01,
        alpha: float = 0.99,
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        momentum: float = 0.0,
        centered: bool = False,
    ) -> None:
        super().__init__(
            params,
            lr=lr,
            alpha=alpha,
            eps=eps,
            weight_decay=weight_decay,
            momentum=momentum,
            centered=centered,
        )
        self.v = State()
        self.m = State()
        self.u = State()

    def slots(self, group: Group) -> tuple[str, ...]:
        conditions = [("v", True), ("m", group["centered"]), ("u", group["momentum"])]
        return tuple(name for name, used in conditions if used)

    def update(self, p: Tensor, grad: Tensor, group: Group) -> Tensor:
        g = add_l2(grad, p, group["weight_decay"])
        lr: float = group["lr"]
        eps: float = group["eps"]
        momentum: float = group["momentum"]
        direction = g / (self._spread(p, g, group).sqrt() + eps)
        if momentum:
            direction = self.u[p] = self.u[p] * momentum + direction
        return p + direction * -lr

    def _spread(self, p: Tensor, g: Tensor, group: Group) -> Tensor:
        """v, or v - m² if centered."""
        alpha: float = group["alpha"]
        v = self.v[p] = self.v[p] * alpha + g * g * (1 - alpha)
        if not group["centered"]:
            return v
        m = self.m[p] = self.m[p] * alpha + g * (1 - alpha)
        return (v - m * m).clip(low=0.0)


class Adagrad(Optimizer):
    """Adagrad: the gradient over the root of the sum of all its squares.

        g ← grad + weight_decay · p
        v ← v + g²                                   v starts at initial_accumulator_value
        p ← p - lr / (1 + (t - 1) · lr_decay) · g / (√v + eps)

    t counts the parameter's own steps from 1.
    Source: Duchi, Hazan, Singer, "Adaptive subgradient methods for online learning and stochastic
    optimization", 2011, Figure 1 with a diagonal matrix; lr_decay and the starting value as in
    PyTorch.
    """

    lr_decay = Option()
    weight_decay = Option()
    eps = Option()

    def __init__(
        self,
        params: Any,
        lr: float = 0.01,
        lr_decay: float = 0.0,
        weight_decay: float = 0.0,
        initial_accumulator_value: float = 0.0,
        eps: float = 1e-10,
    ) -> None:
        super().__init__(params, lr=lr, lr_decay=lr_decay, weight_decay=weight_decay, eps=eps)
        name = "initial_accumulator_value"
        self.v = State(fill=check_number("Adagrad", name, initial_accumulator_value))
        self.steps: Counter[Tensor] = Counter()

    def slots(self, group: Group) -> tuple[str, ...]:
        return ("v", "steps")

    def update(self, p: Tensor, grad: Tensor, group: Group) -> Tensor:
        g = add_l2(grad, p, group["weight_decay"])
        v = self.v[p] = self.v[p] + g * g
        lr: float = group["lr"] / (1 + self.steps[p] * group["lr_decay"])
        eps: float = group["eps"]
        self.steps[p] += 1
        return p + g / (v.sqrt() + eps) * -lr

"""Stochastic gradient descent, with momentum."""

from __future__ import annotations

from typing import Any

from needle.autograd import Tensor
from needle.optim.optimizer import Group, Optimizer, add_l2
from needle.optim.options import Flag, Option
from needle.optim.state import State

__all__ = ["SGD"]


class SGD(Optimizer):
    """Stochastic gradient descent.

        g ← grad + weight_decay · p
        u ← momentum · u + (1 - momentum) · g        u starts at 0
        p ← p - lr · u

    nesterov  step along momentum · u + (1 - momentum) · g instead, u being the new one

    u is an average of gradients, so its size does not depend on the momentum. Others sum:
    PyTorch's SGD with learning rate (1 - momentum) · lr takes the same steps.
    Source: Sutskever, Martens, Dahl, Hinton, "On the importance of initialization and momentum in
    deep learning", 2013, equations 1 to 4.

    >>> import needle as ndl
    >>> w = ndl.Tensor([1.0, 2.0])
    >>> opt = ndl.optim.SGD([w], lr=0.1)
    >>> (w * w).sum().backward()
    >>> opt.step()
    >>> w
    needle.Tensor([0.8 1.6])
    """

    momentum = Option(below=1)
    weight_decay = Option()
    nesterov = Flag()

    def __init__(
        self,
        params: Any,
        lr: float = 0.01,
        momentum: float = 0.0,
        weight_decay: float = 0.0,
        nesterov: bool = False,
    ) -> None:
        super().__init__(
            params, lr=lr, momentum=momentum, weight_decay=weight_decay, nesterov=nesterov
        )
        self.u = State()

    def slots(self, group: Group) -> tuple[str, ...]:
        return ("u",) if group["momentum"] else ()

    def update(self, p: Tensor, grad: Tensor, group: Group) -> Tensor:
        direction = add_l2(grad, p, group["weight_decay"])
        lr: float = group["lr"]
        momentum: float = group["momentum"]
        if momentum:
            fresh = direction * (1 - momentum)
            direction = self.u[p] = self.u[p] * momentum + fresh
            if group["nesterov"]:
                direction = direction * momentum + fresh
        return p + direction * -lr

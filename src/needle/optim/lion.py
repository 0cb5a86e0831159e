"""Lion: steps of one size, in the direction of the sign."""

from __future__ import annotations

from typing import Any

from needle.autograd import Tensor
from needle.ops import sign
from needle.optim.optimizer import Group, Optimizer
from needle.optim.options import Option
from needle.optim.state import State

__all__ = ["Lion"]


class Lion(Optimizer):
    """Lion (evolved sign momentum).

        c ← beta1 · m + (1 - beta1) · grad           m starts at 0
        p ← (1 - lr · weight_decay) · p - lr · sign c
        m ← beta2 · m + (1 - beta2) · grad

    Every element moves by lr, so lr is to be 3 to 10 times smaller than Adam's, and weight_decay
    as much larger; one Tensor of state per parameter.
    Source: Chen et al., "Symbolic discovery of optimization algorithms", 2023, Algorithm 2.

    >>> import needle as ndl
    >>> w = ndl.Tensor([1.0, -2.0])
    >>> opt = ndl.optim.Lion([w], lr=0.5)
    >>> (w * w).sum().backward()
    >>> opt.step()
    >>> w
    needle.Tensor([ 0.5 -1.5])
    """

    beta1 = Option(below=1)
    beta2 = Option(below=1)
    weight_decay = Option()

    def __init__(
        self,
        params: Any,
        lr: float = 1e-4,
        beta1: float = 0.9,
        beta2: float = 0.99,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(params, lr=lr, beta1=beta1, beta2=beta2, weight_decay=weight_decay)
        self.m = State()

    def slots(self, group: Group) -> tuple[str, ...]:
        return ("m",)

    def update(self, p: Tensor, grad: Tensor, group: Group) -> Tensor:
        lr: float = group["lr"]
        beta1: float = group["beta1"]
        beta2: float = group["beta2"]
        m = self.m[p]
        direction = sign(m * beta1 + grad * (1 - beta1))
        # the new p does not depend on the new m, so in lazy mode nothing else would compute it
        self.m[p] = (m * beta2 + grad * (1 - beta2)).detach()
        decay: float = lr * group["weight_decay"]
        kept = p * (1 - decay) if decay else p
        return kept + direction * -lr

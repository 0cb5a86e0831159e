"""Adam, and Adam with decoupled weight decay."""

from __future__ import annotations

from collections import Counter
from typing import Any

from needle.autograd import Tensor
from needle.optim.optimizer import Group, Optimizer, add_l2
from needle.optim.options import Option
from needle.optim.state import State

__all__ = ["Adam", "AdamW"]


class Adam(Optimizer):
    """Adam: steps scaled by running averages of the gradient and of its square.

        g ← grad + weight_decay · p
        m ← beta1 · m + (1 - beta1) · g              m starts at 0
        v ← beta2 · v + (1 - beta2) · g²             v starts at 0
        p ← p - lr · m̂ / (√v̂ + eps)                  m̂ = m / (1 - beta1ᵗ),  v̂ = v / (1 - beta2ᵗ)

    t counts the steps from 1. For a parameter that some steps left out, for want of a gradient,
    it is that parameter's own count (`steps`), so that the bias corrections stay right.
    In float16 the default eps is 0, and v is 0 for gradients below 5e-3: the step is Inf or NaN
    then. Take bfloat16 there, or an eps of 1e-4.
    Source: Kingma, Ba, "Adam: a method for stochastic optimization", 2015, Algorithm 1.

    >>> import needle as ndl
    >>> w = ndl.Tensor([1.0, 2.0])
    >>> opt = ndl.optim.Adam([w], lr=0.1)
    >>> (w * w).sum().backward()
    >>> opt.step()
    >>> print(w.numpy().round(6))
    [0.9 1.9]
    """

    beta1 = Option(below=1)
    beta2 = Option(below=1)
    eps = Option()
    weight_decay = Option()

    def __init__(
        self,
        params: Any,
        lr: float = 0.01,
        beta1: float = 0.9,
        beta2: float = 0.999,
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(
            params, lr=lr, beta1=beta1, beta2=beta2, eps=eps, weight_decay=weight_decay
        )
        self.m = State()
        self.v = State()
        self.steps: Counter[Tensor] = Counter()

    def slots(self, group: Group) -> tuple[str, ...]:
        return ("m", "v", "steps")

    def update(self, p: Tensor, grad: Tensor, group: Group) -> Tensor:
        return p + self._change(p, add_l2(grad, p, group["weight_decay"]), group)

    def _change(self, p: Tensor, grad: Tensor, group: Group) -> Tensor:
        """-lr · m̂ / (√v̂ + eps), with the bias corrections drawn together in two numbers."""
        beta1: float = group["beta1"]
        beta2: float = group["beta2"]
        m = self.m[p] = self.m[p] * beta1 + grad * (1 - beta1)
        v = self.v[p] = self.v[p] * beta2 + grad * grad * (1 - beta2)
        self.steps[p] += 1
        root = (1 - beta2 ** self.steps[p]) ** 0.5
        eps: float = group["eps"] * root
        scale: float = group["lr"] * root / (1 - beta1 ** self.steps[p])
        return m / (v.sqrt() + eps) * -scale


class AdamW(Adam):
    """Adam with weight decay applied to the parameters and not to the gradient.

        p ← (1 - lr · weight_decay) · p - lr · m̂ / (√v̂ + eps)

    m̂ and v̂ as in Adam, from the gradient alone.
    Source: Loshchilov, Hutter, "Decoupled weight decay regularization", 2019, Algorithm 2.
    """

    def __init__(
        self,
        params: Any,
        lr: float = 0.01,
        beta1: float = 0.9,
        beta2: float = 0.999,
        eps: float = 1e-8,
        weight_decay: float = 0.01,
    ) -> None:
        super().__init__(params, lr, beta1, beta2, eps, weight_decay)

    def update(self, p: Tensor, grad: Tensor, group: Group) -> Tensor:
        decay = group["lr"] * group["weight_decay"]
        kept = p * (1 - decay) if decay else p
        return kept + self._change(p, grad, group)

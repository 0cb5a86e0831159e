"""A Tensor under a name of its own, so that one argument can be told from another."""

from __future__ import annotations

from typing import Any

from needle.autograd.tensor import Tensor, TensorOp
from needle.backend_selection import Array

__all__ = ["Alias", "alias"]


class Alias(TensorOp):
    """y = x: the same data, as a value of its own in the graph. Gradient: dx = dy."""

    def compute(self, x: Array) -> Array:
        return x

    def gradient(self, out_grad: Tensor, node: Tensor) -> Any:
        return out_grad


def alias(x: Tensor) -> Tensor:
    """x as a new value to differentiate by; it requires grad, whether x does or not."""
    return Alias()(x) if x.requires_grad else Tensor.make_const(x, requires_grad=True)

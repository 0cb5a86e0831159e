"""Layers that give their input mean 0 and variance 1, then a learned scale and shift."""

from __future__ import annotations

from typing import Any

from needle import init
from needle.autograd import Tensor, modes
from needle.errors import OptionError, ShapeError, describe
from needle.nn.checks import require_positive, require_tensors
from needle.nn.module import Module, Parameter

__all__ = ["BatchNorm1d", "LayerNorm1d"]


class BatchNorm1d(Module):
    """y = weight · (x - E[x]) / √(Var[x] + eps) + bias, over the batch.

    x: (B, dim) -> y: (B, dim)
    weight: (dim,) ones; bias: (dim,) zeros
    running_mean, running_var: (dim,); in training r ← (1 - momentum) r + momentum · batch's, with
    the biased variance (÷ B; PyTorch keeps the unbiased one), in evaluation they replace E and Var.

    Ioffe and Szegedy, "Batch Normalization", 2015, algorithm 1.
    """

    def __init__(
        self,
        dim: int,
        eps: float = 1e-5,
        momentum: float = 0.1,
        device: Any = None,
        dtype: Any = "float32",
    ) -> None:
        super().__init__()
        require_positive("BatchNorm1d", dim=dim)
        if not 0 <= momentum <= 1:
            raise OptionError(f"BatchNorm1d: expected momentum in [0, 1], got {momentum}.")
        self.dim, self.eps, self.momentum = dim, eps, momentum
        self.weight = Parameter(init.ones(dim, device=device, dtype=dtype))
        self.bias = Parameter(init.zeros(dim, device=device, dtype=dtype))
        self.running_mean = init.zeros(dim, device=device, dtype=dtype)
        self.running_var = init.ones(dim, device=device, dtype=dtype)

    def forward(self, x: Tensor) -> Tensor:
        require_tensors("BatchNorm1d", x)
        if x.ndim != 2 or x.shape[1] != self.dim:
            raise ShapeError(f"BatchNorm1d: expected x [B, {self.dim}], got {describe(x)}.")
        if not self.training:
            scale = self.weight / (self.running_var + self.eps).sqrt()
            return (x - self.running_mean) * scale + self.bias
        if x.shape[0] == 0:
            raise ShapeError(f"BatchNorm1d: expected a batch of 1 or more, got {describe(x)}.")
        mean = x.mean(0)
        centred = x - mean
        var = (centred * centred).mean(0)
        if not modes.recomputing():
            self.running_mean = self._moved(self.running_mean, mean)
            self.running_var = self._moved(self.running_var, var)
        return centred * (self.weight / (var + self.eps).sqrt()) + self.bias

    def _moved(self, running: Tensor, batch: Tensor) -> Tensor:
        moved = running * (1 - self.momentum) + batch.detach() * self.momentum
        return moved.detach().astype(running.dtype)

    def extra_repr(self) -> str:
        return f"{self.dim}, eps={self.eps}, momentum={self.momentum}"


class LayerNorm1d(Module):
    """y = weight · (x - E[x]) / √(Var[x] + eps) + bias, over the last axis of each row.

    x: (..., dim) -> y: (..., dim); the variance is the biased one
    weight: (dim,) ones; bias: (dim,) zeros

    Ba, Kiros and Hinton, "Layer Normalization", 2016.
    """

    def __init__(
        self, dim: int, eps: float = 1e-5, device: Any = None, dtype: Any = "float32"
    ) -> None:
        super().__init__()
        require_positive("LayerNorm1d", dim=dim)
        self.dim, self.eps = dim, eps
        self.weight = Parameter(init.ones(dim, device=device, dtype=dtype))
        self.bias = Parameter(init.zeros(dim, device=device, dtype=dtype))

    def forward(self, x: Tensor) -> Tensor:
        require_tensors("LayerNorm1d", x)
        if x.ndim == 0 or x.shape[-1] != self.dim:
            raise ShapeError(f"LayerNorm1d: expected x [..., {self.dim}], got {describe(x)}.")
        centred = x - x.mean(-1, keepdims=True)
        var = (centred * centred).mean(-1, keepdims=True)
        return centred / (var + self.eps).sqrt() * self.weight + self.bias

    def extra_repr(self) -> str:
        return f"{self.dim}, eps={self.eps}"

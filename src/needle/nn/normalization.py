"""Layers that give their input mean 0 and variance 1, then a learned scale and shift."""

from __future__ import annotations

from typing import Any

from needle import init
from needle.autograd import Tensor, modes
from needle.dtypes import is_floating
from needle.errors import ShapeError, describe
from needle.nn.checks import (
    require_float_dtype,
    require_number,
    require_positive,
    require_tensors,
)
from needle.nn.module import Module, Parameter

__all__ = ["BatchNorm1d", "LayerNorm1d"]


class _Norm(Module):
    """Base: the options, and the learned scale and shift.

    For floats of less than 32 bits all is computed in float32: a square overflows float16 from
    256 on.
    """

    def __init__(self, dim: int, eps: float, device: Any, dtype: Any) -> None:
        super().__init__()
        name = type(self).__name__
        require_positive(name, dim=dim)
        require_number(name, "eps of 0 or more", eps, lambda eps: eps >= 0)
        require_float_dtype(name, dtype)
        self.dim, self.eps = dim, eps
        self.weight = Parameter(init.ones(dim, device=device, dtype=dtype))
        self.bias = Parameter(init.zeros(dim, device=device, dtype=dtype))

    def _narrowed(self, y: Tensor, x: Tensor) -> Tensor:
        """y in the dtype of x, if both x and the weight are narrow."""
        return y.astype(x.dtype) if _is_narrow(x) and _is_narrow(self.weight) else y

    def extra_repr(self) -> str:
        return f"{self.dim}, eps={self.eps}"


class BatchNorm1d(_Norm):
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
        super().__init__(dim, eps, device, dtype)
        require_number("BatchNorm1d", "momentum in [0, 1]", momentum, lambda m: 0 <= m <= 1)
        self.momentum = momentum
        self.running_mean = init.zeros(dim, device=device, dtype=dtype)
        self.running_var = init.ones(dim, device=device, dtype=dtype)

    def forward(self, x: Tensor) -> Tensor:
        require_tensors("BatchNorm1d", x)
        if x.ndim != 2 or x.shape[1] != self.dim:
            raise ShapeError(f"BatchNorm1d: expected x [B, {self.dim}], got {describe(x)}.")
        if self.training and x.shape[0] == 0:
            raise ShapeError(f"BatchNorm1d: expected a batch of 1 or more, got {describe(x)}.")
        statistics = self._batch_statistics if self.training else self._running_statistics
        centred, var = statistics(_widened(x))
        scale = self.weight / (var + self.eps).sqrt()
        return self._narrowed(centred * scale + self.bias, x)

    def _running_statistics(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """x less the running mean, and the running variance."""
        return x - self.running_mean, _widened(self.running_var)

    def _batch_statistics(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """x less its mean, and its variance; the running statistics move towards them."""
        mean = x.mean(0)
        centred = x - mean
        var = (centred * centred).mean(0)
        if not modes.recomputing():
            self.running_mean = self._moved(self.running_mean, mean)
            self.running_var = self._moved(self.running_var, var)
        return centred, var

    def _moved(self, running: Tensor, batch: Tensor) -> Tensor:
        moved = running * (1 - self.momentum) + batch.detach() * self.momentum
        return moved.detach().astype(running.dtype)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, momentum={self.momentum}"


class LayerNorm1d(_Norm):
    """y = weight · (x - E[x]) / √(Var[x] + eps) + bias, over the last axis of each row.

    x: (..., dim) -> y: (..., dim); the variance is the biased one
    weight: (dim,) ones; bias: (dim,) zeros

    Ba, Kiros and Hinton, "Layer Normalization", 2016.
    """

    def __init__(
        self, dim: int, eps: float = 1e-5, device: Any = None, dtype: Any = "float32"
    ) -> None:
        super().__init__(dim, eps, device, dtype)

    def forward(self, x: Tensor) -> Tensor:
        require_tensors("LayerNorm1d", x)
        if x.ndim == 0 or x.shape[-1] != self.dim:
            raise ShapeError(f"LayerNorm1d: expected x [..., {self.dim}], got {describe(x)}.")
        wide = _widened(x)
        centred = wide - wide.mean(-1, keepdims=True)
        var = (centred * centred).mean(-1, keepdims=True)
        return self._narrowed(centred / (var + self.eps).sqrt() * self.weight + self.bias, x)


def _is_narrow(x: Tensor) -> bool:
    return is_floating(x.dtype) and x.dtype.itemsize < 4


def _widened(x: Tensor) -> Tensor:
    return x.astype("float32") if _is_narrow(x) else x

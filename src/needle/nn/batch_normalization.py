"""Layers that give each channel mean 0 and variance 1, with running statistics for evaluation."""

from __future__ import annotations

import math
from typing import Any

from needle import init
from needle.autograd import Tensor, modes, no_grad
from needle.errors import OptionError, ShapeError, describe
from needle.nn.checks import require_number, require_positive, shown_options
from needle.nn.normalization import Norm, Shape

__all__ = ["BatchNorm1d", "BatchNorm2d", "InstanceNorm1d", "InstanceNorm2d"]


class _ChannelNorm(Norm):
    """Base: a weight for each of `dim` channels, and running statistics for evaluation."""

    usual = True  # affine and track_running_stats, where nothing is said

    def __init__(
        self, dim: int, eps: float, momentum: float, affine: bool, track: bool, *where: Any
    ) -> None:
        name = type(self).__name__
        require_positive(name, dim=dim)
        super().__init__(eps, (dim,), bool(affine), bool(affine), *where)
        require_number(name, "momentum in [0, 1]", momentum, lambda m: 0 <= m <= 1)
        self.dim, self.momentum = dim, momentum
        self.affine, self.track_running_stats = bool(affine), bool(track)
        device, dtype = where
        self.running_mean = init.zeros(dim, device=device, dtype=dtype) if track else None
        self.running_var = init.ones(dim, device=device, dtype=dtype) if track else None

    def _with_running_statistics(self, x: Tensor, axes: tuple[int, ...], shape: Shape) -> Tensor:
        """x normalised over `axes` by the running statistics in place of those of x."""
        assert self.running_mean is not None
        assert self.running_var is not None
        return self._standardize(x, axes, shape, self.running_mean, self.running_var)

    def _require_elements(self, x: Tensor, count: int, least: int) -> None:
        """Raise ShapeError unless each channel has so many elements."""
        if count < least:
            raise ShapeError(
                f"{type(self).__name__}: expected {least} or more elements in each channel, "
                f"got {describe(x)}."
            )

    def _track(self, mean: Tensor, var: Tensor) -> None:
        """Move the running statistics towards those of a batch, of shape (dim,)."""
        with no_grad():
            self.running_mean = self._moved(self.running_mean, mean)
            self.running_var = self._moved(self.running_var, var)

    def _moved(self, running: Any, batch: Tensor) -> Tensor:
        moved: Tensor = running * (1 - self.momentum) + batch * self.momentum
        return moved.detach().astype(running.dtype)

    def extra_repr(self) -> str:
        usual = {"affine": self.usual, "track_running_stats": self.usual}
        return f"{self.dim}, eps={self.eps}, momentum={self.momentum}{shown_options(self, **usual)}"


class BatchNorm1d(_ChannelNorm):
    """y = weight · (x - E[x]) / √(Var[x] + eps) + bias, over the batch.

    x: (B, dim) or (B, dim, L) -> y: the same shape; E and Var of each channel, over B and L
    weight: (dim,) ones; bias: (dim,) zeros; None without affine
    running_mean, running_var: (dim,); in training r ← (1 - momentum) r + momentum · batch's, with
    the biased variance (÷ B; PyTorch keeps the unbiased one), in evaluation they replace E and Var.
    None without track_running_stats: then E and Var are those of x in evaluation too

    Of one element (in training a batch of one row, or of one image of a single place), y is the
    bias, and Var 0: such a batch teaches nothing. PyTorch refuses it.

    Ioffe and Szegedy, "Batch Normalization", 2015, algorithm 1.
    """

    axes, hint = "B, {}", " Or [B, {}, L]."  # of x, in messages
    ranks: tuple[int, ...] = (2, 3)  # how many axes x may have

    def __init__(
        self,
        dim: int,
        eps: float = 1e-5,
        momentum: float = 0.1,
        device: Any = None,
        dtype: Any = "float32",
        *,
        affine: bool = True,
        track_running_stats: bool = True,
    ) -> None:
        if isinstance(device, bool):  # by place, as PyTorch's affine
            raise OptionError(
                f"{type(self).__name__}: expected a device, got {device}. PyTorch has affine in "
                f"this place; here: affine={device}."
            )
        super().__init__(dim, eps, momentum, affine, track_running_stats, device, dtype)

    def forward(self, x: Tensor) -> Tensor:
        self._require_input(
            x,
            f"[{self.axes.format(self.dim)}]",
            lambda x: x.ndim in self.ranks and x.shape[1] == self.dim,
            self.hint.format(self.dim),
        )
        axes, shape = (0, *range(2, x.ndim)), (self.dim, *(1,) * (x.ndim - 2))
        if self.running_mean is not None and not self.training:
            return self._with_running_statistics(x, axes, shape)
        self._require_elements(x, math.prod([x.shape[axis] for axis in axes]), least=1)
        y, (mean, var) = self._normalize(x, axes, shape)
        if self.running_mean is not None and not modes.recomputing():
            self._track(mean.reshape((self.dim,)), var.reshape((self.dim,)))
        return y


class BatchNorm2d(BatchNorm1d):
    """y = weight · (x - E[x]) / √(Var[x] + eps) + bias, over the batch and the image.

    x: (N, dim, H, W) -> y: the same shape; E and Var of each channel, over N, H and W. Where x lies
    in memory with the channels last, as `Conv` leaves it, so does y.
    weight, bias, running_mean, running_var: those of `BatchNorm1d`
    """

    axes, hint = "N, {}, H, W", ""
    ranks = (4,)


class _InstanceNorm(_ChannelNorm):
    """Base: every channel of every sample by itself; x may come without the axis of samples."""

    spatial: int  # how many axes follow that of the channels
    usual = False

    def __init__(
        self,
        dim: int,
        eps: float = 1e-5,
        momentum: float = 0.1,
        affine: bool = False,
        track_running_stats: bool = False,
        device: Any = None,
        dtype: Any = "float32",
    ) -> None:
        super().__init__(dim, eps, momentum, affine, track_running_stats, device, dtype)

    def forward(self, x: Tensor) -> Tensor:
        spatial = self.spatial
        image = f"{self.dim}, L" if spatial == 1 else f"{self.dim}, H, W"
        self._require_input(
            x,
            f"[N, {image}] or [{image}]",
            lambda x: x.ndim - spatial in (1, 2) and x.shape[-spatial - 1] == self.dim,
        )
        axes, shape = tuple(range(x.ndim - spatial, x.ndim)), (self.dim, *(1,) * spatial)
        if self.running_mean is not None and not self.training:
            return self._with_running_statistics(x, axes, shape)
        count = math.prod(x.shape[-spatial:])
        self._require_elements(x, count, least=2)
        y, moments = self._normalize(x, axes, shape)
        if self.running_mean is not None and x.shape[0] and not modes.recomputing():
            with no_grad():
                mean, var = [m.reshape((-1, self.dim)).mean(0) for m in moments]
                self._track(mean, var * (count / (count - 1)))
        return y


class InstanceNorm1d(_InstanceNorm):
    """y = weight · (x - E[x]) / √(Var[x] + eps) + bias, each channel of each sample by itself.

    x: (N, dim, L) or (dim, L) -> y: the same shape; E and Var over L
    weight: (dim,) ones; bias: (dim,) zeros; None without affine
    running_mean, running_var: (dim,), with track_running_stats: averages over the batch move them
    as in `BatchNorm1d`, but with the unbiased variance, as PyTorch's; in evaluation they replace
    E and Var. None otherwise

    Ulyanov, Vedaldi and Lempitsky, "Instance Normalization", 2016.
    """

    spatial = 1


class InstanceNorm2d(_InstanceNorm):
    """y = weight · (x - E[x]) / √(Var[x] + eps) + bias, each channel of each image by itself.

    x: (N, dim, H, W) or (dim, H, W) -> y: the same shape; E and Var over H and W
    weight, bias, running_mean, running_var: those of `InstanceNorm1d`
    """

    spatial = 2

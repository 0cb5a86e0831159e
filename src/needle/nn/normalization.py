"""Layers that give each sample mean 0 and variance 1, then a learned scale and shift."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from needle import init
from needle.autograd import Tensor, TensorTuple
from needle.errors import OptionError, ShapeError, describe
from needle.nn.checks import (
    require_float_dtype,
    require_number,
    require_positive,
    require_tensors,
    shown_options,
)
from needle.nn.module import Module, Parameter
from needle.ops import Normalize, Standardize

__all__ = ["GroupNorm", "LayerNorm", "LayerNorm1d", "RMSNorm"]

Shape = tuple[int, ...]


class Norm(Module):
    """Base: eps, and the learned scale and shift, either of which may be None.

    For floats of less than 32 bits all is computed in float32: a square overflows float16 from
    256 on.
    """

    weight: Parameter | None
    bias: Parameter | None

    def __init__(
        self, eps: float, shape: Shape, weight: bool, bias: bool, device: Any, dtype: Any
    ) -> None:
        super().__init__()
        name = type(self).__name__
        require_number(name, "eps of 0 or more", eps, lambda eps: eps >= 0)
        require_float_dtype(name, dtype)
        self.eps = eps
        self.weight = Parameter(init.ones(*shape, device=device, dtype=dtype)) if weight else None
        self.bias = Parameter(init.zeros(*shape, device=device, dtype=dtype)) if bias else None

    def _normalize(
        self, x: Tensor, axes: Sequence[int], shape: Shape, centre: bool = True
    ) -> tuple[Tensor, TensorTuple]:
        """x normalised over `axes` (0..ndim-1), and its moments; weight and bias as of `shape`."""
        affine = _in_shape(shape, self.weight), _in_shape(shape, self.bias)
        return Normalize(axes, self.eps, centre).with_moments(x, *affine)

    def _standardize(
        self, x: Tensor, axes: Sequence[int], shape: Shape, mean: Tensor, var: Tensor
    ) -> Tensor:
        """As `_normalize`, by a mean and a variance that are known."""
        affine = _in_shape(shape, self.weight), _in_shape(shape, self.bias)
        known = [_in_shape(shape, mean), _in_shape(shape, var)]
        return Standardize(axes, self.eps).with_affine(x, known, *affine)

    def _require_input(
        self, x: Any, shown: str, fits: Callable[[Tensor], bool], hint: str = ""
    ) -> None:
        """Raise DTypeError unless x is a Tensor, ShapeError unless its shape fits."""
        name = type(self).__name__
        require_tensors(name, x)
        if not fits(x):
            raise ShapeError(f"{name}: expected x {shown}, got {describe(x)}.{hint}")


class _LastAxesNorm(Norm):
    """Base: normalisation over the last axes, with a weight for each place in them."""

    centre = True

    def __init__(
        self, shape: int | Sequence[int], eps: float, weight: Any, bias: Any, *where: Any
    ) -> None:
        extents = tuple(shape) if isinstance(shape, (tuple, list)) else (shape,)
        for extent in extents or (None,):
            require_positive(type(self).__name__, normalized_shape=extent)
        super().__init__(eps, extents, bool(weight), bool(weight and bias), *where)
        self.normalized_shape, self.elementwise_affine = extents, bool(weight)

    def forward(self, x: Tensor) -> Tensor:
        shape = self.normalized_shape
        shown = f"[..., {', '.join(map(str, shape))}]"
        self._require_input(x, shown, lambda x: x.shape[-len(shape) :] == shape)
        axes = range(x.ndim - len(shape), x.ndim)
        return self._normalize(x, axes, shape, self.centre)[0]

    def extra_repr(self) -> str:
        shape = self.normalized_shape
        shown = f"{shape[0] if len(shape) == 1 else shape}, eps={self.eps}"
        return shown + shown_options(self, elementwise_affine=True)


class LayerNorm(_LastAxesNorm):
    """y = weight · (x - E[x]) / √(Var[x] + eps) + bias, over the last axes of each sample.

    x: (..., *normalized_shape) -> y: the same shape; the variance is the biased one
    weight: normalized_shape, ones; bias: normalized_shape, zeros; both None without
    elementwise_affine, the bias alone with bias=False

    Ba, Kiros and Hinton, "Layer Normalization", 2016.
    """

    def __init__(
        self,
        normalized_shape: int | Sequence[int],
        eps: float = 1e-5,
        elementwise_affine: bool = True,
        bias: bool = True,
        device: Any = None,
        dtype: Any = "float32",
    ) -> None:
        super().__init__(normalized_shape, eps, elementwise_affine, bias, device, dtype)

    def extra_repr(self) -> str:
        without = self.elementwise_affine and self.bias is None
        return super().extra_repr() + (", bias=False" if without else "")


class LayerNorm1d(LayerNorm):
    """`LayerNorm` over the last axis of each row.

    x: (..., dim) -> y: (..., dim)
    weight: (dim,) ones; bias: (dim,) zeros
    """

    def __init__(
        self, dim: int, eps: float = 1e-5, device: Any = None, dtype: Any = "float32"
    ) -> None:
        require_positive("LayerNorm1d", dim=dim)
        super().__init__(dim, eps, device=device, dtype=dtype)
        self.dim = dim


class RMSNorm(_LastAxesNorm):
    """y = weight · x / √(E[x²] + eps), over the last axes of each sample.

    x: (..., *normalized_shape) -> y: the same shape
    weight: normalized_shape, ones; None without elementwise_affine

    Zhang and Sennrich, "Root Mean Square Layer Normalization", 2019, eq. 4.
    """

    centre = False

    def __init__(
        self,
        normalized_shape: int | Sequence[int],
        eps: float = 1e-5,
        elementwise_affine: bool = True,
        device: Any = None,
        dtype: Any = "float32",
    ) -> None:
        super().__init__(normalized_shape, eps, elementwise_affine, False, device, dtype)


class GroupNorm(Norm):
    """y = weight · (x - E[x]) / √(Var[x] + eps) + bias, over groups of channels of each sample.

    x: (N, num_channels, ...) -> y: the same shape; E and Var over the num_channels / num_groups
    channels of a group and all that follows; num_groups = 1 is a layer norm, num_channels an
    instance norm
    weight: (num_channels,) ones; bias: (num_channels,) zeros; None without affine

    Wu and He, "Group Normalization", 2018.
    """

    def __init__(
        self,
        num_groups: int,
        num_channels: int,
        eps: float = 1e-5,
        affine: bool = True,
        device: Any = None,
        dtype: Any = "float32",
    ) -> None:
        require_positive("GroupNorm", num_groups=num_groups, num_channels=num_channels)
        if num_channels % num_groups:
            raise OptionError(
                f"GroupNorm: expected num_channels divisible by num_groups, got {num_channels} "
                f"channels and {num_groups} groups."
            )
        super().__init__(eps, (num_channels,), bool(affine), bool(affine), device, dtype)
        self.num_groups, self.num_channels, self.affine = num_groups, num_channels, bool(affine)

    def forward(self, x: Tensor) -> Tensor:
        shown = f"[N, {self.num_channels}, ...] with elements in each group"
        self._require_input(
            x,
            shown,
            lambda x: x.ndim > 1 and x.shape[1] == self.num_channels and 0 not in x.shape[2:],
        )
        shape = (self.num_groups, self.num_channels // self.num_groups, *x.shape[2:])
        groups = x.reshape((x.shape[0], *shape))
        of_affine = (*shape[:2], *(1,) * (x.ndim - 2))
        y, _ = self._normalize(groups, range(2, groups.ndim), of_affine)
        return y.reshape(x.shape)

    def extra_repr(self) -> str:
        shown = f"{self.num_groups}, {self.num_channels}, eps={self.eps}"
        return shown + shown_options(self, affine=True)


def _in_shape(shape: Shape, x: Any) -> Any:
    """A Tensor, or None, in a shape that broadcasts to the layer's input."""
    return x if x is None or x.shape == shape else x.reshape(shape)

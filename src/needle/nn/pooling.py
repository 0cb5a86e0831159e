"""Pooling layers: of each window of each channel, the largest element or the mean.

x (B, C, L) or (B, C, H, W) -> y (B, C, L') or (B, C, H', W'). Numbers are for both axes, or one
each in a tuple.
"""

from __future__ import annotations

from typing import Any

from needle import ops
from needle.autograd import Tensor
from needle.errors import ShapeError, describe
from needle.nn.checks import require_positive, require_tensors, shown_options
from needle.nn.module import Module
from needle.nn.spatial import SpatialLayer, channels_first, channels_last
from needle.ops.spatial import require_half_padding

__all__ = [
    "AdaptiveAvgPool1d",
    "AdaptiveAvgPool2d",
    "AdaptiveMaxPool1d",
    "AdaptiveMaxPool2d",
    "AvgPool1d",
    "AvgPool2d",
    "GlobalAvgPool",
    "GlobalMaxPool",
    "MaxPool1d",
    "MaxPool2d",
]


class _SpatialPool(SpatialLayer):
    """Base: pictures to pictures with the same channels."""

    def _pooled(self, x: Tensor) -> Tensor:
        """The operator on pictures with channels last."""
        raise NotImplementedError(f"{type(self).__name__}: _pooled(self, x) is not written.")

    def forward(self, x: Tensor) -> Tensor:
        pictures = self._pictures(x)
        try:
            return channels_first(self._pooled(pictures))
        except ShapeError as error:  # names the operator, and x as that has it
            said = str(error).partition(": ")[2]
            raise ShapeError(f"{type(self).__name__}: {said} x is {describe(x)}.") from None


class _Pool(_SpatialPool):
    """Base: the options of a window. A stride of None is the kernel's size."""

    def __init__(self, kernel_size: Any, stride: Any, padding: Any) -> None:
        super().__init__()
        self.kernel_size = self._numbers("kernel_size", kernel_size, 1)
        self.stride = self.kernel_size if stride is None else self._numbers("stride", stride, 1)
        self.padding = self._numbers("padding", padding, 0)
        for kernel, width in zip(self.kernel_size, self.padding, strict=True):
            require_half_padding(type(self).__name__, kernel, width)

    def extra_repr(self) -> str:
        shown = f"{self.kernel_size}, stride={self.stride}, padding={self.padding}"
        return shown + shown_options(self, **self._usual())

    def _usual(self) -> dict[str, Any]:
        """Further options, and the values that need no mention."""
        return {"ceil_mode": False}


class _MaxPool(_Pool):
    def __init__(
        self,
        kernel_size: Any,
        stride: Any = None,
        padding: Any = 0,
        dilation: Any = 1,
        ceil_mode: bool = False,
    ) -> None:
        super().__init__(kernel_size, stride, padding)
        self.dilation, self.ceil_mode = self._numbers("dilation", dilation, 1), bool(ceil_mode)

    def _pooled(self, x: Tensor) -> Tensor:
        return ops.max_pool(
            x, self.kernel_size, self.stride, self.padding, self.dilation, self.ceil_mode
        )

    def _usual(self) -> dict[str, Any]:
        return {"dilation": (1,) * self.spatial, **super()._usual()}


class MaxPool1d(_MaxPool):
    """y = the largest element of each window along one axis; what lies outside counts as -∞.

    x: (B, C, L) -> y: (B, C, L'),
    L' = (L + 2 padding - dilation (kernel_size - 1) - 1) / stride + 1, rounded down, or up with
    ceil_mode
    stride: the kernel's size, if not given; padding: at most half of it
    The gradient goes to the first of a window's largest elements.
    """

    spatial = 1


class MaxPool2d(_MaxPool):
    """y = the largest element of each window; what lies outside counts as -∞.

    x: (B, C, H, W) -> y: (B, C, H', W'), H' as L' of `MaxPool1d`, which has the same options.
    The gradient goes to the first of a window's largest elements, row by row.
    """

    spatial = 2


class _AvgPool(_Pool):
    def __init__(
        self,
        kernel_size: Any,
        stride: Any = None,
        padding: Any = 0,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
        divisor_override: int | None = None,
    ) -> None:
        super().__init__(kernel_size, stride, padding)
        if divisor_override is not None:
            require_positive(type(self).__name__, divisor_override=divisor_override)
        self.ceil_mode, self.count_include_pad = bool(ceil_mode), bool(count_include_pad)
        self.divisor_override = divisor_override

    def _pooled(self, x: Tensor) -> Tensor:
        return ops.avg_pool(
            x,
            self.kernel_size,
            self.stride,
            self.padding,
            self.ceil_mode,
            self.count_include_pad,
            self.divisor_override,
        )

    def _usual(self) -> dict[str, Any]:
        return {**super()._usual(), "count_include_pad": True, "divisor_override": None}


class AvgPool1d(_AvgPool):
    """y = the mean of each window along one axis; what lies outside counts as 0.

    x: (B, C, L) -> y: (B, C, L'), L' = (L + 2 padding - kernel_size) / stride + 1, rounded down,
    or up with ceil_mode
    stride: the kernel's size, if not given; padding: at most half of it

    count_include_pad  False: padding does not count among the places that a sum is divided by
    divisor_override   what sums are divided by instead
    """

    spatial = 1


class AvgPool2d(_AvgPool):
    """y = the mean of each window; what lies outside counts as 0.

    x: (B, C, H, W) -> y: (B, C, H', W'), H' as L' of `AvgPool1d`, which has the same options.
    """

    spatial = 2


class _AdaptivePool(_SpatialPool):
    """Base: how many windows there are along each axis; None: as many as places."""

    def __init__(self, output_size: Any) -> None:
        super().__init__()
        several = isinstance(output_size, (tuple, list))
        self.output_size = tuple(output_size) if several else (output_size,) * self.spatial
        self._numbers("output_size", [1 if m is None else m for m in self.output_size], 1)

    def extra_repr(self) -> str:
        return f"{self.output_size}"


class _AdaptiveAvgPool(_AdaptivePool):
    def _pooled(self, x: Tensor) -> Tensor:
        return ops.adaptive_avg_pool(x, self.output_size)


class _AdaptiveMaxPool(_AdaptivePool):
    def _pooled(self, x: Tensor) -> Tensor:
        return ops.adaptive_max_pool(x, self.output_size)


class AdaptiveAvgPool1d(_AdaptiveAvgPool):
    """y = the means of `output_size` windows along one axis.

    x: (B, C, L) -> y: (B, C, m); window i is from ⌊i L / m⌋ to ⌈(i + 1) L / m⌉
    """

    spatial = 1


class AdaptiveAvgPool2d(_AdaptiveAvgPool):
    """y = the means of `output_size` windows, a grid of them that covers the picture.

    x: (B, C, H, W) -> y: (B, C, *output_size); windows along each axis as in `AdaptiveAvgPool1d`
    output_size: a number for both axes, or one each; None: as many as there are places
    """

    spatial = 2


class AdaptiveMaxPool1d(_AdaptiveMaxPool):
    """y = the largest elements of `output_size` windows, those of `AdaptiveAvgPool1d`.

    x: (B, C, L) -> y: (B, C, m)
    """

    spatial = 1


class AdaptiveMaxPool2d(_AdaptiveMaxPool):
    """y = the largest elements of `output_size` windows, those of `AdaptiveAvgPool2d`.

    x: (B, C, H, W) -> y: (B, C, *output_size)
    """

    spatial = 2


class _GlobalPool(Module):
    def __init__(self, keepdims: bool = False) -> None:
        super().__init__()
        self.keepdims = keepdims

    def _spatial_axes(self, x: Any) -> tuple[int, ...]:
        name = type(self).__name__
        require_tensors(name, x)
        if x.ndim < 3 or 0 in x.shape[2:]:
            raise ShapeError(f"{name}: expected x [B, C, 1 or more, ...], got {describe(x)}.")
        return tuple(range(2, x.ndim))

    def extra_repr(self) -> str:
        return "keepdims=True" if self.keepdims else ""


class GlobalAvgPool(_GlobalPool):
    """y = the mean of each channel.

    x: (B, C, *spatial) -> y: (B, C), or (B, C, 1, ...) with keepdims
    Lin, Chen and Yan, "Network In Network", 2014, section 3.2.
    """

    def forward(self, x: Tensor) -> Tensor:
        return x.mean(self._spatial_axes(x), keepdims=self.keepdims)


class GlobalMaxPool(_GlobalPool):
    """y = the largest element of each channel. The gradient goes to the first of equals.

    x: (B, C, *spatial) -> y: (B, C), or (B, C, 1, ...) with keepdims
    """

    def forward(self, x: Tensor) -> Tensor:
        axes = self._spatial_axes(x)
        kept = (1,) * len(axes) if self.keepdims else ()
        return ops.adaptive_max_pool(channels_last(x), 1).reshape((*x.shape[:2], *kept))

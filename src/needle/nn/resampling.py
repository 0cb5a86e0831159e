"""Layers that change the resolution of pictures (B, C, L) or (B, C, H, W)."""

from __future__ import annotations

from typing import Any

from needle import ops
from needle.autograd import Tensor
from needle.errors import OptionError, ShapeError, describe
from needle.nn.checks import require_positive, require_tensors, shown_options
from needle.nn.module import Module
from needle.nn.spatial import SpatialLayer, channels_first, channels_last

__all__ = ["PixelShuffle", "PixelUnshuffle", "Upsample"]


class Upsample(Module):
    """Pictures with more places along each spatial axis, or fewer.

    x: (B, C, *spatial) -> y: (B, C, *m), m = size, or n · scale_factor rounded down

    size, scale_factor  one of the two: a number, or one for each spatial axis
    mode                "nearest": the element at ⌊i n / m⌋, "nearest-exact": at ⌊(i + 1/2) n / m⌋,
                        "linear" (B, C, L), "bilinear" (B, C, H, W), "trilinear" (B, C, D, H, W):
                        on the line between the elements around (i + 1/2) n / m - 1/2
    align_corners       of the linear modes: True takes first to first, last to last

    >>> import needle as ndl
    >>> ndl.nn.Upsample(scale_factor=2, mode="bilinear")(ndl.init.ones(5, 3, 8, 8)).shape
    (5, 3, 16, 16)
    """

    def __init__(
        self,
        size: Any = None,
        scale_factor: Any = None,
        mode: str = "nearest",
        align_corners: bool | None = None,
    ) -> None:
        super().__init__()
        if (size is None) == (scale_factor is None):
            raise OptionError(
                f"Upsample: expected size or scale_factor, got {size!r} and {scale_factor!r}."
            )
        self.size, self.scale_factor = size, scale_factor
        self.mode, self.align_corners = mode, bool(align_corners)

    def forward(self, x: Tensor) -> Tensor:
        require_tensors("Upsample", x)
        if x.ndim < 3:
            raise ShapeError(f"Upsample: expected x [B, C, 1 axis or more], got {describe(x)}.")
        y = ops.interpolate(
            channels_last(x), self.size, self.scale_factor, self.mode, self.align_corners
        )
        return channels_first(y)

    def extra_repr(self) -> str:
        usual = {"size": None, "scale_factor": None, "mode": None, "align_corners": False}
        return shown_options(self, **usual)[2:]


class PixelShuffle(SpatialLayer):
    """(B, C r², H, W) -> (B, C, H r, W r): r² channels become r by r places, r the factor.

    Channel c r² + r i + j becomes row i and column j of channel c.
    Shi et al., "Real-Time Single Image Super-Resolution", 2016, eq. 4.
    """

    def __init__(self, upscale_factor: int) -> None:
        super().__init__()
        require_positive("PixelShuffle", upscale_factor=upscale_factor)
        self.upscale_factor = upscale_factor

    def forward(self, x: Tensor) -> Tensor:
        return channels_first(ops.pixel_shuffle(self._pictures(x), self.upscale_factor))

    def extra_repr(self) -> str:
        return f"upscale_factor={self.upscale_factor}"


class PixelUnshuffle(SpatialLayer):
    """(B, C, H r, W r) -> (B, C r², H, W): what `PixelShuffle` undoes."""

    def __init__(self, downscale_factor: int) -> None:
        super().__init__()
        require_positive("PixelUnshuffle", downscale_factor=downscale_factor)
        self.downscale_factor = downscale_factor

    def forward(self, x: Tensor) -> Tensor:
        return channels_first(ops.pixel_unshuffle(self._pictures(x), self.downscale_factor))

    def extra_repr(self) -> str:
        return f"downscale_factor={self.downscale_factor}"

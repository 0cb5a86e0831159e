"""Dropout of whole channels."""

from __future__ import annotations

from needle import init
from needle.autograd import Tensor
from needle.nn.layers import Dropout
from needle.nn.spatial import SpatialLayer
from needle.ops.attention import dropped

__all__ = ["Dropout1d", "Dropout2d"]


class _ChannelDropout(Dropout, SpatialLayer):
    def forward(self, x: Tensor) -> Tensor:
        self._pictures(x)  # raises unless it has the axes
        if not self.training or self.p == 0:
            return x
        channels = (*x.shape[:2], *[1] * self.spatial)
        return x * dropped(init.ones(*channels, device=x.device, dtype=x.dtype), self.p)


class Dropout1d(_ChannelDropout):
    """In training, zero each channel with probability p and divide the others by 1 - p.

    x: (B, C, L) -> y: the same shape
    Draws: `numpy.random.rand(B, C)`; a channel is kept where its draw is ≤ 1 - p.
    In evaluation, and with p = 0, it is x itself and nothing is drawn.

    Tompson et al., "Efficient Object Localization Using Convolutional Networks", 2015, section 3.2.
    """

    spatial = 1


class Dropout2d(_ChannelDropout):
    """In training, zero each channel with probability p and divide the others by 1 - p.

    x: (B, C, H, W) -> y: the same shape. Draws and source as for `Dropout1d`.
    """

    spatial = 2

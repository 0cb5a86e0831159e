"""Residual networks of convolutions, for images."""

from __future__ import annotations

import math
from typing import Any

from needle import init, nn, ops
from needle.autograd import Tensor
from needle.errors import ShapeError, describe
from needle.nn.checks import require_positive, require_tensors

__all__ = ["BasicBlock", "ConvBN", "ResNet9", "ResNet18"]


def ConvBN(
    in_channels: int,
    out_channels: int,
    kernel_size: int,
    stride: int,
    device: Any = None,
    dtype: Any = "float32",
) -> nn.Sequential:
    """y = relu(norm(conv(x))), the convolution padded to keep the extents at stride 1.

    x: (B, in_channels, H, W) -> y: (B, out_channels, ⌈H / stride⌉, ⌈W / stride⌉), odd kernels
    """
    return nn.Sequential(
        nn.Conv(in_channels, out_channels, kernel_size, stride, device=device, dtype=dtype),
        nn.BatchNorm2d(out_channels, device=device, dtype=dtype),
        nn.ReLU(),
    )


class ResNet9(nn.Module):
    """Nine layers with weights for images of 32 by 32: 431,946 parameters.

    x: (B, 3, 32, 32), or less high and wide -> logits (B, 10)
    Draws: the layers' own, in forward order.
    """

    def __init__(self, device: Any = None, dtype: Any = "float32") -> None:
        super().__init__()
        like = {"device": device, "dtype": dtype}
        self.layers = nn.Sequential(
            ConvBN(3, 16, 7, 4, **like),  # (B, 16, 8, 8)
            ConvBN(16, 32, 3, 2, **like),  # (B, 32, 4, 4)
            nn.Residual(nn.Sequential(ConvBN(32, 32, 3, 1, **like), ConvBN(32, 32, 3, 1, **like))),
            ConvBN(32, 64, 3, 2, **like),  # (B, 64, 2, 2)
            ConvBN(64, 128, 3, 2, **like),  # (B, 128, 1, 1)
            nn.Residual(
                nn.Sequential(ConvBN(128, 128, 3, 1, **like), ConvBN(128, 128, 3, 1, **like))
            ),
            nn.Flatten(),
            nn.Linear(128, 128, **like),
            nn.ReLU(),
            nn.Linear(128, 10, **like),
        )

    def forward(self, x: Tensor) -> Tensor:
        _require_images("ResNet9", x)
        if max(x.shape[2:]) > 32:  # what is left must be one place, for the linear layer
            raise ShapeError(f"ResNet9: expected images of at most 32 by 32, got {describe(x)}.")
        logits: Tensor = self.layers(x)
        return logits


class BasicBlock(nn.Module):
    """y = relu(norm(conv(relu(norm(conv(x))))) + shortcut(x)), with 3 by 3 convolutions.

    x: (B, in_channels, H, W) -> y: (B, channels, H / stride, W / stride)
    downsample: the shortcut, a 1 by 1 convolution and a norm where the shape changes; else None

    He et al., "Deep Residual Learning", 2016, figure 2 and option B.
    """

    def __init__(self, in_channels: int, channels: int, stride: int = 1, **like: Any) -> None:
        super().__init__()
        self.conv1 = _conv(in_channels, channels, 3, stride, **like)
        self.bn1 = nn.BatchNorm2d(channels, **like)
        self.conv2 = _conv(channels, channels, 3, 1, **like)
        self.bn2 = nn.BatchNorm2d(channels, **like)
        self.downsample: nn.Module | None = None
        if stride != 1 or in_channels != channels:
            self.downsample = nn.Sequential(
                _conv(in_channels, channels, 1, stride, **like), nn.BatchNorm2d(channels, **like)
            )

    def forward(self, x: Tensor) -> Tensor:
        y = ops.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        return ops.relu(y + (x if self.downsample is None else self.downsample(x)))


class ResNet18(nn.Module):
    """Eighteen layers with weights: a stem, four stages of two BasicBlocks, and a classifier.

    x: (B, 3, H, W) -> logits (B, num_classes)
    num_classes   how many classes there are; 11,173,962 parameters for 10
    small_images  True: a stem of one 3 by 3 convolution, for images of about 32 by 32. False: 7 by
                  7 at stride 2 and a max pooling, for about 224 by 224, as torchvision's resnet18

    Attributes have torchvision's names. Convolutions start from N(0, 2 / fan_out).
    He et al., "Deep Residual Learning", 2016, table 1 and section 4.2.
    """

    def __init__(
        self,
        num_classes: int = 10,
        *,
        small_images: bool = True,
        device: Any = None,
        dtype: Any = "float32",
    ) -> None:
        super().__init__()
        require_positive("ResNet18", num_classes=num_classes)
        like = {"device": device, "dtype": dtype}
        self.conv1 = _conv(3, 64, *((3, 1) if small_images else (7, 2)), **like)
        self.bn1 = nn.BatchNorm2d(64, **like)
        self.maxpool = nn.Identity() if small_images else nn.MaxPool2d(3, stride=2, padding=1)
        self.layer1 = _stage(64, 64, 1, **like)
        self.layer2 = _stage(64, 128, 2, **like)
        self.layer3 = _stage(128, 256, 2, **like)
        self.layer4 = _stage(256, 512, 2, **like)
        self.fc = nn.Linear(512, num_classes, **like)

    def forward(self, x: Tensor) -> Tensor:
        _require_images("ResNet18", x)
        x = self.maxpool(ops.relu(self.bn1(self.conv1(x))))  # (B, 64, H, W)
        x = self.layer2(self.layer1(x))  # (B, 128, H / 2, W / 2)
        x = self.layer4(self.layer3(x))  # (B, 512, H / 8, W / 8)
        logits: Tensor = self.fc(x.mean((2, 3)))  # (B, num_classes)
        return logits


def _conv(
    in_channels: int, out_channels: int, kernel_size: int, stride: int, **like: Any
) -> nn.Conv2d:
    """A convolution without bias (the norm behind it has one) from He's initial weights."""
    conv = nn.Conv2d(
        in_channels, out_channels, kernel_size, stride, kernel_size // 2, bias=False, **like
    )
    std = math.sqrt(2 / (out_channels * kernel_size**2))
    conv.weight = nn.Parameter(init.randn(*conv.weight.shape, std=std, **like))
    return conv


def _stage(in_channels: int, channels: int, stride: int, **like: Any) -> nn.Sequential:
    return nn.Sequential(
        BasicBlock(in_channels, channels, stride, **like), BasicBlock(channels, channels, **like)
    )


def _require_images(name: str, x: Tensor) -> None:
    require_tensors(name, x)
    if x.ndim != 4 or x.shape[1] != 3:
        raise ShapeError(f"{name}: expected images x [B, 3, H, W], got {describe(x)}.")
    if 0 in x.shape[2:]:
        raise ShapeError(f"{name}: expected images of 1 pixel or more, got {describe(x)}.")

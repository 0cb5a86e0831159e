"""Convolutional layers. Pictures are (B, C, *spatial), and lie in memory with channels last.

The layers turn their input to channels last, which is a view, and turn the result back: between two
of them nothing is copied. Kernels are (*K, in / groups, out), as `needle.ops.conv` takes them.
"""

from __future__ import annotations

import math
from typing import Any

from needle import init, ops
from needle.autograd import Tensor
from needle.errors import OptionError
from needle.nn.checks import require_positive, shown_options
from needle.nn.module import Parameter
from needle.nn.spatial import SpatialLayer, channels_first
from needle.ops.padding import extended
from needle.ops.spatial import pairs_of_widths

__all__ = ["Conv", "Conv1d", "Conv2d", "ConvTranspose1d", "ConvTranspose2d"]

_PADDING_MODES = ("zeros", "reflect", "replicate", "circular")


# -- the contract's layer ------------------------------------------------------------------------


class Conv(SpatialLayer):
    """y = the cross-correlation of x with square kernels, + bias, padded by (k - 1) // 2.

    x: (B, in_channels, H, W) -> y: (B, out_channels, H', W'), H' = (H + 2 p - k) // stride + 1
    weight: (k, k, in_channels, out_channels), kaiming_uniform with fan_in = in_channels k², drawn
    first
    bias: (out_channels,), U(±1/√(in_channels k²)); None with bias=False

    Of a tuple for kernel_size or stride, the first entry counts. `Conv2d` has all options.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Any,
        stride: Any = 1,
        bias: bool = True,
        device: Any = None,
        dtype: Any = "float32",
    ) -> None:
        super().__init__()
        k, step = _first(kernel_size), _first(stride)
        require_positive(
            "Conv", in_channels=in_channels, out_channels=out_channels, kernel_size=k, stride=step
        )
        self.in_channels, self.out_channels = in_channels, out_channels
        self.kernel_size, self.stride = k, step
        fan_in, fan_out = in_channels * k * k, out_channels * k * k
        shape, like = (k, k, in_channels, out_channels), {"device": device, "dtype": dtype}
        self.weight = Parameter(init.kaiming_uniform(fan_in, fan_out, shape, **like))
        self.bias = _drawn_bias(bias, out_channels, fan_in, like)

    def forward(self, x: Tensor) -> Tensor:
        padding = (self.kernel_size - 1) // 2
        y = ops.conv(self._pictures(x, self.in_channels), self.weight, self.stride, padding)
        return _result(y, self.bias)

    def extra_repr(self) -> str:
        bias = self.bias is not None
        return (
            f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, "
            f"stride={self.stride}, bias={bias}"
        )


def _first(size: Any) -> Any:
    return size[0] if isinstance(size, (tuple, list)) and size else size


def _drawn_bias(wanted: bool, channels: int, fan_in: int, like: dict[str, Any]) -> Parameter | None:
    """U(±1/√fan_in), or None."""
    bound = 1 / math.sqrt(fan_in)
    return Parameter(init.rand(channels, low=-bound, high=bound, **like)) if wanted else None


def _result(y: Tensor, bias: Parameter | None) -> Tensor:
    """y + bias with channels first."""
    return channels_first(y if bias is None else y + bias)


# -- convolution with all options ----------------------------------------------------------------


class _Conv(SpatialLayer):
    """Convolution over `spatial` axes.

    weight, then bias, are drawn from U(±1/√fan_in), fan_in the extent of the kernel times the
    next but last axis of the weight: PyTorch's defaults. Options stand in PyTorch's order.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Any,
        stride: Any = 1,
        padding: Any = 0,
        dilation: Any = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: str = "zeros",
        device: Any = None,
        dtype: Any = "float32",
    ) -> None:
        super().__init__()
        self._set_channels(in_channels, out_channels, groups)
        self.kernel_size = self._numbers("kernel_size", kernel_size, 1)
        self.stride = self._numbers("stride", stride, 1)
        self.dilation = self._numbers("dilation", dilation, 1)
        self.padding = self._checked_padding(padding)
        if not isinstance(padding_mode, str) or padding_mode not in _PADDING_MODES:
            raise OptionError(
                f"{type(self).__name__}: expected padding_mode of {', '.join(_PADDING_MODES)}, "
                f"got {padding_mode!r}."
            )
        self.padding_mode = padding_mode
        self._draw(bias, {"device": device, "dtype": dtype})

    def _set_channels(self, inputs: Any, outputs: Any, groups: Any) -> None:
        name = type(self).__name__
        require_positive(name, in_channels=inputs, out_channels=outputs, groups=groups)
        if inputs % groups or outputs % groups:
            raise OptionError(
                f"{name}: expected channels that {groups} groups divide, got "
                f"in_channels={inputs} and out_channels={outputs}."
            )
        self.in_channels, self.out_channels, self.groups = inputs, outputs, groups

    def _draw(self, bias: bool, like: dict[str, Any]) -> None:
        shape = (*self.kernel_size, *self._kernel_channels())
        fan_in = math.prod(shape[:-1])
        bound = 1 / math.sqrt(fan_in)
        self.weight = Parameter(init.rand(*shape, low=-bound, high=bound, **like))
        self.bias = _drawn_bias(bias, self.out_channels, fan_in, like)

    def _kernel_channels(self) -> tuple[int, int]:
        """The last two axes of the weight."""
        return self.in_channels // self.groups, self.out_channels

    def _checked_padding(self, padding: Any) -> Any:
        if not isinstance(padding, str):
            return self._widths(padding)
        name = type(self).__name__
        if padding not in ("same", "valid"):
            raise OptionError(f"{name}: expected padding 'same' or 'valid', got {padding!r}.")
        if padding == "same" and max(self.stride) > 1:
            raise OptionError(
                f"{name}: expected stride 1 with padding 'same', got {self.stride}. "
                "Give the padding as numbers."
            )
        return padding

    def _widths(self, padding: Any) -> Any:
        """One number for each spatial axis, or pairs of them where two differ."""
        pairs = pairs_of_widths(type(self).__name__, padding, self.spatial)
        alike = all(before == behind for before, behind in pairs)
        return tuple([before for before, _ in pairs]) if alike else tuple(pairs)

    def _pairs(self) -> list[tuple[int, int]]:
        """Places before and behind each spatial axis."""
        if self.padding == "valid":
            return [(0, 0)] * self.spatial
        if self.padding == "same":
            spans = [d * (k - 1) for d, k in zip(self.dilation, self.kernel_size, strict=True)]
            return [(span // 2, span - span // 2) for span in spans]
        return [w if isinstance(w, tuple) else (w, w) for w in self.padding]

    def forward(self, x: Tensor) -> Tensor:
        pictures, padding = self._pictures(x, self.in_channels), self._pairs()
        if self.padding_mode != "zeros":
            widths = [(0, 0), *padding, (0, 0)]
            pictures = extended(type(self).__name__, pictures, widths, self.padding_mode)
            padding = [(0, 0)] * self.spatial
        y = ops.conv(pictures, self.weight, self.stride, padding, self.dilation, self.groups)
        return _result(y, self.bias)

    def extra_repr(self) -> str:
        shown = f"{self.in_channels}, {self.out_channels}{shown_options(self, **self._usual())}"
        return shown + (", bias=False" if self.bias is None else "")

    def _usual(self) -> dict[str, Any]:
        """Options, and the values that need no mention."""
        zeros, ones = (0,) * self.spatial, (1,) * self.spatial
        return {
            "kernel_size": None,
            "stride": ones,
            "padding": zeros,
            "dilation": ones,
            "groups": 1,
            "padding_mode": "zeros",
        }


class Conv1d(_Conv):
    """y = the cross-correlation of x with kernels, + bias, along one axis.

    x: (B, in_channels, L) -> y: (B, out_channels, L'),
    L' = (L + 2 padding - dilation (kernel_size - 1) - 1) // stride + 1
    weight: (kernel_size, in_channels / groups, out_channels); bias: (out_channels,); both
    U(±1/√(kernel_size in_channels / groups)), the weight drawn first

    padding       a number, or a pair for each axis: ((before, behind),), as for a causal
                  convolution ((k - 1, 0),); or "same" (L' = L, for stride 1), or "valid" (0)
    groups        channels are cut into that many, each with kernels of its own; in_channels:
                  depthwise
    padding_mode  "zeros", "reflect", "replicate" or "circular"
    """

    spatial = 1


class Conv2d(_Conv):
    """y = the cross-correlation of x with kernels, + bias.

    x: (B, in_channels, H, W) -> y: (B, out_channels, H', W'),
    H' = (H + 2 padding - dilation (kernel_size - 1) - 1) // stride + 1
    weight: (*kernel_size, in_channels / groups, out_channels); bias: (out_channels,); both
    U(±1/√(places of the kernel · in_channels / groups)), the weight drawn first

    Numbers are for both axes, or one each in a tuple. Options as for `Conv1d`.

    >>> import needle as ndl
    >>> ndl.nn.Conv2d(3, 8, 3, stride=2, padding=1)(ndl.init.ones(5, 3, 32, 32)).shape
    (5, 8, 16, 16)
    """

    spatial = 2


# -- the adjoint ---------------------------------------------------------------------------------


class _ConvTranspose(_Conv):
    """The adjoint of convolution over `spatial` axes."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Any,
        stride: Any = 1,
        padding: Any = 0,
        output_padding: Any = 0,
        groups: int = 1,
        bias: bool = True,
        dilation: Any = 1,
        device: Any = None,
        dtype: Any = "float32",
    ) -> None:
        self.output_padding = self._numbers("output_padding", output_padding, 0)
        sizes = kernel_size, stride, padding, dilation
        super().__init__(
            in_channels, out_channels, *sizes, groups, bias, device=device, dtype=dtype
        )

    def _checked_padding(self, padding: Any) -> Any:
        for extra, s, d in zip(self.output_padding, self.stride, self.dilation, strict=True):
            if extra >= max(s, d):
                raise OptionError(
                    f"{type(self).__name__}: expected output_padding below stride or dilation, "
                    f"got {extra} with stride {s} and dilation {d}."
                )
        return self._widths(padding)

    def _kernel_channels(self) -> tuple[int, int]:
        return self.out_channels // self.groups, self.in_channels

    def forward(self, x: Tensor) -> Tensor:
        y = ops.conv_transpose(
            self._pictures(x, self.in_channels),
            self.weight,
            self.stride,
            self.padding,
            self.output_padding,
            self.dilation,
            self.groups,
        )
        return _result(y, self.bias)

    def _usual(self) -> dict[str, Any]:
        return {**super()._usual(), "output_padding": (0,) * self.spatial}


class ConvTranspose1d(_ConvTranspose):
    """y = what `Conv1d` with these options has as gradient by its input, + bias.

    x: (B, in_channels, L) -> y: (B, out_channels, L'), L' = (L - 1) stride - 2 padding
    + dilation (kernel_size - 1) + output_padding + 1
    weight: (kernel_size, out_channels / groups, in_channels); bias: (out_channels,); both
    U(±1/√(kernel_size out_channels / groups)), the weight drawn first

    output_padding  below stride or dilation: which of the L' that the convolution takes to L

    Dumoulin and Visin, "A guide to convolution arithmetic for deep learning", 2016, chapter 4.
    """

    spatial = 1


class ConvTranspose2d(_ConvTranspose):
    """y = what `Conv2d` with these options has as gradient by its input, + bias.

    x: (B, in_channels, H, W) -> y: (B, out_channels, H', W'), H' = (H - 1) stride - 2 padding
    + dilation (kernel_size - 1) + output_padding + 1
    weight: (*kernel_size, out_channels / groups, in_channels); bias: (out_channels,); both
    U(±1/√(places of the kernel · out_channels / groups)), the weight drawn first

    Numbers are for both axes, or one each in a tuple. Options as for `ConvTranspose1d`.
    """

    spatial = 2

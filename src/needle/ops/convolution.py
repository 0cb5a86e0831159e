"""Convolution: sums of products over windows. The array library contracts views of the windows.

Everything is the one trilinear form

    F(x, w, y) = Σ x[n, s·o + d·k - p, g, c] · w[k, c, g, f] · y[n, o, g, f]

over pictures n, places o in the result, places k in the kernel, groups g, channels c of the input
and f of the result; s, d, p are stride, dilation and padding. `Conv` is its derivative by y,
`ConvTranspose` by x, `ConvWeight` by w. So the gradient of each is the other two.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from needle.autograd.tensor import Tensor, TensorOp
from needle.backend_selection import Array, array_api, primitives
from needle.errors import OptionError, ShapeError, describe
from needle.ops.broadcasting import require_tensors, unbroadcast
from needle.ops.spatial import pairs_of_widths, whole_numbers
from needle.ops.window_geometry import Part, Windows, parts_of_picture, windows_on_picture

__all__ = [
    "Conv",
    "ConvTranspose",
    "ConvWeight",
    "conv",
    "conv_transpose",
]


class _Convolution(TensorOp):
    """The options, one per spatial axis once the number of axes is known."""

    def __init__(
        self, stride: Any = 1, padding: Any = 0, dilation: Any = 1, groups: int = 1
    ) -> None:
        self.stride, self.padding, self.dilation, self.groups = stride, padding, dilation, groups

    def _windows(self, spatial: Any, kernel: tuple[int, ...], places: Any = None) -> Windows:
        """How the windows of a kernel lie on a picture, `places` of them or all that fit."""
        strides = whole_numbers(self.name, "stride", self.stride, len(kernel), 1)
        pads = pairs_of_widths(self.name, self.padding, len(kernel))
        dilations = whole_numbers(self.name, "dilation", self.dilation, len(kernel), 1)
        return windows_on_picture(
            self.name, spatial, kernel, places, tuple(strides), tuple(pads), tuple(dilations)
        )

    def _require_groups(self, *channels: int) -> int:
        groups = whole_numbers(self.name, "groups", self.groups, 1, 1)[0]
        if any(count % groups for count in channels):
            raise ShapeError(
                f"{self.name}: expected channels that {groups} groups divide, got "
                f"{' and '.join(map(str, channels))}."
            )
        return groups

    def _same(self, kind: Any, *options: Any, **more: Any) -> Any:
        """Another of the three, with these strides and so on."""
        return kind(*options, self.stride, self.padding, self.dilation, self.groups, **more)


class Conv(_Convolution):
    """y[n, o, f] = Σ x[n, s·o + d·k - p, c] · w[k, c, f] over k and c: cross-correlation.

    x: (N, *spatial, Cin), 0 outside; w: (*kernel, Cin/groups, Cout) -> y: (N, *out, Cout) with
    out = (n + p_before + p_behind - d·(k - 1) - 1) // s + 1. Up to 8 spatial axes. A group of
    channels of y sees one group of x.

    stride, dilation  1 or more, for all spatial axes or one each
    padding           0 or more: a number, one for each axis, or pairs (before, behind)
    places            `out`, where only the first windows are wanted

    Gradient: dx = the transposed convolution of dy, dw = Σ of products of x's windows with dy.
    """

    expects = "x [N, *spatial, Cin] and w [*kernel, Cin/groups, Cout]"

    def __init__(
        self,
        stride: Any = 1,
        padding: Any = 0,
        dilation: Any = 1,
        groups: int = 1,
        places: Sequence[int] | None = None,
    ) -> None:
        super().__init__(stride, padding, dilation, groups)
        self.places = None if places is None else tuple(places)

    def compute(self, x: Array, w: Array) -> Array:
        kernel = _require_kernel(self, x, w)
        groups = self._require_groups(x.shape[-1], w.shape[-1])
        if w.shape[-2] * groups != x.shape[-1]:
            raise ShapeError(
                f"{self.name}: expected x [N, *spatial, {w.shape[-2] * groups}] for w and "
                f"{groups} groups, got {describe(x, w)}."
            )
        windows = self._windows(x.shape[1:-1], kernel, self.places)
        if windows.taps is not None:
            w = primitives.index(w, windows.taps)
        out, k, g = _letters(len(kernel), groups)
        y = primitives.einsum(
            f"{out}{g}c{k},{k}c{g}f->{out}{g}f", _view(x, windows, groups), _grouped(w, groups)
        )
        return _ungrouped(y, groups)

    def gradient(self, out_grad: Tensor, node: Tensor) -> Any:
        x, w = node.inputs
        dx = dw = None
        if x.requires_grad:
            dx = unbroadcast(self._same(ConvTranspose, x.shape[1:-1])(out_grad, w), x)
        if w.requires_grad:
            dw = unbroadcast(self._same(ConvWeight, w.shape[:-2])(x, out_grad), w)
        return dx, dw


class ConvTranspose(_Convolution):
    """x[n, s·o + d·k - p, c] += y[n, o, f] · w[k, c, f] for all o, k and f: `Conv`'s adjoint.

    y: (N, *out, Cout), w: (*kernel, Cin/groups, Cout) -> x: (N, *size, Cin). `size` is the spatial
    shape of a picture on which `Conv` with these options has `out` windows, or more: there y is 0.

    Places of x whose numbers leave the same rest by s see the same part of the kernel, and are a
    convolution with that part: nothing is multiplied by the zeros between strides.

    Gradient: dy = the convolution of dx, dw = Σ of products of dx's windows with y.
    """

    name = "conv_transpose"
    expects = "y [N, *out, Cout] and w [*kernel, Cin/groups, Cout]"

    def __init__(self, size: Sequence[int], *options: Any) -> None:
        super().__init__(*options)
        self.size = tuple(size)

    def compute(self, y: Array, w: Array) -> Array:
        kernel = _require_kernel(self, y, w)
        groups = self._require_groups(w.shape[-1])
        if w.shape[-1] != y.shape[-1]:
            raise ShapeError(
                f"{self.name}: expected y [N, *out, {w.shape[-1]}] for w, got {describe(y, w)}."
            )
        windows = self._windows(self.size, kernel, y.shape[1:-1])
        widths, parts = parts_of_picture(self.size, windows.axes)
        padded = y if widths is None else array_api.pad(y, widths)
        y, padded, w = [_grouped(array, groups) for array in (y, padded, w)]
        found = [_part(padded if part.padded else y, w, part, groups) for part in parts]
        shape = (y.shape[0], *self.size, w.shape[len(kernel)] * groups)
        if found[0].shape == shape:
            return found[0]
        return primitives.put_parts(shape, [part.places for part in parts], found, found[0])

    def gradient(self, out_grad: Tensor, node: Tensor) -> Any:
        y, w = node.inputs
        dy = dw = None
        if y.requires_grad:
            dy = unbroadcast(self._same(Conv, places=y.shape[1:-1])(out_grad, w), y)
        if w.requires_grad:
            dw = unbroadcast(self._same(ConvWeight, w.shape[:-2])(out_grad, y), w)
        return dy, dw


class ConvWeight(_Convolution):
    """w[k, c, f] = Σ x[n, s·o + d·k - p, c] · y[n, o, f] over n and o: what a kernel sees.

    x: (N, *spatial, Cin), 0 outside; y: (N, *out, Cout) -> w: (*kernel, Cin/groups, Cout). `out` is
    at most the number of windows.
    Gradient: dx = the transposed convolution of y with dw, dy = the convolution of x with dw.
    """

    name = "conv_weight"
    expects = "x [N, *spatial, Cin] and y [N, *out, Cout]"

    def __init__(self, kernel: Sequence[int], *options: Any) -> None:
        super().__init__(*options)
        self.kernel = tuple(kernel)

    def compute(self, x: Array, y: Array) -> Array:
        _require_kernel(self, x, y)
        if x.shape[0] != y.shape[0]:
            raise ShapeError(f"{self.name}: expected {self.expects}, got {describe(x, y)}.")
        groups = self._require_groups(x.shape[-1], y.shape[-1])
        windows = self._windows(x.shape[1:-1], self.kernel, y.shape[1:-1])
        out, k, g = _letters(len(self.kernel), groups)
        w = primitives.einsum(
            f"{out}{g}c{k},{out}{g}f->{k}c{g}f", _view(x, windows, groups), _grouped(y, groups)
        )
        w = _ungrouped(w, groups)
        if windows.taps is None:
            return w
        return primitives.put((*self.kernel, *w.shape[-2:]), windows.taps, w)

    def gradient(self, out_grad: Tensor, node: Tensor) -> Any:
        x, y = node.inputs
        dx = dy = None
        if x.requires_grad:
            dx = unbroadcast(self._same(ConvTranspose, x.shape[1:-1])(y, out_grad), x)
        if y.requires_grad:
            dy = unbroadcast(self._same(Conv, places=y.shape[1:-1])(x, out_grad), y)
        return dx, dy


# -- what the three share ------------------------------------------------------------------------

_PLACES, _TAPS = "opqrstuv", "hijklmwx"


def _view(x: Array, windows: Windows, groups: int) -> Array:
    """(N, *out, groups, C, *size), or without groups: windows on x, with zeros around it."""
    if windows.kept is not None:
        x = primitives.index(x, windows.kept)
    if windows.widths is not None:
        x = array_api.pad(x, windows.widths)
    return primitives.windows(
        _grouped(x, groups),
        range(1, len(windows.sizes) + 1),
        windows.sizes,
        windows.strides,
        windows.dilations,
    )


def _part(y: Array, w: Array, part: Part, groups: int) -> Array:
    """The picture at the places of a part. With groups, y and w have an axis for them."""
    ndim = len(part.sizes)
    view = primitives.windows(
        primitives.index(y, part.kept), range(1, ndim + 1), part.sizes, part.strides, part.apart
    )
    out, k, g = _letters(ndim, groups)
    taps = primitives.index(w, part.taps)
    return _ungrouped(primitives.einsum(f"{out}{g}f{k},{k}c{g}f->{out}{g}c", view, taps), groups)


def _letters(ndim: int, groups: int) -> tuple[str, str, str]:
    """Subscripts: of pictures and places in the result, of places in the kernel, of groups."""
    return "n" + _PLACES[:ndim], _TAPS[:ndim], "g" if groups > 1 else ""


def _grouped(x: Array, groups: int) -> Array:
    """The last axis as two: the group, and the channel in it. As it is where there is one group."""
    if groups == 1:
        return x
    return array_api.reshape(x, (*x.shape[:-1], groups, x.shape[-1] // groups))


def _ungrouped(x: Array, groups: int) -> Array:
    """The last two axes as one again."""
    return x if groups == 1 else array_api.reshape(x, (*x.shape[:-2], x.shape[-2] * x.shape[-1]))


def _require_kernel(op: TensorOp, x: Array, w: Array) -> tuple[int, ...]:
    """The spatial shape of the kernel."""
    if x.ndim != w.ndim or x.ndim < 3:
        raise ShapeError(f"{op.name}: expected {op.expects}, got {describe(x, w)}.")
    if x.ndim - 2 > len(_PLACES):
        raise ShapeError(
            f"{op.name}: expected at most {len(_PLACES)} spatial axes, got {describe(x, w)}."
        )
    return tuple(w.shape[:-2])


# -- functions -----------------------------------------------------------------------------------


def conv(
    a: Tensor, b: Tensor, stride: Any = 1, padding: Any = 1, dilation: Any = 1, groups: int = 1
) -> Tensor:
    """Cross-correlation of pictures a (N, *spatial, Cin) with kernels b (*K, Cin/groups, Cout).

    stride, dilation  an int, or one for each spatial axis
    padding           zeros around: an int, one per axis, or pairs (before, behind); 1 unless given,
                      while the class has 0

    Returns (N, *out, Cout) with out = (n + padding - dilation · (K - 1) - 1) // stride + 1.
    """
    return Conv(stride, padding, dilation, groups)(a, b)


def conv_transpose(
    a: Tensor,
    b: Tensor,
    stride: Any = 1,
    padding: Any = 0,
    output_padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Tensor:
    """The adjoint of `conv` as a layer: a (N, *spatial, Cin), b (*K, Cout/groups, Cin).

    Returns (N, *out, Cout) with out = (n - 1) · stride - padding + dilation · (K - 1) + 1 +
    output_padding. That is less than stride or dilation: how much longer the result is than the
    shortest that `conv` would bring to n.
    """
    _require_layer(a, b)
    ndim = a.ndim - 2
    strides = whole_numbers(_LAYER, "stride", stride, ndim, 1)
    dilations = whole_numbers(_LAYER, "dilation", dilation, ndim, 1)
    extra = whole_numbers(_LAYER, "output_padding", output_padding, ndim, 0)
    pads = pairs_of_widths(_LAYER, padding, ndim)
    if any(e >= max(s, d) for e, s, d in zip(extra, strides, dilations, strict=True)):
        raise OptionError(
            f"{_LAYER}: expected output_padding below stride or dilation, got {tuple(extra)} with "
            f"stride {tuple(strides)} and dilation {tuple(dilations)}."
        )
    spatial, kernel = a.shape[1:-1], b.shape[:-2]
    size = [
        (n - 1) * s - sum(pad) + d * (k - 1) + 1 + e
        for n, s, pad, d, k, e in zip(spatial, strides, pads, dilations, kernel, extra, strict=True)
    ]
    if min(size) < 0:
        raise ShapeError(
            f"{_LAYER}: expected padding that leaves a result, got {tuple(pads)}, which leaves "
            f"{tuple(size)} of {describe(a, b)}."
        )
    return ConvTranspose(size, strides, pads, dilations, groups)(a, b)


_LAYER = "conv_transpose"


def _require_layer(a: Any, b: Any) -> None:
    """Raise unless these may be the input of a transposed convolution and its weight."""
    require_tensors(_LAYER, a, b)
    if a.ndim < 3 or b.ndim != a.ndim or 0 in a.shape[1:-1]:
        raise ShapeError(
            f"{_LAYER}: expected a [N, *spatial, Cin] and b [*kernel, Cout/groups, Cin] with 1 or "
            f"more of each spatial axis, got {describe(a, b)}."
        )

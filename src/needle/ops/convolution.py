"""Convolution: sums of products over windows. The array library contracts views of the windows.

Everything is the one trilinear form

    F(x, w, y) = Σ x[n, s·o + d·k - p, g, c] · w[k, c, g, f] · y[n, o, g, f]

over pictures n, places o in the result, places k in the kernel, groups g, channels c of the input
and f of the result; s, d, p are stride, dilation and padding. `Conv` is its derivative by y,
`ConvTranspose` by x, `ConvWeight` by w. So the gradient of each is the other two.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import product
from typing import Any

from needle.autograd.tensor import Tensor, TensorOp
from needle.backend_selection import Array, array_api, primitives
from needle.errors import OptionError, ShapeError, describe
from needle.ops.spatial import pairs_of_widths, whole_numbers

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

    def _per_axis(self, ndim: int) -> tuple[list[int], list[tuple[int, int]], list[int]]:
        """Strides, paddings before and behind, dilations."""
        strides = whole_numbers(self.name, "stride", self.stride, ndim, 1)
        dilations = whole_numbers(self.name, "dilation", self.dilation, ndim, 1)
        return strides, pairs_of_widths(self.name, self.padding, ndim), dilations

    def _require_groups(self, *channels: int) -> int:
        groups = whole_numbers(self.name, "groups", self.groups, 1, 1)[0]
        if any(count % groups for count in channels):
            raise ShapeError(
                f"{self.name}: expected channels that {groups} groups divide, got "
                f"{' and '.join(map(str, channels))}."
            )
        return groups

    def _same(self, kind: Any, *options: Any) -> Any:
        """Another of the three, with these strides and so on."""
        return kind(*options, self.stride, self.padding, self.dilation, self.groups)


class Conv(_Convolution):
    """y[n, o, f] = Σ x[n, s·o + d·k - p, c] · w[k, c, f] over k and c: cross-correlation.

    x: (N, *spatial, Cin), 0 outside; w: (*kernel, Cin/groups, Cout) -> y: (N, *out, Cout) with
    out = (n + p_before + p_behind - d·(k - 1) - 1) // s + 1. Any number of spatial axes. A group of
    channels of y sees one group of x.

    stride, dilation  1 or more, for all spatial axes or one each
    padding           0 or more: a number, one for each axis, or pairs (before, behind)

    Gradient: dx = the transposed convolution of dy, dw = Σ of products of x's windows with dy.
    """

    expects = "x [N, *spatial, Cin] and w [*kernel, Cin/groups, Cout]"

    def compute(self, x: Array, w: Array) -> Array:
        kernel = _require_kernel(self, x, w)
        strides, pads, dilations = self._per_axis(len(kernel))
        groups = self._require_groups(x.shape[-1], w.shape[-1])
        if w.shape[-2] * groups != x.shape[-1]:
            raise ShapeError(
                f"{self.name}: expected x [N, *spatial, {w.shape[-2] * groups}] for w and "
                f"{groups} groups, got {describe(x, w)}."
            )
        _require_fit(self.name, x.shape[1:-1], kernel, pads, dilations)
        taps, pads = _seen(x.shape[1:-1], kernel, strides, pads, dilations)
        w = primitives.index(w, taps)
        view = primitives.windows(
            _grouped(_padded(x, pads), groups),
            range(1, x.ndim - 1), w.shape[:-2], strides, dilations,
        )  # fmt: skip
        out, k = _letters(len(kernel))
        y = primitives.einsum(f"{out}gc{k},{k}cgf->{out}gf", view, _grouped(w, groups))
        return array_api.reshape(y, (*y.shape[:-2], w.shape[-1]))

    def gradient(self, out_grad: Tensor, node: Tensor) -> Any:
        x, w = node.inputs
        return (
            self._same(ConvTranspose, x.shape[1:-1])(out_grad, w) if x.requires_grad else None,
            self._same(ConvWeight, w.shape[:-2])(x, out_grad) if w.requires_grad else None,
        )


class ConvTranspose(_Convolution):
    """x[n, s·o + d·k - p, c] += y[n, o, f] · w[k, c, f] for all o, k and f: `Conv`'s adjoint.

    y: (N, *out, Cout), w: (*kernel, Cin/groups, Cout) -> x: (N, *size, Cin). `size` is the spatial
    shape of a picture that `Conv` with these options takes to `out`.

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
        strides, pads, dilations = self._per_axis(len(kernel))
        groups = self._require_groups(w.shape[-1])
        if w.shape[-1] != y.shape[-1]:
            raise ShapeError(
                f"{self.name}: expected y [N, *out, {w.shape[-1]}] for w, got {describe(y, w)}."
            )
        _require_fit(self.name, self.size, kernel, pads, dilations)
        taps, pads = _seen(self.size, kernel, strides, pads, dilations)
        w = primitives.index(w, taps)
        spans = [
            [span for span in _spans(*numbers) if span.taps]
            for numbers in zip(
                self.size, y.shape[1:-1], w.shape[:-2], strides, pads, dilations, strict=True
            )
        ]
        y, w = _grouped(y, groups), _grouped(w, groups)
        keys = [tuple([span.places for span in chosen]) for chosen in product(*spans)]
        parts = [_part(y, w, chosen) for chosen in product(*spans)]
        if strides == [1] * len(strides):
            return parts[0]
        shape = (y.shape[0], *self.size, w.shape[-3] * groups)
        return primitives.put_parts(shape, [(slice(None), *key) for key in keys], parts, y)

    def gradient(self, out_grad: Tensor, node: Tensor) -> Any:
        y, w = node.inputs
        return (
            self._same(Conv)(out_grad, w) if y.requires_grad else None,
            self._same(ConvWeight, w.shape[:-2])(out_grad, y) if w.requires_grad else None,
        )


@dataclass(frozen=True)
class _Span:
    """Along one axis, the places of x whose number plus padding leaves one rest by the stride.

    places        of x
    taps          the places in the kernel that they see, which are those that leave the same rest
    apart         how far apart in y the taps of one window are
    before, behind  what y lacks for the windows; negative where it has more
    """

    places: slice
    taps: slice
    apart: int
    before: int
    behind: int


def _spans(
    size: int, out: int, kernel: int, stride: int, pad: tuple[int, int], dilation: int
) -> Iterator[_Span]:
    """The spans of an axis. With i + p = s·t + r and d·k = s·j + r, x's i meets y's o = t - j."""
    common = math.gcd(stride, dilation)
    for rest in range(stride):
        first = -((rest - pad[0]) // stride)  # the least t with a place of x
        count = (size - 1 + pad[0] - rest) // stride + 1 - first
        taps = [k for k in range(kernel) if (k * dilation - rest) % stride == 0]
        if not taps or count < 1:
            continue
        reach = (len(taps) - 1) * (dilation // common)
        before = (taps[0] * dilation - rest) // stride + reach - first
        yield _Span(
            places=slice(first * stride + rest - pad[0], None, stride),
            taps=slice(taps[0], None, stride // common),
            apart=dilation // common,
            before=before,
            behind=count + reach - before - out,
        )


def _part(y: Array, w: Array, spans: Sequence[_Span]) -> Array:
    """x at the places of these spans. y and w have an axis for groups."""
    axes = tuple(range(len(spans)))
    taps = primitives.index(w, tuple([span.taps for span in spans]))
    taps = array_api.flip(taps, axes)  # the next place in the kernel meets the one before in y
    view = primitives.windows(
        _padded(y, [(span.before, span.behind) for span in spans]),
        [axis + 1 for axis in axes],
        taps.shape[: len(axes)],
        [1 for _ in axes],
        [span.apart for span in spans],
    )
    out, k = _letters(len(axes))
    x = primitives.einsum(f"{out}gf{k},{k}cgf->{out}gc", view, taps)
    return array_api.reshape(x, (*x.shape[:-2], x.shape[-2] * x.shape[-1]))


class ConvWeight(_Convolution):
    """w[k, c, f] = Σ x[n, s·o + d·k - p, c] · y[n, o, f] over n and o: what a kernel sees.

    x: (N, *spatial, Cin), 0 outside; y: (N, *out, Cout) -> w: (*kernel, Cin/groups, Cout).
    Gradient: dx = the transposed convolution of y with dw, dy = the convolution of x with dw.
    """

    name = "conv_weight"
    expects = "x [N, *spatial, Cin] and y [N, *out, Cout]"

    def __init__(self, kernel: Sequence[int], *options: Any) -> None:
        super().__init__(*options)
        self.kernel = tuple(kernel)

    def compute(self, x: Array, y: Array) -> Array:
        _require_kernel(self, x, y)
        strides, pads, dilations = self._per_axis(x.ndim - 2)
        groups = self._require_groups(x.shape[-1], y.shape[-1])
        _require_fit(self.name, x.shape[1:-1], self.kernel, pads, dilations)
        taps, pads = _seen(x.shape[1:-1], self.kernel, strides, pads, dilations)
        seen = [len(range(k)[tap]) for k, tap in zip(self.kernel, taps, strict=True)]
        view = primitives.windows(
            _grouped(_padded(x, pads), groups), range(1, x.ndim - 1), seen, strides, dilations
        )
        out, k = _letters(len(seen))
        w = primitives.einsum(f"{out}gc{k},{out}gf->{k}cgf", view, _grouped(y, groups))
        w = array_api.reshape(w, (*w.shape[:-2], y.shape[-1]))
        if tuple(seen) == self.kernel:
            return w
        return primitives.put((*self.kernel, *w.shape[-2:]), taps, w)

    def gradient(self, out_grad: Tensor, node: Tensor) -> Any:
        x, y = node.inputs
        return (
            self._same(ConvTranspose, x.shape[1:-1])(y, out_grad) if x.requires_grad else None,
            self._same(Conv)(x, out_grad) if y.requires_grad else None,
        )


# -- what the three share ------------------------------------------------------------------------


def _letters(ndim: int) -> tuple[str, str]:
    """Subscripts: of pictures and places in the result, and of places in the kernel."""
    return "n" + "opqrstuv"[:ndim], "hijklmwx"[:ndim]


def _grouped(x: Array, groups: int) -> Array:
    """The last axis as two: the group, and the channel in it."""
    return array_api.reshape(x, (*x.shape[:-1], groups, x.shape[-1] // groups))


def _padded(x: Array, pads: Sequence[tuple[int, int]]) -> Array:
    """x with zeros around the spatial axes, which begin with the second; less where negative."""
    kept, widths = [slice(None)], [(0, 0)]
    for n, (before, behind) in zip(x.shape[1:], pads, strict=False):
        low, high = -before, n + behind  # the places that are wanted
        kept.append(slice(min(max(low, 0), n), min(max(high, 0), n)))
        widths.append((max(min(high, 0) - low, 0), max(high - max(low, n), 0)))
    if any(places != slice(0, n) for places, n in zip(kept[1:], x.shape[1:], strict=False)):
        x = primitives.index(x, tuple(kept))
    if not any(width for pair in widths for width in pair):
        return x
    return array_api.pad(x, [*widths, *[(0, 0)] * (x.ndim - len(widths))])


def _seen(
    spatial: Sequence[int],
    kernel: Sequence[int],
    strides: Sequence[int],
    pads: Sequence[tuple[int, int]],
    dilations: Sequence[int],
) -> tuple[tuple[slice, ...], list[tuple[int, int]]]:
    """The part of the kernel that any window lays on the picture, and the padding it needs.

    On small pictures the rest meets nothing but padding: of 3x3 places on a picture of one, eight.
    """
    found = [
        _seen_along(*numbers)
        for numbers in zip(spatial, kernel, strides, pads, dilations, strict=True)
    ]
    return tuple([taps for taps, _ in found]), [pad for _, pad in found]


@lru_cache(maxsize=4096)
def _seen_along(
    n: int, kernel: int, stride: int, pad: tuple[int, int], dilation: int
) -> tuple[slice, tuple[int, int]]:
    """The same along one axis."""
    before, behind = pad
    last = (n + before + behind - dilation * (kernel - 1) - 1) // stride
    seen = []
    for k in range(kernel):
        place = dilation * k - before  # in the first window, then in the first that reaches x
        place += stride * max(0, -(place // stride))
        if place < n and place <= dilation * k - before + stride * last:
            seen.append(k)
    if not seen:
        return slice(0, kernel), pad
    first, end = seen[0], seen[-1] + 1
    return slice(first, end), (before - dilation * first, behind - dilation * (kernel - end))


def _require_kernel(op: TensorOp, x: Array, w: Array) -> tuple[int, ...]:
    """The spatial shape of the kernel."""
    if x.ndim != w.ndim or x.ndim < 3:
        raise ShapeError(f"{op.name}: expected {op.expects}, got {describe(x, w)}.")
    return tuple(w.shape[:-2])


def _require_fit(
    name: str,
    spatial: Sequence[int],
    kernel: Sequence[int],
    pads: Sequence[tuple[int, int]],
    dilations: Sequence[int],
) -> None:
    """Raise ShapeError for a kernel that is empty, or larger than the padded picture."""
    for n, k, (before, behind), d in zip(spatial, kernel, pads, dilations, strict=True):
        if k < 1 or (k - 1) * d + 1 > n + before + behind:
            raise ShapeError(
                f"{name}: expected a kernel of 1 or more that fits into the padded picture, got "
                f"kernel {tuple(kernel)} with dilation {tuple(dilations)} for "
                f"{tuple(spatial)} padded by {tuple(pads)}."
            )


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
    output_padding. output_padding is less than stride or dilation: which of the sizes that `conv`
    would bring to n.
    """
    ndim = a.ndim - 2
    if ndim < 1 or b.ndim != a.ndim:
        raise ShapeError(
            "conv_transpose: expected a [N, *spatial, Cin] and b [*kernel, Cout/groups, Cin], "
            f"got {describe(a, b)}."
        )
    strides = whole_numbers("conv_transpose", "stride", stride, ndim, 1)
    dilations = whole_numbers("conv_transpose", "dilation", dilation, ndim, 1)
    extra = whole_numbers("conv_transpose", "output_padding", output_padding, ndim, 0)
    pads = pairs_of_widths("conv_transpose", padding, ndim)
    if any(e >= max(s, d) for e, s, d in zip(extra, strides, dilations, strict=True)):
        raise OptionError(
            "conv_transpose: expected output_padding below stride or dilation, got "
            f"{tuple(extra)} with stride {tuple(strides)} and dilation {tuple(dilations)}."
        )
    size = [
        (n - 1) * s - p[0] - p[1] + d * (k - 1) + 1 + e
        for n, s, p, d, k, e in zip(
            a.shape[1:-1], strides, pads, dilations, b.shape[:-2], extra, strict=True
        )
    ]
    return ConvTranspose(size, strides, pads, dilations, groups)(a, b)

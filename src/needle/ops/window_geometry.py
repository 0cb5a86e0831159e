"""Where windows lie on a picture, and which part of a kernel each place meets: numbers only.

With i a place of the picture, o a window, k a place in the kernel: i = s·o + d·k - p, where s, d, p
are stride, dilation and padding. What is found is kept, as a model asks for the same at each step.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from itertools import product
from typing import NamedTuple

from needle.errors import ShapeError

__all__ = ["Part", "Windows", "parts_of_picture", "windows_on_picture"]

Row = tuple[int, ...]  # a number for each spatial axis
Widths = tuple[int, int]  # before, behind
Key = tuple[slice, ...]


class _Axis(NamedTuple):
    """Windows along one axis, without the places in the kernel that meet padding in all of them.

    places          how many windows
    first, size     of the kernel, the part that any window lays on the picture
    before, behind  what the picture lacks for them; negative where it has more
    """

    places: int
    first: int
    size: int
    before: int
    behind: int
    stride: int
    dilation: int


class Windows(NamedTuple):
    """Windows on a picture (N, *spatial, C).

    kept     key of what is read of the picture; None for all
    widths   of the zeros around that, for all axes; None for no zeros
    taps     key of the part of the kernel that meets more than zeros; None for all
    """

    axes: tuple[_Axis, ...]
    kept: Key | None
    widths: tuple[Widths, ...] | None
    taps: Key | None
    sizes: Row
    strides: Row
    dilations: Row


@lru_cache(maxsize=1024)
def windows_on_picture(
    name: str,
    spatial: Row,
    kernel: Row,
    places: Row | None,
    strides: Row,
    pads: tuple[Widths, ...],
    dilations: Row,
) -> Windows:
    """The first `places` windows, or all that fit.

    Raises ShapeError, naming the op, for a kernel that does not fit and for too many places.
    """
    rows = list(zip(spatial, kernel, strides, pads, dilations, strict=True))
    if any(k < 1 or (k - 1) * d + 1 > n + sum(pad) for n, k, _, pad, d in rows):
        raise ShapeError(
            f"{name}: expected a kernel of 1 or more that fits into the padded picture, got "
            f"kernel {kernel} with dilation {dilations} for {spatial} padded by {pads}."
        )
    most = tuple([(n + sum(pad) - (k - 1) * d - 1) // s + 1 for n, k, s, pad, d in rows])
    if places is None:
        places = most
    elif len(places) != len(most) or any(map(int.__gt__, places, most)):
        raise ShapeError(
            f"{name}: expected at most as many places of y as there are windows, {most}, got "
            f"{places}."
        )
    axes = tuple([_axis(count, *row) for count, row in zip(places, rows, strict=True)])
    kept, widths = _frame(spatial, axes)
    whole = [slice(axis.first, axis.first + axis.size) for axis in axes]
    return Windows(
        axes,
        kept,
        widths,
        None if kernel == tuple([axis.size for axis in axes]) else tuple(whole),
        tuple([axis.size for axis in axes]),
        tuple([axis.stride for axis in axes]),
        tuple([axis.dilation for axis in axes]),
    )


def _axis(places: int, n: int, kernel: int, stride: int, pad: Widths, dilation: int) -> _Axis:
    """Along an axis of n. Of 3x3 places in a kernel on one of a picture, 8 meet only padding."""
    before = pad[0]
    stride = min(stride, n + sum(pad))  # the same windows, and no step too long for an address
    dilation = dilation if kernel > 1 else 1
    seen = []
    for k in range(kernel):
        place = dilation * k - before  # in the first window, then in the first that reaches x
        place += stride * max(0, -(place // stride))
        if place < n and place <= dilation * k - before + stride * (places - 1):
            seen.append(k)
    first, size = (seen[0], seen[-1] + 1 - seen[0]) if seen else (0, 1)
    before -= dilation * first
    behind = (places - 1) * stride + dilation * (size - 1) + 1 - n - before
    if -stride < behind < 0:  # what is left over is too little for a window
        behind = 0
    return _Axis(places, first, size, before, behind, stride, dilation)


def _frame(spatial: Row, axes: Sequence[_Axis]) -> tuple[Key | None, tuple[Widths, ...] | None]:
    """What is kept of a picture, and the zeros around it."""
    kept, widths = [slice(None)], [(0, 0)]
    for n, axis in zip(spatial, axes, strict=True):
        low, high = -axis.before, n + axis.behind  # the places that are wanted
        kept.append(slice(min(max(low, 0), n), min(max(high, 0), n)))
        widths.append((max(min(high, 0) - low, 0), max(high - max(low, n), 0)))
    whole = all(places == slice(0, n) for places, n in zip(kept[1:], spatial, strict=True))
    return None if whole else tuple(kept), _or_none([*widths, (0, 0)])


def _or_none(widths: list[Widths]) -> tuple[Widths, ...] | None:
    """None for no zeros at all."""
    return tuple(widths) if any(map(any, widths)) else None


# -- the picture that windows were laid on -------------------------------------------------------


class _Span(NamedTuple):
    """Along one axis, the places of the picture whose number plus padding leaves one rest by s.

    places          which these are
    taps            the places in the kernel that they meet, which leave the same rest, from the
                    last to the first: the next one in the kernel meets the one before in y
    size, apart     how many these are, and how far apart in y
    before, behind  what y lacks for the windows; negative where it has more
    """

    places: slice
    taps: slice
    size: int
    apart: int
    before: int
    behind: int


class Part(NamedTuple):
    """A span along each axis of (N, *spatial, C), which is a convolution of y with stride 1.

    places   key of the picture
    taps     key of the kernel, which turns it round
    padded   whether y is read with the zeros around it, and
    kept     what is read of it
    """

    places: Key
    taps: Key
    padded: bool
    kept: Key
    sizes: Row
    strides: Row
    apart: Row


@lru_cache(maxsize=1024)
def parts_of_picture(
    spatial: Row, axes: tuple[_Axis, ...]
) -> tuple[tuple[Widths, ...] | None, list[Part]]:
    """The zeros around y, once for all parts that read any, and the parts: one at least."""
    rows = [_spans(n, axis) for n, axis in zip(spatial, axes, strict=True)]
    most = [
        (max(0, *[span.before for span in row]), max(0, *[span.behind for span in row]))
        for row in rows
    ]
    parts = [_part(spans, axes, most) for spans in product(*rows)]
    return _or_none([(0, 0), *most, (0, 0)]), parts


def _spans(n: int, axis: _Axis) -> list[_Span]:
    """The spans of an axis; an empty one if no place meets a tap.

    With i + p = s·t + r and d·k = s·j + r, the picture's i meets y's o = t - j.
    """
    common = math.gcd(axis.stride, axis.dilation)
    taps: dict[int, list[int]] = {}
    for k in range(axis.size):
        taps.setdefault(k * axis.dilation % axis.stride, []).append(k)
    spans = [_span(n, axis, common, rest, taps[rest]) for rest in sorted(taps)]
    nothing = _Span(slice(0, 0), slice(0, 1), 1, 1, 0, -axis.places)
    return [span for span in spans if span is not None] or [nothing]


def _span(n: int, axis: _Axis, common: int, rest: int, taps: list[int]) -> _Span | None:
    """The places that leave this rest; None if there are none."""
    stride, apart = axis.stride, axis.dilation // common
    start = -((rest - axis.before) // stride)  # the least t with a place of the picture
    count = (n - 1 + axis.before - rest) // stride + 1 - start
    if count < 1:
        return None
    reach = (len(taps) - 1) * apart
    before = (taps[0] * axis.dilation - rest) // stride + reach - start
    first, last = axis.first + taps[0], axis.first + taps[-1]
    return _Span(
        slice(start * stride + rest - axis.before, None, stride),
        slice(last, first - 1 if first else None, -stride // common),
        len(taps),
        apart,
        before,
        count + reach - before - axis.places,
    )


def _part(spans: Sequence[_Span], axes: Sequence[_Axis], most: Sequence[Widths]) -> Part:
    """y is read as it is by a part that needs no zeros: as a rule it lies without gaps."""
    padded = any(span.before > 0 or span.behind > 0 for span in spans)
    kept = [slice(None)]
    for span, axis, (zeros, _) in zip(spans, axes, most, strict=True):
        start = zeros * padded - span.before
        kept.append(slice(start, start + span.before + axis.places + span.behind))
    return Part(
        (slice(None), *[span.places for span in spans]),
        tuple([span.taps for span in spans]),
        padded,
        tuple(kept),
        tuple([span.size for span in spans]),
        (1,) * len(spans),
        tuple([span.apart for span in spans]),
    )

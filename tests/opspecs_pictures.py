"""Rows of the table of operators: convolution and pooling."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import picture_references as numpy_pictures
from oprows import Row, Shape, anywhere, bad, case, distinct

import needle as ndl
from needle import errors, ops
from needle.ops.pooling import _places


def _conv_weight(
    x: Any, y: Any, kernel: Any, stride: Any = 1, padding: Any = 0, dilation: Any = 1,
    groups: int = 1,
) -> Any:  # fmt: skip
    return ops.ConvWeight(kernel, stride, padding, dilation, groups)(x, y)


def _argmax_pool(x: Any, **options: Any) -> Any:
    op = ops.ArgMaxPool(**options)
    places = ndl.Tensor(_places(tuple(op._axes(x.shape))), dtype="int64", device=x.device)
    return op(x, ops.max_pool(x, **options), places)


def _avg_unpool(y: Any, shape: Shape, kernel: Any, stride: Any = None, padding: Any = 0) -> Any:
    return ops.AvgUnpool(shape, kernel, stride, padding)(y)


def few(rng: np.random.RandomState, shape: Shape) -> np.ndarray:
    """Many equal ones."""
    return np.asarray(rng.randint(0, 3, shape), dtype=np.float64)


def near_one(rng: np.random.RandomState, shape: Shape) -> np.ndarray:
    """Sums of products of these are of the size of 1, as tolerances for narrow floats ask for."""
    return anywhere(rng, shape) / math.sqrt(max(math.prod(shape[:-1]), 1))


CONVOLUTIONS = [
    case((2, 5, 4, 3), (3, 3, 3, 2)),
    case((1, 6, 5, 2), (3, 2, 2, 3), stride=2, padding=0),
    case((1, 7, 5, 4), (3, 3, 2, 2), stride=(2, 1), padding=((2, 0), (1, 1)), groups=2),
    case((2, 7, 6, 3), (2, 3, 1, 6), dilation=(3, 1), groups=3),
    case((2, 8, 3), (3, 3, 2), stride=3, padding=2),
    case((1, 9, 2), (2, 2, 1), stride=4, padding=0),
    case((1, 3, 4, 3, 2), (2, 2, 1, 2, 3), padding=(0, 1, 0)),
    case((0, 5, 4, 3), (3, 3, 3, 2)),
]
WEIGHT_SHAPES = [
    case((2, 5, 4, 3), (2, 5, 4, 2), kernel=(3, 3), padding=1),
    case((1, 7, 5, 4), (1, 4, 5, 2), kernel=(3, 3), stride=(2, 1), padding=((2, 0), (1, 1)),
         groups=2),
    case((2, 9, 2), (2, 4, 4), kernel=(3,), stride=2, dilation=1),
]  # fmt: skip
TRANSPOSED = [
    case((2, 3, 4, 2), (3, 3, 3, 2)),
    case((1, 3, 2, 4), (3, 2, 2, 4), stride=2, padding=1, output_padding=1, groups=2),
    case((1, 3, 3, 2), (2, 2, 1, 2), stride=(3, 1), dilation=(1, 3)),
    case((2, 4, 3), (4, 2, 3), stride=2, padding=1),
    case((0, 3, 4, 2), (3, 3, 3, 2)),
]
BAD_CONVOLUTIONS = [
    bad(errors.ShapeError, r"x \[N, \*spatial, Cin\] and w .* got float64\[5,3\] and", (5, 3),
        (3, 3, 2)),
    bad(errors.ShapeError, r"x \[N, \*spatial, Cin\] and w .* got float64\[1,5,5,3\] and "
        r"float64\[3,3,2\]", (1, 5, 5, 3), (3, 3, 2)),
    bad(errors.ShapeError, r"expected x \[N, \*spatial, 3\] for w and 1 groups, got "
        r"float64\[1,5,5,2\] and float64\[3,3,3,4\]", (1, 5, 5, 2), (3, 3, 3, 4)),
    bad(errors.ShapeError, "fits into the padded picture, got kernel", (1, 2, 2, 3), (5, 5, 3, 2)),
    bad(errors.ShapeError, "channels that 2 groups divide, got 3 and 2", (1, 5, 5, 3),
        (3, 3, 1, 2), groups=2),
    bad(errors.OptionError, "stride of 1 or more, an int or 2 of them, got 0", (1, 5, 5, 3),
        (3, 3, 3, 2), stride=0),
    bad(errors.OptionError, "padding of 0 or more, an int, 2 of them or 2 pairs .* got -1",
        (1, 5, 5, 3), (3, 3, 3, 2), padding=-1),
    bad(errors.OptionError, r"padding of 0 or more, an int or \[\(before, behind\)\], got 'same'",
        (1, 5, 3), (3, 3, 2), padding="same"),
    bad(errors.OptionError, r"got \(\(1, 1\), 2\)", (1, 5, 5, 3), (3, 3, 3, 2),
        padding=((1, 1), 2)),
    bad(errors.OptionError, "groups of 1 or more, an int, got 0", (1, 5, 3), (3, 3, 2), groups=0),
    bad(errors.OptionError, r"dilation of 1 or more, .* got \(1, 2, 3\)", (1, 5, 5, 3),
        (3, 3, 3, 2), dilation=(1, 2, 3)),
]  # fmt: skip

ROWS_CONVOLUTION = [
    Row(ops.Conv, ops.conv, numpy_pictures.conv, CONVOLUTIONS, BAD_CONVOLUTIONS,
        draws=(anywhere, near_one)),
    Row(ops.ConvTranspose, ops.conv_transpose, numpy_pictures.conv_transpose, TRANSPOSED,
        [bad(errors.ShapeError, r"a \[N, \*spatial, Cin\] and b", (5, 3), (3, 2, 3)),
         bad(errors.OptionError, r"output_padding below stride or dilation, got \(2,\)",
             (1, 5, 3), (3, 2, 3), stride=2, output_padding=2)],
        draws=(anywhere, near_one)),
    Row(ops.ConvWeight, _conv_weight, numpy_pictures.conv_weight, WEIGHT_SHAPES,
        draws=(anywhere, near_one), public=False),
    Row(ops.Dilate, ops.dilate, numpy_pictures.dilate,
        [case((2, 3), axes=(0,), dilation=1), case((2, 3), axes=(0, 1), dilation=2),
         case((2, 3), axes=(1, 5), dilation=0), case((0, 2), axes=(0, 1), dilation=1)],
        [bad(errors.OptionError, "dilation of 0 or more, .* got -1", (2,), axes=(0,), dilation=-1),
         bad(errors.OptionError, "axes", (2,), axes=("a",), dilation=1)]),
    Row(ops.UnDilate, ops.undilate, numpy_pictures.undilate,
        [case((4, 3), axes=(0,), dilation=1), case((3, 7), axes=(0, 1), dilation=2),
         case((2, 3), axes=(1, 5), dilation=0), case((0, 2), axes=(0, 1), dilation=1)],
        [bad(errors.OptionError, "dilation of 0 or more, .* got 1.5", (2,), axes=(0,),
             dilation=1.5)]),
]  # fmt: skip

POOLS = [
    case((2, 4, 6, 3), kernel=2),
    case((1, 5, 7, 2), kernel=(3, 2), stride=(2, 3), padding=1),
    case((1, 5, 5, 2), kernel=3, stride=1, padding=1),
    case((1, 7, 6, 2), kernel=2, stride=4),
    case((2, 6, 2), kernel=1, stride=2),
    case((2, 9, 1), kernel=(4,), stride=3, padding=2),
    case((1, 6, 2), kernel=3, padding=1),
    case((1, 4, 9, 1), kernel=(2, 3), padding=(0, 1)),
    case((1, 6, 2), kernel=3, stride=5, padding=1),
    case((2, 8, 6, 2), kernel=(4, 3)),
    case((1, 3, 2, 4, 2), kernel=2, stride=1),
    case((0, 4, 4, 2), kernel=2),
]
ROUNDED_UP = [
    case((1, 6, 5, 2), kernel=3, stride=2, ceil_mode=True),
    case((1, 5, 4, 2), kernel=2, stride=3, padding=1, ceil_mode=True),
    case((1, 3, 5, 1), kernel=(3, 1), stride=(5, 1), padding=(1, 0), ceil_mode=True),
    case((1, 1, 6, 2), kernel=(2, 4), ceil_mode=True),
    case((2, 3, 1), kernel=4, stride=5, ceil_mode=True),
]
BAD_POOLS = [
    bad(errors.ShapeError, r"expected x \[N, \*spatial, C\], got float64\[4,3\]", (4, 3), kernel=2),
    bad(errors.ShapeError, "fits into the padded picture, got one that spans 3 for 2 padded by 0",
        (1, 4, 2, 3), kernel=3),
    bad(errors.ShapeError, "spans 5 for 4 padded by 0", (1, 4, 3), kernel=5, stride=1,
        ceil_mode=True),
    bad(errors.OptionError, "padding of at most half the kernel, got padding 2 for a kernel of 3",
        (1, 4, 4, 3), kernel=3, padding=2),
    bad(errors.OptionError, "stride of 1 or more, an int or 2 of them, got 0", (1, 4, 4, 3),
        kernel=2, stride=0),
    bad(errors.OptionError, "stride of 1 or more, an int, got 0", (1, 4, 3), kernel=2, stride=0),
    bad(errors.OptionError, "kernel of 1 or more, .* got 2.5", (1, 4, 4, 3), kernel=2.5),
    bad(errors.OptionError, r"kernel of 1 or more, .* got \(2, 2, 2\)", (1, 4, 4, 3),
        kernel=(2, 2, 2)),
]  # fmt: skip

ROWS_POOLING = [
    Row(ops.MaxPool, ops.max_pool, numpy_pictures.max_pool,
        [*POOLS, *ROUNDED_UP, case((1, 7, 6, 2), kernel=2, dilation=(3, 2), stride=1, padding=1)],
        [*BAD_POOLS, bad(errors.OptionError, "padding 2 for a kernel of 3", (1, 9, 3), kernel=3,
                         padding=2, dilation=2)], draws=(distinct,)),
    Row(ops.ArgMaxPool, _argmax_pool, numpy_pictures.argmax_pool, POOLS, draws=(few,), order=0,
        keeps_dtype=False, public=False),
    Row(ops.AvgPool, ops.avg_pool, numpy_pictures.avg_pool,
        [*POOLS, *ROUNDED_UP, case((1, 5, 5, 2), kernel=3, divisor_override=2),
         *[case((1, 5, 4, 2), kernel=3, stride=2, padding=1, ceil_mode=ceil_mode,
                count_include_pad=False) for ceil_mode in (True, False)],
         case((1, 6, 2), kernel=3, padding=1, count_include_pad=False),
         case((1, 6, 2), kernel=3, padding=1, divisor_override=2)],
        [*BAD_POOLS, bad(errors.OptionError, "divisor_override of 1 or more", (1, 4, 4, 3),
                         kernel=2, divisor_override=0)]),
    Row(ops.AvgUnpool, _avg_unpool, numpy_pictures.avg_unpool,
        [case((2, 2, 3, 3), shape=(2, 4, 6, 3), kernel=2),
         case((1, 3, 3, 2), shape=(1, 5, 7, 2), kernel=(3, 2), stride=(2, 3), padding=1),
         case((1, 2, 2), shape=(1, 7, 2), kernel=2, stride=4),
         case((1, 2, 2), shape=(1, 6, 2), kernel=3, padding=1)], public=False),
]  # fmt: skip

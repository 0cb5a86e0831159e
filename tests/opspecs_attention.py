"""The rows of the table of operators on embeddings and attention."""

from __future__ import annotations

from typing import Any

import numpy as np
from oprows import Row, anywhere, bad, below, case

from needle import errors, ops

TRIANGLE = np.tri(3, 4, dtype=bool)
PLACES = np.array([[True, False, True], [False, False, False]])


def masked_softmax(x: np.ndarray, *masks: np.ndarray) -> np.ndarray:
    allowed = np.ones(x.shape, bool)
    for mask in masks:
        if mask.dtype == bool:
            allowed = allowed & mask
        else:
            x = x + mask
    powers = np.where(allowed, np.exp(x), 0)
    total = powers.sum(-1, keepdims=True)
    return np.asarray(powers / np.where(total, total, 1), dtype=x.dtype)


def embedding(table: np.ndarray, ids: np.ndarray, padding_idx: int | None = None) -> Any:
    return table[ids]


ROWS_ATTENTION = [
    Row(ops.MaskedSoftmax, ops.masked_softmax, masked_softmax,
        [case((3,)), case((2, 3)), case((2, 3), PLACES), case((2, 3), PLACES[:, :1]),
         case((2, 2, 3, 4), TRIANGLE), case((2, 3, 4), TRIANGLE, np.array([[[True]], [[False]]])),
         case((2, 3, 4), (3, 4)), case((2, 3, 4), (4,), TRIANGLE), case((2, 3), ()),
         case((0, 3), np.ones(3, bool)), case((2, 0))],
        [bad(errors.DTypeError, r"expected floats \[..., n\], .* got float64\[\]", ()),
         bad(errors.DTypeError, r"got int64\[2\]", np.array([1, 2])),
         bad(errors.DTypeError, r"got int64\[2\]. Compare it first: mask != 0", (2,),
             np.array([1, 0])),
         bad(errors.DTypeError, r"floats are zeros and ones: give .* dtype='bool'", (2,),
             np.array([1.0, 0.0])),
         bad(errors.ShapeError, r"broadcasts to \[2\], got bool\[2,2\]", (2,),
             np.ones((2, 2), bool)),
         bad(errors.ShapeError, r"float64\[2\] and bool\[3\]", (2,), np.ones(3, bool))],
        integers=False),
    Row(ops.EmbeddingLookup, ops.embedding, embedding,
        [case((4, 3), np.array([2, 0, 2])), case((4, 3), np.array(1)), case((4, 2), (2, 3)),
         case((4, 3), np.zeros((2, 0), int)), case((4, 0), np.array([3])),
         case((4, 3), np.array([[1, 3]], np.uint8))],
        [bad(errors.OutOfRangeError, r"whole numbers in 0\.\.n-1, .*no row 4\.", (4, 3),
             np.array([0, 4])),
         bad(errors.OutOfRangeError, r"got float64\[4,3\] and int64\[1\]. \(There is no row -1\.",
             (4, 3), np.array([-1])),
         bad(errors.OutOfRangeError, r"no row 1\.5", (4, 3), np.array([1.0, 1.5])),
         bad(errors.OutOfRangeError, r"no row nan", (4, 3), np.array([np.nan])),
         bad(errors.DTypeError, r"expected numbers for ids, got bool\[2\]", (4, 3),
             np.array([True, False])),
         bad(errors.ShapeError, r"expected a table \[n, d\], .* got float64\[4\]", (4,),
             np.array([1]))],
        draws=(anywhere, below(4))),
]  # fmt: skip

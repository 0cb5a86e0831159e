"""Transposing a square tile that lies in vector registers.

For operands whose neighbouring elements lie along another axis than the result's: W vectors are
loaded along the operand's own axis, transposed here, and stored along the result's.
"""

from __future__ import annotations

from needle.compiler.code import Code, Value

__all__ = ["transpose_tile"]

# x86 shuffles within 128 bits, and these whole, in one step without a table of positions.
_SPAN_BYTES = 16


def transpose_tile(code: Code, rows: list[Value]) -> list[Value]:
    """columns[i][j] = rows[j][i], of W vectors of W lanes; W a power of 2.

    log2(W) stages of W two-operand shuffles: first of elements inside spans of 128 bits, then of
    the spans. Each stage takes the even blocks of two neighbours, and the odd ones.
    """
    lanes = len(rows)
    span = min(lanes, _SPAN_BYTES // rows[0].type.itemsize)
    inside = [_transposed(code, rows[i : i + span], 1, span) for i in range(0, lanes, span)]
    across = [_transposed(code, list(same), span, lanes) for same in zip(*inside, strict=True)]
    return [column for columns in zip(*across, strict=True) for column in columns]


def _transposed(code: Code, rows: list[Value], width: int, span: int) -> list[Value]:
    """Transpose the blocks of `width` lanes inside every `span` lanes; span / width rows."""
    for _ in range(len(rows).bit_length() - 1):
        pairs = list(zip(rows[::2], rows[1::2], strict=True))
        rows = [
            code.shuffle(a, b, _every_second(a.lanes, width, span, first))
            for first in (0, width)
            for a, b in pairs
        ]
    return rows


def _every_second(lanes: int, width: int, span: int, first: int) -> list[int]:
    """Of each span: every second block of the first vector, then of the second."""
    return [
        vector + block + lane
        for start in range(0, lanes, span)
        for vector in (0, lanes)
        for block in range(start + first, start + span, 2 * width)
        for lane in range(width)
    ]

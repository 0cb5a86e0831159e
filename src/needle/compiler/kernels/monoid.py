"""What a reduction does to two elements, and to the lanes of vectors."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from needle.compiler.code import Code, Value
from needle.compiler.types import BOOL, TYPES

__all__ = ["Monoid"]

_LOGICAL = {"sum": "any", "max": "any", "any": "any", "prod": "all", "min": "all", "all": "all"}


class Monoid:
    """An associative operation with an identity: sum, prod, max, min, all, any.

    name   the operation; sums and maxima of bools are `any`, products and minima `all`
    type   what is computed in; for `any` and `all` an integer as wide as the input, 0 or 1, since
           bits packed in masks do not combine well on every machine
    """

    def __init__(self, name: str, source: str, result: str) -> None:
        self.name = _LOGICAL[name] if result == "bool" else name
        self.type = TYPES[f"uint{TYPES[source].bits}"] if result == "bool" else TYPES[result]
        self.result = result

    def identity(self) -> float | int:
        """What changes nothing."""
        if self.name in ("sum", "any"):
            return 0
        if self.name in ("prod", "all"):
            return 1
        if self.type.is_float:
            return -np.inf if self.name == "max" else np.inf
        limits = np.iinfo(self.type.name)
        return int(limits.min if self.name == "max" else limits.max)

    def start(self, code: Code, lanes: int) -> Value:
        """The identity in every lane."""
        return code.constant(self.identity(), self.type, lanes)

    def take(self, code: Code, x: Value) -> Value:
        """An element as loaded, in the type computed in."""
        if self.result == "bool":
            return x.cast(BOOL).cast(self.type)
        return x.cast(self.type)

    def give(self, x: Value) -> Value:
        """A result, in the type that the output has in registers."""
        return x.differs(0) if self.result == "bool" else x

    def combine(self, code: Code, a: Value, b: Value) -> Value:
        """a with b; NaN wherever either is."""
        if self.name == "sum":
            return a + b
        if self.name == "prod":
            return a * b
        if self.name in ("all", "any"):
            return a & b if self.name == "all" else a | b
        if self.type.is_float:
            return _extreme(code, self.name, a, b)
        return code.select(a > b if self.name == "max" else a < b, a, b)

    def tree(self, code: Code, values: Sequence[Value]) -> Value:
        """Several values, combined in pairs, pairs of pairs, ..."""
        while len(values) > 1:
            pairs = zip(values[::2], values[1::2], strict=False)
            rest = values[len(values) // 2 * 2 :]
            values = [self.combine(code, a, b) for a, b in pairs] + list(rest)
        return values[0]

    def across(self, code: Code, x: Value) -> Value:
        """All lanes of a vector: halves, quarters, ..."""
        if x.lanes == 1:
            return x
        while x.lanes > 2:
            half = x.lanes // 2
            low, high = range(half), range(half, x.lanes)
            x = self.combine(code, code.shuffle(x, x, low), code.shuffle(x, x, high))
        return self.combine(code, code.lane(x, 0), code.lane(x, 1))

    def transpose(self, code: Code, rows: Sequence[Value]) -> Value:
        """As many vectors as lanes: lane i of the result is all lanes of rows[i].

        In each round neighbouring vectors merge: of both, blocks of `width` lanes in even places
        meet those in odd places.
        """
        lanes, width = len(rows), 1
        while width < lanes:
            even, odd = _block_places(lanes, width)
            rows = [
                self.combine(code, code.shuffle(a, b, even), code.shuffle(a, b, odd))
                for a, b in zip(rows[::2], rows[1::2], strict=True)
            ]
            width *= 2
        return rows[0]


def _block_places(lanes: int, width: int) -> tuple[list[int], list[int]]:
    """Lanes of the even blocks, and of the odd ones, of two vectors, taken in turns."""
    even = [
        start + source + i
        for start in range(0, lanes, 2 * width)
        for source in (0, lanes)
        for i in range(width)
    ]
    return even, [lane + width for lane in even]


def _extreme(code: Code, name: str, a: Value, b: Value) -> Value:
    """The larger or the smaller float, NaN if either is; which zero wins is left open (nsz).

    Which saves the instructions that IEEE's order of zeros costs on x86.
    """
    x = a.ir.type
    kind = f"v{a.lanes}" if a.lanes > 1 else ""
    symbol = f"llvm.{name}imum.{kind}f{a.type.bits}"
    function = code.declare(symbol, x, [x, x])
    # x86 asks whether the first operand is NaN; where b has just been read, that delays no chain
    return code.wrap(code.builder.call(function, [b.ir, a.ir], fastmath=("nsz",)), a.type)

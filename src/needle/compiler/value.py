"""Values of a function being written, with Python's operators: see `code.Code`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from llvmlite import ir

from needle.compiler.types import POINTER, Type

if TYPE_CHECKING:
    from needle.compiler.code import Code

__all__ = ["Value", "Variable"]


class Value:
    """A value in registers: LLVM's name for it, its type, its lanes."""

    __slots__ = ("code", "ir", "type")

    def __init__(self, code: Code, value: Any, type: Type) -> None:
        self.code, self.ir, self.type = code, value, type

    @property
    def lanes(self) -> int:
        """How many elements it holds; 1 for a scalar."""
        return self.ir.type.count if isinstance(self.ir.type, ir.VectorType) else 1

    def __add__(self, other: Any) -> Value:
        if self.type is POINTER:
            return self.code.offset(self, other)
        return self.code.arithmetic("add", self, other)

    def __radd__(self, other: Any) -> Value:
        return self.code.arithmetic("add", other, self)

    def __sub__(self, other: Any) -> Value:
        return self.code.arithmetic("sub", self, other)

    def __rsub__(self, other: Any) -> Value:
        return self.code.arithmetic("sub", other, self)

    def __mul__(self, other: Any) -> Value:
        return self.code.arithmetic("mul", self, other)

    def __rmul__(self, other: Any) -> Value:
        return self.code.arithmetic("mul", other, self)

    def __truediv__(self, other: Any) -> Value:
        return self.code.arithmetic("div", self, other)

    def __rtruediv__(self, other: Any) -> Value:
        return self.code.arithmetic("div", other, self)

    def __floordiv__(self, other: Any) -> Value:
        """Of integers: rounded towards zero, as the machine does."""
        return self.code.arithmetic("div", self, other)

    def __mod__(self, other: Any) -> Value:
        """Of integers: what `//` leaves, with the sign of the left operand."""
        return self.code.arithmetic("rem", self, other)

    def __neg__(self) -> Value:
        if self.type.is_float:
            return self.code.wrap(self.code.builder.fneg(self.ir), self.type)
        return self.code.arithmetic("sub", 0, self)

    def __and__(self, other: Any) -> Value:
        return self.code.bitwise("and_", self, other)

    def __or__(self, other: Any) -> Value:
        return self.code.bitwise("or_", self, other)

    def __xor__(self, other: Any) -> Value:
        return self.code.bitwise("xor", self, other)

    def __invert__(self) -> Value:
        return self.code.wrap(self.code.builder.not_(self.ir), self.type)

    def __lshift__(self, other: Any) -> Value:
        return self.code.bitwise("shl", self, other)

    def __rshift__(self, other: Any) -> Value:
        return self.code.bitwise("ashr" if self.type.kind == "i" else "lshr", self, other)

    def __lt__(self, other: Any) -> Value:
        return self.code.compare("<", self, other)

    def __le__(self, other: Any) -> Value:
        return self.code.compare("<=", self, other)

    def __gt__(self, other: Any) -> Value:
        return self.code.compare(">", self, other)

    def __ge__(self, other: Any) -> Value:
        return self.code.compare(">=", self, other)

    def equals(self, other: Any) -> Value:
        """Lane by lane ==; False for NaN. (`==` itself compares names, as Python does.)"""
        return self.code.compare("==", self, other)

    def differs(self, other: Any) -> Value:
        """Lane by lane !=; True for NaN."""
        return self.code.compare("!=", self, other)

    def cast(self, type: Type) -> Value:
        """The nearest value of another type; floats are cut off towards zero."""
        return self.code.cast(self, type)

    def bits_as(self, type: Type) -> Value:
        """The same bits read as another type of the same width."""
        if type.kind in "iu" and self.type.kind in "iu":
            return self.code.wrap(self.ir, type)
        wide = self.code.ir_type(type, self.lanes)
        return self.code.wrap(self.code.builder.bitcast(self.ir, wide), type)

    def spread(self, lanes: int) -> Value:
        """A scalar in every lane."""
        return self.code.spread(self, lanes)


class Variable:
    """A value that changes: loops carry it. LLVM turns it into registers."""

    __slots__ = ("_slot", "code", "lanes", "type")

    def __init__(self, code: Code, value: Value) -> None:
        self.code, self.type, self.lanes = code, value.type, value.lanes
        with code.builder.goto_entry_block():
            self._slot = code.builder.alloca(value.ir.type)
        self.set(value)

    def get(self) -> Value:
        """What it holds here."""
        wide = self.code.ir_type(self.type, self.lanes)
        return self.code.wrap(self.code.builder.load(self._slot, typ=wide), self.type)

    def set(self, value: Any) -> None:
        """Give it another value; a number is a constant of its type."""
        value = self.code.as_value(value, self.type).spread(self.lanes)
        self.code.builder.store(value.ir, self._slot)

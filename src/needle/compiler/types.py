"""Element types: what lies in memory, what is computed in, and what LLVM calls each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from llvmlite import ir

__all__ = [
    "BOOL",
    "F32",
    "F64",
    "I8",
    "I16",
    "I32",
    "I64",
    "POINTER",
    "STORED_AS_HALF",
    "TYPES",
    "U8",
    "U16",
    "U32",
    "U64",
    "Type",
    "itemsize",
]


@dataclass(frozen=True)
class Type:
    """An element type in registers.

    kind  "f" float, "i" signed, "u" unsigned, "b" bool, "p" address
    bits  its width in memory; a bool is a byte there and one bit in registers
    """

    name: str
    kind: str
    bits: int

    @property
    def itemsize(self) -> int:
        """Bytes in memory."""
        return self.bits // 8

    @property
    def ir(self) -> Any:
        """The LLVM type of one lane."""
        if self.kind == "p":
            return ir.PointerType()
        if self.kind == "b":
            return ir.IntType(1)
        if self.kind == "f":
            return ir.FloatType() if self.bits == 32 else ir.DoubleType()
        return ir.IntType(self.bits)

    @property
    def is_float(self) -> bool:
        """Whether arithmetic is floating-point."""
        return self.kind == "f"

    def __str__(self) -> str:
        return self.name


POINTER = Type("pointer", "p", 64)
BOOL = Type("bool", "b", 8)
F32, F64 = Type("float32", "f", 32), Type("float64", "f", 64)
I8, I16, I32, I64 = [Type(f"int{bits}", "i", bits) for bits in (8, 16, 32, 64)]
U8, U16, U32, U64 = [Type(f"uint{bits}", "u", bits) for bits in (8, 16, 32, 64)]

# dtype names that kernels know -> the type that an element has in registers
TYPES: dict[str, Type] = {
    str(t): t for t in (BOOL, F32, F64, I8, I16, I32, I64, U8, U16, U32, U64)
} | {"float16": F32, "bfloat16": F32}

# What is stored in 16 bits and computed in float32.
STORED_AS_HALF = {"float16", "bfloat16"}


def itemsize(dtype: str) -> int:
    """Bytes of an element of that dtype in memory."""
    return 2 if dtype in STORED_AS_HALF else TYPES[dtype].itemsize

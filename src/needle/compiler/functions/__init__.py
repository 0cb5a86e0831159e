"""The elementwise primitives on values in registers: `apply(code, name, *operands)`."""

from needle.compiler.functions.table import NAMES, apply

__all__ = ["NAMES", "apply"]

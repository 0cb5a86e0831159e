"""Whole functions as one native program: `ndl.jit`."""

from needle.jit.function import Jitted, disable_jit, jit
from needle.jit.watch import JitError

__all__ = ["JitError", "Jitted", "disable_jit", "jit"]

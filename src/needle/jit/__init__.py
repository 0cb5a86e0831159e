"""Whole functions as one native program: `ndl.jit`.

The package is the function as well: `needle.jit(step)` is `needle.jit.jit(step)`.
"""

import sys
from types import ModuleType
from typing import Any

from needle.jit.function import Jitted, disable_jit, jit
from needle.jit.watch import JitError

__all__ = ["JitError", "Jitted", "disable_jit", "jit"]


class _Package(ModuleType):
    """This package: Python binds it to the name that the function has in `needle`."""

    __wrapped__ = staticmethod(jit)  # whose signature `help` and editors show

    def __call__(self, function: Any = None, *, check: bool | float = False) -> Any:
        return jit(function, check=check)


sys.modules[__name__].__class__ = _Package

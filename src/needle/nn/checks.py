"""What layers and losses ask of their arguments, once."""

from __future__ import annotations

import operator
from typing import Any

from needle.autograd import Tensor
from needle.errors import DTypeError, OptionError, describe

__all__ = ["require_positive", "require_tensors"]


def require_tensors(name: str, *values: Any) -> None:
    """Raise DTypeError unless all `values` are Tensors."""
    for value in values:
        if not isinstance(value, Tensor):
            raise DTypeError(
                f"{name}: expected Tensors, got {describe(value)}. Wrap it first: ndl.Tensor(...)."
            )


def require_positive(name: str, **sizes: Any) -> None:
    """Raise OptionError unless all `sizes` are whole numbers of 1 or more."""
    for option, size in sizes.items():
        try:
            positive = operator.index(size) >= 1
        except TypeError:
            positive = False
        if not positive:
            raise OptionError(f"{name}: expected {option} of 1 or more, got {size!r}.")

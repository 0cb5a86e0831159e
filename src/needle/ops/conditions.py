"""What values must satisfy, where they are not known yet: compiled functions look at each call."""

from __future__ import annotations

from needle.autograd.tensor import Tensor
from needle.backend_selection import primitives
from needle.ops.comparison import equal

__all__ = ["finite", "require_to_be"]


def finite(x: Tensor) -> Tensor:
    """True where x is neither NaN nor Inf."""
    return equal(x - x, 0)


def require_to_be(holds: Tensor) -> None:
    """While a function is traced: have it look, at each call, whether all of `holds` is true.

    Where it is not, nothing has changed yet, and the function runs eagerly: it has to raise its own
    error then, which can tell the values.
    """
    primitives.require(holds.realize_cached_data(), AssertionError)

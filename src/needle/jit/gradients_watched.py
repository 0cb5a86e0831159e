"""The watch over gradients: who asks for one, or sets one, while a function is traced."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from needle.autograd.modes import modes
from needle.autograd.value import Value

__all__ = ["gradients_watched"]


class _WatchedGradient:
    """`Value.grad` while a function is traced: who asks is told to the tracer of that thread."""

    def __get__(self, value: Any, owner: Any = None) -> Any:
        if value is None:
            return None
        gradient = vars(value).get("grad")
        if modes.tracer is not None:
            modes.tracer.gradient_read(value, gradient)
        return gradient

    def __set__(self, value: Any, gradient: Any) -> None:
        vars(value)["grad"] = gradient
        if modes.tracer is not None:
            modes.tracer.gradient_set(value)


@contextmanager
def gradients_watched() -> Iterator[None]:
    """In the block, the tracer is told of it."""
    before = Value.grad
    Value.grad = _WatchedGradient()
    try:
        yield
    finally:
        Value.grad = before

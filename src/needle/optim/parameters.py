"""Which Tensors an optimiser, a clipping function or an average works on."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from needle.autograd import Tensor
from needle.errors import DTypeError, describe

__all__ = ["collect", "items_of", "label"]


def collect(owner: str, params: Any, first: int = 0) -> dict[Tensor, str]:
    """Each parameter once, in order, with its name for messages.

    params  Tensors, (name, Tensor) pairs, or a module
    first   the number that the first parameter without a name goes by
    """
    found: dict[Tensor, str] = {}
    for position, item in enumerate(items_of(owner, params)):
        name, p = _name_and_value(item, f"parameter {first + len(found)}")
        if not isinstance(p, Tensor):
            raise DTypeError(
                f"{owner}: expected parameters to be Tensors, got {describe(p)} "
                f"at position {position}."
            )
        found.setdefault(p, name)
    return found


def items_of(owner: str, params: Any) -> list[Any]:
    """What `params` iterates over; of a module, its parameters."""
    for method in ("named_parameters", "parameters"):
        if hasattr(params, method):
            return list(getattr(params, method)())
    if isinstance(params, Tensor) or not isinstance(params, Iterable):
        raise DTypeError(
            f"{owner}: expected an iterable of Tensors, got {describe(params)}. "
            "Of a single Tensor, write [tensor]; of a module, module.parameters()."
        )
    return list(params)


def label(name: str, p: Tensor) -> str:
    """`head.weight float32[4,3]`, as messages call a parameter."""
    return f"{name} {describe(p)}"


def _name_and_value(item: Any, default: str) -> tuple[str, Any]:
    if isinstance(item, tuple) and len(item) == 2 and isinstance(item[0], str):
        return item
    return default, item

"""Arguments and results: Tensors in tuples, lists and dicts, taken apart and put together."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any

from needle.autograd.value import Value

__all__ = ["flatten", "static_key", "unflatten"]


class _Hole:
    """Where a Tensor stood: its number in the row of all."""

    __slots__ = ("number",)

    def __init__(self, number: int) -> None:
        self.number = number


def flatten(tree: Any, found: list[Any]) -> Any:
    """The tree with a hole in place of each Tensor, which are added to `found`."""
    if isinstance(tree, Value):
        found.append(tree)
        return _Hole(len(found) - 1)
    if isinstance(tree, tuple) and hasattr(tree, "_fields"):
        return type(tree)(*[flatten(item, found) for item in tree])
    if type(tree) in (tuple, list):
        return type(tree)([flatten(item, found) for item in tree])
    if type(tree) is dict:
        return {key: flatten(item, found) for key, item in tree.items()}
    return tree


def unflatten(tree: Any, values: Sequence[Any]) -> Any:
    """The tree with its holes filled."""
    if type(tree) is _Hole:
        return values[tree.number]
    if isinstance(tree, tuple) and hasattr(tree, "_fields"):
        return type(tree)(*[unflatten(item, values) for item in tree])
    if type(tree) in (tuple, list):
        return type(tree)([unflatten(item, values) for item in tree])
    if type(tree) is dict:
        return {key: unflatten(item, values) for key, item in tree.items()}
    return tree


def static_key(tree: Any) -> Hashable:
    """What two trees have in common that stand for the same call, but for their Tensors."""
    if type(tree) is _Hole:
        return _Hole
    if isinstance(tree, (tuple, list)):
        return type(tree), tuple([static_key(item) for item in tree])
    if type(tree) is dict:
        return dict, tuple([(key, static_key(item)) for key, item in tree.items()])
    try:
        hash(tree)
    except TypeError:
        return type(tree), id(tree)
    return type(tree), tree

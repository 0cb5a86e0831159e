"""Arguments and results: Tensors in tuples, lists and dicts, taken apart and put together."""

from __future__ import annotations

import dataclasses
import enum
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from types import FunctionType
from typing import Any

import numpy as np

from needle.autograd.value import Value
from needle.backend_selection import Device

__all__ = ["Hole", "flatten", "is_scalar", "leaves_of", "map_leaves", "static_key", "unflatten"]

_BY_VALUE = (int, bool, str, bytes, complex, type(None), enum.Enum, np.dtype, Device, slice, range)


class Hole:
    """Where a Tensor stood: its number in the row of all."""

    __slots__ = ("number",)

    def __init__(self, number: int) -> None:
        self.number = number


def map_leaves(tree: Any, function: Callable[[Any], Any]) -> Any:
    """The tree of tuples, lists, dicts and dataclasses, with `function` of each leaf."""
    kind = type(tree)
    if kind in (tuple, list):
        return kind([map_leaves(item, function) for item in tree])
    if kind is dict or kind is OrderedDict:
        return kind((key, map_leaves(item, function)) for key, item in tree.items())
    if isinstance(tree, tuple) and hasattr(tree, "_fields"):
        return kind(*[map_leaves(item, function) for item in tree])
    if dataclasses.is_dataclass(tree) and not isinstance(tree, (type, Value)):
        return _map_fields(tree, function)
    return function(tree)


def _map_fields(tree: Any, function: Callable[[Any], Any]) -> Any:
    """A dataclass whose fields hold Tensors, made anew; one that holds none as it is."""
    values = {field.name: getattr(tree, field.name) for field in dataclasses.fields(tree)}
    mapped = {name: map_leaves(value, function) for name, value in values.items()}
    if all(mapped[name] is values[name] for name in values):
        return tree
    made = object.__new__(type(tree))
    for name, value in mapped.items():
        object.__setattr__(made, name, value)
    return made


def leaves_of(tree: Any) -> list[Any]:
    """The leaves, from left to right."""
    found: list[Any] = []

    def take(leaf: Any) -> Any:
        found.append(leaf)
        return leaf

    map_leaves(tree, take)
    return found


def flatten(tree: Any, found: list[Any]) -> Any:
    """The tree with a hole in place of each Tensor, which are added to `found`."""

    def take(leaf: Any) -> Any:
        if not isinstance(leaf, Value):
            return leaf
        found.append(leaf)
        return Hole(len(found) - 1)

    return map_leaves(tree, take)


def unflatten(tree: Any, values: Sequence[Any]) -> Any:
    """The tree with its holes filled."""
    return map_leaves(tree, lambda leaf: values[leaf.number] if type(leaf) is Hole else leaf)


def static_key(tree: Any) -> Hashable:
    """What two trees have in common that stand for the same call, but for their Tensors.

    Numbers, strings and what else cannot change count by their value, other objects by identity.
    """
    kind = type(tree)
    if kind is Hole:
        return Hole
    if kind is float:
        return float, tree.hex()
    if isinstance(tree, (tuple, list)):
        return kind, tuple([static_key(item) for item in tree])
    if kind is dict or kind is OrderedDict:
        return kind, tuple([(key, static_key(item)) for key, item in tree.items()])
    if dataclasses.is_dataclass(tree) and not isinstance(tree, type):
        fields = [getattr(tree, field.name) for field in dataclasses.fields(tree)]
        keys = tuple([static_key(item) for item in fields])
        by_value = Hole in keys or kind.__dataclass_params__.frozen
        return kind, keys if by_value else id(tree)
    if isinstance(tree, slice):
        return slice, tree.start, tree.stop, tree.step
    if isinstance(tree, (*_BY_VALUE, type, FunctionType)):
        return kind, tree
    return kind, id(tree)


def is_scalar(value: Any) -> bool:
    """Whether it is a value that cannot change, and is compared by `==`."""
    return type(value) in (int, float, str, bool, bytes, complex, type(None))

"""What is drawn of a computational graph: its values and operators, with their words."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from needle.autograd import Value, find_topo_sort
from needle.dtypes import is_floating
from needle.errors import DTypeError, OptionError, describe

__all__ = [
    "Graph",
    "Node",
    "checked_names",
    "describe_value",
    "draw_graph",
    "operator_arguments",
    "ordered_values",
    "value_name",
]

# Attributes of an op that say nothing about this application of it.
_NOT_ARGUMENTS = frozenset({"differentiable", "expects", "name", "slot"})


class Node(NamedTuple):
    """A box or a circle.

    role     "parameter" or "data" (leaves), "value", "result", or "operator"
    lines    what stands in it, top to bottom
    tooltip  what a pointer resting on it is told
    """

    role: str
    lines: tuple[str, ...]
    tooltip: str


class Graph(NamedTuple):
    """Nodes, inputs before their users, and arrows as pairs of their numbers."""

    nodes: list[Node]
    edges: list[tuple[int, int]]


def ordered_values(picture: str, tensors: Sequence[Any]) -> list[Any]:
    """Everything that `tensors` were computed from, and they, inputs before their users."""
    if not tensors:
        raise OptionError(f"{picture}: expected at least one Tensor, got none.")
    for tensor in tensors:
        if not isinstance(tensor, Value):
            raise DTypeError(f"{picture}: expected Tensors, got {describe(tensor)}.")
    return find_topo_sort(tensors)


def checked_names(picture: str, names: Any) -> Mapping[Any, str]:
    """`names`, of None an empty dict; DTypeError unless it maps Tensors to str."""
    wanted = f"{picture}: expected names as {{Tensor: str}}, got"
    if names is None:
        return {}
    if not isinstance(names, Mapping):
        raise DTypeError(f"{wanted} {type(names).__name__}.")
    for value, name in names.items():
        if not isinstance(value, Value) or not isinstance(name, str):
            raise DTypeError(f"{wanted} {{{describe(value)}: {describe(name)}}}.")
    return names


def draw_graph(
    tensors: Sequence[Any], names: Mapping[Any, str] | None, data: Collection[Any] = ()
) -> Graph:
    """The graph of `tensors`: each op application is a circle with its result's box below."""
    names = checked_names("graph_svg", names)
    nodes: list[Node] = []
    edges: list[tuple[int, int]] = []
    box: dict[Any, int] = {}
    for value in ordered_values("graph_svg", tensors):
        if value.op is not None:
            edges += [(box[source], len(nodes)) for source in value.inputs]
            edges.append((len(nodes), len(nodes) + 1))
            nodes.append(_operator_node(value.op))
        box[value] = len(nodes)
        nodes.append(_value_node(value, names, _role(value, tensors, data)))
    return Graph(nodes, edges)


def value_name(value: Any, names: Mapping[Any, str]) -> str | None:
    """The name given to a value; to a parameter's earlier data, the parameter's."""
    owner = value._leaf.owner() if value._leaf is not None else None
    return names.get(value, names.get(owner) if owner is not None else None)


def describe_value(value: Any) -> str:
    """`float32[2,3]`, and the number itself where there is only one; computes nothing."""
    data = value.cached_data
    if data is None:
        return "not computed yet"
    if isinstance(data, tuple) or data.size != 1:
        return describe(data)
    return f"{describe(data)} = {_number(data)}"


def _number(data: Any) -> str:
    scalar = np.asarray(data).reshape(()).item()
    return f"{float(scalar):.6g}" if is_floating(np.asarray(data).dtype) else str(scalar)


def operator_arguments(op: Any) -> dict[str, Any]:
    """What an op was made with: the scalar of `x + 2`, the axes of a sum."""
    return {key: value for key, value in vars(op).items() if key not in _NOT_ARGUMENTS}


def _role(value: Any, tensors: Sequence[Any], data: Collection[Any]) -> str:
    if not value.is_leaf():
        return "result" if value in tensors else "value"
    return "parameter" if value.requires_grad and value not in data else "data"


def _value_node(value: Any, names: Mapping[Any, str], role: str) -> Node:
    name, kind = value_name(value, names), describe_value(value)
    lines = (kind,) if name is None else (name, kind)
    return Node(role, lines, " ".join(lines))


def _operator_node(op: Any) -> Node:
    arguments = operator_arguments(op)
    lines = op.name.strip("_").split("_")
    if "scalar" in arguments:
        lines.append(_shown(arguments["scalar"]))
    summary = (type(op).__doc__ or "").strip().partition("\n")[0]
    shown = ", ".join(f"{key}={_shown(value)}" for key, value in arguments.items())
    return Node("operator", tuple(lines), f"{op.name}({shown}): {summary}")


def _shown(argument: Any) -> str:
    if isinstance(argument, (float, np.floating)):
        return f"{float(argument):.6g}"
    if isinstance(argument, np.ndarray) and argument.size == 1:
        return _number(argument)
    return str(argument)

"""The computational graph as plain text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from needle.visualize.graph import (
    checked_names,
    describe_value,
    operator_arguments,
    ordered_values,
    value_name,
)

__all__ = ["graph_text"]


def graph_text(*tensors: Any, names: Mapping[Any, str] | None = None) -> str:
    """One line per value, inputs before their users: `%2 = multiply(%1, x)  float64[1]`.

    names  Tensor to str; values without a name are numbered
    """
    names = checked_names("graph_text", names)
    labels: dict[Any, str] = {}
    rows: list[tuple[str, str, str]] = []
    for number, value in enumerate(ordered_values("graph_text", tensors)):
        labels[value] = value_name(value, names) or f"%{number}"
        made_by = "leaf" if value.op is None else _call(value, labels)
        rows.append((labels[value], made_by, describe_value(value)))
    widths = [max(len(row[column]) for row in rows) for column in (0, 1)]
    return "\n".join(f"{a:<{widths[0]}} = {b:<{widths[1]}}  {c}" for a, b, c in rows)


def _call(value: Any, labels: dict[Any, str]) -> str:
    inputs = [labels[source] for source in value.inputs]
    arguments = [f"{key}={shown}" for key, shown in operator_arguments(value.op).items()]
    return f"{value.op.name}({', '.join(inputs + arguments)})"

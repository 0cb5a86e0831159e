"""The memory that a program has for what comes and goes: what lies there, when, and what for."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from needle.backend_ndarray.ndarray_backend_trace import Node
from needle.errors import describe
from needle.inspection.words import shorter_line, size_text, table_text
from needle.origins import Origin
from needle.program.pipeline import Compiled
from needle.program.plan_memory import MemoryPlan, Span
from needle.program.steps import Buffer, Step

__all__ = ["Arena", "Held"]

_NONE = "memory: what comes and goes in a step needs none"
_TOLD = ("what", "made by", "where", "last used by")
_WIDEST = (32, 28, 48, 40)


@dataclass(frozen=True)
class Held:
    """A buffer: what it holds, and who needs it.

    span     how large it is, where it lies, and from which stage to which
    what     a shape and a dtype, or what else it is
    made_by  the operator whose result it is
    where    the user's line of that, and in brackets that of Needle
    used_by  the operators of the last kernel that reads it
    """

    span: Span
    what: str
    made_by: str
    where: str
    used_by: str

    @property
    def told(self) -> tuple[str, ...]:
        """All of it but the span."""
        return self.what, self.made_by, self.where, self.used_by


class Arena:
    """What lies in a program's arena: `print` it for the table.

    plan  where, and from when to when
    held  each buffer, in the order in which they are written
    """

    def __init__(self, compiled: Compiled) -> None:
        self.plan: MemoryPlan = compiled.memory
        nodes: dict[Buffer, Node] = {}
        for node, buffer in compiled.lowered.buffers.items():
            nodes.setdefault(buffer, node)
        readers: dict[Buffer, Step] = {}
        for stage in compiled.schedule.stages:
            for step in stage:
                for place in step.places_read:
                    readers[place.buffer] = step
        spans = sorted(self.plan.spans.values(), key=lambda span: (span.first, span.offset))
        self.held = [
            _held(span, nodes.get(span.buffer), readers.get(span.buffer)) for span in spans
        ]

    def __str__(self) -> str:
        """What it comes to, and a line for each buffer."""
        if not self.held:
            return _NONE
        rows = [
            (
                size_text(x.span.buffer.nbytes),
                f"{x.span.first} to {x.span.last}",
                size_text(x.span.offset),
                *x.told,
            )
            for x in self.held
        ]
        return f"{self._totals()}\n\n{_table(('size', 'stages', 'begins at'), rows)}"

    def at_most_once(self, count: int) -> str:
        """What it comes to, and what takes most of it when most is needed.

        Buffers of equal lines, as of layers, are one line of the `count` that there are at most.
        """
        if not self.held:
            return _NONE
        groups: dict[tuple[str, ...], list[int]] = {}
        for x in self.held:
            if x.span.first <= self.busiest <= x.span.last:
                groups.setdefault(x.told, []).append(x.span.buffer.nbytes)
        ordered = sorted(groups.items(), key=lambda group: -sum(group[1]))
        rows = [(size_text(sum(sizes)), str(len(sizes)), *told) for told, sizes in ordered[:count]]
        lines = [f"{self._totals()}, by", "", _table(("size", "buffers"), rows)]
        rest = [nbytes for _, sizes in ordered[count:] for nbytes in sizes]
        if rest:
            lines.append(f"and {len(rest)} others of {size_text(sum(rest))}")
        return "\n".join([*lines, "all of the plan: print(explanation.memory)"])

    @property
    def busiest(self) -> int:
        """The first stage that needs most."""
        return self.plan.needed().index(self.plan.peak)

    def _totals(self) -> str:
        plan = self.plan
        return (
            f"memory: an arena of {size_text(plan.total)} for what comes and goes in a step, "
            f"{size_text(plan.sum)} without sharing;\n"
            f"{size_text(plan.peak)} are needed at once, in stage {self.busiest} of {plan.stages}"
        )


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    first = len(head)
    columns = range(first, first + len(_TOLD))
    widest = dict(zip(columns, _WIDEST, strict=True))
    return table_text((*head, *_TOLD), rows, left=columns, widest=widest)


def _held(span: Span, node: Node | None, reader: Step | None) -> Held:
    if span.is_scratch:
        what, origins = "scratch memory of a kernel", _origins(span.writer)
        used_by = ""
    else:
        what = "sums of chunks of rows" if node is None else describe(node.layout)
        origins = _origins(span.writer) if node is None or node.origin is None else [node.origin]
        used_by = _titles(_origins(reader))
    made_by = _titles(origins) or ("" if span.writer is None else span.writer.title)
    return Held(span, what, made_by, _where(origins), used_by)


def _origins(step: Step | None) -> list[Origin]:
    """Those of all that a step computes, each once."""
    nodes = [] if step is None else [node for part in step.parts for node in part.nodes]
    return list(dict.fromkeys(node.origin for node in nodes if node.origin is not None))


def _titles(origins: Iterable[Origin]) -> str:
    return ", ".join(dict.fromkeys(origin.title for origin in origins))


def _where(origins: Iterable[Origin]) -> str:
    found = [
        shorter_line(o.line) + (f" ({shorter_line(o.within)})" if o.within else "") for o in origins
    ]
    return ", ".join(dict.fromkeys(found))

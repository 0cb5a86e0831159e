"""Loops alike that nothing waits for become one step: the updates of all parameters.

They have the same machine code and differ in what they read and write. One kernel runs them all,
cut into pieces of which each thread has its share: a step with a hundred small parameters has one
kernel for their updates, not a hundred.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from needle.compiler.kernels import several
from needle.compiler.prepared import Prepared
from needle.program.steps import Buffer, Place, Step

__all__ = ["unite_alike"]

_SMALL, _KEPT = 1 << 14, 1 << 20  # bytes of one, and of all, that may be kept until it runs


def unite_alike(steps: Sequence[Step]) -> list[Step]:
    """The steps, with one in the place of those that are alike, where the last of them was."""
    read = {place.buffer for step in steps for place in step.places_read}
    groups: dict[int, list[Step]] = {}
    kept = 0
    for step in steps:
        if not _may_wait(step, read):
            continue
        kept += sum(x.buffer.nbytes for x in step.places_read if x.buffer.in_arena)
        if kept <= _KEPT:
            groups.setdefault(step.prepared.address, []).append(step)
    united = {group[-1]: _one(group) for group in groups.values() if len(group) > 1}
    gone = {step for group in groups.values() if len(group) > 1 for step in group}
    return [united.get(step, step) for step in steps if step in united or step not in gone]


def _may_wait(step: Step, read: set[Buffer]) -> bool:
    """Whether it is a loop whose results nobody reads, and nothing large is kept until it runs."""
    plain = step.fused and step.tail is None and not step.prepared.scratch
    return (
        plain
        and not any(place.buffer in read for place in step.writes)
        and all(place.buffer.binding is not None for place in step.writes)
        and all(x.buffer.nbytes <= _SMALL for x in step.places_read if x.buffer.in_arena)
    )


def _one(steps: Sequence[Step]) -> Step:
    pieces = sum(step.prepared.tasks for step in steps)
    nanoseconds = sum(step.prepared.nanoseconds for step in steps)
    prepared = Prepared(several.address(), (len(steps), pieces), nanoseconds, pieces)
    return Step(
        "",
        prepared,
        _each(place for step in steps for place in step.places_read),
        _each(place for step in steps for place in step.writes),
        nodes=[node for step in steps for node in step.nodes],
        alike=steps,
    )


def _each(places: Iterable[Place]) -> list[Place]:
    return list(dict.fromkeys(places))

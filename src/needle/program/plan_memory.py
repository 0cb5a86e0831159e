"""Where in the arena each buffer lies: two that are needed at the same time never overlap.

The largest are placed first, each as low as those placed before it allow.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from needle.program.schedule import Schedule
from needle.program.steps import Buffer, Step
from needle.runtime.threads import get_num_threads

__all__ = ["ALIGN", "MemoryPlan", "Span", "plan_memory"]

ALIGN = 64  # a cache line


@dataclass
class Span:
    """A buffer in the arena: from which stage to which it is needed, and where it begins.

    writer  the step that writes it first, or whose scratch it is; None: nobody writes it
    """

    buffer: Buffer
    first: int
    last: int
    writer: Step | None = None
    is_scratch: bool = False
    offset: int = 0

    @property
    def title(self) -> str:
        """What is in it, for people."""
        title = "" if self.writer is None else self.writer.title
        return f"scratch of {title}" if self.is_scratch else title

    @property
    def end(self) -> int:
        """Where the next may begin."""
        return self.offset + -(-max(self.buffer.nbytes, 1) // ALIGN) * ALIGN

    def meets(self, other: Span) -> bool:
        """Whether there is a stage in which both are needed."""
        return self.first <= other.last and other.first <= self.last


@dataclass
class MemoryPlan:
    """The arena.

    schedule  what it is the plan for
    spans     of every buffer of the program's own
    scratch   of the steps that need scratch memory, and of tails, the buffer for all tasks
    """

    schedule: Schedule
    spans: dict[Buffer, Span] = field(default_factory=dict)
    scratch: dict[Step, Buffer] = field(default_factory=dict)

    @property
    def stages(self) -> int:
        """How many stages there are."""
        return len(self.schedule.stages)

    @property
    def total(self) -> int:
        """Bytes of the arena."""
        return max((span.end for span in self.spans.values()), default=0)

    @property
    def sum(self) -> int:
        """Bytes that it would take without sharing."""
        return sum(buffer.nbytes for buffer in self.spans)

    @property
    def peak(self) -> int:
        """Bytes needed at one time: no arena can be smaller."""
        return max(self.needed(), default=0)

    def needed(self) -> list[int]:
        """Of each stage, the bytes that it needs."""
        changes = [0] * (self.stages + 1)
        for span in self.spans.values():
            changes[span.first] += span.buffer.nbytes
            changes[span.last + 1] -= span.buffer.nbytes
        needed, now = [], 0
        for change in changes[:-1]:
            now += change
            needed.append(now)
        return needed

    def __str__(self) -> str:
        """A line per buffer: `[0, 4096) stages 3 to 7: matmul(...)`."""
        lines = [f"arena of {self.total} bytes; {self.peak} at once, {self.sum} in all"]
        for span in sorted(self.spans.values(), key=lambda span: (span.first, span.offset)):
            where = f"[{span.offset}, {span.offset + span.buffer.nbytes})"
            lines.append(f"{where} stages {span.first} to {span.last}: {span.title}")
        return "\n".join(lines)


def plan_memory(schedule: Schedule) -> MemoryPlan:
    """Find out from when to when each buffer is needed, and give it a place."""
    plan = MemoryPlan(schedule)
    for number, buffer, writer in _uses(schedule, plan.scratch):
        span = plan.spans.get(buffer)
        if span is None:
            span = plan.spans[buffer] = Span(buffer, number, number)
        span.last = number
        span.writer = span.writer or writer
    for room in plan.scratch.values():
        plan.spans[room].is_scratch = True
    _place(plan)
    return plan


def _uses(
    schedule: Schedule, scratch: dict[Step, Buffer]
) -> Iterator[tuple[int, Buffer, Step | None]]:
    """(stage, buffer, who writes it) for all that steps touch in the arena."""
    threads = get_num_threads()
    for number, stage in enumerate(schedule.stages):
        for step in stage:
            for place in step.places_written:
                if place.buffer.in_arena:
                    yield number, place.buffer, step
            for place in step.places_read:
                if place.buffer.in_arena:
                    yield number, place.buffer, None
            for part in step.parts:
                if part.prepared.scratch:
                    tasks = min(step.prepared.tasks, threads)
                    room = scratch[part] = Buffer(part.prepared.scratch * tasks)
                    yield number, room, step


def _place(plan: MemoryPlan) -> None:
    placed: list[tuple[int, int, int, int]] = []  # begin, end; first stage, last
    for span in sorted(plan.spans.values(), key=lambda span: -span.buffer.nbytes):
        size, at, first, last = span.end, 0, span.first, span.last
        taken = sorted([other for other in placed if other[2] <= last and first <= other[3]])
        for start, stop, _, _ in taken:
            if at + size <= start:
                break
            at = max(at, stop)
        span.offset = at
        placed.append((at, at + size, first, last))

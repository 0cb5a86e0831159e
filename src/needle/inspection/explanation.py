"""What was built for a compiled function, and what each part of it costs: `step.explain()`."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from needle.files import write_atomically
from needle.inspection.arena import Arena
from needle.inspection.kernels import KernelFacts, facts_of
from needle.inspection.machine import Peak
from needle.inspection.timing import Timing
from needle.inspection.words import count_text, shorter_line, size_text, table_text, time_text
from needle.program.pipeline import Compiled

__all__ = ["Explanation", "Kernel", "Summary"]

_ROWS = 8  # of the memory plan


@dataclass(frozen=True)
class Summary:
    """A compiled form of a function, in numbers.

    kernels        calls of kernels in a step
    codes          kernels that differ in their machine code
    stages         rows of calls that do not depend on each other
    flops, nbytes  operations, and bytes moved, of all kernels
    allocations    memories that a step asks for: results, and state that cannot lie where it did
    arena          bytes of memory that the program has for itself
    seconds        what tracing and compiling took
    """

    kernels: int
    codes: int
    stages: int
    flops: int
    nbytes: int
    allocations: int
    arena: int
    seconds: float


@dataclass(frozen=True)
class Kernel:
    """A kernel's facts, and what was measured of it.

    seconds  on the thread that worked longest for it
    share    of the machine's peak: what its operations or bytes would take at best, over that
    bound    which of these two it is: "flops" or "bytes"
    """

    facts: KernelFacts
    seconds: float
    share: float
    bound: str


@dataclass
class Explanation:
    """What `step.explain()` returns: `print` it for the table; `save` writes a page.

    name         the function's
    summary      numbers of the whole program
    kernels      in the order in which they run
    timing       medians of several runs
    peak         what the machine can do
    passes       seconds that each pass of the compiler took
    memory       what lies in the arena, from when to when, and what for: `print` it for a table
    variants     how many compiled forms the function has; this is the one that was used last
    names        of inputs and outputs, by the numbers of their bindings
    """

    name: str
    summary: Summary
    kernels: list[Kernel]
    timing: Timing
    peak: Peak
    passes: Mapping[str, float]
    memory: Arena
    compiled: Compiled
    variants: int = 1
    names: Mapping[int, str] = field(default_factory=dict)

    def __str__(self) -> str:
        """The table, what it sums up to, and the largest buffers of the memory plan."""
        memory = self.memory.at_most_once(_ROWS)
        parts = [self._head(), self._table(), self._totals(), self._compiling(), memory]
        return "\n\n".join(parts)

    def __repr__(self) -> str:
        return f"<Explanation of {self.name}: {self.summary.kernels} kernels>"

    def save(self, path: str | Path) -> Path:
        """Write one page of HTML that needs nothing else: graph, table, memory, code, timeline."""
        from needle.inspection.page import page

        target = Path(path)
        write_atomically(target, page(self))
        return target

    # -- the table -----------------------------------------------------------------------------

    def _head(self) -> str:
        given = self.summary
        more = f", the last used of {self.variants} compiled forms" if self.variants > 1 else ""
        return (
            f"{self.name}: {given.kernels} kernels ({given.codes} kinds of machine code) in "
            f"{given.stages} stages{more}"
        )

    def _table(self) -> str:
        """A line per kernel; equal ones of one operator's lines, as of layers, are one line."""
        head = ("kernel", "calls", "operators (primitives)", "where", "flops", "bytes", "time",
                "of peak", "tasks")  # fmt: skip
        rows = []
        for group in grouped(self.kernels):
            first = group[0].facts
            seconds = sum(kernel.seconds for kernel in group)
            flops = sum(kernel.facts.flops for kernel in group)
            nbytes = sum(kernel.facts.nbytes for kernel in group)
            best = self.peak.seconds(flops, nbytes)
            rows.append(
                (
                    str(first.number),
                    str(sum(kernel.facts.times for kernel in group)),
                    f"{first.lead}{first.title} ({len(first.primitives)})",
                    where_text(first),
                    count_text(flops),
                    size_text(nbytes),
                    time_text(seconds),
                    f"{100 * best / seconds:.0f} %" if seconds else "",
                    str(max(kernel.facts.tasks for kernel in group)),
                )
            )
        return table_text(head, rows, left=(2, 3), widest={2: 60, 3: 52})

    def _totals(self) -> str:
        given, timing = self.summary, self.timing
        best = self.peak.seconds(given.flops, given.nbytes)
        busy = sum(timing.busy) / (timing.wall * self.peak.threads) if timing.wall else 0.0
        share = f", {100 * best / timing.wall:.0f} % of the peak" if timing.wall else ""
        return "\n".join(
            [
                f"step: {time_text(timing.wall)} (median of {timing.runs}){share}; threads are "
                f"busy for {100 * busy:.0f} % of it",
                f"work: {count_text(given.flops)} operations, {size_text(given.nbytes)} moved, "
                f"{given.allocations} allocation{'' if given.allocations == 1 else 's'}",
                f"peak: {self.peak}, measured here; who finds its data in caches may exceed it",
            ]
        )

    def _compiling(self) -> str:
        seconds = ", ".join(f"{name} {time_text(took)}" for name, took in self.passes.items())
        return f"compiled in {time_text(self.summary.seconds)}: {seconds}"


def grouped(kernels: Sequence[Kernel]) -> list[list[Kernel]]:
    """Kernels that do the same for the same lines, together; in the order of the first."""
    groups: dict[Hashable, list[Kernel]] = {}
    for kernel in kernels:
        groups.setdefault(kernel.facts.work, []).append(kernel)
    return list(groups.values())


def where_text(facts: KernelFacts) -> str:
    """The user's lines, each with those of needle that it led to: `a.py:14 (layers.py:58)`."""
    places: dict[str, dict[str, None]] = {}
    for origin in facts.origins:
        within = places.setdefault(shorter_line(origin.line), {})
        if origin.within:
            within[shorter_line(origin.within)] = None
    return ", ".join(
        line + (f" ({', '.join(within)})" if within else "") for line, within in places.items()
    )


def measured(facts: Sequence[KernelFacts], timing: Timing, peak: Peak) -> list[Kernel]:
    """Facts with what was measured."""
    kernels = []
    for fact, seconds in zip(facts, timing.kernels, strict=True):
        best = peak.seconds(fact.flops, fact.nbytes)
        by_flops = fact.flops / peak.flops >= fact.nbytes / peak.bandwidth
        share = best / seconds if seconds else 0.0
        kernels.append(Kernel(fact, seconds, share, "flops" if by_flops else "bytes"))
    return kernels


def summary_of(compiled: Compiled, allocations: int, seconds: float) -> Summary:
    """The numbers of a program."""
    facts = facts_of(compiled)
    return Summary(
        kernels=len(facts),
        codes=len({code for fact in facts for code in fact.codes}),
        stages=len(compiled.schedule.stages),
        flops=sum(fact.flops for fact in facts),
        nbytes=sum(fact.nbytes for fact in facts),
        allocations=allocations,
        arena=compiled.memory.total,
        seconds=seconds,
    )

"""`step.explain()` and `step.compiled`: what was built for a function."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from needle.inspection.arena import Arena
from needle.inspection.explanation import Explanation, Summary, measured, summary_of
from needle.inspection.kernels import facts_of
from needle.inspection.machine import measure_peak
from needle.inspection.timing import time_kernels
from needle.jit.rehearsal import Rehearsal
from needle.jit.variant import Variant

__all__ = ["explain", "summarize"]


def explain(name: str, variant: Variant, variants: int, tensors: Sequence[Any] = ()) -> Explanation:
    """Run a variant's program several times, on copies of its state, and tell what was measured.

    variants  how many the function has
    tensors   arguments of the last call; None for those that nobody holds any more
    """
    compiled = variant.executable.compiled
    facts = facts_of(compiled)
    owners = compiled.built.program.owners
    timing = time_kernels(len(facts), owners, Rehearsal(variant, tensors).run)
    peak = measure_peak()
    return Explanation(
        name,
        summarize(variant),
        measured(facts, timing, peak),
        timing,
        peak,
        {"trace": variant.trace_seconds, **compiled.passes.seconds},
        Arena(compiled),
        compiled,
        variants,
        _names(variant),
    )


def summarize(variant: Variant) -> Summary:
    """A variant in numbers."""
    compiled = variant.executable.compiled
    seconds = variant.trace_seconds + sum(compiled.passes.seconds.values())
    return summary_of(compiled, variant.in_place.count(False), seconds)


def _names(variant: Variant) -> dict[int, str]:
    """What inputs and outputs are, by the numbers of their bindings."""
    names: dict[int, str] = {}
    for leaf in variant.leaves:
        known = "a Tensor" if leaf.place is None else leaf.place.name
        names[len(names)] = f"argument {leaf.argument}" if leaf.argument is not None else known
    for draw in variant.draws:
        names[len(names)] = f"random numbers: {draw.name}"
    first = len(names)
    for number, source in enumerate(variant.sources):
        if number < variant.returned:
            names[first + number] = f"result {number}"
        else:
            names[first + number] = "new state" if source is None else f"new {names[source]}"
    return names

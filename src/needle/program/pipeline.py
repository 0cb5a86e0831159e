"""The compiler of whole graphs, pass by pass: a graph of primitives becomes a native program."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from time import perf_counter
from typing import Any, ParamSpec, TypeVar

from needle import config
from needle.errors import OptionError
from needle.origins import current
from needle.program.chains import chain
from needle.program.collection import no_collection
from needle.program.expand import expand
from needle.program.fuse import Fused, fuse
from needle.program.graph import Graph, separate_outputs
from needle.program.hoist import hoist
from needle.program.lower import Lowered, lower
from needle.program.plan_memory import MemoryPlan, plan_memory
from needle.program.recompute import recompute
from needle.program.rematerialize import rematerialize
from needle.program.schedule import Schedule, schedule
from needle.program.simplify import simplify
from needle.program.skip_padding import skip_padding
from needle.program.table import Built, build
from needle.program.verify import verify

__all__ = ["PASSES", "Compiled", "Passes", "compile_graph"]

P = ParamSpec("P")
T = TypeVar("T")

PASSES = (
    "trace", "expand", "simplify", "skip_padding", "hoist", "separate_outputs", "fuse",
    "recompute", "rematerialize", "chain", "lower", "schedule", "plan_memory", "build",
)  # fmt: skip


@dataclass
class Compiled:
    """What the passes made of a graph, and what they took."""

    graph: Graph
    fused: Fused
    lowered: Lowered
    schedule: Schedule
    memory: MemoryPlan
    built: Built
    passes: Passes


def compile_graph(traced: Graph) -> Compiled:
    """The native program for a graph.

    trace             what ops did, as `needle.jit` or lazy mode recorded it
    expand            what is better a part of loops, as what it does to each element
    simplify          equal nodes once, and none that change nothing
    skip_padding      windows on a picture, in place of its copy with zeros around it
    hoist             these passes on bodies of recurrences, and out of them what can be
    separate_outputs  each output in memory of its own
    fuse              which nodes become one loop
    recompute         what is cheap is computed again rather than kept
    rematerialize     what is cheap is made twice rather than kept while most memory is needed
    chain             which units run one after the other on a part of the work, as attention does
    lower             kernels with their numbers, from the cache or made now, and what they read
    schedule          in stages, whose kernels do not depend on each other
    plan_memory       where in the arena everything lies
    build             the table that all threads run the program from
    """
    run = Passes()
    run.show("trace", traced)
    with no_collection():
        return _compiled(traced, run)


def _compiled(traced: Graph, run: Passes) -> Compiled:
    expanded = run(expand, traced)
    simple = run(simplify, expanded)
    bare = run(skip_padding, simple)
    hoisted = run(hoist, bare)
    graph = run(separate_outputs, hoisted)
    united = run(fuse, graph)
    fused = run(chain, run(rematerialize, run(recompute, united)))
    lowered = run(lower, fused)
    stages = run(schedule, lowered)
    memory = run(plan_memory, stages)
    built = run(build, lowered, stages, memory)
    run.report(lowered, memory)
    return Compiled(fused.graph, fused, lowered, stages, memory, built, run)


class Passes:
    """Runs passes: each is timed, and, as the settings say, shown and verified.

    seconds  what each took, in their order
    """

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._shown = _shown()

    def __call__(self, run: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """What a pass makes."""
        name, start = run.__name__, perf_counter()
        with current.span("compile", name):
            made = run(*args, **kwargs)
        self.seconds[name] = perf_counter() - start
        self.show(name, made)
        return made

    def show(self, name: str, made: Any) -> None:
        """Verify what a pass made, and print it, if that is asked for."""
        if name in self._shown:
            print(f"-- after {name}\n{made}", file=sys.stderr)
        if config.VERIFY:
            verify(made, name)

    def report(self, lowered: Lowered, memory: MemoryPlan) -> None:
        """A line for the program on stderr, where `NEEDLE_DEBUG` asks for it."""
        if config.DEBUG < 1:
            return
        seconds = sum(self.seconds.values())
        nodes = len(lowered.graph.nodes)
        print(
            f"needle: {nodes} primitives became {len(lowered.steps)} kernels in {memory.stages} "
            f"stages, an arena of {memory.total:,} bytes, in {seconds:.3f} s",
            file=sys.stderr,
        )
        if config.DEBUG >= 2:
            times = ", ".join(f"{name} {1e3 * took:.1f} ms" for name, took in self.seconds.items())
            print(f"needle: {times}", file=sys.stderr)


def _shown() -> tuple[str, ...]:
    """The passes whose results are printed; OptionError for names that are none."""
    for name in config.PRINT_AFTER:
        if name not in (*PASSES, "all"):
            raise OptionError(
                f"NEEDLE_PRINT_AFTER: expected names of passes or all, got {name!r}. "
                f"They are {', '.join(PASSES)}."
            )
    return PASSES if "all" in config.PRINT_AFTER or config.DEBUG >= 3 else config.PRINT_AFTER

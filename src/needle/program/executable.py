"""A graph as something to run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from needle.origins import current
from needle.program.graph import Graph
from needle.program.pipeline import compile_graph
from needle.program.steps import Step, word_of
from needle.runtime.program import Call, Loop

__all__ = ["Executable"]


class Executable:
    """A compiled graph.

    graph     what to compute

    compiled  what each pass made of it
    layouts   how each output lies in memory of its own
    in_place  for each output, whether it may be written where lies what it replaces
    numbers   those that have to be worked out before each run
    name      of what was compiled, for people
    """

    name = "a program"

    def __init__(self, graph: Graph) -> None:
        compiled = self.compiled = compile_graph(graph)
        outputs, buffers = compiled.graph.outputs, compiled.lowered.buffers
        self.layouts = [output.layout for output in outputs]
        self.in_place = [buffers[output.node] in compiled.schedule.granted for output in outputs]
        variables = compiled.lowered.words.variables
        self.numbers = [number for _, number in variables.values()]
        self._are_floats = [is_float for _, is_float in variables]
        self._program = compiled.built.program

    @property
    def stages(self) -> list[list[Step]]:
        """Its steps, stage by stage."""
        return self.compiled.schedule.stages

    @property
    def calls(self) -> list[list[Call | Loop]]:
        """The calls of kernels that the steps became."""
        return self.compiled.built.calls

    @property
    def owners(self) -> Any:
        """Of each task of a run, the number of its kernel."""
        return self._program.owners

    def set_numbers(self, values: Sequence[Any]) -> None:
        """Give `numbers` the values that the next runs are to have."""
        for variable, (value, is_float) in enumerate(zip(values, self._are_floats, strict=True)):
            self._program.set(variable, word_of(value, is_float))

    def run(self, arguments: Sequence[Any], results: Sequence[Any]) -> bool:
        """(memory, bytes) of each input and output in one row; False where a value is at fault."""
        if current.profile is not None:
            return current.profile.program(self, arguments, results)  # type: ignore[no-any-return]
        return self._program.run(*arguments, *results)

    def run_timed(self, arguments: Sequence[Any], results: Sequence[Any]) -> tuple[bool, Any]:
        """`run`, and of each task, call by call: begin, end (ns), and the number of its thread."""
        return self._program.run_timed(*arguments, *results)

"""The last pass: steps with places in memory become calls with addresses, in a native table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from needle.compiler.kernels.fused import FIRST_POINTER
from needle.program.lower import Lowered
from needle.program.plan_memory import MemoryPlan
from needle.program.schedule import Schedule
from needle.program.steps import Links, Place, Repeat, ScratchTile, Step, Vary
from needle.runtime.program import (
    Bound,
    Call,
    Chain,
    ContextWord,
    Loop,
    Moved,
    Part,
    Program,
    calls_in,
)
from needle.runtime.threads import get_num_threads

__all__ = ["Built", "Word", "build"]


class Word:
    """Words of the context of a kernel that is not fused: which holds what."""

    FIRST_POINTER, FIRST_SCALAR = 1, 9
    SCRATCH, ERROR, COUNTER = 13, 14, 15
    ALL = 16


@dataclass
class Built:
    """A program that can run.

    calls     stage by stage, beside the steps of the schedule
    bindings  how many memories are handed over at each run: inputs, outputs, the arena
    arena     the bytes of that
    """

    program: Program
    calls: list[list[Call | Loop]]
    bindings: int
    arena: int

    def __str__(self) -> str:
        """A line per call: the kernel's address, and into how many tasks it is cut."""
        return "\n".join(
            f"stage {number}: kernel {call.kernel:#x} in {call.tasks} tasks"
            + (f", tail {call.tail.kernel:#x}" if call.tail else "")
            for number, stage in enumerate(self.calls)
            for call in calls_in(stage)
        )


def build(lowered: Lowered, schedule: Schedule, memory: MemoryPlan) -> Built:
    """The table that the program is run from."""
    return _Builder(lowered, memory).build(schedule)


class _Builder:
    def __init__(self, lowered: Lowered, memory: MemoryPlan) -> None:
        self.lowered, self.memory = lowered, memory
        self.threads = get_num_threads()
        self.bindings = len(lowered.graph.inputs) + len(lowered.graph.outputs)
        self.task_memory = 0  # where the memory of a task of a chain begins
        self.scratch: Mapping[Step, int] = {}  # and where in it that of each step does
        buffers = lowered.buffers.values()
        self.constants = [buffer.keep for buffer in buffers if buffer.keep is not None]

    def build(self, schedule: Schedule) -> Built:
        calls = [[self._step(step) for step in stage] for stage in schedule.stages]
        nanoseconds = sum(step.prepared.nanoseconds for stage in schedule.stages for step in stage)
        arena = self.memory.total
        program = Program(calls, self.bindings, self.constants, nanoseconds, arena)
        return Built(program, calls, self.bindings + 1, arena)

    def _step(self, step: Step) -> Call | Loop:
        return self._call(step) if step.repeat is None else self._loop(step, step.repeat)

    def _loop(self, step: Step, repeat: Repeat) -> Loop:
        inner = _InLoop(self, step, repeat)
        calls = [[inner._call(each) for each in stage] for stage in repeat.schedule.stages]
        self.constants += inner.constants
        return Loop(step.prepared.address, calls, repeat.count)

    def _call(self, step: Step) -> Call:
        return replace(self._bare_call(step), nanoseconds=step.prepared.nanoseconds)

    def _bare_call(self, step: Step) -> Call:
        tasks = min(step.prepared.tasks, self.threads)
        if step.links is not None:
            return self._call_chain(step, step.links, tasks)
        if step.alike:
            made = tuple([self._call_fused(one, one.prepared.tasks) for one in step.alike])
            return Call(step.prepared.address, step.prepared.numbers, (0,), tasks, several=made)
        if step.fused:
            return self._call_fused(step, tasks)
        words: list[ContextWord] = [0] * (Word.ALL - 1)  # that of the numbers is no word
        for i, place in enumerate((*step.reads, *step.writes), Word.FIRST_POINTER):
            words[i - 1] = self._word(place)
        for i, scalar in enumerate(step.scalars, Word.FIRST_SCALAR):
            words[i - 1] = scalar
        words[Word.SCRATCH - 1] = self._scratch_of(step)
        return Call(
            step.prepared.address,
            step.prepared.numbers,
            tuple(words),
            tasks,
            Word.ERROR if step.error else 0,
            Word.COUNTER if step.nodes[0].primitive == "reduce" else 0,
            None if step.tail is None else self._call_fused(step.tail, tasks),
        )

    def _call_fused(self, step: Step, tasks: int) -> Call:
        places = [self._word(place) for place in (*step.reads, *step.writes)]
        words = (self._scratch_of(step), *places, *step.scalars)
        return Call(step.prepared.address, step.prepared.numbers, words, tasks)

    def _call_chain(self, step: Step, links: Links, tasks: int) -> Call:
        """Each task has contexts of its own for the calls that it makes."""
        begin = self.memory.spans[self.memory.scratch[step]].offset if step.prepared.scratch else 0
        calls, parts = [], []
        for task in range(tasks):
            self.task_memory = begin + task * step.prepared.scratch
            self.scratch = links.scratch
            made = {link: self._call(link) for link, _ in links.steps}
            calls.append(tuple([(made[link], when) for link, when in links.steps]))
            known = {part: call for link, call in made.items() for part, call in _parts(link, call)}
            parts.append(tuple([_part(vary, known[vary.step]) for vary in links.varies]))
        self.scratch = {}
        chain = Chain(tuple(calls), tuple(parts))
        return Call(step.prepared.address, step.prepared.numbers, (0,), tasks, chain=chain)

    def _word(self, place: Place | int) -> ContextWord:
        if isinstance(place, int):
            return place
        buffer = place.buffer
        if isinstance(buffer, ScratchTile):
            return self._in_arena(self.task_memory + buffer.offset + place.offset)
        if buffer.binding is not None:
            return self._bound(buffer.binding, place.offset)
        if buffer.address is not None:
            return buffer.address + place.offset
        offset = place.offset if buffer.nbytes else 0  # a view of nothing may begin anywhere
        return self._in_arena(self.memory.spans[buffer].offset + offset)

    def _scratch_of(self, step: Step) -> ContextWord:
        if step in self.scratch:
            return self._in_arena(self.task_memory + self.scratch[step])
        room = self.memory.scratch.get(step)
        return 0 if room is None else self._in_arena(self.memory.spans[room].offset)

    def _bound(self, binding: int, offset: int) -> ContextWord:
        return Bound(binding, offset)

    def _in_arena(self, offset: int) -> ContextWord:
        return Bound(self.bindings, offset)


class _InLoop(_Builder):
    """Calls of steps that are repeated: what is handed over to them is a place of those around."""

    def __init__(self, around: _Builder, step: Step, repeat: Repeat) -> None:
        super().__init__(repeat.lowered, repeat.memory)
        self.around, self.repeat = around, repeat
        self.begin = around._scratch_of(step)

    def _bound(self, binding: int, offset: int) -> ContextWord:
        moving = self.repeat.bindings[binding]
        word = self.around._word(Place(moving.place.buffer, moving.place.offset + offset))
        assert isinstance(word, (int, Bound)), word
        if not moving.step:
            return word
        return Moved(word, moving.step, moving.first, moving.period)

    def _in_arena(self, offset: int) -> ContextWord:
        assert isinstance(self.begin, Bound), self.begin
        return Bound(self.begin.binding, self.begin.offset + offset)


def _parts(step: Step, call: Call) -> list[tuple[Step, Call]]:
    """A step and its tail, with their calls."""
    tail = [(step.tail, call.tail)] if step.tail is not None and call.tail is not None else []
    return [(step, call), *tail]


def _part(vary: Vary, call: Call) -> Part:
    """What a chain is to set in the context, or in the numbers, of a call."""
    first = FIRST_POINTER if vary.step.fused else Word.FIRST_POINTER
    word = vary.at if vary.at < 0 else first + vary.at
    group = [len(vary.items), *[word for axis in vary.items for word in axis]]
    return Part(call, word, tuple(group) if vary.items else (), vary.table)

"""Programs: kernels in a fixed order, run by all threads together from a table, without Python.

A program is a row of *stages*. The calls of a stage do not depend on each other and are cut into
tasks; a stage begins when all tasks of the one before are done. Each thread has tasks of its own
in every stage, the same ones at every run, whose data its cache may hold; who is done with them
takes over what others have not begun. So a thread that is late, or not there, delays nobody.

What a kernel reads is in its context, whose addresses are known beforehand but for those of the
*bindings*: memories that are handed over at each run.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from threading import Lock
from typing import Any
from weakref import WeakSet

import numpy as np

from needle.compiler.kernels.chain import TABLES, When
from needle.compiler.kernels.contraction_loops import TAIL, TAIL_CONTEXT
from needle.compiler.kernels.several import TABLE
from needle.runtime.arenas import shared_arenas
from needle.runtime.call import builtin, runtime_address
from needle.runtime.program_code import PATCH_WORDS, TASK_WORDS, TIME_WORDS, Head
from needle.runtime.threads import get_num_threads

__all__ = [
    "Bound",
    "Call",
    "Chain",
    "ContextWord",
    "Loop",
    "Moved",
    "Part",
    "Program",
    "Variable",
    "calls_in",
]

_RELEASE_AFTER = 20_000  # nanoseconds of work for which other Python threads may run
_LINE = 8  # words of a cache line


@dataclass(frozen=True)
class Bound:
    """An address in the memory of a binding: so many bytes from where the binding begins."""

    binding: int
    offset: int = 0


@dataclass(frozen=True)
class Variable:
    """A number that may be another at each run; see `Program.set`."""

    number: int


@dataclass(frozen=True)
class Moved:
    """In a `Loop`, a word that is another one each time: base + (first + time) % period · step."""

    base: int | Bound
    step: int
    first: int
    period: int


@dataclass(frozen=True, eq=False)
class Call:
    """A kernel and its context.

    kernel   its address: void (context, task, tasks)
    numbers  the i64 words that word 0 of the context points to
    context  its words from number 1 on: addresses and numbers, or what each run brings
    tasks    into how many it is cut
    error    the number of the context's word that the kernel sets on a fault; 0: none
    tail     a kernel that this one calls: its address is in word TAIL, its context's in the next
    counter  that of the word which is to hold the address of a counter, which the kernel leaves
             at 0; 0: none
    chain    of a chain: the calls that it makes
    several  of `kernels.several`: the calls that it makes, each in as many tasks as it says
    nanoseconds  that it takes on one thread, about
    """

    kernel: int
    numbers: tuple[int, ...]
    context: tuple[ContextWord, ...]
    tasks: int = 1
    error: int = 0
    counter: int = 0
    tail: Call | None = None
    chain: Chain | None = None
    several: tuple[Call, ...] = ()
    nanoseconds: float = 0.0


@dataclass(frozen=True, eq=False)
class Part:
    """A word of a call that is another one in each part of a chain's work.

    call   whose; of a contraction with a tail, it or that
    word   its number in the context, from 1 on, or, below 0, -1 - that of one of the numbers
    items  words of a group that leads through the items (see `kernels.packing`); empty: none
    table  what to add in each block; empty: nothing
    """

    call: Call
    word: int
    items: tuple[int, ...] = ()
    table: tuple[int, ...] = ()


@dataclass(frozen=True, eq=False)
class Chain:
    """What a call of `kernels.chain` calls itself.

    calls  of each task: the calls, in order, each with when it is made
    parts  of each task: what differs from part to part
    """

    calls: tuple[tuple[tuple[Call, When], ...], ...]
    parts: tuple[tuple[Part, ...], ...]


@dataclass(frozen=True, eq=False)
class Loop:
    """Stages of calls that run again and again; others of its stage run beside the first of them.

    kernel  the address of `kernels.move`, which runs before each time
    count   how often
    """

    kernel: int
    stages: Sequence[Sequence[Call]]
    count: int


ContextWord = int | Bound | Variable | Moved
Stage = Sequence[Call | Loop]


def calls_in(stage: Stage) -> Iterator[Call]:
    """The calls of a stage, and of its loops, each once."""
    for call in stage:
        if isinstance(call, Loop):
            for row in call.stages:
                yield from row
        else:
            yield call


class Program:
    """Stages of calls, laid out for native code; `run(memory, offset, ...)` runs them.

    tasks     how many run
    owners    of each, the number of its call, in the order of `calls_in`
    bindings  how many memories each run brings. One more, the last, is the arena
    arena     bytes of that, in which nothing stays from run to run
    keep      what the addresses in the contexts depend on; held as long as the program is
    """

    def __init__(
        self,
        stages: Sequence[Stage],
        bindings: int,
        keep: Any = None,
        nanoseconds: float = float("inf"),
        arena: int = 0,
    ) -> None:
        self._keep, self._lock = (keep, stages), Lock()  # calls hold their kernels
        self._arena, self._arenas = arena, shared_arenas()
        self._arenas.need(self, arena)
        layout = _Table(stages, bindings + 1, nanoseconds)
        self._words = layout.words()
        self._variables, self.tasks = layout.variables, len(layout.owners)
        self.owners = np.array(layout.owners, np.int64)
        table = struct.pack("q", self._words.ctypes.data)
        self._run = builtin(runtime_address("run"), table)
        _programs.add(self)

    def set(self, variable: int, word: int) -> None:
        """Give a variable its value: the bits of a double, or an i64."""
        for place in self._variables.get(variable, ()):
            self._words[place] = word

    def run(self, *bindings: Any) -> bool:
        """Run it on the memories of the bindings: (memory, offset in bytes) for each.

        False where a kernel found fault with a value; the stages after it did not run.
        """
        arena = self._arenas.take(self._arena)
        try:
            with self._lock:
                return self._run(*bindings, arena, 0)  # type: ignore[no-any-return]
        finally:
            self._arenas.give(arena)

    def run_timed(self, *bindings: Any) -> tuple[bool, np.ndarray[Any, Any]]:
        """`run`, and of each task, call by call: begin, end (ns), and the number of its thread."""
        times = np.zeros((self.tasks, TIME_WORDS), np.int64)
        arena = self._arenas.take(self._arena)
        with self._lock:
            self._words[Head.TIMES_AT] = times.ctypes.data
            try:
                return self._run(*bindings, arena, 0), times
            finally:
                self._words[Head.TIMES_AT] = 0
                self._arenas.give(arena)


_programs: WeakSet[Program] = WeakSet()


def _renew_locks() -> None:
    """In the child of a fork no other thread runs a program."""
    for program in _programs:
        program._lock = Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_locks)


@dataclass(frozen=True)
class _At:
    """The address of a word of the table."""

    place: int


Words = list["int | _At"]


@dataclass
class _Row:
    """A stage of the table.

    tasks    words of each
    owners   of each, the number of its call
    lengths  of each, nanoseconds
    errors   words that tell of faults
    """

    tasks: Words = field(default_factory=list)
    owners: list[int] = field(default_factory=list)
    lengths: list[float] = field(default_factory=list)
    errors: Words = field(default_factory=list)

    def add(self, other: _Row) -> None:
        """Have all that another has as well."""
        self.tasks += other.tasks
        self.owners += other.owners
        self.lengths += other.lengths
        self.errors += other.errors

    def share(self, threads: int) -> None:
        """Put the tasks in an order in which each thread's part has some of each call.

        A thread's part is as many neighbours as another's. The longest tasks are given out first,
        each to whom has least to do; of those of one call, each to another.
        """
        count = len(self.owners)
        ends = [-(-count * (thread + 1) // threads) for thread in range(threads)]
        free = [end - begin for begin, end in zip([0, *ends], ends, strict=False)]
        parts: list[list[int]] = [[] for _ in range(threads)]
        owners: list[set[int]] = [set() for _ in range(threads)]
        load = [0.0] * threads
        for task in sorted(range(count), key=lambda i: (-self.lengths[i], self.owners[i])):
            owner = self.owners[task]
            ranks = [
                (owner in owners[i], load[i], i) for i in range(threads) if len(parts[i]) < free[i]
            ]
            thread = min(ranks)[2]
            parts[thread].append(task)
            owners[thread].add(owner)
            load[thread] += self.lengths[task]
        order = [task for part in parts for task in part]
        self.tasks = [word for i in order for word in self.tasks[i * TASK_WORDS :][:TASK_WORDS]]
        self.owners = [self.owners[i] for i in order]
        self.lengths = [self.lengths[i] for i in order]


class _Table:
    """The table of a program, being laid out: parts one behind the other in one row of words."""

    def __init__(self, stages: Sequence[Stage], bindings: int, nanoseconds: float) -> None:
        self.stages, self.bindings, self.nanoseconds = stages, bindings, nanoseconds
        self.threads = get_num_threads()
        self.row: Words = [0] * Head.WORDS
        self.patches: Words = []
        self.moved: list[tuple[_At, Moved]] = []
        self.variables: dict[int, list[int]] = {}
        self.owners: list[int] = []
        self._calls = 0
        self._shared: dict[tuple[int, ...], _At] = {}

    def words(self) -> np.ndarray[Any, Any]:
        """The table, beginning with a cache line."""
        self._fill()
        table = np.zeros(len(self.row) + _LINE, np.int64)
        table = table[-(table.ctypes.data // 8) % _LINE :][: len(self.row)]
        base = table.ctypes.data
        table[:] = [base + 8 * x.place if isinstance(x, _At) else x for x in self.row]
        return table

    def _fill(self) -> None:
        rows = [row for stage in self.stages for row in self._rows(stage)]
        stages: Words = []
        tasks: Words = []
        errors: Words = []
        for row in rows:
            stages += [len(self.owners), len(row.owners), len(errors), len(row.errors)]
            tasks += row.tasks
            errors += row.errors
            self.owners += row.owners
        count = len(rows)
        claims = self._part([0] * (count * self.threads), aligned=True)
        done = self._part([0] * count)
        head: dict[int, int | _At] = {
            Head.BINDINGS: self.bindings,
            Head.POINTERS_AT: self._part([0] * self.bindings),
            Head.PATCHES: len(self.patches) // PATCH_WORDS,
            Head.PATCHES_AT: self._part(self.patches),
            Head.STAGES: count,
            Head.STAGES_AT: self._part(stages),
            Head.TASKS_AT: self._part(tasks),
            Head.CLAIMS_AT: claims,
            Head.DONE_AT: done,
            Head.COUNTERS: 8 * count * (self.threads + 1),
            Head.ERRORS: len(errors),
            Head.ERRORS_AT: self._part(errors),
            Head.THREADS: self.threads,
            Head.RELEASES_GIL: int(self.nanoseconds > _RELEASE_AFTER),
        }
        for word, value in head.items():
            self.row[word] = value

    # -- stages --------------------------------------------------------------------------------

    def _rows(self, stage: Stage) -> list[_Row]:
        """A stage of the table; with loops in it, one for each time that a stage of theirs runs."""
        first = _Row()
        loops = []
        for call in stage:
            if isinstance(call, Loop):
                loops.append(self._loop(call))
            else:
                first.add(self._tasks(call))
        rows = [first] if first.owners or not loops else []
        for number, together in enumerate(zip_longest(*loops)):
            if number >= len(rows):
                rows.append(_Row())
            for row in together:
                if row is not None:
                    rows[number].add(row)
        for row in rows:
            row.share(self.threads)
        return rows

    def _tasks(self, call: Call) -> _Row:
        """The tasks of a call, and where it tells of faults."""
        place = self._context(call)
        number, self._calls = self._calls, self._calls + 1
        each = call.nanoseconds / call.tasks
        row = _Row(owners=[number] * call.tasks, lengths=[each] * call.tasks)
        for task in range(call.tasks):
            row.tasks += [call.kernel, place, task, call.tasks]
        if call.error:
            row.errors.append(_At(place.place + call.error))
        return row

    def _loop(self, loop: Loop) -> list[_Row]:
        """The stages of a loop, time after time. All times share their calls' contexts."""
        number, around, self.moved = self._calls, self.moved, []
        inner = [row for stage in loop.stages for row in self._rows(stage)]
        records, count = self._moves(self.moved), len(self.moved)
        self.moved = around
        context = self._part([0, records, count], aligned=True)
        rows = []
        for time in range(loop.count):
            rows.append(_Row([loop.kernel, context, time, loop.count], [number], [0.0]))
            rows += inner
        return rows

    # -- words ---------------------------------------------------------------------------------

    def _part(self, words: Words, aligned: bool = False) -> _At:
        """Add words to the table; where they begin."""
        if aligned:
            self.row += [0] * (-len(self.row) % _LINE)
        place = len(self.row)
        self.row += words
        return _At(place)

    def _context(self, call: Call, laid: dict[Call, tuple[_At, _At]] | None = None) -> _At:
        """Add a call's context and numbers; what is bound is noted in the patches.

        laid  takes where the context and the numbers of it, and of its tail, are
        """
        numbers = self._part(list(call.numbers))
        counter = self._part([0], aligned=True) if call.counter else None
        tail = self._context(call.tail, laid) if call.tail else None
        chain = self._chain(call.chain) if call.chain else None
        several = self._several(call.several) if call.several else None
        place = self._part([numbers], aligned=True)
        for word in call.context:
            self.row.append(self._word(word))
        if counter is not None:
            self.row[place.place + call.counter] = counter
        if call.tail is not None and tail is not None:
            self.row[place.place + TAIL] = call.tail.kernel
            self.row[place.place + TAIL_CONTEXT] = tail
        if chain is not None:
            self.row[place.place + TABLES] = chain
        if several is not None:
            self.row[place.place + TABLE] = several
        if laid is not None:
            laid[call] = place, numbers
        return place

    def _word(self, word: ContextWord) -> int:
        """A word that is about to be added; 0 for what each run, or a loop, writes there."""
        if isinstance(word, Bound):
            self.patches += [_At(len(self.row)), word.binding, word.offset]
        elif isinstance(word, Variable):
            self.variables.setdefault(word.number, []).append(len(self.row))
        elif isinstance(word, Moved):
            self.moved.append((_At(len(self.row)), word))
        else:
            return word
        return 0

    def _several(self, calls: Sequence[Call]) -> _At:
        """Add calls, and the table of them."""
        table: list[int | _At] = []
        for call in calls:
            table += [call.kernel, self._context(call), call.tasks]
        return self._part(table)

    # -- chains --------------------------------------------------------------------------------

    def _chain(self, chain: Chain) -> _At:
        """Add the calls of a chain, for each task; where the tables of all tasks are listed."""
        tables: Words = []
        for calls, parts in zip(chain.calls, chain.parts, strict=True):
            laid: dict[Call, tuple[_At, _At]] = {}
            row: Words = []
            for call, when in calls:
                row += [call.kernel, self._context(call, laid), when]
            tables += [self._records(parts, laid), self._part(row)]
        return self._part(tables)

    def _records(self, parts: Sequence[Part], laid: dict[Call, tuple[_At, _At]]) -> _At:
        """Add what a chain sets in the contexts and numbers of its calls."""
        groups = [(self._once(part.items), self._once(part.table)) for part in parts]
        begin = len(self.row)
        for part, (items, table) in zip(parts, groups, strict=True):
            context, numbers = laid[part.call]
            base: ContextWord = 0
            target = _At(numbers.place - 1 - part.word)
            if part.word > 0:
                base, target = part.call.context[part.word - 1], _At(context.place + part.word)
            self.row.append(target)
            self.row.append(self._word(base))
            self.row += [items, table]
        return _At(begin)

    def _once(self, words: tuple[int, ...]) -> int | _At:
        """Words that several may share; 0 for none."""
        if not words:
            return 0
        found = self._shared.get(words)
        if found is None:
            found = self._shared[words] = self._part(list(words))
        return found

    # -- loops ---------------------------------------------------------------------------------

    def _moves(self, moved: Sequence[tuple[_At, Moved]]) -> _At:
        """Add what a loop writes, and where."""
        begin = len(self.row)
        for place, word in moved:
            self.row.append(place)
            self.row.append(self._word(word.base))
            self.row += [word.step, word.first, word.period]
        return _At(begin)

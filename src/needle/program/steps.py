"""Steps: what a node becomes. A kernel with its numbers, and the places in memory that it reads
and writes."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from needle.backend_ndarray.ndarray_backend_trace import Node
from needle.compiler.kernels.chain import When
from needle.compiler.prepared import Prepared
from needle.run_numbers import RunNumber
from needle.runtime.program import Variable

if TYPE_CHECKING:
    from needle.program.lower import Lowered
    from needle.program.plan_memory import MemoryPlan
    from needle.program.schedule import Schedule

__all__ = [
    "Buffer",
    "Links",
    "Moving",
    "Place",
    "Repeat",
    "ScratchTile",
    "Step",
    "Vary",
    "Words",
    "listing",
    "word_of",
]


@dataclass(eq=False)
class Buffer:
    """Memory that nodes fill.

    nbytes   how much
    binding  the number of the binding that it is; None: memory of the program's own
    address  of a constant, where it lies; None else
    keep     what holds a constant's memory
    """

    nbytes: int
    binding: int | None = None
    address: int | None = None
    keep: Any = None

    @property
    def in_arena(self) -> bool:
        """Whether it is memory of the program's own, to be planned."""
        return self.binding is None and self.address is None


@dataclass(eq=False)
class ScratchTile(Buffer):
    """Memory of a task's own, for what passes on within a chain.

    offset  where it begins in the chain's scratch memory
    row     elements from row to row
    """

    offset: int = 0
    row: int = 0

    @property
    def in_arena(self) -> bool:
        """Only as a part of the chain's scratch memory."""
        return False


@dataclass(frozen=True)
class Place:
    """Bytes from the beginning of a buffer on."""

    buffer: Buffer
    offset: int = 0


@dataclass(eq=False)
class Step:
    """A kernel in the program.

    label    what it does, for people, where its nodes do not tell that
    prepared the kernel and its numbers
    reads    places, in the order in which the kernel takes them; then
    writes   the places written
    scalars  words that are numbers: bits of doubles, or i64s
    error    whether the kernel finds fault with values
    tail     a step that a contraction runs on each panel of its result
    in_step  (read, write): an element is read before it, and nothing else, is written
    after    places that have to be written before it, which it does not read
    links    of a chain: the steps that it is made up of
    alike    the steps that it is made up of, if they are the same but for places and sizes
    repeat   of a recurrence: the steps that it is made up of
    """

    label: str
    prepared: Prepared
    reads: Sequence[Place | int]
    writes: Sequence[Place]
    scalars: Sequence[int | Variable] = ()
    error: bool = False
    nodes: list[Node] = field(default_factory=list)
    fused: bool = False
    in_step: frozenset[tuple[int, int]] = frozenset()
    tail: Step | None = None
    after: Sequence[Place] = ()
    links: Links | None = None
    alike: Sequence[Step] = ()
    repeat: Repeat | None = None

    def may_overwrite(self, old: Buffer | None, new: Buffer) -> bool:
        """Whether `new` may be written where `old` lies, which the step itself may read."""
        if self.links is not None:
            return all(place.buffer is not old for place in self.places_read)
        if self.alike:
            readers, writers = self._users_among_alike
            reads, writes = readers.get(old, []), writers.get(new, [])
            return reads in ([], writes) and all(one.may_overwrite(old, new) for one in writes)
        if self.tail is not None:
            mine = any(isinstance(place, Place) and place.buffer is old for place in self.reads)
            return not mine and self.tail.may_overwrite(old, new)
        read = [
            i
            for i, place in enumerate(self.reads)
            if isinstance(place, Place) and place.buffer is old
        ]
        written = [i for i, place in enumerate(self.writes) if place.buffer is new]
        return all((i, j) in self.in_step for i in read for j in written)

    @cached_property
    def _users_among_alike(self) -> tuple[dict[Any, list[Step]], dict[Any, list[Step]]]:
        """By buffers: those of the steps alike that read each, and those that write it."""
        readers: dict[Any, list[Step]] = {}
        writers: dict[Any, list[Step]] = {}
        for step in self.alike:
            for found, places in ((readers, step.places_read), (writers, step.writes)):
                for buffer in dict.fromkeys(place.buffer for place in places):
                    found.setdefault(buffer, []).append(step)
        return readers, writers

    @property
    def title(self) -> str:
        """What it computes, for people."""
        return self.label or "; ".join(map(repr, self.nodes))

    @property
    def parts(self) -> tuple[Step, ...]:
        """The step, and its tail if it has one."""
        return (self,) if self.tail is None else (self, self.tail)

    @property
    def places_read(self) -> list[Place]:
        """The places that it reads or waits for, without numbers, and those of its tail."""
        mine = [*[place for place in self.reads if isinstance(place, Place)], *self.after]
        return mine if self.tail is None else mine + self.tail.places_read

    @property
    def places_written(self) -> list[Place]:
        """The places that it writes, and its tail."""
        return [*self.writes, *(self.tail.places_written if self.tail is not None else ())]


@dataclass(eq=False)
class Vary:
    """A word of a step in a chain that is another one in each part of the work.

    step   which, or its tail
    at     the number of a place among those it reads and then writes; or, below 0, -1 - that of
           one of its kernel's numbers
    items  extents and steps, in bytes, of the axes that lead through the items, innermost first
    table  what to add, or the number, for each block
    """

    step: Step
    at: int
    items: tuple[tuple[int, int], ...]
    table: tuple[int, ...]


@dataclass(eq=False)
class Links:
    """What a chain runs, for each item block by block.

    steps            in order, each with when it runs
    varies           what is not the same in each part
    scratch          where in the chain's scratch memory that of a step, or of a tail, begins
    computed_shares  of nodes that are not computed where a mask leaves them out: how much is
    """

    steps: Sequence[tuple[Step, When]]
    varies: Sequence[Vary]
    scratch: Mapping[Step, int]
    computed_shares: Mapping[Node, float]


@dataclass(frozen=True)
class Moving:
    """A place that is another one each time: `step` bytes on, from the beginning after `period`.

    first  how many times it has moved before the first time
    """

    place: Place
    step: int = 0
    first: int = 0
    period: int = 1


@dataclass(eq=False)
class Repeat:
    """Steps that run again and again.

    lowered   their words, buffers and constants
    schedule  their stages
    memory    where in the scratch memory of the whole what they have for themselves lies
    bindings  what is handed over to them
    count     how often they run
    """

    lowered: Lowered
    schedule: Schedule
    memory: MemoryPlan
    bindings: Sequence[Moving]
    count: int


def listing(steps: Iterable[Step], names: dict[Buffer, str] | None = None) -> str:
    """A line per step, for people: `b2 <- given0, b1+256: add(...)`.

    names  of buffers; those that are not there yet are added
    """
    names = {} if names is None else names

    def name(place: Place | int) -> str:
        if isinstance(place, int):
            return str(place)
        buffer = place.buffer
        if buffer not in names:
            kind = "constant" if buffer.address is not None else "given"
            kind = "tile" if isinstance(buffer, ScratchTile) else "b" if buffer.in_arena else kind
            number = sum(other.startswith(kind) for other in names.values())
            names[buffer] = f"{kind}{number if buffer.binding is None else buffer.binding}"
        return names[buffer] + (f"+{place.offset}" if place.offset else "")

    lines = []

    def add(part: Step, lead: str) -> None:
        read, written = (", ".join(map(name, row)) for row in (part.reads, part.writes))
        lines.append(f"{lead}{written or 'nothing'} <- {read or 'nothing'}: {part.title}")

    for step in steps:
        if step.alike:
            lines.append(f"{len(step.alike)} alike:")
            for one in step.alike:
                add(one, "  ")
            continue
        if step.links is None:
            for part in step.parts:
                add(part, "  tail: " if part is not step else "")
            if step.repeat is not None:
                lines += ["    " + line for line in str(step.repeat.schedule).splitlines()]
            continue
        lines.append(f"a chain of {len(step.links.steps)}:")
        for link, _ in step.links.steps:
            for part in link.parts:
                add(part, "    tail: " if part is not link else "  ")
    return "\n".join(lines)


class Words:
    """Numbers as kernels take them; those that are known at the run only become variables.

    variables  each with whether it is handed over as a double, in the order of their numbers
    """

    def __init__(self) -> None:
        self.variables: dict[tuple[str, bool], tuple[Variable, RunNumber]] = {}

    def of(self, number: Any, dtype: Any) -> int | Variable:
        """The bits of a double for floats, else an i64."""
        is_float = dtype.kind == "f" or dtype.name == "bfloat16"
        if not isinstance(number, RunNumber):
            return word_of(number, is_float)
        key = (number.source, is_float)
        found = self.variables.get(key)
        if found is None:
            found = self.variables[key] = (Variable(len(self.variables)), number)
        return found[0]


def word_of(number: Any, is_float: bool) -> int:
    """A number as a word: the bits of a double, or an i64."""
    if is_float:
        return struct.unpack("q", struct.pack("d", float(number)))[0]  # type: ignore[no-any-return]
    whole = int(number)
    return whole - (1 << 64) if whole >= 1 << 63 else whole

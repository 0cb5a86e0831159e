"""What the kernels of a program do: which operators are in each, how many operations and bytes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Any

from needle.backend_ndarray.layout import Layout
from needle.backend_ndarray.ndarray_backend_trace import Node, Operand
from needle.compiler.kernels.contraction import products
from needle.origins import Origin
from needle.program.graph import CONTRACTIONS, factors
from needle.program.lower import Lowered
from needle.program.pipeline import Compiled
from needle.program.steps import Buffer, Place, Repeat, Step
from needle.runtime.program import Call

__all__ = ["KernelFacts", "facts_of", "flops_of", "view_bytes"]

_FREE = {"copy", "where"}  # they move values and compute nothing


@dataclass(frozen=True)
class KernelFacts:
    """One call of a kernel in a program.

    number      in the order in which the table has them
    stage       the calls of a stage do not depend on each other
    kind        what it is: "chain", "loops alike", "contraction with a loop", "loop", or a
                primitive
    ops         operators whose primitives are in it, each with how many of them
    origins     where these were used
    primitives  what it computes, primitive by primitive
    flops       operations: one for each element and primitive, two for a product that is summed
    read        bytes read from memory, each once
    written     bytes written
    tasks       into how many shares it is cut
    codes       addresses of its machine code, and of that of its tail or its chain's kernels
    step        the step that it was
    times       how often it runs in each step; flops and bytes are those of all times
    """

    number: int
    stage: int
    kind: str
    ops: tuple[tuple[str, int], ...]
    origins: tuple[Origin, ...]
    primitives: tuple[str, ...]
    flops: int
    read: int
    written: int
    tasks: int
    codes: tuple[int, ...]
    step: Step
    times: int = 1

    @property
    def nbytes(self) -> int:
        """Bytes moved."""
        return self.read + self.written

    @property
    def lines(self) -> tuple[str, ...]:
        """The user's lines that it comes from, each once."""
        return tuple(dict.fromkeys(origin.line for origin in self.origins if origin.line))

    @property
    def work(self) -> Hashable:
        """Equal for kernels that do the same for the same lines, as of equal layers."""
        places = tuple([(origin.title, origin.line, origin.within) for origin in self.origins])
        return self.codes, self.ops, places, self.flops, self.nbytes

    @property
    def lead(self) -> str:
        """`chain: `, or with the share of its rows that is computed; `28 alike: `; or nothing."""
        if self.step.alike:
            return f"{len(self.step.alike)} alike: "
        if self.step.links is None:
            return ""
        shares = self.step.links.computed_shares.values()
        return f"chain, {100 * min(shares):.0f} % of it: " if shares else "chain: "

    @property
    def title(self) -> str:
        """`matmul, add, relu`; gradients last."""
        return ", ".join(name for name, _ in self.ops) or self.kind


def facts_of(compiled: Compiled) -> list[KernelFacts]:
    """The facts of each kernel, in the order of the table."""
    facts: list[KernelFacts] = []
    around = _Around(compiled.lowered)
    for stage, (steps, calls) in enumerate(
        zip(compiled.schedule.stages, compiled.built.calls, strict=True)
    ):
        for step, call in zip(steps, calls, strict=True):
            if isinstance(call, Call):
                facts.append(_facts(len(facts), stage, step, call, around))
            elif step.repeat is not None:
                inside = _Around(step.repeat.lowered, step.repeat)
                rows = zip(step.repeat.schedule.stages, call.stages, strict=True)
                for inner, one in [pair for row in rows for pair in zip(*row, strict=True)]:
                    facts.append(_facts(len(facts), stage, inner, one, inside))
    return facts


class _Around:
    """What a kernel is among: steps, which may be those that a recurrence repeats."""

    def __init__(self, lowered: Lowered, repeat: Repeat | None = None) -> None:
        self.buffers, self.repeat = lowered.buffers, repeat
        self.partial = _partial_sums(lowered)
        self.times = 1 if repeat is None else repeat.count

    def seen_outside(self, step: Step) -> Step:
        """A step with the places outside of the recurrence that are handed over to it."""
        if self.repeat is None:
            return step
        tail = None if step.tail is None else self.seen_outside(step.tail)
        return replace(
            step,
            reads=[self._outside(place) for place in step.reads],
            writes=[self._outside(place) for place in step.writes],
            tail=tail,
            alike=[self.seen_outside(one) for one in step.alike],
        )

    def _outside(self, place: Any) -> Any:
        if isinstance(place, int) or place.buffer.binding is None or self.repeat is None:
            return place
        return self.repeat.bindings[place.buffer.binding].place


def _facts(number: int, stage: int, step: Step, call: Call, around: _Around) -> KernelFacts:
    nodes = [node for part in step.parts for node in part.nodes]
    buffers, times = around.buffers, around.times
    read, written = _bytes_read(step, nodes, buffers), _bytes_written(step)
    origins = [node.origin for node in nodes if node.origin is not None]
    counts = Counter(node.origin.title if node.origin else _name(node) for node in nodes)
    ops = sorted(counts.items(), key=lambda op: op[0].startswith("gradient of"))
    return KernelFacts(
        number,
        stage,
        _kind(step),
        tuple(ops),
        tuple(dict.fromkeys(origins)),
        tuple(repr(node) for node in nodes),
        times * _flops(step, nodes, around.partial, buffers),
        times * read,
        times * written,
        call.tasks,
        tuple(dict.fromkeys(_codes(call))),
        around.seen_outside(step),
        times,
    )


def _codes(call: Call) -> Iterator[int]:
    """Addresses of the machine code of a call, its tail and, of a chain, the calls it makes."""
    yield call.kernel
    if call.tail is not None:
        yield call.tail.kernel
    for made in call.several:
        yield made.kernel
    if call.chain is not None:
        for made, _ in call.chain.calls[0]:
            yield from _codes(made)


def _kind(step: Step) -> str:
    if step.links is not None:
        return "chain"
    if step.alike:
        return "loops alike"
    if step.tail is not None:
        return "contraction with a loop"
    if step.fused:
        return "loop"
    node = step.nodes[0]
    name = _name(node)
    return "contraction" if name in CONTRACTIONS else name


def _name(node: Node) -> str:
    """What a primitive does: `add`, `sum`, `gather`."""
    name: str = node.parameters.get("name", node.primitive)
    return name


# -- operations --------------------------------------------------------------------------------


def flops_of(node: Node) -> int:
    """Operations of a primitive, whatever they cost."""
    size = node.layout.size
    if node.primitive == "elementwise":
        return 0 if node.parameters["name"] in _FREE else size
    if node.primitive in ("reduce", "arg_reduce", "scan"):
        return node.inputs[0].layout.size
    if node.primitive in CONTRACTIONS:
        return 2 * products(*factors(node), node.layout, node.parameters["groups"])
    if node.primitive == "scatter_add":
        return node.inputs[0].layout.size
    return 0


def _partial_sums(lowered: Lowered) -> dict[Buffer, int]:
    """Of memory for the sums of chunks: the operations of who fills it, for who adds them up."""
    found = {}
    for step in lowered.steps:
        place = _chunks(step, lowered.buffers)
        if place is not None:
            node = step.nodes[0]
            rows = place.buffer.nbytes // node.layout.itemsize
            found[place.buffer] = flops_of(node) - rows
    return found


def _chunks(step: Step, buffers: Mapping[Node, Buffer]) -> Place | None:
    """Where a reduction reads sums of chunks that another kernel has made."""
    node = step.nodes[0] if step.nodes else None
    if node is None or node.primitive != "reduce" or step.fused or len(step.reads) != 1:
        return None
    if step.links is not None:
        return None
    (place,) = step.reads
    own = buffers.get(node.inputs[0].node)
    return place if isinstance(place, Place) and place.buffer is not own else None


def _flops(
    step: Step, nodes: Sequence[Node], partial: Mapping[Buffer, int], buffers: Mapping[Node, Buffer]
) -> int:
    chunks = _chunks(step, buffers)
    if chunks is not None:
        return chunks.buffer.nbytes // step.nodes[0].layout.itemsize
    if step.links is not None:
        return sum(
            round(flops_of(node) * step.links.computed_shares.get(node, 1)) for node in nodes
        )
    return sum(map(flops_of, nodes)) + sum(
        partial.get(place.buffer, 0) for place in step.places_written
    )


# -- bytes -------------------------------------------------------------------------------------


def view_bytes(view: Layout) -> int:
    """Bytes that a view shows, each once: what is broadcast counts as what it is."""
    extents = zip(view.shape, view.strides, strict=True)
    return prod([n for n, step in extents if step != 0 or n == 0]) * view.itemsize


def _bytes_read(step: Step, nodes: Sequence[Node], buffers: Mapping[Node, Buffer]) -> int:
    """Of each memory, no more than there is of it."""
    own = set(nodes)
    wanted = {place.buffer for place in step.places_read}
    views: dict[Buffer, set[tuple[Layout, int]]] = {}
    for x in _operands_read(nodes):
        buffer = buffers.get(x.node)
        if x.node not in own and buffer is not None and buffer in wanted:
            views.setdefault(buffer, set()).add((x.layout, x.offset))
    made = {buffers[node] for node in own if node in buffers and node.primitive != "assign"}
    total = 0
    for buffer in wanted:
        if buffer in views:
            total += min(buffer.nbytes, sum(view_bytes(view) for view, _ in views[buffer]))
        elif buffer not in made:
            total += buffer.nbytes
    return total


def _operands_read(nodes: Sequence[Node]) -> Iterator[Operand]:
    for node in nodes:
        yield from node.inputs[:-1] if node.primitive == "assign" else node.inputs


def _bytes_written(step: Step) -> int:
    node = step.nodes[0] if step.nodes else None
    if node is not None and node.primitive == "assign" and not step.fused and step.title != "copy":
        return view_bytes(node.inputs[-1].layout)
    return sum({place.buffer: place.buffer.nbytes for place in step.places_written}.values())

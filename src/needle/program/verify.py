"""What must be true of what each pass made; looked at where `NEEDLE_VERIFY` is 1, as in the tests.

A pass that breaks one of these rules has a fault, whatever the user did.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import singledispatch
from math import prod
from typing import Any

from needle.backend_ndarray.device import Scalar
from needle.backend_ndarray.layout import Layout
from needle.backend_ndarray.ndarray_backend_trace import Node, Operand
from needle.compiler.kernels import contraction
from needle.compiler.kernels.contraction_problem import Problem
from needle.compiler.prepared import MAX_POINTERS, MAX_SCALARS
from needle.program.chains import Chain
from needle.program.fuse import Fused, Unit
from needle.program.graph import CONTRACTIONS, Graph, body_of, factors
from needle.program.lower import Lowered
from needle.program.plan_memory import ALIGN, MemoryPlan
from needle.program.schedule import Schedule
from needle.program.steps import Buffer, Links, Place, ScratchTile, Step
from needle.program.table import Built, Word
from needle.runtime.program import Bound, Call, Moved, Variable, calls_in

__all__ = ["VerificationError", "verify"]


class VerificationError(AssertionError):
    """A pass made something that cannot be right."""


@singledispatch
def verify(made: Any, name: str) -> None:
    """Look at what the pass `name` made; raises VerificationError."""
    raise TypeError(f"verify: expected what a pass made, got {made!r}.")


def _require(holds: bool, name: str, what: str, *details: Any) -> None:
    """Raise unless it holds. Details are made texts, which takes long, only where they are told."""
    if not holds:
        raise VerificationError(f"after {name}: expected {what.format(*details)}.")


# -- graphs ------------------------------------------------------------------------------------


@verify.register
def _(graph: Graph, name: str) -> None:
    """Sorted, each node once, operands inside the memory that they view, dtypes that fit."""
    seen: set[Node] = set()
    for node in graph.nodes:
        _require(node not in seen, name, "each node once, got twice {!r}", node)
        for operand in node.inputs:
            _require(operand.node in seen, name, "nodes after what they read, got first {!r}", node)
            _verify_view(operand, name)
        _verify_node(node, name)
        seen.add(node)
    for operand in (*graph.outputs, *graph.checks):
        _require(operand.node in seen, name, "outputs among the nodes, got {!r}", operand.node)
        _verify_view(operand, name)
    given = {node for node in graph.nodes if node.primitive == "input"}
    if graph.inputs:
        _require(given <= set(graph.inputs), name, "all inputs to be handed over")
    for output, source in graph.updates.items():
        fits = output < len(graph.outputs) and (source is None or source < len(graph.inputs))
        _require(fits, name, "updates by numbers there are, got {}: {}", output, source)


def _verify_view(x: Operand, name: str) -> None:
    view, memory = x.layout, x.node.layout
    if view.size == 0:
        return
    reach = [(n - 1) * step for n, step in zip(view.shape, view.strides, strict=True)]
    first = x.offset + sum(step for step in reach if step < 0)
    last = x.offset + sum(step for step in reach if step > 0)
    inside = first >= 0 and (last + 1) * view.itemsize <= memory.nbytes
    _require(inside, name, "views inside the memory of their node, got {!r} of {!r}", x, x.node)


def _verify_node(node: Node, name: str) -> None:
    given = node.parameters
    layouts = [x.layout for x in node.inputs]
    if node.primitive == "elementwise":
        operands = given["operands"]
        arrays = [x for x in operands if isinstance(x, Layout)]
        scalars = [x for x in operands if isinstance(x, Scalar)]
        same = [(x.shape, x.dtype) for x in arrays] == [(x.shape, x.dtype) for x in layouts]
        _require(same, name, "operands as they are described, got {} in {!r}", layouts, node)
        _require(len(scalars) == len(node.numbers), name, "a number for each scalar in {}", given)
        fits = all(x.shape == node.layout.shape for x in arrays)
        _require(fits, name, "operands of the shape of the result in {!r}, got {}", node, arrays)
    elif node.primitive == "reduce":
        kept = [n for axis, n in enumerate(layouts[0].shape) if axis not in given["axes"]]
        fits = prod(kept) == node.layout.size and layouts[0].dtype is not None
        _require(fits, name, "a result of the axes that are left in {!r}", node)
    elif node.primitive in CONTRACTIONS:
        _verify_contraction(node, name)
    elif node.primitive == "recur":
        _verify_recurrence(node, name)
    elif node.primitive == "assign":
        *source, place = node.inputs
        same = place.node.layout.nbytes == node.layout.nbytes
        _require(same, name, "a write that leaves the size of its memory in {!r}", node)
        fits = all(x.layout.shape == place.layout.shape for x in source)
        _require(
            fits and not place.layout.repeats, name, "a source of the place's shape: {!r}", node
        )


def _verify_contraction(node: Node, name: str) -> None:
    a, b = [x.shape for x in factors(node)]
    batch, m, n, k = node.parameters["groups"]
    out = node.layout.shape
    fits = (
        (len(a), len(b), len(out)) == (batch + m + k, batch + k + n, batch + m + n)
        and a[:batch] == b[:batch] == out[:batch]
        and a[batch : batch + m] == out[batch : batch + m]
        and b[batch + k :] == out[batch + m :]
        and a[batch + m :] == b[batch : batch + k]
    )
    _require(fits, name, "axes of a, b and the result that fit, got {}, {} in {!r}", a, b, node)
    if node.primitive == "convolve":
        _verify_windows(node, name)


def _verify_windows(node: Node, name: str) -> None:
    """What is read of a picture lies in it, and each row of the result is of one region."""
    picture = node.inputs[0]
    problem = Problem.of(*factors(node), node.layout, *node.parameters["groups"])
    batches = zip(problem.batch.extents, problem.batch.strides[0], strict=True)
    batch = [(0, (n - 1) * step) for n, step in batches]
    for region in problem.regions:
        rows = zip(region.rows.extents, region.rows.strides[0], strict=True)
        deep = zip(region.seen, problem.k.strides[0], strict=True)
        walked = [(0, (n - 1) * step) for n, step in rows]
        walked += [(low * step, (high - 1) * step) for (low, high), step in deep]
        first = picture.offset + region.begin + sum(map(min, [*batch, *walked]))
        last = picture.offset + region.begin + sum(map(max, [*batch, *walked]))
        size = picture.node.layout.nbytes // picture.layout.itemsize
        walks = region.deep and region.rows.size  # some parts of a picture nobody looks at
        inside = not walks or 0 <= first <= last < size
        _require(inside, name, "windows that end with the picture, got {} in {!r}", region, node)
    whole = sum(problem.heights) == problem.m.size
    _require(whole, name, "each row of the result in one region: {!r}", node)


def _verify_recurrence(node: Node, name: str) -> None:
    """Stand-ins that fit what they stand for; states that are as before; parts there are."""
    body = node.parameters["recurrence"]
    fits = len(node.inputs) == len(body.inputs) and body.count > 1
    _require(fits, name, "something for each input of the body of {!r}", node)
    for number, (x, inside) in enumerate(zip(node.inputs, body.inputs, strict=True)):
        shape, dtype = x.layout.shape, x.layout.dtype
        of_one_step = number in range(body.states, body.states + body.places)
        if of_one_step:
            _require(shape[0] == body.count, name, "an input for each step of {!r}", node)
            shape = shape[1:]
        same = (shape, dtype) == (inside.layout.shape, inside.layout.dtype)
        _require(same, name, "in the body what is read, got {!r} for {!r}", inside, x)
    for before, after in zip(body.inputs, body.results[: body.states], strict=False):
        same = before.layout == after.layout
        _require(same, name, "states that are as before, got {!r} after {!r}", after, before)
    fits = len(body.results) == body.states + len(body.parts)
    _require(fits, name, "a number for each output of {!r}", node)
    verify(body_of(body), name)


# -- units -------------------------------------------------------------------------------------


@verify.register
def _(fused: Fused, name: str) -> None:
    """Each node in one unit, units after those that they read; loops with axes that fit."""
    seen: set[Node] = set()
    for unit in fused.units:
        _require(bool(unit.nodes), name, "units with nodes")
        for node in unit.nodes:
            _require(node not in seen, name, "each node in one unit, got twice {!r}", node)
            seen.add(node)
            for x in node.inputs:
                _require(
                    x.node in seen, name, "units after those that they read (no circle): {!r}", node
                )
        _verify_space(unit, name)
    missing = [node for node in fused.graph.nodes if node not in seen]
    _require(not missing, name, "each node in a unit, got none for {}", missing)


def _verify_space(unit: Unit, name: str) -> None:
    if isinstance(unit, Chain):
        _verify_chain(unit, name)
        return
    space = unit.space
    if space is None:
        _require(len(unit.nodes) == 1, name, "units of one node where there is no loop: {!r}", unit)
        return
    for node in unit.nodes:
        axes = space.axes.get(node)
        _require(axes is not None, name, "digits for each node of a loop, got none for {!r}", node)
        assert axes is not None
        extents = tuple([prod(space.extents[digit] for digit in row or ()) for row in axes])
        _require(extents == node.layout.shape, name, "digits that make {!r}, got {}", node, extents)


def _verify_chain(chain: Chain, name: str) -> None:
    """Its nodes those of its members, which walk the same items and rows."""
    nodes = [node for member in chain.members for node in member.unit.nodes]
    _require(nodes == chain.nodes, name, "the nodes of all members in a chain: {!r}", chain)
    for member in chain.members:
        _verify_space(member.unit, name)
        space = member.unit.space
        if space is not None:
            items = prod(space.extents[digit] for digit in member.items)
            same = items == chain.items and space.extents[member.row] == chain.rows
            _require(same, name, "loops over the items and rows of their chain: {!r}", member.unit)


# -- steps -------------------------------------------------------------------------------------


@verify.register
def _(lowered: Lowered, name: str) -> None:
    """Nothing is read before it is written; words for all; places inside of their buffers."""
    graph, buffers = lowered.graph, lowered.buffers
    empty = {buffers[node] for node in graph.nodes if node.primitive == "empty" and node in buffers}
    filled = set(empty)
    filled |= {buffers[node] for node in graph.inputs if node in buffers}
    filled |= {buffer for buffer in buffers.values() if buffer.address is not None}
    constants = {buffer for buffer in buffers.values() if buffer.address is not None}
    for step in lowered.steps:
        made = {place.buffer for place in step.writes}
        _verify_read(step.reads, filled, step, name)
        if step.links is not None:
            _verify_links(step, step.links, filled, name)
        if step.tail is not None:
            _verify_read(step.tail.reads, filled | made, step, name)
        for place in step.places_written:
            _require(place.buffer not in constants, name, "constants kept, got {.title}", step)
            filled.add(place.buffer)
        for part in step.parts:
            _verify_words(part, name)
        if step.repeat is not None:
            verify(step.repeat.lowered, name)
            verify(step.repeat.schedule, name)
            verify(step.repeat.memory, name)
    for output in graph.outputs:
        buffer = buffers[output.node]
        fits = buffer.nbytes == output.layout.nbytes and buffer.binding is not None
        _require(fits, name, "an output in memory that is handed over: {!r}", output.node)
        _require(buffer in filled, name, "outputs that are written: {!r}", output.node)


def _verify_read(reads: Iterable[Place | int], filled: set[Buffer], step: Step, name: str) -> None:
    for place in reads:
        if isinstance(place, Place):
            _require(place.buffer in filled, name, "writes before reads, got first {.title}", step)


def _verify_links(step: Step, links: Links, filled: set[Buffer], name: str) -> None:
    """A chain writes before it reads, keeps to its memory, and varies words that there are."""
    filled, end = set(filled), step.prepared.scratch
    parts = [part for link, _ in links.steps for part in link.parts]
    for link, _ in links.steps:
        _verify_read(link.reads, filled, link, name)
        filled |= {place.buffer for place in link.places_written}
        if link.tail is not None:
            _verify_read(link.tail.reads, filled, link, name)
    summed = {place.buffer for link, _ in links.steps if _sums(link) for place in link.writes}
    for link, _ in links.steps:
        if _is_product(link) and not _sums(link):
            second = _places(link.reads[1:])
            in_parts = any(isinstance(x.buffer, ScratchTile) for x in second)
            _require(not in_parts, name, "second operands as a whole: {.title}", link)
        known = not any(x.buffer in summed for part in link.parts for x in _places(part.reads))
        _require(known, name, "nobody who reads sums before all is added: {.title}", link)
        _require(not (_sums(link) and link.tail), name, "sums without a tail: {.title}", link)
    for part in parts:
        _verify_words(part, name)
        held = [x.buffer for x in (*part.reads, *part.writes) if isinstance(x, Place)]
        tiles = [(x.offset, x.offset + x.nbytes) for x in held if isinstance(x, ScratchTile)]
        at = links.scratch[part]
        for first, last in [*tiles, (at, at + part.prepared.scratch)]:
            _require(0 <= first <= last <= end, name, "scratch in its memory: {.title}", part)
    items, blocks = step.prepared.numbers[:2]
    for vary in links.varies:
        _require(vary.step in parts, name, "words of its own steps, got {.title}", vary.step)
        count = len(vary.step.reads) + len(vary.step.writes)
        there = -len(vary.step.prepared.numbers) <= vary.at < count
        all_items = not vary.items or prod(n for n, _ in vary.items) == items
        fits = there and all_items and len(vary.table) in (0, blocks)
        _require(fits, name, "words and tables that fit, got {} of {.title}", vary, vary.step)


def _sums(link: Step) -> bool:
    """Whether a step of a chain is a contraction that sums over rows, block after block."""
    return _is_product(link) and bool(link.prepared.numbers[contraction.Word.ADDS])


def _is_product(link: Step) -> bool:
    return link.nodes[0].primitive == "contract" and not link.label


def _places(row: Iterable[Place | int]) -> list[Place]:
    return [x for x in row if isinstance(x, Place)]


def _verify_words(step: Step, name: str) -> None:
    for place in (*step.reads, *step.writes):
        if isinstance(place, Place):
            empty = not place.buffer.nbytes  # a view of nothing may begin anywhere
            inside = empty or 0 <= place.offset <= place.buffer.nbytes
            _require(inside, name, "places inside their buffers, got {} in {.title}", place, step)
    pointers = len(step.reads) + len(step.writes)
    for one in step.alike:
        _verify_words(one, name)
    if not (step.fused or step.links or step.alike or step.repeat):
        fits = pointers <= MAX_POINTERS and len(step.scalars) <= MAX_SCALARS
        _require(
            fits, name, "words for all that a kernel takes, got {} in {.title}", pointers, step
        )


# -- stages ------------------------------------------------------------------------------------


@verify.register
def _(schedule: Schedule, name: str) -> None:
    """Each step once, later than what it needs; a stage without conflicts; safe grants."""
    stage_of = {step: number for number, stage in enumerate(schedule.stages) for step in stage}
    count = sum(map(len, schedule.stages))
    same = count == len(stage_of) == len(schedule.steps) and set(stage_of) == set(schedule.steps)
    _require(same, name, "each of {} steps once, got {}", len(schedule.steps), count)
    for stage in schedule.stages:
        _verify_stage(stage, name)
    written: dict[Buffer, int] = {}
    read: dict[Buffer, int] = {}
    for step in schedule.steps:
        now = stage_of[step]
        for place in step.places_read:
            late = now > written.get(place.buffer, -1)
            _require(late, name, "reads in a later stage than the write: {.title}", step)
        for place in step.places_written:
            late = now > max(written.get(place.buffer, -1), read.get(place.buffer, -1))
            _require(late, name, "writes in a later stage than what was there: {.title}", step)
        for places, when in ((step.places_read, read), (step.places_written, written)):
            for place in places:
                when[place.buffer] = max(now, when.get(place.buffer, -1))
    for new in schedule.granted:
        _verify_grant(schedule, stage_of, new, name)


def _verify_stage(stage: Iterable[Step], name: str) -> None:
    writer: dict[Buffer, Step] = {}
    for step in stage:
        for place in step.places_written:
            other = writer.setdefault(place.buffer, step)
            _require(other is step, name, "one writer in a stage: {.title}; {.title}", step, other)
    for step in stage:
        for place in step.places_read:
            other = writer.get(place.buffer, step)
            _require(other is step, name, "no read beside a write: {.title}; {.title}", step, other)


def _verify_grant(schedule: Schedule, stage_of: dict[Step, int], new: Buffer, name: str) -> None:
    """What is overwritten was read by all before, and no fault can be found any more."""
    old = schedule.in_place[new]
    (writer,) = [s for s in schedule.steps if any(p.buffer is new for p in s.places_written)]
    _require(
        writer.may_overwrite(old, new), name, "a writer in place by elements: {.title}", writer
    )
    for step in schedule.steps:
        touches = any(place.buffer is old for place in step.places_read) or step.error
        early = step is writer or not touches or stage_of[step] < stage_of[writer]
        _require(early, name, "reads before the memory is written again: {.title}", step)


# -- memory ------------------------------------------------------------------------------------


@verify.register
def _(plan: MemoryPlan, name: str) -> None:
    """Places of their own for buffers that are needed at the same time."""
    spans = sorted(plan.spans.values(), key=lambda span: span.offset)
    for number, span in enumerate(spans):
        _require(span.offset % ALIGN == 0 <= span.offset, name, "aligned buffers: {.title}", span)
        _require(0 <= span.first <= span.last < plan.stages, name, "spans of stages: {}", span)
        for other in spans[number + 1 :]:
            if other.offset >= span.offset + span.buffer.nbytes:
                break
            _require(
                not span.meets(other) or not other.buffer.nbytes,
                name,
                "no overlap of {.title} and {.title}",
                span,
                other,
            )
    end = max((span.offset + span.buffer.nbytes for span in spans), default=0)
    _require(end <= plan.total, name, "room for all")
    for number, stage in enumerate(plan.schedule.stages):
        for step in stage:
            _verify_planned(step, number, plan, name)


def _verify_planned(step: Step, stage: int, plan: MemoryPlan, name: str) -> None:
    """What a step touches, scratch too, has a place in the arena then."""
    buffers = [place.buffer for place in (*step.places_read, *step.places_written)]
    scratch = [plan.scratch[part] for part in step.parts if part.prepared.scratch]
    for buffer in [*filter(lambda buffer: buffer.in_arena, buffers), *scratch]:
        span = plan.spans.get(buffer)
        there = span is not None and span.first <= stage <= span.last
        _require(there, name, "a place for all that stage {} touches: {.title}", stage, step)


# -- the table ---------------------------------------------------------------------------------


@verify.register
def _(built: Built, name: str) -> None:
    """Addresses that are some; as many words as kernels read; bindings and variables there are."""
    for stage in built.calls:
        for call in calls_in(stage):
            for part in _calls(call):
                _verify_call(part, built, name)


def _calls(call: Call) -> Iterator[Call]:
    """A call and those that it makes."""
    yield call
    if call.tail is not None:
        yield call.tail
    for made in call.several:
        yield from _calls(made)
    if call.chain is not None:
        for row in call.chain.calls:
            for made, _ in row:
                yield from _calls(made)


def _verify_call(call: Call, built: Built, name: str) -> None:
    _require(call.kernel > 0 and call.tasks > 0, name, "kernels with tasks, got {}", call)
    for word in call.context:
        word = word.base if isinstance(word, Moved) else word
        if isinstance(word, Bound):
            _require(0 <= word.binding < built.bindings, name, "bindings there are, got {}", word)
            inside = word.binding < built.bindings - 1 or 0 <= word.offset <= built.arena
            _require(inside, name, "places inside the arena, got {}", word)
        elif not isinstance(word, Variable):
            _require(-(1 << 63) <= word < 1 << 63, name, "words of 64 bits, got {}", word)
    special = max(call.error, call.counter)
    fits = special < Word.ALL and (not special or len(call.context) == Word.ALL - 1)
    _require(fits, name, "{} words of a context, got {}", Word.ALL - 1, len(call.context))

"""Windows read a picture where it lies, without the zeros that were put around a copy of it.

A contraction that reads windows on a padded copy becomes "convolve": it reads the picture, and
leaves out what lies off it. So there is no copy, and nothing is multiplied by its zeros.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from needle.backend_ndarray.layout import Layout
from needle.backend_ndarray.ndarray_backend_trace import Node, Operand
from needle.compiler.kernels.contraction import takes_padding, vectors_for
from needle.compiler.kernels.contraction_regions import Clip, Padded
from needle.program.graph import Graph, factors

__all__ = ["skip_padding"]

_BYTES_PER_VECTOR = 8  # filled and copied in the time in which a vector is multiplied
_MUCH_LESS = 0.95  # of the vectors; an estimate does not know better


def skip_padding(graph: Graph) -> Graph:
    """The graph, with contractions of pictures in place of those of padded copies."""
    found = _Readers(graph).found
    if not found:
        return graph
    new: dict[Node, Node] = {}

    def read(operands: Sequence[Operand]) -> list[Operand]:
        return [Operand(new[x.node], x.layout, x.offset) for x in operands]

    for node in graph.nodes:
        made = found.get(node, node)
        if any(new[x.node] is not x.node for x in made.inputs):
            operands = tuple(read(made.inputs))
            made = Node(made.primitive, made.layout, operands, made.parameters, made.numbers)
            made.origin = node.origin
        new[node] = made
    outputs, checks = read(graph.outputs), read(graph.checks)
    inputs = [new.get(node, node) for node in graph.inputs]
    return Graph(inputs, outputs, checks=checks, updates=graph.updates)


class _Readers:
    """Of each padded copy, those contractions that are better off without it.

    found  what takes their places
    """

    def __init__(self, graph: Graph) -> None:
        self.found: dict[Node, Node] = {}
        readers: dict[Node, list[Node | None]] = {}
        for node in graph.nodes:
            for x in node.inputs:
                readers.setdefault(x.node, []).append(node)
        for x in (*graph.outputs, *graph.checks):
            readers.setdefault(x.node, []).append(None)
        for node in graph.nodes:
            frame = _frame(node)
            if frame is not None:
                self._consider(frame, readers.get(node, []))

    def _consider(self, frame: _Frame, readers: Sequence[Node | None]) -> None:
        convolved = {}
        for reader in readers:
            made = None if reader is None else _convolve(frame, reader)
            if reader is not None and made is not None:
                convolved[reader] = made
        costs = {node: (_vectors(node), _vectors(made)) for node, made in convolved.items()}
        before, after = [sum(column) for column in zip((0, 0), *costs.values(), strict=True)]
        if len(convolved) == len(readers) and after < before + frame.cost:
            self.found |= convolved
            return
        for node, (padded, bare) in costs.items():  # the copy is there anyway
            if bare < _MUCH_LESS * padded:
                self.found[node] = convolved[node]


def _vectors(node: Node) -> int:
    return vectors_for(*factors(node), node.layout, node.parameters["groups"])


# -- padded copies -----------------------------------------------------------------------------


class _Axis(NamedTuple):
    """An axis of a padded copy: which places are the picture's, and its step in that."""

    extent: int
    stride: int
    start: int = 0
    length: int = 1
    step: int = 0


@dataclass(frozen=True)
class _Frame:
    """A copy of a picture with zeros around it; its axes, the outermost first."""

    node: Node
    picture: Operand
    axes: tuple[_Axis, ...]

    @property
    def cost(self) -> int:
        """Of making it, in vectors that are multiplied."""
        moved = self.node.layout.nbytes + 2 * self.picture.layout.nbytes
        return moved // _BYTES_PER_VECTOR


def _frame(node: Node) -> _Frame | None:
    """What an assignment into zeros makes; None for any other node."""
    if node.primitive != "assign" or len(node.inputs) != 2:
        return None
    picture, place = node.inputs
    memory = node.layout
    zeros = place.node
    if zeros.primitive != "fill" or zeros.numbers[0] != 0 or not memory.compact:
        return None
    if not picture.layout.dtype == place.layout.dtype == memory.dtype:
        return None
    axes = _axes_of(memory)
    starts = _places(axes, place.offset)
    found = {
        axis.stride: axis._replace(start=start) for axis, start in zip(axes, starts, strict=True)
    }
    for n, stride, step in zip(
        place.layout.shape, place.layout.strides, picture.layout.strides, strict=True
    ):
        if n != 1:
            axis = found.get(stride)
            if axis is None or axis.length != 1 or axis.start + n > axis.extent:
                return None
            found[stride] = axis._replace(length=n, step=step)
    return _Frame(node, picture, tuple(found.values()))


def _axes_of(memory: Layout) -> list[_Axis]:
    """Those with more than one place, the outermost first."""
    rows = zip(memory.shape, memory.strides, strict=True)
    return sorted([_Axis(n, step) for n, step in rows if n != 1], key=lambda axis: -axis.stride)


def _places(axes: Sequence[_Axis], offset: int) -> list[int]:
    """Along each axis, where an element is."""
    found = []
    for axis in axes:
        found.append(offset // axis.stride)
        offset %= axis.stride
    return found


# -- windows -----------------------------------------------------------------------------------


def _convolve(frame: _Frame, node: Node) -> Node | None:
    """What a contraction becomes that reads windows on a padded copy; None if it cannot."""
    if node.primitive != "contract" or node.inputs[1].node is frame.node:
        return None
    view, b = node.inputs
    groups = node.parameters["groups"]
    a = _windows(frame, view, groups)
    if a is None or not takes_padding(a, b.layout, node.layout, groups):
        return None
    made = Node("convolve", node.layout, (frame.picture, b), {"groups": groups, "a": a})
    made.origin = node.origin
    return made


def _windows(frame: _Frame, view: Operand, groups: Sequence[int]) -> Padded | None:
    """A view of the copy as one of the picture, which ends somewhere."""
    batch, m, _, _ = groups
    shape = view.layout.shape
    starts = _places(frame.axes, view.offset)
    steps: list[list[tuple[int, int]]] = [[] for _ in frame.axes]  # (axis of the view, its step)
    strides = [0] * len(shape)
    for i, (n, stride) in enumerate(zip(shape, view.layout.strides, strict=True)):
        if n == 1:
            continue
        number = next((j for j, own in enumerate(frame.axes) if own.stride <= stride), None)
        if number is None or stride % frame.axes[number].stride:
            return None
        step = stride // frame.axes[number].stride
        steps[number].append((i, step))
        strides[i] = step * frame.axes[number].step
    begin, clips = 0, []
    for axis, start, walked in zip(frame.axes, starts, steps, strict=True):
        last = start + sum(step * (shape[i] - 1) for i, step in walked)
        first = start - axis.start
        begin += first * axis.step
        if last >= axis.extent:
            return None
        if first < 0 or last >= axis.start + axis.length:
            along_m = [(i - batch, step) for i, step in walked if batch <= i < batch + m]
            along_k = [(i - batch - m, step) for i, step in walked if i >= batch + m]
            if len(along_m) > 1 or len(along_k) > 1 or len(along_m) + len(along_k) < len(walked):
                return None
            (in_m, m_step), (in_k, k_step) = (*along_m, (None, 0))[0], (*along_k, (None, 1))[0]
            clips.append(Clip(in_m, in_k, first, m_step, k_step, axis.length))
    return Padded(view.layout.dtype, shape, tuple(strides), begin, tuple(clips))

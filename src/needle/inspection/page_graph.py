"""The graph of kernels as a picture to move in, and the small one of what is fused in a kernel."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from html import escape

from needle.backend_ndarray.ndarray_backend_trace import Node
from needle.errors import describe
from needle.inspection.explanation import Explanation, Kernel
from needle.inspection.kernels import KernelFacts
from needle.program.steps import Buffer
from needle.visualize.layout import Layout, Point, place

__all__ = ["inner_graph", "kernel_graph", "role_of"]

_GLYPH, _LINE, _PADDING = 6.7, 14.0, 8.0
_LONGEST, _MOST_LINES = 34, 5
_MOST_INNER = 120
_START = 1400.0, 760.0  # what is shown first of a large graph


def role_of(facts: KernelFacts) -> str:
    """`forward`, `gradient` or `update`, by most of its primitives; `other` where nobody knows."""
    roles: Counter[str] = Counter()
    for part in facts.step.parts:
        for node in part.nodes:
            roles[_role(node)] += 1
    known = Counter({role: count for role, count in roles.items() if role != "other"})
    return (known or roles or Counter({"other": 1})).most_common(1)[0][0]


def _role(node: Node) -> str:
    origin = node.origin
    if origin is None:
        return "other"
    if origin.within.startswith("optim"):
        return "update"
    return "gradient" if origin.is_gradient else "forward"


# -- kernels -----------------------------------------------------------------------------------


def kernel_graph(explanation: Explanation) -> str:
    """All kernels of a step."""
    kernels = explanation.kernels
    lines = [_lines(kernel) for kernel in kernels]
    sizes = [_size(text) for text in lines]
    edges = _edges(kernels)
    layout = place(sizes, edges)
    longest = sum(kernel.seconds for kernel in kernels) or 1.0
    parts = _arrows(sizes, edges, layout)
    for kernel, text, size, centre in zip(kernels, lines, sizes, layout.centres, strict=True):
        parts.append(_box(kernel, text, size, centre, kernel.seconds / longest))
    width, height = layout.width + 40, layout.height + 40
    start = ""
    if width > _START[0] or height > _START[1]:
        start = f' data-start="-20 -20 {min(width, _START[0]):g} {min(height, _START[1]):g}"'
    inner = "\n".join(parts)
    return (
        f'<div class="view" tabindex="0"{start}><svg viewBox="-20 -20 {width:.0f} {height:.0f}">\n'
        f"{inner}\n</svg></div>"
    )


def _edges(kernels: Sequence[Kernel]) -> list[tuple[int, int]]:
    """From who wrote a memory last to who reads it."""
    writer: dict[Buffer, int] = {}
    edges: dict[tuple[int, int], None] = {}
    for kernel in kernels:
        number, step = kernel.facts.number, kernel.facts.step
        for where in (*step.places_read, *step.places_written):
            source = writer.get(where.buffer)
            if source is not None and source != number:
                edges[source, number] = None
        for where in step.places_written:
            writer[where.buffer] = number
    return list(edges)


def _lines(kernel: Kernel) -> list[str]:
    """The operators, and below them the primitives that came of them."""
    facts = kernel.facts
    nodes = [node for part in facts.step.parts for node in part.nodes]
    names = [str(node.parameters.get("name", node.primitive)) for node in nodes]
    counts = Counter(names)
    shown = [f"{name} ×{count}" if count > 1 else name for name, count in counts.items()]
    lines = [_short(f"{facts.number}  {facts.title}"), ""]
    for name in shown:
        if len(lines[-1]) + len(name) + 2 > _LONGEST:
            lines.append("")
        lines[-1] += (", " if lines[-1] else "") + name
    if len(lines) > _MOST_LINES:
        lines = [*lines[: _MOST_LINES - 1], f"and more, {len(nodes)} in all"]
    return lines


def _short(text: str) -> str:
    return text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"


def _size(lines: Sequence[str]) -> tuple[float, float]:
    width = max(len(line) for line in lines) * _GLYPH + 2 * _PADDING
    return width, len(lines) * _LINE + 2 * _PADDING


def _box(
    kernel: Kernel, lines: Sequence[str], size: tuple[float, float], centre: Point, share: float
) -> str:
    (width, height), (x, y) = size, centre
    left, top = x - width / 2, y - height / 2
    words = f"kernel {kernel.facts.number}: {kernel.facts.title}\n{100 * share:.1f} % of the time"
    return (
        f'<g class="kernel" data-kernel="{kernel.facts.number}"><title>{escape(words)}</title>'
        f'<rect class="box {role_of(kernel.facts)}" x="{left:.1f}" y="{top:.1f}" rx="5" '
        f'width="{width:.1f}" height="{height:.1f}"/>'
        f'<rect class="share" x="{left:.1f}" y="{top + height + 1.5:.1f}" height="3" '
        f'width="{width * share:.1f}"/>'
        f"{_texts(lines, left, top)}</g>"
    )


def _texts(lines: Sequence[str], left: float, top: float) -> str:
    return "".join(
        f'<text x="{left + _PADDING:.1f}" y="{top + _PADDING + _LINE * row + 10:.1f}"'
        f' class="{"title" if row == 0 else "soft"}">{escape(line)}</text>'
        for row, line in enumerate(lines)
    )


# -- primitives --------------------------------------------------------------------------------


def inner_graph(facts: KernelFacts) -> str | None:
    """The primitives of a kernel and what they read of each other; None if there is just one."""
    nodes = [node for part in facts.step.parts for node in part.nodes]
    if not 1 < len(nodes) <= _MOST_INNER:
        return None
    number = {node: i for i, node in enumerate(nodes)}
    edges = list(
        dict.fromkeys(
            (number[x.node], number[node])
            for node in nodes
            for x in node.inputs
            if x.node in number and number[x.node] < number[node]
        )
    )
    lines = [
        [str(node.parameters.get("name", node.primitive)), describe(node.layout)] for node in nodes
    ]
    sizes = [_size(text) for text in lines]
    layout = place(sizes, edges)
    parts = _arrows(sizes, edges, layout)
    for node, text, (width, height), (x, y) in zip(
        nodes, lines, sizes, layout.centres, strict=True
    ):
        left, top = x - width / 2, y - height / 2
        title = node.origin.title if node.origin is not None else ""
        parts.append(
            f"<g><title>{escape(f'{title}: {node!r}')}</title>"
            f'<rect class="box {_role(node)}" x="{left:.1f}" y="{top:.1f}" rx="5" '
            f'width="{width:.1f}" height="{height:.1f}"/>{_texts(text, left, top)}</g>'
        )
    width, height = layout.width + 20, layout.height + 20
    inner = "".join(parts)
    return (
        f'<svg viewBox="-10 -10 {width:.0f} {height:.0f}" width="{width:.0f}" '
        f'height="{height:.0f}">{inner}</svg>'
    )


# -- arrows ------------------------------------------------------------------------------------


def _arrows(
    sizes: Sequence[tuple[float, float]], edges: Sequence[tuple[int, int]], layout: Layout
) -> list[str]:
    """A smooth line with a head for each edge."""
    parts = []
    bottoms = [
        Point(x, y + height / 2) for (x, y), (_, height) in zip(layout.centres, sizes, strict=True)
    ]
    for source, trunk in layout.trunks.items():
        line = _curve([bottoms[source], *trunk])
        parts.append(f'<path class="edge" data-from="{source}" d="{line}"/>')
    for start, (source, target) in zip(layout.starts, edges, strict=True):
        x, y = layout.centres[target]
        tip = Point(x, y - sizes[target][1] / 2)
        line = _curve([start or bottoms[source], Point(tip.x, tip.y - 6)])
        parts.append(f'<path class="edge" data-from="{source}" data-to="{target}" d="{line}"/>')
        head = f"M{tip.x:.1f} {tip.y:.1f}l-3.5 -7h7z"
        parts.append(f'<path class="head" d="{head}"/>')
    return parts


def _curve(points: Sequence[Point]) -> str:
    """A smooth line from the first point through the others, upright at each."""
    (x, y), *rest = points
    path = f"M{x:.1f} {y:.1f}"
    for next_x, next_y in rest:
        middle = (y + next_y) / 2
        path += f"C{x:.1f} {middle:.1f} {next_x:.1f} {middle:.1f} {next_x:.1f} {next_y:.1f}"
        x, y = next_x, next_y
    return path

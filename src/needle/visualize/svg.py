"""The computational graph as an SVG picture that needs nothing outside itself."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Collection, Mapping
from html import escape
from typing import Any, NamedTuple

from needle.visualize.graph import Node, draw_graph
from needle.visualize.layout import Layout, Point, place

__all__ = ["graph_svg"]

FONT = "ui-monospace, 'DejaVu Sans Mono', Menlo, Consolas, 'Liberation Mono', monospace"
FONT_SIZE = 12.0
LINE_HEIGHT = 15.0
# Of the fallback fonts the widest has glyphs of 0.602 em; East Asian wide glyphs fill 1 em or more.
NARROW_GLYPH, WIDE_GLYPH = 0.62, 1.2
LONGEST_LINE = 44  # glyphs; longer lines lose their middle
PADDING = 9.0
MARGIN = 20.0
ARROW = 6.0
_BOLD = ' font-weight="bold"'


class _Style(NamedTuple):
    fill: str
    stroke: str
    legend: str


_STYLES = {
    "parameter": _Style("#ffe3c2", "#c2621b", "parameter (gets a gradient)"),
    "data": _Style("#d9e8fb", "#2f6db5", "data, constant"),
    "value": _Style("#f4f4f2", "#8a8a85", "value"),
    "result": _Style("#d6f0d8", "#2e7d39", "result"),
    "operator": _Style("#ffffff", "#55308d", "operator"),
}


def graph_svg(
    *tensors: Any, names: Mapping[Any, str] | None = None, data: Collection[Any] = ()
) -> str:
    """The computational graph of `tensors`, inputs at the top, as the text of an SVG file.

    names  Tensor to str, for the boxes
    data   leaves to colour as data although they have a gradient

    Boxes are values: name, dtype and shape, and the number where there is only one. Circles are
    operators; a pointer resting on one shows its arguments. Nothing is computed for the picture:
    in lazy mode, values are drawn as not computed yet.

    Raises OptionError without tensors, DTypeError for what is no Tensor, and for other names.

    >>> import needle as ndl
    >>> from needle.visualize import graph_svg
    >>> w = ndl.Tensor([1.0, 2.0])
    >>> picture = graph_svg((w * w).sum(), names={w: "w"})
    >>> picture.startswith("<svg") and picture.rstrip().endswith("</svg>")
    True
    """
    nodes, edges = draw_graph(tensors, names, data)
    nodes = [node._replace(lines=tuple(map(_fitted, node.lines))) for node in nodes]
    sizes = [_size(node) for node in nodes]
    layout = place(sizes, edges)
    legend, legend_height = _legend(nodes, max(layout.width, 420.0))
    body = [
        *_arrows(nodes, sizes, edges, layout),
        *(_shape(*each) for each in zip(nodes, sizes, layout.centres, strict=True)),
    ]
    width = max(layout.width, 420.0) + 2 * MARGIN
    shift = MARGIN + (width - 2 * MARGIN - layout.width) / 2
    height = layout.height + legend_height + 3 * MARGIN
    return "\n".join(
        [
            _head(width, height),
            f'<g transform="translate({MARGIN:g} {MARGIN:g})">',
            *legend,
            "</g>",
            f'<g transform="translate({shift:.1f} {legend_height + 2 * MARGIN:.1f})">',
            *body,
            "</g>",
            "</svg>",
            "",
        ]
    )


def _head(width: float, height: float) -> str:
    extent = f'width="{width:.0f}" height="{height:.0f}" viewBox="0 0 {width:.0f} {height:.0f}"'
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" {extent} font-family="{FONT}" '
        f'font-size="{FONT_SIZE:g}" text-anchor="middle">\n'
        '<title>Computational graph</title>\n<rect width="100%" height="100%" fill="#ffffff"/>'
    )


# -- text ----------------------------------------------------------------------------------------


def _fitted(line: str) -> str:
    """Printable, and no longer than a box should grow: the middle gives way to an ellipsis."""
    line = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in line)
    if len(line) <= LONGEST_LINE:
        return line
    half = (LONGEST_LINE - 1) // 2
    return f"{line[:half]}…{line[-half:]}"


def _text_width(line: str) -> float:
    """An upper bound, in pixels, whichever of the fonts is there."""
    wide = sum(unicodedata.east_asian_width(c) in "WF" for c in line)
    return FONT_SIZE * (NARROW_GLYPH * (len(line) - wide) + WIDE_GLYPH * wide)


def _size(node: Node) -> tuple[float, float]:
    width = max(map(_text_width, node.lines))
    height = LINE_HEIGHT * len(node.lines)
    if node.role == "operator":  # the circle around the rectangle of its text
        diameter = math.hypot(width, height) + 8
        return diameter, diameter
    return width + 2 * PADDING, height + 2 * PADDING - 6


# -- shapes --------------------------------------------------------------------------------------


def _shape(node: Node, size: tuple[float, float], centre: Point) -> str:
    style, (width, height), (x, y) = _STYLES[node.role], size, centre
    paint = f'fill="{style.fill}" stroke="{style.stroke}" stroke-width="1.4"'
    if node.role == "operator":
        outline = f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{width / 2:.1f}" {paint}/>'
    else:
        outline = (
            f'<rect x="{x - width / 2:.1f}" y="{y - height / 2:.1f}" width="{width:.1f}" '
            f'height="{height:.1f}" rx="4" {paint}/>'
        )
    first = y - LINE_HEIGHT * (len(node.lines) - 1) / 2 + FONT_SIZE * 0.35
    named = len(node.lines) > 1 and node.role != "operator"
    texts = [
        f'<text x="{x:.1f}" y="{first + LINE_HEIGHT * row:.1f}"'
        f"{_BOLD if named and row == 0 else ''}>{escape(line)}</text>"
        for row, line in enumerate(node.lines)
    ]
    tooltip = escape("".join(c if c.isprintable() else " " for c in node.tooltip))
    return f"<g><title>{tooltip}</title>{outline}{''.join(texts)}</g>"


def _legend(nodes: list[Node], room: float) -> tuple[list[str], float]:
    """One entry per role that occurs, in rows no wider than `room`; and their height."""
    parts: list[str] = []
    x, y = 0.0, 0.0
    roles = {node.role for node in nodes}
    for role, style in _STYLES.items():
        if role not in roles:
            continue
        width = 30 + _text_width(style.legend) + 14
        if x and x + width > room:
            x, y = 0.0, y + 20
        swatch = (
            f'<circle cx="{x + 11:.1f}" cy="{y + 7:.1f}" r="7"'
            if role == "operator"
            else f'<rect x="{x:.1f}" y="{y:.1f}" width="22" height="14" rx="3"'
        )
        parts.append(f'{swatch} fill="{style.fill}" stroke="{style.stroke}" stroke-width="1.4"/>')
        parts.append(
            f'<text x="{x + 30:.1f}" y="{y + 11:.1f}" text-anchor="start">{style.legend}</text>'
        )
        x += width
    return parts, y + 14


# -- arrows --------------------------------------------------------------------------------------


def _arrows(
    nodes: list[Node],
    sizes: list[tuple[float, float]],
    edges: list[tuple[int, int]],
    layout: Layout,
) -> list[str]:
    """A smooth line with a head for each edge; the heads at one circle are spread over its top."""
    arriving: dict[int, list[int]] = {}
    for number, (_, target) in enumerate(edges):
        arriving.setdefault(target, []).append(number)
    parts = ['<g fill="none" stroke="#6b6b68" stroke-width="1.3">']
    heads = ['<g fill="#6b6b68">']
    bottoms = [
        Point(x, y + height / 2) for (x, y), (_, height) in zip(layout.centres, sizes, strict=True)
    ]
    starts = [
        start or bottoms[source] for start, (source, _) in zip(layout.starts, edges, strict=True)
    ]
    for source, trunk in layout.trunks.items():
        parts.append(f'<path d="{_curve([bottoms[source], *trunk])}"/>')
    for target, numbers in arriving.items():
        numbers.sort(key=lambda number: starts[number].x)
        for rank, number in enumerate(numbers):
            angle = (rank - (len(numbers) - 1) / 2) * min(0.7, 1.6 / len(numbers))
            round_target = nodes[target].role == "operator"
            tip = _tip(layout.centres[target], sizes[target], angle if round_target else 0.0)
            base = Point(tip.x, tip.y - ARROW)
            parts.append(f'<path d="{_curve([starts[number], base])}"/>')
            heads.append(_head_at(tip))
    return [*parts, "</g>", *heads, "</g>"]


def _tip(centre: Point, size: tuple[float, float], angle: float) -> Point:
    """Where an arrow ends: on the outline, `angle` radians clockwise from the top."""
    radius = size[1] / 2
    return Point(centre.x + radius * math.sin(angle), centre.y - radius * math.cos(angle))


def _curve(points: list[Point]) -> str:
    """A smooth line from the first point through the others, upright at each."""
    (x, y), *rest = points
    path = f"M{x:.1f} {y:.1f}"
    for next_x, next_y in rest:
        if abs(next_x - x) < 0.05:
            path += f"V{next_y:.1f}"
        else:
            middle = (y + next_y) / 2
            path += f"C{x:.1f} {middle:.1f} {next_x:.1f} {middle:.1f} {next_x:.1f} {next_y:.1f}"
        x, y = next_x, next_y
    return path


def _head_at(tip: Point) -> str:
    base = tip.y - ARROW - 1
    return f'<path d="M{tip.x:.1f} {tip.y:.1f}L{tip.x - 3.5:.1f} {base:.1f}H{tip.x + 3.5:.1f}Z"/>'

"""A sheet to draw on, and the SVG text of what was drawn: boxes, grids, arrows, words.

Distances are in pixels from the upper left corner. Colours say what a box is, as in the pictures of
graphs that `needle.visualize` draws.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import NamedTuple

__all__ = ["DATA", "LINE", "OPERATOR", "PARAMETER", "RESULT", "VALUE", "Sheet", "Style"]

FONT = "ui-monospace, 'DejaVu Sans Mono', Menlo, Consolas, 'Liberation Mono', monospace"
LINE = "#6b6b68"


class Style(NamedTuple):
    """The colours of a box."""

    fill: str
    stroke: str


DATA = Style("#d9e8fb", "#2f6db5")
PARAMETER = Style("#ffe3c2", "#c2621b")
VALUE = Style("#f4f4f2", "#8a8a85")
RESULT = Style("#d6f0d8", "#2e7d39")
OPERATOR = Style("#ffffff", "#55308d")


class Sheet:
    """A white sheet; what is drawn later lies on top."""

    def __init__(self, width: int, height: int, title: str) -> None:
        self.size, self.title = (width, height), title
        self._parts: list[str] = []

    def box(
        self, x: float, y: float, width: float, height: float, style: Style, words: str = "",
        *, round: float = 3, size: int = 13, dashed: bool = False,
    ) -> None:  # fmt: skip
        """A rectangle with lines of words in its middle."""
        dashes = ' stroke-dasharray="5 3"' if dashed else ""
        self._parts.append(
            f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="{round:g}" '
            f'fill="{style.fill}" stroke="{style.stroke}" stroke-width="1.4"{dashes}/>'
        )
        if words:
            lines = words.split("\n")
            middle = y + height / 2 - (len(lines) - 1) * (size + 3) / 2 + 0.36 * size
            self.words(x + width / 2, middle, words, size=size)

    def words(
        self, x: float, y: float, words: str, *, anchor: str = "middle", size: int = 13,
        colour: str = "#000000", bold: bool = False,
    ) -> None:  # fmt: skip
        """Lines of words; y is where the first one stands."""
        weight = ' font-weight="bold"' if bold else ""
        for number, line in enumerate(words.split("\n")):
            self._parts.append(
                f'<text x="{x:g}" y="{y + number * (size + 3):g}" text-anchor="{anchor}" '
                f'font-size="{size}" fill="{colour}"{weight} xml:space="preserve">'
                f"{escape(line)}</text>"
            )

    def grid(
        self, x: float, y: float, rows: int, columns: int, width: float,
        height: float | None = None, *, fills: dict[tuple[int, int], str] | None = None,
        texts: Sequence[Sequence[object]] = (), size: int = 11, stroke: str = LINE,
    ) -> None:  # fmt: skip
        """Cells of `width` by `height`; fills by (row, column), texts row by row."""
        height = width if height is None else height
        for (row, column), fill in (fills or {}).items():
            self._parts.append(
                f'<rect x="{x + column * width:g}" y="{y + row * height:g}" width="{width:g}" '
                f'height="{height:g}" fill="{fill}"/>'
            )
        across = "".join(f"M{x:g} {y + i * height:g}h{columns * width:g}" for i in range(rows + 1))
        down = "".join(f"M{x + i * width:g} {y:g}v{rows * height:g}" for i in range(columns + 1))
        self._parts.append(
            f'<path d="{across}{down}" fill="none" stroke="{stroke}" stroke-width="1"/>'
        )
        for row, line in enumerate(texts):
            for column, text in enumerate(line):
                middle = x + (column + 0.5) * width, y + (row + 0.5) * height + 0.36 * size
                self.words(*middle, str(text), size=size)

    def frame(
        self, x: float, y: float, width: float, height: float, colour: str, *, dashed: bool = False
    ) -> None:
        """A thick outline, to point at part of a grid."""
        dashes = ' stroke-dasharray="5 3"' if dashed else ""
        self._parts.append(
            f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" fill="none" '
            f'stroke="{colour}" stroke-width="2.4"{dashes}/>'
        )

    def line(
        self, *points: tuple[float, float], arrow: bool = True, colour: str = LINE,
        dashed: bool = False, over: bool = False,
    ) -> None:  # fmt: skip
        """A line through the points, with an arrow's head at its end.

        over  leave a gap in the lines that it crosses
        """
        path = "M" + "L".join(f"{x:g} {y:g}" for x, y in points)
        if over:
            self._parts.append(f'<path d="{path}" fill="none" stroke="#ffffff" stroke-width="8"/>')
        dashes = ' stroke-dasharray="5 3"' if dashed else ""
        self._parts.append(
            f'<path d="{path}" fill="none" stroke="{colour}" stroke-width="1.4"{dashes}/>'
        )
        if arrow:
            self._head(points[-2], points[-1], colour)

    def _head(self, before: tuple[float, float], tip: tuple[float, float], colour: str) -> None:
        (x0, y0), (x, y) = before, tip
        length = ((x - x0) ** 2 + (y - y0) ** 2) ** 0.5
        dx, dy = (x - x0) / length, (y - y0) / length
        corners = [(x - 8 * dx + s * 4 * dy, y - 8 * dy - s * 4 * dx) for s in (1, -1)]
        points = " ".join(f"{px:g},{py:g}" for px, py in [(x, y), *corners])
        self._parts.append(f'<polygon points="{points}" fill="{colour}"/>')

    def operator(self, x: float, y: float, sign: str, *, radius: float = 13) -> None:
        """A circle with the sign of an operator."""
        self._parts.append(
            f'<circle cx="{x:g}" cy="{y:g}" r="{radius:g}" fill="{OPERATOR.fill}" '
            f'stroke="{OPERATOR.stroke}" stroke-width="1.4"/>'
        )
        self.words(x, y + 5, sign, size=14)

    def svg(self) -> str:
        """The picture as the text of a file."""
        width, height = self.size
        head = (
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
            f'viewBox="0 0 {width} {height}" font-family="{FONT}">\n'
            f"<title>{escape(self.title)}</title>\n"
            '<rect width="100%" height="100%" fill="#ffffff"/>\n'
        )
        return head + "\n".join(self._parts) + "\n</svg>\n"

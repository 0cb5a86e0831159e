"""Numbers, lines of source and tables as text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import PurePath

__all__ = ["count_text", "shorter_line", "size_text", "table_text", "time_text"]


def _scaled(number: float, units: Sequence[str], step: float = 1000.0) -> str:
    """Three digits and the largest unit below."""
    for unit in units[:-1]:
        if abs(number) < 0.9995 * step:
            return f"{number:.3g}{unit}"
        number /= step
    return f"{number:.3g}{units[-1]}" if abs(number) < step else f"{number:,.0f}{units[-1]}"


def count_text(number: float) -> str:
    """`27`, `1.3 k`, `15.7 M`."""
    return _scaled(number, ("", " k", " M", " G", " T"))


def size_text(nbytes: float) -> str:
    """`64 B`, `1.3 kB`, `15.7 MB`, in powers of 1000."""
    return _scaled(nbytes, (" B", " kB", " MB", " GB", " TB"))


def time_text(seconds: float) -> str:
    """`850 ns`, `12.3 us`, `1.5 ms`, `2.1 s`."""
    return _scaled(1e9 * seconds, (" ns", " us", " ms", " s"))


def shorter_line(line: str) -> str:
    """`file:line` with the file's name alone."""
    return PurePath(line).name


def table_text(
    head: Sequence[str],
    rows: Sequence[Sequence[str]],
    left: Sequence[int] = (),
    widest: Mapping[int, int] | None = None,
) -> str:
    """Columns as wide as what is in them, numbers to the right.

    left    columns of text, to the left
    widest  of columns that are cut: how wide they may get
    """
    most = widest or {}
    cut = [[_cut(cell, most.get(i)) for i, cell in enumerate(row)] for row in (head, *rows)]
    widths = [max(len(row[i]) for row in cut) for i in range(len(head))]

    def line(row: Sequence[str]) -> str:
        cells = [
            cell.ljust(width) if i in left else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        return "  ".join(cells).rstrip()

    rule = "-" * len(line(["-" * width for width in widths]))
    return "\n".join([line(cut[0]), rule, *map(line, cut[1:])])


def _cut(text: str, width: int | None) -> str:
    """The text, or its beginning, so long."""
    return text if width is None or len(text) <= width else text[: width - 1] + "…"

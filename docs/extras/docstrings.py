"""Needle's docstrings as Markdown, for the reference pages.

In the source a docstring is plain text whose lines mean something: `x: any shape -> y: same shape`,
columns of names and meanings, `>>>` examples. Markdown would run the lines together and read `*` as
emphasis. `as_markdown` keeps what the author's line breaks say.
"""

from __future__ import annotations

import inspect
import re
import textwrap
from itertools import pairwise
from typing import Any

import griffe

__all__ = ["DocstringsAsMarkdown", "as_markdown"]

WIDTH = 92  # a line that ends before this column, with room for the next word, ends on purpose
_LABEL = re.compile(r"^(Gradient|Raises|Draws|Source|Example|[\w, ()]{1,40}:)")
_NAME = re.compile(r"^[\w.]+ {2,}\S")
_COLUMNS = re.compile(r"^\S.*?\S? {2,}\S")
_CODE = re.compile(r"(`[^`]+`)")
_SPECIAL = re.compile(r"([\\*_\[\]<>|#])")


def as_markdown(docstring: str, indent: int = 4) -> str:
    """A docstring as Markdown: examples as code, columns as a list, deliberate breaks as breaks.

    indent  of the docstring in the source, to tell where its lines were wrapped
    """
    paragraphs = re.split(r"\n\s*\n", inspect.cleandoc(docstring))
    return "\n\n".join(_paragraph(paragraph.split("\n"), indent) for paragraph in paragraphs)


def _paragraph(lines: list[str], indent: int) -> str:
    if lines[0].startswith(">>>"):
        return "\n".join(["```pycon", *lines, "```"])
    if lines[0].startswith("    "):
        lines = textwrap.dedent("\n".join(lines)).split("\n")
        if not _NAME.match(lines[0]):
            return "\n".join(["```text", *lines, "```"])
    parts = []
    for line in _unwrapped(lines, indent):
        row = _COLUMNS.match(line)
        name, meaning = re.split(r" {2,}", line, maxsplit=1) if row else ("", line)
        parts.append(f"- **{_escaped(name)}**: {_escaped(meaning)}" if row else _escaped(line))
    return _joined(parts)


def _unwrapped(lines: list[str], indent: int) -> list[str]:
    """The lines with those joined that only the right margin, or a column, had parted."""
    result = [lines[0]]
    for before, line in pairwise(lines):
        first_word = line.split(" ", 1)[0]
        wrapped = indent + len(before) + 1 + len(first_word) > WIDTH
        starts_anew = _COLUMNS.match(line) or _LABEL.match(line)
        if line.startswith("  ") or (wrapped and not starts_anew):
            result[-1] += " " + line.strip()
        else:
            result.append(line)
    return result


def _joined(parts: list[str]) -> str:
    """List items under each other; other lines with a hard break between them."""
    text = parts[0]
    for before, part in pairwise(parts):
        if part.startswith("- "):
            text += ("\n" if before.startswith("- ") else "\n\n") + part
        else:
            text += ("\n\n" if before.startswith("- ") else "  \n") + part
    return text


def _escaped(text: str) -> str:
    """The text with Markdown's special characters made plain, but for `code`."""
    pieces = _CODE.split(text)
    return "".join(p if p.startswith("`") else _SPECIAL.sub(r"\\\1", p) for p in pieces)


class DocstringsAsMarkdown(griffe.Extension):
    """Hands `as_markdown` every docstring of the package."""

    def on_object(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        if obj.docstring is not None:
            depth = 4 * obj.path.count(".", len(obj.module.path)) if not obj.is_module else 0
            obj.docstring.value = as_markdown(obj.docstring.value, depth)

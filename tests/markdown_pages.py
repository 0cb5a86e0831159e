"""Reading the Python blocks of a Markdown page, and checking what they print.

The blocks of one page share a namespace, in order. A ```pycon block is a doctest. What a ```python
block prints must stand in the ```text block right after it; one that prints nothing has none.
Numbers with a decimal point agree when they are as near as the digits shown can tell; between
`<!-- roughly -->` and the block they may differ by a fifth, for what another BLAS's rounding moves.
A block under `<!-- only in nd mode -->` runs in that mode, one under `<!-- only with torch -->`
where that package is installed.
"""

from __future__ import annotations

import doctest
import io
import re
from contextlib import redirect_stdout
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

from needle.config import BACKEND
from needle.errors import MissingDependencyError

LANGUAGES = ("python", "pycon")
DOCTEST_FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE

_FENCE = re.compile(r"^```(\w*)[^\n]*\n(.*?)^```[ ]*$", re.DOTALL | re.MULTILINE)
_CONDITION = re.compile(r"<!-- only (?:in (\w+) mode|with (\w+)) -->\s*$")
_BETWEEN = re.compile(r"\s*(<!-- roughly -->)?\s*")
_DECIMAL = re.compile(r"-?\d+\.\d+(?:e[+-]?\d+)?")


class Block(NamedTuple):
    """One block of code: its line in the page, its text, and what it shall print."""

    line: int
    language: str
    code: str
    output: str
    roughly: bool


def blocks(text: str) -> list[Block]:
    """The blocks of a page that are run, each with the ```text block that follows at once."""
    found = []
    for fence, after in pairwise([*_FENCE.finditer(text), None]):
        if fence is None or fence[1] not in LANGUAGES or not _applies(text[: fence.start()]):
            continue
        line = text.count("\n", 0, fence.start()) + 2
        gap = after and after[1] == "text" and _BETWEEN.fullmatch(text[fence.end() : after.start()])
        output = after[2] if after and gap else ""
        found.append(Block(line, fence[1], fence[2], output, bool(gap and gap[1])))
    return found


def _applies(before: str) -> bool:
    """Whether the condition that the text before a block ends with, if any, is met."""
    condition = _CONDITION.search(before)
    if condition is None:
        return True
    mode, package = condition.groups()
    return mode == BACKEND if mode else find_spec(package) is not None


def fenced(text: str, language: str) -> list[str]:
    """The contents of the blocks of one language."""
    return [fence[2] for fence in _FENCE.finditer(text) if fence[1] == language]


def prose(text: str) -> str:
    """The page without its blocks."""
    return _FENCE.sub("", text)


def run_page(text: str, path: Path) -> None:
    """Run every block of a page; AssertionError names the page, the line and what went wrong."""
    namespace: dict[str, Any] = {"__name__": "__page__"}
    for block in blocks(text):
        where = f"{path.name}:{block.line}"
        if block.language == "pycon":
            run_doctest(block.code, namespace, str(path), block.line - 1)
            continue
        printed = _run(block, namespace, path)
        assert agrees(block.output, printed, roughly=block.roughly), (
            f"{where}: the page shows\n{block.output}\nbut this was printed\n{printed}"
        )


def _run(block: Block, namespace: dict[str, Any], path: Path) -> str:
    """What the block prints. Errors carry the page's own line numbers."""
    source = "\n" * (block.line - 1) + block.code
    stdout = io.StringIO()
    with redirect_stdout(stdout):
        exec(compile(source, str(path), "exec"), namespace)
    return stdout.getvalue()


def run_doctest(code: str, namespace: dict[str, Any], filename: str, line: int) -> None:
    """Run `>>>` lines in the namespace; AssertionError carries doctest's report."""
    test = doctest.DocTestParser().get_doctest(code, {}, filename, filename, line)
    test.globs = namespace
    report = io.StringIO()
    runner = _Runner(_Checker(), verbose=False, optionflags=DOCTEST_FLAGS)
    runner.run(test, out=report.write, clear_globs=False)
    assert not runner.failures, report.getvalue()


class _Runner(doctest.DocTestRunner):
    """Lets MissingDependencyError through, for the test that runs the example to skip."""

    def report_unexpected_exception(self, out: Any, test: Any, example: Any, exc_info: Any) -> None:
        if isinstance(exc_info[1], MissingDependencyError):
            raise exc_info[1]
        super().report_unexpected_exception(out, test, example, exc_info)


class _Checker(doctest.OutputChecker):
    """doctest's own comparison, or equal but for the last digit of decimals."""

    def check_output(self, want: str, got: str, optionflags: int) -> bool:
        return super().check_output(want, got, optionflags) or agrees(want, got)


def agrees(shown: str, printed: str, *, roughly: bool = False) -> bool:
    """Whether the texts are the same, but for trailing blanks and the last digit of decimals."""
    shown, printed = _tidy(shown), _tidy(printed)
    if _DECIMAL.sub("#", shown) != _DECIMAL.sub("#", printed):
        return False
    pairs = zip(_DECIMAL.findall(shown), _DECIMAL.findall(printed), strict=True)
    return all(_near(a, b, roughly) for a, b in pairs)


def _tidy(text: str) -> str:
    return "\n".join(line.rstrip() for line in text.strip("\n").splitlines())


def _near(shown: str, printed: str, roughly: bool) -> bool:
    mantissa, _, exponent = shown.partition("e")
    unit = 10.0 ** (int(exponent or 0) - len(mantissa.partition(".")[2]))
    tolerance = max(1.01 * unit, 0.2 * abs(float(shown)) if roughly else 0.0)
    return abs(float(shown) - float(printed)) <= tolerance

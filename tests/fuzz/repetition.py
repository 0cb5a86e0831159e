"""A part of a random program written several times, as layers and steps are.

A graph of hundreds of ops needs no more kernels than one repetition of them, so it is compiled in
a second.
"""

from __future__ import annotations

import re

from fuzz.programs import Line
from fuzz.writer import Writer

__all__ = ["repeat"]

MOST_LINES = 20  # of what is repeated


def repeat(w: Writer, wanted: int) -> None:
    """What led from one value to another, up to six times more, each time from the last result.

    Only values that are not exact are replaced, so that a line that needs exact ones keeps them.
    """
    found = [path for path in (_path(w) for _ in range(3)) if path is not None]
    if not found:
        return
    first, path = max(found, key=lambda path: len(path[1]))
    last, own = path[-1], bool(w.random.randint(2))
    for _ in range(w.random.randint(1, 7)):
        start = w.add(_joined(w, first, last), False)
        if start is None or len(w.lines) >= wanted:
            return
        names = {first.name: start.name}
        for line in path:
            if own:
                names |= _copies(w, line)
            made = w.add(_renamed(line.expression, names), False)
            if made is None or (made.shape, made.dtype) != (line.shape, line.dtype):
                return
            names[line.name] = made.name
        last = w.lines[-1]


def _path(w: Writer) -> tuple[Line, list[Line]] | None:
    """A value, and the lines from it to another one, which is the last of them."""
    inner = {line.name: line for line in w.lines if line.kind == "f" and not line.exact}
    ends = [line for line in w.lines[-8:] if line.name in inner and line.shape]
    if not ends:
        return None
    end = w.any_of(ends)
    before = _all_reads(w, end)
    starts = [line for line in before if line.name in inner and line.shape and line.dtype]
    alike = [line for line in starts if (line.shape, line.dtype) == (end.shape, end.dtype)]
    if not starts:
        return None
    start = w.any_of(alike if alike and not w.one_in(4) else starts)
    path, names = list[Line](), {start.name}
    for line in [*before, end]:
        if line.reads & names:
            path.append(line)
            names.add(line.name)
    return (start, path) if len(path) <= MOST_LINES else None


def _all_reads(w: Writer, end: Line) -> list[Line]:
    """The lines that a line depends on, in their order."""
    needed, found = set(end.reads), list[Line]()
    for line in reversed(w.lines):
        if line.name in needed:
            needed |= line.reads
            found.insert(0, line)
    return found


def _joined(w: Writer, first: Line, last: Line) -> str:
    """An expression of the shape of the first, in which the last result takes part."""
    a, z = first.name, last.name
    if last.dtype != first.dtype:
        z = f"{z}.astype('{first.dtype}')"
    if last.shape == first.shape:
        return str(w.any_of([f"ndl.tanh({z})", f"({a} + {z}) * 0.7", f"{z} * 0.9"]))
    if len(last.shape) == len(first.shape):
        axes = [k for k, n in enumerate(last.shape) if n not in (1, first.shape[k])]
        return f"({a} + {z}.mean({tuple(axes)}, keepdims=True)) * 0.7"
    return f"({a} - {z}.mean()) * 0.7"


def _copies(w: Writer, line: Line) -> dict[str, str]:
    """Parameters of its own for a line: the names of those it read, and what they are now."""
    made = {}
    for state in list(w.state):
        if state.name in line.reads and not state.expression.startswith("ndl.Tensor"):
            seed = f", {w.random.randint(1000)}, True)"
            again = re.sub(r", \d+, True\)$", seed, state.expression)
            held = next((p for p in w.parameters if state.name in re.findall(r"\w+", p)), "")
            made[state.name] = w.state_of(again, held.replace(state.name, "{}"))
    return made


def _renamed(expression: str, names: dict[str, str]) -> str:
    return re.sub(r"\b[a-z]\w*\b", lambda found: names.get(found[0], found[0]), expression)

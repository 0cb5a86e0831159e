"""A failing program made shorter, as long as it goes on failing."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from dataclasses import replace

from fuzz.programs import Line, Program

__all__ = ["shrink"]


def shrink(program: Program, fails: Callable[[Program], bool], seconds: float = 60) -> Program:
    """The shortest program found that fails; each candidate is run once."""
    end = time.monotonic() + seconds
    tried = set()
    shorter = True
    while shorter:
        shorter = False
        for candidate in _shorter(program):
            source = candidate.source()
            if source in tried:
                continue
            tried.add(source)
            if time.monotonic() > end:
                return program
            if fails(candidate):
                program, shorter = candidate, True
                break
    return program


def _shorter(program: Program) -> list[Program]:
    """Programs with less in them, those first that halve it."""
    half = len(program.lines) / 2
    return sorted(_parts_of(program), key=lambda part: abs(len(part.lines) - half))


def _parts_of(program: Program) -> Iterator[Program]:
    if program.ending:
        plain = tuple(name for name in program.returned if name.startswith("v"))
        yield replace(program, ending=(), returned=plain).without_unused()
    names = [name for name in program.returned if name.startswith("v")]
    rest = tuple(name for name in program.returned if name not in names)
    for name in [line.name for line in program.lines]:
        yield replace(program, returned=(name, *rest)).without_unused()
    for name in names:
        yield replace(
            program, returned=tuple(x for x in program.returned if x != name)
        ).without_unused()
    yield from _with_fewer_terms(program)
    yield from _with_fewer_weights(program)
    for k in range(len(program.ending)):
        ending = program.ending[:k] + program.ending[k + 1 :]
        yield replace(program, ending=ending).without_unused()
    for line in program.lines:
        yield _as_argument(program, line)
    for line in reversed(program.lines):
        for other in (*program.arguments, *program.lines):
            if other.name in line.reads and (other.shape, other.dtype) == (line.shape, line.dtype):
                yield _renamed(program, line, other)


def _with_fewer_terms(program: Program) -> Iterator[Program]:
    """Without one of the terms of a loss."""
    for i, text in enumerate(program.ending):
        for term in re.findall(r"\(v\d+ \* v\d+\)\.mean\(\) \+ ", text):
            ending = list(program.ending)
            ending[i] = text.replace(term, "", 1)
            yield replace(program, ending=tuple(ending)).without_unused()


def _with_fewer_weights(program: Program) -> Iterator[Program]:
    """Without one of the parameters that an optimiser updates."""
    for i, line in enumerate(program.state):
        terms = line.expression[1:-1].split(", ")
        if line.name != "weights" or len(terms) < 2:
            continue
        for term in terms:
            state = list(program.state)
            rest = ", ".join(x for x in terms if x is not term)
            state[i] = replace(line, expression=f"[{rest}]")
            yield replace(program, state=tuple(state)).without_unused()


def _as_argument(program: Program, line: Line) -> Program:
    """A line's value handed over in place of computed."""
    made = f"numbers({line.shape}, '{line.dtype}', {len(program.arguments)} + call)"
    argument = replace(line, expression=made, exact=True)
    lines = tuple(x for x in program.lines if x is not line)
    arguments = (*program.arguments, argument)
    return replace(program, arguments=arguments, lines=lines).without_unused()


def _renamed(program: Program, line: Line, other: Line) -> Program:
    """Another value wherever a line's value was read."""

    def rename(text: str) -> str:
        return re.sub(rf"\b{line.name}\b", other.name, text)

    lines = tuple(
        replace(x, expression=rename(x.expression)) for x in program.lines if x is not line
    )
    returned = tuple(dict.fromkeys(map(rename, program.returned)))
    ending = tuple(map(rename, program.ending))
    return replace(program, lines=lines, returned=returned, ending=ending).without_unused()

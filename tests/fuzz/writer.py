"""A random program being written, line by line; each line is run at once, to know its shape.

Whether a value is *exact* is known of each: made of the inputs by elementwise primitives, views and
extremes alone, in which eager and compiled code agree to the bit. Only exact values are compared
with each other, as a comparison of two sums may turn out otherwise in another order of adding.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from fuzz.expressions import ENDINGS
from fuzz.programs import KINDS, Line, scope_of

import needle as ndl
from needle.errors import NeedleError

__all__ = ["Writer", "broadcast"]

MOST_ELEMENTS = 20_000
MOST_AXES = 5
DIMENSIONS = {  # lengths of axes, by how large a program's arrays are
    "small": [1, 2, 3, 4, 5],
    "odd": [1, 2, 7, 8, 16, 17, 33, 65],
    "large": [3, 16, 64, 70, 129, 130],
}


class Writer:
    """What has been written, and the choices that lines are made of.

    state       lines that are run once
    arguments   lines that are run for each call
    lines       the function's
    parameters  expressions for lists of what an optimiser may update
    ending      what is done with the last values; see `expressions.ENDINGS`
    carries     whether a value is left to the next call, in `kept`
    """

    def __init__(self, seed: int) -> None:
        self.random = random = np.random.RandomState(seed)
        sizes = DIMENSIONS[self.any_of(["small", "small", "odd", "odd", "odd", "large"])]
        self.lengths = [*sizes, *[self.any_of(sizes) for _ in range(3)] * 3]
        self.dtype = self.any_of(["float32"] * 4 + ["float64"] * 3 + ["float16", "bfloat16"])
        self.ending = self.any_of(ENDINGS)
        if self.dtype in ("float16", "bfloat16") and self.ending == "optimizer":
            self.ending = "gradients"
        self.state: list[Line] = []
        self.arguments: list[Line] = []
        self.lines: list[Line] = []
        self.parameters: list[str] = []
        self.scope: dict[str, Any] = scope_of("")
        self.scope["call"] = 0
        wanted = random.randint(1, 5)
        while len(self.arguments) < wanted:
            self.add_argument()
        self.carries = self.one_in(3)
        if self.carries:
            self._add_kept()

    @property
    def kinks(self) -> bool:
        """Whether slopes may jump at values that are not exact: there are none to be taken."""
        return self.ending == "nothing"

    # -- choices ---------------------------------------------------------------------------------

    def any_of(self, items: Iterable[Any]) -> Any:
        found = list(items)
        return found[self.random.randint(len(found))]

    def one_in(self, count: int) -> bool:
        return bool(self.random.randint(count) == 0)

    def shape(self) -> tuple[int, ...]:
        """A shape of up to four axes, of few enough elements; one in 25 of none."""
        while True:
            length = self.any_of([0, 1, 2, 2, 2, 3, 3, 4])
            shape = tuple(int(self.any_of(self.lengths)) for _ in range(length))
            if self.one_in(25) and shape:
                shape = (0, *shape[1:])
            if np.prod(shape) <= MOST_ELEMENTS:
                return shape

    def value(self, fits: Callable[[Line], bool]) -> Line | None:
        """One that fits; mostly of those made last."""
        everything = [*self.arguments, *self.lines]
        near = everything[-10:] if self.random.randint(3) else everything
        found = [line for line in near if line.dtype and fits(line)]
        return self.any_of(found) if found else None

    # -- lines -----------------------------------------------------------------------------------

    def add_argument(self) -> None:
        name, shape = f"x{len(self.arguments)}", self.shape()
        dtype = self.any_of([self.dtype] * 6 + ["float32", "int32", "int64", "bool", "int8"])
        seed = self.random.randint(1000)
        expression = f"numbers({shape}, '{dtype}', {seed} + call)"
        if shape and self.one_in(4):
            expression += self.any_of([".T", "[::-1]", "[..., ::2]", "[1:]", "[0]", ".T[::-2]"])
        if self.ending == "gradients" and KINDS.get(dtype) == "f":
            expression = f"leaf({expression})"
        self.run(self.arguments, name, expression, True)

    def _add_kept(self) -> None:
        """A value that a call leaves to the next one."""
        shape = self.shape()
        a, b = (f"numbers({shape}, '{self.dtype}', {seed})" for seed in (1, 2))
        made = f"{{'a': {a}, 'b': {b}, 'n': ndl.Tensor([0.0])}}"
        self.run(self.state, "kept", made, False)
        self.add("kept['a']", False)

    def run(self, lines: list[Line], name: str, expression: str, exact: bool) -> Line | None:
        """Add a line, if it runs and its value is neither too large nor infinite."""
        reads = [line for line in (*self.arguments, *self.lines)
                 if re.search(rf"\b{line.name}\b", expression)]  # fmt: skip
        try:
            value = eval(expression, self.scope)  # of our own making
        except (NeedleError, RuntimeWarning):
            return None  # shapes that do not fit, the mean of nothing
        shape, dtype = (), ""
        if isinstance(value, ndl.Tensor):
            shape, dtype = value.shape, str(value.dtype)
            if value.size > MOST_ELEMENTS or value.ndim > MOST_AXES or not _is_finite(value):
                return None
        exact = exact and all(line.exact for line in reads)
        exact = exact or (KINDS.get(dtype, "i") != "f" and all(line.exact for line in reads))
        self.scope[name] = value
        line = Line(name, expression, shape, dtype, exact)
        lines.append(line)
        return line

    def add(self, expression: str, exact: bool = True) -> Line | None:
        """A line of the function."""
        return self.run(self.lines, f"v{len(self.lines)}", expression, exact)

    def state_of(self, expression: str, parameters: str = "") -> str:
        """A name for something that is made once; which of it an optimiser updates."""
        name = f"{'w' if parameters == '[{}]' else 'm'}{len(self.state)}"
        self.run(self.state, name, expression, False)
        if parameters:
            self.parameters.append(parameters.format(name))
        return name

    def parameter(self, shape: tuple[int, ...], dtype: str) -> str:
        seed = self.random.randint(1000)
        return self.state_of(f"numbers({shape}, '{dtype}', {seed}, True)", "[{}]")

    def ids(self, ids: list[int]) -> str:
        return self.state_of(f"ndl.Tensor({ids}, dtype='int64')")


def _is_finite(value: ndl.Tensor) -> bool:
    return KINDS.get(str(value.dtype)) != "f" or bool(np.all(np.isfinite(value.numpy())))


def broadcast(first: tuple[int, ...], second: tuple[int, ...]) -> tuple[int, ...] | None:
    try:
        return np.broadcast_shapes(first, second)
    except ValueError:
        return None

"""Programs as Python source: functions with state, whose steps are to be compiled.

What a failing test prints is what it ran.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

__all__ = ["FLOATS", "KINDS", "PRELUDE", "Line", "Program", "scope_of"]

FLOATS = ("float64", "float32", "float16", "bfloat16")
KINDS = {**dict.fromkeys(FLOATS, "f"), "bool": "b"}  # others: "i"

PRELUDE = '''\
import numpy as np

import needle as ndl
from needle import nn, optim

NOISE = 0.0  # relative, on all numbers: how much do results depend on them?


def numbers(shape, dtype, seed, grad=False):
    """Floats between -1.5 and 1.5, ints between -4 and 4, or bools."""
    random = np.random.RandomState(seed)
    if dtype == "bool":
        values = random.randint(0, 2, shape).astype(bool)
    elif "int" in dtype:
        values = random.randint(0 if dtype.startswith("u") else -4, 5, shape).astype(dtype)
    else:
        values = random.uniform(-1.5, 1.5, shape).astype("float32").astype("float64")
        values = values * (1 + NOISE * random.uniform(-1, 1, shape))
    return ndl.Tensor(values, dtype=dtype, requires_grad=grad)


def leaf(x):
    """A view of numbers as a leaf, whose gradient is asked for."""
    return x.detach().requires_grad_(True)
'''


@dataclass(frozen=True)
class Line:
    """`name = expression`, and what is known of the value."""

    name: str
    expression: str
    shape: tuple[int, ...]
    dtype: str
    exact: bool

    @property
    def reads(self) -> set[str]:
        """All names in the expression."""
        return set(re.findall(r"[a-z]\w*", self.expression))

    @property
    def size(self) -> int:
        """How many elements."""
        return int(np.prod(self.shape))

    @property
    def kind(self) -> str:
        """ "f" of a float, "i" of an int, "b" of a bool."""
        return KINDS.get(self.dtype, "i")

    def __str__(self) -> str:
        return f"{self.name} = {self.expression}"


@dataclass(frozen=True)
class Program:
    """A function with arguments and state.

    state      made once: parameters, modules, optimisers, `kept`
    arguments  made for each call, whose number is `call`
    lines      the function's
    ending     lines that use gradients or set state
    returned   names
    """

    seed: int
    state: tuple[Line, ...]
    arguments: tuple[Line, ...]
    lines: tuple[Line, ...]
    ending: tuple[str, ...]
    returned: tuple[str, ...]
    calls: int = 2

    @property
    def exact(self) -> set[str]:
        """Names of values that must agree to the bit."""
        return {line.name for line in (*self.arguments, *self.lines) if line.exact}

    def without_unused(self) -> Program:
        """Without lines that nothing depends on."""
        used = set(self.returned) | set(re.findall(r"[a-z]\w*", "\n".join(self.ending)))
        kept: dict[str, list[Line]] = {}
        for name in ("lines", "arguments", "state"):
            kept[name] = []
            for line in reversed(getattr(self, name)):
                if line.name in used:
                    used |= line.reads
                    kept[name].insert(0, line)
        return replace(self, **{name: tuple(lines) for name, lines in kept.items()})

    def source(self) -> str:
        """`prepare()`, which returns the function and its state; `arguments(call)`."""
        names = ", ".join(line.name for line in self.arguments)
        steps = [*map(str, self.lines), *self.ending, f"return [{', '.join(self.returned)}]"]
        state = [line.name for line in self.state]
        return "\n".join(
            [
                "def prepare():",
                *[f"    {line}" for line in self.state],
                "",
                f"    def step({names}):",
                *[f"        {line}" for line in steps],
                "",
                f"    return step, [{', '.join(state)}]",
                "",
                "",
                "def arguments(call):",
                *[f"    {line}" for line in self.arguments],
                f"    return [{names}]",
            ]
        )


def scope_of(source: str) -> dict[str, Any]:
    """What the source defines."""
    scope: dict[str, Any] = {}
    exec(PRELUDE + source, scope)
    return scope

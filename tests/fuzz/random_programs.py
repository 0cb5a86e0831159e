"""Random programs, line by line: see `programs` and `expressions`.

Whether a value is *exact* is known of each: made of the inputs by elementwise primitives, views and
extremes alone, in which eager and compiled code agree to the bit. Only exact values are compared
with each other, as a comparison of two sums may turn out otherwise in another order of adding.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from fuzz.expressions import (
    COMPARISONS,
    ELEMENTWISE,
    ENDINGS,
    EXTREMES,
    KINKED,
    MOVES,
    ONE_AXIS,
    OPTIMIZERS,
    PLACES,
)
from fuzz.programs import KINDS, Line, Program, scope_of

import needle as ndl
from needle.errors import NeedleError

__all__ = ["random_program"]

MOST_ELEMENTS = 20_000
DIMENSIONS = {  # lengths of axes, by how large a program's arrays are
    "small": [1, 2, 3, 4, 5],
    "odd": [1, 2, 7, 8, 16, 17, 33, 65],
    "large": [3, 16, 64, 70, 129, 130],
}

Random = np.random.RandomState


class _Writer:
    """A program being written: each line is run at once, to know its shape and dtype."""

    def __init__(self, seed: int) -> None:
        self.random = random = Random(seed)
        self.seed = seed
        self.sizes = self.any_of(["small", "small", "odd", "odd", "odd", "large"])
        self.dtype = self.any_of(["float32"] * 4 + ["float64"] * 3 + ["float16", "bfloat16"])
        self.ending = self.any_of(ENDINGS)
        if self.dtype in ("float16", "bfloat16") and self.ending == "optimizer":
            self.ending = "gradients"
        self.state: list[Line] = []
        self.arguments: list[Line] = []
        self.lines: list[Line] = []
        self.parameters: list[str] = []  # expressions for lists of them
        self.scope: dict[str, Any] = scope_of("")
        self.scope["call"] = 0
        wanted = random.randint(1, 4)
        while len(self.arguments) < wanted:
            self.add_argument()

    # -- choices ---------------------------------------------------------------------------------

    def any_of(self, items: Iterable[Any]) -> Any:
        found = list(items)
        return found[self.random.randint(len(found))]

    def shape(self) -> tuple[int, ...]:
        """A shape of up to four axes, of few enough elements."""
        while True:
            length = self.any_of([0, 1, 2, 2, 2, 3, 3, 4])
            shape = tuple(int(self.any_of(DIMENSIONS[self.sizes])) for _ in range(length))
            if self.random.randint(25) == 0 and shape:
                shape = (0, *shape[1:])
            if np.prod(shape) <= MOST_ELEMENTS:
                return shape

    def values(self) -> list[Line]:
        """What an expression may read; mostly what was made last."""
        everything = [*self.arguments, *self.lines]
        return everything[-10:] if self.random.randint(3) else everything

    def value(self, fits: Callable[[Line], bool]) -> Line | None:
        found = [line for line in self.values() if fits(line)]
        return self.any_of(found) if found else None

    # -- lines -----------------------------------------------------------------------------------

    def add_argument(self) -> None:
        name, shape = f"x{len(self.arguments)}", self.shape()
        dtype = self.any_of([self.dtype] * 6 + ["float32", "int32", "int64", "bool", "int8"])
        seed = self.random.randint(1000)
        expression = f"numbers({shape}, '{dtype}', {seed} + call)"
        if shape and self.random.randint(4) == 0:
            expression += self.any_of([".T", "[::-1]", "[..., ::2]", "[1:]", "[0]", ".T[::-2]"])
        if self.ending == "gradients" and KINDS.get(dtype) == "f":
            expression = f"leaf({expression})"
        self.run(self.arguments, name, expression, True)

    def run(self, lines: list[Line], name: str, expression: str, exact: bool) -> bool:
        """Add a line, if it runs and its value is not too large."""
        reads = [line for line in (*self.arguments, *self.lines)
                 if re.search(rf"\b{line.name}\b", expression)]  # fmt: skip
        try:
            value = eval(expression, self.scope)  # of our own making
        except (NeedleError, RuntimeWarning):
            return False  # shapes that do not fit, the mean of nothing
        shape, dtype = (), ""
        if isinstance(value, ndl.Tensor):
            shape, dtype = value.shape, str(value.dtype)
            if value.size > MOST_ELEMENTS or value.ndim > 5:
                return False
        exact = exact and all(line.exact for line in reads)
        exact = exact or (KINDS.get(dtype, "i") != "f" and all(line.exact for line in reads))
        self.scope[name] = value
        lines.append(Line(name, expression, shape, dtype, exact))
        return True

    def add(self, expression: str | None, exact: bool = True) -> None:
        if expression is not None:
            self.run(self.lines, f"v{len(self.lines)}", expression, exact)

    def state_of(self, expression: str, parameters: str = "") -> str:
        """A name for something that is made once."""
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

    @property
    def kinks(self) -> bool:
        """Whether slopes may jump at values that are not exact."""
        return self.ending in ("nothing", "state")

    # -- writers of lines ------------------------------------------------------------------------

    def elementwise(self) -> None:
        a = self.value(lambda line: True)
        if a is None:
            return
        templates = list(ELEMENTWISE[a.kind])
        if a.kind == "f" and (a.exact or self.kinks):
            templates += KINKED
        exact = a.exact and self.random.randint(4) == 0
        if a.kind == "f" and exact:
            templates = COMPARISONS
        b = self.value(
            lambda b: (
                b.kind == a.kind
                and _broadcast(a.shape, b.shape) is not None
                and (b.exact or not exact)
            )
        )
        b = b or a
        template = str(self.any_of(templates))
        if template in KINKED and not self.kinks and not b.exact:
            b = a
        self.add(template.format(a=a.name, b=b.name, dtype=self.dtype))

    def along_an_axis(self) -> None:
        a = self.value(lambda line: any(line.shape))
        if a is None:
            return
        axes = [k for k in range(-len(a.shape), len(a.shape)) if a.shape[k]]
        if not axes:
            return
        k = self.any_of(axes)
        given = {"a": a.name, "k": k, "last": a.shape[-1], "scale": round(a.shape[k] ** -0.5, 3)}
        which = self.random.randint(5)
        template = ""
        if which < 3:
            template, exact = self.any_of(ONE_AXIS[a.kind]), a.kind != "f"
        elif which == 3 and a.kind == "f" and (a.exact or self.kinks):
            template, exact = self.any_of(EXTREMES), True
            if not a.exact and "arg" in template:
                return
        elif a.kind == "f" and a.exact and self.random.randint(3) == 0:
            template, exact = self.any_of(PLACES), True
        else:
            template, exact = self.any_of([*MOVES, "ndl.cumsum({a}, {k}) * {scale}"]), True
            if ("tri" in template or "reshape" in template) and (len(a.shape) < 2):
                return
            if "tri" in template and a.kind != "f":
                return
            if "reshape" in template and 0 in a.shape:
                return
        if "{ids}" in template:
            given["ids"] = self.ids([0, -1, 0])
        self.add(template.format(**given), exact)

    def view(self) -> None:
        a = self.value(lambda line: bool(line.shape) and 0 not in line.shape)
        if a is None:
            return
        starts = [int(self.random.randint(n)) for n in a.shape]
        slices = ", ".join(
            self.any_of([":", ":", "::-1", f"{s}:", f":{s + 1}", "::2", f"{s}"]) for s in starts
        )
        widths = [(int(self.random.randint(2)), int(self.random.randint(3))) for _ in a.shape]
        divisors = [n for n in (2, 3, 5, 8) if a.shape[-1] % n == 0]
        split = f"{a.name}.reshape((*{a.name}.shape[:-1], -1, {self.any_of(divisors or [1])}))"
        self.add(
            self.any_of(
                [
                    f"{a.name}[{slices}]",
                    f"{a.name}[{slices}]",
                    f"{a.name}[..., None, {starts[-1]}]",
                    f"{a.name}[{self.ids([starts[0], 0, starts[0]])}]",
                    f"{a.name}.permute({tuple(self.random.permutation(len(a.shape)).tolist())})",
                    f"ndl.pad({a.name}, {widths})",
                    split,
                    f"{a.name}.reshape((-1,))",
                    f"{a.name}.reshape((-1, {a.shape[-1]}))",
                ]
            )
        )

    def pick(self) -> None:
        """Rows by ids, from a value or a table."""
        ids = self.value(lambda line: line.kind == "i" and line.dtype != "uint8")
        a = self.value(lambda line: bool(line.shape) and line.kind == "f" and line.shape[0] > 0)
        if ids is None or a is None:
            return
        if self.random.randint(2):
            rows = a.shape[0] - 1
            self.add(f"ndl.take({a.name}, ndl.clip({ids.name}, 0, {rows}), 0)")
        else:
            table = self.parameter((7, int(self.any_of([1, 5, 16]))), self.dtype)
            self.add(f"ndl.embedding({table}, ndl.clip({ids.name}, 0, 6))", False)

    def product(self) -> None:
        a = self.value(lambda line: line.kind == "f" and bool(line.shape) and line.size > 0)
        if a is None:
            return
        scale = round((a.shape[-1] + 1) ** -0.5, 3)
        which = self.random.randint(6)
        fits = self.value(
            lambda b: (
                b.dtype == a.dtype
                and bool(b.shape)
                and b.shape[-2:][0] == a.shape[-1]
                and _broadcast(a.shape[:-2], b.shape[:-2]) is not None
            )
        )
        if which == 0 and fits is not None:
            self.add(f"({a.name} @ {fits.name}) * {scale}", False)
        elif which == 1 and len(a.shape) > 1:
            self.add(f"ndl.einsum('...ij,...kj->...ik', {a.name}, {a.name}) * {scale}", False)
        elif which == 2:
            self.add(f"ndl.einsum('...i,...i->...', {a.name}, {a.name}) * {scale}", False)
        else:
            self.dense(a, scale)

    def dense(self, a: Line, scale: float) -> None:
        """A product with weights, and what is often done with it."""
        width = int(self.any_of([1, 3, 8, 17, 33, 64, 66]))
        w = self.parameter((a.shape[-1], width), a.dtype)
        b = self.parameter((width,), a.dtype)
        product = f"({a.name} @ {w}) * {scale}"
        tails = [
            product, f"{product} + {b}", f"ndl.tanh({product} + {b})", f"ndl.gelu({product})",
            f"ndl.softmax({product}, -1)", f"ndl.logsoftmax({product} + {b}, -1) * 0.3",
            f"ndl.silu({product}) * {b}",
        ]  # fmt: skip
        if self.kinks or a.dtype == "float64":
            tails.append(f"ndl.relu({product} + {b})")
        count = len(self.lines)
        self.add(self.any_of(tails), False)
        if self.random.randint(2) and len(self.lines) > count:
            y = self.lines[-1]
            self.add(self.any_of([f"{y.name} + {y.name}.sum(0) * 0.02", f"{y.name}.sum(0) * 0.1"]),
                     False)  # fmt: skip

    def module(self) -> None:
        """A layer with parameters."""
        if self.dtype not in ("float32", "float64"):
            return
        a = self.value(
            lambda a: a.dtype == self.dtype and len(a.shape) in (2, 3, 4) and 0 not in a.shape
        )
        if a is None:
            return
        dtype, last, n = f"dtype='{a.dtype}'", a.shape[-1], a.name
        layers = [(f"nn.LayerNorm({last}, {dtype})", "{m}({a})"), ("nn.Dropout(0.3)", "{m}({a})"),
                  (f"nn.RMSNorm({last}, {dtype})", "{m}({a})")]  # fmt: skip
        if len(a.shape) == 2 and a.shape[0] > 1:
            layers.append((f"nn.BatchNorm1d({last}, {dtype})", "{m}({a})"))
        if len(a.shape) == 3:
            kind = self.any_of(["LSTM", "GRU", "RNN"])
            layers.append((f"nn.{kind}({last}, 5, {dtype})", "{m}({a}[:3])[0]"))
            attention = "{m}(ndl.scaled_dot_product_attention({a}, {a}, {a}))"
            layers.append(("nn.Dropout(0.2)", attention))
        if len(a.shape) == 4:
            channels, size = a.shape[1], min(a.shape[2:])
            kernel = self.any_of([1, 3])
            stride = self.any_of([1, 2])
            layers.append((f"nn.Conv2d({channels}, 6, {kernel}, stride={stride}, "
                           f"padding={kernel // 2}, {dtype})", "{m}({a})"))  # fmt: skip
            layers.append((f"nn.GroupNorm(1, {channels}, {dtype})", "{m}({a})"))
            if a.size > channels:
                layers.append((f"nn.BatchNorm2d({channels}, {dtype})", "{m}({a})"))
            if size >= 2:
                layers.append(("nn.AvgPool2d(2)", "{m}({a})"))
            if size >= 2 and (self.kinks or a.exact):
                layers.append(("nn.MaxPool2d(2)", "{m}({a})"))
            if last > 1:
                causal = "ndl.scaled_dot_product_attention({a}, {a}, {a}, causal=True)"
                layers.append(("nn.Dropout(0.2)", "{m}(" + causal + ")"))
        made, call = self.any_of(layers)
        m = self.state_of(made, "" if "(0." in made or "Pool" in made else "{}.parameters()")
        self.add(call.format(m=m, a=n), False)

    def loss(self) -> None:
        a = self.value(lambda a: a.kind == "f" and len(a.shape) == 2 and 0 not in a.shape)
        if a is not None and a.dtype in ("float32", "float64"):
            ids = f"ndl.Tensor(np.arange({a.shape[0]}) % {a.shape[1]}, dtype='int64')"
            loss = self.state_of("nn.CrossEntropyLoss()")
            self.add(f"{loss}({a.name}, {self.state_of(ids)}) * 0.3", False)

    # -- the whole -------------------------------------------------------------------------------

    def program(self) -> Program:
        wanted = int(self.any_of([3, 4, 6, 6, 8, 8, 10, 12, 16, 24]))
        if self.random.randint(100) == 0:
            wanted = 250
        writers = [
            self.elementwise, self.elementwise, self.elementwise, self.along_an_axis,
            self.along_an_axis, self.view, self.product, self.product, self.module, self.pick,
            self.loss,
        ]  # fmt: skip
        for _ in range(20 * wanted):
            if len(self.lines) >= wanted:
                break
            self.any_of(writers)()
        used: set[str] = set().union(*[line.reads for line in self.lines])
        returned = [line.name for line in self.lines if line.name not in used]
        returned += [self.any_of(self.lines).name for _ in range(self.random.randint(2))]
        ending, more = self.write_ending()
        program = Program(
            self.seed, tuple(self.state), tuple(self.arguments), tuple(self.lines),
            tuple(ending), (*dict.fromkeys(returned), *more),
        )  # fmt: skip
        return program.without_unused()

    def write_ending(self) -> tuple[list[str], list[str]]:
        """Lines that end the function, and further results."""
        floats = [line for line in self.lines if line.kind == "f" and 0 not in line.shape]
        if not floats or self.ending == "nothing":
            return [], []
        if self.ending == "state":
            a = self.any_of(floats)
            made = f"{{'a': numbers({a.shape}, '{a.dtype}', 1), 'n': ndl.Tensor([0.0])}}"
            self.state.append(Line("kept", made, (), "", False))
            return ["kept['a'] = kept['a'] * 0.5 + " + a.name, "kept['n'] = kept['n'] + 1"], []
        chosen = {self.any_of(floats).name for _ in range(3)} | {floats[-1].name}
        total = " + ".join(f"({name} * {name}).mean()" for name in sorted(chosen))
        inputs = [x.name for x in self.arguments if x.kind == "f"]
        if self.ending == "optimizer" and self.parameters:
            everything = "[" + ", ".join(f"*{names}" for names in self.parameters) + "]"
            made = self.any_of(OPTIMIZERS).format(p="weights")
            self.state.append(Line("weights", everything, (), "", False))
            self.state.append(Line("opt", made, (), "", False))
            ending = [
                f"loss = {total} + sum((0 * w).sum() for w in weights)",
                "opt.reset_grad()", "loss.backward()", "opt.step()",
            ]  # fmt: skip
            return ending, ["loss"]
        if not inputs or self.ending == "optimizer":
            return [], []
        unused = f"sum((0 * x).sum() for x in [{', '.join(inputs)}])"
        used = f"total = {total} + {unused}"
        return [used, f"grads = ndl.grad(total, [{', '.join(inputs)}])"], ["total", "*grads"]


def _broadcast(first: tuple[int, ...], second: tuple[int, ...]) -> tuple[int, ...] | None:
    try:
        return np.broadcast_shapes(first, second)
    except ValueError:
        return None


def random_program(seed: int) -> Program:
    """The program of a seed."""
    return _Writer(seed).program()

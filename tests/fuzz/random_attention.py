"""Random programs that attend: products over a batch, rows changed on the way, gradients of all.

Scores of any size from any views of queries and keys; masks, weights, reductions of rows; then
products with values, or with what is summed over rows, some of it read again later. In float64.
"""

from __future__ import annotations

import random

__all__ = ["PRELUDE", "random_attention"]

PRELUDE = '''\
import numpy as np

import needle as ndl
from needle import ops
from needle.fixed import fixed


def numbers(shape, seed, grad=False):
    values = np.random.RandomState(seed).uniform(-1.5, 1.5, shape)
    return ndl.Tensor(values, dtype="float64", requires_grad=grad)


def bools(shape, seed):
    return ndl.Tensor(np.random.RandomState(seed).rand(*shape) > 0.3, dtype="bool")


def known(rows, columns, allowed):
    """A mask that the compiler knows."""
    i, j = np.ogrid[:rows, :columns]
    mask = np.broadcast_to(allowed(i, j), (rows, columns))
    return ndl.Tensor(fixed(mask), dtype="bool", requires_grad=False)
'''


def random_attention(seed: int) -> str:
    """Source: `prepare()` gives a function and its arguments."""
    return _Program(random.Random(seed)).source()


class _Program:
    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.outer: list[str] = []
        self.lines: list[str] = []
        self.inputs: list[str] = []
        self.results: list[str] = []
        pick = rng.choice
        self.items = pick([(2,), (3,), (2, 3), (1, 4), (3, 1), (2, 2, 2), (1, 1)])
        self.rows, self.columns = pick([1, 2, 7, 48, 50, 97, 130]), pick([2, 5, 33, 64, 97, 120])
        self.deep, self.wide = pick([1, 2, 8, 20]), pick([2, 3, 16, 33])
        self.rows = self.columns if rng.random() < 0.5 else self.rows

    def source(self) -> str:
        rng = self.rng
        q = self.matrix("q", self.rows, self.deep)
        k = self.matrix("k", self.columns, self.deep)
        if self.rows == self.columns and rng.random() < 0.25:
            k = q
        q, k = self.changed(q), self.changed(k)
        scores = self.add("scores", f"{q} @ {_turned(k, len(self.items))}")
        weights = [scores]
        for _ in range(rng.randint(1, 5)):
            weights.append(self.step(rng.choice(weights[-2:])))
        products = [self.product(rng.choice(weights[-2:])) for _ in range(rng.randint(1, 3))]
        products += self.mixed(weights, products)
        self.results += products + [w for w in weights if rng.random() < 0.15]
        if rng.random() < 0.3:
            axis = rng.choice([-1, -2])
            self.results.append(self.add("sums", f"{weights[-1]}.sum({axis})"))
        if rng.random() < 0.8:
            self.gradients(products)
        return self.text()

    def text(self) -> str:
        names = ", ".join(self.inputs)
        body = "\n        ".join([*self.lines, f"return {', '.join(self.results)},"])
        outer = "\n    ".join(self.outer)
        return (
            f"{PRELUDE}\n\ndef prepare():\n    {outer}\n\n"
            f"    def step({names}):\n        {body}\n\n"
            f"    return step, ({names},)\n"
        )

    def add(self, name: str, expression: str) -> str:
        name = f"{name}{len(self.lines)}"
        self.lines.append(f"{name} = {expression}")
        return name

    # -- operands ------------------------------------------------------------------------------

    def given(self, shape: tuple[int, ...]) -> str:
        """An argument."""
        name = f"x{len(self.inputs)}"
        self.inputs.append(name)
        self.outer.append(f"{name} = numbers({shape}, {len(self.inputs)}, True)")
        return name

    def matrix(self, name: str, rows: int, columns: int) -> str:
        """(items, rows, columns), lying in memory in one of many ways."""
        items, rng = self.items, self.rng
        last = len(items) + 1
        kind = rng.randrange(5)
        if kind == 0 and len(items) > 1:  # heads inside of rows
            x = self.given((*items[:-1], rows, items[-1], columns))
            return self.add(name, f"{x}.transpose(({last - 2}, {last - 1}))")
        if kind == 1:  # a slice of what is wider
            x = self.given((*items, rows, columns + 3))
            return self.add(name, f"{x}[..., 1:{columns + 1}]")
        if kind == 2:  # turned
            x = self.given((*items, columns, rows))
            return self.add(name, f"{x}.transpose(({last - 1}, {last}))")
        if kind == 3 and items[-1] > 1:  # shared by the last items
            x = self.given((*items[:-1], 1, rows, columns))
            return self.add(name, f"{x}.broadcast_to({(*items, rows, columns)})")
        return self.given((*items, rows, columns))

    def bias(self) -> str:
        """Something to add to scores, or to take them times."""
        rows, columns, rng = self.rows, self.columns, self.rng
        shapes = [(columns,), (rows, 1), (rows, columns), (*self.items, rows, columns)]
        x = self.given(
            rng.choice([*shapes, (self.items[0], *[1] * len(self.items[1:]), 1, columns)])
        )
        shape = (*self.items, rows, columns)
        return f"ops.broadcast_to({x}, {shape})"

    def changed(self, x: str) -> str:
        """As it is, or with something cheap done to each element."""
        if self.rng.random() < 0.5:
            return x
        kinds = [f"{x} * 0.3", f"ops.tanh({x})", f"-{x} / 2.0", f"ops.relu({x})", f"{x} + 0.5"]
        return self.add("e", self.rng.choice(kinds))

    # -- on the way ----------------------------------------------------------------------------

    def step(self, x: str) -> str:
        """Rows made of rows."""
        rng, shape = self.rng, (*self.items, self.rows, self.columns)
        plain = [
            f"{x} * 0.7",
            f"ops.tanh({x})",
            f"ops.exp({x} * 0.2)",
            f"ops.relu({x})",
            f"{x} + {x} * {x} * 0.1",
            f"ops.softmax({x}, axis=-1)",
            f"{x} - ops.broadcast_to({x}.max(-1, keepdims=True), {shape})",
            f"{x} - ops.broadcast_to({x}.sum(-1, keepdims=True), {shape}) / {self.columns}.0",
        ]
        kind = rng.random()
        if kind < 0.4:
            return self.add("y", rng.choice(plain))
        if kind < 0.6:
            return self.add("y", f"{x} {rng.choice('+*-')} {self.bias()}")
        return self.add("y", self.masked(x))

    def masked(self, x: str) -> str:
        rng = self.rng
        past = rng.choice([0, 0, 3, -2, 40])
        allowed = rng.choice(
            [f"j <= i + {past}", "abs(i - j) < 20", f"j >= i - {abs(past)}", "j < 40"]
        )
        masks = [f"known({self.rows}, {self.columns}, lambda i, j: {allowed})"]
        if rng.random() < 0.3:
            name = f"m{len(self.outer)}"
            shape = rng.choice([(self.rows, self.columns), (*self.items, 1, self.columns)])
            self.outer.append(f"{name} = bools({shape}, {len(self.outer)})")
            masks = rng.choice([[name], [name, *masks], [*masks, name]])
        return f"ops.masked_softmax({x}, {', '.join(masks)})"

    # -- products ------------------------------------------------------------------------------

    def product(self, x: str) -> str:
        """Weights times values, or turned weights times rows."""
        if self.rng.random() < 0.7:
            v = self.changed(self.matrix("v", self.columns, self.wide))
            return self.add("z", f"{x} @ {v}")
        v = self.changed(self.matrix("v", self.rows, self.wide))
        return self.add("z", f"{_turned(x, len(self.items))} @ {v}")

    def mixed(self, weights: list[str], products: list[str]) -> list[str]:
        """What reads all of something that a chain makes, not only its own rows."""
        rng, items = self.rng, len(self.items)
        x, z = rng.choice(weights), rng.choice(products)
        kinds = [f"{z} + ops.tanh({z})"]
        if self.rows == self.columns:
            v = self.matrix("v", self.rows, self.wide)
            kinds += [
                f"{x} @ ({x} @ {v})",
                f"({x} + {_turned(x, items)}) @ {v}",
                f"{x} @ {v} + {_turned(x, items)} @ {v}",
                f"({x} @ {_turned(x, items)}) @ {v}",
                f"({x} * {_turned(x, items)}).sum(-1)",
            ]
        return [self.add("w", rng.choice(kinds)) for _ in range(rng.randint(0, 2))]

    def gradients(self, products: list[str]) -> None:
        """A loss, most often one whose gradient needs all of the products first."""
        terms = [
            f"(ops.tanh({z} * {z}.sum()) * {z}).sum()" if self.rng.random() < 0.6 else f"{z}.sum()"
            for z in products
        ]
        loss = self.add("loss", " + ".join(terms))
        names = ", ".join(self.inputs)
        self.lines += [f"for x in ({names},):", "    x.grad = None", f"{loss}.backward()"]
        self.results.append(f"*[x.grad for x in ({names},) if x.grad is not None]")


def _turned(x: str, items: int) -> str:
    return f"{x}.transpose(({items}, {items + 1}))"

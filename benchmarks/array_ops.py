"""Elementwise operations and reductions on NDArrays, against PyTorch on the same data.

    python benchmarks/array_ops.py [--rounds 11] [--threads N] [--only WORD] [--json FILE]

Sizes of 1e3, 1e5 and 1e7 elements; contiguous, transposed and broadcast operands.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from interleaved import compare, parser_for, write_json

import needle as ndl
import needle.backend_ndarray as nd

SHAPES = [(10, 100), (100, 1000), (2500, 4000)]
Case = tuple[str, Callable[[], object], Callable[[], object]]


def cases(rows: int, columns: int) -> Iterator[Case]:
    """Label, ours, PyTorch's."""
    rng = np.random.default_rng(0)
    wide = [rng.random((rows, columns), np.float32) + 0.1 for _ in range(2)]
    tall = rng.random((columns, rows), np.float32)
    line = rng.random(columns, np.float32)
    x, y, t, v = [nd.array(a, device=nd.cpu()) for a in (*wide, tall, line)]
    X, Y, T, V = [torch.tensor(a) for a in (*wide, tall, line)]
    tt, TT = t.permute((1, 0)), T.t()
    column, COLUMN = x[:, :1], X[:, :1]
    yield "x + y", lambda: x + y, lambda: X + Y
    yield "x * 2", lambda: x * 2.0, lambda: X * 2.0
    yield "x + row", lambda: x + v, lambda: X + V
    yield "x + column", lambda: x + column, lambda: X + COLUMN
    yield "x + t.T", lambda: x + tt, lambda: X + TT
    yield "t.T + t.T", lambda: tt + tt, lambda: TT + TT
    yield "t.T to rows", tt.compact, TT.contiguous
    yield "x / y", lambda: x / y, lambda: X / Y
    yield "maximum(x, y)", lambda: nd.maximum(x, y), lambda: torch.maximum(X, Y)
    yield "x > y", lambda: x > y, lambda: X > Y
    unary: dict[str, tuple[Any, Any]] = {
        name: (getattr(nd, name), getattr(torch, name))
        for name in ("sqrt", "exp", "log", "tanh", "sigmoid", "erf")
    }
    for name, (ours, theirs) in unary.items():
        yield f"{name}(x)", lambda f=ours: f(x), lambda f=theirs: f(X)
    yield "x ** y", lambda: nd.power(x, y), lambda: torch.pow(X, Y)
    yield "sum", x.sum, X.sum
    yield "sum, axis 0", lambda: x.sum(0), lambda: X.sum(0)
    yield "sum, axis 1", lambda: x.sum(1), lambda: X.sum(1)
    yield "sum of t.T, axis 0", lambda: tt.sum(0), lambda: TT.sum(0)
    yield "max", x.max, X.max
    yield "max, axis 0", lambda: x.max(0), lambda: X.amax(0)
    yield "max, axis 1", lambda: x.max(1), lambda: X.amax(1)
    yield "argmax, axis 1", lambda: x.argmax(1), lambda: X.argmax(1)


def main() -> None:
    """Print one line per case and size."""
    parser = parser_for(__doc__, rounds=11)
    parser.add_argument("--threads", type=int, default=ndl.get_num_threads())
    parser.add_argument("--only", default="", help="cases whose label contains this")
    options = parser.parse_args()
    ndl.set_num_threads(options.threads)
    torch.set_num_threads(options.threads)
    results: dict[str, Any] = {}
    for shape in SHAPES:
        for label, ours, theirs in cases(*shape):
            if options.only not in label:
                continue
            np.testing.assert_allclose(
                np.asarray(ours()), theirs().numpy(), rtol=1e-4, atol=1e-6, err_msg=label
            )
            name = f"{label}, {shape[0]}x{shape[1]}"
            found = compare({"needle": ours, "torch": theirs}, options.rounds)
            results[name] = found.as_dict()
            print(found.line(name), "" if found.ratios["torch"][1] <= 1 else "  slower")
    slower = [name for name, r in results.items() if r["ratios"]["torch"][1] > 1]
    print(
        f"{len(results) - len(slower)} of {len(results)} no slower than PyTorch; slower: {slower}"
    )
    write_json(options.json, results)


if __name__ == "__main__":
    main()

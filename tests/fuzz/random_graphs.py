"""Random graphs as Python source: what a failing test prints is what it ran.

Every expression keeps its values within a few units, so 60 of them in a chain stay finite.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np

import needle as ndl
from needle.errors import NeedleError

MAX_SIZE = 64  # elements of one value

Random = np.random.RandomState
# writes one expression over values, given as {name: shape}; None where it fits none of them
Writer = Callable[[Random, dict[str, tuple[int, ...]]], "str | None"]

ONE_VALUE = [
    "ndl.sin({a})",
    "ndl.cos({a} * 1.5)",
    "ndl.tanh({a})",
    "ndl.sigmoid({a} * 2)",
    "ndl.relu({a})",
    "ndl.abs({a})",
    "ndl.gelu({a})",
    "ndl.silu({a})",
    "ndl.erf({a})",
    "ndl.softplus({a} - 1)",
    "ndl.exp(-{a} * {a})",
    "ndl.sqrt({a} * {a} + 0.5)",
    "ndl.log({a} ** 2 + 1.5)",
    "1 / ({a} * {a} + 1)",
    "(1 - {a}) * 0.5",
    "({a} / 3) ** 3",
    "ndl.clip({a}, -0.7, 0.9)",
    "ndl.where({a} > 0.1, {a} * 0.5, -{a})",
    "2 ** ({a} * 0.5)",
    "{a}.T",
    "{a}.flatten()",
    "ndl.squeeze({a})",
    "{a}.sum() * 0.1",
    "{a}.mean()",
]

TWO_VALUES = [
    "({a} + {b}) * 0.7",
    "({a} - {b}) * 0.7",
    "ndl.tanh({a} * {b})",
    "{a} / ({b} * {b} + 1)",
    "ndl.maximum({a}, {b})",
    "ndl.minimum({a}, {b})",
    "ndl.where({a} > {b}, {b}, {a} * 0.5)",
    "ndl.power({a} * {a} + 0.5, {b} * 0.3)",
]

ONE_AXIS = [
    "{a}.sum({k}) * 0.3",
    "{a}.mean({k}, keepdims=True)",
    "{a}.var({k})",
    "{a}.max({k})",
    "{a}.min({k}, keepdims=True)",
    "{a}.logsumexp({k}) * 0.5",
    "ndl.softmax({a}, {k})",
    "ndl.logsoftmax({a}, {k}) * 0.3",
    "{a}.cumsum({k}) * 0.4",
    "{a}.flip({k})",
    "{a}.expand_dims({k})",
    "ndl.split({a}, {k})[0]",
    "ndl.split({a}, {k})[-1]",
    "ndl.take({a}, [0, -1, 0], {k})",
    "ndl.concatenate([{a}, {a} * 0.5], {k})",
    "ndl.stack([{a}, -{a}], {k})",
    "ndl.take_along({a}, ndl.argmax({a}, {k}).expand_dims({k}), {k})",
]


def _any_of(rng: Random, items: Any) -> Any:
    return items[rng.randint(len(items))]


def _one_value(rng: Random, values: dict[str, tuple[int, ...]]) -> str:
    return str(_any_of(rng, ONE_VALUE)).format(a=_any_of(rng, list(values)))


def _two_values(rng: Random, values: dict[str, tuple[int, ...]]) -> str | None:
    a = _any_of(rng, list(values))
    fits = [b for b in values if _broadcast(values[a], values[b]) is not None]
    return str(_any_of(rng, TWO_VALUES)).format(a=a, b=_any_of(rng, fits))


def _broadcast(first: tuple[int, ...], second: tuple[int, ...]) -> tuple[int, ...] | None:
    try:
        return np.broadcast_shapes(first, second)
    except ValueError:
        return None


def _one_axis(rng: Random, values: dict[str, tuple[int, ...]]) -> str | None:
    a = _any_of(rng, list(values))
    shape = values[a]
    axes = [k for k in range(-len(shape), len(shape)) if shape[k]]
    return str(_any_of(rng, ONE_AXIS)).format(a=a, k=_any_of(rng, axes)) if axes else None


def _view(rng: Random, values: dict[str, tuple[int, ...]]) -> str | None:
    a = _any_of(rng, list(values))
    shape = values[a]
    if not shape or 0 in shape:
        return f"{a}.broadcast_to({(2, *shape)})"
    starts = [rng.randint(n) for n in shape]
    slices = ", ".join(_any_of(rng, [":", "::-1", f"{s}:", f":{s + 1}", "::2", f"{s}"])
                       for s in starts)  # fmt: skip
    return str(_any_of(rng, [
        f"{a}[{slices}]",
        f"{a}[..., None, {starts[-1]}]",
        f"{a}[[{starts[0]}, 0, {starts[0]}]]",
        f"{a}.permute({tuple(rng.permutation(len(shape)).tolist())})",
        f"{a}.reshape((-1, {shape[-1]}))",
        f"{a}.broadcast_to({(2, *shape)})",
        f"ndl.pad({a}, {[(int(rng.randint(2)), 1) for _ in shape]})",
        f"ndl.tril({a}, {rng.randint(-1, 2)})" if len(shape) > 1 else f"{a}[::-2]",
    ]))  # fmt: skip


def _product(rng: Random, values: dict[str, tuple[int, ...]]) -> str | None:
    a = _any_of(rng, [name for name, shape in values.items() if shape] or [None])
    if a is None:
        return None
    fits = [b for b, shape in values.items() if shape and shape[-2:][0] == values[a][-1]]
    fits = [b for b in fits if _broadcast(values[a][:-2], values[b][:-2]) is not None]
    if fits and rng.randint(2):
        return f"({a} @ {_any_of(rng, fits)}) * 0.3"
    return f"ndl.einsum('...i,...i->...', {a}, {a}) * 0.2"


WRITERS: list[Writer] = [_one_value, _two_values, _two_values, _one_axis, _view, _view, _product]


def random_graph(seed: int) -> tuple[str, list[np.ndarray]]:
    """The source of `graph(x0, ...)`, of 10 to 60 ops, and arrays for its inputs."""
    rng = np.random.RandomState(seed)
    shapes = [tuple(rng.randint(1, 5, rng.randint(4)).tolist()) for _ in range(rng.randint(1, 4))]
    if rng.randint(8) == 0:
        shapes.append((0, 3))
    inputs = [np.asarray(rng.uniform(-1.5, 1.5, shape)) for shape in shapes]
    names = [f"x{i}" for i in range(len(inputs))]
    scope: dict[str, Any] = {"ndl": ndl}
    scope.update(
        (name, ndl.Tensor(x, dtype=x.dtype)) for name, x in zip(names, inputs, strict=True)
    )
    values = dict(zip(names, shapes, strict=True))
    lines, unused = list[str](), list(names)
    wanted = rng.randint(10, 61)
    while len(lines) < wanted:
        near = list(values.items())[-12:] if rng.randint(3) else list(values.items())
        expression = _any_of(rng, WRITERS)(rng, dict(near))
        if expression is None:
            continue
        operands = [name for name in re.findall(r"\w+", expression) if name in values]
        try:
            value = eval(expression, scope)  # of our own making
        except (NeedleError, RuntimeWarning):
            if any(0 in values[name] for name in operands):
                continue  # the mean of nothing, and the like
            raise
        if value.size > MAX_SIZE or value.ndim > 5 or not np.all(np.isfinite(value.numpy())):
            continue
        name = f"v{len(lines)}"
        lines.append(f"    {name} = {expression}")
        scope[name], values[name] = value, value.shape
        unused = [n for n in unused if n not in operands] + [name]
    source = [f"def graph({', '.join(names)}):", *lines, f"    return [{', '.join(unused)}]"]
    return "\n".join(source), inputs


def compiled(source: str) -> Callable[..., Any]:
    """The function that the source defines."""
    scope: dict[str, Any] = {"ndl": ndl}
    exec(source, scope)
    graph: Callable[..., Any] = scope["graph"]
    return graph


def reproducer(seed: int, source: str, inputs: list[np.ndarray]) -> str:
    """A script that runs the graph of that seed, on its own."""
    arrays = ", ".join(f"np.array({x.tolist()!r}).reshape({x.shape})" for x in inputs)
    return (
        f"seed {seed}; to run it again:\n\n"
        "import needle as ndl\nimport numpy as np\nfrom needle.testing import check_grads\n\n"
        f"{source}\n\n"
        f"inputs = [{arrays}]\n"
        "with ndl.lazy():\n"
        "    lazy = graph(*[ndl.Tensor(x, dtype=x.dtype) for x in inputs])\n"
        "eager = graph(*[ndl.Tensor(x, dtype=x.dtype) for x in inputs])\n"
        "for a, b in zip(eager, lazy):\n"
        "    np.testing.assert_allclose(b.numpy(), a.numpy(), 1e-9, 1e-9)\n"
        "check_grads(graph, *inputs, order=1)\n"
    )

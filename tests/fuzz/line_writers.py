"""What writes lines of random programs: each takes values that fit, if there are any."""

from __future__ import annotations

from fuzz.expressions import (
    COMPARISONS,
    ELEMENTWISE,
    EXTREMES,
    KINKED,
    MOVES,
    ONE_AXIS,
    PLACES,
)
from fuzz.programs import Line
from fuzz.writer import Writer, broadcast

__all__ = [
    "along_an_axis",
    "elementwise",
    "kinked",
    "loss",
    "move",
    "pick",
    "product",
    "twice",
    "view",
]


def elementwise(w: Writer) -> None:
    a = w.value(lambda line: True)
    if a is not None:
        _pair(w, a, ELEMENTWISE[a.kind], False)


def kinked(w: Writer) -> None:
    """What jumps, or has a slope that does."""
    a = w.value(lambda line: line.kind == "f" and (line.exact or w.kinks))
    if a is None:
        return
    if a.exact and w.one_in(2):
        _pair(w, a, COMPARISONS, True)
    else:
        _pair(w, a, KINKED, not w.kinks)


def _pair(w: Writer, a: Line, templates: list[str], exact: bool) -> None:
    """A line of a value and another one that fits, which is exact if it has to be."""
    b = w.value(
        lambda b: (
            b.kind == a.kind and broadcast(a.shape, b.shape) is not None and (b.exact or not exact)
        )
    )
    w.add(w.any_of(templates).format(a=a.name, b=(b or a).name, dtype=w.dtype))


def along_an_axis(w: Writer) -> None:
    """A reduction, an extreme or its place."""
    a = w.value(lambda line: any(line.shape))
    if a is None:
        return
    template, exact = w.any_of(ONE_AXIS[a.kind]), a.kind != "f"
    if a.kind == "f" and a.exact and w.one_in(4):
        template, exact = w.any_of(PLACES), True
    elif a.kind == "f" and (a.exact or w.kinks) and w.one_in(2):
        template, exact = w.any_of(EXTREMES), True
        if not a.exact and "arg" in template:
            return
    w.add(_along(w, a, template), exact)


def move(w: Writer) -> None:
    """The elements otherwise arranged, and running sums."""
    a = w.value(lambda line: any(line.shape))
    if a is None:
        return
    template = w.any_of([*MOVES, "ndl.cumsum({a}, {k}) * {scale}"])
    if len(a.shape) < 2 and ("tri" in template or "reshape" in template):
        return
    if ("tri" in template and a.kind != "f") or ("reshape" in template and 0 in a.shape):
        return
    w.add(_along(w, a, template), "cumsum" not in template or a.kind != "f")


def _along(w: Writer, a: Line, template: str) -> str:
    """The expression along some axis."""
    k = w.any_of([k for k in range(-len(a.shape), len(a.shape)) if a.shape[k]])
    given = {"a": a.name, "k": k, "p": k % len(a.shape), "last": a.shape[-1],
             "scale": round(a.shape[k] ** -0.5, 3)}  # fmt: skip
    if "{ids}" in template:
        given["ids"] = w.ids([0, -1, 0])
    return template.format(**given)


def view(w: Writer) -> None:
    a = w.value(lambda line: bool(line.shape) and 0 not in line.shape)
    if a is None:
        return
    starts = [int(w.random.randint(n)) for n in a.shape]
    slices = ", ".join(
        w.any_of([":", ":", "::-1", f"{s}:", f":{s + 1}", "::2", f"{s}"]) for s in starts
    )
    widths = [(int(w.random.randint(2)), int(w.random.randint(3))) for _ in a.shape]
    divisors = [n for n in (2, 3, 5, 8) if a.shape[-1] % n == 0]
    split = f"{a.name}.reshape((*{a.name}.shape[:-1], -1, {w.any_of(divisors or [1])}))"
    w.add(
        w.any_of(
            [
                f"{a.name}[{slices}]",
                f"{a.name}[{slices}]",
                f"{a.name}[..., None, {starts[-1]}]",
                f"{a.name}[{w.ids([starts[0], 0, starts[0]])}]",
                f"{a.name}.permute({tuple(w.random.permutation(len(a.shape)).tolist())})",
                f"ndl.pad({a.name}, {widths})",
                f"ndl.pad({a.name}, {widths}, mode='replicate')",
                split,
                f"{a.name}.reshape((-1,))",
                f"{a.name}.reshape((-1, {a.shape[-1]}))",
            ]
        )
    )


def pick(w: Writer) -> None:
    """Rows by ids, from a value or a table."""
    ids = w.value(lambda line: line.kind == "i" and line.dtype != "uint8")
    a = w.value(lambda line: bool(line.shape) and line.kind == "f" and line.shape[0] > 0)
    if ids is None or a is None:
        return
    if w.random.randint(2):
        rows = a.shape[0] - 1
        w.add(f"ndl.take({a.name}, ndl.clip({ids.name}, 0, {rows}), 0)")
    else:
        table = w.parameter((7, int(w.any_of([1, 5, 16]))), w.dtype)
        w.add(f"ndl.embedding({table}, ndl.clip({ids.name}, 0, 6))", False)


def product(w: Writer) -> None:
    a = w.value(lambda line: line.kind == "f" and bool(line.shape) and line.size > 0)
    if a is None:
        return
    scale = round((a.shape[-1] + 1) ** -0.5, 3)
    which = w.random.randint(6)
    fits = w.value(
        lambda b: (
            b.dtype == a.dtype
            and bool(b.shape)
            and b.shape[-2:][0] == a.shape[-1]
            and broadcast(a.shape[:-2], b.shape[:-2]) is not None
        )
    )
    if which == 0 and fits is not None:
        w.add(f"({a.name} @ {fits.name}) * {scale}", False)
    elif which == 1 and len(a.shape) > 1:
        w.add(f"ndl.einsum('...ij,...kj->...ik', {a.name}, {a.name}) * {scale}", False)
    elif which == 2:
        w.add(f"ndl.einsum('...i,...i->...', {a.name}, {a.name}) * {scale}", False)
    else:
        _dense(w, a, scale)


def _dense(w: Writer, a: Line, scale: float) -> None:
    """A product with weights, and what is often done with it."""
    width = int(w.any_of([1, 3, 8, 17, 33, 64, 66, a.shape[-1]]))
    weight = w.parameter((a.shape[-1], width), a.dtype)
    b = w.parameter((width,), a.dtype)
    dot = f"({a.name} @ {weight}) * {scale}"
    tails = [
        dot, f"{dot} + {b}", f"ndl.tanh({dot} + {b})", f"ndl.gelu({dot})",
        f"ndl.softmax({dot}, -1)", f"ndl.logsoftmax({dot} + {b}, -1) * 0.3",
        f"ndl.silu({dot}) * {b}",
    ]  # fmt: skip
    if w.kinks or a.dtype == "float64":
        tails += [f"ndl.relu({dot} + {b})", f"ndl.prelu({dot}, {b})"]
    y = w.add(w.any_of(tails), False)
    if y is not None and w.random.randint(2):
        w.add(w.any_of([f"{y.name} + {y.name}.sum(0) * 0.02", f"{y.name}.sum(0) * 0.1"]), False)


def loss(w: Writer) -> None:
    a = w.value(lambda a: a.kind == "f" and len(a.shape) == 2 and 0 not in a.shape)
    if a is None or a.dtype not in ("float32", "float64"):
        return
    if w.one_in(3):
        w.add(f"nn.MSELoss()({a.name}, {a.name} * 0.5)", False)
        return
    ids = f"ndl.Tensor(np.arange({a.shape[0]}) % {a.shape[1]}, dtype='int64')"
    made = w.state_of(
        w.any_of(["nn.CrossEntropyLoss()", "nn.CrossEntropyLoss(label_smoothing=0.1)"])
    )
    w.add(f"{made}({a.name}, {w.state_of(ids)}) * 0.3", False)


def twice(w: Writer) -> None:
    """The same, written once more: what both compute should be computed once."""
    line = w.any_of(w.lines[-10:] or [None])
    if line is None or not line.dtype:
        return
    again = w.add(line.expression, line.exact)
    if again is not None and line.kind == "f":
        w.add(
            w.any_of([f"({line.name} + {again.name}) * 0.5", f"{again.name} * 0.5 - {line.name}"])
        )

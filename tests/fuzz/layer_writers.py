"""What writes lines of random programs with layers in them: norms, pictures, steps, attention."""

from __future__ import annotations

import numpy as np
from fuzz.programs import Line
from fuzz.writer import Writer

__all__ = ["attention", "module", "picture", "recurrence"]


def module(w: Writer) -> None:
    """A layer with parameters."""
    a = w.value(lambda a: a.dtype == w.dtype and len(a.shape) in (2, 3, 4) and 0 not in a.shape)
    if a is None or w.dtype not in ("float32", "float64"):
        return
    dtype, last, n = f"dtype='{a.dtype}'", a.shape[-1], a.name
    layers = [(f"nn.LayerNorm({last}, {dtype})", "{m}({a})"), ("nn.Dropout(0.3)", "{m}({a})"),
              (f"nn.RMSNorm({last}, {dtype})", "{m}({a})")]  # fmt: skip
    if len(a.shape) == 2 and a.shape[0] > 1:
        layers.append((f"nn.BatchNorm1d({last}, {dtype})", "{m}({a})"))
        layers.append((f"nn.BatchNorm1d({last}, {dtype}).eval()", "{m}({a})"))
    if len(a.shape) == 4:
        channels = a.shape[1]
        kernel, stride = w.any_of([1, 3]), w.any_of([1, 2])
        layers.append((f"nn.Conv2d({channels}, 6, {kernel}, stride={stride}, "
                       f"padding={kernel // 2}, {dtype})", "{m}({a})"))  # fmt: skip
        layers.append((f"nn.GroupNorm(1, {channels}, {dtype})", "{m}({a})"))
        if a.size > channels:
            layers.append((f"nn.BatchNorm2d({channels}, {dtype})", "{m}({a})"))
        if min(a.shape[2:]) >= 2 and (w.kinks or a.exact):
            layers.append(("nn.MaxPool2d(2)", "{m}({a})"))
    made, call = w.any_of(layers)
    has_none = "(0." in made or "Pool" in made
    m = w.state_of(made, "" if has_none else "{}.parameters()")
    w.add(call.format(m=m, a=n), False)


def recurrence(w: Writer) -> None:
    """A recurrent layer over the first steps, or a cell."""
    a = w.value(lambda a: a.dtype == w.dtype and len(a.shape) in (2, 3) and 0 not in a.shape)
    if a is None or w.dtype not in ("float32", "float64"):
        return
    kind, width = w.any_of(["LSTM", "GRU", "RNN"]), w.any_of([1, 5, 8])
    if len(a.shape) == 2:
        made = f"nn.{kind}Cell({a.shape[-1]}, {width}, dtype='{a.dtype}')"
        call = f"({a.name}){'[0]' if kind == 'LSTM' else ''}"
    else:
        layers = w.any_of([1, 1, 2])
        made = f"nn.{kind}({a.shape[-1]}, {width}, {layers}, dtype='{a.dtype}')"
        call = f"({a.name}[:{w.any_of([1, 3, 4])}])[0]"
    w.add(w.state_of(made, "{}.parameters()") + call, False)


def attention(w: Writer) -> None:
    """Heads of a value that look at another one's, or at its own."""
    a = w.value(lambda a: a.kind == "f" and len(a.shape) in (2, 3) and 0 not in a.shape)
    if a is None:
        return
    others = w.value(lambda b: b.dtype == a.dtype and b.shape[:-2] == a.shape[:-2]
                     and len(b.shape) > 1 and 0 not in b.shape)  # fmt: skip
    b = w.any_of([a, others or a])
    heads, size = int(w.any_of([1, 2, 3])), int(w.any_of([1, 4, 8, 16]))
    parts = [_heads(w, x, heads, size) for x in (a, b, b)]
    if None in parts:
        return
    options = w.any_of(["", "", ", causal=True", ", scale=0.5", "mask"])
    if options == "mask":
        options = f", mask={_mask(w, a.shape[-2], b.shape[-2])}"
    names = ", ".join(part.name for part in parts if part)
    y = w.add(f"ndl.scaled_dot_product_attention({names}{options})", False)
    if y is not None and len(a.shape) == 3:
        w.add(f"{y.name}.permute((0, 2, 1, 3)).reshape({(*a.shape[:-1], heads * size)})")


def _heads(w: Writer, x: Line, heads: int, size: int) -> Line | None:
    """(*batch, n, d) -> (*batch, heads, n, size), or as it is."""
    if len(x.shape) == 2:
        weight = w.parameter((x.shape[-1], size), x.dtype)
        return w.add(f"({x.name} @ {weight}) * {round(x.shape[-1] ** -0.5, 3)}", False)
    weight = w.parameter((x.shape[-1], heads * size), x.dtype)
    scale = round(x.shape[-1] ** -0.5, 3)
    batch, n = x.shape[:2]
    split = f".reshape({(batch, n, heads, size)}).permute((0, 2, 1, 3))"
    return w.add(f"(({x.name} @ {weight}) * {scale}){split}", False)


def _mask(w: Writer, n: int, m: int) -> str:
    """Of which each row allows something, or a row of nothing but the first."""
    allowed = f"np.arange({m}) <= np.arange({n})[:, None] * {w.any_of([0, 1, 2])}"
    return w.state_of(f"ndl.Tensor({allowed}, dtype='bool')")


def picture(w: Writer) -> None:
    """Windows over a picture (N, *spatial, C)."""
    a = w.value(lambda a: a.kind == "f" and bool(a.shape) and a.size > 1)
    if a is None:
        return
    x: Line | None = a
    if len(a.shape) < 3:
        x = w.add(f"{a.name}.reshape({(1, *a.shape, 1)})")
    if x is None or len(x.shape) > 4:
        return
    spatial, channels = len(x.shape) - 2, x.shape[-1]
    if w.one_in(2):
        _convolution(w, x, spatial, channels)
        return
    kernel, stride = w.any_of([1, 2, 2, 3]), w.any_of([1, 2, 3])
    size, mode = [5] * spatial, "bilinear" if spatial == 2 else "linear"
    extremes = [
        f"ndl.max_pool({x.name}, {kernel}, {stride}, {kernel // 2})",
        f"ndl.max_pool({x.name}, 2)", f"ndl.adaptive_max_pool({x.name}, 2)",
    ]  # fmt: skip
    sums = [
        f"ndl.avg_pool({x.name}, {kernel}, {stride}, {kernel // 2})",
        f"ndl.avg_pool({x.name}, 2)", f"ndl.adaptive_avg_pool({x.name}, 3)",
        f"ndl.interpolate({x.name}, scale_factor=2)",
        f"ndl.interpolate({x.name}, size={size}, mode='{mode}')",
        f"ndl.pixel_unshuffle({x.name}, 2)", f"ndl.pixel_shuffle({x.name}, 2)",
    ]  # fmt: skip
    allowed = x.exact or w.kinks
    expression = w.any_of(extremes if allowed and w.one_in(2) else sums)
    w.add(expression, "max" in expression)


def _convolution(w: Writer, x: Line, spatial: int, channels: int) -> None:
    kernel = tuple(int(w.any_of([1, 2, 3])) for _ in range(spatial))
    groups = int(w.any_of([n for n in (1, 1, 2, channels) if channels % n == 0]))
    width = groups * int(w.any_of([1, 2, 5]))
    options = f"stride={w.any_of([1, 1, 2])}, groups={groups}, dilation={w.any_of([1, 1, 2])}"
    scale = round((channels // groups * np.prod(kernel)) ** -0.5, 3)
    if w.one_in(3):
        weight = w.parameter((*kernel, width // groups, channels), x.dtype)
        call = f"ndl.conv_transpose({x.name}, {weight}, padding={w.any_of([0, 1])}, {options})"
    else:
        weight = w.parameter((*kernel, channels // groups, width), x.dtype)
        call = f"ndl.conv({x.name}, {weight}, padding={w.any_of([0, 1])}, {options})"
    w.add(f"{call} * {scale}", False)

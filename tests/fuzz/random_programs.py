"""Random programs of hundreds of ops: lines, parts of them repeated, and how they end."""

from __future__ import annotations

from fuzz.expressions import OPTIMIZERS
from fuzz.layer_writers import attention, module, picture, recurrence
from fuzz.line_writers import (
    along_an_axis,
    elementwise,
    kinked,
    loss,
    move,
    pick,
    product,
    twice,
    view,
)
from fuzz.programs import Line, Program
from fuzz.repetition import repeat
from fuzz.writer import Writer

__all__ = ["random_program"]

# how often each is asked; not all find what they need
WRITERS = {
    elementwise: 4, kinked: 2, along_an_axis: 2, move: 2, view: 1, product: 2, module: 2,
    picture: 2, recurrence: 1, attention: 1, pick: 1, loss: 1, twice: 1,
}  # fmt: skip


def random_program(seed: int) -> Program:
    """The program of a seed."""
    w = Writer(seed)
    wanted = int(w.any_of([20, 28, 36, 44, 52]))
    fresh = int(w.any_of([6, 8, 10, 12, 16]))
    if w.one_in(200):
        wanted = fresh = 150
    writers = [writer for writer, times in WRITERS.items() for _ in range(times)]
    for _ in range(20 * fresh):
        if len(w.lines) >= fresh:
            break
        w.any_of(writers)(w)
    for _ in range(wanted):
        if len(w.lines) >= wanted:
            break
        if w.one_in(4):
            w.any_of(writers)(w)
        else:
            repeat(w, wanted)
    used: set[str] = set().union(*[line.reads for line in w.lines])
    returned = [line.name for line in w.lines if line.name not in used]
    returned += [w.any_of(w.lines).name for _ in range(w.random.randint(2))]
    ending, more = _ending(w)
    program = Program(
        seed, tuple(w.state), tuple(w.arguments), tuple(w.lines),
        tuple(ending), (*dict.fromkeys(returned), *more),
    )  # fmt: skip
    return program.without_unused()


def _ending(w: Writer) -> tuple[list[str], list[str]]:
    """Lines that end the function, and further results."""
    floats = [line for line in w.lines if line.kind == "f" and 0 not in line.shape]
    if not floats:
        return [], []
    kept = _keep(w, floats) if w.carries else []
    read: set[str] = set().union(*[line.reads for line in w.lines])
    ends = [line for line in floats if line.name not in read]
    chosen = {line.name for line in ends if not w.one_in(3)} | {w.any_of(floats).name}
    total = " + ".join(f"({name} * {name}).mean()" for name in sorted(chosen))
    inputs = [x.name for x in w.arguments if x.kind == "f"]
    if w.ending == "optimizer" and w.parameters:
        return [*kept, *_step(w, total)], ["loss"]
    if w.ending == "gradients" and inputs:
        unused = f"sum((0 * x).sum() for x in [{', '.join(inputs)}])"
        used = f"total = {total} + {unused}"
        grads = f"grads = ndl.grad(total, [{', '.join(inputs)}])"
        return [*kept, used, grads], ["total", "*grads"]
    return kept, []


def _keep(w: Writer, floats: list[Line]) -> list[str]:
    """What the next call reads in place of what this one read."""
    held = next(line for line in w.lines if line.expression == "kept['a']")
    alike = [x.name for x in floats if (x.shape, x.dtype) == (held.shape, held.dtype)]
    value = f"{w.any_of(alike)}" if alike else f"kept['a'] * 0.5 + {floats[-1].name}.mean()"
    detach = w.any_of(["", ".detach()"]) if w.kinks else ".detach()"
    lines = [
        w.any_of([f"kept['a'] = ({value}){detach}", f"kept['a'] = (kept['b'] + {value}){detach}"]),
        w.any_of([f"kept['b'] = {held.name}.detach()", f"kept['b'] = ({value}){detach}"]),
        "kept['n'] = kept['n'] + 1",
    ]
    return w.any_of([lines, lines[:1], lines[2:]])


def _step(w: Writer, total: str) -> list[str]:
    """An update of all parameters."""
    everything = "[" + ", ".join(f"*{names}" for names in w.parameters) + "]"
    w.state.append(Line("weights", everything, (), "", False))
    w.state.append(Line("opt", w.any_of(OPTIMIZERS).format(p="weights"), (), "", False))
    lines = [
        f"loss = {total} + sum((0 * w).sum() for w in weights)",
        "opt.reset_grad()", "loss.backward()", "opt.step()",
    ]  # fmt: skip
    if w.one_in(3):
        lines.insert(3, "optim.clip_grad_norm(weights, 0.5)")
    if w.one_in(3):
        made = w.any_of(["optim.ExponentialLR(opt, 0.5)", "optim.LinearWarmup(opt, 3)"])
        w.state.append(Line("schedule", made, (), "", False))
        lines.append("schedule.step()")
    if w.one_in(3):
        w.state.append(Line("average", "optim.EMA(weights, 0.5)", (), "", False))
        lines.append("average.update()")
    return lines

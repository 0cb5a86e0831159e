"""Random programs run in several ways, and how far their results may be apart.

Eager is the reference. Both it and what is held against it are compared with the same program in
float64 throughout: with e(x) the largest error over a result, and s its largest value or 1,

    e(compiled) <= 8 e(eager) + 64 eps s

and to the bit where a value is exact (see `random_programs`). A program in float64 is compared with
eager itself, within 1e-9 s. Where a bound is broken, the program is run again on numbers that are
changed by a few eps, and e(eager) counts the errors of those runs too: a result may depend on
rounding more than on anything else.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import numpy as np
import pytest
from fuzz.programs import PRELUDE, Program, scope_of
from fuzz.quick_code import unoptimized
from fuzz.random_programs import random_program
from fuzz.shrinking import shrink
from program.guarded import guarded

import needle as ndl
from needle.compiler.kernels import fused
from needle.jit import jit
from needle.program import loops, rematerialize

__all__ = ["check", "error_of", "failure_of", "reproducer", "run", "threads"]

EPS = {"float16": 2.0**-10, "bfloat16": 2.0**-7, "float32": 2.0**-23, "float64": 2.0**-52}
CALLS = 2
Arrays = list[np.ndarray[Any, Any]]


def run(source: str, way: Any, noise: float = 0.0, calls: int = CALLS) -> list[Arrays]:
    """The results of each call, and the state afterwards; `way` makes the function to call."""
    scope = scope_of(source)
    scope["NOISE"] = noise
    np.random.seed(0)
    step, state = scope["prepare"]()
    function = way(step)
    found = []
    for call in range(calls):
        results = function(*scope["arguments"](call))
        found.append([result.numpy() for result in results])
        found.append([np.array(x) for x in _arrays(state)])
    return found


def _arrays(state: Any) -> Iterator[Any]:
    """All Tensors and arrays in it, in their order."""
    if isinstance(state, ndl.Tensor):
        yield state.numpy()
    elif isinstance(state, np.ndarray):
        yield state
    elif isinstance(state, dict):
        yield from _arrays(list(state.values()))
    elif isinstance(state, (list, tuple)):
        for x in state:
            yield from _arrays(x)
    elif hasattr(state, "state_dict"):
        yield from _arrays(state.state_dict())


def _eager(function: Callable[..., Any]) -> Callable[..., Any]:
    return function


def _lazily(function: Callable[..., Any]) -> Callable[..., Any]:
    def run(*arguments: Any) -> Any:
        with ndl.lazy():
            return function(*arguments)

    return run


@contextmanager
def threads(count: int) -> Iterator[None]:
    """So many in the block."""
    before = ndl.get_num_threads()
    ndl.set_num_threads(count)
    try:
        yield
    finally:
        ndl.set_num_threads(before)


@contextmanager
def _as_if_large() -> Iterator[None]:
    """Programs of small arrays are compiled as those of large ones that memory is short for."""

    def is_worth_it(self: Any, other: Any, node: Any, early: Any, late: Any) -> bool:
        return bool(early and late)

    with pytest.MonkeyPatch.context() as changed:
        changed.setattr(rematerialize, "_LARGE", 1)
        changed.setattr(fused, "_STREAMED", 1)
        changed.setattr(loops, "_LONG_ROW", 1)
        changed.setattr(rematerialize._Rematerialization, "_is_worth_it", is_worth_it)
        yield


def check(program: Program) -> None:
    """Raise AssertionError unless the program agrees with itself in all ways.

    Eager; compiled, on two threads; in lazy mode, on one thread and on memory with guards. Every
    third one is compiled for one thread and guards too, where the bits must be the same.
    """
    source = program.source()
    with np.errstate(all="ignore"), _as_if_large():
        bounds = _Bounds(program, source, run(source, _eager))
        with threads(2):
            compiled = run(source, jit)
        bounds.require(compiled, "jit")
        with threads(1), guarded():
            bounds.require(run(source, _lazily), "lazy")
            if program.seed % 3 == 0:
                _require_same_bits(compiled, run(source, jit), "jit on one thread")


def _require_same_bits(a: list[Arrays], b: list[Arrays], name: str) -> None:
    for i, (xs, ys) in enumerate(zip(a, b, strict=True)):
        for j, (x, y) in enumerate(zip(xs, ys, strict=True)):
            if x.tobytes() != y.tobytes():
                raise AssertionError(f"{name}: {_place(i, j)}: other bits than before")


def _place(i: int, j: int) -> str:
    return f"call {i // 2}, {'result' if i % 2 == 0 else 'state'} {j}"


class _Bounds:
    """How far the results of a program may be from those of eager."""

    def __init__(self, program: Program, source: str, eager: list[Arrays]) -> None:
        self.program, self.source, self.eager = program, source, eager
        self._wide: list[Arrays] | None = None
        self._disturbed: list[list[Arrays]] = []

    @property
    def wide(self) -> list[Arrays]:
        if self._wide is None:
            wide = re.sub(r"\b(float32|float16|bfloat16)\b", "float64", self.source)
            self._wide = self.eager if wide == self.source else run(wide, _eager)
        return self._wide

    def require(self, found: list[Arrays], name: str) -> None:
        for i, (xs, ys) in enumerate(zip(found, self.eager, strict=True)):
            assert len(xs) == len(ys)
            for j, (x, y) in enumerate(zip(xs, ys, strict=True)):
                problem = self._compare(x, y, i, j)
                if problem:
                    raise AssertionError(f"{name}: {_place(i, j)}: {problem}")

    def _compare(self, x: Any, y: Any, i: int, j: int) -> str:
        """What is wrong about a result x where eager gives y; nothing if it is right."""
        if (x.dtype, x.shape) != (y.dtype, y.shape):
            return f"{x.dtype}{x.shape} where eager gives {y.dtype}{y.shape}"
        if x.tobytes() == y.tobytes():
            return ""
        is_result = i % 2 == 0
        eps = EPS.get(str(x.dtype))
        if eps is None or (is_result and i == 0 and self._is_exact(j)):
            same = (x == y) | ((x != x) & (y != y))
            return "" if np.all(same) else f"not the same bits{_first(x, y, ~same)}"
        return self._is_close(x, y, i, j, eps)

    def _is_exact(self, j: int) -> bool:
        names = [name for name in self.program.returned if not name.startswith("*")]
        return j < len(names) and names[j] in self.program.exact

    def _is_close(self, x: Any, y: Any, i: int, j: int, eps: float) -> str:
        x, y = x.astype(np.float64), y.astype(np.float64)
        finite = np.isfinite(x)
        if not np.array_equal(finite, np.isfinite(y)) or not _same(x[~finite], y[~finite]):
            return f"NaN or infinity at other places{_first(x, y, finite != np.isfinite(y))}"
        best = self.wide[i][j].astype(np.float64)
        finite &= np.isfinite(best)
        if not finite.any():
            return ""
        size = max(1.0, float(np.abs(best[finite]).max()))
        error = float(np.abs(x - best)[finite].max())
        usual = float(np.abs(y - best)[finite].max())
        allowed = 8 * usual + (64 * eps if self.wide is not self.eager else 1e-9) * size
        if error <= allowed:
            return ""
        for disturbed in self._all_disturbed():
            other = np.abs(disturbed[i][j].astype(np.float64) - best)[finite]
            allowed = max(allowed, 8 * float(np.nanmax(other, initial=0.0)))
        if error <= allowed:
            return ""
        far = (np.abs(x - best) > allowed) & finite
        found = f"{error:.3g} from float64, eager {usual:.3g}, allowed {allowed:.3g}"
        return found + _first(x, y, far)

    def _all_disturbed(self) -> list[list[Arrays]]:
        if not self._disturbed:
            noise = 4 * (2.0**-52 if self.wide is self.eager else EPS[_narrowest(self.source)])
            self._disturbed = [run(self.source, _eager, noise * n) for n in (-2, -1, 1, 2)]
        return self._disturbed


def _narrowest(source: str) -> str:
    return next(dtype for dtype in ("bfloat16", "float16", "float32") if f"{dtype}'" in source)


def _same(a: Any, b: Any) -> bool:
    return np.array_equal(a, b, equal_nan=True)


def _first(x: Any, y: Any, wrong: Any) -> str:
    if not np.any(wrong):
        return ""
    at = tuple(int(k) for k in np.argwhere(wrong)[0])
    return f"; {np.sum(wrong)} of {x.size}, first at {at}: {x[at]} where eager gives {y[at]}"


def error_of(program: Program) -> Exception | None:
    """What `check` raises; of every eighth seed the kernels are optimised as they are for users."""
    try:
        with nullcontext() if program.seed % 8 == 0 else unoptimized():
            check(program)
    except Exception as error:  # whatever a compiler may raise
        return error
    return None


def failure_of(seed: int) -> str:
    """What is wrong with the program of a seed, and a script that shows it; "" if all is right.

    The program is made shorter first, as long as it fails in the same way.
    """
    program = random_program(seed)
    error = error_of(program)
    if error is None:
        return ""
    short = shrink(program, lambda candidate: type(error_of(candidate)) is type(error))
    last = error_of(short)
    return f"{last!r}\nseed {seed}; to run it again:\n\n{reproducer(short)}"


def reproducer(program: Program) -> str:
    """A script that shows what fails, on its own: by how much each way is apart from eager."""
    return f"""\
{PRELUDE}

{program.source()}


def results_of(way):
    np.random.seed(0)
    step, state = prepare()
    step, found = way(step), []
    for call in range({CALLS}):
        found += [x.numpy().astype("float64") for x in step(*arguments(call))]
    return found + [x.numpy().astype("float64") for x in state if isinstance(x, ndl.Tensor)]


np.seterr(all="ignore")
eager = results_of(lambda step: step)
for way in (ndl.jit, lambda step: lambda *x: ndl.lazy()(step)(*x)):
    for threads in (2, 1):
        ndl.set_num_threads(threads)
        found = results_of(way)
        print([abs(x - y).max(initial=0) for x, y in zip(found, eager)])
"""

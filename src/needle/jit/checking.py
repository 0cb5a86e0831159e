"""`jit(check=True)`: each call beside the function as it is written, and what differs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from needle.autograd import Tensor
from needle.errors import describe
from needle.jit.reach import Reach
from needle.jit.snapshot import Snapshot
from needle.jit.trees import flatten, leaves_of
from needle.jit.watch import JitError

__all__ = ["check_against_eager"]

_TOLERANCE = 1e-3


def check_against_eager(
    jitted: Any, variant: Any, found: Any, tensors: Sequence[Any], args: Any, kwargs: Any
) -> Any:
    """What the compiled function returns, after the same call of the function as it is written.

    Both begin with the same state. Raises JitError naming what differs; then all is as before.
    Raises what the function raises; then all is as that has left it.
    """
    tolerance = _TOLERANCE if jitted.check is True else float(jitted.check)
    state = _State(jitted.function, args, kwargs)
    expected = _contents(jitted.function(*args, **kwargs), "result")
    expected.update(state.contents())
    state.restore()
    try:
        done, result = variant.run(found, tensors)
        if not done:
            raise JitError(
                "jit(check): expected values that the ops can take, as the function as it is "
                "written found them, but the compiled one refuses some."
            )
        given = _contents(result, "result")
        given.update(state.contents())
        _compare(expected, given, tolerance)
    except BaseException:
        state.restore()
        raise
    return result


class _State:
    """All that a function can change, with the random numbers that come next."""

    def __init__(self, function: Any, args: Any, kwargs: Any) -> None:
        given = leaves_of((args, kwargs))
        self._roots = [("", function), *[(f"argument {i}", x) for i, x in enumerate(given)]]
        self._arguments = [leaf for leaf in given if isinstance(leaf, Tensor)]
        reach = Reach(*self._roots)
        self._snapshot = Snapshot(reach, reach.gradients)
        held = {id(tensor): tensor for _, tensor in reach.tensors}
        held.update({id(tensor): tensor for tensor in self._arguments})
        self._tensors = [(t, t.cached_data, vars(t).get("grad")) for t in held.values()]
        self._random = np.random.get_state()

    def restore(self) -> None:
        """Put everything back."""
        self._snapshot.restore()
        for tensor, data, grad in self._tensors:
            tensor.cached_data, tensor._leaf = data, None
            if vars(tensor).get("grad") is not grad:
                tensor.grad = grad
        np.random.set_state(self._random)

    def contents(self) -> dict[str, Any]:
        """Arrays and numbers by their names, as they are now."""
        reach = Reach(*self._roots)
        random: Any = np.random.get_state()
        found: dict[str, Any] = {"numpy.random": random[1:3]}
        for place, tensor in reach.tensors:
            found[place.name] = tensor.numpy()
        for place in reach.gradients:
            gradient = place.get()
            if isinstance(gradient, Tensor):
                found[place.name] = gradient.numpy()
        for place, value in reach.values:
            if type(value) in (int, float, bool, str):
                found[place.name] = value
        for number, tensor in enumerate(self._arguments):
            if tensor.grad is not None:
                found[f"argument {number}.grad"] = tensor.grad.numpy()
        return {name.lstrip("."): value for name, value in found.items()}


def _contents(result: Any, name: str) -> dict[str, Any]:
    found: list[Any] = []
    flatten(result, found)
    return {
        name if len(found) == 1 else f"{name} {number}": value.numpy()
        for number, value in enumerate(found)
    }


def _compare(expected: dict[str, Any], given: dict[str, Any], tolerance: float) -> None:
    faults = [
        f"{name} {said}"
        for name in dict.fromkeys([*expected, *given])
        if (said := _difference(expected.get(name), given.get(name), tolerance))
    ]
    if faults:
        shown = "; ".join(faults[:5]) + (f"; and {len(faults) - 5} more" if faults[5:] else "")
        raise JitError(
            f"jit(check): expected what the function as it is written gives, within {tolerance:g} "
            f"of each array's size, got a difference in {shown}."
        )


def _difference(expected: Any, given: Any, tolerance: float) -> str:
    """In what two values differ; nothing if they do not."""
    if not isinstance(expected, np.ndarray) or not isinstance(given, np.ndarray):
        return "" if _equal(expected, given) else f"({expected!r} and {given!r})"
    if expected.shape != given.shape or expected.dtype != given.dtype:
        return f"({describe(expected)} and {describe(given)})"
    if expected.dtype.kind in "biu":
        return "" if np.array_equal(expected, given) else f"({describe(expected)})"
    a, b = expected.astype(np.float64), given.astype(np.float64)
    finite = np.isfinite(a)
    if not np.array_equal(a[~finite], b[~finite], equal_nan=True):
        return f"({describe(expected)}: other elements are NaN or Inf)"
    size = max(1e-6, np.abs(a[finite]).max(initial=0))
    off = np.abs(a[finite] - b[finite]).max(initial=0)
    return "" if off <= tolerance * size else f"({describe(expected)}: {off:.3g} of {size:.3g})"


def _equal(a: Any, b: Any) -> bool:
    if isinstance(a, tuple) and isinstance(b, tuple):
        return all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))
    return type(a) is type(b) and bool(a == b or (a != a and b != b))

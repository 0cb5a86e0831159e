"""Lazy values become data: `realize`, and what is computed along with what is asked for."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from importlib import import_module
from itertools import count
from typing import Any
from weakref import WeakValueDictionary

from needle.autograd import anomaly
from needle.autograd import value as values
from needle.autograd.modes import modes
from needle.autograd.value import Value
from needle.backend_selection import BACKEND
from needle.errors import DTypeError, describe

__all__ = ["expect", "one_by_one", "realize", "realize_all", "settle"]


def realize(*tensors: Any) -> Any:
    """Compute Tensors that wait in lazy mode, all of them in one go; those, or the one, come back.

    In nd mode what they have in common is computed once, and the whole becomes one native program,
    compiled when it is first met and found again after that. Tensors that have their data already
    stay as they are. Raises what their ops raise on the data they get.

    >>> import needle as ndl
    >>> with ndl.lazy():
    ...     x = ndl.Tensor([1.0, 2.0])
    ...     y = ndl.exp(x) * 0 + x
    ...     z = y * y
    >>> ndl.realize(y, z)
    (needle.Tensor([1. 2.]), needle.Tensor([1. 4.]))
    """
    for tensor in tensors:
        if not isinstance(tensor, Value):
            raise DTypeError(f"realize: expected Tensors, got {describe(tensor)}.")
    realize_all(tensors)
    return tensors[0] if len(tensors) == 1 else tensors


def realize_all(asked: Sequence[Value]) -> None:
    """Give every value its data, and those that are expected to be asked for next."""
    waiting = [value for value in asked if value.cached_data is None]
    if not waiting:
        return
    if BACKEND == "nd" and not modes.anomaly:
        together = import_module("needle.realization").realize_together
        together(waiting, _expected.values.valuerefs())
    else:
        one_by_one(waiting)


def expect(value: Any) -> None:
    """Have a value that waits computed with the next that it shares work with, if it lives then.

    So is what becomes state, which nobody may ask for over many steps, and the loss, which is asked
    for after the step that its gradients are computed for.
    """
    if value.cached_data is None:
        _expected.values[next(_numbers)] = value


class _Expected(threading.local):
    def __init__(self) -> None:
        self.values: WeakValueDictionary[int, Value] = WeakValueDictionary()


_expected, _numbers = _Expected(), count()


def settle(value: Value, data: Any) -> None:
    """Give a value the data it waited for."""
    value.cached_data = data
    if value._layout is not None:
        value._layout = None
    if modes.anomaly and value.op is not None:
        anomaly.watch(value, value.op, value._edges)
    if not value.requires_grad:  # as in eager mode: a constant forgets how it was made
        value.op, value._edges = None, ()


def one_by_one(asked: Sequence[Value]) -> None:
    """Compute what values wait for op by op, inputs before users, without recursion."""
    stack: list[Value] = list(reversed(asked))
    while stack:
        value = stack[-1]
        if value.cached_data is not None:
            stack.pop()
            continue
        if value.op is None:
            raise DTypeError("realize: expected a value with data or an op, got one with neither.")
        waiting = [edge for edge in value._edges if edge.cached_data is None]
        if waiting:
            stack.extend(reversed(waiting))  # type: ignore[arg-type]
            continue
        arrays = [edge.cached_data for edge in value._edges]
        settle(value, values._compute(type(value), value.op, arrays))
        stack.pop()

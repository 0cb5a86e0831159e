"""Plans: what runs for a primitive on given layouts, decided once and found again by identity."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

from needle.backend_ndarray.device import Run
from needle.backend_ndarray.layout import Layout

__all__ = ["Plan", "Plans", "checked"]

_MOST_PLANS = 4096
_NAMED = 1 << 24  # bytes from which on an error says what asked for them
_LARGE = 1 << 28  # bytes from which on it is asked whether they are there


class Plan:
    """What to run, and how the result is laid out."""

    __slots__ = ("layout", "run")

    def __init__(self, layout: Layout, run: Run) -> None:
        self.layout, self.run = layout, run


class Plans(dict[Any, Plan]):
    """Plans by the identity of layouts; emptied when there are very many."""

    def keep(self, key: Any, plan: Plan) -> Plan:
        """Remember a plan, and hand it back."""
        if len(self) >= _MOST_PLANS:
            self.clear()
        self[key] = plan
        return plan

    def find(self, key: Any, make: Callable[[], Plan]) -> Plan:
        """The plan with that key, made now if there is none."""
        plan = self.get(key)
        return plan if plan is not None else self.keep(key, make())


def checked(name: str, run: Run, out: Layout) -> Run:
    """`run`; if the result is very large, only after a look at what memory there is.

    The system promises memory that it does not have and ends the process that uses it.
    """
    if out.nbytes < _NAMED or not out.device.has_memory:
        return run

    def run_if_it_fits(*arguments: Any) -> Any:
        require_memory(name, out.nbytes)
        try:
            return run(*arguments)
        except MemoryError:
            raise no_memory(name, out.nbytes) from None

    return run_if_it_fits


def no_memory(name: str, nbytes: int) -> MemoryError:
    """The error for memory that the system does not give."""
    return MemoryError(f"{name}: expected memory for a result of {nbytes:,} bytes, got none.")


def require_memory(name: str, nbytes: int) -> None:
    """Raise MemoryError, naming op and bytes, unless so many bytes are there."""
    if nbytes < _LARGE:
        return
    from needle.runtime.available import available_bytes

    available = available_bytes()
    if available is not None and nbytes > available:
        available += _given_back()
    if available is not None and nbytes > available:
        raise MemoryError(
            f"{name}: expected a result within the {available:,} bytes of memory there are, "
            f"got one of {nbytes:,} bytes."
        )


def _given_back() -> int:
    """Bytes that the native runtime, where it is in use, kept for re-use and now hands back."""
    if "needle.runtime.call" not in sys.modules:
        return 0
    from needle.runtime.call import runtime_function

    return runtime_function("trim")()  # type: ignore[no-any-return]

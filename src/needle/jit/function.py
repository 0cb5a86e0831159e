"""`jit`: a function of Tensors, compiled as a whole when it is first called."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from threading import RLock
from time import perf_counter
from typing import TYPE_CHECKING, Any, TypeVar, overload

from needle.autograd.modes import modes
from needle.backend_selection import BACKEND
from needle.jit.tracing import JitError
from needle.jit.trees import flatten, static_key
from needle.jit.variant import Variant

if TYPE_CHECKING:
    from needle.inspection.explanation import Explanation, Summary

__all__ = ["Jitted", "disable_jit", "jit"]

F = TypeVar("F", bound=Callable[..., Any])
_MOST_VARIANTS = 16  # for arguments of one kind


class Jitted:
    """A function that runs as one native program: see `jit`.

    compile_seconds  what tracing and compiling have taken, all signatures together
    """

    def __init__(self, function: Callable[..., Any], check: bool) -> None:
        functools.update_wrapper(self, function)
        self.function, self.check = function, check
        self.compile_seconds = 0.0
        self._variants: dict[Any, list[Variant]] = {}
        self._latest: Variant | None = None
        self._lock = RLock()

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if BACKEND != "nd" or not modes.jits or modes.tracer is not None:
            return self.function(*args, **kwargs)
        tensors: list[Any] = []
        tree = flatten((args, kwargs), tensors)
        with self._lock:
            kinds = tuple([_kind(tensor) for tensor in tensors])
            key = (static_key(tree), kinds, _repeats(tensors))
            known = self._variants.setdefault(key, [])
            for variant in known:
                leaves = variant.fitting(tensors)
                if leaves is not None:
                    return self._run(variant, tensors, leaves, args, kwargs)
            begun = perf_counter()
            variant = Variant(self.function, tree, tensors)
            self.compile_seconds += perf_counter() - begun
            if len(known) >= _MOST_VARIANTS:
                known.pop(0)
            known.append(variant)
            leaves = variant.fitting(tensors)
            assert leaves is not None, "what was just traced fits"
            return self._run(variant, tensors, leaves, args, kwargs)

    def _run(self, variant: Variant, tensors: Any, leaves: Any, args: Any, kwargs: Any) -> Any:
        self._latest = variant
        done, result = variant.run(tensors, leaves)
        return result if done else self.function(*args, **kwargs)

    @property
    def compiled(self) -> list[Summary]:
        """Of each compiled form, in numbers: kernels, operations, bytes, allocations, ..."""
        from needle.jit.explaining import summarize

        return [summarize(variant) for known in self._variants.values() for variant in known]

    def explain(self, html: str | Path | None = None) -> Explanation:
        """What was built for the call that was last: `print` it for a table of its kernels.

        html  where to write a page with the graph, the memory plan and each kernel's code

        The program is run a few times on copies of the state, which stays as it is. Raises
        JitError before the first call, and where nothing is compiled: in np mode, in disable_jit().
        """
        from needle.jit.explaining import explain

        if self._latest is None:
            name = getattr(self.function, "__name__", "function")
            raise JitError(
                f"explain: expected a function that has been called, got {name}, of which nothing "
                "is compiled yet. Call it once, with nd mode's arrays and without disable_jit()."
            )
        with self._lock:
            count = sum(map(len, self._variants.values()))
            name = getattr(self.function, "__name__", "function")
            explanation = explain(name, self._latest, count)
        if html is not None:
            explanation.save(html)
        return explanation

    def __get__(self, instance: Any, owner: Any = None) -> Any:
        """As a method: bound to its object."""
        return self if instance is None else functools.partial(self, instance)


def _repeats(tensors: list[Any]) -> tuple[int, ...]:
    """Which arguments are one Tensor; nothing if no two are."""
    names = [id(tensor) for tensor in tensors]
    return () if len(set(names)) == len(names) else tuple([names.index(name) for name in names])


def _kind(tensor: Any) -> Any:
    data = tensor.cached_data
    if data is None:
        data = tensor.realize_cached_data()
    return data._layout, tensor.requires_grad


@overload
def jit(function: F, *, check: bool = False) -> F: ...
@overload
def jit(function: None = None, *, check: bool = False) -> Callable[[F], F]: ...


def jit(function: Any = None, *, check: bool = False) -> Any:
    """Compile a function of Tensors, most often a whole training step, to one native program."""
    if function is None:
        return functools.partial(jit, check=check)
    return Jitted(function, check)


def disable_jit() -> Any:
    """Inside the block jitted functions run as they are written."""
    from needle.autograd.modes import _switched

    return _switched("jits", False)

"""`jit`: a function of Tensors, compiled as a whole when it is first called."""

from __future__ import annotations

import functools
from collections.abc import Callable
from threading import RLock
from time import perf_counter
from typing import Any, TypeVar, overload

from needle.autograd.modes import modes
from needle.backend_selection import BACKEND
from needle.jit.trees import flatten, static_key
from needle.jit.variant import Variant

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
        done, result = variant.run(tensors, leaves)
        return result if done else self.function(*args, **kwargs)

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

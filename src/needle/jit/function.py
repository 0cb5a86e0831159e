"""`jit`: a function of Tensors, compiled as a whole when it is first called."""

from __future__ import annotations

import functools
import os
import weakref
from collections import OrderedDict
from collections.abc import Callable
from threading import RLock
from time import perf_counter
from typing import TYPE_CHECKING, Any, TypeVar, overload

import numpy as np

from needle.autograd import Tensor
from needle.autograd.modes import _switched, modes
from needle.backend_selection import BACKEND, cpu
from needle.jit.trees import flatten, map_leaves, static_key
from needle.jit.watch import JitError
from needle.origins import current
from needle.runtime.threads import chosen_num_threads

if TYPE_CHECKING:
    from pathlib import Path

    from needle.inspection.explanation import Explanation, Summary
    from needle.jit.variant import Found, Variant
    from needle.jit.varying import Varying

__all__ = ["Jitted", "disable_jit", "jit"]

F = TypeVar("F", bound=Callable[..., Any])
_MOST_VARIANTS = 16  # for arguments of one kind
_MOST_KINDS = 64  # of arguments

_lock = RLock()  # one function is traced, or runs, at a time: a trace changes what others read


def _renew_lock() -> None:
    """In the child of a fork no other thread holds it."""
    global _lock
    _lock = RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_lock)


class Jitted:
    """A function that runs as one native program: see `jit`.

    compile_seconds  what tracing and compiling have taken, all signatures together, and loading
                     the compiler
    """

    def __init__(self, function: Callable[..., Any], check: bool | float) -> None:
        functools.update_wrapper(self, function, updated=())
        self.function, self.check = function, check
        self.name = getattr(function, "__name__", "function")
        self.compile_seconds = 0.0
        self._variants: OrderedDict[Any, list[Variant]] = OrderedDict()
        self._varying: Varying | None = None
        self._latest: Variant | None = None
        self._given: list[weakref.ref[Any]] = []  # Tensors of that call
        self._bound: dict[int, tuple[Any, Jitted]] = {}

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if BACKEND != "nd" or not modes.jits or modes.tracer is not None or modes.anomaly:
            return self.function(*args, **kwargs)
        done, result = False, None
        with _lock, current.span("call", self.name):
            key, tensors = _key(args, kwargs)
            fitting = self._fitting(key, tensors) or self._new(key, args, kwargs, tensors)
            if fitting is None:
                return self.function(*args, **kwargs)
            variant, found = fitting
            self._latest, self._given = variant, [weakref.ref(tensor) for tensor in tensors]
            if self.check:
                from needle.jit.checking import check_against_eager

                return check_against_eager(self, variant, found, tensors, args, kwargs)
            done, result = variant.run(found, tensors)
        # what it refuses, the function as it is written puts into words
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
            raise JitError(
                f"explain: expected a function that has been called, got {self.name}, of which "
                "nothing is compiled yet. Call it once, in nd mode and without disable_jit()."
            )
        with _lock:
            count = sum(map(len, self._variants.values()))
            given = [tensor() for tensor in self._given]
            explanation = explain(self.name, self._latest, count, given)
        if html is not None:
            explanation.save(html)
        return explanation

    def _fitting(self, key: Any, tensors: list[Any]) -> tuple[Variant, Found] | None:
        known = self._variants.get(key)
        if known is None:
            return None
        for variant in reversed(known):
            found = variant.fits(tensors)
            if found is not None:
                if variant is not known[-1]:
                    known.remove(variant)
                    known.append(variant)
                return variant, found
        return None

    def _new(
        self, key: Any, args: Any, kwargs: Any, tensors: list[Any]
    ) -> tuple[Variant, Found] | None:
        """Trace and compile for arguments of a new kind, or as what else counts has changed.

        None where there are arguments on other devices, for which there are no programs.
        """
        if any(tensor.device != cpu() for tensor in tensors):
            return None
        begun = perf_counter()
        from needle.jit.variant import Variant  # which loads the compiler
        from needle.jit.varying import Varying
        from needle.program.collection import no_collection

        found_again: list[Any] = []
        tree = flatten((args, kwargs), found_again)
        map_leaves(tree, _require_no_array)
        known = self._variants.setdefault(key, [])
        self._varying = self._varying or Varying()
        for mark in set().union(*[other.changed_numbers() for other in known]):
            self._varying.add(mark)
        with no_collection():
            variant = Variant(self.function, tree, tensors, self._varying)
        self.compile_seconds += perf_counter() - begun
        known.append(variant)
        del known[:-_MOST_VARIANTS]
        self._variants.move_to_end(key)
        while len(self._variants) > _MOST_KINDS:
            self._variants.popitem(last=False)
        found = variant.fits(tensors)
        if found is None:
            known.remove(variant)
            raise JitError(
                "jit: expected a function that leaves what it depends on as it is while it is "
                f"traced, but something that {self!r} reads has changed meanwhile. Is another "
                "thread at work on it?"
            )
        return variant, found

    # -- as a function, and as a method --------------------------------------------------------

    def __get__(self, instance: Any, owner: Any = None) -> Any:
        """As a method: bound to its object, which has compiled forms of its own."""
        return self if instance is None else _Bound(instance, self._of(instance))

    def _of(self, instance: Any) -> Jitted:
        found = self._bound.get(id(instance))
        if found is not None:
            return found[1]
        bound, forget = self._bound, id(instance)
        try:
            alive: Any = weakref.ref(instance, lambda _: bound.pop(forget, None))
        except TypeError:  # it cannot be held weakly
            jitted = Jitted(functools.partial(self.function, instance), self.check)
            self._bound[forget] = (instance, jitted)
            return jitted
        jitted = Jitted(_Method(self.function, alive), self.check)
        self._bound[forget] = (alive, jitted)
        return jitted

    def __getattr__(self, name: str) -> Any:
        if name == "function" or name.startswith("__"):
            raise AttributeError(name)
        return getattr(self.function, name)

    def __repr__(self) -> str:
        return f"jit({getattr(self.function, '__qualname__', repr(self.function))})"

    def __reached__(self) -> list[Any]:
        """What a function that calls this one depends on."""
        return [self.function]

    def __reduce__(self) -> Any:
        return Jitted, (self.function, self.check)


class _Method:
    """A method of an object that is not kept alive by it."""

    def __init__(self, function: Callable[..., Any], instance: Any) -> None:
        functools.update_wrapper(self, function, updated=())
        self.function, self.instance = function, instance

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.function(self.instance(), *args, **kwargs)

    def __reached__(self) -> list[Any]:
        return [self.function, self.instance()]


class _Bound:
    """A jitted method with its object."""

    def __init__(self, instance: Any, jitted: Jitted) -> None:
        self.__self__, self.jitted = instance, jitted

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.jitted(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        if name in ("jitted", "__self__"):
            raise AttributeError(name)
        return getattr(self.jitted, name)

    def __repr__(self) -> str:
        return f"{self.jitted!r} of {self.__self__!r}"

    def __reached__(self) -> list[Any]:
        return [self.jitted.function, self.__self__]


def _key(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, list[Any]]:
    """What the compiled form depends on: the kinds of arguments, modes, threads; and the Tensors.

    How many threads a program is run by is laid down when it is made.
    """
    tensors = list(args)
    statics: Any = None
    if kwargs or not all(type(x) is Tensor for x in args):
        tensors = []
        statics = static_key(flatten((args, kwargs), tensors))
    key = [statics, modes.grad_enabled, modes.recomputing, chosen_num_threads()]
    for x in tensors:
        data = x.cached_data
        if data is None:
            data = x.realize_cached_data()
        if type(data) is tuple:
            raise JitError("jit: expected Tensors as arguments, got a TensorTuple. Use tuple().")
        key += (data._layout, x.requires_grad, x.op is None)
    if len(tensors) > 1 and len(set(tensors)) < len(tensors):  # one Tensor stands there twice
        key.append(tuple([tensors.index(x) for x in tensors]))
    return tuple(key), tensors


def _require_no_array(leaf: Any) -> Any:
    if isinstance(leaf, np.ndarray):
        raise JitError(
            "jit: expected Tensors and Python values as arguments, got an array of NumPy, "
            f"{leaf.dtype}{list(leaf.shape)}, whose elements may change unseen. Pass ndl.Tensor "
            "of it."
        )
    return leaf


@overload
def jit(function: F, *, check: bool | float = False) -> F: ...
@overload
def jit(function: None = None, *, check: bool | float = False) -> Callable[[F], F]: ...


def jit(function: Any = None, *, check: bool | float = False) -> Any:
    """Compile a function of Tensors, most often a whole training step, to one native program.

    check  run the function as it is written beside it at each call, and raise JitError where
           results or state differ by more than 1e-3 of their size, or the number given here

    The function runs once without data for each kind of arguments: shapes, dtypes, and Python
    values. What it does with Tensors becomes the program, which the next calls run: forward,
    backward and the optimiser's update together. They read parameters and other Tensors afresh,
    and change what the function changes: parameters, gradients, running statistics, numbers of
    optimisers and schedules, counters. Learning rates may change without compiling again; random
    draws of `ndl.init` and dropout are fresh each time, and those that the function would draw.
    Where Python values that it depends on have changed (a module's `training`), it is compiled
    again, and both forms are kept. Results never share memory with anything.

    What a program could not do again it refuses, with a `JitError` that names the line: values
    looked at (`item()`, `if x > 0:`), Tensors made of arrays of NumPy, random numbers drawn from
    NumPy, lists that grow, something written. Tensors made of Python's numbers are constants, and
    so are lists of these as indices.

    A result can be differentiated outside, once; not where the function has called `backward`
    itself. In np mode, and on other devices than `cpu()`, the function runs as it is written.

    >>> import needle as ndl
    >>> model = ndl.nn.Linear(3, 1)
    >>> opt = ndl.optim.SGD(model.parameters(), lr=0.1)
    >>> @ndl.jit
    ... def step(x, y):
    ...     opt.reset_grad()
    ...     loss = ((model(x) - y) ** 2).mean()
    ...     loss.backward()
    ...     opt.step()
    ...     return loss
    >>> x, y = ndl.init.randn(8, 3), ndl.init.randn(8, 1)
    >>> losses = [step(x, y).item() for _ in range(10)]
    >>> losses[-1] < losses[0]
    True
    """
    if function is None:
        return functools.partial(jit, check=check)
    if not callable(function):
        raise TypeError(f"jit: expected a function, got {function!r}.")
    return Jitted(function, check)


def disable_jit() -> Any:
    """Inside the block jitted functions run as they are written, line by line: for debugging.

    >>> import needle as ndl
    >>> @ndl.jit
    ... def double(x):
    ...     return x * 2
    >>> with ndl.disable_jit():
    ...     double(ndl.Tensor([1.0]))
    needle.Tensor([2.])
    """
    return _switched("jits", False)

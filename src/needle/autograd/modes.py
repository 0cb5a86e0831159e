"""What is switched on while ops run: recording of the graph, laziness, the watch for NaN.

Each switch belongs to one thread, so a data-loading thread is untouched by the training loop's
`no_grad()`. All are context managers and, as such, decorators too.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from needle import autograd as package

__all__ = [
    "detect_anomaly",
    "enable_grad",
    "is_lazy",
    "is_traced",
    "lazy",
    "modes",
    "no_grad",
    "recomputing",
    "traced_by",
]


class _Modes(threading.local):
    grad_enabled: bool = True
    lazy: bool | None = None  # None: as the module global LAZY_MODE says
    anomaly: bool = False
    tracer: Any = None  # what a function is being traced by: see `needle.jit`
    jits: bool = True  # whether jitted functions are compiled
    profiled: bool = False  # somebody notes how long ops take: see `needle.inspection.profiling`
    plain: bool = True  # no such thing is switched: the one look that an op takes
    recomputing: bool = False  # a checkpointed function is running for the second time
    going_back: bool = False  # ops are being run for a backward pass in lazy mode

    def set(self, name: str, value: Any) -> None:
        setattr(self, name, value)
        watched = self.anomaly or self.tracer is not None or self.profiled
        self.plain = self.lazy is None and not watched


modes = _Modes()


def is_lazy() -> bool:
    """Whether ops defer their computation now."""
    return package.LAZY_MODE if modes.lazy is None else modes.lazy


def is_traced() -> bool:
    """Whether ops run on arrays without values, to be compiled: see `needle.jit`."""
    return modes.tracer is not None


@contextmanager
def _switched(name: str, value: Any) -> Iterator[None]:
    before = getattr(modes, name)
    modes.set(name, value)
    try:
        yield
    finally:
        modes.set(name, before)


@contextmanager
def traced_by(tracer: Any) -> Iterator[None]:
    """Have `tracer` see every op of this thread, and the leaves that they read."""
    with _switched("tracer", tracer):
        yield


@contextmanager
def no_grad() -> Iterator[None]:
    """Record no graph: results do not require grad and keep nothing alive.

    >>> import needle as ndl
    >>> x = ndl.Tensor([1.0, 2.0])
    >>> with ndl.no_grad():
    ...     y = x * 2
    >>> y.requires_grad
    False
    """
    with _switched("grad_enabled", False):
        yield


@contextmanager
def enable_grad() -> Iterator[None]:
    """Record the graph again, inside a `no_grad()` block."""
    with _switched("grad_enabled", True):
        yield


@contextmanager
def lazy(enabled: bool = True) -> Iterator[None]:
    """Build the graph without computing; data is computed when first asked for, once.

    >>> import needle as ndl
    >>> with ndl.lazy():
    ...     y = ndl.exp(ndl.Tensor([0.0]))
    >>> y.cached_data is None
    True
    >>> y
    needle.Tensor([1.])
    """
    with _switched("lazy", enabled):
        yield


@contextmanager
def detect_anomaly() -> Iterator[None]:
    """Raise `NonFiniteError` where the first NaN or Inf appears, in the forward pass or backward.

    The message names the op, the line that called it, and whether its inputs were still finite.
    NumPy's own warnings are silent meanwhile. Every result is looked at, so use it to find a fault,
    not to train.
    """
    with np.errstate(all="ignore"), _switched("anomaly", True):
        yield


def recomputing() -> bool:
    """Whether `checkpoint` is running its function again for the backward pass.

    Modules with running statistics look here, so that they count each batch once.
    """
    return modes.recomputing

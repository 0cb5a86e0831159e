"""Kernels compiled without LLVM's optimisations, which take three quarters of the time.

What kernels do is in the code that is written for LLVM, and that is the same. It holds next to
nothing that only an optimiser acts on: no promises about aliases, no reordering of sums.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import lru_cache
from typing import Any
from unittest import mock
from weakref import WeakValueDictionary

import llvmlite.binding as llvm
from llvmlite import ir

from needle.compiler import build
from needle.compiler.code_cache import CodeCache
from needle.compiler.target import Target

__all__ = ["unoptimized"]

_RECENT: OrderedDict[str, build.Address] = OrderedDict()
_LOADED: WeakValueDictionary[str, Any] = WeakValueDictionary()


@contextmanager
def unoptimized() -> Iterator[None]:
    """Kernels that are compiled in the block; on disk they lie apart from others."""
    with ExitStack() as stack:
        for name, value in {
            "optimized": _as_written, "_machine": _machine, "_cache": _cache,
            "_recent": _RECENT, "_loaded": _LOADED,
        }.items():  # fmt: skip
            stack.enter_context(mock.patch.object(build, name, value))
        yield


def _as_written(write: build.Writer, target: Target, machine: Any) -> Any:
    module = ir.Module("needle")
    module.triple, module.data_layout = target.triple, str(machine.target_data)
    write(module, target)
    parsed = llvm.parse_assembly(str(module))
    parsed.verify()
    return parsed


@lru_cache(maxsize=1)
def _machine() -> Any:
    return Target.host().machine(opt=0)


@lru_cache(maxsize=1)
def _cache() -> CodeCache:
    return CodeCache.of_user(f"LLVM {llvm.llvm_version_info} unoptimized {Target.host()!r}")

"""From a description of a kernel to its address: write, verify, optimise, emit, link.

A kernel is known by its key, which says everything that its code depends on besides the target
and this generator. Kernels are never unloaded; there are as many as structures, not shapes.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from time import perf_counter
from typing import Any

import llvmlite
import llvmlite.binding as llvm
from llvmlite import ir

from needle import config
from needle.compiler.code_cache import CodeCache, covers
from needle.compiler.target import Target

__all__ = [
    "ENTRY",
    "Kernel",
    "Made",
    "Writer",
    "address_of",
    "assembly",
    "kernel_at",
    "link",
    "made",
    "object_code",
    "optimized",
]

# Writes functions into a module for a target; the one to call is named ENTRY.
Writer = Callable[[Any, Target], None]
ENTRY = "kernel"


@dataclass(frozen=True)
class Kernel:
    """What a kernel was made from: its code can be had again as text."""

    key: str
    write: Writer

    def texts(self) -> tuple[str, str]:
        """LLVM's code, optimised, and the assembly for this machine; made now."""
        module = optimized(self.write, Target.host(), _machine())
        return str(module), str(_machine().emit_assembly(module))


@dataclass
class Made:
    """Kernels that this process has compiled, and loaded from the disk, and what they took."""

    compiled: int = 0
    loaded: int = 0
    seconds: float = 0.0


made = Made()
_addresses: dict[str, int] = {}
_kernels: dict[int, Kernel] = {}
_libraries: list[Any] = []
_lock = threading.RLock()


def address_of(key: str, write: Writer) -> int:
    """The address of the kernel with that key, made now if it does not exist yet."""
    found = _addresses.get(key)
    if found is None:
        with _lock:
            found = _addresses.get(key)
            if found is None:
                begun = perf_counter()
                found = _addresses[key] = link(object_code(key, write))[ENTRY]
                _kernels[found] = Kernel(key, write)
                made.seconds += perf_counter() - begun
    return found


def kernel_at(address: int) -> Kernel | None:
    """The kernel that begins there."""
    return _kernels.get(address)


def object_code(key: str, write: Writer) -> bytes:
    """The kernel as an object file for this machine: from the cache on disk, else made now."""
    cache = _cache() if covers(write) else None
    code = cache.load(key) if cache else None
    if code is not None:
        made.loaded += 1
        return code
    if config.DEBUG >= 4:
        print(f"-- kernel {key}\n{Kernel(key, write).texts()[1]}", file=sys.stderr)
    code = bytes(_machine().emit_object(optimized(write, Target.host(), _machine())))
    made.compiled += 1
    if cache:
        cache.store(key, code)
    return code


def optimized(write: Writer, target: Target, machine: Any) -> Any:
    """LLVM's module, verified and optimised."""
    module = ir.Module("needle")
    module.triple, module.data_layout = target.triple, str(machine.target_data)
    write(module, target)
    parsed = llvm.parse_assembly(str(module))
    parsed.verify()
    options = llvm.create_pipeline_tuning_options(speed_level=2)
    options.loop_vectorization = options.slp_vectorization = False  # vectors are written out
    builder = llvm.create_pass_builder(machine, options)
    builder.getModulePassManager().run(parsed, builder)
    return parsed


def assembly(write: Writer, target: Target) -> str:
    """The kernel as assembly for any target: to read, and for tests."""
    machine = target.machine()
    return str(machine.emit_assembly(optimized(write, target, machine)))


def link(code: bytes, *names: str) -> dict[str, int]:
    """Addresses of the functions of an object file in this process; all stays loaded."""
    names = names or (ENTRY,)
    builder = llvm.JITLibraryBuilder().add_object_img(code).add_current_process()
    for name in names:
        builder.export_symbol(name)
    with _lock:
        library = builder.link(_jit(), f"needle{len(_libraries)}")
        _libraries.append(library)
    return {name: library[name] for name in names}


@lru_cache(maxsize=1)
def _machine() -> Any:
    return Target.host().machine()


@lru_cache(maxsize=1)
def _jit() -> Any:
    # LLVM's older linker maps code and constants apart, and aborts where they come to lie 2 GiB
    # from each other; its newer one gives an object file one stretch. (On Windows it is young.)
    newer = os.name != "nt"
    return llvm.create_lljit_compiler(Target.host().machine(), use_jit_link=newer)


@lru_cache(maxsize=1)
def _cache() -> CodeCache:
    target = Target.host()
    version = ".".join(str(number) for number in llvm.llvm_version_info)
    return CodeCache.of_user(f"LLVM {version} llvmlite {llvmlite.__version__} {target!r}")

"""From a description of a kernel to its address: write, verify, optimise, emit, link.

A kernel is known by its key, which says everything that its code depends on besides the target
and this generator; so there are as many as structures, not shapes. It stays loaded as long as a
plan or a program holds its address, and for some time after that, in case it is needed again.
"""

from __future__ import annotations

import os
import sys
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import count
from time import perf_counter
from typing import Any
from weakref import WeakValueDictionary

import llvmlite
import llvmlite.binding as llvm
from llvmlite import ir

from needle import config
from needle.compiler.code_cache import CodeCache, covers
from needle.compiler.target import Target

__all__ = [
    "ENTRY",
    "Address",
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


class Address(int):
    """Where a kernel begins. Who holds this, and not just its value, keeps the kernel loaded."""

    loaded: _Loaded


class _Loaded:
    """A kernel's machine code, unloaded when nobody holds this any more."""

    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel
        self._library, found = _linked(object_code(kernel.key, kernel.write), (ENTRY,))
        self.entry = found[ENTRY]

    @property
    def address(self) -> Address:
        """Of its entry."""
        address = Address(self.entry)
        address.loaded = self
        return address


made = Made()
_KEPT = 1024  # kernels that stay loaded though nobody may hold them
_recent: OrderedDict[str, Address] = OrderedDict()
_loaded: WeakValueDictionary[str, _Loaded] = WeakValueDictionary()
_at: WeakValueDictionary[int, _Loaded] = WeakValueDictionary()
_for_ever: list[Any] = []  # libraries of the runtime
_numbers = count()
_lock = threading.RLock()


def _renew_lock() -> None:
    """In the child of a fork no other thread holds it."""
    global _lock
    _lock = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_lock)


def address_of(key: str, write: Writer) -> Address:
    """The address of the kernel with that key, made now if it does not exist yet.

    Hold it as long as the kernel may be called.
    """
    with _lock:
        found = _recent.get(key)
        if found is None:
            known = _loaded.get(key)
            if known is None:
                begun = perf_counter()
                known = _loaded[key] = _Loaded(Kernel(key, write))
                _at[known.entry] = known
                made.seconds += perf_counter() - begun
            found = _recent[key] = known.address
            while len(_recent) > _KEPT:
                _recent.popitem(last=False)
        else:
            _recent.move_to_end(key)
        return found


def kernel_at(address: int) -> Kernel | None:
    """The kernel that begins there."""
    known = _at.get(address)
    return None if known is None else known.kernel


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
    machine, options, passes = _passes(target)
    builder = llvm.create_pass_builder(machine, options)  # one that ran once runs ever more slowly
    for function in parsed.functions:
        if not (function.is_declaration or b"optnone" in b" ".join(function.attributes)):
            passes.run(function, builder)
    return parsed


@lru_cache(maxsize=8)
def _passes(target: Target) -> tuple[Any, Any, Any]:
    """What simplifies a function, at O2. Made once: llvmlite never frees one that was made.

    What LLVM does for whole modules besides takes as long again and gains nothing.
    """
    options = llvm.create_pipeline_tuning_options(speed_level=2)
    options.loop_vectorization = options.slp_vectorization = False  # vectors are written out
    machine = target.machine()
    return machine, options, llvm.create_pass_builder(machine, options).getFunctionPassManager()


def assembly(write: Writer, target: Target) -> str:
    """The kernel as assembly for any target: to read, and for tests."""
    machine = target.machine()
    return str(machine.emit_assembly(optimized(write, target, machine)))


def link(code: bytes, *names: str) -> dict[str, int]:
    """Addresses of the functions of an object file in this process; all stays loaded."""
    library, found = _linked(code, names or (ENTRY,))
    _for_ever.append(library)
    return found


def _linked(code: bytes, names: Sequence[str]) -> tuple[Any, dict[str, int]]:
    """A library, which is loaded as long as it is held, and addresses in it."""
    builder = llvm.JITLibraryBuilder().add_object_img(code).add_current_process()
    for name in names:
        builder.export_symbol(name)
    with _lock:
        library = builder.link(_jit(), f"needle{next(_numbers)}")
    return library, {name: library[name] for name in names}


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

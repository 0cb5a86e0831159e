"""The machine that code is written for: its features, its vectors, its registers."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import llvmlite.binding as llvm

from needle.errors import OptionError

__all__ = ["AVX2", "AVX512", "NEON", "PLAIN", "TARGETS", "Target"]


@dataclass(frozen=True)
class Target:
    """What kernels ask of a machine.

    triple            LLVM's name for architecture and system
    features          LLVM's feature string, which alone decides on the instructions used
    vector_bytes      the widest vector of floats
    vector_registers  how many there are
    has_fma           whether a · b + c is one instruction
    has_masks         whether vectors can be loaded and stored in part
    """

    name: str
    triple: str
    features: str
    vector_bytes: int
    vector_registers: int
    has_fma: bool
    has_masks: bool
    has_half: bool  # converts float16 in hardware

    def lanes(self, itemsize: int) -> int:
        """How many elements of that size the widest vector holds."""
        return self.vector_bytes // itemsize

    def machine(self, opt: int = 3) -> Any:
        """LLVM's target machine: position-independent code; `opt` 0: as it is written."""
        _initialize()
        target = llvm.Target.from_triple(self.triple)
        # by features, not by the processor's name, which virtual machines get wrong
        return target.create_target_machine(
            cpu="x86-64" if self.triple.startswith("x86_64") else "generic",
            features=self.features,
            opt=opt,
            reloc="pic",
            codemodel="default",
        )

    @classmethod
    @lru_cache(maxsize=1)
    def host(cls) -> Target:
        """This machine; or, by `NEEDLE_TARGET`, one of TARGETS that it includes.

        Raises OptionError for a name that is none of theirs.
        """
        _initialize()
        triple = llvm.get_process_triple()
        found = {name for name, present in llvm.get_host_cpu_features().items() if present}
        wanted = os.environ.get("NEEDLE_TARGET")
        if wanted:
            return _chosen(wanted, triple, found)
        if triple.startswith(("aarch64", "arm64")):
            return _with_host(NEON, triple, found)
        if {"avx512f", "avx512bw", "avx512dq", "avx512vl", "fma", "f16c"} <= found:
            return _with_host(AVX512, triple, found)
        if {"avx2", "fma", "f16c"} <= found:
            return _with_host(AVX2, triple, found)
        return _with_host(PLAIN, triple, found)


def _chosen(name: str, triple: str, found: set[str]) -> Target:
    """The target of that name with its own features only, to see what other machines would do."""
    possible = [target for target in TARGETS if _runs_here(target, triple, found)]
    for target in possible:
        if target.name == name:
            return replace(target, triple=triple)
    names = ", ".join(target.name for target in possible)
    raise OptionError(f"NEEDLE_TARGET: expected one that runs here ({names}), got {name!r}.")


def _runs_here(target: Target, triple: str, found: set[str]) -> bool:
    asked = {name[1:] for name in target.features.split(",") if name.startswith("+")}
    return target.triple.partition("-")[0] == triple.partition("-")[0] and asked <= found


def _with_host(like: Target, triple: str, found: set[str]) -> Target:
    """`like` with the machine's own features; those it would need and lacks are not among them."""
    features = ",".join(f"+{name}" for name in sorted(found))
    if like.name == "avx512":
        features += ",-prefer-256-bit"
    return replace(like, triple=triple, features=features)


_AVX2_FEATURES = "+avx,+avx2,+fma,+f16c,+bmi,+bmi2,+popcnt,+sse4.2,+lzcnt"
_AVX512_FEATURES = (
    _AVX2_FEATURES + ",+avx512f,+avx512bw,+avx512dq,+avx512vl,+avx512cd,-prefer-256-bit"
)

PLAIN = Target("plain", "x86_64-unknown-linux-gnu", "", 16, 16, False, False, False)
AVX2 = Target("avx2", "x86_64-unknown-linux-gnu", _AVX2_FEATURES, 32, 16, True, False, True)
AVX512 = Target("avx512", "x86_64-unknown-linux-gnu", _AVX512_FEATURES, 64, 32, True, True, True)
NEON = Target("neon", "aarch64-unknown-linux-gnu", "+neon,+fp-armv8", 16, 32, True, False, True)
TARGETS = (PLAIN, AVX2, AVX512, NEON)


@lru_cache(maxsize=1)
def _initialize() -> None:
    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()

"""`needle info`: what is installed and what it runs on. Good to have beside a report of a fault."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from needle.backend_selection import BACKEND, all_devices, default_device
from needle.cli.settings import InfoOptions
from needle.runtime.threads import get_num_threads
from needle.version import __version__

__all__ = ["collect", "info", "versions"]

_NEEDED = ("numpy", "llvmlite", "ml_dtypes", "safetensors", "tqdm")
_OPTIONAL = ("scikit-learn", "matplotlib", "pillow")
# what decides how fast kernels can be, of all that a processor says it can do
_FEATURES = (
    "sse4_2", "avx", "avx2", "fma", "f16c", "avx_vnni", "avx512f", "avx512dq", "avx512bw",
    "avx512vl", "avx512_vnni", "avx512_bf16", "avx512_fp16", "amx_tile", "amx_int8", "amx_bf16",
    "asimd", "asimddp", "asimdhp", "bf16", "i8mm", "sve", "sve2", "sme",
)  # fmt: skip


def info(options: InfoOptions) -> None:
    """Print what `collect` finds, as lines or as JSON."""
    found = collect()
    if options.json:
        print(json.dumps(found, indent=2))
        return
    rows = {key: _shown(value) for key, value in _flat(found)}
    width = max(map(len, rows))
    for key, value in rows.items():
        print(f"{key:<{width}}  {value}")


def collect() -> dict[str, Any]:
    """Versions, devices, processor and memory. What cannot be found out is None."""
    return {
        "versions": versions() | {name: _version(name) for name in _OPTIONAL},
        "blas": _blas(),
        "platform": platform.platform(),
        "backend": BACKEND,
        "devices": [str(device) for device in all_devices() if device.enabled()],
        "default device": str(default_device()),
        "threads": get_num_threads(),
        "kernels for": _target(),
        "cpu": _processor(),
        "memory (GiB)": _memory(),
    }


def versions() -> dict[str, str | None]:
    """Of Needle, Python, and the packages that Needle cannot do without."""
    needed = {name: _version(name) for name in _NEEDED}
    return {"needle": __version__, "python": platform.python_version(), **needed}


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _blas() -> str | None:
    """The library that multiplies NumPy's matrices."""
    try:
        blas = np.show_config(mode="dicts")["Build Dependencies"]["blas"]
        return f"{blas['name']} {blas['version']}"
    except (KeyError, TypeError):
        return None


def _target() -> str | None:
    """What native code is made for: the vectors it uses."""
    try:
        from needle.compiler.target import Target
    except ImportError:
        return None
    target = Target.host()
    return f"{target.name}, vectors of {8 * target.vector_bytes} bits"


# -- the processor -------------------------------------------------------------------------------


def _processor() -> dict[str, Any]:
    model, features = _linux_processor() if sys.platform == "linux" else _other_processor()
    return {
        "model": model or platform.processor() or platform.machine(),
        "features": features,
        "cores": os.cpu_count(),
        "cores usable": _affinity(),
        "cores allowed by cgroup": _cgroup_quota(),
    }


def _linux_processor() -> tuple[str | None, list[str]]:
    """From /proc/cpuinfo; "flags" is x86's word for the features, "Features" is ARM's."""
    fields: dict[str, str] = {}
    for line in (_read("/proc/cpuinfo") or "").splitlines():
        key, _, value = line.partition(":")
        fields.setdefault(key.strip(), value.strip())
    has = set((fields.get("flags") or fields.get("Features") or "").split())
    return fields.get("model name"), [feature for feature in _FEATURES if feature in has]


def _other_processor() -> tuple[str | None, list[str]]:
    """From macOS's sysctl; elsewhere nothing is known."""
    text = " ".join(
        filter(None, map(_sysctl, ("machdep.cpu.features", "machdep.cpu.leaf7_features")))
    )
    has = {word.lower().replace(".", "_") for word in text.split()}
    if platform.machine() == "arm64":
        has.add("asimd")
    return _sysctl("machdep.cpu.brand_string"), [name for name in _FEATURES if name in has]


def _sysctl(name: str) -> str | None:
    try:
        done = subprocess.run(["sysctl", "-n", name], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip() or None


def _affinity() -> int | None:
    """The cores that the scheduler may put this process on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def _cgroup_quota() -> float | None:
    """The share of processor time that a container may use, in cores; None without a limit."""
    limits = (_read("/sys/fs/cgroup/cpu.max") or "").split()  # cgroup v2: "200000 100000"
    if not limits:
        base = "/sys/fs/cgroup/cpu/cpu.cfs_"
        limits = [_read(f"{base}{name}_us") or "" for name in ("quota", "period")]
    try:
        quota, period = map(int, limits)
    except ValueError:
        return None
    return round(quota / period, 2) if quota > 0 and period > 0 else None


def _memory() -> dict[str, float | None]:
    fields = dict(line.partition(":")[::2] for line in (_read("/proc/meminfo") or "").splitlines())
    total, free = (_kib(fields.get(name)) for name in ("MemTotal", "MemAvailable"))
    if total is None and (size := _sysctl("hw.memsize") if sys.platform == "darwin" else None):
        total = round(int(size) / 2**30, 1)
    limit = (_read("/sys/fs/cgroup/memory.max") or "").strip()
    allowed = round(int(limit) / 2**30, 1) if limit.isdigit() else None
    return {"total": total, "free": free, "allowed by cgroup": allowed}


def _kib(text: str | None) -> float | None:
    return None if text is None else round(int(text.split()[0]) / 2**20, 1)


def _read(path: str) -> str | None:
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None


# -- printing ------------------------------------------------------------------------------------


def _flat(found: Mapping[str, Any]) -> list[tuple[str, Any]]:
    rows: list[tuple[str, Any]] = []
    for key, value in found.items():
        if not isinstance(value, dict):
            rows.append((key, value))
        elif key == "versions":
            rows += [(name, version or "not installed") for name, version in value.items()]
        else:
            rows += [(f"{key}: {name}", item) for name, item in value.items()]
    return rows


def _shown(value: Any) -> str:
    if isinstance(value, list):
        return " ".join(value) or "none known"
    return "no limit" if value is None else str(value)

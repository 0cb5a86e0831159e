"""The machine that is measured on: threads for every library, its peak, and what it is."""

from __future__ import annotations

import platform
from collections.abc import Callable
from datetime import date
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from interleaved import least_seconds

import needle as ndl

__all__ = ["is_installed", "peak", "session", "set_threads"]

_SIDE = 2048  # of the matrices that are multiplied for the peak


def is_installed(package: str) -> bool:
    """Whether it can be imported."""
    return find_spec(package) is not None


def set_threads(count: int) -> None:
    """Give Needle and PyTorch that many. JAX takes as many as there are processors."""
    ndl.set_num_threads(count)
    if is_installed("torch"):
        import torch

        torch.set_num_threads(count)


def session() -> dict[str, Any]:
    """Day, processor, threads and versions, for a file of results."""
    packages = [name for name in ("numpy", "llvmlite", "torch", "jax") if is_installed(name)]
    return {
        "date": date.today().isoformat(),
        "processor": _processor(),
        "threads": ndl.get_num_threads(),
        "python": platform.python_version(),
        "versions": {"needle": ndl.__version__, **{name: version(name) for name in packages}},
    }


def peak() -> float:
    """GFLOP/s of a large float32 product of matrices, by the library that is fastest at it."""
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((2, _SIDE, _SIDE)).astype(np.float32)
    x, y = (ndl.Tensor(m, requires_grad=False) for m in (a, b))
    products: dict[str, Callable[[], Any]] = {"numpy": lambda: a @ b, "needle": lambda: x @ y}
    if is_installed("torch"):
        import torch

        s, t = torch.from_numpy(a), torch.from_numpy(b)
        products["torch"] = lambda: s @ t
    return 2e-9 * _SIDE**3 / least_seconds(products)


def _processor() -> str:
    """Its name and what vectors it has; the name alone where /proc does not tell."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    told = dict(line.split(":", 1) for line in reversed(lines) if ":" in line)
    words = {key.strip(): value.strip() for key, value in told.items()}
    flags = words.get("flags", "").split()
    vectors = next((name for name in ("avx512f", "avx2") if name in flags), "")
    return f"{words.get('model name', platform.machine())} {vectors}".strip()

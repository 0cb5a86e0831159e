"""The benchmarks' modules, which lie in a folder of scripts: importing this puts it on the path."""

from __future__ import annotations

from parity.foreign_models import torch_networks  # isort: split

import compile_time
import compiled_networks
import interleaved
import jobs
import machine
import needle_contenders
import peak_memory
import single_kernels
import torch_contenders

__all__ = [
    "compile_time",
    "compiled_networks",
    "interleaved",
    "jobs",
    "machine",
    "needle_contenders",
    "peak_memory",
    "single_kernels",
    "torch_contenders",
    "torch_networks",
]

"""How many processors this process may use: its affinity, and the quota of its control groups."""

from __future__ import annotations

import math
import os
from pathlib import Path

from needle.runtime.control_groups import PROCESS, control_groups, lines_of

__all__ = ["available_cpus", "cgroup_quota"]


def available_cpus(process: Path = PROCESS) -> int:
    """Processors that may run this process at the same time, at least 1."""
    if hasattr(os, "sched_getaffinity"):
        count = len(os.sched_getaffinity(0))
    else:
        count = os.cpu_count() or 1
    quota = cgroup_quota(process)
    return count if quota is None else max(1, min(count, math.ceil(quota)))


def cgroup_quota(process: Path = PROCESS) -> float | None:
    """Processors' worth of time that control groups allow; None where there is no limit.

    process  the folder with the kernel's files `cgroup` and `mountinfo` on the process
    """
    limits = [_limit(folder) for folder in control_groups("cpu", process)]
    return min((limit for limit in limits if limit is not None), default=None)


def _limit(group: Path) -> float | None:
    """quota / period, in version 2 (`cpu.max`) or 1."""
    numbers = " ".join(lines_of(group / "cpu.max")).split() or [
        *lines_of(group / "cpu.cfs_quota_us"),
        *lines_of(group / "cpu.cfs_period_us"),
    ]
    try:
        quota, period = (int(number) for number in numbers)
    except ValueError:  # "max", or no such files
        return None
    return quota / period if quota > 0 and period > 0 else None

"""How many processors this process may use: its affinity, and the quota of its control groups."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

__all__ = ["available_cpus", "cgroup_quota"]


def available_cpus(process: Path = Path("/proc/self")) -> int:
    """Processors that may run this process at the same time, at least 1."""
    if hasattr(os, "sched_getaffinity"):
        count = len(os.sched_getaffinity(0))
    else:
        count = os.cpu_count() or 1
    quota = cgroup_quota(process)
    return count if quota is None else max(1, min(count, math.ceil(quota)))


def cgroup_quota(process: Path = Path("/proc/self")) -> float | None:
    """Processors' worth of time that control groups allow; None where there is no limit.

    process  the folder with the kernel's files `cgroup` and `mountinfo` on the process
    """
    limits = [limit for folder in _cpu_groups(process) if (limit := _limit(folder)) is not None]
    return min(limits, default=None)


def _cpu_groups(process: Path) -> Iterator[Path]:
    """Folders of the groups that the process is in, and of all groups above them."""
    groups = dict(_own_groups(process))
    for line in _lines(process / "mountinfo"):
        # number parent device root mount-point options ... - type source options-of-type
        place, _, filesystem = (part.split() for part in line.partition(" - "))
        if filesystem[:1] == ["cgroup2"]:
            hierarchy = ""
        elif filesystem[:1] == ["cgroup"] and "cpu" in filesystem[-1].split(","):
            hierarchy = "cpu"
        else:
            continue
        if hierarchy in groups:
            yield from _with_parents(Path(place[4]), PurePosixPath(place[3]), groups[hierarchy])


def _own_groups(process: Path) -> Iterator[tuple[str, PurePosixPath]]:
    """Which hierarchy ("cpu", or "" for version 2) -> the group's path in it."""
    for line in _lines(process / "cgroup"):
        _, controllers, path = line.split(":", 2)
        if not controllers or "cpu" in controllers.split(","):
            yield ("cpu" if controllers else ""), PurePosixPath(path)


def _with_parents(mount: Path, root: PurePosixPath, group: PurePosixPath) -> Iterator[Path]:
    """From the group's folder up to the mount; a group outside of what is mounted is its root."""
    inside = group.relative_to(root) if group.is_relative_to(root) else PurePosixPath()
    for part in (inside, *inside.parents):
        if ".." not in part.parts:
            yield mount / part


def _limit(group: Path) -> float | None:
    """quota / period, in version 2 (`cpu.max`) or 1."""
    numbers = " ".join(_lines(group / "cpu.max")).split() or [
        *_lines(group / "cpu.cfs_quota_us"),
        *_lines(group / "cpu.cfs_period_us"),
    ]
    try:
        quota, period = (int(number) for number in numbers)
    except ValueError:  # "max", or no such files
        return None
    return quota / period if quota > 0 and period > 0 else None


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except OSError:
        return []

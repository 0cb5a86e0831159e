"""How much memory there still is: of the machine, and of the control group it runs in."""

from __future__ import annotations

from pathlib import Path

__all__ = ["available_bytes", "total_bytes"]

_MEMINFO = Path("/proc/meminfo")
_CGROUP = Path("/sys/fs/cgroup")


def available_bytes(meminfo: Path = _MEMINFO, cgroup: Path = _CGROUP) -> int | None:
    """Bytes that can be allocated without swapping; None where the system does not say."""
    known = [n for n in (_of_machine(meminfo), _of_group(cgroup)) if n is not None]
    return min(known) if known else None


def total_bytes(meminfo: Path = _MEMINFO, cgroup: Path = _CGROUP) -> int | None:
    """Bytes that the process may use at all; None where the system does not say."""
    known = [n for n in (_of_machine(meminfo, "MemTotal:"), _limit_of_group(cgroup)) if n]
    return min(known) if known else None


def _of_machine(meminfo: Path, line_start: str = "MemAvailable:") -> int | None:
    try:
        for line in meminfo.read_text().splitlines():
            if line.startswith(line_start):
                return int(line.split()[1]) * 1024
    except (OSError, ValueError, IndexError):
        pass
    return None


_LIMIT_AND_USAGE = (  # of cgroup v2 and v1
    ("memory.max", "memory.current"),
    ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"),
)


def _limit_of_group(cgroup: Path) -> int | None:
    for limit, _ in _LIMIT_AND_USAGE:
        try:
            return int((cgroup / limit).read_text())
        except (OSError, ValueError):
            continue
    return None


def _of_group(cgroup: Path) -> int | None:
    """The limit less what is used, but for files that the kernel would drop."""
    for limit, usage in _LIMIT_AND_USAGE:
        try:
            most = int((cgroup / limit).read_text())
            used = int((cgroup / usage).read_text())
            return max(0, most - used + _droppable((cgroup / usage).parent))
        except (OSError, ValueError):
            continue
    return None


def _droppable(folder: Path) -> int:
    try:
        for line in (folder / "memory.stat").read_text().splitlines():
            if line.startswith("inactive_file "):
                return int(line.split()[1])
    except (OSError, ValueError):
        pass
    return 0

"""How much memory there still is: of the machine, and of the control groups the process is in."""

from __future__ import annotations

from pathlib import Path

from needle.runtime.control_groups import PROCESS, control_groups, lines_of

__all__ = ["available_bytes", "total_bytes"]

_MEMINFO = Path("/proc/meminfo")
_LIMIT_AND_USAGE = (  # of control groups, version 2 and 1
    ("memory.max", "memory.current"),
    ("memory.limit_in_bytes", "memory.usage_in_bytes"),
)


def available_bytes(meminfo: Path = _MEMINFO, process: Path = PROCESS) -> int | None:
    """Bytes that can be allocated without swapping; None where the system does not say.

    Of a group: its limit less what is used, but for files that the kernel would drop.
    """
    known = [_of_machine(meminfo, "MemAvailable:")]
    for folder in control_groups("memory", process):
        for limit, usage in _LIMIT_AND_USAGE:
            most, used = _number(folder / limit), _number(folder / usage)
            if most is not None and used is not None:
                known.append(max(0, most - used + _droppable(folder)))
    return min((n for n in known if n is not None), default=None)


def total_bytes(meminfo: Path = _MEMINFO, process: Path = PROCESS) -> int | None:
    """Bytes that the process may use at all; None where the system does not say."""
    known = [_of_machine(meminfo, "MemTotal:")]
    for folder in control_groups("memory", process):
        known += [_number(folder / limit) for limit, _ in _LIMIT_AND_USAGE]
    return min((n for n in known if n is not None), default=None)


def _of_machine(meminfo: Path, name: str) -> int | None:
    kibibytes = _named(meminfo, name)
    return None if kibibytes is None else kibibytes * 1024


def _droppable(folder: Path) -> int:
    return _named(folder / "memory.stat", "inactive_file") or 0


def _named(path: Path, name: str) -> int | None:
    """The number behind a name at the beginning of a line."""
    for line in lines_of(path):
        words = line.split()
        if words[:1] == [name] and words[1:] and words[1].isdecimal():
            return int(words[1])
    return None


def _number(path: Path) -> int | None:
    """The only number of a file; None for "max", and where there is no such file."""
    text = "".join(lines_of(path)).strip()
    return int(text) if text.isdecimal() else None

"""The control groups that the process is in: folders with the limits that the kernel sets it."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from pathlib import Path, PurePosixPath

__all__ = ["PROCESS", "control_groups", "lines_of"]

PROCESS = Path("/proc/self")


@cache
def control_groups(controller: str, process: Path = PROCESS) -> tuple[Path, ...]:
    """Folders of the process's groups, and of all groups above them; version 2 and version 1.

    They are looked up once: a process hardly ever moves to another group.

    controller  "cpu", "memory"
    process     the folder with the kernel's files `cgroup` and `mountinfo` on the process
    """
    return tuple(_groups(controller, process))


def _groups(controller: str, process: Path) -> Iterator[Path]:
    groups = dict(_own_groups(controller, process))
    for line in lines_of(process / "mountinfo"):
        # number parent device root mount-point options ... - type source options-of-type
        place, _, filesystem = (part.split() for part in line.partition(" - "))
        if len(place) < 5:
            continue
        if filesystem[:1] == ["cgroup2"]:
            hierarchy = ""
        elif filesystem[:1] == ["cgroup"] and controller in filesystem[-1].split(","):
            hierarchy = controller
        else:
            continue
        if hierarchy in groups:
            yield from _with_parents(Path(place[4]), PurePosixPath(place[3]), groups[hierarchy])


def _own_groups(controller: str, process: Path) -> Iterator[tuple[str, PurePosixPath]]:
    """Which hierarchy (the controller, or "" for version 2) -> the group's path in it."""
    for line in lines_of(process / "cgroup"):
        _, _, rest = line.partition(":")
        controllers, colon, path = rest.partition(":")
        if colon and (not controllers or controller in controllers.split(",")):
            yield (controller if controllers else ""), PurePosixPath(path)


def _with_parents(mount: Path, root: PurePosixPath, group: PurePosixPath) -> Iterator[Path]:
    """From the group's folder up to the mount; a group outside of what is mounted is its root."""
    inside = group.relative_to(root) if group.is_relative_to(root) else PurePosixPath()
    for part in (inside, *inside.parents):
        if ".." not in part.parts:
            yield mount / part


def lines_of(path: Path) -> list[str]:
    """A file's lines; none where it cannot be read."""
    try:
        text = path.read_text("utf-8", errors="surrogateescape")  # names are any bytes
    except OSError:
        return []
    return text.removesuffix("\n").split("\n")

"""Writing files so that nobody ever meets half of one."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["naming", "replacing", "write_atomically"]


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A temporary path beside `path`; what is written there takes its place if the block succeeds.

    An interruption at any byte leaves what was at `path` before, whole. A link stays a link: the
    file that it points to is replaced. Permissions stay.

    Raises FileNotFoundError where the folder is missing, IsADirectoryError for a folder, OSError
    for links in a circle.
    """
    target = _resolved(path)
    _require_replaceable(target, path)
    # a name has 255 bytes at most, and a character up to 4
    temporary = target.with_name(f".{target.name[:50]}.{os.urandom(4).hex()}.tmp")
    try:
        with naming(target):
            yield temporary
            with temporary.open("rb+") as file:
                os.fsync(file.fileno())
            if target.exists():
                temporary.chmod(target.stat().st_mode)
            os.replace(temporary, target)  # noqa: PTH105  the atomic call, by its own name
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def naming(path: Path) -> Iterator[Path]:
    """`path`; errors of the system inside the block, such as a full disk, are said to be of it."""
    try:
        yield path
    except OSError as error:
        if error.errno is not None:
            error.filename = str(path)
        raise


def write_atomically(path: str | os.PathLike[str], content: bytes | str) -> None:
    """Write `content` (text as UTF-8) to `path`, all of it or none."""
    with replacing(path) as temporary:
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)


def _resolved(path: str | os.PathLike[str]) -> Path:
    try:
        target = Path(path).resolve()
    except RuntimeError:  # links in a circle; from Python 3.13 on the path comes back as it is
        target = Path(path)
    if target.is_symlink():
        raise OSError(
            f"write: expected the path of a file, got {os.fspath(path)!r}, a link in a circle."
        )
    return target


def _require_replaceable(target: Path, path: str | os.PathLike[str]) -> None:
    if not target.parent.is_dir():
        raise FileNotFoundError(f"write: expected a folder that exists, got {os.fspath(path)!r}.")
    if target.exists() and not target.is_file():  # a folder, or a device such as /dev/null
        kind = IsADirectoryError if target.is_dir() else OSError
        raise kind(f"write: expected the path of a file, got {os.fspath(path)!r}.")

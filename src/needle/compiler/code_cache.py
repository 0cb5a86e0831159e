"""Machine code kept on disk, so that the next process does not compile it again.

One file for each kernel, named after a hash of all that its code depends on: the sources of the
code generator, LLVM's version, the machine, the kernel's key. What lies there will be executed,
so a folder or a file that another user could have written is not touched. Losing the cache, or
half of a file in it, costs time and nothing else.
"""

from __future__ import annotations

import hashlib
import os
import stat
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Any

from needle.errors import OptionError
from needle.version import __version__

__all__ = ["CodeCache", "cache_folder", "covers", "generator_version"]

# Packages whose sources write machine code.
_GENERATORS = ("compiler", "runtime")

_MAGIC = b"needle code 1\r\n\0"
_FILES = "[0-9a-f]" * 64 + ".code"
_UNFINISHED_FILES = _FILES + ".*.tmp"
_LARGEST = 256 << 20  # bytes in the folder; a kernel has some 5 to 30 KB
_STORES_PER_TRIM = 100
_DAY = 86_400.0

# How to open: links are not followed, pipes not waited for, Windows leaves line ends alone.
_PLAINLY = sum(
    getattr(os, f"O_{name}", 0) for name in ("NOFOLLOW", "NONBLOCK", "BINARY", "CLOEXEC")
)


class CodeCache:
    """Machine code by key, in a folder.

    machine  what the code depends on besides key and generator: LLVM, target, features
    folder   where; None: nowhere, everything is a miss
    largest  bytes beyond which the oldest files go
    """

    def __init__(self, machine: str, folder: Path | None, largest: int = _LARGEST) -> None:
        self._machine, self._largest, self._stores = machine, largest, 0
        self._folder = folder if folder is not None and _usable(folder) else None

    @classmethod
    def of_user(cls, machine: str) -> CodeCache:
        """The cache where the environment puts it.

        Raises OptionError where `NEEDLE_CACHE` is neither 0 nor 1.
        """
        return cls(machine, cache_folder())

    def load(self, key: str) -> bytes | None:
        """The code stored with that key; None where there is none, or none to be trusted."""
        if self._folder is None:
            return None
        name = self._name(key)
        try:
            content = _read(self._path(name))
        except OSError:
            return None
        head = _head(name, content[len(_MAGIC) + 64 :])
        return content[len(head) :] if content.startswith(head) else None

    def store(self, key: str, code: bytes) -> None:
        """Keep code for later processes, if the disk allows."""
        if self._folder is None:
            return
        name = self._name(key)
        self._stores += 1
        with suppress(OSError):
            _write(self._path(name), _head(name, code) + code)
            if self._stores % _STORES_PER_TRIM == 1:
                self._trim()

    def _name(self, key: str) -> bytes:
        everything = "\0".join((generator_version(), self._machine, key))
        return hashlib.sha256(everything.encode()).digest()

    def _path(self, name: bytes) -> Path:
        assert self._folder is not None
        return self._folder / (name.hex() + ".code")

    def _files(self) -> list[tuple[float, int, Path]]:
        """(time, bytes, path) of each file of the cache, the oldest first."""
        found = []
        if self._folder is not None:
            for path in self._folder.glob(_FILES):
                try:
                    status = path.lstat()
                except OSError:  # another process was faster
                    continue
                found.append((status.st_mtime, status.st_size, path))
        return sorted(found)

    def _trim(self) -> None:
        """Delete the oldest files down to three quarters of the limit, and what was left half."""
        files = self._files()
        total = sum(size for _, size, _ in files)
        allowed = self._largest * 3 // 4 if total > self._largest else total
        for _, size, path in files:
            if total <= allowed:
                break
            path.unlink(missing_ok=True)
            total -= size
        assert self._folder is not None
        for path in self._folder.glob(_UNFINISHED_FILES):
            if path.lstat().st_mtime < time.time() - _DAY:
                path.unlink(missing_ok=True)


def cache_folder() -> Path | None:
    """`kernels` in `$NEEDLE_CACHE_DIR`, else in the system's place for caches.

    A folder of its own, which is made private. None where `NEEDLE_CACHE` is 0. A variable that is
    set but empty counts as unset.
    """
    switch = os.environ.get("NEEDLE_CACHE") or "1"
    if switch not in ("0", "1"):
        raise OptionError(f"NEEDLE_CACHE: expected 0 or 1, got {switch!r}.")
    if switch == "0":
        return None
    chosen = os.environ.get("NEEDLE_CACHE_DIR")
    if chosen:
        return Path(chosen).expanduser().absolute() / "kernels"
    try:
        return _system_folder() / "needle" / "kernels"
    except RuntimeError:  # a user without a home
        return None


def _system_folder() -> Path:
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches"
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    xdg = Path(os.environ.get("XDG_CACHE_HOME", ""))
    return xdg if xdg.is_absolute() else Path.home() / ".cache"


@lru_cache(maxsize=1)
def generator_version() -> str:
    """A hash of the sources that write code: whoever changes them need not count a number up."""
    digest = hashlib.sha256(__version__.encode())
    for package in _GENERATORS:
        for path in sorted((Path(__file__).parents[1] / package).rglob("*.py")):
            digest.update(b"\0" + path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def covers(write: Callable[..., Any]) -> bool:
    """Whether the generator's version says all about a function that writes code.

    It does not for functions from elsewhere, which may change under the same key.
    """
    module = getattr(getattr(write, "func", write), "__module__", None) or ""
    return module.startswith(tuple(f"needle.{package}." for package in _GENERATORS))


def _head(name: bytes, code: bytes) -> bytes:
    """What a file begins with: magic, the hash of the code, the hash that is the file's name."""
    return _MAGIC + hashlib.sha256(code).digest() + name


def _usable(folder: Path) -> bool:
    """Whether it is there, made now if need be, and nobody else can have written to it.

    From then on nobody else can read it either.
    """
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = folder.lstat()
        if not _is_ours(status, stat.S_ISDIR):
            return False
        if hasattr(os, "geteuid") and status.st_mode & (stat.S_IRWXG | stat.S_IRWXO):
            folder.chmod(0o700)
        return True
    except OSError:
        return False


def _is_ours(status: os.stat_result, is_kind: Callable[[int], bool]) -> bool:
    if not is_kind(status.st_mode):
        return False
    if not hasattr(os, "geteuid"):  # Windows, where the user's folders are the user's
        return True
    writable = status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
    return status.st_uid == os.geteuid() and not writable


def _read(path: Path) -> bytes:
    """What is in a file of ours; b"" if it is not ours. One in use stays young."""
    with os.fdopen(os.open(path, os.O_RDONLY | _PLAINLY), "rb") as file:
        status = os.fstat(file.fileno())
        if not _is_ours(status, stat.S_ISREG):
            return b""
        if status.st_mtime < time.time() - _DAY:
            with suppress(OSError):
                os.utime(path)
        return file.read()


def _write(path: Path, content: bytes) -> None:
    """Whole or not at all. Nothing waits for the disk: the hash tells if a crash left half."""
    temporary = path.with_name(f"{path.name}.{os.urandom(8).hex()}.tmp")
    try:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | _PLAINLY
        with os.fdopen(os.open(temporary, flags, 0o600), "wb") as file:
            file.write(content)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)

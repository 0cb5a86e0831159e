"""Fetches data sets, and keeps only what has the SHA-256 that is written here."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator
from os import PathLike
from pathlib import Path
from typing import IO

from needle.errors import FileFormatError
from needle.files import replacing

__all__ = ["download_cifar10", "download_mnist"]

_MNIST_MIRRORS = (
    "https://ossci-datasets.s3.amazonaws.com/mnist/",
    "https://storage.googleapis.com/cvdf-datasets/mnist/",
)
_MNIST_SHA256 = {
    f"{name}-ubyte.gz": sha256
    for name, sha256 in (
        ("train-images-idx3", "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609"),
        ("train-labels-idx1", "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c"),
        ("t10k-images-idx3", "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6"),
        ("t10k-labels-idx1", "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6"),
    )
}
_CIFAR10_MIRRORS = ("https://www.cs.toronto.edu/~kriz/",)
_CIFAR10_ARCHIVE = "cifar-10-python.tar.gz"
_CIFAR10_SHA256 = "6d958be074577803d12ecdefd02955f39262c83c16fe9354329d7fe0b5c001ce"
_CIFAR10_FOLDER = "cifar-10-batches-py"
_CIFAR10_FILES = (*[f"data_batch_{i}" for i in range(1, 6)], "test_batch", "batches.meta")

_CHUNK = 1 << 18
_TIMEOUT = 30  # seconds without an answer


def download_mnist(folder: str | PathLike[str], *, progress: bool = True) -> Path:
    """Fetch MNIST's four files into `folder`; returns it. Files that are there and whole stay.

    Raises ConnectionError where no server answers, and FileFormatError, keeping nothing of the
    file, where its SHA-256 is not the published one.
    """
    for name, sha256 in _MNIST_SHA256.items():
        _fetch(_MNIST_MIRRORS, name, sha256, Path(folder), progress)
    return Path(folder)


def download_cifar10(folder: str | PathLike[str], *, progress: bool = True) -> Path:
    """Fetch CIFAR-10 into `folder/cifar-10-batches-py`; returns that. Nothing to do if complete.

    Raises as `download_mnist`. The archive, 170 MB, is deleted once it is unpacked, unless it was
    in `folder` before.
    """
    target = Path(folder) / _CIFAR10_FOLDER
    if all((target / name).is_file() for name in _CIFAR10_FILES):
        return target
    was_there = (Path(folder) / _CIFAR10_ARCHIVE).exists()
    archive = _fetch(_CIFAR10_MIRRORS, _CIFAR10_ARCHIVE, _CIFAR10_SHA256, Path(folder), progress)
    _unpack(archive, _CIFAR10_FOLDER, _CIFAR10_FILES, target)
    if not was_there:
        archive.unlink()
    return target


def _fetch(mirrors: Iterable[str], name: str, sha256: str, folder: Path, progress: bool) -> Path:
    """`folder/name`, from the first mirror that sends it whole unless it is there already."""
    path = folder / name
    if path.is_file() and _sha256(path) == sha256:
        return path
    folder.mkdir(parents=True, exist_ok=True)
    with replacing(path) as part:
        _copy_from_any(mirrors, name, sha256, part, progress)
    return path


def _sha256(path: Path) -> str:
    import hashlib

    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(_CHUNK):
            digest.update(piece)
    return digest.hexdigest()


def _copy_from_any(
    mirrors: Iterable[str], name: str, sha256: str, part: Path, progress: bool
) -> None:
    """Write `part` from the first mirror whose content has the SHA-256."""
    silent, foreign = [], []
    for mirror in mirrors:
        try:
            with part.open("wb") as file:
                _copy(mirror + name, name, file, progress)
        except ConnectionError as error:
            silent.append(str(error))
            continue
        if (found := _sha256(part)) == sha256:
            return
        foreign.append(found)
    if foreign:
        raise FileFormatError(
            f"download: expected {name} with SHA-256 {sha256}, got {', '.join(foreign)}. "
            "Nothing was kept."
        )
    raise ConnectionError(f"download: expected a server to send {name}, got {'; '.join(silent)}.")


def _copy(url: str, name: str, file: IO[bytes], progress: bool) -> None:
    from tqdm import tqdm

    total, copied = None, 0
    with tqdm(desc=name, unit="B", unit_scale=True, disable=not progress) as bar:
        for piece, total in _pieces(url):
            bar.total = total
            copied += file.write(piece)
            bar.update(len(piece))
    if total is not None and copied < total:
        raise ConnectionError(f"{url}: cut off after {copied:,} of {total:,} bytes")


def _pieces(url: str) -> Iterator[tuple[bytes, int | None]]:
    """What the server sends, and with each piece how many bytes it said there would be."""
    from http.client import HTTPException
    from urllib.request import urlopen

    try:
        with urlopen(url, timeout=_TIMEOUT) as response:
            total = response.headers.get("Content-Length")
            while piece := response.read(_CHUNK):
                yield piece, None if total is None else int(total)
    except (OSError, HTTPException) as error:
        raise ConnectionError(f"{url}: {error}") from error


def _unpack(archive: Path, prefix: str, names: Iterable[str], target: Path) -> None:
    """Write the regular files `prefix/name` of a tar archive to `target/name`, and nothing else.

    The names are ours, never the archive's, so nothing can land elsewhere.
    """
    import tarfile

    target.mkdir(parents=True, exist_ok=True)
    wanted = {f"{prefix}/{name}": target / name for name in names}
    try:
        with tarfile.open(archive) as tar:
            for member in tar:  # in the archive's order: it is read once
                source = tar.extractfile(member) if member.isreg() else None
                if source is not None and member.name in wanted:
                    with replacing(wanted.pop(member.name)) as part, part.open("wb") as file:
                        shutil.copyfileobj(source, file)
    except (tarfile.TarError, EOFError) as error:
        raise FileFormatError(
            f"download: expected a tar archive, got {archive}: {error}."
        ) from error
    if wanted:
        raise FileFormatError(
            f"download: expected {sorted(wanted)} in {archive}, got none of them."
        )

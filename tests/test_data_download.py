"""Downloads: from folders that stand for servers; only what has the right SHA-256 is kept."""

from __future__ import annotations

import hashlib
import io
import re
import tarfile
from pathlib import Path

import numpy as np
import pytest
from data_files import CIFAR_NAMES, write_cifar, write_mnist

import needle as ndl
from needle.data import download
from needle.errors import FileFormatError


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@pytest.fixture
def mnist_server(tmp_path, monkeypatch):
    """A folder behind file:// with two files of MNIST's names, and their sums in the table."""
    server = tmp_path / "server"
    server.mkdir()
    images, labels = write_mnist(server)
    monkeypatch.setattr(download, "_MNIST_MIRRORS", (f"{server.as_uri()}/",))
    sums = {path.name: sha256(path.read_bytes()) for path in (images, labels)}
    monkeypatch.setattr(download, "_MNIST_SHA256", sums)
    return server


def files_in(folder: Path) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())


def test_pinned_sums_are_sha256():
    sums = [*download._MNIST_SHA256.values(), download._CIFAR10_SHA256]
    assert len(set(sums)) == 5
    assert all(re.fullmatch("[0-9a-f]{64}", value) for value in sums)
    assert set(download._MNIST_SHA256) == {
        "train-images-idx3-ubyte.gz",
        "train-labels-idx1-ubyte.gz",
        "t10k-images-idx3-ubyte.gz",
        "t10k-labels-idx1-ubyte.gz",
    }


def test_mnist_files_arrive_whole(mnist_server, tmp_path):
    folder = tmp_path / "new" / "folder"
    assert ndl.data.download_mnist(str(folder), progress=False) == folder
    assert files_in(folder) == ["images.gz", "labels.gz"]
    dataset = ndl.data.MNISTDataset(folder / "images.gz", folder / "labels.gz")
    assert len(dataset) == 12


def test_files_that_are_there_are_not_fetched_again(mnist_server, tmp_path):
    folder = ndl.data.download_mnist(tmp_path / "data", progress=False)
    for path in mnist_server.iterdir():
        path.unlink()
    ndl.data.download_mnist(folder, progress=False)
    assert files_in(folder) == ["images.gz", "labels.gz"]


def test_damaged_file_is_replaced(mnist_server, tmp_path):
    folder = ndl.data.download_mnist(tmp_path / "data", progress=False)
    (folder / "labels.gz").write_bytes(b"half")
    ndl.data.download_mnist(folder, progress=False)
    assert (folder / "labels.gz").read_bytes() == (mnist_server / "labels.gz").read_bytes()


def test_wrong_sum_keeps_nothing(mnist_server, tmp_path):
    expected = sha256((mnist_server / "images.gz").read_bytes())
    (mnist_server / "images.gz").write_bytes(b"something else")
    with pytest.raises(FileFormatError) as caught:
        ndl.data.download_mnist(tmp_path / "data", progress=False)
    assert str(caught.value) == (
        f"download: expected images.gz with SHA-256 {expected}, got {sha256(b'something else')}. "
        "Nothing was kept."
    )
    assert files_in(tmp_path / "data") == []


def test_wrong_sum_leaves_the_file_that_was_there(mnist_server, tmp_path):
    (mnist_server / "images.gz").write_bytes(b"something else")
    (tmp_path / "images.gz").write_bytes(b"the user's own")
    with pytest.raises(FileFormatError):
        ndl.data.download_mnist(tmp_path, progress=False)
    assert (tmp_path / "images.gz").read_bytes() == b"the user's own"


def test_no_server_is_one_clear_line_and_leaves_nothing(mnist_server, tmp_path):
    (mnist_server / "images.gz").unlink()
    with pytest.raises(ConnectionError) as caught:
        ndl.data.download_mnist(tmp_path / "data", progress=False)
    message = str(caught.value)
    assert message.startswith("download: expected a server to send images.gz, got file://")
    assert "\n" not in message
    assert files_in(tmp_path / "data") == []


def test_next_mirror_is_tried(mnist_server, tmp_path, monkeypatch):
    mirrors = ((tmp_path / "gone").as_uri() + "/", mnist_server.as_uri() + "/")
    monkeypatch.setattr(download, "_MNIST_MIRRORS", mirrors)
    ndl.data.download_mnist(tmp_path / "data", progress=False)
    assert files_in(tmp_path / "data") == ["images.gz", "labels.gz"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError("No space left on device")])
def test_interruption_leaves_nothing(mnist_server, tmp_path, monkeypatch, error):
    def interrupted(url):
        yield b"the first piece", 100
        raise error

    monkeypatch.setattr(download, "_pieces", interrupted)
    with pytest.raises(type(error) if isinstance(error, OSError) else error):
        ndl.data.download_mnist(tmp_path / "data", progress=False)
    assert files_in(tmp_path / "data") == []


def test_second_mirror_does_not_continue_what_the_first_began(mnist_server, tmp_path, monkeypatch):
    whole = download._pieces

    def breaks_once(url):
        if url.startswith("first"):
            yield bytes(100_000), 200_000  # more than the whole file
            raise ConnectionError("reset")
        yield from whole(url)

    monkeypatch.setattr(download, "_pieces", breaks_once)
    monkeypatch.setattr(download, "_MNIST_MIRRORS", ("first/", mnist_server.as_uri() + "/"))
    ndl.data.download_mnist(tmp_path / "data", progress=False)
    assert files_in(tmp_path / "data") == ["images.gz", "labels.gz"]


def test_next_mirror_is_tried_after_wrong_content(mnist_server, tmp_path, monkeypatch):
    other = tmp_path / "other"
    other.mkdir()
    for path in mnist_server.iterdir():
        (other / path.name).write_bytes(b"<html>moved</html>")
    mirrors = (other.as_uri() + "/", mnist_server.as_uri() + "/")
    monkeypatch.setattr(download, "_MNIST_MIRRORS", mirrors)
    ndl.data.download_mnist(tmp_path / "data", progress=False)
    assert files_in(tmp_path / "data") == ["images.gz", "labels.gz"]


def cut_off(url):
    yield b"half", 100


def test_next_mirror_is_tried_after_a_body_that_is_cut_off(mnist_server, tmp_path, monkeypatch):
    whole = download._pieces
    monkeypatch.setattr(
        download, "_pieces", lambda url: cut_off(url) if url.startswith("cut") else whole(url)
    )
    monkeypatch.setattr(download, "_MNIST_MIRRORS", ("cut/", mnist_server.as_uri() + "/"))
    ndl.data.download_mnist(tmp_path / "data", progress=False)
    assert files_in(tmp_path / "data") == ["images.gz", "labels.gz"]


def test_a_body_that_is_cut_off_is_said(mnist_server, tmp_path, monkeypatch):
    monkeypatch.setattr(download, "_pieces", cut_off)
    with pytest.raises(ConnectionError, match=r"images\.gz: cut off after 4 of 100 bytes"):
        ndl.data.download_mnist(tmp_path / "data", progress=False)
    assert files_in(tmp_path / "data") == []


def test_wrong_content_and_no_server_after_it_is_one_line(mnist_server, tmp_path, monkeypatch):
    (mnist_server / "images.gz").write_bytes(b"something else")
    mirrors = (mnist_server.as_uri() + "/", (tmp_path / "gone").as_uri() + "/")
    monkeypatch.setattr(download, "_MNIST_MIRRORS", mirrors)
    with pytest.raises(FileFormatError, match=r"expected images\.gz with SHA-256") as caught:
        ndl.data.download_mnist(tmp_path / "data", progress=False)
    assert "\n" not in str(caught.value)


def test_progress_is_shown_on_standard_error(mnist_server, tmp_path, capsys):
    ndl.data.download_mnist(tmp_path / "data")
    shown = capsys.readouterr()
    assert shown.out == "" and "images.gz" in shown.err and "100%" in shown.err


# -- CIFAR-10's archive --------------------------------------------------------------------------


def add(tar: tarfile.TarFile, name: str, content: bytes = b"x", **fields: object) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    for field, value in fields.items():
        setattr(member, field, value)
    tar.addfile(member, io.BytesIO(content))


@pytest.fixture
def cifar_server(tmp_path, monkeypatch):
    """A function that puts an archive, with more members if told so, behind file://."""
    server = tmp_path / "server"
    server.mkdir()
    write_cifar(server)

    def serve(change=lambda tar: None, without=()):
        archive = server / "cifar-10-python.tar.gz"
        with tarfile.open(archive, "w:gz") as tar:
            for name in (*CIFAR_NAMES, "batches.meta"):
                if name not in without:
                    path = server / "cifar-10-batches-py" / name
                    add(
                        tar,
                        f"cifar-10-batches-py/{name}",
                        path.read_bytes() if path.exists() else b"",
                    )
            change(tar)
        monkeypatch.setattr(download, "_CIFAR10_SHA256", sha256(archive.read_bytes()))
        monkeypatch.setattr(download, "_CIFAR10_MIRRORS", (f"{server.as_uri()}/",))
        return archive

    return serve


def test_cifar10_is_unpacked_and_its_archive_deleted(cifar_server, tmp_path):
    cifar_server()
    folder = ndl.data.download_cifar10(tmp_path / "data", progress=False)
    assert folder == tmp_path / "data" / "cifar-10-batches-py"
    assert files_in(tmp_path / "data") == sorted(
        f"cifar-10-batches-py/{name}" for name in (*CIFAR_NAMES, "batches.meta")
    )
    assert len(ndl.data.CIFAR10Dataset(folder, train=True)) == 20


def test_cifar10_that_is_complete_is_not_fetched_again(cifar_server, tmp_path):
    archive = cifar_server()
    ndl.data.download_cifar10(tmp_path / "data", progress=False)
    archive.unlink()
    ndl.data.download_cifar10(tmp_path / "data", progress=False)


def test_archive_that_was_there_is_used_and_kept(cifar_server, tmp_path):
    archive = cifar_server()
    (tmp_path / "data").mkdir()
    archive.rename(tmp_path / "data" / archive.name)
    ndl.data.download_cifar10(tmp_path / "data", progress=False)
    assert (tmp_path / "data" / archive.name).exists()


def test_nothing_lands_outside_the_folder(cifar_server, tmp_path):
    def hostile(tar):
        add(tar, "../escaped")
        add(tar, "cifar-10-batches-py/../../escaped")
        add(tar, str(tmp_path / "escaped"))
        add(tar, "cifar-10-batches-py/extra")
        add(tar, "cifar-10-batches-py/link", b"", type=tarfile.SYMTYPE, linkname="/etc")
        add(tar, "cifar-10-batches-py/link/escaped")

    cifar_server(hostile)
    ndl.data.download_cifar10(tmp_path / "data", progress=False)
    assert not list(tmp_path.rglob("*escaped*")) and not list(tmp_path.rglob("*link*"))
    assert len(files_in(tmp_path / "data")) == 7


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE])
def test_member_that_is_no_regular_file_counts_as_missing(cifar_server, tmp_path, kind):
    def hostile(tar):
        name = "cifar-10-batches-py/test_batch"
        add(tar, name, b"", type=kind, linkname="/etc/passwd")

    cifar_server(hostile, without=["test_batch"])
    with pytest.raises(FileFormatError, match=r"expected \['cifar-10-batches-py/test_batch'\] in"):
        ndl.data.download_cifar10(tmp_path / "data", progress=False)
    assert not (tmp_path / "data" / "cifar-10-batches-py" / "test_batch").exists()


def test_archive_that_is_no_tar_is_refused(tmp_path, monkeypatch):
    archive = tmp_path / "cifar-10-python.tar.gz"
    archive.write_bytes(np.arange(1000).tobytes())
    monkeypatch.setattr(download, "_CIFAR10_SHA256", sha256(archive.read_bytes()))
    with pytest.raises(FileFormatError, match="download: expected a tar archive, got"):
        ndl.data.download_cifar10(tmp_path, progress=False)

"""Files that are replaced whole or not at all."""

from __future__ import annotations

import os
import stat
import threading
from pathlib import Path

import pytest

from needle import files
from needle.files import replacing, write_atomically

try:
    import resource
except ImportError:  # Windows
    resource = None

posix_only = pytest.mark.skipif(os.name != "posix", reason="links and modes as POSIX has them")


@pytest.fixture
def target(tmp_path: Path) -> Path:
    path = tmp_path / "file.bin"
    path.write_bytes(b"before")
    return path


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def assert_untouched(target: Path) -> None:
    assert target.read_bytes() == b"before"
    assert names_in(target.parent) == [target.name]


def test_bytes_and_text_are_written(tmp_path):
    write_atomically(tmp_path / "a", b"\x00\xff")
    write_atomically(str(tmp_path / "b"), "grün\n")
    assert (tmp_path / "a").read_bytes() == b"\x00\xff"
    assert (tmp_path / "b").read_bytes() == "grün\n".encode()
    assert names_in(tmp_path) == ["a", "b"]


def test_a_file_that_is_there_is_replaced(target):
    write_atomically(target, b"after")
    assert target.read_bytes() == b"after"
    assert names_in(target.parent) == [target.name]


def test_relative_paths_are_relative_to_the_working_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_atomically("plain", b"1")
    assert (tmp_path / "plain").read_bytes() == b"1"


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_an_error_within_the_block_leaves_what_was(target, error):
    with pytest.raises(error), replacing(target) as temporary:
        temporary.write_bytes(b"half")
        raise error
    assert_untouched(target)


def test_nothing_written_within_the_block_leaves_what_was(target):
    with pytest.raises(FileNotFoundError), replacing(target):
        pass
    assert_untouched(target)


@pytest.mark.parametrize("name", ["fsync", "replace"])
@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
def test_an_error_at_the_last_steps_leaves_what_was(target, monkeypatch, name, error):
    def fail(*args):
        raise error(f"at {name}")

    monkeypatch.setattr(files.os, name, fail)
    with pytest.raises(error, match=f"at {name}"):
        write_atomically(target, b"after")
    assert_untouched(target)


@pytest.mark.skipif(resource is None, reason="needs a limit on the size of files")
def test_a_disk_that_is_full_at_any_byte_leaves_what_was(target):
    content = b"x" * 100
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    for room in range(len(content)):
        resource.setrlimit(resource.RLIMIT_FSIZE, (room, hard))
        try:
            with pytest.raises(OSError, match="too large"):
                write_atomically(target, content)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert_untouched(target)
    write_atomically(target, content)
    assert target.read_bytes() == content


def test_readers_see_the_old_file_or_the_new_one(target):
    with target.open("rb") as reader:
        write_atomically(target, b"after")
        assert reader.read() == b"before"


def test_writers_in_several_threads_do_not_meet(tmp_path):
    target = tmp_path / "shared"
    contents = [bytes([i]) * 50_000 for i in range(8)]
    threads = [threading.Thread(target=write_atomically, args=(target, c)) for c in contents]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert target.read_bytes() in contents
    assert names_in(tmp_path) == ["shared"]


@posix_only
def test_a_link_stays_a_link_and_its_file_is_replaced(target):
    link = target.with_name("link")
    link.symlink_to(target.name)
    write_atomically(link, b"after")
    assert link.is_symlink()
    assert target.read_bytes() == b"after"


@posix_only
def test_permissions_stay(target):
    target.chmod(0o640)
    write_atomically(target, b"after")
    assert stat.S_IMODE(target.stat().st_mode) == 0o640


def test_a_missing_folder_is_named(tmp_path):
    path = tmp_path / "missing" / "file"
    with pytest.raises(FileNotFoundError) as error:
        write_atomically(path, b"")
    assert str(error.value) == f"write: expected a folder that exists, got '{path}'."


def test_a_file_in_place_of_the_folder_is_named(target):
    with pytest.raises(FileNotFoundError, match="write: expected a folder that exists"):
        write_atomically(target / "inside", b"")
    assert_untouched(target)


@pytest.mark.parametrize("path", ["folder", "", "."])
def test_a_folder_in_place_of_the_file_is_named(tmp_path, monkeypatch, path):
    (tmp_path / "folder").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(IsADirectoryError, match=f"expected the path of a file, got '{path}'"):
        write_atomically(path, b"")
    assert names_in(tmp_path) == ["folder"]


@posix_only
def test_a_device_is_not_replaced():
    with pytest.raises(OSError, match="write: expected the path of a file, got '/dev/null'"):
        write_atomically("/dev/null", b"")
    assert not Path("/dev/null").is_file()


@pytest.mark.parametrize("name", ["x" * 255, "ü" * 127, "x" * 242])
def test_names_as_long_as_the_system_allows_are_written(tmp_path, name):
    write_atomically(tmp_path / name, b"1")
    assert names_in(tmp_path) == [name]


@posix_only
def test_links_in_a_circle_are_named_and_stay(tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    one.symlink_to(two)
    two.symlink_to(one)
    with pytest.raises(OSError, match=r"write: expected the path of a file, got '.*one', a link"):
        write_atomically(one, b"")
    assert names_in(tmp_path) == ["one", "two"]
    assert one.is_symlink()

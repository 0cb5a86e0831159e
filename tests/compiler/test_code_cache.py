"""The cache of machine code: found again, never trusted when it should not be, never in the way."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from needle.compiler import build, code_cache, target
from needle.compiler.code import Code
from needle.compiler.code_cache import CodeCache, cache_folder
from needle.errors import OptionError
from needle.runtime import pool

posix = pytest.mark.skipif(not hasattr(os, "geteuid"), reason="owners and modes of POSIX")
CODE = bytes(range(256)) * 40


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@pytest.fixture
def cache(folder: Path) -> CodeCache:
    return CodeCache("machine", folder)


def the_file(folder: Path) -> Path:
    (path,) = folder.iterdir()
    return path


class TestKeeping:
    def test_what_is_stored_is_loaded_by_the_next_process(
        self, cache: CodeCache, folder: Path
    ) -> None:
        assert cache.load("add float32") is None
        cache.store("add float32", CODE)
        assert CodeCache("machine", folder).load("add float32") == CODE

    def test_empty_code_is_code(self, cache: CodeCache) -> None:
        cache.store("nothing", b"")
        assert cache.load("nothing") == b""

    def test_keys_machines_and_generators_do_not_mix(
        self, cache: CodeCache, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        cache.store("key", CODE)
        assert cache.load("key ") is None
        assert CodeCache("another machine", folder).load("key") is None
        monkeypatch.setattr(code_cache, "generator_version", lambda: "another")
        assert cache.load("key") is None

    def test_the_later_of_two_codes_stays(self, cache: CodeCache, folder: Path) -> None:
        cache.store("key", b"old")
        cache.store("key", b"new")
        assert cache.load("key") == b"new"
        assert len(list(folder.iterdir())) == 1

    def test_each_code_has_a_file_little_larger_than_itself(
        self, cache: CodeCache, folder: Path
    ) -> None:
        cache.store("a", CODE)
        cache.store("b", CODE)
        sizes = [path.stat().st_size for path in folder.iterdir()]
        assert [len(CODE) < size < len(CODE) + 500 for size in sizes] == [True, True]

    def test_many_writers_and_readers_meet_whole_files_only(self, folder: Path) -> None:
        codes = [bytes([number]) * 50_000 for number in range(8)]

        def work(code: bytes) -> set[bytes | None]:
            cache = CodeCache("machine", folder)
            seen = set()
            for _ in range(30):
                cache.store("key", code)
                seen.add(cache.load("key"))
            return seen

        with ThreadPoolExecutor(8) as executor:
            seen = set().union(*executor.map(work, codes))
        assert seen <= set(codes)
        assert len(list(folder.iterdir())) == 1


class TestDamage:
    @pytest.mark.parametrize("length", [0, 1, 15, 16, 48, 79, 80, 81, 5000])
    def test_a_truncated_file_is_ignored_and_made_anew(
        self, cache: CodeCache, folder: Path, length: int
    ) -> None:
        cache.store("key", CODE)
        path = the_file(folder)
        path.write_bytes(path.read_bytes()[:length])
        assert cache.load("key") is None
        cache.store("key", CODE)
        assert cache.load("key") == CODE

    @pytest.mark.parametrize("position", [0, 20, 60, 80, -1])
    def test_a_changed_byte_is_noticed(self, cache: CodeCache, folder: Path, position: int) -> None:
        cache.store("key", CODE)
        path = the_file(folder)
        content = bytearray(path.read_bytes())
        content[position] ^= 1
        path.write_bytes(content)
        assert cache.load("key") is None

    def test_code_under_another_codes_name_is_ignored(self, cache: CodeCache, folder: Path) -> None:
        cache.store("a", CODE)
        content = the_file(folder).read_bytes()
        cache.store("b", b"other")
        for path in folder.iterdir():
            path.write_bytes(content)
        assert (cache.load("a"), cache.load("b")) == (CODE, None)

    def test_a_folder_in_a_files_place_costs_nothing_but_the_file(
        self, cache: CodeCache, folder: Path
    ) -> None:
        cache.store("key", CODE)
        path = the_file(folder)
        path.unlink()
        path.mkdir()
        assert cache.load("key") is None
        cache.store("key", CODE)
        assert cache.load("key") is None

    @pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
    def test_a_pipe_in_a_files_place_is_not_waited_for(
        self, cache: CodeCache, folder: Path
    ) -> None:
        cache.store("key", CODE)
        path = the_file(folder)
        path.unlink()
        os.mkfifo(path, 0o600)
        assert cache.load("key") is None

    def test_a_deleted_folder_is_no_error(self, cache: CodeCache, folder: Path) -> None:
        folder.rmdir()
        cache.store("key", CODE)
        assert cache.load("key") is None
        assert not folder.exists()


@posix
class TestTrust:
    def test_folder_and_files_are_the_users_alone(self, cache: CodeCache, folder: Path) -> None:
        cache.store("key", CODE)
        assert folder.stat().st_mode & 0o777 == 0o700
        assert the_file(folder).stat().st_mode & 0o777 == 0o600

    @pytest.mark.parametrize("mode", [0o770, 0o707, 0o777])
    def test_a_folder_that_others_can_write_is_not_used(self, folder: Path, mode: int) -> None:
        folder.mkdir()
        folder.chmod(mode)
        assert_off(CodeCache("machine", folder))
        assert list(folder.iterdir()) == []

    @pytest.mark.parametrize("mode", [0o755, 0o750, 0o711, 0o704])
    def test_a_folder_that_others_can_only_read_is_closed_to_them_and_used(
        self, folder: Path, mode: int
    ) -> None:
        folder.mkdir()
        folder.chmod(mode)
        cache = CodeCache("machine", folder)
        assert folder.stat().st_mode & 0o777 == 0o700
        cache.store("key", CODE)
        assert cache.load("key") == CODE

    def test_a_folder_that_cannot_be_closed_to_others_is_not_used(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        folder.mkdir()
        folder.chmod(0o755)
        monkeypatch.setattr(Path, "chmod", refuse)
        assert_off(CodeCache("machine", folder))

    def test_a_linked_folder_is_not_used(self, folder: Path, tmp_path: Path) -> None:
        (tmp_path / "elsewhere").mkdir(mode=0o700)
        folder.symlink_to(tmp_path / "elsewhere")
        assert_off(CodeCache("machine", folder))

    def test_a_file_in_the_folders_place_turns_the_cache_off(self, folder: Path) -> None:
        folder.write_text("")
        assert_off(CodeCache("machine", folder))

    def test_somebody_elses_folder_is_not_used(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        folder.mkdir(mode=0o700)
        someone = os.geteuid() + 1
        monkeypatch.setattr(os, "geteuid", lambda: someone)
        assert_off(CodeCache("machine", folder))

    def test_somebody_elses_file_is_not_loaded(
        self, cache: CodeCache, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        cache.store("key", CODE)
        someone = os.geteuid() + 1
        monkeypatch.setattr(os, "geteuid", lambda: someone)
        assert cache.load("key") is None

    def test_a_file_that_others_can_write_is_not_loaded(
        self, cache: CodeCache, folder: Path
    ) -> None:
        cache.store("key", CODE)
        the_file(folder).chmod(0o666)
        assert cache.load("key") is None

    def test_a_linked_file_is_not_loaded(
        self, cache: CodeCache, folder: Path, tmp_path: Path
    ) -> None:
        cache.store("key", CODE)
        path = the_file(folder)
        path.rename(tmp_path / "moved")
        path.symlink_to(tmp_path / "moved")
        assert cache.load("key") is None

    def test_a_folder_that_cannot_be_made_turns_the_cache_off(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("")
        assert_off(CodeCache("machine", tmp_path / "file" / "cache"))

    def test_a_disk_that_takes_nothing_is_no_error(
        self, cache: CodeCache, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(Path, "replace", refuse)
        cache.store("key", CODE)
        assert cache.load("key") is None
        assert list(folder.iterdir()) == []

    def test_a_disk_that_refuses_new_times_still_gives_its_code(
        self, cache: CodeCache, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        cache.store("key", CODE)
        os.utime(the_file(folder), (1, 1))
        monkeypatch.setattr(os, "utime", refuse)
        assert cache.load("key") == CODE


def refuse(*_: Any) -> None:
    raise OSError(30, "Read-only file system")


def assert_off(cache: CodeCache) -> None:
    cache.store("key", CODE)
    assert cache.load("key") is None


class TestBound:
    def test_the_oldest_files_go_when_there_are_too_many_bytes(self, folder: Path) -> None:
        cache = CodeCache("machine", folder)
        for number in range(8):
            cache.store(str(number), CODE)
            age_file(folder, 1000 * (8 - number))
        later = CodeCache("machine", folder, largest=8 * len(CODE))
        later.store("new", CODE)
        left = [number for number in range(8) if cache.load(str(number)) is not None]
        assert left == [4, 5, 6, 7]
        assert cache.load("new") == CODE

    def test_within_the_bound_nothing_goes(self, folder: Path) -> None:
        cache = CodeCache("machine", folder)
        for number in range(120):
            cache.store(str(number), b"code")
        assert len(list(folder.iterdir())) == 120

    def test_only_its_own_files_are_deleted(self, folder: Path) -> None:
        folder.mkdir(mode=0o700)
        for name in ("thesis.code", "notes.tmp", "a" * 64):
            (folder / name).write_bytes(CODE)
            os.utime(folder / name, (1, 1))
        CodeCache("machine", folder, largest=0).store("key", CODE)
        assert len(list(folder.iterdir())) == 3

    def test_what_a_killed_process_left_half_goes_after_a_day(
        self, cache: CodeCache, folder: Path
    ) -> None:
        cache.store("key", CODE)
        whole = the_file(folder)
        old, young = [whole.with_name(f"{whole.name}.{n}.tmp") for n in ("1", "2")]
        old.write_bytes(b"half")
        young.write_bytes(b"half")
        os.utime(old, (1, 1))
        CodeCache("machine", folder).store("another", CODE)
        assert (old.exists(), young.exists()) == (False, True)

    def test_a_file_in_use_stays_young(self, cache: CodeCache, folder: Path) -> None:
        cache.store("key", CODE)
        os.utime(the_file(folder), (1, 1))
        cache.load("key")
        assert the_file(folder).stat().st_mtime > time.time() - 3600


def age_file(folder: Path, seconds: float) -> None:
    """Make the file that was written last so much older."""
    newest = max(folder.iterdir(), key=lambda path: path.stat().st_mtime)
    os.utime(newest, (time.time() - seconds,) * 2)


class TestPlace:
    @pytest.fixture(autouse=True)
    def _clean(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        for name in ("NEEDLE_CACHE", "NEEDLE_CACHE_DIR", "XDG_CACHE_HOME"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("HOME", str(tmp_path))

    def test_own_variable_comes_first(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        monkeypatch.setenv("NEEDLE_CACHE_DIR", str(tmp_path / "mine"))
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
        assert cache_folder() == tmp_path / "mine" / "kernels"

    @pytest.mark.skipif(sys.platform != "linux", reason="Linux's places")
    def test_a_tilde_is_the_users_home(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("HOME", "/home/somebody")
        monkeypatch.setenv("NEEDLE_CACHE_DIR", "~/kept")
        assert cache_folder() == Path("/home/somebody/kept/kernels")

    def test_then_the_systems_place(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        assert cache_folder() == tmp_path / ".cache" / "needle" / "kernels"
        monkeypatch.setenv("XDG_CACHE_HOME", "relative paths do not count")
        assert cache_folder() == tmp_path / ".cache" / "needle" / "kernels"
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
        assert cache_folder() == tmp_path / "xdg" / "needle" / "kernels"

    def test_zero_turns_it_off(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("NEEDLE_CACHE", "0")
        assert cache_folder() is None
        assert_off(CodeCache.of_user("machine"))

    @pytest.mark.parametrize("value", ["", "1"])
    def test_empty_and_one_leave_it_on(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, value: str
    ) -> None:
        monkeypatch.setenv("NEEDLE_CACHE", value)
        monkeypatch.setenv("NEEDLE_CACHE_DIR", str(tmp_path / "mine"))
        assert cache_folder() == tmp_path / "mine" / "kernels"

    @pytest.mark.parametrize("value", ["2", "off", " 1"])
    def test_other_values_are_refused(self, monkeypatch: pytest.MonkeyPatch, value: str) -> None:
        monkeypatch.setenv("NEEDLE_CACHE", value)
        with pytest.raises(OptionError, match=f"^NEEDLE_CACHE: expected 0 or 1, got '{value}'.$"):
            CodeCache.of_user("machine")

    def test_a_user_without_a_home_has_none(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(Path, "home", no_home)
        assert cache_folder() is None


def no_home() -> Path:
    raise RuntimeError("Could not determine home directory.")


class TestBuilding:
    def test_the_generators_version_follows_its_sources(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(code_cache, "__file__", str(tmp_path / "runtime" / "code_cache.py"))
        version = code_cache.generator_version.__wrapped__
        versions = [version()]
        for name in ("compiler/code.py", "compiler/functions/exp.py", "runtime/pool.py"):
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            for source in ("x = 1", "x = 2"):
                (tmp_path / name).write_text(source)
                versions.append(version())
        assert len(set(versions)) == 7
        assert versions[-1] == version()

    def test_a_kernel_is_written_once_and_then_loaded(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        written = []

        def write(module: Any, machine: target.Target) -> None:
            written.append(1)
            Code(module, build.ENTRY, machine).finish()

        write.__module__ = "needle.compiler.example"
        first = compile_as_a_new_process(folder, monkeypatch, write)
        second = compile_as_a_new_process(folder, monkeypatch, write)
        assert first == second
        assert len(written) == 1

        damaged = the_file(folder / "kernels")
        damaged.write_bytes(damaged.read_bytes()[:-1])
        assert compile_as_a_new_process(folder, monkeypatch, write) == first
        assert len(written) == 2
        assert compile_as_a_new_process(folder, monkeypatch, write) == first
        assert len(written) == 2

    @pytest.mark.parametrize(
        "change",
        [{"name": "another"}, {"features": "+none"}, {"vector_bytes": 128}, {"has_masks": None}],
        ids=lambda change: next(iter(change)),
    )
    def test_the_machines_every_field_and_llvmlites_version_tell_codes_apart(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch, change: dict[str, Any]
    ) -> None:
        monkeypatch.setenv("NEEDLE_CACHE_DIR", str(folder))
        build._cache.cache_clear()
        try:
            build._cache().store("key", CODE)
            host = target.Target.host()
            for changed in (host, replace(host, **change)):
                build._cache.cache_clear()
                monkeypatch.setattr(target.Target, "host", lambda changed=changed: changed)
                assert (build._cache().load("key") == CODE) is (changed is host)
            monkeypatch.setattr(target.Target, "host", lambda: host)
            monkeypatch.setattr(build.llvmlite, "__version__", "another")
            build._cache.cache_clear()
            assert build._cache().load("key") is None
        finally:
            build._cache.cache_clear()

    def test_writers_whose_source_the_version_does_not_cover_are_not_kept(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def write(module: Any, machine: target.Target) -> None:
            Code(module, build.ENTRY, machine).finish()

        compile_as_a_new_process(folder, monkeypatch, write)
        assert not folder.exists()

    def test_another_process_links_what_this_one_stored(self, folder: Path) -> None:
        script = """
from needle.compiler import build
from needle.runtime import pool
if {warm}: build.optimized = None
print(build.link(build.object_code("pool", pool.write), "needle_parallel")["needle_parallel"] > 0)
"""
        environment = {**os.environ, "NEEDLE_CACHE_DIR": str(folder), "NEEDLE_CACHE": "1"}
        for warm in (False, True):
            done = subprocess.run(
                [sys.executable, "-c", script.format(warm=warm)],
                env=environment, capture_output=True, text=True, timeout=60, check=False,
            )  # fmt: skip
            assert (done.stdout, done.stderr) == ("True\n", "")
        assert len(list((folder / "kernels").iterdir())) == 1


def compile_as_a_new_process(folder: Path, monkeypatch: pytest.MonkeyPatch, write: Any) -> bytes:
    monkeypatch.setenv("NEEDLE_CACHE", "1")
    monkeypatch.setenv("NEEDLE_CACHE_DIR", str(folder))
    build._cache.cache_clear()
    try:
        return build.object_code("example", write)
    finally:
        build._cache.cache_clear()


def test_covers_knows_methods_partial_functions_and_strangers() -> None:
    import functools

    assert code_cache.covers(pool.write)
    assert code_cache.covers(functools.partial(pool.write))
    assert code_cache.covers(pool.PoolCode.read)
    assert not code_cache.covers(functools.partial(no_home))
    assert not code_cache.covers(print)

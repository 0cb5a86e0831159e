"""Memory that is left: of the machine, and of control groups, version 1 and 2, nested."""

from __future__ import annotations

from pathlib import Path

import pytest

from needle.runtime.available import available_bytes, total_bytes

MACHINE = "MemTotal:       1000 kB\nMemFree:          10 kB\nMemAvailable:    600 kB\n"
VERSION_2 = "31 23 0:28 / MOUNT rw,nosuid - cgroup2 cgroup rw"
VERSION_1 = "32 31 0:29 / MOUNT rw shared:9 - cgroup cgroup rw,memory"


class Kernel:
    """The files of /proc and of the control groups, in a folder."""

    def __init__(self, folder: Path) -> None:
        self.meminfo, self.process, self.mount = (
            folder / name for name in ("meminfo", "self", "groups")
        )
        self.process.mkdir()
        self.mount.mkdir()
        self.meminfo.write_text(MACHINE)

    def group(self, line: str, mount: str) -> None:
        (self.process / "cgroup").write_text(line + "\n")
        (self.process / "mountinfo").write_text(mount.replace("MOUNT", str(self.mount)) + "\n")

    def limit(self, group: str, **files: str) -> None:
        folder = self.mount / group
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in files.items():
            (folder / f"memory.{name}").write_text(text + "\n")

    def available(self) -> int | None:
        return available_bytes(self.meminfo, self.process)

    def total(self) -> int | None:
        return total_bytes(self.meminfo, self.process)


@pytest.fixture
def kernel(tmp_path: Path) -> Kernel:
    return Kernel(tmp_path)


def test_without_groups_the_machine_counts(kernel: Kernel) -> None:
    assert (kernel.available(), kernel.total()) == (600 << 10, 1000 << 10)


def test_the_own_groups_limit_counts_less_what_it_uses(kernel: Kernel) -> None:
    kernel.group("0::/user/job", VERSION_2)
    kernel.limit("user/job", max="5000", current="3000", stat="anon 1\ninactive_file 500")
    assert (kernel.available(), kernel.total()) == (2500, 5000)


def test_the_tightest_of_the_groups_above_counts(kernel: Kernel) -> None:
    kernel.group("0::/user/job", VERSION_2)
    kernel.limit("user/job", max="max", current="3000")
    kernel.limit("user", max="9000", current="8000")
    kernel.limit("", max="20000", current="9000")
    assert (kernel.available(), kernel.total()) == (1000, 9000)


def test_version_1(kernel: Kernel) -> None:
    kernel.group("4:memory:/job", VERSION_1)
    kernel.limit("job", limit_in_bytes="7000", usage_in_bytes="9000")
    kernel.limit("", limit_in_bytes=str(1 << 62), usage_in_bytes="9000")
    assert (kernel.available(), kernel.total()) == (0, 7000)


def test_lines_that_are_none_of_ours_are_passed_over(kernel: Kernel) -> None:
    kernel.group("0::/job\nnonsense\n7:", VERSION_2)
    with (kernel.process / "mountinfo").open("ab") as file:
        file.write(b"29 1 0:26 / /mnt/\xff rw - ext4 /dev/sda rw\n\nshort - line\n")
    kernel.limit("job", max="5000", current="1000")
    assert (kernel.available(), kernel.total()) == (4000, 5000)


def test_where_the_system_says_nothing_nothing_is_known(tmp_path: Path) -> None:
    absent = tmp_path / "absent"
    assert available_bytes(absent, absent) is None
    assert total_bytes(absent, absent) is None

"""Counting processors: quotas of control groups, version 1 and 2, nested, mounted in part."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from needle.runtime.cpus import available_cpus, cgroup_quota


class Kernel:
    """The files of /proc/self and of the control groups, in a folder."""

    def __init__(self, folder: Path) -> None:
        self.process, self.mount = folder / "proc", folder / "groups"
        self.process.mkdir()
        self.mount.mkdir()

    def groups(self, *lines: str) -> None:
        (self.process / "cgroup").write_text("".join(f"{line}\n" for line in lines))

    def mounts(self, *lines: str) -> None:
        first = "22 1 8:1 / / rw,relatime - ext4 /dev/sda1 rw"
        text = "\n".join((first, *lines)).replace("MOUNT", str(self.mount))
        (self.process / "mountinfo").write_text(text + "\n")

    def limit(self, group: str, **files: str) -> None:
        folder = self.mount / group
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in files.items():
            (folder / f"cpu.{name}").write_text(text + "\n")


VERSION_2 = "31 23 0:28 / MOUNT rw,nosuid - cgroup2 cgroup rw"
VERSION_1 = "32 31 0:29 / MOUNT rw shared:9 - cgroup cgroup rw,cpu,cpuacct"


@pytest.fixture
def kernel(tmp_path: Path) -> Kernel:
    return Kernel(tmp_path)


def test_version_2_quota_of_the_own_group(kernel: Kernel) -> None:
    kernel.groups("0::/user/job")
    kernel.mounts(VERSION_2)
    kernel.limit("user/job", max="150000 100000")
    assert cgroup_quota(kernel.process) == 1.5


def test_the_tightest_of_the_groups_above_counts(kernel: Kernel) -> None:
    kernel.groups("0::/user/job")
    kernel.mounts(VERSION_2)
    kernel.limit("user/job", max="max 100000")
    kernel.limit("user", max="200000 100000")
    kernel.limit("", max="400000 100000")
    assert cgroup_quota(kernel.process) == 2


def test_version_1_quota(kernel: Kernel) -> None:
    kernel.groups("3:cpuset:/elsewhere", "2:cpu,cpuacct:/job", "0::/")
    kernel.mounts(VERSION_1)
    kernel.limit("job", cfs_quota_us="50000", cfs_period_us="100000")
    assert cgroup_quota(kernel.process) == 0.5


def test_a_mount_of_a_part_is_searched_from_there(kernel: Kernel) -> None:
    kernel.groups("2:cpu:/containers/7/job")
    kernel.mounts("32 31 0:29 /containers/7 MOUNT rw - cgroup cgroup rw,cpu")
    kernel.limit("job", cfs_quota_us="-1", cfs_period_us="100000")
    kernel.limit("", cfs_quota_us="300000", cfs_period_us="100000")
    assert cgroup_quota(kernel.process) == 3


@pytest.mark.parametrize("group", ["/outside/of/it", "/../sibling"])
def test_a_group_outside_of_the_mount_takes_the_mounts_limit(kernel: Kernel, group: str) -> None:
    kernel.groups(f"0::{group}")
    kernel.mounts("32 31 0:29 /containers/7 MOUNT rw - cgroup2 cgroup rw")
    kernel.limit("", max="100000 100000")
    assert cgroup_quota(kernel.process) == 1


@pytest.mark.parametrize("text", ["max 100000", "", "nonsense", "1 2 3", "0 100000", "100000 0"])
def test_no_quota(kernel: Kernel, text: str) -> None:
    kernel.groups("0::/")
    kernel.mounts(VERSION_2)
    kernel.limit("", max=text)
    assert cgroup_quota(kernel.process) is None


def test_without_the_kernels_files_there_is_no_quota(tmp_path: Path) -> None:
    assert cgroup_quota(tmp_path / "absent") is None


@pytest.mark.parametrize(
    ("quota", "count"), [("1000 100000", 1), ("100000 100000", 1), ("100001 100000", 2)]
)
def test_quota_is_rounded_up(
    kernel: Kernel, monkeypatch: pytest.MonkeyPatch, quota: str, count: int
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)), raising=False)
    kernel.groups("0::/")
    kernel.mounts(VERSION_2)
    kernel.limit("", max=quota)
    assert available_cpus(kernel.process) == count


def test_affinity_counts_where_it_is_tighter(
    kernel: Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 5, 6}, raising=False)
    kernel.groups("0::/")
    kernel.mounts(VERSION_2)
    kernel.limit("", max="800000 100000")
    assert available_cpus(kernel.process) == 3

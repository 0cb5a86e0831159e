"""The kernel that counts."""

import numpy as np
import pytest
from native_calls import DTYPES, call, view

from needle.compiler import build
from needle.compiler.kernels import iota
from needle.compiler.target import TARGETS


def counted(shape, dtype, tasks=1):
    """What the kernel writes, between two borders that it must leave alone."""
    memory = np.full(int(np.prod(shape)) + 32, 77).astype(dtype)
    out = memory[16:-16].reshape(shape)
    assert call(iota.prepare(view(out)), out, tasks=tasks) == 0
    border = np.full(16, 77).astype(dtype)
    assert memory[:16].tobytes() == memory[-16:].tobytes() == border.tobytes()
    return out


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_counts_in_every_dtype_and_length(dtype):
    for length in (*range(70), 1000, 5000):
        with np.errstate(all="ignore"):
            expected = np.arange(length, dtype=np.int64).astype(dtype)
        assert counted((length,), dtype).tobytes() == expected.tobytes()


def test_counts_row_by_row():
    assert counted((3, 1, 5), np.float32).tolist() == np.arange(15.0).reshape(3, 1, 5).tolist()


def test_a_single_number_is_zero():
    assert counted((), np.int64).tolist() == 0


@pytest.mark.parametrize("dtype", ["float32", "int8", "bool"])
@pytest.mark.parametrize("length", [0, 1, 63, 64, 1000])
def test_tasks_do_not_change_the_result(dtype, length):
    whole = counted((length,), dtype)
    for tasks in (2, 3, 7, 20):
        assert counted((length,), dtype, tasks).tobytes() == whole.tobytes()


def test_large_floats_are_rounded_once():
    count = 2**24 + 4096
    tail = counted((count,), np.float32)[-4096:]
    assert tail.tolist() == np.arange(2**24, count).astype(np.float32).tolist()


def test_long_rows_are_worth_several_tasks():
    assert iota.prepare(view(np.empty(10, np.float32))).tasks == 1
    assert iota.prepare(view(np.empty(10**6, np.float32))).tasks > 1


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_lowers_for_every_target(target, dtype):
    assert build.ENTRY in build.assembly(iota.writer(str(dtype)), target)

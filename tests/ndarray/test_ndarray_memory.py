"""Memory: too much is refused by name before it is touched; what is freed is used again."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ndarray.side_by_side import address, each_device

import needle.backend_ndarray as nd
from needle.backend_ndarray import plans
from needle.runtime.call import runtime_function


@pytest.fixture(autouse=True)
def _no_collection() -> Iterator[None]:
    """Nothing that other tests left in cycles is given back in the middle of a count."""
    gc.disable()
    yield
    gc.enable()


def used() -> int:
    return runtime_function("used")()


def column(device: nd.Device, n: int) -> nd.NDArray:
    """n numbers that take the place of one."""
    return nd.ones((1, 1), device=device).broadcast_to((n, 1))


MUCH = 1 << 45
HUGE: list[tuple[str, Any, int]] = [
    ("empty", lambda d: nd.empty((MUCH,), device=d), 4 * MUCH),
    ("empty", lambda d: nd.empty((1 << 40, 1 << 22), "int8", d), 1 << 62),
    ("full", lambda d: nd.full((MUCH,), 2, "float64", d), 8 * MUCH),
    ("zeros", lambda d: nd.zeros((MUCH,), device=d), 4 * MUCH),
    ("ones", lambda d: nd.ones((MUCH,), device=d), 4 * MUCH),
    ("arange", lambda d: nd.arange(MUCH, device=d), 8 * MUCH),
    ("make", lambda d: nd.NDArray.make((MUCH,), device=d), 4 * MUCH),
    ("add", lambda d: nd.ones((1 << 20, 1), device=d) + nd.ones((1, 1 << 22), device=d), 1 << 44),
    ("exp", lambda d: nd.exp(column(d, MUCH)), 4 * MUCH),
    ("multiply", lambda d: column(d, MUCH) * 2.0, 4 * MUCH),
    ("matmul", lambda d: column(d, 1 << 23) @ column(d, 1 << 23).T, 1 << 48),
    ("einsum", lambda d: nd.einsum("ij,kj->ik", column(d, 1 << 23), column(d, 1 << 23)), 1 << 48),
    ("compact", lambda d: column(d, MUCH).compact(), 4 * MUCH),
    ("astype", lambda d: column(d, MUCH).reshape((1 << 20, -1)).astype("int8"), MUCH),
    ("flip", lambda d: column(d, MUCH).flip((0,)), 4 * MUCH),
    ("reshape", lambda d: nd.ones((2, 1), device=d).broadcast_to((2, MUCH)).reshape((-1,)),
     8 * MUCH),
    ("eye", lambda d: nd.eye(1 << 23, device=d), 1 << 48),
    ("one_hot", lambda d: nd.one_hot(MUCH, [3], "int8", d), MUCH * 8),
    ("stack", lambda d: nd.stack([column(d, MUCH)] * 2), 8 * MUCH),
    ("mean", lambda d: column(d, MUCH).broadcast_to((2, MUCH, 1)).mean(0), 4 * MUCH),
    ("tolist", lambda d: column(d, MUCH).tolist(), 8 * MUCH),
    ("bytes", lambda d: bytes(column(d, MUCH)), 4 * MUCH),
    ("numpy", lambda d: column(d, MUCH).numpy(), 4 * MUCH),
    ("cumsum", lambda d: nd.cumsum(column(d, MUCH), 0), 4 * MUCH),
    ("sum", lambda d: column(d, MUCH)[:, :, None].broadcast_to((MUCH, 1, 0)).sum(2), 4 * MUCH),
    ("concatenate", lambda d: nd.concatenate([column(d, MUCH)] * 2), 8 * MUCH),
    ("pad", lambda d: nd.ones((1,), device=d).pad([(MUCH, 0)]), 4 * MUCH + 4),
    ("getitem", lambda d: column(d, 3).T[:, [0]].broadcast_to((MUCH, 1))[:, [0, 0]], 8 * MUCH),
]  # fmt: skip


@each_device
@pytest.mark.parametrize(("name", "act", "nbytes"), HUGE,
                         ids=[f"{row[0]}-{i}" for i, row in enumerate(HUGE)])  # fmt: skip
def test_more_memory_than_there_is_is_refused_by_name(
    device: nd.Device, name: str, act: Any, nbytes: int
) -> None:
    before = used()
    expected = (
        rf"^{name}: expected a result within the [\d,]+ bytes of memory there are, "
        rf"got one of {nbytes:,} bytes\.$"
    )
    for _ in range(2):  # the second time from the plan
        with pytest.raises(MemoryError, match=expected):
            act(device)
    assert used() == before


@each_device
def test_views_of_more_than_there_is_are_free(device: nd.Device) -> None:
    x = column(device, MUCH)
    assert x.size == MUCH and x.nbytes == 4 * MUCH
    assert x[5:7].numpy().tolist() == [[1], [1]]
    assert x.T[..., ::2].shape == (1, MUCH // 2)


def test_what_is_kept_for_reuse_is_handed_back_before_memory_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    freed = nd.ones((1 << 18,), device=nd.cpu())
    del freed
    kept = runtime_function("kept")()
    assert kept >= 1 << 20
    large = plans._LARGE
    monkeypatch.setattr("needle.runtime.available.available_bytes", lambda: large - kept // 2)
    plans.require_memory("full", large)
    assert runtime_function("kept")() == 0
    with pytest.raises(MemoryError, match=r"^full: expected"):
        plans.require_memory("full", large)


def test_memory_is_free_when_the_last_view_goes() -> None:
    before = used()
    x = nd.ones((1000, 100), device=nd.cpu())
    view = x.T[10:, ::-5]
    flat = view.reshape((-1,))
    del x
    assert used() >= before + 400_000
    del view
    assert used() < before + 400_000
    del flat
    assert used() == before


@pytest.mark.skipif(
    not Path("/proc/self/statm").exists(), reason="Linux's /proc tells what is resident"
)
def test_memory_that_is_given_back_leaves_the_process() -> None:
    def resident() -> int:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")

    trim = runtime_function("trim")
    trim()
    before = resident()
    for count in (30, 20, 10):  # the C library's heap would have holes after the first time
        arrays = [nd.ones((1 << 20) + (n << 16), device=nd.cpu()) for n in range(count)]
        del arrays[::2]
        trim()
        del arrays
        trim()
    assert resident() - before < 20 << 20


@pytest.mark.parametrize("n", [1, 10, 1000, 100_000])
def test_a_loop_uses_the_same_memory_again(n: int) -> None:
    x = nd.ones((n,), device=nd.cpu())
    y = (x + 1.0) * 2.0
    before, kept = used(), runtime_function("kept")()
    for _ in range(1000):
        y = (x + 1.0) * 2.0
    assert used() == before
    assert runtime_function("kept")() <= kept + 3 * max(128, y.nbytes)
    assert y.numpy()[0] == 4


def test_a_failed_call_leaves_no_memory_behind() -> None:
    x = nd.ones((1000,), device=nd.cpu())
    ids = nd.full((1000,), 2000, "int64", nd.cpu())
    before = used()
    for _ in range(10):
        with pytest.raises(IndexError):
            x[ids]
    assert used() == before


@each_device
def test_fresh_memory_is_aligned_for_the_widest_vectors(device: nd.Device) -> None:
    if device == nd.cpu():
        for n in (1, 3, 1000):
            assert address(nd.empty((n,), "int8", device)) % 64 == 0
    assert np.asarray(nd.empty((3,), "float64", device)).flags.aligned

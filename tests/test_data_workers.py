"""Thread workers: the same batches in the same order, errors that arrive, threads that end."""

from __future__ import annotations

import gc
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

import needle as ndl
from needle.data import DataLoader, Dataset, NDArrayDataset, Transform, random_stream


class AddNoise(Transform):
    """Draws as a transform should, after a pause that shuffles the threads."""

    def __call__(self, x):
        time.sleep(0.0005 * (int(x.flat[0]) % 3))
        return x + random_stream.current().rand()


class Noisy(Dataset):
    def __init__(self, length=23):
        super().__init__([AddNoise()])
        self.length = length

    def __getitem__(self, index):
        return self.apply_transforms(np.full((2,), index, dtype=float)), index

    def __len__(self):
        return self.length


class Gate(Dataset):
    """Items that wait until the gate is opened; counts those begun."""

    def __init__(self, length=100):
        super().__init__()
        self.length = length
        self.begun = []
        self.gate = threading.Event()

    def __getitem__(self, index):
        self.begun.append(index)
        self.gate.wait(10)
        return (index,)

    def __len__(self):
        return self.length


def epochs(loader, count=2):
    return [[[x.numpy().tolist() for x in batch] for batch in loader] for _ in range(count)]


def loader_threads():
    return [t for t in threading.enumerate() if t.name.startswith("needle-loader")]


def wait_until(condition, seconds=5):
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.005)
    return condition()


@pytest.fixture(autouse=True)
def _no_thread_is_left():
    yield
    gc.collect()
    assert wait_until(lambda: not loader_threads())


@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize("workers", [1, 2, 5])
@pytest.mark.parametrize("prefetch", [1, 3])
def test_seeded_batches_are_the_same_for_any_number_of_workers(shuffle, workers, prefetch):
    plain = DataLoader(Noisy(), 4, shuffle, seed=3)
    threaded = DataLoader(Noisy(), 4, shuffle, seed=3, num_workers=workers, prefetch=prefetch)
    assert epochs(threaded) == epochs(plain)


def test_without_a_seed_batches_follow_numpys_and_not_the_number_of_workers():
    def run(workers, seed, shuffle=True):
        np.random.seed(seed)
        return epochs(DataLoader(Noisy(), 4, shuffle, num_workers=workers))

    assert run(1, 0) == run(2, 0) == run(4, 0)
    assert run(2, 0, shuffle=False) != run(2, 1, shuffle=False)


def test_workers_leave_the_global_stream_as_a_loader_without_them_does():
    def run(workers):
        np.random.seed(0)
        dataset = NDArrayDataset(np.arange(9))
        batches = epochs(DataLoader(dataset, 2, True, num_workers=workers))
        return batches, np.random.rand()

    assert run(0) == run(3)


def test_the_noise_of_an_item_does_not_depend_on_order_or_batch_size():
    def noise(**options):
        loader = DataLoader(Noisy(), seed=8, **options)
        return {
            int(i): x[0] for xs, ids in loader for x, i in zip(xs.numpy(), ids.numpy(), strict=True)
        }

    assert noise(batch_size=4) == noise(batch_size=7) == noise(batch_size=5, num_workers=2)


@pytest.mark.parametrize("options", [{"seed": 1}, {"num_workers": 2}])
def test_each_item_draws_its_own_numbers_in_each_epoch(options):
    first, second = epochs(DataLoader(Noisy(), 4, **options))
    noise = [x[0] - i for batch in first + second for x, i in zip(*batch, strict=True)]
    assert len(set(np.round(noise, 9))) == 2 * len(Noisy())


def test_transforms_draw_from_the_global_stream_without_seed_and_workers():
    loader = DataLoader(Noisy(6), 4)
    np.random.seed(5)
    noise = np.random.rand(6)
    np.random.seed(5)
    drawn = np.concatenate([x.numpy()[:, 0] for x, _ in loader])
    np.testing.assert_allclose(drawn, np.arange(6) + noise, rtol=1e-6)


def test_image_transforms_are_seeded_item_by_item_too(tmp_path):
    from data_files import write_mnist

    files = write_mnist(tmp_path)
    transforms = [ndl.data.RandomFlipHorizontal(), ndl.data.RandomCrop(2)]
    dataset = ndl.data.MNISTDataset(*files, transforms=transforms)
    plain = epochs(DataLoader(dataset, 5, True, seed=1))
    assert epochs(DataLoader(dataset, 5, True, seed=1, num_workers=3)) == plain
    assert plain[0] != plain[1]
    one_by_one = [batch[0][0] for batch in epochs(DataLoader(dataset, 1, seed=1), 1)[0]]
    in_threes = [x for batch in epochs(DataLoader(dataset, 3, seed=1), 1)[0] for x in batch[0]]
    assert one_by_one == in_threes


def test_prefetch_bounds_what_is_begun():
    dataset = Gate()
    dataset.gate.set()
    iterator = iter(DataLoader(dataset, 1, num_workers=2, prefetch=3))
    assert next(iterator)[0].item() == 0
    assert wait_until(lambda: len(dataset.begun) == 7)  # one received, 2 * 3 ahead
    time.sleep(0.05)
    assert len(dataset.begun) == 7
    iterator.close()


def test_no_thread_starts_before_the_first_batch_is_asked_for():
    iterator = iter(DataLoader(Noisy(), 2, num_workers=2))
    assert loader_threads() == []
    next(iterator)
    assert len(loader_threads()) == 2


def test_batches_really_load_at_the_same_time():
    barrier = threading.Barrier(3)

    class Meeting(Dataset):
        def __getitem__(self, index):
            barrier.wait(10)  # breaks unless three threads come
            return (index,)

        def __len__(self):
            return 3

    batches = list(DataLoader(Meeting(), 1, num_workers=3))
    assert [x.item() for (x,) in batches] == [0, 1, 2]


class _Odd(LookupError):
    pass


class FailsAt(Dataset):
    def __init__(self, at, error):
        super().__init__()
        self.at, self.error = at, error

    def __getitem__(self, index):
        if index == self.at:
            raise self.error
        return (index,)

    def __len__(self):
        return 50


@pytest.mark.parametrize("workers", [0, 1, 4])
@pytest.mark.parametrize("error", [ValueError("pixel 7 is odd"), _Odd("no such"), SystemExit("no")])
def test_exception_arrives_in_its_turn_as_it_was_raised(workers, error):
    received = []
    with pytest.raises(type(error)) as caught:
        for (x,) in DataLoader(FailsAt(9, error), 2, num_workers=workers):
            received.append(x.numpy().tolist())
    assert caught.value is error
    assert received == [[0, 1], [2, 3], [4, 5], [6, 7]]
    assert any(entry.name == "__getitem__" for entry in caught.traceback)


def test_type_error_of_an_item_is_not_replaced_by_that_of_an_index_array():
    error = TypeError("an item of our own")
    with pytest.raises(TypeError, match="an item of our own"):
        list(DataLoader(FailsAt(0, error), 4))


def test_leaving_the_loop_early_stops_the_threads():
    for i, _ in enumerate(DataLoader(Noisy(), 2, num_workers=3)):
        assert len(loader_threads()) == 3
        if i == 1:
            break
    assert loader_threads() == []


def test_an_exception_in_the_loop_stops_the_threads():
    def train():
        for _ in DataLoader(Noisy(), 2, num_workers=3):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train()
    assert wait_until(lambda: not loader_threads())


def test_deleting_the_iterator_stops_the_threads():
    iterator = iter(DataLoader(Noisy(), 2, num_workers=2))
    next(iterator)
    del iterator
    assert loader_threads() == []


def test_iterator_in_a_cycle_is_stopped_by_the_garbage_collector():
    cell = [iter(DataLoader(Noisy(), 2, num_workers=2))]
    next(cell[0])
    cell.append(cell)
    del cell
    gc.collect()
    assert loader_threads() == []


def test_finished_loop_leaves_no_thread():
    assert len(list(DataLoader(Noisy(), 5, num_workers=4))) == 5
    assert loader_threads() == []


def test_stopping_does_not_wait_for_ever_for_an_item_that_hangs():
    dataset = Gate()
    dataset.gate.set()
    iterator = iter(DataLoader(dataset, 1, num_workers=1, prefetch=1))
    next(iterator)
    assert wait_until(lambda: dataset.begun == [0, 1])
    dataset.gate.clear()
    next(iterator)
    assert wait_until(lambda: dataset.begun == [0, 1, 2])  # and there it hangs
    began = time.monotonic()
    del iterator
    assert time.monotonic() - began < 5
    dataset.gate.set()


_INTERRUPTED = """
import os, signal, threading, time
import needle as ndl

class Slow(ndl.data.Dataset):
    def __getitem__(self, index):
        time.sleep(0.05)
        return (index,)
    def __len__(self):
        return 10_000

def interrupt():
    time.sleep(0.4)
    os.kill(os.getpid(), signal.SIGINT)

threading.Thread(target=interrupt).start()
try:
    for batch in ndl.data.DataLoader(Slow(), 4, num_workers=2):
        pass
except KeyboardInterrupt:
    pass
time.sleep(0.3)
print([t.name for t in threading.enumerate() if t.name.startswith("needle")])
"""

_LEFT_OPEN = """
import needle as ndl
iterator = iter(ndl.data.DataLoader([(i,) for i in range(1000)], 4, num_workers=2))
print([int(i) for i in next(iterator)[0].tolist()])
"""


def run_script(script):
    return subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False
    )


def test_ctrl_c_while_waiting_for_a_batch_stops_the_threads():
    result = run_script(_INTERRUPTED)
    assert (result.returncode, result.stdout, result.stderr) == (0, "[]\n", "")


def test_a_program_that_leaves_an_iterator_open_ends():
    result = run_script(_LEFT_OPEN)
    assert (result.returncode, result.stdout, result.stderr) == (0, "[0, 1, 2, 3]\n", "")

"""`ndl.profile()`: what it counts, what it writes, and that nothing of it stays."""

from __future__ import annotations

import json
import threading
import time

import numpy as np
import pytest

import needle as ndl
from needle import nn, optim
from needle.autograd.modes import modes
from needle.data import DataLoader
from needle.inspection.profiling import Profile, ProfileError
from needle.origins import current


class Numbers:
    """A dataset whose items take their time."""

    def __len__(self):
        return 12

    def __getitem__(self, index):
        time.sleep(0.001)
        return np.full(20, index, np.float32), index % 4


def training():
    model = nn.Sequential(nn.Linear(20, 16), nn.ReLU(), nn.Linear(16, 4))
    opt, loss_of = optim.SGD(model.parameters(), lr=0.1), nn.SoftmaxLoss()

    def step(x, y):
        opt.reset_grad()
        loss = loss_of(model(x), y)
        loss.backward()
        opt.step()
        return loss

    return step


def test_eager_operators_are_counted_by_direction():
    step = training()
    with ndl.profile() as p:
        for x, y in DataLoader(Numbers(), 4):
            step(x, y)
    assert p.ops["forward", "matmul"].calls == 2 * 3
    assert p.ops["backward", "matmul"].calls == 3 * 3  # the first layer's input has no gradient
    assert p.ops["forward", "relu"].calls == 3
    assert p.ops["update", "add"].calls == 4 * 3
    for times in p.ops.values():
        assert 0 < times.own <= times.total


def test_waiting_for_data_is_told_apart():
    with ndl.profile() as p:
        for _ in DataLoader(Numbers(), 4):
            pass
    assert 0.012 <= p.by_kind["data"] <= p.seconds


def test_kinds_add_up_to_no_more_than_the_whole():
    step = training()
    with ndl.profile() as p:
        for x, y in DataLoader(Numbers(), 4):
            step(x, y)
    assert sum(p.by_kind.values()) <= p.seconds
    assert {"forward", "backward", "update", "walk", "step", "data"} <= p.by_kind.keys()


def test_results_are_the_same():
    x = ndl.Tensor(np.arange(6.0).reshape(2, 3))
    (ndl.exp(x) * x).sum().backward()
    expected = x.grad.numpy()
    with ndl.profile():
        (ndl.exp(x) * x).sum().backward()
    assert (x.grad.numpy() == expected).all()


@pytest.mark.nd_mode
def test_compiled_steps_are_shown_kernel_by_kernel():
    step = ndl.jit(training())
    with ndl.profile() as p:
        for x, y in DataLoader(Numbers(), 4):
            step(x, y)
    assert p.ops == {}  # what is traced is no eager operator
    assert {"trace", "compile", "kernels", "call", "data"} == p.by_kind.keys()
    kernels = p.kernels()["step"]
    assert len(kernels) == step.compiled[0].kernels
    assert {kernel.runs for kernel in kernels} == {3}
    assert any("matmul" in kernel.title and "test_profile.py" in kernel.where for kernel in kernels)
    text = str(p)
    for words in ("step: 3 runs of", "compiling", "tracing", "loading data", "share of runs",
                  "threads are busy for"):  # fmt: skip
        assert words in text


@pytest.mark.nd_mode
def test_equal_kernels_are_one_line():
    weights = [ndl.Tensor(np.ones((64, 64), np.float32)) for _ in range(5)]

    @ndl.jit
    def network(x):
        for weight in weights:
            x = ndl.matmul(x, weight)
        return x

    with ndl.profile() as p:
        network(ndl.Tensor(np.ones((64, 64), np.float32)))
    assert len(p.kernels()["network"]) == 5
    lines = [line.split() for line in str(p).splitlines()]
    assert [line[1:3] for line in lines if "matmul" in line] == [["5", "matmul"]]


@pytest.mark.nd_mode
def test_lazy_programs_are_shown_too():
    with ndl.profile() as p, ndl.lazy():
        (ndl.exp(ndl.Tensor([1.0, 2.0])) + 1).numpy()
    assert len(p.kernels()["lazy values"]) == 1


def test_the_table_of_operators():
    with ndl.profile() as p:
        ndl.exp(ndl.Tensor([1.0]))
    lines = str(p).splitlines()
    assert lines[0].endswith(" in all")
    assert any(line.startswith("operators, forward") for line in lines)
    assert any(line.startswith("exp ") and " forward " in line for line in lines)
    assert repr(p).startswith("<Profile of ")


def test_nothing_of_it_stays():
    with pytest.raises(KeyError), ndl.profile():
        raise KeyError
    assert modes.plain and not modes.profiled and current.profile is None
    with ndl.profile() as p:
        ndl.Tensor([1.0]) * 2
    count = p.ops["forward", "mul_scalar"].calls
    ndl.Tensor([1.0]) * 2
    assert p.ops["forward", "mul_scalar"].calls == count == 1


def test_an_operator_that_fails_is_closed():
    with ndl.profile() as p:
        with pytest.raises(ndl.errors.ShapeError):
            ndl.Tensor([1.0, 2.0]) + ndl.Tensor([1.0, 2.0, 3.0])
        ndl.exp(ndl.Tensor([1.0]))
    assert p.ops["forward", "exp"].calls == 1 and p._open == []


def test_one_profile_at_a_time():
    with ndl.profile() as p, pytest.raises(ProfileError, match="one profile at a time"), p:
        pass
    with pytest.raises(ProfileError, match="expected a new profile, got one that has been used"):
        p.__enter__()


def test_other_threads_are_not_watched():
    def work():
        ndl.exp(ndl.Tensor([1.0]))

    with ndl.profile() as p:
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
    assert p.ops == {}


def test_a_loop_that_ends_early_closes_the_loader():
    class Watched(DataLoader):
        closed = False

        def _batches(self, epoch):
            try:
                yield from super()._batches(epoch)
            finally:
                self.closed = True

    loader = Watched(Numbers(), 4)
    with ndl.profile():
        batches = iter(loader)
        next(batches)
        batches.close()
    assert loader.closed


# -- the trace for a browser -------------------------------------------------------------------


def checked_trace(path):
    trace = json.loads(path.read_text())
    spans = [event for event in trace["traceEvents"] if event["ph"] == "X"]
    names = [event for event in trace["traceEvents"] if event["ph"] == "M"]
    assert len(spans) + len(names) == len(trace["traceEvents"])
    for event in spans:
        assert {"name", "cat", "ts", "dur", "pid", "tid"} <= event.keys()
        assert event["ts"] >= 0 and event["dur"] >= 0
    assert {event["tid"] for event in spans} <= {event["tid"] for event in names}
    return spans, {event["tid"]: event["args"]["name"] for event in names}


def test_the_trace_of_eager_steps(tmp_path):
    step = training()
    with ndl.profile() as p:
        for x, y in DataLoader(Numbers(), 4):
            step(x, y)
    spans, threads = checked_trace(p.save_chrome_trace(tmp_path / "trace.json"))
    assert threads == {0: "Python"}
    walks = [event for event in spans if event["name"] == "backward"]
    inner = [event for event in spans if event["cat"] == "backward"]
    assert len(walks) == 3 and inner
    for event in inner:  # each within a walk
        assert any(
            walk["ts"] <= event["ts"] and event["ts"] + event["dur"] <= walk["ts"] + walk["dur"]
            for walk in walks
        )


@pytest.mark.nd_mode
def test_the_trace_of_compiled_steps(tmp_path):
    step = ndl.jit(training())
    with ndl.profile() as p:
        for x, y in DataLoader(Numbers(), 4):
            step(x, y)
    spans, threads = checked_trace(p.save_chrome_trace(tmp_path / "trace.json"))
    assert threads[1] == "kernels, thread 0"
    runs = [event for event in spans if event["cat"] == "kernels"]
    kernels = [event for event in spans if event["cat"] == "kernel"]
    assert len(runs) == 3 and len(kernels) >= 3 * step.compiled[0].kernels
    for event in kernels:  # their clock is Python's
        assert any(
            run["ts"] <= event["ts"] and event["ts"] + event["dur"] <= run["ts"] + run["dur"]
            for run in runs
        )


def test_events_beyond_the_limit_are_only_counted(monkeypatch):
    monkeypatch.setattr("needle.inspection.profiling._MOST_EVENTS", 3)
    with ndl.profile() as p:
        for _ in range(10):
            ndl.exp(ndl.Tensor([1.0]))
    assert len(p.events) == 3 and p.ops["forward", "exp"].calls == 10


def test_a_profile_that_has_not_begun():
    assert Profile().seconds == 0.0
    assert "in all" in str(Profile())

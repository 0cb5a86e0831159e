"""The benchmarks compare like with like: every contender's losses, results, and counted flops."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
from parity.benchmark_scripts import (
    compile_time,
    jobs,
    machine,
    needle_contenders,
    peak_memory,
    single_kernels,
    torch_contenders,
)
from parity.benchmark_scripts import compiled_networks as networks

from needle.config import BACKEND

TINY = {
    "mlp": partial(jobs.mlp, batch=5, features=7, hidden=6),
    "mlp-resnet": partial(jobs.mlp_resnet, batch=8, features=7, hidden=6),
    "gpt": partial(jobs.gpt, layers=2, width=12, heads=3, tokens=8, batch=2, vocabulary=13),
    "resnet9": partial(jobs.resnet9, batch=8),
    "resnet18": partial(jobs.resnet18, batch=8, side=8, lr=1e-4),
    "lstm": partial(jobs.lstm, width=8, vocabulary=17, steps=5, batch=3),
}

FEW, NEAR = (
    3,
    2e-4,
)  # losses: a batch this small is soon elsewhere, once a number near 0 lost its sign


@pytest.fixture
def jax_contenders():
    pytest.importorskip("jax", reason="JAX is not installed")
    import jax_contenders

    return jax_contenders


# -- training steps --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", TINY)
def test_losses_of_needle_and_pytorch_agree(name):
    makers = {
        "jit": needle_contenders.compiled,
        "eager": needle_contenders.eager,
        "torch": torch_contenders.eager,
    }
    steps, faults = networks.checked_steps(TINY[name](), makers, FEW, NEAR)
    assert not faults
    assert list(steps) == list(makers)


@pytest.mark.parametrize("name", ["mlp", "mlp-resnet", "gpt", "lstm"])
def test_losses_of_jax_agree(name, jax_contenders):
    job = TINY[name]()
    assert jax_contenders.serves(job)
    makers = {"eager": needle_contenders.eager, "jax": jax_contenders.compiled}
    steps, faults = networks.checked_steps(job, makers, FEW, NEAR)
    assert not faults
    assert list(steps) == list(makers)


def test_losses_that_differ_are_no_result():
    networks.require_same({"jit": [2.0, 1.0], "torch": [2.001, 1.0]})
    with pytest.raises(
        networks.LossesDiffer, match=r"(?s)expected losses that agree.*torch: \[2.1 1. \]"
    ):
        networks.require_same({"jit": [2.0, 1.0], "torch": [2.1, 1.0]})
    with pytest.raises(networks.LossesDiffer):
        networks.require_same({"jit": [2.0, np.nan], "torch": [2.0, 1.0]})


def test_a_contender_that_fails_is_left_out_and_named():
    def fails(job, dropout):
        raise RuntimeError("no such luck")

    steps, faults = networks.checked_steps(
        TINY["mlp"](), {"a": fails, "b": needle_contenders.eager}
    )
    assert list(steps) == ["b"]
    assert str(faults["a"]) == "no such luck"
    assert networks.checked_steps(TINY["mlp"](), {"a": fails})[0] == {}


def test_dropout_is_on_while_steps_are_timed_and_off_while_losses_are_compared():
    asked = []

    def make(job, dropout):
        asked.append(dropout)
        return lambda: 1.0

    networks.checked_steps(TINY["mlp-resnet"](), {"a": make})
    assert asked == [0.0, 0.1]


@pytest.mark.parametrize("name", ["mlp", "mlp-resnet", "gpt", "resnet9", "resnet18"])
def test_flops_are_those_that_pytorch_counts(name):  # its counter sees no LSTM
    job = TINY[name]()
    step = torch_contenders.eager(job, 0.0)
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        step()
    assert counter.get_total_flops() == job.flops


def test_the_ratio_that_is_marked_is_to_the_faster_of_pytorch():
    seconds = {"jit": 1e-3, "eager": 4e-3, "torch": 2e-3, "compile": 1.5e-3}
    ratios = dict.fromkeys(("eager", "torch", "compile"), (0.1, 0.2, 0.3))
    result = networks.as_dict(TINY["mlp"](), networks.Result(seconds, ratios), peak=100.0)
    assert result["best_of_torch"] == "compile"
    assert [
        text.split()[1] for text in networks.lines("mlp", result) if "best of PyTorch" in text
    ] == ["compile"]


# -- single operators ------------------------------------------------------------------------------

CASES = {
    "softmax": partial(single_kernels.softmax, 5, 7),
    "layer norm": partial(single_kernels.layer_norm, 5, 7),
    "cross-entropy": partial(single_kernels.cross_entropy, 5, 7),
    "convolution": partial(single_kernels.convolution, 5, 3, batch=2),
    "attention": partial(single_kernels.attention, 6, batch=2, heads=2),
}


@pytest.mark.parametrize("name", CASES)
def test_single_operators_agree(name):
    calls = single_kernels.checked_calls(CASES[name](), compiles=False)
    assert list(calls) == ["jit", "torch"]


# -- processes -------------------------------------------------------------------------------------


@pytest.mark.skipif(BACKEND != "nd", reason="np mode compiles nothing")
def test_another_batch_size_builds_no_kernel(monkeypatch):
    monkeypatch.setitem(compile_time.JOBS, "tiny", TINY["mlp"])
    found = compile_time.first_calls("tiny", threads=1)
    assert set(found) == set(compile_time.PARTS)
    assert found["its new kernels"] == 0
    assert "0 new kernels" in compile_time.line(compile_time.medians([found, found]))


@pytest.mark.skipif(not peak_memory._STATUS.exists(), reason="/proc is Linux's")
@pytest.mark.parametrize("contender", ["eager", "torch"])
def test_peak_memory_is_a_number_of_megabytes(monkeypatch, contender):
    monkeypatch.setitem(peak_memory.JOBS, "tiny", TINY["mlp"])
    assert 0 <= peak_memory.of_steps("tiny", contender, threads=1)["megabytes"] < 1000


def test_a_session_says_what_was_measured_with():
    session = machine.session()
    assert session["threads"] >= 1
    assert {"needle", "numpy", "torch"} <= set(session["versions"])

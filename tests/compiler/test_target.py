"""Which machine is written for; and whole computations with the instructions of lesser machines."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from needle.compiler.target import AVX2, AVX512, NEON, PLAIN, TARGETS, Target

COMPUTATION = """
import numpy as np
import needle.backend_ndarray as nd
from needle.compiler.target import Target

rng = np.random.default_rng(0)
for dtype in ("float32", "float64", "float16", "int32", "int8"):
    a, b = [(rng.standard_normal((37, 41)) * 3).astype(dtype) for _ in range(2)]
    x, y = nd.array(a, dtype), nd.array(b, dtype)
    close = dict(rtol=1e-2 if dtype == "float16" else 1e-4, atol=1e-2)
    np.testing.assert_allclose((x + y[::-1]).numpy(), a + b[::-1])
    np.testing.assert_allclose((x * y.permute((1, 0)).reshape((37, 41))).numpy(),
                               a * b.T.reshape(37, 41), **close)
    np.testing.assert_allclose((x @ y.permute((1, 0))).numpy(), a @ b.T, **close)
    np.testing.assert_allclose(nd.sum(x, 0).numpy(), a.sum(0), **close)
    np.testing.assert_allclose(nd.max(x, 1).numpy(), a.max(1))
    np.testing.assert_array_equal(nd.argmax(x, 1).numpy(), a.argmax(1))
    np.testing.assert_array_equal(x[nd.arange(37)].numpy(), a)
    if dtype.startswith("float"):
        for name in ("exp", "tanh", "sin"):
            want = getattr(np, name)(a.astype(np.float64))
            np.testing.assert_allclose(getattr(nd, name)(x).numpy(), want, **close)
print(Target.host().name)
"""


def run(target: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "NEEDLE_TARGET": target}
    command = [sys.executable, "-W", "error", "-c", COMPUTATION]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
def test_a_target_computes_the_same_or_is_refused(target: Target) -> None:
    done = run(target.name)
    if done.returncode == 0:
        assert done.stdout.split() == [target.name]
    else:
        assert "NEEDLE_TARGET: expected one that runs here" in done.stderr


def test_plain_runs_on_every_x86() -> None:
    if not Target.host().triple.startswith("x86_64"):
        pytest.skip("this is no x86")
    assert run("plain").returncode == 0


def test_an_unknown_target_is_refused_by_name() -> None:
    assert "got 'z80'" in run("z80").stderr


def test_the_host_is_one_of_the_targets_with_its_own_features() -> None:
    host = Target.host()
    assert host.name in {target.name for target in TARGETS}
    assert host.lanes(4) * 4 == host.vector_bytes


def test_targets_differ_in_vectors_and_registers() -> None:
    assert [t.lanes(4) for t in (PLAIN, AVX2, AVX512, NEON)] == [4, 8, 16, 4]
    assert [t.vector_registers for t in (PLAIN, AVX2, AVX512, NEON)] == [16, 16, 32, 32]

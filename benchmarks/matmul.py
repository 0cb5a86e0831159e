"""Matrix products of float32 NDArrays against PyTorch and NumPy on the same data.

    python benchmarks/matmul.py [--rounds 11] [--threads N] [--only WORD] [--json FILE]

Rates are medians over rounds in which the contenders take turns; beside them stands the share of
the machine's peak, measured in the same process: additions and multiplications of registers alone.
NumPy uses as many threads as its BLAS was told to (OPENBLAS_NUM_THREADS) when it was imported.
"""

from __future__ import annotations

import ctypes
import time
from typing import Any

import numpy as np
import torch
from interleaved import compare, parser_for, write_json

import needle as ndl
import needle.backend_ndarray as nd
from needle.compiler.build import address_of
from needle.compiler.code import Code
from needle.compiler.target import Target
from needle.compiler.types import F32

# batch, m, k, n; and which operands are transposed matrices
SHAPES: list[tuple[int, int, int, int, str]] = [
    (1, 1024, 1024, 1024, ""),
    (1, 2048, 2048, 2048, ""),
    (1, 100, 784, 100, ""),
    (1, 784, 100, 100, "a"),  # as the gradient of weights is taken
    (1, 784, 100, 100, ""),
    (1, 100, 100, 784, "b"),  # as the gradient of the input is
    (1, 128, 512, 512, ""),
    (1, 128, 512, 512, "b"),
    (48, 64, 64, 64, ""),
    (48, 64, 64, 64, "b"),
    (1, 20000, 64, 64, ""),
    (1, 64, 20000, 64, ""),
    (1, 4096, 4096, 8, ""),
    (1, 8, 2000, 2000, ""),
    (1, 10, 10, 10, ""),
    (1, 64, 64, 64, ""),
    (1, 2000, 1000, 1, ""),
    (1, 1, 1000, 2000, ""),
    (1, 1, 100_000, 1, ""),
]
_CHAINS = 12


def peak_of_one_core(rounds: int = 20) -> float:
    """GFLOP/s of one thread that multiplies and adds registers in independent chains."""

    def write(module: Any, target: Target) -> None:
        code = Code(module, "kernel", target)
        context, steps, _ = code.arguments
        lanes = target.lanes(4)
        factor = code.constant(1.0001, F32, lanes)
        chains = [code.variable(code.constant(i, F32, lanes)) for i in range(_CHAINS)]
        with code.loop(0, steps):
            for chain in chains:
                chain.set(code.fma(chain.get(), factor, factor))
        total = chains[0].get()
        for chain in chains[1:]:
            total = total + chain.get()
        code.store(total, context, "float32")
        code.finish()

    run = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64)(
        address_of("benchmark: peak", write)
    )
    place, steps, best = (ctypes.c_float * 64)(), 50_000, float("inf")
    for _ in range(rounds):
        start = time.perf_counter()
        run(ctypes.addressof(place), steps, 1)
        best = min(best, time.perf_counter() - start)
    return 2 * steps * _CHAINS * Target.host().lanes(4) / best / 1e9


def operands(batch: int, m: int, k: int, n: int, transposed: str) -> tuple[Any, Any]:
    """Two NumPy arrays; a letter in `transposed`: that one's columns are contiguous."""
    rng = np.random.default_rng(0)

    def one(rows: int, columns: int, name: str) -> Any:
        shape = (columns, rows) if name in transposed else (rows, columns)
        x = rng.standard_normal((*([batch] if batch > 1 else []), *shape)).astype(np.float32)
        return x.swapaxes(-1, -2) if name in transposed else x

    return one(m, k, "a"), one(k, n, "b")


def ours(x: Any, name: str, transposed: str) -> Any:
    """The same array as an NDArray of the same strides."""
    if name not in transposed:
        return nd.array(x, device=nd.cpu())
    swapped = (*range(x.ndim - 2), x.ndim - 1, x.ndim - 2)
    return nd.array(x.swapaxes(-1, -2).copy(), device=nd.cpu()).permute(swapped)


def main() -> None:
    """Print one line per shape."""
    parser = parser_for(__doc__, rounds=11)
    parser.add_argument("--threads", type=int, default=ndl.get_num_threads())
    parser.add_argument("--only", default="", help="shapes whose label contains this")
    options = parser.parse_args()
    ndl.set_num_threads(options.threads)
    torch.set_num_threads(options.threads)
    peak = max(peak_of_one_core() for _ in range(5)) * options.threads
    print(f"{options.threads} threads, peak {peak:.0f} GFLOP/s")
    results: dict[str, Any] = {"threads": options.threads, "peak": peak}
    for batch, m, k, n, transposed in SHAPES:
        label = f"{batch}x({m}x{k} @ {k}x{n})" if batch > 1 else f"{m}x{k} @ {k}x{n}"
        label += "".join(f" {name}ᵀ" for name in transposed)
        if options.only not in label:
            continue
        a, b = operands(batch, m, k, n, transposed)
        x, y = ours(a, "a", transposed), ours(b, "b", transposed)
        X, Y = torch.from_numpy(a), torch.from_numpy(b)
        np.testing.assert_allclose(np.asarray(x @ y), a @ b, rtol=1e-3, atol=2e-3, err_msg=label)
        found = compare(
            {"needle": lambda x=x, y=y: x @ y, "torch": lambda X=X, Y=Y: X @ Y,
             "numpy": lambda a=a, b=b: a @ b},
            options.rounds,
        )  # fmt: skip
        rate = 2e-9 * batch * m * k * n / found.seconds["needle"]
        results[label] = {**found.as_dict(), "gflops": rate}
        print(found.line(label), f"  {rate:6.1f} GFLOP/s, {rate / peak:4.0%}", flush=True)
    write_json(options.json, results)


if __name__ == "__main__":
    main()

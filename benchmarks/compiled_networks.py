"""Training steps of whole networks: Needle compiled and eager, PyTorch eager and compiled, JAX.

    python benchmarks/compiled_networks.py [--only NAME ...] [--contenders NAME ...] [--rounds 15]
                                           [--threads N] [--json FILE] [--chart FILE]

    mlp         784-100-10, batch 100, SGD
    mlp-resnet  batch norm, dropout, batch 100, Adam
    gpt4x128    4 heads, 64 tokens, batch 12, vocabulary 65, AdamW
    gpt6x384    6 heads, 256 tokens, batch 4, vocabulary 65, AdamW
    resnet9     CIFAR pictures, batch 128, Adam
    resnet18    CIFAR pictures, batch 32, SGD
    lstm        two layers of 256, vocabulary 10,000, 35 steps, batch 20, SGD, gradients clipped

    jit          Needle, the whole step as one program     torch        PyTorch eager
    eager        Needle, operator by operator              compile      torch.compile
    jax          JAX jit; no convolutional networks        compile-all  its optimiser compiled too

The same initial weights and batches, and each step reads its loss. First the ten first losses must
agree to 2e-3, dropout off; then the contenders take turns. Printed are medians, the first
contender's ratio to each other (median and quartiles of the rounds), and the share of the machine's
peak, which a large product of matrices gives. A file that --json names keeps what it
says of networks that do not run this time.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import machine
import numpy as np
from interleaved import Result, compare, earlier_results, parser_for, write_json
from jobs import JOBS, Job, Step

import needle as ndl

# Name -> the package it needs, its module here, the function in it.
CONTENDERS = {
    "jit": ("needle", "needle_contenders", "compiled"),
    "eager": ("needle", "needle_contenders", "eager"),
    "torch": ("torch", "torch_contenders", "eager"),
    "compile": ("torch", "torch_contenders", "compiled"),
    "compile-all": ("torch", "torch_contenders", "compiled_whole"),
    "jax": ("jax", "jax_contenders", "compiled"),
}
RIVALS = ("torch", "compile", "compile-all")  # PyTorch at its best is the fastest of these
FREE = ("jax",)  # its caller waits while its own threads work

_LOSSES, _AGREE = 10, 2e-3
_SHORTEST_TURN = 0.1  # seconds

Make = Callable[[Job, float], Step]


class LossesDiffer(Exception):
    """Contenders that should compute the same do not."""


def main() -> int:
    """Measure each network and print its lines; 1 if any contender failed."""
    options = _options()
    machine.set_threads(options.threads)
    results, failed, peak = earlier_results(options.json), False, 0.0
    for name in options.only:
        peak = max(peak, machine.peak())  # the least disturbed so far
        print(f"{options.threads} threads, peak {peak:.0f} GFLOP/s", flush=True)
        job, makers = JOBS[name](), _makers(options.contenders, JOBS[name]())
        steps, faults = checked_steps(job, makers)
        for contender, fault in faults.items():
            failed = True
            print(f"{name}: {contender} failed: {fault}", flush=True)
        if not steps:
            continue
        found = compare(steps, options.rounds, _SHORTEST_TURN, FREE)
        results[name] = as_dict(job, found, peak)
        print("\n".join(lines(name, results[name])), flush=True)
        results = {known: results[known] for known in JOBS if known in results}  # their order
        write_json(options.json, results)
    if options.chart and results:
        from chart import draw

        draw(results, options.chart)
    return int(failed)


def _options() -> Any:
    parser = parser_for(__doc__, rounds=15)
    parser.add_argument("--threads", type=int, default=ndl.get_num_threads())
    parser.add_argument("--only", nargs="+", choices=list(JOBS), default=list(JOBS))
    parser.add_argument("--contenders", nargs="+", choices=list(CONTENDERS), default=_installed())
    parser.add_argument("--chart", type=Path, help="draw the ratios into this PNG")
    return parser.parse_args()


def _installed() -> list[str]:
    """Those to compare if nobody says which; compile-all only where it is asked for."""
    return [
        name
        for name, (package, _, _) in CONTENDERS.items()
        if machine.is_installed(package) and name != "compile-all"
    ]


def _makers(names: list[str], job: Job) -> dict[str, Make]:
    """How to make each contender's step, of those that have the job's network."""
    makers = {}
    for name in names:
        _, module, function = CONTENDERS[name]
        contender = import_module(module)
        if getattr(contender, "serves", lambda job: True)(job):
            makers[name] = getattr(contender, function)
    return makers


# -- what is measured ------------------------------------------------------------------------------


def checked_steps(
    job: Job, makers: Mapping[str, Make], count: int = _LOSSES, agree: float = _AGREE
) -> tuple[dict[str, Step], dict[str, Exception]]:
    """Steps to time, whose first `count` losses agreed; and what the others failed with.

    agree  by how much losses may differ, relatively

    A contender that fails is left out, so that one library's fault does not hide the others'
    figures. Raises LossesDiffer.
    """
    steps: dict[str, Step] = {}
    losses: dict[str, list[float]] = {}
    faults: dict[str, Exception] = {}
    for name, make in makers.items():
        try:
            step = make(job, 0.0)
            losses[name] = [step() for _ in range(count)]
            steps[name] = make(job, job.dropout) if job.dropout else step
            steps[name]()  # compiled by now
        except Exception as fault:
            losses.pop(name, None)
            faults[name] = fault
    require_same(losses, agree)
    return steps, faults


def require_same(losses: Mapping[str, list[float]], agree: float = _AGREE) -> None:
    """Raise LossesDiffer unless all agree with the first contender's."""
    first, expected = next(iter(losses.items()), ("", []))
    for name, found in losses.items():
        if not np.allclose(found, expected, rtol=agree, atol=0):
            raise LossesDiffer(
                f"expected losses that agree to {agree}, got\n"
                f"{first}: {np.round(expected, 5)}\n{name}: {np.round(found, 5)}"
            )


def as_dict(job: Job, found: Result, peak: float) -> dict[str, Any]:
    """What is kept of one network: times, ratios, shares of the peak, and where it was measured."""
    rates = {name: job.flops / t / 1e9 for name, t in found.seconds.items()}
    return {
        "title": job.title,
        "flops": job.flops,
        "peak_gflops": peak,
        **found.as_dict(),
        "share_of_peak": {name: rate / peak for name, rate in rates.items()},
        "best_of_torch": best_of_torch(found.seconds),
        "session": machine.session(),
    }


def best_of_torch(seconds: Mapping[str, float]) -> str | None:
    """The fastest of PyTorch's contenders, by its median."""
    return min((name for name in RIVALS if name in seconds), key=seconds.__getitem__, default=None)


def lines(name: str, result: Mapping[str, Any]) -> list[str]:
    """A line for each contender."""
    texts = []
    for contender, seconds in result["seconds"].items():
        share = result["share_of_peak"][contender]
        text = f"{name:<11} {contender:<11} {seconds * 1e3:9.3f} ms  {share:4.0%} of peak"
        if contender in result["ratios"]:
            low, median, high = result["ratios"][contender]
            best = "  <- best of PyTorch" if contender == result["best_of_torch"] else ""
            text += f"   ratio to it {median:5.2f} ({low:.2f} to {high:.2f}){best}"
        texts.append(text)
    return texts


if __name__ == "__main__":
    sys.exit(main())

"""Peak memory of training steps, each in a process of its own: Needle compiled, eager, PyTorch.

    python benchmarks/peak_memory.py [--only NAME ...] [--rounds 3] [--threads N] [--json FILE]

Counted is what the process holds at most (VmHWM) during its first five steps, less what it held
before the first: activations, gradients, optimiser state, and whatever the library adds. Needle's
compiled step runs twice: with an empty cache of machine code, where LLVM works in the process, and
with a warm one. Linux only.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
from importlib import import_module
from pathlib import Path

import fresh_process
import machine
from interleaved import earlier_results, parser_for, write_json
from jobs import JOBS

import needle as ndl

# Name -> its module here, the function in it.
CONTENDERS = {
    "jit": ("needle_contenders", "compiled"),
    "eager": ("needle_contenders", "eager"),
    "torch": ("torch_contenders", "eager"),
}
_STEPS = 5
_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def main() -> None:
    """Print a line for each network."""
    parser = parser_for(__doc__, rounds=3)
    parser.add_argument("--threads", type=int, default=ndl.get_num_threads())
    parser.add_argument("--only", nargs="+", choices=list(JOBS), default=["gpt6x384", "resnet18"])
    options = parser.parse_args()
    if not _STATUS.exists():
        sys.exit("peak_memory: expected /proc/self/status, which only Linux has.")
    results = earlier_results(options.json)
    for name in options.only:
        found = _of_contenders(name, options.rounds, options.threads)
        results[name] = {
            "title": JOBS[name]().title,
            "megabytes": found,
            "session": machine.session(),
        }
        print(f"{name}: " + ", ".join(f"{k} {v:.0f} MB" for k, v in found.items()), flush=True)
        write_json(options.json, results)


def _of_contenders(name: str, rounds: int, threads: int) -> dict[str, float]:
    """Medians."""
    runs: dict[str, list[float]] = {}

    def run(label: str, contender: str, folder: str) -> None:
        arguments = ("peak_memory", "of_steps", name, contender, threads)
        found = fresh_process.call(*arguments, NEEDLE_CACHE_DIR=folder)
        runs.setdefault(label, []).append(found["megabytes"])

    for _ in range(rounds):
        with tempfile.TemporaryDirectory() as folder:
            run("jit, empty cache", "jit", folder)
            run("jit", "jit", folder)
            run("eager", "eager", folder)
            if machine.is_installed("torch"):
                run("torch", "torch", folder)
    return {label: statistics.median(found) for label, found in runs.items()}


def of_steps(name: str, contender: str, threads: int) -> dict[str, float]:
    """Peak of this process over its first steps, less what it holds now."""
    ndl.set_num_threads(threads)
    module, function = CONTENDERS[contender]
    if contender == "torch":
        machine.set_threads(threads)
    job = JOBS[name]()
    step = getattr(import_module(module), function)(job, job.dropout)
    _forget_peak()
    before = _status("VmRSS")
    for _ in range(_STEPS):
        step()
    return {"megabytes": (_status("VmHWM") - before) / 1024}


def _forget_peak() -> None:
    """From now on VmHWM is the peak of what follows."""
    try:
        _CLEAR.write_text("5")
    except OSError:  # not allowed here: the peak of imports counts, which is lower than a step's
        return


def _status(key: str) -> int:
    """KiB."""
    lines = _STATUS.read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{key}:"))


if __name__ == "__main__":
    main()

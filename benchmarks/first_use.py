"""Seconds from starting Python to the end of the two-layer network's first eager step.

    python benchmarks/first_use.py [--rounds 5]

With an empty cache of machine code, and with the cache that this run leaves behind. Printed are the
whole process, `import needle` alone, and the first step alone (median, lowest and highest).
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile

STEP = """
import json, time
start = time.perf_counter()
import numpy as np
with_numpy = time.perf_counter()
import needle as ndl
from needle import nn, optim
imported = time.perf_counter()
model = nn.Sequential(nn.Linear(784, 100), nn.ReLU(), nn.Linear(100, 10))
optimizer = optim.SGD(model.parameters(), lr=0.1)
x = ndl.Tensor(np.ones((100, 784), np.float32), requires_grad=False)
y = ndl.Tensor(np.zeros(100), requires_grad=False)
loss = nn.SoftmaxLoss()(model(x), y)
loss.backward()
optimizer.step()
loss.item()
print(json.dumps({"import": imported - with_numpy, "first step": time.perf_counter() - imported}))
"""


def main() -> None:
    """Run the step in fresh processes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    empty, warm = [], []
    for _ in range(options.rounds):
        with tempfile.TemporaryDirectory() as folder:
            empty.append(first_step(folder))
            warm.append(first_step(folder))
    for label, found in (("empty cache", empty), ("warm cache", warm)):
        for part in ("import", "first step"):
            times = [run[part] for run in found]
            print(
                f"{label}, {part}: {statistics.median(times):.3f} s "
                f"({min(times):.3f} to {max(times):.3f})"
            )


def first_step(folder: str) -> dict[str, float]:
    """Seconds of the parts, in a process whose cache is in `folder`."""
    environment = {**os.environ, "NEEDLE_CACHE_DIR": folder}
    run = subprocess.run(
        [sys.executable, "-c", STEP], env=environment, check=True, capture_output=True, text=True
    )
    return dict(json.loads(run.stdout))


if __name__ == "__main__":
    main()

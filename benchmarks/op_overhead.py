"""What one eager operation costs on 10 elements: arrays and Tensors against PyTorch.

python benchmarks/op_overhead.py [--rounds 21] [--json FILE]
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from interleaved import compare, parser_for, write_json

import needle as ndl
import needle.backend_ndarray as nd


def main() -> None:
    """Print one line per operation."""
    parser = parser_for(__doc__, rounds=21)
    options = parser.parse_args()
    values = np.linspace(0.1, 1, 10, dtype=np.float32)
    x = nd.array(values)
    c = ndl.Tensor(values, requires_grad=False)
    w = ndl.Tensor(values, requires_grad=True)
    C, W = torch.tensor(values), torch.tensor(values, requires_grad=True)
    cases: dict[str, tuple[Any, Any]] = {
        "array: x + x": (lambda: x + x, lambda: C + C),
        "array: x * 2": (lambda: x * 2.0, lambda: C * 2.0),
        "array: exp(x)": (lambda: nd.exp(x), C.exp),
        "array: sum": (x.sum, C.sum),
        "Tensor: x + x": (lambda: c + c, lambda: C + C),
        "Tensor: x * 2": (lambda: c * 2.0, lambda: C * 2.0),
        "Tensor: exp(x)": (c.exp, C.exp),
        "Tensor: sum": (c.sum, C.sum),
        "Tensor with grad: w + x": (lambda: w + c, lambda: W + C),
        "Tensor with grad: w * 2": (lambda: w * 2.0, lambda: W * 2.0),
        "Tensor with grad: exp(w)": (w.exp, W.exp),
        "Tensor with grad: sum": (w.sum, W.sum),
    }
    results = {}
    for label, (ours, theirs) in cases.items():
        found = compare({"needle": ours, "torch": theirs}, options.rounds)
        results[label] = found.as_dict()
        print(found.line(label))
    write_json(options.json, results)


if __name__ == "__main__":
    main()

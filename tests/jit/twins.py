"""The same function twice, on states of its own each: as it is written, and compiled."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

import needle as ndl


def batch(seed: int, rows: int = 8, columns: int = 6) -> tuple[ndl.Tensor, ndl.Tensor]:
    """Inputs (rows, columns), and classes from 0 to 2."""
    rng = np.random.RandomState(seed)
    x = ndl.Tensor(rng.standard_normal((rows, columns)), dtype="float32", requires_grad=False)
    return x, ndl.Tensor(rng.randint(0, 3, rows), dtype="int64", requires_grad=False)


def network(dropout: float = 0.0, norm: bool = False) -> Any:
    """6 -> 5 -> 3, the same weights each time."""
    np.random.seed(1)
    nn = ndl.nn
    layers = [nn.Linear(6, 5), *([nn.BatchNorm1d(5)] if norm else []), nn.ReLU()]
    return nn.Sequential(*layers, *([nn.Dropout(dropout)] if dropout else []), nn.Linear(5, 3))


def training_step(model: Any, opt: Any) -> Callable[..., Any]:
    """Forward, backward, update."""
    loss_of = ndl.nn.SoftmaxLoss()

    def step(x, y):
        opt.reset_grad()
        loss = loss_of(model(x), y)
        loss.backward()
        opt.step()
        return loss

    return step


def state_of(model: Any, opt: Any = None) -> dict[str, Any]:
    """Parameters, buffers, gradients, what the optimiser remembers, and the random numbers."""
    found = {name: value.numpy() for name, value in model.state_dict().items()}
    for name, p in model.named_parameters():
        found[f"{name}.grad"] = None if p.grad is None else p.grad.numpy()
    if opt is not None:
        found.update({f"optimizer {key}": value for key, value in opt.state_dict().items()})
    found["random"] = np.random.get_state()[1].copy()
    return found


def assert_same_state(given: dict[str, Any], expected: dict[str, Any], rtol: float = 1e-4) -> None:
    """The same names, and the same values within `rtol` of each array's size."""
    assert given.keys() == expected.keys()
    for name, value in expected.items():
        if value is None or not isinstance(value, np.ndarray):
            assert given[name] == value, name
        else:
            size = np.abs(value).max(initial=0) if value.dtype.kind == "f" else 0
            np.testing.assert_allclose(
                given[name], value, rtol=0, atol=rtol * size + 1e-7, err_msg=name
            )


def variants(function: Any) -> int:
    """How often a jitted function was compiled."""
    return len(function.compiled)

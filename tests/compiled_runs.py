"""The same steps eager and compiled, from the same seed: what both must agree on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

import needle as ndl
from needle.jit import Jitted, jit
from needle.testing import assert_close

# of sums that a fused kernel adds up in another order, after a few steps that amplify it
RTOL, ATOL = 2e-5, 2e-6


def tensors_in(value: Any) -> Iterator[ndl.Tensor]:
    """The Tensors in tuples, lists and packed sequences."""
    if isinstance(value, ndl.nn.PackedSequence):
        value = value.padded
    if isinstance(value, ndl.Tensor):
        yield value
    elif isinstance(value, (tuple, list)):
        for item in value:
            yield from tensors_in(item)


def loss_of(result: Any) -> ndl.Tensor:
    """A number that depends on every element of every float in a result, each in its own way."""
    parts = []
    for number, y in enumerate(tensors_in(result)):
        if ndl.dtypes.is_floating(y.dtype) and y.size:
            parts.append(((y + 0.3) * (y - 0.1 * number)).mean())
    loss = parts[0]
    for part in parts[1:]:
        loss = loss + part
    return loss


def assert_same(
    eager: Any, compiled: Any, what: str, rtol: float = RTOL, atol: float = ATOL
) -> None:
    """All arrays of two runs agree, in dtype and shape too; `atol` is of the largest element."""
    assert len(eager) == len(compiled), what
    for number, (e, c) in enumerate(zip(eager, compiled, strict=True)):
        e = e.numpy() if isinstance(e, ndl.Tensor) else np.asarray(e)
        largest = np.abs(e.astype(np.float64)).max(initial=1.0)
        name = f"{what}, number {number}"
        assert_close(c, e, rtol=rtol, atol=atol * largest, same_dtype=True, what=name)


def both_ways(run: Callable[[Callable[[Any], Any]], list[Any]], what: str, **bounds: float) -> Any:
    """`run(wrap)` with functions as they are and compiled; what they give must agree.

    Returns the compiled functions.
    """
    made: list[Jitted] = []

    def compiled(function: Any) -> Any:
        made.append(jit(function))
        return made[-1]

    np.random.seed(0)
    eager, drawn = run(lambda function: function), np.random.rand()
    np.random.seed(0)
    results = run(compiled)
    assert_same(eager, results, what, **bounds)
    assert np.random.rand() == drawn, f"{what}: expected as many draws as in eager mode"
    return made


def kinds(function: Jitted) -> int:
    """How many programs a compiled function consists of."""
    return sum(len(known) for known in function._variants.values())

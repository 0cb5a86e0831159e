"""What a row of the table of operators holds, and what its inputs are drawn from.

A row gives the op's class and public function, the same function of NumPy arrays, the cases
(shapes and parameters) and the bad calls with the error each must raise.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from needle import errors

Shape = tuple[int, ...]
Draw = Callable[[np.random.RandomState, Shape], np.ndarray]


# -- what inputs are drawn from: all of them more than 0.01 from the kinks ----------------------


def anywhere(rng: np.random.RandomState, shape: Shape) -> np.ndarray:
    """Of either sign, at least 0.1 from 0."""
    return np.asarray(rng.choice([-1.0, 1.0], shape) * rng.uniform(0.1, 2.0, shape))


def positive(rng: np.random.RandomState, shape: Shape) -> np.ndarray:
    return np.asarray(rng.uniform(0.5, 2.0, shape))


def distinct(rng: np.random.RandomState, shape: Shape) -> np.ndarray:
    """No two closer than 0.1: extremes and comparisons have one answer."""
    size = math.prod(shape)
    return np.asarray(0.1 * (rng.permutation(size) - size // 2 + 0.5).reshape(shape))


def truth(rng: np.random.RandomState, shape: Shape) -> np.ndarray:
    return np.asarray(rng.randint(0, 2, shape)).astype(bool)


def below(n: int) -> Draw:
    """Integer indices into an axis of length n."""
    return lambda rng, shape: np.asarray(rng.randint(0, n, shape))


# -- rows --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Case:
    """Shapes of the inputs, or the arrays themselves, and the function's parameters."""

    inputs: tuple[Any, ...]
    params: dict[str, Any]

    def __str__(self) -> str:
        shown = [f"{value}" for value in map(_shape_of, self.inputs)]
        shown += [f"{name}={value}" for name, value in self.params.items()]
        return ",".join(shown).replace(" ", "")


def _shape_of(value: Any) -> Any:
    return value.shape if isinstance(value, np.ndarray) else value


@dataclass(frozen=True)
class Bad:
    """A call that must fail: the error's class, what its message holds, inputs and parameters."""

    error: type[errors.NeedleError]
    message: str
    inputs: tuple[Any, ...]
    params: dict[str, Any]


def case(*inputs: Any, **params: Any) -> Case:
    return Case(inputs, params)


def bad(error: type[errors.NeedleError], message: str, *inputs: Any, **params: Any) -> Bad:
    return Bad(error, message, inputs, params)


@dataclass(frozen=True)
class Row:
    op: type
    function: Callable[..., Any]
    reference: Callable[..., Any]
    cases: Sequence[Case]
    bad: Sequence[Bad] = ()
    draws: Sequence[Draw] = (anywhere,)  # one per input; the last serves the rest
    order: int = 2  # how often it can be differentiated
    keeps_dtype: bool = True  # float32 in, float32 out
    integers: bool = True  # whether it takes integers
    bools: bool = False  # whether it takes bools
    narrow: bool = True  # whether it takes bfloat16 and float16
    public: bool = True  # whether a function of its name is in needle.ops

    def arrays(self, case: Case, dtype: Any = np.float64, seed: int = 0) -> list[Any]:
        """The case's inputs: floats of the domain in `dtype`, indices and bools as they are."""
        rng = np.random.RandomState(seed)
        arrays = []
        for i, value in enumerate(case.inputs):
            if not isinstance(value, np.ndarray):
                value = self.draws[min(i, len(self.draws) - 1)](rng, value)
            arrays.append(value.astype(dtype) if value.dtype == np.float64 else value)
        return arrays

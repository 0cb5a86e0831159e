"""Gradients against central differences, in random directions and to any order.

A gradient that is right in one random direction is right: for a wrong one to pass, the direction
would have to be perpendicular to its error. So two numbers are compared, however many elements.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

import needle
from needle.autograd import Tensor, TensorTuple, enable_grad
from needle.backend_selection import Device, default_device
from needle.dtypes import is_floating
from needle.errors import DTypeError, GradientError, OptionError, describe
from needle.testing.layouts import raw_array

__all__ = ["as_tensors", "check_grads", "device_of", "is_float_array", "require_at_least"]

Arrays = list[np.ndarray[Any, Any]]


class Scalar(NamedTuple):
    """A function of Tensors on `device` whose value is one number."""

    function: Callable[[Sequence[Tensor]], Tensor]
    device: Device

    def __call__(self, xs: Sequence[Tensor]) -> Tensor:
        return self.function(xs)

    def leaves(self, at: Arrays) -> list[Tensor]:
        """Tensors to call it on, and to differentiate by."""
        return [
            Tensor.make_const(raw_array(array.copy(), self.device), requires_grad=True)
            for array in at
        ]


# Halvings of the step, at most: 1e-2 down to 2e-6, where rounding has long taken over in float64.
_HALVINGS = 13


def check_grads(
    function: Callable[..., Any],
    *inputs: Any,
    order: int = 2,
    directions: int = 1,
    rtol: float = 1e-6,
    atol: float = 1e-9,
    eps: float = 1e-2,
    seed: int = 0,
) -> None:
    """⟨∇f(x), v⟩ = (f(x + hv) - f(x - hv)) / 2h as h goes to 0, for random v, in float64.

    function    of `inputs`; returns a Tensor, or a tuple of Tensors, of any shape, which are summed
                with random weights. It must be deterministic, which is tried first
    inputs      Tensors and arrays of floats are differentiated by, one after another; the rest
                (numbers, arrays of integers and bools) is handed on as it is
    order       2: the gradient's own derivative ⟨∇⟨∇f, v⟩, v'⟩ too, and so on
    directions  how many random v are tried
    rtol, atol  |difference| ≤ atol + rtol · the larger of the two
    eps         the largest step h. It is halved until the extrapolated difference settles; keep
                it below the distance to the nearest kink
    seed        of the directions and weights, a stream of their own

    Raises AssertionError, naming the input, the order and both numbers; OptionError for an order
    of 0, which would check nothing.
    Source: Ridders, "Accurate computation of F'(x) and F'(x)F''(x)", 1982.

    >>> import needle as ndl
    >>> from needle.testing import check_grads
    >>> check_grads(lambda a, b: ndl.exp(a) * b, ndl.randn(2, 3), ndl.randn(3), order=3)
    """
    require_at_least(1, "check_grads", order=order, directions=directions)
    for k in range(directions):
        rng = np.random.RandomState(seed + k)
        variables, scalar = _as_scalar(function, inputs, rng)
        _require_deterministic(scalar, variables, atol)
        for current in range(1, order + 1):
            vs = [_direction(array, rng) for array in variables]
            for i in range(len(variables)):
                where = f"order {current}, input {_place(inputs, i)} ({describe(variables[i])})"
                _compare(scalar, variables, i, vs[i], where, rtol, atol, eps)
            scalar = _slope_along(scalar, vs)


def require_at_least(least: int, function: str, **options: Any) -> None:
    """Raise OptionError for an option that is no whole number of `least` or more."""
    for name, value in options.items():
        if not (isinstance(value, (int, np.integer)) and value >= least):
            raise OptionError(f"{function}: expected {name} to be {least} or more, got {value!r}.")


def _require_deterministic(scalar: Scalar, at: Arrays, atol: float) -> None:
    first, second = (_value(scalar, at) for _ in range(2))
    if not np.isclose(first, second, rtol=1e-9, atol=atol, equal_nan=True):
        raise AssertionError(
            f"check_grads: expected {first:.10g} again at the same inputs, got {second:.10g}. "
            "The function is not deterministic: does it draw random numbers?"
        )


def _value(scalar: Scalar, at: Arrays) -> float:
    with np.errstate(all="ignore"):
        return float(scalar(scalar.leaves(at)).numpy())


def is_float_array(value: Any) -> bool:
    """Whether it is a Tensor or an array of floats, something to differentiate by."""
    return isinstance(value, (Tensor, np.ndarray)) and is_floating(value.dtype)


def as_tensors(result: Any, what: str) -> list[Tensor]:
    """What a function returned, as a list of Tensors."""
    outputs = [result] if isinstance(result, Tensor) else result
    if not isinstance(outputs, (tuple, list, TensorTuple)) or not all(
        isinstance(output, Tensor) for output in outputs
    ):
        raise DTypeError(
            f"{what}: expected the function to return a Tensor or a tuple of Tensors, "
            f"got {describe(result)}."
        )
    return list(outputs)


def _place(inputs: Sequence[Any], number: int) -> int:
    """Where among all inputs the differentiated one of that number stands."""
    return [i for i, value in enumerate(inputs) if is_float_array(value)][number]


def _as_scalar(
    function: Callable[..., Any], inputs: Sequence[Any], rng: np.random.RandomState
) -> tuple[Arrays, Scalar]:
    """The float inputs as float64 arrays, and Σ w · f as a function of Tensors in their place."""
    places = [i for i, value in enumerate(inputs) if is_float_array(value)]
    if not places:
        raise DTypeError(f"check_grads: expected Tensors of floats, got {describe(inputs)}.")
    variables = [np.array(_plain(inputs[i]), dtype=np.float64) for i in places]
    weights: list[Tensor] = []

    def scalar(xs: Sequence[Tensor]) -> Tensor:
        arguments = list(inputs)
        for place, x in zip(places, xs, strict=True):
            arguments[place] = x
        outputs = [y for y in as_tensors(function(*arguments), "check_grads") if is_float_array(y)]
        if not outputs:
            raise DTypeError("check_grads: expected a result of floats, got none.")
        if not weights:
            weights.extend([_constant(_direction(y, rng), y.device) for y in outputs])
        terms = [(y * w).sum() for y, w in zip(outputs, weights, strict=True)]
        return needle.autograd.sum_node_list(terms)  # type: ignore[no-any-return]

    return variables, Scalar(scalar, device_of(inputs))


def device_of(inputs: Sequence[Any]) -> Device:
    """That of the first Tensor, if there is one."""
    return next((x.device for x in inputs if isinstance(x, Tensor)), default_device())


def _plain(value: Any) -> Any:
    return value.numpy() if isinstance(value, Tensor) else value


def _constant(array: Any, device: Device) -> Tensor:
    return Tensor.make_const(raw_array(array, device))


def _direction(like: Any, rng: np.random.RandomState) -> np.ndarray[Any, Any]:
    """Of `like`'s shape, in ±[0.5, 1): no element is forgotten, none moves further than h."""
    signs = rng.randint(0, 2, like.shape) * 2.0 - 1.0
    return np.asarray(signs * rng.uniform(0.5, 1.0, like.shape))


def _gradients(scalar: Scalar, xs: Sequence[Tensor]) -> list[Tensor]:
    """∇scalar at xs; zeros where there is no graph, for the gradient of a linear function."""
    with enable_grad():
        y = scalar(xs)
        if not y.requires_grad:
            return [needle.init.zeros_like(x) for x in xs]
        try:
            found = list(needle.grad(y, list(xs)))
        except GradientError as error:
            raise AssertionError(f"check_grads: {error}") from error
    for i, (x, grad) in enumerate(zip(xs, found, strict=True)):
        if grad.shape != x.shape or grad.dtype != x.dtype:
            raise AssertionError(
                f"check_grads: expected gradient {i} to be {describe(x)}, got {describe(grad)}."
            )
    return found


def _slope_along(scalar: Scalar, vs: Arrays) -> Scalar:
    """x ↦ ⟨∇scalar(x), v⟩."""

    def slope(xs: Sequence[Tensor]) -> Tensor:
        grads = _gradients(scalar, xs)
        terms = [(g * _constant(v, g.device)).sum() for g, v in zip(grads, vs, strict=True)]
        return needle.autograd.sum_node_list(terms)  # type: ignore[no-any-return]

    return Scalar(slope, scalar.device)


def _compare(
    scalar: Scalar, at: Arrays, i: int, v: Any, where: str, rtol: float, atol: float, eps: float
) -> None:
    xs = scalar.leaves(at)
    by_gradient = float(np.sum(_gradients(scalar, xs)[i].numpy() * v))

    def along(step: float) -> float:
        moved = [array + step * v if j == i else array for j, array in enumerate(at)]
        return _value(scalar, moved)

    difference, uncertain = _derivative(along, eps, rtol, atol)
    if not abs(by_gradient - difference) <= atol + rtol * max(abs(by_gradient), abs(difference)):
        raise AssertionError(
            f"check_grads: expected {difference:.10g} ± {uncertain:.1g} in {where}, by central "
            f"differences, got {by_gradient:.10g} from the gradient."
        )


def _derivative(
    along: Callable[[float], float], eps: float, rtol: float, atol: float
) -> tuple[float, float]:
    """along'(0) and its uncertainty: central differences at ever smaller steps, extrapolated."""
    best, uncertain = float("nan"), float("inf")
    step, before = eps, list[float]()
    for _ in range(_HALVINGS):
        row = [(along(step) - along(-step)) / (2 * step)]
        for power, coarser in enumerate(before, start=1):
            # the error of the last is of order step^(2 power): what halving the step takes away
            row.append(row[-1] + (row[-1] - coarser) / (4**power - 1))
            change = max(abs(row[-1] - row[-2]), abs(row[-1] - coarser))
            if change < uncertain:
                best, uncertain = row[-1], change
        if uncertain <= 0.01 * (atol + rtol * abs(best)):
            break
        step, before = step / 2, row
    return best, uncertain

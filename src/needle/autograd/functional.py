"""Derivatives of functions: `grad`, `value_and_grad`, `jacobian`, `hvp`.

They leave every `.grad` alone, and what they return can be differentiated again.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from functools import wraps
from typing import Any, cast

import needle
from needle.autograd.alias import alias
from needle.autograd.backward import fitting, gradients, ones_for
from needle.autograd.modes import enable_grad, no_grad
from needle.autograd.tensor import Tensor
from needle.errors import DTypeError, GradientError, ShapeError, describe

__all__ = ["grad", "hvp", "jacobian", "value_and_grad"]


def grad(
    function: Callable[..., Any] | Tensor | Sequence[Tensor],
    inputs: int | Sequence[int] | Tensor | Sequence[Tensor] = 0,
    out_grads: Tensor | Sequence[Tensor] | None = None,
    *,
    argnums: int | Sequence[int] | None = None,
    create_graph: bool = True,
    has_aux: bool = False,
) -> Any:
    """The gradient of a function, or of Tensors with respect to Tensors.

    grad(f, argnums=0)        the function x ↦ ∇f(x), for f with a one-element result; a tuple of
                              gradients where several argument numbers are given. With `has_aux`,
                              f returns (value, anything), and (gradient, anything) comes back
    grad(y, x, out_grads)     dy/dx for Tensors that are computed already: one Tensor for one x,
                              a tuple for several. `out_grads` defaults to ones

    What y does not depend on gets zeros. Raises GradientError for an x, or a y, that does not
    require grad.

    >>> import needle as ndl
    >>> cube = lambda x: (x**3).sum()
    >>> ndl.grad(cube)(ndl.Tensor([2.0]))
    needle.Tensor([12.])
    >>> ndl.grad(lambda x: ndl.grad(cube)(x).sum())(ndl.Tensor([2.0]))
    needle.Tensor([12.])
    """
    if callable(function):
        numbers = cast("Any", inputs) if argnums is None else argnums
        both = value_and_grad(function, numbers, create_graph=create_graph, has_aux=has_aux)

        @wraps(function, updated=())
        def gradient(*args: Any, **kwargs: Any) -> Any:
            value, found = both(*args, **kwargs)
            return (found, value[1]) if has_aux else found

        return gradient
    outputs, wrt = _tensors("grad", function), _tensors("grad", inputs)
    for tensor in (*outputs, *wrt):
        if not tensor.requires_grad:
            raise GradientError(
                f"grad: expected tensors that require grad, got {describe(tensor)}, which does not."
            )
    found = _differentiate("grad", outputs, wrt, out_grads, create_graph, go_on=True)
    return found[0] if isinstance(inputs, Tensor) else tuple(found)


def value_and_grad(
    function: Callable[..., Any],
    argnums: int | Sequence[int] = 0,
    *,
    create_graph: bool = True,
    has_aux: bool = False,
) -> Callable[..., Any]:
    """The function x ↦ (f(x), ∇f(x)), for f with a one-element result.

    >>> import needle as ndl
    >>> value, slope = ndl.value_and_grad(lambda x: (x * x).sum())(ndl.Tensor([3.0]))
    >>> value, slope
    (needle.Tensor(9.0), needle.Tensor([6.]))
    """

    @wraps(function, updated=())
    def both(*args: Any, **kwargs: Any) -> tuple[Any, Any]:
        single = not isinstance(argnums, (tuple, list))
        numbers = [argnums] if single else list(cast("Any", argnums))
        with enable_grad():
            variables, arguments = _variables("grad", args, numbers)
            result = function(*arguments, **kwargs)
        value = result[0] if has_aux else result
        if not isinstance(value, Tensor) or value.size != 1:
            raise ShapeError(
                f"grad: expected the function to return one element, got {describe(value)}. "
                "Reduce it (.sum(), .mean()), or use jacobian."
            )
        found = _differentiate("grad", [value], variables, None, create_graph)
        return result, found[0] if single else tuple(found)

    return both


def jacobian(function: Callable[..., Tensor], *inputs: Tensor, create_graph: bool = True) -> Any:
    """J[i..., j...] = ∂f(x)[i...] / ∂x[j...], of shape f(x).shape + x.shape, row by row.

    jacobian(f, x) for one input; a tuple of Jacobians for several; jacobian(f) the function of x.

    >>> import needle as ndl
    >>> ndl.jacobian(lambda x: x * x, ndl.Tensor([1.0, 2.0]))
    needle.Tensor([[2. 0.]
     [0. 4.]])
    """
    if not inputs:
        return lambda *args: jacobian(function, *args, create_graph=create_graph)
    with enable_grad():
        variables, arguments = _variables("jacobian", inputs, range(len(inputs)))
        output = function(*arguments)
    if not isinstance(output, Tensor):
        raise DTypeError(f"jacobian: expected f to return a Tensor, got {describe(output)}.")
    rows: list[list[Tensor]] = [[] for _ in variables]
    for index in range(output.size):
        pick = needle.init.one_hot(
            output.size, index, device=output.device, dtype=output.dtype
        ).reshape(output.shape)
        found = _differentiate("jacobian", [output], variables, [pick], create_graph)
        for row, derivative in zip(rows, found, strict=True):
            row.append(derivative)
    jacobians = [
        needle.ops.stack(row, 0).reshape((*output.shape, *x.shape))
        if row
        else needle.init.zeros(*output.shape, *x.shape, dtype=x.dtype, device=x.device)
        for row, x in zip(rows, variables, strict=True)
    ]
    return jacobians[0] if len(jacobians) == 1 else tuple(jacobians)


def hvp(function: Callable[[Tensor], Tensor], x: Tensor, v: Tensor) -> Tensor:
    """The Hessian of f at x times v, of x's shape, without forming the Hessian: ∇(∇f(x)·v).

    >>> import needle as ndl
    >>> ndl.hvp(lambda x: (x**3).sum(), ndl.Tensor([1.0, 2.0]), ndl.Tensor([1.0, 1.0]))
    needle.Tensor([ 6. 12.])
    """
    x, v = _tensors("hvp", [x, v])
    if v.shape != x.shape:
        raise ShapeError(f"hvp: expected v of x's shape, got {describe(v)} for {describe(x)}.")
    direction = v.detach()
    result: Tensor = grad(lambda y: (grad(function)(y) * direction).sum())(x)
    return result


def _tensors(function: str, values: Any) -> list[Tensor]:
    """One Tensor or several, as a list."""
    tensors = [values] if isinstance(values, Tensor) else values
    if not isinstance(tensors, (tuple, list)) or not tensors:
        raise DTypeError(f"{function}: expected one Tensor or more, got {values!r}.")
    for tensor in tensors:
        if not isinstance(tensor, Tensor):
            raise DTypeError(f"{function}: expected Tensors, got {describe(tensor)}.")
    return list(tensors)


def _variables(
    function: str, args: Sequence[Any], argnums: Iterable[Any]
) -> tuple[list[Tensor], list[Any]]:
    """What to differentiate by, and all arguments with that in place.

    An alias for each, so that a Tensor given twice, or reached by the function in another way too,
    counts only where it is the argument.
    """
    arguments, variables = list(args), []
    for number in map(operator.index, argnums):
        if not -len(args) <= number < len(args) or not isinstance(args[number], Tensor):
            raise DTypeError(
                f"{function}: expected argument {number} to be a Tensor, got {args!r}."
            )
        arguments[number] = alias(args[number])
        variables.append(arguments[number])
    return variables, arguments


def _differentiate(
    function: str,
    outputs: Sequence[Tensor],
    variables: Sequence[Tensor],
    out_grads: Tensor | Sequence[Tensor] | None,
    create_graph: bool,
    go_on: bool = False,
) -> list[Tensor]:
    """The gradients, zeros for what the outputs do not depend on."""
    with nullcontext() if create_graph else no_grad():
        if out_grads is None:
            adjoints = [ones_for(output) for output in outputs]
        else:
            given = _tensors(function, out_grads)
            if len(given) != len(outputs):
                raise ShapeError(
                    f"{function}: expected {len(outputs)} out_grads, one per output, "
                    f"got {len(given)}."
                )
            adjoints = [fitting(function, g, y) for g, y in zip(given, outputs, strict=True)]
        found = gradients(outputs, adjoints, variables, go_on=go_on)
    return [
        needle.init.zeros_like(variable) if result is None else result
        for variable, result in zip(variables, found, strict=True)
    ]

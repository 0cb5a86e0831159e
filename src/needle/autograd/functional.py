"""Derivatives of functions: `grad`, `value_and_grad`, `jacobian`, `hvp`.

They leave every `.grad` alone, and what they return can be differentiated again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import wraps
from typing import Any, cast

import needle
from needle.autograd.backward import gradients, ones_for
from needle.autograd.modes import enable_grad, no_grad
from needle.autograd.tensor import Tensor
from needle.errors import DTypeError, GradientError, ShapeError, describe

__all__ = ["grad", "hvp", "jacobian", "value_and_grad"]


def grad(
    function: Callable[..., Any] | Tensor | Sequence[Tensor],
    inputs: int | Sequence[int] | Tensor | Sequence[Tensor] = 0,
    out_grads: Tensor | Sequence[Tensor] | None = None,
    *,
    create_graph: bool = True,
    has_aux: bool = False,
) -> Any:
    """The gradient of a function, or of Tensors with respect to Tensors.

    grad(f, argnums=0)        the function x ↦ ∇f(x), for f with a one-element result; a tuple of
                              gradients where several argument numbers are given. With `has_aux`,
                              f returns (value, anything), and (gradient, anything) comes back
    grad(y, x, out_grads)     dy/dx for Tensors that are computed already: one Tensor for one x,
                              a tuple for several. `out_grads` defaults to ones

    What y does not depend on gets zeros. Raises GradientError for a y without a graph.

    >>> import needle as ndl
    >>> cube = lambda x: (x**3).sum()
    >>> ndl.grad(cube)(ndl.Tensor([2.0]))
    needle.Tensor([12.])
    >>> ndl.grad(lambda x: ndl.grad(cube)(x).sum())(ndl.Tensor([2.0]))
    needle.Tensor([12.])
    """
    if callable(function):
        both = value_and_grad(
            function, cast("Any", inputs), create_graph=create_graph, has_aux=has_aux
        )

        @wraps(function, updated=())
        def gradient(*args: Any, **kwargs: Any) -> Any:
            value, found = both(*args, **kwargs)
            return (found, value[1]) if has_aux else found

        return gradient
    outputs = [function] if isinstance(function, Tensor) else list(function)
    single = isinstance(inputs, Tensor)
    wrt = [inputs] if single else list(inputs)  # type: ignore[arg-type]
    if not all(isinstance(value, Tensor) for value in [*outputs, *wrt]):
        raise DTypeError(f"grad: expected Tensors to differentiate by, got {inputs!r}.")
    found = _differentiate(outputs, wrt, out_grads, create_graph)  # type: ignore[arg-type]
    return found[0] if single else tuple(found)


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
        numbers = [argnums] if isinstance(argnums, int) else list(argnums)
        variables, arguments = _variables(args, numbers)
        with enable_grad():
            result = function(*arguments, **kwargs)
        value = result[0] if has_aux else result
        if not isinstance(value, Tensor) or value.size != 1:
            raise ShapeError(
                f"grad: expected the function to return one element, got {describe(value)}. "
                "Reduce it (.sum(), .mean()), or use jacobian."
            )
        found = _differentiate([value], variables, None, create_graph)
        return result, found[0] if isinstance(argnums, int) else tuple(found)

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
    variables, arguments = _variables(inputs, list(range(len(inputs))))
    with enable_grad():
        output = function(*arguments)
    rows: list[list[Tensor]] = [[] for _ in variables]
    for index in range(output.size):
        pick = needle.init.one_hot(
            output.size, Tensor(index), device=output.device, dtype=output.dtype
        ).reshape(output.shape)
        for row, found in zip(
            rows, _differentiate([output], variables, [pick], create_graph), strict=True
        ):
            row.append(found)
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
    if v.shape != x.shape:
        raise ShapeError(f"hvp: expected v of x's shape, got {describe(v)} for {describe(x)}.")
    direction = v.detach()
    result: Tensor = grad(lambda y: (grad(function)(y) * direction).sum())(x)
    return result


def _variables(args: Sequence[Any], argnums: Sequence[int]) -> tuple[list[Tensor], list[Any]]:
    """The arguments to differentiate by, and all arguments with those in place.

    A Tensor with no graph that does not require grad is replaced by one that does.
    """
    arguments = list(args)
    for number in argnums:
        if not -len(args) <= number < len(args) or not isinstance(args[number], Tensor):
            raise DTypeError(f"grad: expected argument {number} to be a Tensor, got {args!r}.")
        if not args[number].requires_grad:
            arguments[number] = Tensor.make_const(args[number], requires_grad=True)
    return [arguments[number] for number in argnums], arguments


def _differentiate(
    outputs: Sequence[Tensor],
    variables: Sequence[Tensor],
    out_grads: Tensor | Sequence[Tensor] | None,
    create_graph: bool,
) -> list[Tensor]:
    if isinstance(out_grads, Tensor):
        out_grads = [out_grads]
    if not any(output.requires_grad for output in outputs):
        raise GradientError(
            f"grad: expected the result of ops on tensors that require grad, got "
            f"{describe(*outputs)} with no graph."
        )
    with nullcontext() if create_graph else no_grad():
        adjoints = [ones_for(output) for output in outputs] if out_grads is None else out_grads
        for output, adjoint in zip(outputs, adjoints, strict=True):
            if output.shape != adjoint.shape:
                raise ShapeError(
                    f"grad: expected out_grads of the outputs' shapes, got {describe(adjoint)} "
                    f"for {describe(output)}."
                )
        found = gradients(outputs, adjoints, variables)
    return [
        needle.init.zeros_like(variable) if result is None else result
        for variable, result in zip(variables, found, strict=True)
    ]

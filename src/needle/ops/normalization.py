"""Mean 0 and variance 1 over some axes, then a scale and a shift."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from numbers import Real
from typing import Any

from needle.autograd.alias import alias
from needle.autograd.backward import gradients
from needle.autograd.modes import enable_grad, no_grad
from needle.autograd.tensor import Tensor, TensorOp, TensorTuple, TensorTupleOp
from needle.backend_selection import Array, array_api, primitives
from needle.dtypes import is_floating, is_narrow
from needle.errors import OptionError, ShapeError, describe
from needle.ops.broadcasting import Axes, normalize_axes, require_tensors, unbroadcast

__all__ = ["Moments", "Normalize", "NormalizeGradient", "Standardize", "moments", "normalize"]


_MANY = 16  # elements that pay for a sum of their own


class Moments(TensorTupleOp):
    """(mean, var): E[x] and E[(x - E[x])²] over `axes`; without `centre`, (E[x²],).

    x: any shape -> each: x's shape with `axes` at length 1; float32 for 16- and 8-bit floats. Two
    passes over x, so that nothing cancels.
    Gradient: dx = (dmean + 2 (x - mean) dvar) / N, of N elements each.
    """

    expects = "numbers"

    def __init__(self, axes: Sequence[int], centre: bool = True) -> None:
        self.axes, self.centre = tuple(axes), centre

    def compute(self, x: Array) -> tuple[Array, ...]:
        x, count = _widened(x), _count(x, self.axes)
        if not self.centre:
            return (_sum(x * x, self.axes) / count,)
        mean = _sum(x, self.axes) / count
        centred = x - mean
        return mean, _sum(centred * centred, self.axes) / count

    def gradient(self, out_grad: TensorTuple, node: TensorTuple) -> Any:
        (x,) = node.inputs
        count = _count(x, self.axes)
        slope = out_grad[-1] * (2 / count)
        if not self.centre:
            return _as_dtype_of(x, x * slope)
        return _as_dtype_of(x, (x - node[0]) * slope + out_grad[0] / count)


def moments(a: Tensor, axes: Axes = None, centre: bool = True) -> TensorTuple:
    """(mean, biased variance) over `axes`, at length 1; without centre (mean of x²,)."""
    require_tensors("moments", a)
    return Moments(_filled_axes("moments", a, axes), centre)(a)


class _Normalization:
    """What both ops know: the axes (0..ndim-1), eps, and whether the mean is subtracted.

    Their inputs, after what comes first: mean (if `centre`), var, weight and bias (or neither, or
    the weight alone). For floats of less than 32 bits all is computed in float32.
    """

    expects = "x, its moments, and weight and bias that broadcast to x"

    def __init__(self, axes: Sequence[int], eps: float = 1e-5, centre: bool = True) -> None:
        self.axes, self.eps, self.centre = tuple(sorted(axes)), float(eps), centre

    def _named(self, x: Any, *rest: Any) -> tuple[Any, Any, Any, Any, Any]:
        """x, mean, var, weight, bias; None for what is not there."""
        known, affine = rest[: 1 + self.centre], rest[1 + self.centre :]
        weight, bias = (*affine, None, None)[:2]
        return x, known[0] if self.centre else None, known[-1], weight, bias

    def _shared(self, x: Any, weight: Any) -> tuple[int, ...]:
        """The axes of `axes` all along which a weight is the same."""
        if weight is None:
            return self.axes
        new = len(x.shape) - len(weight.shape)
        return tuple([i for i in self.axes if i < new or weight.shape[i - new] == 1])


class Normalize(_Normalization, TensorOp):
    """y = (x - mean) / √(var + eps) · weight + bias; without `centre` there is no mean.

    x: any shape; mean, var: constants, the moments of x over `axes`; weight, bias: of one shape,
    which broadcasts to x -> y: x's shape; float16 and bfloat16 stay if the weight is no wider.
    Gradient: that of y as a function of x, on which the moments depend; see `NormalizeGradient`.
    """

    def with_moments(
        self, x: Tensor, weight: Tensor | None = None, bias: Tensor | None = None
    ) -> tuple[Tensor, Any]:
        """y and the moments of x, which are constants."""
        with no_grad():
            found = Moments(self.axes, self.centre)(x)
        return self.with_affine(x, found, weight, bias), found

    def with_affine(
        self, x: Tensor, known: Iterable[Any], weight: Tensor | None, bias: Tensor | None
    ) -> Tensor:
        """y by the moments that are known."""
        affine = [] if weight is None else [weight]
        if weight is not None and bias is not None and bias.shape == weight.shape:
            affine, bias = [weight, bias], None
        y: Tensor = self(x, *known, *affine)
        return y if bias is None else y + bias

    def compute(self, *inputs: Array) -> Array:
        x, _, _, weight, _ = self._named(*inputs)
        narrow = is_narrow(x.dtype) and (weight is None or is_narrow(weight.dtype))
        y = self._standardized(*self._named(*[_widened(value) for value in inputs]))
        return y.astype(x.dtype) if narrow else y

    def _standardized(self, x: Array, mean: Any, var: Array, weight: Any, bias: Any) -> Array:
        scale = 1 / array_api.sqrt(var + self.eps)
        if weight is not None and self._shared(x, weight):
            scale, weight = scale * weight, None
        if mean is not None:  # before it is scaled: what is left of x - mean is exact
            x = x - mean
        if weight is not None and self._shared(x, weight):  # both are small
            scale = scale * weight
        elif weight is not None:
            x, scale = x * scale, weight
        return x * scale if bias is None else primitives.multiply_add(x, scale, bias)

    def gradient(self, out_grad: Tensor, node: Tensor) -> Any:
        x, mean, var, weight, bias = self._named(*node.inputs)
        op = NormalizeGradient(self.axes, self.eps, self.centre)
        given = [value for value in (out_grad, x, mean, var, weight) if value is not None]
        dx, *affine = op(*given)
        constants = (None,) * (1 + self.centre)
        return (dx, *constants, *affine[: (weight is not None) + (bias is not None)])


class Standardize(Normalize):
    """y = (x - mean) / √(var + eps) · weight + bias, of a mean and a variance that x does not make.

    Inputs and result are those of `Normalize`; mean and var, such as running statistics, are of any
    shapes that broadcast to x.
    Gradient: dx = g r, dmean = -Σ g r, dvar = -Σ g c r³ / 2, dweight = Σ dy c r, dbias = Σ dy, with
    c = x - mean, r = 1 / √(var + eps), g = dy weight.
    """

    def gradient(self, out_grad: Tensor, node: Tensor) -> Any:
        x, mean, var, weight, bias = self._named(*node.inputs)
        dy, centred, r = _widened(out_grad), _widened(x), (_widened(var) + self.eps) ** -0.5
        centred = centred if mean is None else centred - mean
        g = dy if weight is None else dy * weight
        parts: list[tuple[Any, Callable[[], Tensor]]] = [
            (x, lambda: g * r),
            (mean, lambda: -g * r),
            (var, lambda: g * centred * (r**3 * -0.5)),
            (weight, lambda: dy * (centred * r)),
            (bias, lambda: dy),
        ]
        given = [(value, part) for value, part in parts if value is not None]
        return tuple([unbroadcast(part(), v) if v.requires_grad else None for v, part in given])


class NormalizeGradient(_Normalization, TensorTupleOp):
    """dx, and with a weight dweight and dbias: what `Normalize` gives for the adjoint g of y.

        dx = r (gw - E[gw] - n E[gw n])    n = (x - mean) r,  r = 1 / √(var + eps),  gw = g · weight
        dweight = Σ g n,  dbias = Σ g

    g, x, mean, var, weight: as in `Normalize` -> (dx,) or (dx, dweight, dbias).
    Gradient: by differentiating the gradient of y written in simple ops.
    """

    name = "normalize_gradient"

    def compute(self, g: Array, *inputs: Array) -> tuple[Array, ...]:
        x, mean, var, weight, _ = self._named(*inputs)
        first = x.ndim - len(self.axes)
        rows = self.axes == tuple(range(first, x.ndim)) and weight is not None
        way = self._of_rows if rows and weight.shape == x.shape[first:] else self._of_any
        r = 1 / array_api.sqrt(var + self.eps)
        found = way(_widened(g), _widened(x), mean, r, _widened(weight))
        return tuple(
            [_as_dtype_of(like, y) for like, y in zip((x, weight, weight), found, strict=False)]
        )

    def _of_rows(self, g: Array, x: Array, mean: Any, r: Array, weight: Array) -> Sequence[Array]:
        """A weight for each place of the last axes: x as a matrix, sums of products as products."""
        length = math.prod(weight.shape)
        count = math.prod(x.shape[: x.ndim - len(self.axes)])
        g, matrix, w = _as(g, count, length), _as(x, count, length), _as(weight, length)
        column = _as(r, count, 1)
        centred = matrix if mean is None else matrix - _as(mean, count, 1)
        product = g * centred
        dweight = array_api.matmul(_as(r, count), product)
        slope = _as(array_api.matmul(product, w), count, 1) * (column * column / length)
        gw = g * w
        if self.centre:
            gw = primitives.multiply_add(g, w, _as(array_api.matmul(g, w), count, 1) / -length)
        dx = primitives.multiply_add(centred, -slope, gw)
        dbias = primitives.total(g, (0,))
        return _as(dx * column, *x.shape), _as(dweight, *weight.shape), _as(dbias, *weight.shape)

    def _of_any(self, g: Array, x: Array, mean: Any, r: Array, weight: Any) -> Sequence[Array]:
        """Sums over the axes that share a weight come first: what is left is small, and cheap."""
        shared, count = self._shared(x, weight), _count(x, self.axes)
        centred = x if mean is None else x - mean
        products, sums = _sum(g * centred, shared), _sum(g, shared)
        affine: list[Array] = []
        if weight is not None:
            affine = [_sum_to(products * r, weight.shape), _sum_to(sums, weight.shape)]
            products, sums = products * weight, sums * weight
        rest = tuple([axis for axis in self.axes if axis not in shared])
        slope = _sum(products, rest) * (r * r * r / count)
        if self.centre:
            level = _sum(sums, rest) * (r / -count)
            part = primitives.multiply_add(centred, -slope, level)
        else:
            part = centred * -slope
        scale = r if weight is None else r * weight
        return [primitives.multiply_add(g, scale, part), *affine]

    def gradient(self, out_grad: TensorTuple, node: TensorTuple) -> Any:
        g, *inputs = node.inputs
        x, _, _, weight, _ = self._named(*inputs)
        with enable_grad():
            variables = [alias(value) for value in (g, x, weight) if value is not None]
            g, *of_y = variables
            of_y += [alias(weight * 0)] if weight is not None else []
            once = gradients([self._simply(*of_y)], [g], of_y)
        found = gradients(once, list(out_grad), variables)  # type: ignore[arg-type]
        constants = (None,) * (1 + self.centre)
        return (*found[:2], *constants, *found[2:])

    def _simply(self, x: Tensor, weight: Any = None, bias: Any = None) -> Tensor:
        """y from x, weight and bias alone, in ops whose gradients have gradients."""
        centred = x - x.mean(self.axes, keepdims=True) if self.centre else x
        var = (centred * centred).mean(self.axes, keepdims=True)
        y = centred / (var + self.eps).sqrt()
        return y if weight is None else y * weight + bias


def normalize(
    a: Tensor,
    axes: Axes = -1,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    centre: bool = True,
) -> Tensor:
    """(x - mean) / √(var + eps) · weight + bias, with the mean and variance of x over `axes`.

    centre  False: x / √(mean of x² + eps) · weight + bias
    """
    given = [value for value in (weight, bias) if value is not None]
    require_tensors("normalize", a, *given)
    for value in given:
        if not _broadcasts(value, a):
            raise ShapeError(
                "normalize: expected weight and bias that broadcast to x, got "
                f"{describe(value)} for {describe(a)}."
            )
    if not (isinstance(eps, Real) and eps >= 0):
        raise OptionError(f"normalize: expected eps of 0 or more, got {eps!r}.")
    op = Normalize(_filled_axes("normalize", a, axes), float(eps), centre)
    return op.with_moments(a, weight, bias)[0]


def _filled_axes(op: str, x: Tensor, axes: Axes) -> tuple[int, ...]:
    """Axes as numbers in 0..ndim-1. Raises ShapeError where there is nothing along them."""
    numbers = normalize_axes(op, axes, x.ndim)
    if _count(x, numbers) == 0:
        raise ShapeError(
            f"{op}: expected at least one element along axes {numbers}, got {describe(x)}."
        )
    return numbers


def _broadcasts(x: Any, like: Any) -> bool:
    """Whether x broadcasts to the shape of `like`."""
    new = like.ndim - x.ndim
    return new >= 0 and all(n in (1, m) for n, m in zip(x.shape, like.shape[new:], strict=True))


def _count(x: Any, axes: Sequence[int]) -> int:
    return math.prod([x.shape[axis] for axis in axes])


def _widened(x: Any) -> Any:
    """x, at least float32; integers as float64, as in a mean."""
    if x is None or (is_floating(x.dtype) and x.dtype.itemsize >= 4):
        return x
    return x.astype("float32" if is_floating(x.dtype) else "float64")


def _as_dtype_of(like: Any, x: Any) -> Any:
    return x.astype(like.dtype) if is_floating(like.dtype) and like.dtype != x.dtype else x


def _as(x: Array, *shape: int) -> Array:
    return x if x.shape == shape else array_api.reshape(x, shape)


def _sum(x: Array, axes: tuple[int, ...]) -> Array:
    """Σ x over `axes`, which stay at length 1.

    Of a group of channels the places are summed before the channels: these may lie innermost in
    memory, and are few.
    """
    if len(axes) > 2 and axes[1] == axes[0] + 1 and _count(x, axes[1:]) >= _MANY:
        axes, x = axes[:1], primitives.total(x, axes[1:], True)
    return primitives.total(x, axes, True) if axes else x


def _sum_to(x: Array, shape: tuple[int, ...]) -> Array:
    """x summed over the axes that broadcasting from `shape` has given it."""
    new = len(x.shape) - len(shape)
    stretched = [new + i for i, n in enumerate(shape) if n == 1 and x.shape[new + i] != 1]
    return _as(_sum(x, (*range(new), *stretched)), *shape)

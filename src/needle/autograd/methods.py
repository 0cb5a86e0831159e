"""The operators and methods of Tensor. Each calls the op of the same name in `needle.ops`.

Ops are subclasses of what this package defines, and Tensor's operators are ops: the one knot in
the layering. It is tied here, at call time, by the name `needle.ops`, and nowhere else.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from numbers import Number
from typing import TYPE_CHECKING, Any

import numpy as np

import needle
from needle.backend_selection import NDArray
from needle.dtypes import is_floating
from needle.errors import DTypeError, kind_of
from needle.run_numbers import RunNumber

if TYPE_CHECKING:
    from needle.autograd.tensor import Tensor

__all__ = ["TensorMethods"]

Axes = int | Sequence[int] | None

# what an operator takes for an array, beside Tensors
_ARRAYS = (NDArray, np.ndarray)

# What an operator returns for an operand it knows nothing of; Python then asks the operand.
_NO: Any = NotImplemented


def _is_scalar(other: Any) -> bool:
    """A number, a NumPy scalar, or an array of one element and at most one axis."""
    if type(other) is float or isinstance(other, (int, np.generic, Number, RunNumber)):
        return True
    return isinstance(other, np.ndarray) and other.size == 1 and other.ndim <= 1


def _binary(
    tensor: Any,
    other: Any,
    elementwise: Callable[..., Tensor],
    with_scalar: Callable[..., Tensor],
    name: str | None = None,
) -> Tensor:
    """Tensor ∘ Tensor is the elementwise op, Tensor ∘ number the scalar op."""
    if isinstance(other, TensorMethods):
        return elementwise(tensor, other)
    if _is_scalar(other):
        return with_scalar(tensor, other)
    if isinstance(other, _ARRAYS):
        return elementwise(tensor, _constant(other, tensor))
    return _unknown(name or elementwise.__name__.lstrip("_"), other)


def _reflected(tensor: Any, other: Any, elementwise: Callable[..., Tensor]) -> Tensor:
    """number ∘ Tensor, for the ops that do not commute. The number takes the Tensor's dtype."""
    if _is_scalar(other):
        value = np.asarray(other).reshape(()).item()
        dtype = tensor.dtype if is_floating(tensor.dtype) else np.result_type(tensor.dtype, value)
        return elementwise(_number(value, tensor, dtype), tensor)
    if isinstance(other, _ARRAYS):
        return elementwise(_constant(other, tensor), tensor)
    return _unknown(elementwise.__name__.lstrip("_"), other)


def _unknown(name: str, other: Any) -> Tensor:
    """What Python is told of an operand that is none. Raises DTypeError for a list."""
    if isinstance(other, (list, tuple)):
        got, hint = kind_of(other), "Make a Tensor of it first: ndl.Tensor(...)."
    elif type(other).__module__ == "needle.backend_ndarray.ndarray":  # in np mode, as nd mode's is
        got, hint = "an NDArray of nd mode", "This is np mode: take its NumPy array, x.numpy()."
    else:
        return _NO  # type: ignore[no-any-return]
    raise DTypeError(f"{name}: expected a Tensor, array or number, got {got}. {hint}")


def _constant(array: Any, like: Any) -> Tensor:
    """An array next to a Tensor as one."""
    from needle.autograd.tensor import as_operand

    return as_operand(array, like.device, like.dtype)


def _number(number: Any, like: Any, dtype: Any) -> Tensor:
    """A number next to a Tensor as one."""
    return needle.Tensor(number, device=like.device, dtype=dtype, requires_grad=False)


class TensorMethods:
    """Mixed into Tensor, which `self` always is: everything a Tensor can do that is an op.

    Operators take Tensors, numbers and arrays; of lists make a Tensor. Reductions take `axis=` for
    `axes=`, so that `numpy.sum(tensor, axis=0)` works.
    """

    # -- arithmetic ----------------------------------------------------------------------------

    def __add__(self: Any, other: Any) -> Tensor:
        return _binary(self, other, needle.ops.add, needle.ops.add_scalar)

    def __mul__(self: Any, other: Any) -> Tensor:
        return _binary(self, other, needle.ops.multiply, needle.ops.mul_scalar)

    def __truediv__(self: Any, other: Any) -> Tensor:
        return _binary(self, other, needle.ops.divide, needle.ops.divide_scalar)

    def __pow__(self: Any, other: Any) -> Tensor:
        return _binary(self, other, needle.ops.power, needle.ops.power_scalar)

    def __sub__(self: Any, other: Any) -> Tensor:
        return _binary(self, other, _subtract, _subtract_scalar)

    def __neg__(self: Any) -> Tensor:
        return needle.ops.negate(self)

    def __matmul__(self: Any, other: Any) -> Tensor:
        if isinstance(other, _ARRAYS):
            other = _constant(other, self)
        if not isinstance(other, TensorMethods):
            return _unknown("matmul", other)
        return needle.ops.matmul(self, other)  # type: ignore[arg-type]  # only Tensors mix this in

    __radd__ = __add__
    __rmul__ = __mul__

    def __rsub__(self: Any, other: Any) -> Tensor:
        if self.dtype.kind in "biu":
            return _reflected(self, other, _subtract)
        return _binary(-self, other, needle.ops.add, needle.ops.add_scalar, "subtract")

    def __rtruediv__(self: Any, other: Any) -> Tensor:
        return _reflected(self, other, needle.ops.divide)

    def __rpow__(self: Any, other: Any) -> Tensor:
        return _reflected(self, other, needle.ops.power)

    def __rmatmul__(self: Any, other: Any) -> Tensor:
        if not isinstance(other, _ARRAYS):
            return _unknown("matmul", other)
        return needle.ops.matmul(_constant(other, self), self)

    def __abs__(self: Any) -> Tensor:
        return needle.ops.abs(self)

    def __getitem__(self: Any, index: Any) -> Tensor:
        return needle.ops.getitem(self, index)

    # -- comparisons: bool Tensors. `==` compares identity; elementwise it is ndl.equal ---------

    def __lt__(self: Any, other: Any) -> Tensor:
        return needle.ops.less(self, other)

    def __le__(self: Any, other: Any) -> Tensor:
        return needle.ops.less_equal(self, other)

    def __gt__(self: Any, other: Any) -> Tensor:
        return needle.ops.greater(self, other)

    def __ge__(self: Any, other: Any) -> Tensor:
        return needle.ops.greater_equal(self, other)

    # -- logic: of bool Tensors, for masks -------------------------------------------------------

    def __and__(self: Any, other: Any) -> Tensor:
        return needle.ops.logical_and(self, other)

    def __or__(self: Any, other: Any) -> Tensor:
        return needle.ops.logical_or(self, other)

    def __invert__(self: Any) -> Tensor:
        return needle.ops.logical_not(self)

    __rand__ = __and__
    __ror__ = __or__

    def all(self: Any, axes: Axes = None, keepdims: bool = False, **named: Any) -> Tensor:
        """Whether every element along `axes` is true."""
        return needle.ops.all(self, axes, keepdims, **named)

    def any(self: Any, axes: Axes = None, keepdims: bool = False, **named: Any) -> Tensor:
        """Whether any element along `axes` is true."""
        return needle.ops.any(self, axes, keepdims, **named)

    # -- elementwise ---------------------------------------------------------------------------

    def exp(self: Any) -> Tensor:
        """exp(x)."""
        return needle.ops.exp(self)

    def log(self: Any) -> Tensor:
        """The natural logarithm."""
        return needle.ops.log(self)

    def sqrt(self: Any) -> Tensor:
        """√x."""
        return needle.ops.sqrt(self)

    def abs(self: Any) -> Tensor:
        """|x|."""
        return needle.ops.abs(self)

    def sin(self: Any) -> Tensor:
        """sin(x), x in radians."""
        return needle.ops.sin(self)

    def cos(self: Any) -> Tensor:
        """cos(x), x in radians."""
        return needle.ops.cos(self)

    def erf(self: Any) -> Tensor:
        """The error function."""
        return needle.ops.erf(self)

    def tanh(self: Any) -> Tensor:
        """The hyperbolic tangent."""
        return needle.ops.tanh(self)

    def sigmoid(self: Any) -> Tensor:
        """1 / (1 + exp(-x))."""
        return needle.ops.sigmoid(self)

    def relu(self: Any) -> Tensor:
        """max(x, 0)."""
        return needle.ops.relu(self)

    def clip(self: Any, low: float | None = None, high: float | None = None) -> Tensor:
        """x, no lower than `low` and no higher than `high`."""
        return needle.ops.clip(self, low, high)

    def astype(self: Any, dtype: Any) -> Tensor:
        """The values in another dtype."""
        return needle.ops.cast(self, dtype)

    # -- products and reductions ---------------------------------------------------------------

    def matmul(self: Any, other: Any) -> Tensor:
        """The matrix product, over the last two axes; leading axes broadcast."""
        return needle.ops.matmul(self, other)

    def sum(self: Any, axes: Axes = None, keepdims: bool = False, **named: Any) -> Tensor:
        """The sum over `axes`; over all of them by default."""
        return needle.ops.summation(self, axes, keepdims, **named)

    def mean(self: Any, axes: Axes = None, keepdims: bool = False, **named: Any) -> Tensor:
        """The mean over `axes`."""
        return needle.ops.mean(self, axes, keepdims, **named)

    def var(
        self: Any, axes: Axes = None, keepdims: bool = False, correction: int = 0, **named: Any
    ) -> Tensor:
        """The variance over `axes`, divided by N - correction."""
        return needle.ops.var(self, axes, keepdims, correction, **named)

    def std(
        self: Any, axes: Axes = None, keepdims: bool = False, correction: int = 0, **named: Any
    ) -> Tensor:
        """The standard deviation over `axes`."""
        return needle.ops.std(self, axes, keepdims, correction, **named)

    def max(self: Any, axes: Axes = None, keepdims: bool = False, **named: Any) -> Tensor:
        """The largest element along `axes`."""
        return needle.ops.max(self, axes, keepdims, **named)

    def min(self: Any, axes: Axes = None, keepdims: bool = False, **named: Any) -> Tensor:
        """The smallest element along `axes`."""
        return needle.ops.min(self, axes, keepdims, **named)

    def argmax(self: Any, axis: int | None = None) -> Tensor:
        """The index of the (first) largest element."""
        return needle.ops.argmax(self, axis)

    def argmin(self: Any, axis: int | None = None) -> Tensor:
        """The index of the (first) smallest element."""
        return needle.ops.argmin(self, axis)

    def cumsum(self: Any, axis: int) -> Tensor:
        """Running sums along `axis`."""
        return needle.ops.cumsum(self, axis)

    def logsumexp(self: Any, axes: Axes = None, keepdims: bool = False, **named: Any) -> Tensor:
        """log Σ exp(x) over `axes`."""
        return needle.ops.logsumexp(self, axes, keepdims, **named)

    # -- shape ---------------------------------------------------------------------------------

    def reshape(self: Any, *shape: Any) -> Tensor:
        """The same elements in another shape; one extent may be -1."""
        return needle.ops.reshape(self, _one_or_several(shape))

    def broadcast_to(self: Any, shape: Sequence[int]) -> Tensor:
        """The elements repeated along axes of length 1 and new leading axes."""
        return needle.ops.broadcast_to(self, shape)

    def transpose(self: Any, *swapped: Any, axes: Sequence[int] | None = None) -> Tensor:
        """Two axes swapped, transpose((0, 1)) or transpose(0, 1); the last two by default."""
        given = _one_or_several(swapped) if swapped else None
        return needle.ops.transpose(self, given if axes is None else axes)

    def permute(self: Any, *order: Any, axes: Sequence[int] | None = None) -> Tensor:
        """The axes in another order: permute((2, 0, 1)) or permute(2, 0, 1)."""
        return needle.ops.permute(self, _one_or_several(order) if axes is None else axes)

    @property
    def T(self: Any) -> Tensor:
        """The axes in reverse order."""
        return needle.ops.permute(self, tuple(range(self.ndim))[::-1])

    def squeeze(self: Any, axes: Axes = None) -> Tensor:
        """Without axes of length 1: those named, or all."""
        return needle.ops.squeeze(self, axes)

    def expand_dims(self: Any, axes: int | Sequence[int]) -> Tensor:
        """With new axes of length 1 at `axes` of the result."""
        return needle.ops.expand_dims(self, axes)

    def flatten(self: Any, start_axis: int = 0) -> Tensor:
        """The axes from `start_axis` on as one."""
        return needle.ops.flatten(self, start_axis)

    def flip(self: Any, axes: int | Sequence[int]) -> Tensor:
        """Reversed along `axes`."""
        return needle.ops.flip(self, axes)


def _one_or_several(arguments: tuple[Any, ...]) -> Any:
    """f((2, 3)) and f(2, 3) mean the same."""
    return arguments[0] if len(arguments) == 1 else arguments


def _subtract(a: Tensor, b: Tensor) -> Tensor:
    if b.dtype.kind in "biu":  # negated in the dtype of the difference: a uint8 has no negative
        b = needle.ops.cast(b, np.result_type(a.dtype, b.dtype))
    return needle.ops.add(a, needle.ops.negate(b))


def _subtract_scalar(a: Tensor, scalar: Any) -> Tensor:
    number = np.asarray(scalar).reshape(()).item()
    if a.dtype.kind == "u" and isinstance(number, int):
        return _subtract(a, _number(number, a, a.dtype))
    return needle.ops.add_scalar(a, -number)

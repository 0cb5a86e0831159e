"""Elementwise primitives on NDArrays: how a plan is made, and how it is found again."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from needle.backend_ndarray import promotion
from needle.backend_ndarray.device import Run, Scalar
from needle.backend_ndarray.layout import Layout, Shape, require_extents, result_strides
from needle.backend_ndarray.ndarray import NDArray, new_array, require_array
from needle.backend_ndarray.plans import Plan, Plans, checked
from needle.dtypes import is_floating
from needle.errors import DeviceError, DTypeError, ShapeError, describe
from needle.run_numbers import RunNumber, value_of

__all__ = ["Elementwise", "apply", "as_number", "as_operand", "broadcast_shapes", "operators"]

_NUMBERS = (bool, int, float)
_LARGEST = np.finfo(np.float64).max.item()


class Elementwise:
    """A primitive, by name, and the plans made for it so far."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.plans: Plans = Plans()

    def __call__(self, *operands: Any) -> NDArray:
        """Apply it to NDArrays and numbers, which take an array's dtype where that can be."""
        arrays = [x for x in operands if isinstance(x, NDArray)]
        if not arrays:
            require_array(self.name, *operands)
        like = arrays[-1]  # of `where`, not the condition
        prepared = [self._operand(x, like) for x in operands]
        key = tuple([x._layout if isinstance(x, NDArray) else _kind(x) for x in prepared])
        plan = self.plans.get(key)
        if plan is None:
            plan = self.plans.keep(key, self._plan(prepared))
        arguments: list[Any] = []
        for x in prepared:
            if isinstance(x, NDArray):
                arguments += (x._memory, x._offset)
        arguments += [x for x in prepared if not isinstance(x, NDArray)]
        try:
            return new_array(plan.layout, plan.run(*arguments))
        except OverflowError:  # an int that is no double
            raise DTypeError(
                f"{self.name}: expected a number that a float64 can hold, got "
                f"{describe(*operands)}."
            ) from None

    def _operand(self, x: Any, like: NDArray) -> Any:
        """An NDArray, or a Python number: NumPy's scalars count as those."""
        if isinstance(x, NDArray) or type(x) is RunNumber:
            return x
        if type(x) not in _NUMBERS:
            if self.name in _EQUALITIES and _equals_no_number(x):
                return math.nan
            x = as_operand(self.name, x, like)
        if type(x) is int and self.name in COMPARISONS.values():
            return _comparable(self.name, x, like)
        return x

    def _plan(self, operands: Sequence[Any]) -> Plan:
        arrays = [x for x in operands if isinstance(x, NDArray)]
        device = one_device(self.name, arrays)
        dtypes = [x.dtype if isinstance(x, NDArray) else _kind(x) for x in operands]
        compute, result = promotion.result_dtypes(self.name, tuple(dtypes))
        shape = broadcast_shapes(self.name, arrays)
        layouts = iter([x._layout.broadcast_to(shape)[0] for x in arrays])
        inputs = [
            next(layouts) if isinstance(x, NDArray) else Scalar(_scalar_dtype(dtype))
            for x, dtype in zip(operands, compute, strict=True)
        ]
        walked = [x for x in inputs if isinstance(x, Layout)]
        out = Layout.of(device, result, shape, result_strides(shape, walked))
        run = checked(self.name, device.elementwise(self.name, inputs, compute, out), out)
        numbers = [to for x, to in zip(inputs, compute, strict=True) if isinstance(x, Scalar)]
        if any(dtype.kind in "iub" for dtype in numbers):
            run = _with_stored_numbers(run, numbers)
        if self.name == "power" and compute[1].kind in "iu":
            run = _with_exponents_from_zero(run, inputs, arrays)
        return Plan(out, run)


def _kind(number: Any) -> type:
    """The Python type of a number, which for one that is known at the run is that of its value."""
    return type(value_of(number))


def _with_stored_numbers(run: Run, dtypes: Sequence[np.dtype[Any]]) -> Run:
    """`run`, for numbers (its last arguments) that the dtypes can hold; for bools, the truth."""
    count = len(dtypes)

    def run_if_they_fit(*arguments: Any) -> Any:
        numbers = [
            number if dtype.kind not in "iub" else promotion.stored(value_of(number), dtype)
            for number, dtype in zip(arguments[-count:], dtypes, strict=True)
        ]
        return run(*arguments[:-count], *numbers)

    return run_if_they_fit


def _with_exponents_from_zero(
    run: Run, inputs: Sequence[Layout | Scalar], arrays: Sequence[NDArray]
) -> Run:
    """`run` of an integer power, after a look at the exponents: integers have no reciprocals."""
    exponent, place = inputs[1], 2 * len(arrays) - 2
    shown = [describe(x._layout) for x in arrays]

    def run_unless_negative(*arguments: Any) -> Any:
        if isinstance(exponent, Scalar):
            if arguments[-1] < 0:
                raise _negative_exponents(*shown, str(arguments[-1]))
        elif exponent.dtype.kind == "i" and exponent.device.has_memory:
            values = exponent.device.view(exponent, arguments[place], arguments[place + 1])
            if (values < 0).any():
                raise _negative_exponents(*shown)
        return run(*arguments)

    return run_unless_negative


def _negative_exponents(*shown: str) -> DTypeError:
    return DTypeError(f"power: expected floats for negative exponents, got {' and '.join(shown)}.")


def _comparable(name: str, x: int, like: NDArray) -> Any:
    """A Python int to compare with; what no dtype here can hold is beyond all that they can."""
    whole = like.dtype.kind in "iu"
    if promotion.fits(x, like.dtype) if whole else abs(x) <= _LARGEST:
        return x
    if name in _EQUALITIES:
        return math.nan  # which, unlike Inf, nothing equals
    return math.inf if x > 0 else -math.inf


def _scalar_dtype(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """How a number is handed over: as a double for floats, else as an integer."""
    return dtype if dtype.kind in "iub" else np.dtype(np.float64)


def as_operand(name: str, x: Any, like: NDArray) -> Any:
    """What stands next to an NDArray, as an NDArray on its device or as a Python number.

    NumPy's scalars are numbers, so that a float32 array stays one beside them. Its arrays, and
    lists, are arrays of their own dtype, but for lists of floats, which are float32, and lists of
    whole numbers beside floats, which take their dtype as Python's ints do.
    """
    number = as_number(x)
    if number is not None:
        return number
    if isinstance(x, (np.ndarray, list, tuple, range)):
        from needle.backend_ndarray.creation import array, as_numbers

        values = as_numbers(x, None, name)
        kind = values.dtype if isinstance(x, np.ndarray) else _list_dtype(name, values.dtype, like)
        return array(values, kind, like.device)
    raise DTypeError(f"{name}: expected an NDArray or a number, got {describe(x)}.")


def _list_dtype(name: str, dtype: np.dtype[Any], like: NDArray) -> np.dtype[Any]:
    """The dtype of a list of which NumPy makes an array of `dtype`, next to an array.

    Whole numbers that are only compared are not rounded.
    """
    if dtype.kind in "iu" and is_floating(like.dtype) and name not in COMPARISONS.values():
        return like.dtype
    return np.dtype(np.float32) if dtype == np.float64 else dtype


def goes_first(x: Any) -> bool:
    """Whether it has operators of its own that take arrays, as a Tensor has: NumPy's protocol."""
    return getattr(type(x), "__array_ufunc__", True) is None


def as_number(x: Any) -> Any:
    """A Python number for what is one: NumPy's scalars, a Fraction; None for all else."""
    if goes_first(x):
        return None
    if isinstance(x, np.generic):
        x = x.item()
    for kind in _NUMBERS:
        if isinstance(x, kind):
            return kind(x)
    if isinstance(x, np.ndarray) or not hasattr(type(x), "__float__"):
        return None
    try:
        return float(x)
    except (TypeError, ValueError):  # an array that has more than one element
        return None


def _equals_no_number(x: Any) -> bool:
    """Whether it is neither a number nor an array, and so different from every element."""
    return x is None or isinstance(x, (str, bytes, dict, set))


def one_device(name: str, arrays: Sequence[NDArray]) -> Any:
    """The device that all arrays are on; if some are traced, the trace of it."""
    device = arrays[0].device
    if all(x.device == device for x in arrays):
        return device
    if any(x.device.real != device.real for x in arrays):
        places = " and ".join(dict.fromkeys(repr(x.device.real) for x in arrays))
        raise DeviceError(f"{name}: expected arrays on one device, got {places}. Use to(device).")
    return next(x.device for x in arrays if not x.device.has_memory)


def broadcast_shapes(name: str, arrays: Sequence[Any]) -> Shape:
    """The shape that all broadcast to, by NumPy's rules."""
    shape = arrays[0].shape
    if all(x.shape == shape for x in arrays[1:]):
        return shape  # type: ignore[no-any-return]
    extents = [1] * max(x.ndim for x in arrays)
    for x in arrays:
        for axis, n in enumerate(x.shape, len(extents) - x.ndim):
            if n != 1 and extents[axis] not in (1, n):
                raise ShapeError(
                    f"{name}: expected shapes that broadcast together, got {describe(*arrays)}."
                )
            extents[axis] = extents[axis] if n == 1 else n
    require_extents(name, tuple(extents))
    return tuple(extents)


_primitives: dict[str, Elementwise] = {}


def primitive(name: str) -> Elementwise:
    """The elementwise primitive of that name: one object each."""
    found = _primitives.get(name)
    if found is None:
        found = _primitives.setdefault(name, Elementwise(name))
    return found


def apply(name: str, *operands: Any) -> NDArray:
    """The elementwise primitive of that name, applied."""
    return primitive(name)(*operands)


def unary_function(name: str) -> Callable[[NDArray], NDArray]:
    """A function of one NDArray that finds its plan with one look."""
    operation = primitive(name)
    plans = operation.plans

    def function(x: NDArray) -> NDArray:
        if type(x) is NDArray:
            plan = plans.get((x._layout,))
            if plan is not None:
                return new_array(plan.layout, plan.run(x._memory, x._offset))
        return operation(x)

    function.__name__ = function.__qualname__ = name
    function.__doc__ = f"{name} of each element, in the dtype that NumPy gives it."
    return function


def binary_function(name: str, is_operator: bool = False) -> Callable[[Any, Any], NDArray]:
    """A function of two operands that finds its plan with one look; one may be a number.

    is_operator  whether it stands for one of Python's, which leave it to a Tensor what becomes of
                 an array beside it
    """
    operation = primitive(name)
    plans = operation.plans

    def function(a: Any, b: Any) -> NDArray:
        kind = type(b)
        if type(a) is NDArray:
            if kind is NDArray:
                plan = plans.get((a._layout, b._layout))
                if plan is not None:
                    return new_array(
                        plan.layout, plan.run(a._memory, a._offset, b._memory, b._offset)
                    )
            elif kind is float:
                plan = plans.get((a._layout, float))
                if plan is not None:
                    return new_array(plan.layout, plan.run(a._memory, a._offset, b))
        if is_operator and goes_first(b):
            return NotImplemented  # type: ignore[no-any-return]
        return operation(a, b)

    function.__name__ = function.__qualname__ = name
    function.__doc__ = f"{name} of a and b, elementwise; they broadcast, and one may be a number."
    return function


def power_function(is_operator: bool = False) -> Callable[[Any, Any], NDArray]:
    """`power`, for which the numbers 2 and 0.5 are the square and the square root.

    As in NumPy: so (-inf)^0.5 is NaN and (-0.0)^0.5 is -0.0, where C's pow has inf and 0.0.
    """
    general = binary_function("power", is_operator)
    square, sqrt = unary_function("square"), unary_function("sqrt")

    def power(a: Any, b: Any) -> NDArray:
        if type(a) is NDArray and not isinstance(b, NDArray) and is_floating(a.dtype):
            number = b if type(b) in _NUMBERS else as_number(b)
            if number == 2:
                return square(a)
            if number == 0.5:
                return sqrt(a)
        return general(a, b)

    power.__doc__ = general.__doc__
    return power


def reflected(function: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    """`function` with its operands exchanged, for `1 - x`."""

    def exchanged(a: Any, b: Any) -> Any:
        return function(b, a)

    return exchanged


BINARY = {
    "add": "add",
    "sub": "subtract",
    "mul": "multiply",
    "truediv": "divide",
    "floordiv": "floor_divide",
    "mod": "remainder",
    "pow": "power",
    "and": "bitwise_and",
    "or": "bitwise_or",
    "xor": "bitwise_xor",
}
_EQUALITIES = ("equal", "not_equal")
COMPARISONS = {
    "eq": "equal",
    "ne": "not_equal",
    "lt": "less",
    "le": "less_equal",
    "gt": "greater",
    "ge": "greater_equal",
}


def quotient_and_rest(a: Any, b: Any) -> tuple[NDArray, NDArray]:
    return apply("floor_divide", a, b), apply("remainder", a, b)


def operators() -> dict[str, Any]:
    """Python's operators, as NDArray takes them into its class."""
    methods: dict[str, Any] = {}
    for short, name in BINARY.items():
        function = power_function(True) if name == "power" else binary_function(name, True)
        methods[f"__{short}__"] = function
        methods[f"__r{short}__"] = reflected(function)
    for short, name in COMPARISONS.items():
        methods[f"__{short}__"] = binary_function(name, is_operator=True)
    methods["__divmod__"] = quotient_and_rest
    methods["__rdivmod__"] = reflected(quotient_and_rest)
    methods["__neg__"] = unary_function("negative")
    methods["__abs__"] = unary_function("abs")
    methods["__invert__"] = unary_function("invert")
    return methods

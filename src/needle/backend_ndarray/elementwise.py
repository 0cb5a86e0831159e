"""Elementwise primitives on NDArrays: how a plan is made, and how it is found again."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from needle.backend_ndarray import promotion
from needle.backend_ndarray.device import Run, Scalar
from needle.backend_ndarray.layout import Layout, Shape, result_strides
from needle.backend_ndarray.ndarray import NDArray, new_array
from needle.backend_ndarray.plans import Plan, Plans, checked
from needle.errors import DeviceError, DTypeError, ShapeError, describe

__all__ = ["Elementwise", "apply", "broadcast_shapes", "operators"]

_NUMBERS = (bool, int, float)


class Elementwise:
    """A primitive, by name, and the plans made for it so far."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.plans: Plans = Plans()

    def __call__(self, *operands: Any) -> NDArray:
        """Apply it to NDArrays and numbers, which take an array's dtype where that can be."""
        arrays = [x for x in operands if isinstance(x, NDArray)]
        if not arrays:
            raise DTypeError(f"{self.name}: expected an NDArray, got {describe(*operands)}.")
        prepared = [self._operand(x, arrays[0]) for x in operands]
        key = tuple([x._layout if isinstance(x, NDArray) else type(x) for x in prepared])
        plan = self.plans.get(key)
        if plan is None:
            plan = self.plans.keep(key, self._plan(prepared))
        arguments: list[Any] = []
        for x in prepared:
            if isinstance(x, NDArray):
                arguments += (x._memory, x._offset)
        arguments += [x for x in prepared if not isinstance(x, NDArray)]
        return new_array(plan.layout, plan.run(*arguments))

    def _operand(self, x: Any, like: NDArray) -> Any:
        """An NDArray, or a Python number: NumPy's scalars count as those."""
        if isinstance(x, NDArray):
            return x
        if type(x) not in _NUMBERS:
            x = as_operand(self.name, x, like)
        if type(x) is int and self.name in _COMPARISONS.values():
            return _comparable(x, like)
        return x

    def _plan(self, operands: Sequence[Any]) -> Plan:
        arrays = [x for x in operands if isinstance(x, NDArray)]
        device = one_device(self.name, arrays)
        dtypes = [x.dtype if isinstance(x, NDArray) else type(x) for x in operands]
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
        if any(dtype.kind in "iu" for dtype in numbers):
            run = _with_fitting_numbers(run, numbers)
        return Plan(out, run)


def _with_fitting_numbers(run: Run, dtypes: Sequence[np.dtype[Any]]) -> Run:
    """`run`, for numbers (its last arguments) that the integer dtypes can hold."""

    def run_if_they_fit(*arguments: Any) -> Any:
        for number, dtype in zip(arguments[-len(dtypes) :], dtypes, strict=True):
            promotion.check_fits(number, dtype)
        return run(*arguments)

    return run_if_they_fit


def _comparable(x: int, like: NDArray) -> Any:
    """A Python int to compare with; what the array's dtype cannot hold is beyond all it can."""
    if like.dtype.kind not in "iu" or promotion.fits(x, like.dtype):
        return x
    return math.inf if x > 0 else -math.inf


def _scalar_dtype(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """How a number is handed over: as a double for floats, else as an integer."""
    return dtype if dtype.kind in "iub" else np.dtype(np.float64)


def as_operand(name: str, x: Any, like: NDArray) -> Any:
    """What stands next to an NDArray, as an NDArray on its device or as a Python number."""
    if isinstance(x, (np.generic, np.ndarray)) and x.size == 1 and x.ndim <= 1:
        x = x.item()
    if isinstance(x, (bool, int, float)):
        return x if type(x) in _NUMBERS else float(x) if isinstance(x, float) else int(x)
    if isinstance(x, np.ndarray):
        from needle.backend_ndarray.creation import array

        return array(x, x.dtype, like.device)
    try:
        return float(x)  # a Fraction, say
    except (TypeError, ValueError):
        pass
    raise DTypeError(f"{name}: expected an NDArray or a number, got {describe(x)}.")


def one_device(name: str, arrays: Sequence[NDArray]) -> Any:
    """The device that all arrays are on; if some are traced, the trace of it."""
    device = arrays[0].device
    if all(x.device == device for x in arrays):
        return device
    if any(x.device.real != device.real for x in arrays):
        places = " and ".join(repr(x.device.real) for x in arrays)
        raise DeviceError(f"{name}: expected arrays on one device, got {places}. Use to(device).")
    return next(x.device for x in arrays if not x.device.has_memory)


def broadcast_shapes(name: str, arrays: Sequence[Any]) -> Shape:
    """The shape that all broadcast to, by NumPy's rules."""
    shape = arrays[0].shape
    if all(x.shape == shape for x in arrays[1:]):
        return shape  # type: ignore[no-any-return]
    try:
        return np.broadcast_shapes(*[x.shape for x in arrays])
    except ValueError:
        raise ShapeError(
            f"{name}: expected shapes that broadcast together, got {describe(*arrays)}."
        ) from None


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


def binary_function(name: str) -> Callable[[Any, Any], NDArray]:
    """A function of two operands that finds its plan with one look; one may be a number."""
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
        return operation(a, b)

    function.__name__ = function.__qualname__ = name
    function.__doc__ = f"{name} of a and b, elementwise; they broadcast, and one may be a number."
    return function


def reflected(function: Callable[[Any, Any], NDArray]) -> Callable[[Any, Any], NDArray]:
    """`function` with its operands exchanged, for `1 - x`."""

    def exchanged(a: Any, b: Any) -> NDArray:
        return function(b, a)

    return exchanged


_BINARY = {
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
_COMPARISONS = {
    "eq": "equal",
    "ne": "not_equal",
    "lt": "less",
    "le": "less_equal",
    "gt": "greater",
    "ge": "greater_equal",
}


def operators() -> dict[str, Any]:
    """Python's operators, as NDArray takes them into its class."""
    methods: dict[str, Any] = {}
    for short, name in _BINARY.items():
        function = binary_function(name)
        methods[f"__{short}__"] = function
        methods[f"__r{short}__"] = reflected(function)
    for short, name in _COMPARISONS.items():
        methods[f"__{short}__"] = binary_function(name)
    methods["__neg__"] = unary_function("negative")
    methods["__abs__"] = unary_function("abs")
    methods["__invert__"] = unary_function("invert")
    return methods

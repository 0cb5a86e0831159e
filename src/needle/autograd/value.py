"""A node of the computational graph (`Value`), and what computes it (`Op`).

How the graph frees itself. A leaf keeps its gradient, the gradient keeps the graph it was computed
by (it can be differentiated again), and that graph must read the leaf: a circle, which reference
counting alone never frees. So the edge to a leaf is a `Leaf`: the leaf's data as the op read it,
and the leaf's owner, the user's Tensor, held weakly. When the user lets go of a Tensor its gradient
goes, and with the gradient its graph. It also follows that assigning new data to a parameter does
not change what an earlier op has read.
"""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias

from numpy.exceptions import AxisError as NumPyAxisError

from needle import autograd as package
from needle.autograd import anomaly
from needle.autograd.modes import is_lazy, modes
from needle.backend_selection import BACKEND, Array, NDArray, array_api, primitives
from needle.errors import (
    AxisError,
    DeviceError,
    DTypeError,
    GradientError,
    NeedleError,
    OutOfRangeError,
    ShapeError,
    describe,
)
from needle.origins import current, origin_here

if TYPE_CHECKING or BACKEND == "nd":
    from needle.backend_ndarray.ndarray_backend_trace import NoValueError, result_layouts

__all__ = ["Edge", "Leaf", "Op", "Value"]


class Op:
    """An operator: how to compute a value from arrays, and its gradient from Tensors."""

    # In messages and pictures: the name of the function below the class. Default: the class's.
    name: str = "op"
    # What the operator takes, in words; error messages say it. May be a property.
    expects: Any = "inputs of fitting shapes"
    # False for results that are not differentiable at all: comparisons, argmax, casts to integer.
    differentiable: bool = True
    # Whether an input may be a TensorTuple.
    takes_tuple: bool = False
    # Of an op that picks one Tensor out of a TensorTuple: which. Lets adjoints add up slot by slot.
    slot: int | None = None

    def __call__(self, *args: Any) -> Value:
        """Apply the operator to Values."""
        raise NotImplementedError(f"{self.name}: __call__ is not written.")

    def compute(self, *args: Any, **kwargs: Any) -> Any:
        """The result, from raw arrays and in terms of `array_api`; also runs on traced arrays."""
        raise NotImplementedError(f"{self.name}: compute(self, *arrays) is not written.")

    def gradient(self, out_grad: Any, node: Any) -> Any:
        """The adjoints of the inputs, from the adjoint of the output, in Tensor ops.

        One Tensor per input, or None for an input that has no gradient.
        """
        raise NotImplementedError(f"{self.name}: gradient(self, out_grad, node) is not written.")

    def gradient_as_tuple(self, out_grad: Any, node: Any) -> tuple[Any, ...]:
        """`gradient`, as a tuple with one entry per input whatever it returned."""
        grads = self.gradient(out_grad, node)
        if isinstance(grads, tuple):
            return grads
        return tuple(grads) if isinstance(grads, list) else (grads,)

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "name" not in cls.__dict__:
            cls.name = cls.__name__.lower()


class Leaf:
    """What the graph holds of a leaf: its data as an op read it, and its owner, weakly."""

    __slots__ = ("__weakref__", "_owner", "_stand_in", "cached_data", "requires_grad")

    def __init__(self, owner: Value) -> None:
        self.cached_data = owner.cached_data
        self.requires_grad = owner.requires_grad
        self._owner = weakref.ref(owner)
        self._stand_in: Any = None

    def owner(self) -> Value | None:
        """The Tensor that the gradient belongs to, if anybody still holds it."""
        return self._owner()

    def reads(self, value: Value) -> bool:
        """Whether `value` is still as it was when it was read."""
        return self.cached_data is value.cached_data and self.requires_grad == value.requires_grad

    def value(self) -> Value:
        """The owner, or a Tensor in its place where it is gone or has been given other data."""
        owner = self._owner()
        if owner is not None and self.reads(owner):
            return owner
        stand_in = self._stand_in() if self._stand_in is not None else None
        if stand_in is None:
            from needle.autograd.tensor import Tensor, TensorTuple

            kind = TensorTuple if type(self.cached_data) is tuple else Tensor
            stand_in = kind.make_const(self.cached_data, requires_grad=self.requires_grad)
            stand_in._leaf = self
            self._stand_in = weakref.ref(stand_in)
        return stand_in


class Value:
    """A node of the graph.

    op             what computed it; None for a leaf
    inputs         the Values it was computed from
    cached_data    the raw array, or None while it has not been computed (lazy mode)
    requires_grad  whether gradients flow through it
    num_outputs    how many Values one application of the op makes
    """

    # What most Values never change stays on the class: making a Value is the cost of an eager op.
    op: Op | None = None
    cached_data: Any = None
    requires_grad: bool = False
    num_outputs: int = 1
    holds_tuple: ClassVar[bool] = False  # of TensorTuple: its data is a tuple of arrays
    grad: Any = None  # of leaves, after backward
    _edges: tuple[Edge, ...] = ()
    _leaf: Leaf | None = None
    _hooks: dict[int, Any] | None = None
    _origin: Any = None  # the user's line, recorded by detect_anomaly(); for programs, an Origin
    _layout: Any = None  # how data not computed yet will lie, in nd mode; of a tuple, a tuple
    _is_passed: bool = False  # of what waits: a backward pass went through it, or made it

    def _init(
        self,
        op: Op | None,
        inputs: Sequence[Value],
        *,
        num_outputs: int = 1,
        cached_data: Any = None,
        requires_grad: bool | None = None,
    ) -> None:
        if requires_grad is None:
            requires_grad = any(value.requires_grad for value in inputs)
        self._set(op, inputs, cached_data, requires_grad)
        if modes.tracer is not None:
            modes.tracer.born(self)
        if num_outputs != 1:
            self.num_outputs = num_outputs

    def _set(
        self, op: Op | None, inputs: Sequence[Value], cached_data: Any, requires_grad: bool
    ) -> None:
        package.TENSOR_COUNTER += 1
        self.cached_data = cached_data
        self.requires_grad = requires_grad
        if op is not None:
            self.op = op
            self._edges = tuple([x if x.op is not None else x._edge() for x in inputs])

    def __del__(self) -> None:
        package.TENSOR_COUNTER -= 1

    def __reduce__(self) -> Any:
        """How `copy` and `pickle` take a leaf: its data, gradient and attributes; no graph."""
        data = self.realize_cached_data()
        if self.op is not None:
            raise GradientError(
                f"copy: expected a leaf, got the result of {self.op.name}. Use detach()."
            )
        attributes = {
            name: value for name, value in vars(self).items() if name not in Value.__annotations__
        }
        if self.grad is not None:
            attributes["grad"] = self.grad.detach()
        return _copied, (type(self), data, self.requires_grad), attributes or None

    @property
    def inputs(self) -> list[Any]:
        """The Values this one was computed from, left to right."""
        return [edge.value() if type(edge) is Leaf else edge for edge in self._edges]

    def _known_layout(self) -> Any:
        """How the data lies or will lie: a Layout, or a tuple of them; None if nobody knows yet."""
        data = self.cached_data
        if data is None:
            return self._layout
        return tuple([item._layout for item in data]) if type(data) is tuple else data._layout

    def is_leaf(self) -> bool:
        """Whether no op made this value."""
        return self.op is None

    def _edge(self) -> Leaf:
        """What a consumer of this leaf keeps of it; of the result of an op it keeps that itself."""
        leaf = self._leaf
        if leaf is None or not leaf.reads(self):
            leaf = self._leaf = Leaf(self)
        return leaf

    def _foreseen(self) -> Any:
        """What has the shape, dtype and device of the data: that itself, or what is known of it.

        What is known is a Layout, or a tuple of them, in nd mode; else it has to be computed.
        """
        if self.cached_data is None and self._layout is not None:
            return self._layout
        return self.realize_cached_data()

    def realize_cached_data(self) -> Any:
        """The raw array, computing whatever it still waits for."""
        if self.cached_data is None:
            from needle.autograd.laziness import realize_all

            realize_all((self,))
        return self.cached_data

    @classmethod
    def make_const(cls, data: Any, *, requires_grad: bool = False) -> Any:
        """A leaf that holds `data`."""
        value = cls.__new__(cls)
        value._init(None, (), cached_data=data, requires_grad=requires_grad)
        return value

    @classmethod
    def make_from_op(cls, op: Op, inputs: Sequence[Any]) -> Any:
        """The value of `op` on `inputs`: computed now, or on demand in lazy mode.

        A result that does not require grad remembers neither its op nor its inputs.
        """
        if package.LAZY_MODE or not modes.plain:
            if modes.profiled:
                return current.profile.op(op.name, _make_in_mode, cls, op, inputs)
            return _make_in_mode(cls, op, inputs)
        requires_grad, arrays = False, []
        try:
            for value in inputs:
                if value.requires_grad:
                    requires_grad = True
                data = value.cached_data
                if type(data) is tuple and not op.takes_tuple:
                    raise _no_tuple(op, value)
                arrays.append(value.realize_cached_data() if data is None else data)
        except AttributeError:
            _require_values(op, inputs)
            raise
        data = _compute(cls, op, arrays)
        result = cls.__new__(cls)
        if requires_grad and op.differentiable and modes.grad_enabled:
            result._set(op, inputs, data, True)
        else:  # a leaf that does not require grad, as the class has it
            package.TENSOR_COUNTER += 1
            result.cached_data = data
        return result


def _make_in_mode(cls: type[Value], op: Op, inputs: Sequence[Any]) -> Any:
    """`make_from_op` under lazy or detect_anomaly, in a trace or a profile."""
    _require_values(op, inputs)
    tracer = modes.tracer
    lazy = is_lazy() and tracer is None
    data = layout = None
    if tracer is not None:
        arrays = [tracer.data_of(value) for value in inputs]
        origin = current.origin = origin_here(op.name)
        data = _compute(cls, op, arrays)
        current.origin = None
    elif lazy:
        origin = origin_here(op.name)
        layout = _foresee(cls, op, inputs)
    else:
        data = _compute(cls, op, [value.realize_cached_data() for value in inputs])
    requires_grad = (
        modes.grad_enabled and op.differentiable and any(value.requires_grad for value in inputs)
    )
    result = cls.__new__(cls)
    if requires_grad or lazy:
        result._set(op, inputs, data, requires_grad)
    else:
        result._set(None, (), data, False)
    if layout is not None:
        result._layout = layout
    if lazy and modes.going_back:
        result._is_passed = True
    if tracer is not None or lazy:
        result._origin = origin
    if modes.anomaly:
        anomaly.watch(result, op, inputs)
    return result


def _foresee(cls: type[Value], op: Op, inputs: Sequence[Value]) -> Any:
    """The layout of the result, from a run of `compute` on arrays without data.

    None in np mode, and where it depends on the data. Raises what the op has against its inputs.
    """
    if BACKEND != "nd":
        return None
    layouts = [value._known_layout() for value in inputs]
    if any(layout is None for layout in layouts):
        return None
    return result_layouts(partial(_compute, cls, op), layouts)


def _copied(kind: type[Value], data: Any, requires_grad: bool) -> Value:
    value = kind.__new__(kind)
    value._init(None, (), cached_data=data, requires_grad=requires_grad)
    return value


Edge: TypeAlias = "Value | Leaf"  # what a node keeps of an input


def _no_tuple(op: Op, value: Value) -> DTypeError:
    return DTypeError(f"{op.name}: expected Tensors, got {describe(value)}. Take its items.")


def _require_values(op: Op, inputs: Sequence[Any]) -> None:
    for value in inputs:
        if not isinstance(value, Value):
            raise DTypeError(
                f"{op.name}: expected Tensors, got {describe(value)}. "
                "Wrap it first: ndl.Tensor(...)."
            ) from None
        if value.holds_tuple and not op.takes_tuple:
            raise _no_tuple(op, value)


def _compute(cls: type[Value], op: Op, arrays: list[Array]) -> Any:
    """`op.compute`, with errors that name the op, what it expects, and every shape and dtype."""
    try:
        data = op.compute(*arrays)
    except NeedleError as error:
        if _is_of_array_library(error):
            _put_in_words_of(op, error, arrays)
        raise
    except MemoryError as error:
        said = _without_name(error) or f"expected memory for the result of {describe(*arrays)}."
        raise MemoryError(f"{op.name}: {said}") from error
    except (ValueError, TypeError, IndexError, OverflowError) as error:
        raise _explained(error, op, arrays) from error
    if type(data) is NDArray and not cls.holds_tuple:
        return data
    if data is None or isinstance(data, (tuple, list)) != cls.holds_tuple:
        wanted = "a tuple of arrays" if cls.holds_tuple else "an array"
        raise DTypeError(f"{op.name}: expected compute() to return {wanted}, got {describe(data)}.")
    if cls.holds_tuple:
        return tuple([primitives.asarray(item, arrays) for item in data])
    return primitives.asarray(data, arrays)


def _is_of_array_library(error: NeedleError) -> bool:
    """Whether the array library raised it, on a step of the op, and not the op itself."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    module = "" if trace is None else trace.tb_frame.f_globals.get("__name__", "")
    return str(module).startswith(array_api.__name__)


def _put_in_words_of(op: Op, error: NeedleError, arrays: list[Array]) -> None:
    """Let an error of the array library name the op, what it expects, and every input."""
    if isinstance(error, NoValueError):
        return
    if isinstance(error, DeviceError):  # shapes are not the matter
        error.args = (f"{op.name}: {_without_name(error)}",)
        return
    said, inputs = str(error), describe(*arrays)
    if any(said.startswith(f"{array.dtype}: ") for array in arrays if hasattr(array, "dtype")):
        error.args = (f"{op.name}: {_without_name(error)} (Inputs: {inputs}.)",)  # of a number
        return
    of_op = said.startswith(f"{op.name}: ")
    about_shapes = isinstance(error, ShapeError)
    if of_op and inputs in said and not about_shapes:
        return  # nothing is missing
    reason = "" if of_op and about_shapes else f" ({said})"
    error.args = (f"{op.name}: expected {op.expects}, got {inputs}.{reason}",)


def _without_name(error: Exception) -> str:
    """What an error says after the name of a primitive, if it has one."""
    name, colon, rest = str(error).partition(": ")
    return rest if colon and name.isidentifier() else str(error)


def _explained(error: Exception, op: Op, arrays: list[Array]) -> NeedleError:
    kind: type[NeedleError]
    if isinstance(error, NumPyAxisError):
        kind = AxisError
    elif isinstance(error, IndexError):
        kind = OutOfRangeError
    else:
        kind = DTypeError if isinstance(error, (TypeError, OverflowError)) else ShapeError
    if "__array_ufunc__" in str(error) and BACKEND == "nd":
        return kind(
            f"{op.name}: expected functions of ndl.array_api in compute(), got one of NumPy's, "
            f"which takes no NDArrays. Use ndl.array_api, as in ndl.array_api.exp(x). ({error})"
        )
    if isinstance(error, OverflowError):
        return kind(f"{op.name}: expected numbers that fit, got {describe(*arrays)}. ({error})")
    reason = "" if kind is ShapeError else f" ({error})"
    return kind(f"{op.name}: expected {op.expects}, got {describe(*arrays)}.{reason}")

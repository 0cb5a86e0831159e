"""The values a user holds: `Tensor`, `TensorTuple`, and the ops that make each."""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable, Iterator
from copy import deepcopy
from itertools import count
from typing import Any

import numpy as np

import needle
from needle.autograd.backward import backward
from needle.autograd.laziness import expect
from needle.autograd.methods import TensorMethods
from needle.autograd.modes import is_lazy, modes
from needle.autograd.value import Op, Value
from needle.backend_selection import Array, Device, NDArray, primitives
from needle.dtypes import as_dtype, is_floating
from needle.errors import DTypeError, GradientError, NeedleError, ShapeError, describe, kind_of

__all__ = [
    "HookHandle",
    "Tensor",
    "TensorOp",
    "TensorTuple",
    "TensorTupleOp",
    "as_operand",
    "as_tensor",
    "from_dlpack",
]


class TensorOp(Op):
    """An operator whose result is a Tensor."""

    def __call__(self, *args: Any) -> Tensor:
        return Tensor.make_from_op(self, args)  # type: ignore[no-any-return]


class TensorTupleOp(Op):
    """An operator whose result is a TensorTuple."""

    def __call__(self, *args: Any) -> TensorTuple:
        return TensorTuple.make_from_op(self, args)  # type: ignore[no-any-return]


class Detach(TensorOp):
    """y = x: the same data, with no way back to x. What `detach` is in lazy mode."""

    differentiable = False

    def compute(self, x: Array) -> Array:
        return x


class Tensor(TensorMethods, Value):
    """An array that takes part in the computational graph.

    array          a list, number, NumPy array, raw array of this backend, or Tensor
    device         where it lives; default: where a raw array or Tensor does, else
                   `default_device()`
    dtype          a name or dtype; default: that of a raw array or Tensor; for anything else
                   float32, in np mode what NumPy has for it
    requires_grad  whether `backward` computes a gradient for it

    Tensors are hashable and compare by identity: `==` asks whether two names mean one Tensor.

    >>> import needle as ndl
    >>> x = ndl.Tensor([1.0, 2.0])
    >>> y = (x * x).sum()
    >>> y.backward()
    >>> x.grad
    needle.Tensor([2. 4.])
    """

    grad: Tensor | None

    def __init__(
        self,
        array: Any,
        *,
        device: Device | None = None,
        dtype: Any = None,
        requires_grad: bool = True,
        **kwargs: Any,
    ) -> None:
        self._init(None, (), requires_grad=requires_grad)
        if kwargs:
            raise TypeError(f"Tensor: expected device, dtype, requires_grad, got {sorted(kwargs)}.")
        self.cached_data = _raw_data(array, device, dtype)

    # -- data ----------------------------------------------------------------------------------

    @property
    def data(self) -> Tensor:
        """The same storage outside the graph; assigning replaces the storage."""
        return self.detach()

    @data.setter
    def data(self, value: Tensor) -> None:
        if not isinstance(value, Tensor):
            raise DTypeError(f"data: expected a Tensor, got {describe(value)}.")
        if value.dtype != self.dtype:
            raise DTypeError(f"data: expected dtype {self.dtype}, got {describe(value)}.")
        self.cached_data = value.realize_cached_data()

    def detach(self) -> Tensor:
        """A constant that shares this Tensor's storage and has no graph."""
        if self.cached_data is None and self.op is not None:
            if is_lazy():
                constant = Detach()(self)
                expect(constant)  # it may be state, which nobody asks for
                return constant
            self.realize_cached_data()
        return Tensor.make_const(self.cached_data)

    def twin(self) -> Tensor:
        """The same value, by the same op from the same inputs, as another Tensor."""
        tensor = Tensor.__new__(Tensor)
        tensor._set(self.op, self.inputs, self.cached_data, self.requires_grad)
        tensor._layout = self._layout
        return tensor

    @staticmethod
    def make_const(data: Any, *, requires_grad: bool = False) -> Tensor:
        """A leaf that holds `data`, a raw array or a Tensor, without copying it."""
        tensor = Tensor.__new__(Tensor)
        if isinstance(data, Tensor):
            data = data.realize_cached_data()
        tensor._init(None, (), cached_data=data, requires_grad=requires_grad)
        return tensor

    @property
    def shape(self) -> tuple[int, ...]:
        """The extent of each axis."""
        data = self.cached_data
        return (self._foreseen() if data is None else data).shape  # type: ignore[no-any-return]

    @property
    def ndim(self) -> int:
        """The number of axes."""
        return len(self.shape)

    @property
    def size(self) -> int:
        """The number of elements."""
        return math.prod(self.shape)

    @property
    def dtype(self) -> Any:
        """The element type."""
        data = self.cached_data
        return (self._foreseen() if data is None else data).dtype

    @property
    def device(self) -> Device:
        """Where the data lives."""
        data = self.cached_data
        device = primitives.device_of(self._foreseen() if data is None else data)
        return device if modes.tracer is None else modes.tracer.device_shown(device)

    def numpy(self) -> np.ndarray[Any, Any]:
        """A NumPy copy of the data."""
        return primitives.to_numpy(self.realize_cached_data())

    def item(self) -> Any:
        """The one element, as a Python number."""
        if self.size != 1:
            raise ShapeError(f"item: expected one element, got {describe(self)}.")
        return self.numpy().item()

    def tolist(self) -> Any:
        """The elements as nested Python lists."""
        return self.numpy().tolist()

    def to(self, device: Device | None = None, dtype: Any = None) -> Tensor:
        """This Tensor on another device or in another dtype; itself where nothing changes."""
        from needle.autograd.transfer import to_device

        if device is not None and not isinstance(device, Device):
            device, dtype = None, device  # to("float32")
        tensor = self if dtype is None else self.astype(dtype)
        return tensor if device is None else to_device(tensor, device)

    # -- gradients -----------------------------------------------------------------------------

    def backward(
        self,
        out_grad: Tensor | None = None,
        *,
        accumulate: bool = False,
        create_graph: bool | None = None,
    ) -> None:
        """Differentiate this Tensor; leaves that require grad receive theirs in `.grad`.

        out_grad      the adjoint of this Tensor, of its shape; default ones
        accumulate    add to what `.grad` holds, for a large batch in several small ones;
                      default: overwrite
        create_graph  whether the gradients can be differentiated again; default: yes, unless
                      they accumulate (each would keep the graph of its part of the batch)

        Raises GradientError if nothing computed this Tensor.
        """
        backward(self, out_grad, accumulate=accumulate, create_graph=create_graph)

    def register_hook(self, hook: Callable[[Tensor], Tensor | None]) -> HookHandle:
        """Call `hook(grad)` when the gradient of this Tensor is known, in each backward pass.

        What the hook returns, unless None, takes the gradient's place.
        """
        if not self.requires_grad:
            raise GradientError(
                f"register_hook: expected a tensor that requires grad, got {describe(self)}."
            )
        if self._hooks is None:
            self._hooks = {}
        return HookHandle(self._hooks, hook)

    def retain_grad(self) -> None:
        """Keep the gradient of this Tensor in `.grad` too, though it is no leaf; detached."""
        if self.is_leaf():
            return
        weak_self = weakref.ref(self)

        def keep(grad: Tensor) -> None:
            tensor = weak_self()
            if tensor is not None:
                tensor.grad = grad.detach()

        self.register_hook(keep)

    def requires_grad_(self, requires_grad: bool = True) -> Tensor:
        """Set `requires_grad` on a leaf; returns the Tensor."""
        if self.cached_data is None and not self.requires_grad:
            self.realize_cached_data()  # a constant that waits in lazy mode: a leaf from then on
        if not self.is_leaf():
            raise GradientError(
                f"requires_grad_: expected a leaf, got the result of {self.op and self.op.name}. "
                "Use detach()."
            )
        self.requires_grad = requires_grad
        return self

    # -- Python's protocols --------------------------------------------------------------------

    def __deepcopy__(self, memo: dict[int, Any]) -> Tensor:
        """A leaf like this one, on memory of its own; of no values where there are none to read."""
        make, (kind, data, requires_grad), attributes = self.__reduce__()
        if id(data) not in memo:
            memo[id(data)] = data.copy()
        copied: Tensor = make(kind, memo[id(data)], requires_grad)
        memo[id(self)] = copied
        vars(copied).update(deepcopy(attributes or {}, memo))
        return copied

    def __repr__(self) -> str:
        return f"needle.Tensor({self})"

    def __str__(self) -> str:
        if modes.tracer is not None:
            modes.tracer.shown(self)
        return str(self.realize_cached_data())

    def __len__(self) -> int:
        if not self.shape:
            raise TypeError("len: expected at least one axis, got a 0-d Tensor.")
        return self.shape[0]

    def __iter__(self) -> Iterator[Tensor]:
        if not self.shape:
            raise TypeError("iteration: expected at least one axis, got a 0-d Tensor.")
        return iter(needle.ops.split(self, 0))

    def __setitem__(self, index: Any, value: Any) -> None:
        raise TypeError(
            "a Tensor does not support item assignment. "
            "ndl.where and ndl.concatenate make new ones."
        )

    def __bool__(self) -> bool:
        """True: a Tensor is a thing, not its value. Of a comparison: its one value."""
        if self.dtype != np.bool_:
            return True
        if self.size != 1:
            raise ShapeError(
                f"truth value: expected one element, got {describe(self)}. Use .numpy().all()."
            )
        return bool(self.item())

    def __float__(self) -> float:
        return float(self.item())

    def __int__(self) -> int:
        return int(self.item())

    def __index__(self) -> int:
        if self.dtype.kind not in "iu":
            raise DTypeError(f"index: expected an integer Tensor, got {describe(self)}.")
        return int(self.item())

    def __contains__(self, value: Any) -> bool:
        """Whether an element equals `value`, a number."""
        return bool(np.any(self.numpy() == np.asarray(value)))

    def __format__(self, spec: str) -> str:
        """`f"{loss:.4f}"` shows the one element."""
        return format(self.item(), spec) if spec else str(self)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray[Any, Any]:
        if copy is False:
            return np.asarray(self.realize_cached_data(), dtype=dtype, copy=False)
        array = self.numpy()
        return array if dtype is None else array.astype(dtype)

    def __dlpack__(self, **options: Any) -> Any:
        """A DLPack capsule of the data, shared: `torch.from_dlpack(tensor)`; it has no graph."""
        return self.realize_cached_data().__dlpack__(**options)

    def __dlpack_device__(self) -> tuple[int, int]:
        """The DLPack device that the data lies on."""
        return self.realize_cached_data().__dlpack_device__()  # type: ignore[no-any-return]

    # numpy_array + tensor must come to Tensor.__radd__, not be taken apart by NumPy
    __array_ufunc__ = None


_numbers = count()


class HookHandle:
    """What `register_hook` returns; `remove()` takes the hook away."""

    def __init__(self, hooks: dict[int, Any], hook: Any) -> None:
        self._hooks, self._number = hooks, next(_numbers)
        hooks[self._number] = hook

    def remove(self) -> None:
        """Take the hook away; a second call does nothing."""
        self._hooks.pop(self._number, None)


def as_tensor(array: Any, device: Device | None = None) -> Tensor:
    """A Tensor as it is; of anything else a constant, in the dtype that NumPy has for it."""
    if isinstance(array, Tensor):
        return array
    return Tensor.make_const(_from(primitives.from_numpy, array, None, device))


def as_operand(array: Any, device: Device, dtype: Any = None, *, compared: bool = False) -> Tensor:
    """What stands next to a Tensor of `dtype` on `device`, as a constant.

    A raw array stays as it is. Anything else takes the Tensor's dtype if that is a float, as
    Python's numbers do. Beside other Tensors, and where it is only compared, whole numbers and
    bools keep their dtype; floats beside other Tensors get that of a Tensor made of them.
    """
    if isinstance(array, NDArray):
        return as_tensor(array)
    tensor = as_tensor(array, device)
    floating = is_floating(tensor.dtype)
    if dtype is not None and is_floating(dtype) and (floating or not compared):
        return tensor.astype(dtype)
    return Tensor(array, device=device, requires_grad=False) if floating else tensor


def from_dlpack(x: Any, *, requires_grad: bool = False) -> Tensor:
    """A Tensor on the memory of `x`, an array or tensor of another library, in its dtype.

    x: whatever has `__dlpack__`; of a tensor with a graph, its values. Nothing is copied (but, in
    nd mode, what may not be written to): who writes to the one writes to the other.
    Raises DTypeError for what is none, DeviceError for memory out of reach.

    >>> import numpy as np
    >>> import needle as ndl
    >>> numbers = np.zeros(2)
    >>> x = ndl.from_dlpack(numbers)
    >>> numbers[0] = 5
    >>> x
    needle.Tensor([5. 0.])
    """
    if not hasattr(x, "__dlpack__"):
        raise DTypeError(f"from_dlpack: expected an object with __dlpack__, got {kind_of(x)}.")
    try:
        data = primitives.from_dlpack(_detached(x))
    except (BufferError, RuntimeError, TypeError, ValueError) as error:
        if isinstance(error, NeedleError):
            raise
        raise DTypeError(
            f"from_dlpack: expected an array that can be shared, got {_called(x)}. ({error})"
        ) from error
    return Tensor.make_const(data, requires_grad=requires_grad)


def _detached(x: Any) -> Any:
    """`x` without its graph, if it is of a library that has graphs."""
    detach = getattr(x, "detach", None)
    return detach() if callable(detach) else x


def _raw_data(array: Any, device: Device | None, dtype: Any) -> Array:
    if isinstance(array, Tensor):
        data = array.realize_cached_data()
        same = dtype is None or data.dtype == as_dtype(dtype)
        if same and (device is None or device == array.device):
            return data
        return primitives.from_numpy(data, dtype, device)
    if dtype is None:
        return _from(primitives.from_values, array, device)
    return _from(primitives.from_numpy, array, dtype, device)


# errors of the array library that are better told in a Tensor's words
_OF_VALUES = ("array: ", "from_dlpack: ")


def _from(make: Callable[..., Array], array: Any, *options: Any) -> Array:
    """`make(array, *options)`, with errors that say what was to be a Tensor."""
    if isinstance(array, (list, tuple)) and any(isinstance(item, Value) for item in array):
        raise DTypeError("Tensor: expected numbers, got a list of Tensors. Use ndl.stack(list, 0).")
    try:
        return make(_values(array), *options)
    except (ValueError, TypeError, OverflowError, BufferError, RuntimeError) as error:
        about_values = isinstance(error, DTypeError) and str(error).startswith(_OF_VALUES)
        if isinstance(error, NeedleError) and not about_values:
            raise
        wanted = "an array of numbers"
        if len(options) > 1 and options[0] is not None:
            wanted = f"values of dtype {as_dtype(options[0])}"
        raise DTypeError(f"Tensor: expected {wanted}, got {_called(array)}. ({error})") from error


def _values(array: Any) -> Any:
    """`array`; of another library's, NumPy's array on its memory, which has bfloat16 too."""
    if isinstance(array, (np.ndarray, NDArray)) or not hasattr(array, "__dlpack__"):
        return array
    return np.asarray(primitives.from_dlpack(_detached(array)))


def _called(array: Any) -> str:
    """What a message calls something that no Tensor can be made of."""
    return describe(array) if hasattr(array, "shape") else kind_of(array)


class TensorTuple(Value):
    """Several Tensors made by one op, as one value of the graph. No nesting."""

    holds_tuple = True

    def __len__(self) -> int:
        return len(self._foreseen())

    def __getitem__(self, index: int) -> Tensor:
        length = len(self)
        if not isinstance(index, (int, np.integer)):
            raise DTypeError(f"TensorTuple: expected an int as index, got {index!r}.")
        if not -length <= index < length:
            raise IndexError(f"TensorTuple: expected an index below {length}, got {index}.")
        return needle.ops.tuple_get_item(self, index % length)

    def __iter__(self) -> Iterator[Tensor]:
        return (self[i] for i in range(len(self)))

    def tuple(self) -> tuple[Tensor, ...]:
        """The Tensors, in a Python tuple."""
        return tuple(self)

    def __add__(self, other: TensorTuple) -> TensorTuple:
        if not isinstance(other, TensorTuple) or len(self) != len(other):
            raise ShapeError(
                f"TensorTuple +: expected a TensorTuple of length {len(self)}, got {other!r}."
            )
        return needle.ops.make_tuple(*[a + b for a, b in zip(self, other, strict=True)])

    def detach(self) -> TensorTuple:
        """A constant that shares the storage and has no graph."""
        constant: TensorTuple = TensorTuple.make_const(self.realize_cached_data())
        return constant

    def __repr__(self) -> str:
        return f"needle.TensorTuple{self.tuple()}"

    __str__ = __repr__

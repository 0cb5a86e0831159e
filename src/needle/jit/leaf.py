"""Tensors that a traced function reads: where each is found, and what stands for it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from needle.autograd import Tensor
from needle.autograd.value import Value
from needle.backend_ndarray.layout import Layout
from needle.backend_ndarray.ndarray_backend_trace import Operand, recorded, traced
from needle.jit.places import Place
from needle.jit.watch import JitError

__all__ = ["Leaf"]


class Leaf:
    """A Tensor that a traced function reads: where it is found, and the input that stands for it.

    tensor    as it was; `held` is what the function met in its place, if it has a graph
    place     where it is found; None for an argument
    argument  its number among the arguments' Tensors, if it is one
    data      what it held, until the trace is done
    layout    of that; `array` stands for it in the record
    begin     where in the record's memory its first element is
    updated   what it held when the function had run, if that was something else
    """

    __slots__ = (
        "argument", "array", "begin", "data", "held", "layout", "node", "place", "requires_grad",
        "tensor", "updated",
    )  # fmt: skip

    def __init__(self, tensor: Value, place: Place | None, argument: int | None = None) -> None:
        self.tensor, self.place, self.argument = tensor, place, argument
        data = self.data = tensor.realize_cached_data()
        if type(data) is tuple:
            raise JitError("jit: expected Tensors from outside, got a TensorTuple. Take its items.")
        self.layout: Layout = data._layout
        self.array = traced(data)
        self.node, _, self.begin = recorded(self.array)
        self.requires_grad = tensor.requires_grad
        self.updated: Operand | None = None
        self.held = tensor
        if tensor.op is None:
            tensor.cached_data = self.array
        else:
            self.held = Tensor.make_const(self.array, requires_grad=self.requires_grad)

    @property
    def called(self) -> str:
        """What messages call it."""
        return f"argument {self.argument}" if self.place is None else self.place.name

    def now(self, tensors: Sequence[Any]) -> Any:
        """The Tensor that is there now; None if there is none."""
        if self.argument is not None:
            return tensors[self.argument] if tensors else None
        found = None if self.place is None else self.place.get()
        return found if isinstance(found, Tensor) else None

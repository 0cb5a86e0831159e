"""Gradients of what a jitted function returns: another program, compiled when it is asked for.

It computes the function once more, from the arrays that this call read, and goes back from there.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from needle.autograd import Tensor, TensorTuple
from needle.autograd.modes import modes
from needle.autograd.tensor import TensorOp, TensorTupleOp
from needle.backend_ndarray import creation
from needle.backend_ndarray.layout import Layout
from needle.backend_ndarray.ndarray import NDArray, new_array
from needle.errors import GradientError
from needle.jit import function
from needle.jit.leaf import Leaf
from needle.jit.tracing import Trace
from needle.ops import TupleGetItem
from needle.program.executable import Executable
from needle.program.graph import Graph
from needle.runtime.call import runtime_function

__all__ = ["Gradient", "Spent"]


class Spent(TensorOp):
    """What computed a Tensor whose graph a jitted function has not handed on."""

    name = "jit"
    op: Spent

    def gradient(self, out_grad: Tensor, node: Tensor) -> Any:
        raise GradientError(
            "backward: expected a Tensor with a graph, got one from a jitted function that has "
            "differentiated, or changed parameters, itself, or a gradient of one: the graph is "
            "gone. Differentiate inside of the function, use detach() of it, or call the function "
            "under ndl.disable_jit()."
        )


Spent.op = Spent()


class Gradient:
    """How to differentiate what a function returns."""

    def __init__(self, trace: Trace, used: Sequence[Leaf]) -> None:
        assert trace.outcome.gradient is not None
        wrt, grads, given, checks = trace.outcome.gradient
        self._sources = [leaf for leaf, grad in zip(wrt, grads, strict=True) if grad is not None]
        nodes = [leaf.node for leaf in used] + [draw.node for draw in trace.draws]
        outputs = [grad for grad in grads if grad is not None]
        self._graph = Graph([*nodes, *given], outputs, checks=checks)
        self._evaluates = trace.numbers.evaluates
        self._begins = [leaf.begin for leaf in used]
        self._executable: Executable | None = None
        self._new = runtime_function("new")

    @staticmethod
    def of(trace: Trace, used: Sequence[Leaf]) -> Gradient | None:
        """That of a traced function; None if nothing it returns can be differentiated."""
        found = trace.outcome.gradient
        if found is None or all(grad is None for grad in found.grads):
            return None
        return Gradient(trace, used)

    def take_sources(self) -> list[Leaf]:
        """The leaves to differentiate by; they are forgotten here."""
        sources, self._sources = self._sources, []
        return sources

    def call(self, arrays: Any, drawn: Any, given: Any, sources: Sequence[Tensor]) -> Call:
        """One call of the function: what it read, and the Tensors to differentiate by."""
        return Call(self, arrays, drawn, given, sources)

    def run(self, call: Call, out_grads: Sequence[NDArray]) -> list[NDArray]:
        """The gradients by the sources, from those of the results."""
        arguments: list[Any] = []
        for array, begin in zip(call.arrays, self._begins, strict=True):
            arguments += (array._memory, (array._offset - begin) * array._layout.itemsize)
        for memory in call.drawn:
            arguments += (memory, 0)
        compact = [_compact(array) for array in out_grads]
        for array in compact:
            arguments += (array._memory, array._offset * array._layout.itemsize)
        with function._lock:  # numbers are set, and then used
            executable = self._compiled()
            if executable.numbers:
                executable.set_numbers(self._evaluate(call.given))
            made = [new_array(layout, self._new(layout.nbytes)) for layout in self._layouts]
            results = [item for array in made for item in (array._memory, 0)]
            done = executable.run(arguments, results)
        if not done:
            raise GradientError(
                "backward: expected values that the ops of a jitted function can go back from, "
                "got others. Call it under ndl.disable_jit() to see which."
            )
        return made

    def _compiled(self) -> Executable:
        if self._executable is None:
            self._executable = Executable(self._graph)
            self._evaluate = self._evaluates(self._executable.numbers)
            self._layouts = [
                Layout.of(layout.device.real, layout.dtype, layout.shape, layout.strides)
                for layout in self._executable.layouts
            ]
        return self._executable


class Call(TensorTupleOp):
    """(y0, y1, ...) = f(x0, x1, ...), computed by a program. Gradient: by another program."""

    name = "jit"

    def __init__(
        self, gradient: Gradient, arrays: Any, drawn: Any, given: Any, sources: Sequence[Tensor]
    ) -> None:
        self._gradient, self.arrays, self.drawn, self.given = gradient, arrays, drawn, given
        self._sources = sources

    def results(self, made: Sequence[NDArray], requires_grad: list[bool]) -> list[Tensor]:
        """The results as Tensors; those that require grad as items of one value of the graph."""
        ours = [array for array, grad in zip(made, requires_grad, strict=True) if grad]
        whole = TensorTuple.__new__(TensorTuple)
        sources, self._sources = self._sources, ()
        whole._set(self, sources, tuple(ours), True)
        tensors: list[Tensor] = []
        slot = 0
        for array, grad in zip(made, requires_grad, strict=True):
            if not grad:
                tensors.append(Tensor.make_const(array))
                continue
            tensor = Tensor.__new__(Tensor)
            tensor._set(TupleGetItem(slot), [whole], array, True)
            tensors.append(tensor)
            slot += 1
        return tensors

    def gradient(self, out_grad: TensorTuple, node: TensorTuple) -> Any:
        arrays = [item.realize_cached_data() for item in out_grad]
        return tuple([_grad(array) for array in self._gradient.run(self, arrays)])


def _grad(array: NDArray) -> Tensor:
    """A gradient; where eager mode would give it a graph, one that cannot be walked."""
    tensor = Tensor.make_const(array)
    if modes.grad_enabled:
        tensor.op, tensor.requires_grad = Spent.op, True
    return tensor


def _compact(array: NDArray) -> NDArray:
    """The array row after row in memory, copied where it lies otherwise."""
    if array._layout.compact and not array._offset:
        return array
    return creation.array(array, array.dtype)

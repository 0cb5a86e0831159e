"""Activation checkpointing: keep a block's inputs, recompute its activations when going back."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np

from needle.autograd.alias import alias
from needle.autograd.backward import find_topo_sort, gradients
from needle.autograd.modes import _switched, enable_grad, is_lazy, is_traced, modes
from needle.autograd.tensor import Tensor, TensorOp, TensorTuple, TensorTupleOp
from needle.autograd.value import Value
from needle.backend_selection import Array
from needle.errors import DTypeError, GradientError, describe

__all__ = ["checkpoint"]


def checkpoint(function: Callable[..., Any], *inputs: Any, **kwargs: Any) -> Any:
    """`function(*inputs, **kwargs)`, its inner activations dropped and recomputed in backward.

    Trades one more forward pass of the block for its memory (Chen et al., "Training Deep Nets with
    Sublinear Memory Cost", 2016). The result, its gradients (of parameters that `function` reaches
    too, to any order) and random draws are those of a plain call.

    function  takes `inputs`, returns a Tensor or a tuple of Tensors; no side effects but draws
              from NumPy's global stream, which are repeated, and running statistics

    >>> import needle as ndl
    >>> x = ndl.Tensor([0.0, -1.0])
    >>> ndl.checkpoint(lambda x: ndl.exp(x) * x, x).sum().backward()
    >>> x.grad
    needle.Tensor([1. 0.])
    """
    function = partial(function, **kwargs) if kwargs else function
    if not modes.grad_enabled or is_lazy():
        return function(*inputs)
    random_state = modes.tracer.draws_so_far() if is_traced() else np.random.get_state()
    variables = [x for x in inputs if isinstance(x, Tensor)]
    # A first run with the graph finds what else the function reads; then its graph is let go.
    entries = [Tensor.make_const(x, requires_grad=x.requires_grad) for x in variables]
    template = tuple([_A_TENSOR if isinstance(x, Tensor) else x for x in inputs])
    outputs, single = _run(function, template, entries)
    captured = _leaves_behind(outputs, entries)
    flags = [y.requires_grad for y in outputs]
    data = tuple([y.realize_cached_data() for y in outputs])
    del outputs, entries
    held = [leaf for reference in captured if (leaf := reference()) is not None]
    values = _Checkpoint(function, template, data, random_state)(*variables, *held)
    result = [y if flag else y.detach() for y, flag in zip(values, flags, strict=True)]
    return result[0] if single else tuple(result)


def _leaves_behind(outputs: list[Tensor], entries: list[Tensor]) -> list[weakref.ref[Value]]:
    """The leaves to differentiate by, beside `entries`; weakly, to tell those made inside."""
    known: set[Value] = set(entries)
    return [
        weakref.ref(node)
        for node in find_topo_sort([y for y in outputs if y.requires_grad])
        if node.is_leaf() and node.requires_grad and node not in known
    ]


def _run(
    function: Callable[..., Any], template: tuple[Any, ...], tensors: list[Any]
) -> tuple[list[Tensor], bool]:
    """`function`, with `tensors` in their places; its results, and whether it is just one."""
    remaining = iter(tensors)
    arguments = [next(remaining) if x is _A_TENSOR else x for x in template]
    with enable_grad():
        result = function(*arguments)
    outputs = [result] if isinstance(result, Tensor) else result
    if not isinstance(outputs, (list, tuple, TensorTuple)) or not all(
        isinstance(y, Tensor) for y in outputs
    ):
        raise DTypeError(
            f"checkpoint: expected a Tensor or a tuple of them, got {describe(result)}."
        )
    return list(outputs), isinstance(result, Tensor)


class _Checkpoint(TensorTupleOp):
    """(y, ...) = function(inputs), given the inputs and the leaves that the function captures."""

    name = "checkpoint"

    def __init__(
        self,
        function: Callable[..., Any],
        template: tuple[Any, ...],
        data: tuple[Array, ...],
        random_state: Any,
    ) -> None:
        self.function, self.template, self.random_state = function, template, random_state
        self._data: tuple[Array, ...] | None = data  # of the first run, until compute hands it on

    def compute(self, *arrays: Array) -> tuple[Array, ...]:
        data, self._data = self._data, None
        assert data is not None, "compute runs once, right after the first run"
        return data

    def gradient(self, out_grad: Any, node: Any) -> tuple[Any, ...]:
        count = sum(argument is _A_TENSOR for argument in self.template)
        given, captured = node.inputs[:count], node.inputs[count:]
        _require_as_they_were(captured)
        with enable_grad():  # an alias each: one may be given twice, or be captured too
            if is_traced():
                variables = [_Later()(x, *out_grad) for x in given]
            else:
                variables = [alias(x) if x.requires_grad else x for x in given]
        outputs = self._again(variables)
        shapes = [data.shape for data in node.cached_data]
        if [y.shape for y in outputs] != shapes:
            raise GradientError(
                f"checkpoint: expected the second run to give {shapes}, as the first did, got "
                f"{[y.shape for y in outputs]}."
            )
        pairs = [(y, g) for y, g in zip(outputs, out_grad, strict=True) if y.requires_grad]
        targets = [*variables, *captured]
        return tuple(gradients([y for y, _ in pairs], [g for _, g in pairs], targets))

    def _again(self, variables: list[Any]) -> list[Tensor]:
        """The second run: the same inputs, the same draws, now with the graph."""
        with _switched("recomputing", True), _drawing_again(self.random_state):
            return _run(self.function, self.template, variables)[0]


@contextmanager
def _drawing_again(random_state: Any) -> Iterator[None]:
    """Draw what was drawn from that state on; afterwards go on from where draws are now."""
    if is_traced():
        with modes.tracer.repeating(random_state):
            yield
        return
    state = np.random.get_state()
    np.random.set_state(random_state)
    try:
        yield
    finally:
        np.random.set_state(state)


class _Later(TensorOp):
    """y = x, for a compiled function: what is computed of y is computed when `others` are known.

    Without it the second run would be taken for the first one. Gradient: dx = dy.
    """

    name = "checkpoint"

    def compute(self, x: Array, *others: Array) -> Array:
        return modes.tracer.delayed(x, others)

    def gradient(self, out_grad: Tensor, node: Tensor) -> Any:
        return (out_grad, *[None] * (len(node.inputs) - 1))


def _require_as_they_were(captured: list[Any]) -> None:
    for leaf in captured:
        if leaf._leaf.owner() not in (leaf, None):
            raise GradientError(
                f"checkpoint: expected {describe(leaf)}, which the function reads, to be as it "
                "was in the forward pass, got other data. Call backward() before step()."
            )


class _ATensor:
    """Marks the place of a Tensor among a function's arguments."""


_A_TENSOR = _ATensor()

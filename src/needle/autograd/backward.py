"""Reverse-mode differentiation: sort the graph, walk it backwards, add up partial adjoints.

The gradient functions of ops are made of Tensor ops, so what comes out is a graph too.
Nothing here recurses: a chain of 100,000 ops is as good as one of ten.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Collection, Sequence
from contextlib import nullcontext
from functools import reduce
from typing import TYPE_CHECKING, Any, NamedTuple

import needle
from needle.autograd import anomaly
from needle.autograd.modes import no_grad
from needle.autograd.value import Value
from needle.errors import GradientError, NonFiniteError, ShapeError, describe

if TYPE_CHECKING:
    from needle.autograd.tensor import Tensor

__all__ = [
    "backward",
    "compute_gradient_of_variables",
    "find_topo_sort",
    "gradients",
    "sum_node_list",
    "topo_sort_dfs",
]


def find_topo_sort(node_list: Sequence[Value]) -> list[Value]:
    """Every value that `node_list` was computed from, and they: inputs before their users.

    Post-order depth-first, from each node in order, visiting inputs left to right, each node once.
    """
    visited: set[Value] = set()
    topo_order: list[Value] = []
    for node in node_list:
        topo_sort_dfs(node, visited, topo_order)
    return topo_order


def topo_sort_dfs(node: Value, visited: set[Value], topo_order: list[Value]) -> None:
    """Append what `node` was computed from, then `node`; skip what is in `visited`."""
    if node in visited:
        return
    visited.add(node)
    stack = [(node, iter(node.inputs))]
    while stack:
        user, inputs = stack[-1]
        for value in inputs:
            if value not in visited:
                visited.add(value)
                stack.append((value, iter(value.inputs)))
                break
        else:
            topo_order.append(user)
            stack.pop()


def sum_node_list(node_list: Sequence[Any]) -> Any:
    """The sum of Tensors, added with `+` and without a zero to start from."""
    return node_list[0] if len(node_list) == 1 else reduce(operator.add, node_list)


def compute_gradient_of_variables(output_tensor: Any, out_grad: Any) -> None:
    """Set `.grad` of every leaf that `output_tensor` was computed from, given its adjoint.

    Overwrites `.grad`; the gradients carry a graph wherever an input of theirs requires grad.
    """
    _walk_back([output_tensor], [out_grad], _overwrite)


def backward(
    output: Tensor, out_grad: Tensor | None, *, accumulate: bool, create_graph: bool | None
) -> None:
    """`Tensor.backward`."""
    if output.op is None or not output.requires_grad:
        raise GradientError(
            "backward: expected the result of ops on tensors that require grad, got "
            f"{describe(output)} with no graph. Was it detached, or made under no_grad()?"
        )
    if create_graph is None:
        create_graph = not accumulate
    with nullcontext() if create_graph else no_grad():
        adjoint = ones_for(output) if out_grad is None else _fitting(out_grad, output)
        _walk_back([output], [adjoint], _accumulate if accumulate else _overwrite)


def gradients(
    outputs: Sequence[Tensor], out_grads: Sequence[Tensor], wrt: Sequence[Tensor]
) -> list[Tensor | None]:
    """The gradient of Σ outputs·out_grads with respect to each of `wrt`; None where unused.

    `.grad` of nothing changes. `wrt` may hold intermediate values; the walk ends at them.
    """
    found: dict[Value, Tensor] = {}
    _walk_back(outputs, out_grads, found.__setitem__, stop_at=set(wrt))
    return [found.get(value) for value in wrt]


def ones_for(output: Tensor) -> Tensor:
    """The adjoint that `backward()` starts from where none is given."""
    ones: Tensor = type(output).make_const(output.device.full(output.shape, 1, output.dtype))
    return ones


def _fitting(out_grad: Tensor, output: Tensor) -> Tensor:
    if not isinstance(out_grad, Value):
        raise GradientError(f"backward: expected out_grad to be a Tensor, got {out_grad!r}.")
    if out_grad.shape != output.shape:
        raise ShapeError(
            "backward: expected out_grad of the output's shape, got "
            f"{describe(out_grad)} for {describe(output)}."
        )
    return out_grad


def _overwrite(leaf: Any, grad: Tensor) -> None:
    leaf.grad = grad


def _accumulate(leaf: Any, grad: Tensor) -> None:
    leaf.grad = grad if leaf.grad is None else leaf.grad + grad


def _walk_back(
    outputs: Sequence[Any],
    out_grads: Sequence[Any],
    deliver: Callable[[Any, Tensor], None],
    stop_at: Collection[Value] = (),
) -> None:
    """Visit users before their inputs; hand what has arrived at the leaves to `deliver`.

    With `stop_at`, those values take the leaves' place. Nothing is delivered before the walk is
    through, so an error leaves every `.grad` as it was.
    """
    partials: dict[Value, list[Any]] = {}
    for output, out_grad in zip(outputs, out_grads, strict=True):
        partials.setdefault(output, []).append(out_grad)
    nodes = _inputs_first(outputs, stop_at)
    while nodes:
        node, inputs = nodes.popitem()
        contributions = partials.pop(node, None)
        if contributions is not None:
            _send_to_inputs(node, inputs, _total(node, contributions), partials)

    arrived: dict[Value, list[Any]] = {}
    for leaf, contributions in partials.items():
        target = leaf if leaf in stop_at else _owner(leaf)
        if target is not None and (target in stop_at or not stop_at):
            arrived.setdefault(target, []).append(_total(leaf, contributions))
    for target, adjoints in arrived.items():
        deliver(target, sum_node_list(adjoints))


def _inputs_first(roots: Sequence[Value], stop_at: Collection[Value]) -> dict[Value, list[Any]]:
    """The results of ops that gradients flow through, with their inputs, these before users."""
    inputs_of: dict[Value, list[Any]] = {}
    order: dict[Value, list[Any]] = {}
    stack = [root for root in roots if root.op is not None and root not in stop_at]
    while stack:
        node = stack[-1]
        if node not in inputs_of:
            inputs = inputs_of[node] = node.inputs
            ahead = [
                value
                for value in inputs
                if value.op is not None and value.requires_grad and value not in inputs_of
            ]
            if stop_at:
                ahead = [value for value in ahead if value not in stop_at]
            if ahead:
                stack += ahead
                continue
        stack.pop()
        if node not in order:  # it stands in the stack once for each user
            order[node] = inputs_of[node]
    return order


def _send_to_inputs(
    node: Value, inputs: list[Any], adjoint: Any, partials: dict[Value, list[Any]]
) -> None:
    """Add the partial adjoints that `node` gives its inputs to theirs."""
    op: Any = node.op
    if op.slot is not None:
        partials.setdefault(inputs[0], []).append(_Slot(op.slot, adjoint))
        return
    try:
        grads = op.gradient_as_tuple(adjoint, node)
    except NonFiniteError as error:
        raise anomaly.in_backward(error, node) from None
    if len(grads) != len(inputs):
        raise GradientError(
            f"{op.name}: expected gradient() to return {len(inputs)} gradients, one per input, "
            f"got {len(grads)}."
        )
    for value, grad in zip(inputs, grads, strict=True):
        if grad is None or not value.requires_grad:
            continue
        if value in partials:
            partials[value].append(grad)
        else:
            partials[value] = [grad]


class _Slot(NamedTuple):
    """A partial adjoint of one Tensor in a TensorTuple; zero for the others."""

    slot: int
    adjoint: Any


def _total(node: Any, contributions: list[Any]) -> Any:
    """The adjoint of `node`: the sum of the partial ones, as its hooks leave it."""
    adjoint = contributions[0]
    if len(contributions) > 1 or type(adjoint) is _Slot:
        by_slot = any(type(partial) is _Slot for partial in contributions)
        adjoint = _total_by_slot(node, contributions) if by_slot else sum_node_list(contributions)
    return adjoint if node.op is not None and node._hooks is None else _after_hooks(node, adjoint)


def _total_by_slot(node: Any, contributions: list[Any]) -> Any:
    """The sum of partial adjoints of a TensorTuple."""
    slots: list[list[Any]] = [[] for _ in range(len(node))]
    for partial in contributions:
        entries = [partial] if isinstance(partial, _Slot) else map(_Slot, range(len(node)), partial)
        for entry in entries:
            slots[entry.slot].append(entry.adjoint)
    return needle.ops.make_tuple(
        *[
            sum_node_list(slot) if slot else needle.init.zeros_like(node[index])
            for index, slot in enumerate(slots)
        ]
    )


def _owner(leaf: Value) -> Value | None:
    """The user's Tensor that a leaf in the graph stands for; None if nobody holds it any more."""
    return leaf if leaf._leaf is None else leaf._leaf.owner()


def _after_hooks(node: Value, adjoint: Any) -> Any:
    """The adjoint as the hooks on `node` leave it."""
    owner = _owner(node) if node.op is None else node
    if owner is not None and owner._hooks:
        for hook in list(owner._hooks.values()):
            replacement = hook(adjoint)
            adjoint = adjoint if replacement is None else replacement
    return adjoint

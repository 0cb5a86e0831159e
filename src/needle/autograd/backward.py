"""Reverse-mode differentiation: sort the graph, walk it backwards, add up partial adjoints.

The gradient functions of ops are made of Tensor ops, so what comes out is a graph too.
Nothing here recurses: a chain of 100,000 ops is as good as one of ten.
"""

from __future__ import annotations

import operator
from collections.abc import Collection, Sequence
from contextlib import nullcontext
from functools import reduce
from typing import TYPE_CHECKING, Any

import needle
from needle.autograd import anomaly
from needle.autograd.laziness import expect
from needle.autograd.modes import _switched, is_lazy, modes, no_grad
from needle.autograd.value import Value
from needle.errors import (
    DeviceError,
    DTypeError,
    GradientError,
    NonFiniteError,
    ShapeError,
    describe,
    kind_of,
)
from needle.origins import current, in_gradient_of

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
    for leaf, grad in _walk_back([output_tensor], [out_grad]).items():
        leaf.grad = grad


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
    with nullcontext() if create_graph else no_grad(), current.span("walk", "backward"):
        adjoint = ones_for(output) if out_grad is None else fitting("backward", out_grad, output)
        for leaf, grad in _walk_back([output], [adjoint]).items():
            leaf.grad = leaf.grad + grad if accumulate and leaf.grad is not None else grad
    expect(output)  # in lazy mode: with the gradients


def gradients(
    outputs: Sequence[Tensor],
    out_grads: Sequence[Tensor],
    wrt: Sequence[Tensor],
    *,
    go_on: bool = False,
) -> list[Tensor | None]:
    """The gradient of Σ outputs·out_grads with respect to each of `wrt`; None where unused.

    `.grad` of nothing changes. `wrt` may hold intermediate values; the walk ends at them, or with
    `go_on` passes through to those they were computed from.
    """
    found = _walk_back(outputs, out_grads, set(wrt), go_on)
    return [found.get(value) for value in wrt]


def ones_for(output: Tensor) -> Tensor:
    """The adjoint that `backward()` starts from where none is given."""
    ones: Tensor = type(output).make_const(output.device.full(output.shape, 1, output.dtype))
    return ones


def fitting(function: str, out_grad: Any, output: Tensor) -> Tensor:
    """A given adjoint, checked against the output and in its dtype."""
    if not isinstance(out_grad, type(output)):
        raise DTypeError(f"{function}: expected out_grad to be a Tensor, got {describe(out_grad)}.")
    if out_grad.shape != output.shape:
        raise ShapeError(
            f"{function}: expected out_grad of the output's shape, got "
            f"{describe(out_grad)} for {describe(output)}."
        )
    if out_grad.device != output.device:
        raise DeviceError(
            f"{function}: expected out_grad on the output's device, {output.device}, got "
            f"{describe(out_grad)} on {out_grad.device}. Use to(device)."
        )
    return out_grad if out_grad.dtype == output.dtype else out_grad.astype(output.dtype)


# -- the walk --------------------------------------------------------------------------------------


def _walk_back(
    outputs: Sequence[Any],
    out_grads: Sequence[Any],
    targets: Collection[Value] = (),
    go_on: bool = False,
) -> dict[Any, Tensor]:
    """Visit users before their inputs; what has arrived at each leaf, or at each of `targets`.

    Nothing is assigned, so an error on the way leaves every `.grad` as it was.
    """
    if is_lazy() and not modes.going_back:
        with _switched("going_back", True):
            return _walk_back(outputs, out_grads, targets, go_on)
    adjoints: dict[Value, Any] = {}
    for output, out_grad in zip(outputs, out_grads, strict=True):
        _add(adjoints, output, out_grad)
    arrived: dict[Any, Any] = {}
    nodes = _inputs_first(outputs, () if go_on else targets)
    while nodes:
        node, inputs = nodes.popitem()
        adjoint = adjoints.pop(node, None)
        if adjoint is None:
            continue
        if modes.going_back:
            node._is_passed = True
        if type(adjoint) is _Slots:
            adjoint = adjoint.as_tuple(node)
        if node._hooks is not None:
            adjoint = _after_hooks(node, adjoint)
        if targets and node in targets:
            arrived[node] = adjoint
        if modes.plain:
            _send_to_inputs(node, inputs, adjoint, adjoints)
        else:
            name = node.op.name if node.op is not None else ""
            with in_gradient_of(name, node._origin):
                _send_to_inputs(node, inputs, adjoint, adjoints)
    for leaf, adjoint in adjoints.items():
        target = leaf if leaf in targets else _owner(leaf)
        if target is not None and (target in targets or not targets):
            whole = adjoint.as_tuple(leaf) if type(adjoint) is _Slots else adjoint
            _add(arrived, target, whole)
    hooked = go_on or not targets
    return _handed_over(arrived, out_grads, hooked)


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
    node: Value, inputs: list[Any], adjoint: Any, adjoints: dict[Value, Any]
) -> None:
    """Add the partial adjoints that `node` gives its inputs to theirs."""
    op: Any = node.op
    if op.slot is not None:
        slots = adjoints.setdefault(inputs[0], _Slots())
        if type(slots) is not _Slots:
            slots = adjoints[inputs[0]] = _Slots(enumerate(slots))
        _add(slots, op.slot, adjoint)
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
        if not isinstance(grad, Value):
            raise GradientError(
                f"{op.name}: expected gradient() to return Tensors, got {describe(grad)}."
            )
        if value in adjoints:
            _add(adjoints, value, grad)
        else:
            adjoints[value] = grad
    if modes.anomaly:
        anomaly.watch_adjoints(grads, node)


def _add(adjoints: dict[Any, Any], key: Any, adjoint: Any) -> None:
    """Add to what is there. A running sum: a list of partial adjoints could fill the memory."""
    before = adjoints.get(key)
    if before is None:
        adjoints[key] = adjoint
    elif type(before) is _Slots:
        for slot, partial in enumerate(adjoint):
            _add(before, slot, partial)
    else:
        adjoints[key] = before + adjoint


class _Slots(dict[int, Any]):
    """The adjoint of a TensorTuple, slot by slot; a slot that is not there is zero."""

    def as_tuple(self, node: Any) -> Any:
        """The adjoint as a TensorTuple."""
        return needle.ops.make_tuple(
            *[
                self[slot] if slot in self else needle.init.zeros_like(node[slot])
                for slot in range(len(node))
            ]
        )


def _owner(leaf: Value) -> Value | None:
    """The user's Tensor that a leaf in the graph stands for; None if nobody holds it any more."""
    return leaf if leaf._leaf is None else leaf._leaf.owner()


def _handed_over(
    arrived: dict[Any, Any], out_grads: Sequence[Any], hooked: bool
) -> dict[Any, Tensor]:
    """What goes to the user: after the leaves' hooks, of the right shape, each its own Tensor."""
    given = {id(out_grad) for out_grad in out_grads}
    taken = set(given)
    for target, adjoint in arrived.items():
        grad = _after_hooks(target, adjoint) if hooked and target.op is None else adjoint
        if grad.shape != target.shape:
            raise GradientError(
                f"backward: expected a gradient of the shape of {describe(target)}, got "
                f"{describe(grad)}. An op's gradient() returns another shape; "
                "needle.testing.check_op finds it."
            )
        if grad.requires_grad and (id(grad) in given or grad.op is None):
            grad = _leading_to(grad)
        elif id(grad) in taken:  # as from a + b, which gives both the same
            grad = grad.twin()
        taken.add(id(grad))
        arrived[target] = grad
    return arrived


def _leading_to(grad: Any) -> Any:
    """An alias of a Tensor that others have: they may differentiate by it what becomes of this.

    A twin would not do: it leads to what `grad` was computed from, past `grad`, and from a leaf
    nowhere. No circle comes of it, as an edge holds a leaf weakly.
    """
    from needle.autograd.alias import alias

    return alias(grad)


def _after_hooks(node: Value, adjoint: Any) -> Any:
    """The adjoint as the hooks on `node` leave it."""
    for hook in list((node._hooks or {}).values()):
        replacement = hook(adjoint)
        if replacement is None:
            continue
        _require_alike(replacement, adjoint)
        if modes.anomaly:
            anomaly.watch_adjoints([replacement], node)
        adjoint = replacement
    return adjoint


def _require_alike(replacement: Any, adjoint: Any) -> None:
    """Raise GradientError for what a hook may not put in the place of `adjoint`."""
    if type(replacement) is not type(adjoint):
        raise GradientError(f"hook: expected {kind_of(adjoint)}, got {kind_of(replacement)}.")
    if replacement.shape != adjoint.shape:
        raise GradientError(
            f"hook: expected a gradient like {describe(adjoint)}, got {describe(replacement)}."
        )
    if replacement.device != adjoint.device:
        raise GradientError(
            f"hook: expected a gradient on {adjoint.device}, got one on {replacement.device}."
        )

"""The computational graph and reverse-mode differentiation.

modes        no_grad, lazy, detect_anomaly: what is switched on, per thread
value        Value, Op: a node of the graph, and what computes it
tensor       Tensor, TensorTuple: the values a user holds
methods      the operators and methods of Tensor, each one line calling its op
backward     topological order, and the walk backwards that adds up partial adjoints
functional   grad, value_and_grad, jacobian, hvp
checkpoint   recompute activations in the backward pass instead of keeping them
laziness     from values that wait in lazy mode to data: realize
"""

from __future__ import annotations

# Defer every computation until its data is asked for. `ndl.lazy()` does so for a block.
LAZY_MODE = False

# How many Values are alive.
TENSOR_COUNTER = 0

from needle.autograd.backward import (  # noqa: E402  the two globals above come first
    compute_gradient_of_variables,
    find_topo_sort,
    sum_node_list,
    topo_sort_dfs,
)
from needle.autograd.checkpoint import checkpoint  # noqa: E402
from needle.autograd.functional import grad, hvp, jacobian, value_and_grad  # noqa: E402
from needle.autograd.laziness import realize  # noqa: E402
from needle.autograd.modes import detect_anomaly, enable_grad, lazy, no_grad  # noqa: E402
from needle.autograd.tensor import (  # noqa: E402
    Tensor,
    TensorOp,
    TensorTuple,
    TensorTupleOp,
    from_dlpack,
)
from needle.autograd.value import Op, Value  # noqa: E402

__all__ = [
    "LAZY_MODE",
    "TENSOR_COUNTER",
    "Op",
    "Tensor",
    "TensorOp",
    "TensorTuple",
    "TensorTupleOp",
    "Value",
    "checkpoint",
    "compute_gradient_of_variables",
    "detect_anomaly",
    "enable_grad",
    "find_topo_sort",
    "from_dlpack",
    "grad",
    "hvp",
    "jacobian",
    "lazy",
    "no_grad",
    "realize",
    "sum_node_list",
    "topo_sort_dfs",
    "value_and_grad",
]

"""The same function in Needle and in PyTorch: values, gradients and second-order gradients."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from tensors import tensor

import needle as ndl
from needle.testing import assert_close

torch = pytest.importorskip("torch", reason="PyTorch is not installed")
torch.set_num_threads(1)  # small shapes, and threads that spin take the processors from Needle

KINDS = ("value", "gradient", "second-order gradient")


class Needle:
    """What `derivatives` asks of a library, asked of Needle."""

    @staticmethod
    def tensor(array: np.ndarray, requires_grad: bool) -> Any:
        return tensor(array, requires_grad=requires_grad)

    @staticmethod
    def grad(outputs: Sequence[Any], variables: Sequence[Any], out_grads: Sequence[Any]) -> Any:
        return ndl.grad(outputs, variables, out_grads)

    @staticmethod
    def numpy(tensor: Any) -> np.ndarray:
        return tensor.numpy()


class PyTorch:
    """What `derivatives` asks of a library, asked of PyTorch."""

    @staticmethod
    def tensor(array: np.ndarray, requires_grad: bool) -> Any:
        return torch.tensor(array, requires_grad=requires_grad)

    @staticmethod
    def grad(outputs: Sequence[Any], variables: Sequence[Any], out_grads: Sequence[Any]) -> Any:
        return torch.autograd.grad(
            outputs, variables, out_grads, create_graph=True, materialize_grads=True
        )

    @staticmethod
    def numpy(tensor: Any) -> np.ndarray:
        return tensor.detach().numpy(force=True)


def derivatives(
    library: Any, function: Callable[..., Any], arrays: Sequence[np.ndarray], order: int
) -> list[list[np.ndarray]]:
    """Lists of the values, of the inputs' gradients, and of those of ⟨gradients, random v⟩."""
    rng = np.random.RandomState(1)

    def constant(shape: Any) -> Any:
        return library.tensor(np.asarray(rng.standard_normal(tuple(shape))), False)

    xs = [library.tensor(array, array.dtype.kind == "f") for array in arrays]
    result = function(*xs)
    outputs = list(result) if isinstance(result, (tuple, list, ndl.TensorTuple)) else [result]
    found = [[library.numpy(y) for y in outputs]]
    smooth = [y for y in outputs if y.requires_grad]
    variables = [x for x in xs if x.requires_grad]
    if not smooth:
        return found
    grads = library.grad(smooth, variables, [constant(y.shape) for y in smooth])
    found.append([library.numpy(grad) for grad in grads])
    if order == 1:
        return found
    slope = sum((grad * constant(grad.shape)).sum() for grad in grads)
    if slope.requires_grad:
        one = library.tensor(np.asarray(1.0), False)
        found.append([library.numpy(grad) for grad in library.grad([slope], variables, [one])])
    else:
        found.append([np.zeros(x.shape) for x in variables])
    return found


def compare(
    ours: Callable[..., Any],
    theirs: Callable[..., Any],
    *arrays: np.ndarray,
    rtol: float = 1e-11,
    order: int = 2,
) -> None:
    """Both functions give the same values and derivatives, up to `order`, in float64."""
    found = derivatives(Needle, ours, arrays, order)
    expected = derivatives(PyTorch, theirs, arrays, order)
    assert len(found) == len(expected), "one of the two results has no graph"
    for kind, mine, other in zip(KINDS, found, expected, strict=False):
        assert len(mine) == len(other)
        for i, (a, e) in enumerate(zip(mine, other, strict=True)):
            assert_close(a, e, rtol=rtol, what=f"{kind} {i}")

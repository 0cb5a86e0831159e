"""Contract, section 4: the operators of the earlier exercises, as the last one checks them.

float32 Tensors on a device; the op's own gradient asked for directly; edits in place of the data.
"""

from __future__ import annotations

import numpy as np
import pytest
from contract.course_references import TOLERANCE, arrays, slopes

import needle as ndl
from needle.autograd import Tensor

ROWS = {
    "add": (ndl.add, np.add, (3, 4), (3, 4)),
    "subtract": (lambda a, b: a * 1 - b, np.subtract, (3, 4), (3, 4)),
    "multiply": (ndl.multiply, np.multiply, (1, 4), (1, 4)),
    "divide": (ndl.divide, np.divide, (3, 4), (3, 4)),
    "add_scalar": (lambda a: ndl.add_scalar(a, 1.5), lambda a: a + 1.5, (3, 4)),
    "mul_scalar": (lambda a: ndl.mul_scalar(a, -2.5), lambda a: a * -2.5, (3, 4)),
    "divide_scalar": (lambda a: ndl.divide_scalar(a, 0.3), lambda a: a / 0.3, (3, 4)),
    "power 0": (lambda a: ndl.power_scalar(a, 0), lambda a: a**0, (3, 4)),
    "power 2": (lambda a: ndl.power_scalar(a, 2), lambda a: a**2, (3, 4)),
    "power 3": (lambda a: a**3, lambda a: a**3, (1, 1)),
    "negate": (ndl.negate, np.negative, (3, 4)),
    "exp": (ndl.exp, np.exp, (3, 4)),
    "log": (lambda a: ndl.log(a**2 + 1), lambda a: np.log(a**2 + 1), (3, 4)),
    "relu": (ndl.relu, lambda a: np.maximum(a, 0), (3, 4)),
    "tanh": (ndl.tanh, np.tanh, (3, 4)),
    "tanh of one": (ndl.tanh, np.tanh, (1, 1, 1)),
    "matmul": (ndl.matmul, np.matmul, (3, 4), (4, 5)),
    "matmul 1": (ndl.matmul, np.matmul, (1, 1), (1, 1)),
    "matmul 8": (ndl.matmul, np.matmul, (8, 16), (16, 8)),
    "summation": (ndl.summation, np.sum, (3, 2, 4)),
    "summation 0": (lambda a: ndl.summation(a, axes=0), lambda a: a.sum(0), (3, 2, 4)),
    "summation -1": (lambda a: ndl.summation(a, axes=-1), lambda a: a.sum(-1), (3, 2, 4)),
    "summation (0, 2)": (
        lambda a: ndl.summation(a, axes=(0, 2)), lambda a: a.sum((0, 2)), (3, 2, 4),
    ),
    "broadcast_to": (
        lambda a: ndl.broadcast_to(a, shape=(3, 3, 2)), lambda a: np.broadcast_to(a, (3, 3, 2)),
        (3, 1, 2),
    ),
    "broadcast_to from above": (
        lambda a: ndl.broadcast_to(a, (3, 2)), lambda a: np.broadcast_to(a, (3, 2)), (2,),
    ),
    "reshape": (lambda a: ndl.reshape(a, shape=(2, 6)), lambda a: a.reshape(2, 6), (3, 4)),
    "reshape of a view": (
        lambda a: a.transpose().reshape((2, 6)), lambda a: a.T.reshape(2, 6), (3, 4),
    ),
    "transpose": (ndl.transpose, lambda a: np.swapaxes(a, -1, -2), (3, 2, 4)),
    "transpose (0, 2)": (
        lambda a: ndl.transpose(a, axes=(0, 2)), lambda a: np.swapaxes(a, 0, 2), (3, 2, 4),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", ROWS)
def test_value_and_direct_gradient(each_device, name):
    function, reference, *shapes = ROWS[name]
    inputs = arrays(*shapes)
    tensors = [Tensor(array, device=each_device, dtype="float32") for array in inputs]
    out = function(*tensors)
    expected = reference(*(array.astype("float64") for array in inputs))
    assert out.dtype == "float32" and out.device == each_device
    assert tuple(out.shape) in ({(), (1,)} if name == "summation" else {expected.shape})
    np.testing.assert_allclose(out.numpy().reshape(expected.shape), expected, **TOLERANCE)
    g = np.asarray(np.random.RandomState(3).standard_normal(expected.shape))
    out_grad = Tensor(g.reshape(out.shape), device=each_device, dtype="float32")
    direct = all(a is b for a, b in zip(out.inputs, tensors, strict=False))
    if direct:
        grads = out.op.gradient_as_tuple(out_grad, out)
        assert len(grads) == len(tensors)
    out.backward(out_grad)
    slope = slopes(reference, inputs, g)
    for i, (tensor, values) in enumerate(zip(tensors, slope, strict=True)):
        np.testing.assert_allclose(tensor.grad.numpy(), values, rtol=1e-4, atol=1e-4)
        if direct:
            np.testing.assert_allclose(grads[i].numpy(), values, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["multiply", "matmul", "tanh", "exp", "summation (0, 2)"])
def test_trap_13_differences_by_edits_in_place(each_device, name):
    """The course's check: eps 1e-5 in float32, so its limit is wide, 0.42 over all."""
    function, _, *shapes = ROWS[name]
    tensors = [Tensor(a, device=each_device, dtype="float32") for a in arrays(*shapes)]
    out = function(*tensors)
    c = np.random.RandomState(1).randn(*out.shape)
    eps, errors = 1e-5, []
    grads = out.op.gradient_as_tuple(Tensor(c, device=each_device, dtype="float32"), out)
    for tensor, grad in zip(tensors, grads, strict=True):
        found = np.zeros(tensor.shape)
        for j in range(tensor.realize_cached_data().size):
            tensor.realize_cached_data().flat[j] += eps
            above = (function(*tensors).numpy() * c).sum()
            tensor.realize_cached_data().flat[j] -= 2 * eps
            below = (function(*tensors).numpy() * c).sum()
            tensor.realize_cached_data().flat[j] += eps
            found.flat[j] = (above - below) / (2 * eps)
        errors.append(np.linalg.norm(grad.numpy() - found))
    assert sum(errors) < 0.42

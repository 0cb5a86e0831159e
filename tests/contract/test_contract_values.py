"""Contract, sections 3.1 and 3.2: Op and Value, in np mode."""

from __future__ import annotations

import gc

import numpy as np
import pytest

import needle as ndl
from needle.autograd import Op, Tensor, TensorOp, TensorTuple, TensorTupleOp, Value


def live_values():
    return ndl.autograd.TENSOR_COUNTER


# -- 3.1 Op ------------------------------------------------------------------------------------


def test_module_globals():
    assert ndl.autograd.LAZY_MODE is False
    assert type(ndl.autograd.TENSOR_COUNTER) is int


def test_results_are_computed_at_once():
    y = Tensor([1.0]) * 2
    np.testing.assert_array_equal(y.cached_data, [2.0])


@pytest.mark.parametrize(
    "call", [lambda op: op(), lambda op: op.compute(), lambda op: op.gradient(None, None)]
)
def test_op_is_abstract(call):
    with pytest.raises(NotImplementedError):
        call(Op())


class Returning(TensorOp):
    def __init__(self, gradient):
        self.returned = gradient

    def compute(self, x):
        return x

    def gradient(self, out_grad, node):
        return self.returned


def test_gradient_as_tuple_keeps_tuples_and_wraps_the_rest():
    grad, other = Tensor([1.0]), Tensor([2.0])
    pair = (grad, other)
    assert Returning(pair).gradient_as_tuple(None, None) is pair
    assert Returning([grad, other]).gradient_as_tuple(None, None) == (grad, other)
    assert Returning(grad).gradient_as_tuple(None, None) == (grad,)
    several = ndl.make_tuple(grad, other)
    assert Returning(several).gradient_as_tuple(None, None) == (several,)


def test_results_keep_op_and_inputs_for_direct_gradient_checks():
    a, b = Tensor([[1.0, 2.0]]), Tensor([[3.0], [4.0]])
    out = ndl.matmul(a, b)
    assert isinstance(out.op, ndl.MatMul)
    assert out.inputs[0] is a
    assert out.inputs[1] is b
    da, db = out.op.gradient_as_tuple(Tensor([[10.0]]), out)
    np.testing.assert_array_equal(da.numpy(), [[30.0, 40.0]])
    np.testing.assert_array_equal(db.numpy(), [[10.0], [20.0]])


def test_tensor_op_makes_a_tensor_and_tuple_op_a_tensor_tuple():
    assert issubclass(TensorOp, Op)
    assert issubclass(TensorTupleOp, Op)
    assert type(ndl.EWiseAdd()(Tensor([1.0]), Tensor([2.0]))) is Tensor
    assert type(ndl.MakeTensorTuple()(Tensor([1.0]))) is TensorTuple


def test_compute_sees_raw_arrays_and_gradient_sees_tensors():
    seen = []

    class Spy(TensorOp):
        def compute(self, x):
            seen.append(type(x))
            return x * 3

        def gradient(self, out_grad, node):
            seen.extend([type(out_grad), type(node)])
            return out_grad * 3

    x = Tensor([1.0])
    Spy()(x).backward()
    assert seen == [ndl.NDArray, Tensor, Tensor]
    assert x.grad.numpy() == 3


# -- 3.2 Value ---------------------------------------------------------------------------------


def test_value_fields():
    x = Tensor([1.0])
    assert (x.op, len(x.inputs), x.requires_grad, x.num_outputs) == (None, 0, True, 1)
    y = x + 1
    assert isinstance(y, Value)
    assert (len(y.inputs), y.requires_grad, y.num_outputs) == (1, True, 1)
    assert x.is_leaf()
    assert not y.is_leaf()


def test_counter_rises_with_each_value_and_falls_when_it_goes():
    gc.collect()
    before = live_values()
    x = Tensor([1.0])
    y = x + 1
    assert live_values() == before + 2
    del x, y
    gc.collect()
    assert live_values() == before


def test_init_counts_takes_keywords_and_derives_requires_grad_from_inputs():
    before = live_values()
    value = Tensor.__new__(Tensor)
    constant = Tensor([1.0], requires_grad=False)
    value._init(ndl.EWiseAdd(), [constant, Tensor([1.0])])
    assert live_values() >= before + 2
    assert value.requires_grad is True
    assert value.cached_data is None
    other = Tensor.__new__(Tensor)
    other._init(ndl.Negate(), [constant], num_outputs=1, cached_data=None, requires_grad=None)
    assert other.requires_grad is False
    leaf = Tensor.__new__(Tensor)
    leaf._init(None, [], cached_data=np.ones(2), requires_grad=True)
    assert leaf.is_leaf()
    assert leaf.requires_grad is True


def test_realize_returns_the_stored_array_itself_so_that_edits_in_place_show():
    x = Tensor([1.0, 2.0])
    array = x.realize_cached_data()
    assert array is x.cached_data
    array.flat[1] += 0.5
    np.testing.assert_array_equal(x.numpy(), [1.0, 2.5])
    np.testing.assert_array_equal((x * 2).numpy(), [2.0, 5.0])


def test_realize_computes_from_the_inputs_when_nothing_is_stored():
    x = Tensor([1.0, 2.0])
    y = x * 3
    y.cached_data = None
    np.testing.assert_array_equal(y.realize_cached_data(), [3.0, 6.0])


def test_make_const_has_no_op_and_no_inputs():
    value = Tensor.make_const(np.ones(3))
    assert value.op is None
    assert len(value.inputs) == 0
    assert value.requires_grad is False
    assert Tensor.make_const(np.ones(3), requires_grad=True).requires_grad is True


def test_make_const_accepts_a_tensor():
    source = Tensor([1.0])
    assert Tensor.make_const(source).cached_data is source.cached_data


def test_result_that_requires_no_grad_is_detached():
    constant = Tensor([1.0], requires_grad=False)
    y = Tensor.make_from_op(ndl.AddScalar(2), (constant,))
    assert y.op is None
    assert len(y.inputs) == 0
    assert y.requires_grad is False
    np.testing.assert_array_equal(y.cached_data, [3.0])


def test_result_that_requires_grad_is_realised_and_keeps_its_graph():
    y = Tensor.make_from_op(ndl.AddScalar(2), (Tensor([1.0]),))
    assert isinstance(y.op, ndl.AddScalar)
    np.testing.assert_array_equal(y.cached_data, [3.0])


def test_lazy_mode_global_defers_until_realised(monkeypatch):
    monkeypatch.setattr(ndl.autograd, "LAZY_MODE", True)
    y = Tensor([1.0]) + 2
    assert y.cached_data is None
    np.testing.assert_array_equal(y.realize_cached_data(), [3.0])

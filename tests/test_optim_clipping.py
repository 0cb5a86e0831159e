"""Gradient clipping by norm and by value."""

from __future__ import annotations

import numpy as np
import pytest
from tensors import tensor

import needle as ndl
from needle.errors import DTypeError, NonFiniteError, OptionError
from needle.optim import clip_grad_norm, clip_grad_value


def parameter(grad, dtype="float64"):
    p = tensor(np.zeros(np.shape(grad)), dtype=dtype)
    p.grad = tensor(grad, dtype=dtype)
    return p


def test_norm_is_over_all_gradients_together():
    a, b = parameter([[3.0, 0.0]]), parameter([4.0])
    norm = clip_grad_norm([a, b], 2.5)
    assert isinstance(norm, ndl.Tensor)
    assert norm.shape == ()
    assert float(norm) == 5.0
    scale = 2.5 / (5.0 + 1e-6)
    np.testing.assert_allclose(a.grad.numpy(), [[3.0 * scale, 0.0]], rtol=1e-15)
    np.testing.assert_allclose(b.grad.numpy(), [4.0 * scale], rtol=1e-15)


def test_gradients_below_the_norm_keep_every_bit():
    p = parameter(np.random.randn(5), "float32")
    before = p.grad.numpy()
    clip_grad_norm([p], 100.0)
    np.testing.assert_array_equal(p.grad.numpy(), before)


def test_gradients_are_replaced_and_detached():
    p = tensor([3.0, 4.0])
    (p * p * p).sum().backward()
    for clip in (clip_grad_norm, clip_grad_value):
        before, copy = p.grad, p.grad.numpy()
        norm = clip([p], 0.5)
        np.testing.assert_array_equal(before.numpy(), copy)
        assert p.grad is not before
        assert not p.grad.requires_grad
        assert norm is None or not norm.requires_grad


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "bfloat16"])
def test_gradients_keep_their_dtype(dtype):
    p = parameter([3.0, 4.0], dtype)
    clip_grad_norm([p], 1.0)
    assert p.grad.dtype == p.dtype


def test_norm_of_half_precision_gradients_does_not_overflow():
    p = parameter([3e4, 4e4], "float16")
    np.testing.assert_allclose(float(clip_grad_norm([p], 1.0)), 5e4, rtol=1e-3)
    np.testing.assert_allclose(p.grad.numpy(), [0.6, 0.8], rtol=1e-2)


def test_parameters_without_gradient_do_not_count():
    p = parameter([3.0, 4.0])
    other = tensor([1.0])
    assert float(clip_grad_norm((q for q in (other, p)), 10.0)) == 5.0
    assert other.grad is None
    assert float(clip_grad_norm([other], 1.0)) == 0.0
    clip_grad_value([other], 1.0)
    assert other.grad is None


def test_shared_parameters_count_once():
    p = parameter([3.0, 4.0])
    assert float(clip_grad_norm([p, p], 1.0)) == 5.0
    np.testing.assert_allclose(p.grad.numpy(), [0.6, 0.8], rtol=1e-5)


def test_infinite_bound_only_measures():
    p = parameter([3.0, 4.0])
    assert float(clip_grad_norm([p], float("inf"))) == 5.0
    np.testing.assert_array_equal(p.grad.numpy(), [3.0, 4.0])


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_infinite_bound_leaves_gradients_alone_whose_norm_is_not_finite(bad):
    a, b = parameter([1.0]), parameter([bad])
    clip_grad_norm([a, b], float("inf"))
    np.testing.assert_array_equal(a.grad.numpy(), [1.0])


def test_norm_over_gradients_of_different_dtypes():
    dtypes = ["float16", "bfloat16", "float32", "float64"]
    params = [parameter([1.0], dtype) for dtype in dtypes]
    norm = clip_grad_norm(params, 1.0)
    assert norm.dtype == "float64"
    assert float(norm) == 2.0
    assert [str(p.grad.dtype) for p in params] == dtypes
    np.testing.assert_allclose([p.grad.numpy().item() for p in params], 0.5, rtol=1e-2)


def test_a_gradient_costs_one_op(monkeypatch):
    params = [parameter([1.0, 2.0], "float32") for _ in range(10)]
    made = []
    make = ndl.Tensor.make_from_op.__func__

    def counted(cls, op, inputs):
        made.append(op.name)
        return make(cls, op, inputs)

    monkeypatch.setattr(ndl.Tensor, "make_from_op", classmethod(counted))
    clip_grad_norm(params, 1.0)
    assert len(made) <= 10 + 6, made


@pytest.mark.nd_mode  # in np mode a dtype is known once there is an array
def test_clipping_reads_no_values():
    p = parameter([3.0, 4.0])
    with ndl.lazy():
        norm = clip_grad_norm([p], 1.0)
        assert norm.cached_data is None
        assert p.grad.cached_data is None


def test_zero_gradients_stay_zero():
    p = parameter([0.0, 0.0])
    assert float(clip_grad_norm([p], 1.0)) == 0.0
    np.testing.assert_array_equal(p.grad.numpy(), [0.0, 0.0])


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_norm_that_is_not_finite_raises_if_asked_before_anything_changes(bad):
    a, b = parameter([1.0]), parameter([bad])
    with pytest.raises(NonFiniteError, match=f"clip_grad_norm: expected a finite norm, got {bad}"):
        clip_grad_norm([a, b], 0.1, error_if_nonfinite=True)
    np.testing.assert_array_equal(a.grad.numpy(), [1.0])


def test_a_norm_that_is_nan_is_returned_otherwise():
    assert np.isnan(float(clip_grad_norm([parameter([1.0, float("nan")])], 0.1)))


def test_values_are_clipped_on_both_sides():
    p = parameter([-3.0, -0.5, 0.0, 0.5, 3.0], "float32")
    clip_grad_value([p], 1.0)
    np.testing.assert_array_equal(p.grad.numpy(), [-1.0, -0.5, 0.0, 0.5, 1.0])
    assert p.grad.dtype == np.float32


@pytest.mark.parametrize("bound", [-1.0, float("nan"), "1", None])
def test_bounds_that_make_no_sense_are_refused(bound):
    with pytest.raises(OptionError) as caught:
        clip_grad_norm([parameter([1.0])], bound)
    assert str(caught.value) == (
        f"clip_grad_norm: expected max_norm to be a number from 0 on, got {bound!r}."
    )
    with pytest.raises(OptionError, match="clip_grad_value: expected value to be a number"):
        clip_grad_value([parameter([1.0])], bound)


def test_what_is_no_parameter_is_refused():
    with pytest.raises(DTypeError, match=r"clip_grad_norm: expected parameters to be Tensors"):
        clip_grad_norm([3.0], 1.0)


def test_clipping_in_lazy_mode_gives_the_same():
    eager, lazy = parameter([3.0, 4.0]), parameter([3.0, 4.0])
    clip_grad_norm([eager], 1.0)
    with ndl.lazy():
        clip_grad_norm([lazy], 1.0)
    np.testing.assert_array_equal(eager.grad.numpy(), lazy.grad.numpy())


@pytest.mark.parametrize("clip", [clip_grad_norm, clip_grad_value])
def test_integer_gradients_are_refused(clip):
    p = tensor([1.0, 2.0])
    p.grad = tensor([3, 4])
    with pytest.raises(DTypeError, match=rf"{clip.__name__}: expected floating .*, got int64\[2\]"):
        clip([p], 1.0)
    assert p.grad.numpy().tolist() == [3, 4]

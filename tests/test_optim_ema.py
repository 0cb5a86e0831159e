"""The exponential moving average of parameters."""

from __future__ import annotations

import gc

import numpy as np
import pytest
from tensors import tensor

import needle as ndl
from needle import nn, optim
from needle.errors import DTypeError, OptionError, ShapeError, StateDictError


def parameters(dtype="float64"):
    return [tensor(np.random.randn(2, 3), dtype=dtype), tensor([1.0], dtype=dtype)]


def wander(params):
    for p in params:
        p.data = tensor(np.random.randn(*p.shape), dtype=p.dtype)


@pytest.mark.parametrize("warmup", [False, True])
def test_shadow_follows_the_equation(warmup):
    params = parameters()
    ema = optim.EMA(params, decay=0.8, warmup=warmup)
    expected = params[0].numpy()
    for t in range(1, 40):
        wander(params)
        ema.update()
        d = min(0.8, (1 + t) / (10 + t)) if warmup else 0.8
        expected = d * expected + (1 - d) * params[0].numpy()
    np.testing.assert_allclose(ema.shadow[0].numpy(), expected, rtol=1e-12)


def test_decay_zero_is_the_last_value():
    params = parameters()
    ema = optim.EMA(params, decay=0)
    wander(params)
    ema.update()
    np.testing.assert_array_equal(ema.shadow[0].numpy(), params[0].numpy())


def test_shadow_starts_as_a_copy_and_keeps_the_dtype():
    params = parameters("float32")
    ema = optim.EMA(params)
    params[1].cached_data[0] = 7.0
    assert ema.shadow[1].numpy() == [1.0]
    ema.update()
    assert ema.shadow[1].dtype == np.float32
    assert not ema.shadow[1].requires_grad


def test_averages_are_swapped_in_and_out():
    params = parameters()
    before = params[0].numpy()
    ema = optim.EMA(params, decay=0.5)
    wander(params)
    ema.update()
    own = params[0].numpy()
    with ema.average_parameters():
        np.testing.assert_allclose(params[0].numpy(), (before + own) / 2)
    np.testing.assert_array_equal(params[0].numpy(), own)


def test_parameters_come_back_after_an_exception():
    params = parameters()
    ema = optim.EMA(params)
    wander(params)
    own = params[0].numpy()
    with pytest.raises(KeyError), ema.average_parameters():
        wander(params)
        raise KeyError
    np.testing.assert_array_equal(params[0].numpy(), own)


def test_changes_inside_the_block_leave_the_average_alone():
    params = parameters()
    ema = optim.EMA(params)
    before = ema.shadow[0].numpy()
    with ema.average_parameters():
        params[0].cached_data[:] = 0.0
    np.testing.assert_array_equal(ema.shadow[0].numpy(), before)


def test_copy_to_its_own_parameters_and_to_another_model():
    model, other = nn.Linear(3, 2), nn.Linear(3, 2)
    ema = optim.EMA(model, decay=0.5)
    start = model.weight.numpy()
    wander(model.parameters())
    ema.copy_to(other)
    np.testing.assert_array_equal(other.weight.numpy(), start)
    ema.copy_to()
    np.testing.assert_array_equal(model.weight.numpy(), start)
    assert model.weight.cached_data is not ema.shadow[0].cached_data


def test_shared_parameters_are_averaged_once():
    (p, _) = parameters()
    assert len(optim.EMA([p, p]).shadow) == 1


def test_parameters_of_another_shape_or_number_are_refused_and_nothing_changes():
    params = parameters()
    ema = optim.EMA(params)
    with pytest.raises(ShapeError) as caught:
        ema.copy_to([params[0]])
    assert str(caught.value) == (
        "EMA.copy_to: expected parameters as at the start, (float64[2,3], float64[1]), "
        "got (float64[2,3])."
    )
    params[1].data = tensor([1.0, 2.0])
    with pytest.raises(ShapeError, match=r"EMA\.update"):
        ema.update()
    assert ema.t == 0
    with pytest.raises(ShapeError), ema.average_parameters():
        pass
    np.testing.assert_array_equal(params[1].numpy(), [1.0, 2.0])


@pytest.mark.parametrize("decay", [1.0, -0.1, float("nan"), "0.9"])
def test_decay_outside_0_to_1_is_refused(decay):
    with pytest.raises(OptionError) as caught:
        optim.EMA(parameters(), decay=decay)
    assert str(caught.value) == f"EMA: expected decay in [0, 1), got {decay!r}."


def test_nothing_to_average_is_refused():
    with pytest.raises(OptionError, match="EMA: expected at least one parameter, got none"):
        optim.EMA([])
    with pytest.raises(DTypeError, match="EMA: expected parameters to be Tensors, got int 1"):
        optim.EMA([1])


def test_saved_and_restored_averages_go_on_bit_for_bit(tmp_path):
    params = parameters("float32")
    ema = optim.EMA(params, decay=0.9, warmup=True)
    for _ in range(5):
        wander(params)
        ema.update()
    ndl.save(ema, tmp_path / "ema")
    fresh = optim.EMA(params, decay=0.9, warmup=True)
    fresh.load_state_dict(ndl.load(tmp_path / "ema"))
    for _ in range(5):
        wander(params)
        ema.update()
        fresh.update()
    assert fresh.t == 10
    for a, b in zip(ema.shadow, fresh.shadow, strict=True):
        np.testing.assert_array_equal(a.numpy(), b.numpy())


def test_loading_names_the_keys_at_fault_and_changes_nothing():
    ema = optim.EMA(parameters())
    before = ema.shadow[0].numpy()
    with pytest.raises(StateDictError) as caught:
        ema.load_state_dict({"shadow.0": np.zeros((2, 3)), "shadow.1": np.zeros(2), "x": 1})
    assert str(caught.value) == (
        "load_state_dict: expected the keys and shapes of this EMA, got 3 at fault: "
        "shadow.1: expected float64[1], got float64[2]; t: missing; x: unexpected."
    )
    np.testing.assert_array_equal(ema.shadow[0].numpy(), before)


def test_live_values_are_steady_in_eager_and_lazy_mode():
    params = parameters()
    ema = optim.EMA(params)
    gc.collect()
    gc.disable()
    try:
        for lazy in (False, True):
            with ndl.lazy(lazy):
                ema.update()
                before = ndl.autograd.TENSOR_COUNTER
                for _ in range(50):
                    ema.update()
                assert before == ndl.autograd.TENSOR_COUNTER
    finally:
        gc.enable()

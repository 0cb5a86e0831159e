"""Contract, section 5: values, shapes, dtypes and draws of `needle.init`, in np mode."""

from __future__ import annotations

import numpy as np
import pytest

import needle as ndl

SEED = 20


def drawn(function, *args, **kwargs):
    """The function's array after seeding, and the next number of the stream."""
    np.random.seed(SEED)
    tensor = function(*args, **kwargs)
    return tensor, np.random.rand()


def by_hand(draw):
    np.random.seed(SEED)
    array = draw()
    return array, np.random.rand()


def assert_same_draws(result, expected, dtype="float32"):
    (tensor, next_number), (array, expected_next) = result, expected
    assert tensor.dtype == dtype
    assert next_number == expected_next
    np.testing.assert_array_equal(tensor.numpy(), np.asarray(array).astype(dtype))


@pytest.mark.parametrize("shape", [(), (3,), (2, 3), (0, 4), (2, 1, 3)])
def test_rand_is_one_call_of_numpy_rand(shape):
    result = drawn(ndl.init.rand, *shape, low=-2.0, high=3.0)
    assert_same_draws(result, by_hand(lambda: np.random.rand(*shape) * 5.0 - 2.0))
    assert result[0].shape == shape


@pytest.mark.parametrize("shape", [(), (3,), (2, 3), (0, 4)])
def test_randn_is_one_call_of_numpy_randn(shape):
    result = drawn(ndl.init.randn, *shape, mean=1.0, std=0.5)
    assert_same_draws(result, by_hand(lambda: np.random.randn(*shape) * 0.5 + 1.0))


@pytest.mark.parametrize("p", [0.0, 0.3, 1.0])
def test_randb_is_true_where_a_uniform_draw_is_at_most_p(p):
    assert_same_draws(
        drawn(ndl.init.randb, 4, 5, p=p), by_hand(lambda: np.random.rand(4, 5) <= p), dtype="bool"
    )


def test_randb_takes_the_dtype_that_dropout_asks_for():
    tensor, _ = drawn(ndl.init.randb, 4, 5, p=0.5, dtype="float32")
    assert tensor.dtype == "float32"
    assert set(np.unique(tensor.numpy())) == {0.0, 1.0}


def test_default_dtype_is_float32_and_default_device_is_the_cpu():
    for tensor in (ndl.init.rand(2), ndl.init.randn(2), ndl.init.ones(2), ndl.init.zeros(2)):
        assert tensor.dtype == "float32"
        assert tensor.device == ndl.cpu()
        assert tensor.requires_grad is False


def test_draws_stay_float64_until_the_last_cast():
    result = drawn(ndl.init.rand, 100, low=0.1, high=0.7, dtype="float64")
    assert_same_draws(result, by_hand(lambda: np.random.rand(100) * (0.7 - 0.1) + 0.1), "float64")


def test_constants_draw_nothing():
    np.random.seed(SEED)
    ndl.init.constant(3, c=7)
    ndl.init.ones(3)
    ndl.init.zeros(3)
    ndl.init.one_hot(3, ndl.Tensor([0, 1]))
    assert np.random.rand() == by_hand(lambda: None)[1]


def test_constant_ones_and_zeros_are_filled():
    np.testing.assert_array_equal(ndl.init.constant(2, 3, c=2.5).numpy(), np.full((2, 3), 2.5))
    np.testing.assert_array_equal(ndl.init.constant(2).numpy(), np.ones(2))
    np.testing.assert_array_equal(ndl.init.ones(2, 0).numpy(), np.ones((2, 0)))
    assert ndl.init.zeros().shape == ()
    assert ndl.init.zeros(2, dtype="int64").dtype == "int64"


@pytest.mark.parametrize("function", ["rand", "randn", "randb", "constant", "ones", "zeros"])
def test_requires_grad_is_passed_on(function):
    assert getattr(ndl.init, function)(2, requires_grad=True).requires_grad is True


@pytest.mark.parametrize("dtype", ["int64", "int32", "uint8", "float32", "float64"])
@pytest.mark.parametrize("shape", [(), (4,), (2, 3)])
def test_one_hot_takes_ids_of_any_shape_and_dtype(shape, dtype):
    ids = np.arange(np.prod(shape, dtype=int)).reshape(shape) % 5
    tensor = ndl.init.one_hot(5, ndl.Tensor(ids, dtype=dtype))
    assert tensor.shape == (*shape, 5)
    assert tensor.dtype == "float32"
    np.testing.assert_array_equal(tensor.numpy(), np.eye(5)[ids])


def test_one_hot_truncates_floats():
    tensor = ndl.init.one_hot(3, ndl.Tensor([0.9, 1.2, 2.999]))
    np.testing.assert_array_equal(tensor.numpy(), np.eye(3))


@pytest.mark.parametrize("dtype", ["float32", "float64", "int64", "bool"])
def test_like_functions_take_shape_dtype_and_device(dtype):
    array = ndl.Tensor(np.ones((2, 3)), dtype=dtype)
    for function, value in ((ndl.init.zeros_like, 0), (ndl.init.ones_like, 1)):
        tensor = function(array, device=ndl.cpu(), requires_grad=True)
        assert (tensor.shape, tensor.dtype, tensor.device) == ((2, 3), dtype, ndl.cpu())
        assert tensor.requires_grad is True
        np.testing.assert_array_equal(tensor.numpy(), np.full((2, 3), value))


def uniform(bound, *shape):
    return lambda: np.random.rand(*shape) * 2 * bound - bound


def test_xavier_uniform_bound():
    bound = 1.5 * np.sqrt(6 / (3 + 5))
    tensor, _ = drawn(ndl.init.xavier_uniform, 3, 5, gain=1.5)
    np.testing.assert_allclose(tensor.numpy(), by_hand(uniform(bound, 3, 5))[0], rtol=1e-6)


def test_xavier_normal_deviation():
    std = 1.5 * np.sqrt(2 / (3 + 5))
    tensor, _ = drawn(ndl.init.xavier_normal, 3, 5, gain=1.5)
    expected, _ = by_hand(lambda: np.random.randn(3, 5) * std)
    np.testing.assert_allclose(tensor.numpy(), expected, rtol=1e-6)


def test_kaiming_uniform_bound():
    tensor, _ = drawn(ndl.init.kaiming_uniform, 3, 5)
    expected, _ = by_hand(uniform(np.sqrt(6 / 3), 3, 5))
    np.testing.assert_allclose(tensor.numpy(), expected, rtol=1e-6)


def test_kaiming_uniform_bound_uses_fan_in_whatever_the_shape():
    tensor, _ = drawn(ndl.init.kaiming_uniform, 27, 36, shape=(3, 3, 3, 4))
    expected, _ = by_hand(uniform(np.sqrt(6 / 27), 3, 3, 3, 4))
    assert tensor.shape == (3, 3, 3, 4)
    np.testing.assert_allclose(tensor.numpy(), expected, rtol=1e-6)


def test_kaiming_normal_deviation():
    tensor, _ = drawn(ndl.init.kaiming_normal, 3, 5)
    expected, _ = by_hand(lambda: np.random.randn(3, 5) * np.sqrt(2 / 3))
    np.testing.assert_allclose(tensor.numpy(), expected, rtol=1e-6)


@pytest.mark.parametrize(
    "name", ["xavier_uniform", "xavier_normal", "kaiming_uniform", "kaiming_normal"]
)
def test_fan_based_initialisers_take_a_shape_and_the_common_options(name):
    tensor = getattr(ndl.init, name)(
        4, 6, shape=(2, 12), dtype="float64", device=ndl.cpu(), requires_grad=True
    )
    assert tensor.shape == (2, 12)
    assert tensor.dtype == "float64"
    assert tensor.requires_grad is True


@pytest.mark.parametrize("name", ["kaiming_uniform", "kaiming_normal"])
def test_kaiming_knows_only_relu(name):
    with pytest.raises(ValueError, match=f"{name}: expected nonlinearity 'relu', got 'tanh'"):
        getattr(ndl.init, name)(2, 3, nonlinearity="tanh")

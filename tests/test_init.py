"""`needle.init` beyond the contract: shapes, bad input, statistics, and Tensors like arrays."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

import needle as ndl
from needle import init
from needle.autograd import Tensor
from needle.errors import DeviceError, DTypeError, OptionError, OutOfRangeError, ShapeError

SHAPED = [init.rand, init.randn, init.randb, init.constant, init.ones, init.zeros]


@pytest.mark.parametrize("function", SHAPED)
@pytest.mark.parametrize("shape", [(), (3,), (2, 0), (2, 3, 4)])
def test_shape_is_written_as_numbers_or_as_one_tuple(function, shape):
    np.random.seed(1)
    numbers = function(*shape)
    np.random.seed(1)
    single = function(shape)
    assert numbers.shape == single.shape == shape
    np.testing.assert_array_equal(numbers.numpy(), single.numpy())
    assert function(list(shape)).shape == shape


@pytest.mark.parametrize("function", SHAPED)
def test_extents_may_be_numpys_integers(function):
    assert function(np.int64(2), np.uint8(3)).shape == (2, 3)


@pytest.mark.parametrize("function", SHAPED)
@pytest.mark.parametrize("shape", [(-1,), (2, -3), (2.0,), ("a",), (None,), ((2, 3), 4)])
def test_what_is_no_shape_is_refused(function, shape):
    with pytest.raises(ShapeError, match=r"expected a shape of whole numbers, got \("):
        function(*shape)


@pytest.mark.parametrize("function", [*SHAPED, lambda *s, **k: init.one_hot(3, Tensor([1]), **k)])
def test_unknown_device_is_refused(function):
    with pytest.raises(DeviceError, match=r"device: expected .*got 'cpu'"):
        function(2, device="cpu")


@pytest.mark.parametrize("function", SHAPED)
def test_unknown_dtype_is_refused(function):
    with pytest.raises(DTypeError, match="dtype: expected a name such as 'float32'"):
        function(2, dtype="float33")


@pytest.mark.parametrize("function", SHAPED)
def test_message_about_a_shape_names_the_function_called(function):
    with pytest.raises(ShapeError, match=f"^{function.__name__}: expected a shape"):
        function(-1)


@pytest.mark.parametrize("dtype", ["float16", "float64", "bfloat16", "int32", "bool"])
def test_dtype_is_taken(dtype):
    draws = [init.rand, init.randn] if "float" in dtype else []
    for function in [*draws, init.randb, init.constant, init.ones, init.zeros]:
        assert function(2, 3, dtype=dtype).dtype.name == dtype


@pytest.mark.parametrize("function", [init.rand, init.randn])
@pytest.mark.parametrize("dtype", ["int64", "uint8", "bool", "complex64"])
def test_draws_that_would_round_to_zero_are_refused_before_the_draw(function, dtype):
    np.random.seed(3)
    expected = np.random.rand()
    np.random.seed(3)
    name = function.__name__
    with pytest.raises(DTypeError, match=f"{name}: expected a float dtype, got {dtype}"):
        function(3, dtype=dtype)
    assert np.random.rand() == expected


def test_no_dtype_means_the_default_everywhere():
    for function in (init.rand, init.randn, init.constant, init.ones, init.zeros):
        assert function(2, dtype=None).dtype == "float32"
    assert init.randb(2, dtype=None).dtype == "bool"
    assert init.one_hot(3, [1], dtype=None).dtype == "float32"
    for function in FANS:
        assert function(2, 3, dtype=None).dtype == "float32"


def test_uniform_draws_stay_within_their_bounds():
    draw = init.rand(10_000, low=-2.0, high=5.0, dtype="float64").numpy()
    assert draw.min() >= -2.0
    assert draw.max() < 5.0
    assert abs(draw.mean() - 1.5) < 0.1


def test_normal_draws_have_mean_and_deviation():
    draw = init.randn(20_000, mean=3.0, std=2.0).numpy()
    assert abs(draw.mean() - 3.0) < 0.1
    assert abs(draw.std() - 2.0) < 0.1


@pytest.mark.parametrize("p", [0.0, 0.2, 1.0])
def test_bernoulli_draws_have_their_probability(p):
    assert abs(init.randb(20_000, p=p).numpy().mean() - p) < 0.02


@pytest.mark.parametrize("p", [2, -0.1, np.nan, "half", None])
def test_what_is_no_probability_is_refused(p):
    with pytest.raises(OptionError, match=r"randb: expected a probability p in \[0, 1\], got"):
        init.randb(3, p=p)


# -- one_hot -----------------------------------------------------------------------------------


@pytest.mark.parametrize("ids", [[0, 3], [-1], 2**32, [0.0, np.nan], [3.5]])
def test_one_hot_refuses_ids_that_are_no_classes(ids):
    with pytest.raises(OutOfRangeError, match=r"one_hot: expected class ids in 0..2, got"):
        init.one_hot(3, Tensor(ids))


@pytest.mark.parametrize(("n", "ids"), [(2.5, [1]), (-1, []), ("3", [1]), (None, [1])])
def test_one_hot_refuses_what_is_no_number_of_classes(n, ids):
    with pytest.raises(OptionError, match="one_hot: expected a whole number n of classes, 0 or"):
        init.one_hot(n, ids)


@pytest.mark.parametrize("ids", [["a"], None, [[1], [1, 2]]])
def test_one_hot_refuses_what_is_no_array_of_ids(ids):
    with pytest.raises(DTypeError, match="expected"):
        init.one_hot(3, ids)


def test_one_hot_takes_arrays_lists_and_numbers():
    for ids in (Tensor([0, 2]), np.array([0, 2]), [0, 2]):
        assert init.one_hot(3, ids).tolist() == [[1, 0, 0], [0, 0, 1]]
    assert init.one_hot(3, 1).tolist() == [0, 1, 0]


def test_one_hot_of_nothing():
    assert init.one_hot(3, Tensor(np.zeros((0, 2)))).shape == (0, 2, 3)


def test_one_hot_in_another_dtype():
    assert init.one_hot(3, [1], dtype="bool").tolist() == [[False, True, False]]


# -- like --------------------------------------------------------------------------------------


@pytest.mark.parametrize("function", [init.zeros_like, init.ones_like])
def test_like_functions_take_arrays_and_another_dtype(function):
    array = np.ones((2, 3), dtype="float32")
    for source in (array, Tensor(array)):
        assert function(source).dtype == "float32"
        assert function(source).shape == (2, 3)
        assert function(source, dtype="int64").dtype == "int64"


@pytest.mark.parametrize("function", [init.zeros_like, init.ones_like])
@pytest.mark.parametrize("value", [[1], 1.0, None])
def test_like_functions_refuse_what_has_no_shape(function, value):
    with pytest.raises(DTypeError, match=f"{function.__name__}: expected a Tensor or an array"):
        function(value)


def test_like_functions_keep_bfloat16():
    assert init.ones_like(Tensor([1.0], dtype="bfloat16")).dtype == ml_dtypes.bfloat16


# -- initialisers ------------------------------------------------------------------------------

FANS = [init.xavier_uniform, init.xavier_normal, init.kaiming_uniform, init.kaiming_normal]
VARIANCES = [2 / (300 + 200), 2 / (300 + 200), 2 / 300, 2 / 300]


@pytest.mark.parametrize(
    ("function", "variance"),
    list(zip(FANS, VARIANCES, strict=True)),
    ids=lambda v: getattr(v, "__name__", str(v)),
)
def test_weights_have_the_variance_of_the_formula(function, variance):
    weights = function(300, 200).numpy()
    assert weights.shape == (300, 200)
    assert weights.var() == pytest.approx(variance, rel=0.03)
    assert abs(weights.mean()) < 0.01


@pytest.mark.parametrize("function", FANS)
def test_a_fan_of_zero_is_refused(function):
    with pytest.raises(OptionError, match=f"{function.__name__}: expected a fan of 1 or more"):
        function(0, 0)


@pytest.mark.parametrize("function", FANS)
@pytest.mark.parametrize("dtype", ["int64", "bool"])
def test_weights_that_would_round_to_zero_are_refused(function, dtype):
    with pytest.raises(DTypeError, match=f"{function.__name__}: expected a float dtype"):
        function(3, 3, dtype=dtype)


@pytest.mark.parametrize("function", FANS)
@pytest.mark.parametrize("shape", [5, np.int64(5), (5,)])
def test_one_number_is_a_shape_too(function, shape):
    assert function(3, 4, shape=shape).shape == (5,)


@pytest.mark.parametrize("function", FANS)
@pytest.mark.parametrize("shape", [-5, 2.5, "ab", (2, -1)])
def test_message_about_the_shape_of_weights_names_their_initialiser(function, shape):
    with pytest.raises(ShapeError, match=f"^{function.__name__}: expected a shape of whole"):
        function(3, 4, shape=shape)


@pytest.mark.parametrize("function", FANS)
@pytest.mark.parametrize("shape", [(), (0, 3), (2, 2, 2), [4]])
def test_shape_replaces_the_fans(function, shape):
    assert function(3, 4, shape=shape).shape == tuple(shape)


def test_results_are_leaves_that_can_be_trained():
    x = init.kaiming_uniform(3, 2, requires_grad=True)
    assert x.is_leaf()
    (x * 2).sum().backward()
    np.testing.assert_array_equal(x.grad.numpy(), np.full((3, 2), 2.0))
    assert ndl.init.rand(2).requires_grad is False

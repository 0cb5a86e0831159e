"""Pooling beyond the table of operators: ties, edges, orders of axes in memory, derivatives."""

from __future__ import annotations

import math

import numpy as np
import pytest
from tensors import tensor

import needle as ndl
from needle import ops
from needle.errors import DTypeError, OptionError, ShapeError
from needle.testing import check_grads

pytestmark = pytest.mark.usefixtures("each_device")


def pictures(*shape, seed=0):
    return tensor(np.random.RandomState(seed).randn(*shape))


def distinct(*shape):
    size = math.prod(shape)
    return tensor(np.random.RandomState(0).permutation(size).reshape(shape) / 10)


def gradient(function, x):
    """Of the sum of all results by x, as NumPy's array."""
    function(x).sum().backward()
    return x.grad.numpy()


# -- the maximum -------------------------------------------------------------------------------


def test_of_equal_elements_the_first_row_by_row_takes_the_gradient():
    x = tensor([[1.0, 2.0, 2.0], [3.0, 3.0, 0.0]]).reshape((1, 2, 3, 1)).detach()
    x.requires_grad = True
    assert gradient(lambda x: ops.max_pool(x, 2, 1), x)[0, ..., 0].tolist() == [
        [0, 0, 0],
        [1, 1, 0],
    ]


def test_a_place_that_wins_in_several_windows_takes_the_gradients_of_all():
    x = tensor(np.array([0.0, 5.0, 1.0, 2.0]).reshape(1, 4, 1))
    assert gradient(lambda x: ops.max_pool(x, 3, 1, 1), x).reshape(-1).tolist() == [0, 3, 0, 1]


def test_padding_never_wins():
    x = tensor(np.full((1, 3, 3, 1), -np.inf))
    y = ops.max_pool(x, 3, 1, 1)
    assert (y.numpy() == -np.inf).all()
    y.sum().backward()
    assert x.grad.numpy().sum() == 9


def test_where_all_is_minus_infinity_the_first_place_inside_takes_the_gradient():
    x = tensor(np.full((1, 4, 1), -np.inf))
    y = ops.max_pool(x, 3, 1, 1, dilation=2)  # of places -1, 1, 3 and of 0, 2, 4
    y.backward(tensor(np.array([1.0, 2.0]).reshape(1, 2, 1)))
    assert x.grad.numpy().reshape(-1).tolist() == [2, 1, 0, 0]


def test_a_window_wholly_outside_has_no_gradient():
    x = tensor(np.array([1.0, 2.0]).reshape(1, 2, 1))
    y = ops.max_pool(x, 2, 1, 1, dilation=3)
    assert y.numpy().reshape(-1).tolist() == [-np.inf]
    y.sum().backward()
    assert x.grad.numpy().reshape(-1).tolist() == [0, 0]


def test_nan_spreads_to_its_windows_alone():
    x = np.zeros((1, 6, 1))
    x[0, 3] = np.nan
    assert np.isnan(ops.max_pool(tensor(x), 2).numpy()).reshape(-1).tolist() == [False, True, False]


@pytest.mark.parametrize("kernel, stride", [(2, 2), (2, 1), (4, 4)])
def test_the_last_nan_of_a_window_takes_its_gradient(kernel, stride):
    x = tensor(np.array([[1, np.nan, 7, 8], [np.nan, 3, 9, 6]] * 2).reshape(1, 4, 4, 1))
    found = gradient(lambda x: ops.max_pool(x, kernel, stride), x)[0, ..., 0].tolist()
    assert (
        found
        == {
            (2, 2): [[0, 0, 0, 0], [1, 0, 1, 0], [0, 0, 0, 0], [1, 0, 1, 0]],
            (2, 1): [[0, 1, 0, 0], [1, 0, 2, 0], [0, 3, 0, 0], [1, 0, 1, 0]],
            (4, 4): [[0, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0], [1, 0, 0, 0]],
        }[kernel, stride]
    )


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int64"])
def test_maximum_of_integers_stays_in_their_dtype(dtype):
    x = np.arange(6, dtype=dtype).reshape(1, 6, 1)
    y = ops.max_pool(tensor(x), 3, 3, 1)
    assert y.dtype == np.dtype(dtype)
    assert y.numpy().reshape(-1).tolist() == [1, 4]


def test_global_maximum_goes_to_the_first_of_equals():
    x = tensor(np.array([[1.0, 3.0], [3.0, 3.0]]).reshape(1, 2, 2, 1))
    found = gradient(lambda x: ops.adaptive_max_pool(x, 1), x)
    assert found.reshape(-1).tolist() == [0, 1, 0, 0]


def test_large_windows_find_their_maxima_at_once(monkeypatch):
    """Looking at one place after the other would take a pass over the windows for each."""
    monkeypatch.setattr(ops.ArgMaxPool, "compute", None)
    x = distinct(2, 8, 10, 3)
    found = gradient(lambda x: ops.adaptive_max_pool(x, 2), x)
    expected = ops.max_pool(x, (4, 5)).numpy().repeat(4, 1).repeat(5, 2) == x.numpy()
    np.testing.assert_array_equal(found, expected)


def test_overlapping_adaptive_windows_share_a_maximum():
    x = tensor(np.array([0.0, 9.0, 1.0]).reshape(1, 3, 1))
    found = gradient(lambda x: ops.adaptive_max_pool(x, 2), x)
    assert found.reshape(-1).tolist() == [0, 2, 0]


# -- the mean ----------------------------------------------------------------------------------


def test_means_of_narrow_floats_add_up_in_float32():
    x = tensor(np.full((1, 64, 64, 1), 30.0), dtype="float16")
    assert ops.avg_pool(x, 64).numpy().item() == 30.0


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize(
    "pool",
    [
        lambda x: ops.avg_pool(x, 5, 2, 2, count_include_pad=False),
        lambda x: ops.avg_pool(x, 4, 3, ceil_mode=True),
        lambda x: ops.adaptive_avg_pool(x, 2),
    ],
    ids=["what is there", "rounded up", "adaptive"],
)
def test_means_of_narrow_floats_are_rounded_once(pool, dtype):
    """Their sums are beyond float16."""
    x = np.random.RandomState(0).uniform(9_000, 11_000, (1, 5, 5, 1))
    narrow = tensor(x, dtype=dtype)
    y, exact = pool(narrow), pool(narrow.astype("float64"))
    assert y.dtype == narrow.dtype
    rounded = exact.astype("float32").astype(dtype)
    np.testing.assert_array_equal(y.numpy().astype(float), rounded.numpy().astype(float))
    y.backward(ndl.ones_like(y))
    assert np.isfinite(narrow.grad.numpy().astype(float)).all()


@pytest.mark.parametrize("value", [np.inf, np.nan])
def test_what_is_not_finite_spoils_the_adaptive_windows_that_hold_it_alone(value):
    x = tensor(np.array([value, 1, 2, 3, 4]).reshape(1, 5, 1))
    y = ops.adaptive_avg_pool(x, 3)
    np.testing.assert_array_equal(y.numpy().reshape(-1), [value, 2, 3.5])
    y.backward(tensor(np.array([value, 6.0, 6.0]).reshape(1, 3, 1)))
    np.testing.assert_array_equal(x.grad.numpy().reshape(-1), [value, value, 2, 5, 3])


@pytest.mark.parametrize("options", [{}, {"count_include_pad": False}, {"divisor_override": 3}])
def test_padded_windows_side_by_side_do_not_cover_all_places(options):
    x = tensor(np.arange(6.0).reshape(1, 6, 1))
    found = gradient(lambda x: ops.avg_pool(x, 3, 3, 1, **options), x)
    first = 1 / 2 if "count_include_pad" in options else 1 / 3
    np.testing.assert_allclose(found.reshape(-1), [first, first, 1 / 3, 1 / 3, 1 / 3, 0])


def test_mean_spreads_its_gradient_evenly():
    x = pictures(2, 4, 6, 3)
    np.testing.assert_allclose(gradient(lambda x: ops.avg_pool(x, 2), x), 0.25)


def test_places_that_no_window_covers_have_no_gradient():
    x = pictures(1, 7, 1)
    found = gradient(lambda x: ops.avg_pool(x, 2, 3), x)
    assert found.reshape(-1).tolist() == [0.5, 0.5, 0, 0.5, 0.5, 0, 0]


def test_mean_of_integers_is_a_float():
    x = tensor(np.arange(6).reshape(1, 6, 1))
    assert ops.avg_pool(x, 4).numpy().item() == 1.5
    np.testing.assert_allclose(
        ops.adaptive_avg_pool(x, 4).numpy().reshape(-1), [0.5, 1.5, 3.5, 4.5]
    )


def test_adaptive_mean_with_one_window_is_the_mean():
    x = pictures(2, 5, 3, 4)
    y = ops.adaptive_avg_pool(x, 1)
    assert y.shape == (2, 1, 1, 4)
    np.testing.assert_allclose(y.numpy()[:, 0, 0], x.numpy().mean((1, 2)))


def test_adaptive_pooling_to_more_windows_than_places_repeats_them():
    x = tensor(np.array([1.0, 2.0]).reshape(1, 2, 1))
    for pool in (ops.adaptive_avg_pool, ops.adaptive_max_pool):
        assert pool(x, 4).numpy().reshape(-1).tolist() == [1, 1, 2, 2]


# -- derivatives, memory, modes ----------------------------------------------------------------

POOLS = {
    "max": lambda x: ops.max_pool(x, 3, 2, 1),
    "mean": lambda x: ops.avg_pool(x, 3, 2, 1),
    "mean of what is there": lambda x: ops.avg_pool(x, 2, 2, 1, count_include_pad=False),
    "adaptive max": lambda x: ops.adaptive_max_pool(x, (2, 3)),
    "adaptive mean": lambda x: ops.adaptive_avg_pool(x, (2, 3)),
    "blocks": lambda x: ops.max_pool(x[:, :4], 4),
    "rounded up": lambda x: ops.avg_pool(x, 4, 3, ceil_mode=True),
    "global max": lambda x: ops.adaptive_max_pool(x, 1),
}
every_pool = pytest.mark.parametrize("pool", POOLS.values(), ids=POOLS)


@every_pool
def test_derivatives_are_right_to_the_second_order(pool):
    check_grads(lambda x: pool(x) * pool(x), distinct(2, 5, 4, 2))


@every_pool
def test_order_of_axes_in_memory_does_not_matter(pool):
    x = distinct(2, 5, 4, 3)
    first = tensor(np.ascontiguousarray(x.numpy().transpose(0, 3, 1, 2)))  # channels first
    np.testing.assert_array_equal(pool(first.permute((0, 2, 3, 1))).numpy(), pool(x).numpy())


@every_pool
def test_lazy_pooling_knows_its_shape_and_gives_the_same(pool):
    x = distinct(2, 5, 4, 3)
    expected = pool(x).numpy()
    with ndl.lazy():
        y = pool(x)
        assert y.shape == expected.shape
        np.testing.assert_array_equal(y.numpy(), expected)


@every_pool
def test_an_empty_batch_stays_empty(pool):
    x = tensor(np.zeros((0, 5, 4, 3)))
    y = pool(x)
    assert y.shape[0] == 0
    y.sum().backward()
    assert x.grad.shape == x.shape


# -- bad input ---------------------------------------------------------------------------------


@pytest.mark.parametrize("pool", [ops.adaptive_avg_pool, ops.adaptive_max_pool])
@pytest.mark.parametrize(
    ("shape", "size", "error", "message"),
    [
        ((4, 3), 1, ShapeError, r"expected x \[N, \*spatial, C\], got float64\[4,3\]"),
        ((2, 0, 3), 1, ShapeError, r"expected pictures of 1 place or more, got float64\[2,0,3\]"),
        ((2, 4, 3), 0, OptionError, "expected size of 1 or more, an int, got 0"),
        ((2, 4, 4, 3), (2, 2, 2), OptionError, r"an int or 2 of them, got \(2, 2, 2\)"),
        ((2, 4, 4, 3), "half", OptionError, "an int or 2 of them, got 'half'"),
    ],
)
def test_adaptive_pooling_says_what_it_expects(pool, shape, size, error, message):
    with pytest.raises(error, match=f"{pool.__name__}: .*{message}"):
        pool(tensor(np.zeros(shape)), size)


@pytest.mark.parametrize("given", [np.zeros((1, 4, 3)), [1.0]], ids=["array", "list"])
@pytest.mark.parametrize(
    "pool", [ops.max_pool, ops.avg_pool, ops.adaptive_avg_pool, ops.adaptive_max_pool]
)
def test_pooling_takes_tensors_only(pool, given):
    with pytest.raises(DTypeError, match=f"{pool.__name__}: expected Tensors, got"):
        pool(given, 2)


def test_pictures_without_places_are_refused():
    with pytest.raises(ShapeError, match="max_pool: expected a kernel that fits"):
        ops.max_pool(tensor(np.zeros((1, 0, 3))), 2, padding=1)

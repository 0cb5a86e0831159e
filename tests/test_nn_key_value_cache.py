"""What attention remembers of earlier tokens: the same numbers, and rows that stay as they are."""

from __future__ import annotations

import copy

import numpy as np
import pytest
from tensors import tensor

import needle as ndl
from needle import nn
from needle.errors import DeviceError, DTypeError, ShapeError
from needle.nn import key_value_cache

pytestmark = pytest.mark.usefixtures("each_device", "each_size")


@pytest.fixture(params=["large", "small"])
def each_size(request, monkeypatch):
    """Small arrays are put together anew; large ones, here all, have room for more rows."""
    if request.param == "large":
        monkeypatch.setattr(key_value_cache, "_WORTH_A_ROOM", 0)


def drawn(*shape, seed=0):
    return tensor(np.random.RandomState(seed).randn(*shape))


def attention(*args, **options):
    return nn.Attention(*args, dtype="float64", device=drawn(1).device, **options)


def row(number, length=1):
    return tensor(np.full((2, 1, length, 3), float(number)), requires_grad=False)


def numbers(keys):
    """What `row` was called with, row by row."""
    return keys.numpy()[0, 0, :, 0].tolist()


def filled(length):
    cache = nn.KeyValueCache()
    for number in range(length):
        cache.append(row(number), row(-number))
    return cache


# -- in attention ------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"kv_heads": 1}, {"rotary": nn.RotaryEmbedding(4)}])
@pytest.mark.parametrize("pieces", [[1] * 6, [4, 1, 1], [2, 4], [6]])
def test_attention_with_a_cache_gives_the_same_numbers(options, pieces):
    layer, x = attention(8, 2, **options), drawn(3, 6, 8)
    expected = layer(x, causal=True).numpy()
    cache, start = nn.KeyValueCache(), 0
    with ndl.no_grad():
        for length in pieces:
            y = layer(x[:, start : start + length], cache=cache, causal=True).numpy()
            np.testing.assert_allclose(y, expected[:, start : start + length], rtol=1e-10)
            start += length
            assert cache.length == start


def test_cache_can_be_differentiated_through():
    layer, x, cache = attention(4, 2), drawn(2, 3, 4), nn.KeyValueCache()
    (expected,) = ndl.grad([layer(x, causal=True).sum()], [x])
    parts = [layer(x[:, t : t + 1], cache=cache, causal=True) for t in range(3)]
    (found,) = ndl.grad([ndl.concatenate(parts, 1).sum()], [x])
    np.testing.assert_allclose(found.numpy(), expected.numpy(), rtol=1e-10, atol=1e-12)


def test_cache_starts_anew_after_reset_and_refuses_another_batch():
    layer, cache = attention(8, 2), nn.KeyValueCache()
    layer(drawn(3, 2, 8), cache=cache)
    assert repr(cache) == "KeyValueCache(length=2)"
    assert cache.keys.shape == cache.values.shape == (3, 2, 2, 4)
    with pytest.raises(ShapeError, match=r"continues float64\[3,2,2,4\], got .* Use reset\(\)"):
        layer(drawn(2, 1, 8), cache=cache)
    cache.reset()
    assert cache.length == 0
    layer(drawn(2, 1, 8), cache=cache)
    assert cache.length == 1


def test_failed_call_leaves_the_cache_as_it_was():
    layer, cache, x = attention(8, 2), nn.KeyValueCache(), drawn(2, 3, 8)
    layer(x, cache=cache)
    before = cache.keys
    with pytest.raises(DTypeError, match="zeros and ones"):
        layer(x, cache=cache, causal=True, mask=np.eye(3, 6))
    assert cache.keys is before and cache.length == 3


def test_keys_and_values_that_do_not_fit_each_other_are_refused():
    message = (
        r"KeyValueCache: expected keys and values .* got float64\[1,2,3,4\] and float64\[1,2,5"
    )
    for cache in (nn.KeyValueCache(), nn.KeyValueCache()):
        with pytest.raises(ShapeError, match=message):
            cache.append(drawn(1, 2, 3, 4), drawn(1, 2, 5, 4))
        assert cache.length == 0
        cache.append(drawn(1, 2, 3, 4), drawn(1, 2, 3, 6))
    with pytest.raises(ShapeError, match=r"expected keys and values \[..., t, d\]"):
        cache.append(drawn(4), drawn(4))


# -- what it holds -----------------------------------------------------------------------------


def test_what_was_handed_out_stays_as_it_was():
    cache, handed_out = nn.KeyValueCache(), []
    for number in range(40):
        handed_out.append(cache.append(row(number), row(-number)))
    for length, (keys, values) in enumerate(handed_out, start=1):
        assert numbers(keys) == list(range(length))
        assert numbers(values) == [-number for number in range(length)]


@pytest.mark.parametrize("length", [3, 4])
def test_cache_that_goes_on_from_an_earlier_length_writes_over_nothing(length):
    cache = filled(4)
    earlier = cache.keys[:, :, :length], cache.values[:, :, :length]
    later = cache.append(row(4, 2), row(4, 2))
    cache.keys, cache.values = earlier
    cache.append(row(7), row(8))
    assert numbers(cache.keys) == [*range(length), 7]
    assert numbers(cache.values) == [*range(0, -length, -1), 8]
    assert numbers(later[0]) == [0, 1, 2, 3, 4, 4]
    assert numbers(later[1]) == [0, -1, -2, -3, 4, 4]


def test_cache_goes_on_after_a_failure_from_where_it_was():
    cache = filled(5)
    with pytest.raises(ZeroDivisionError), key_value_cache.restored_on_failure([cache]):
        failed, _ = cache.append(row(9), row(9))
        raise ZeroDivisionError
    cache.append(row(5), row(-5))
    assert numbers(cache.keys) == [0, 1, 2, 3, 4, 5]
    assert numbers(cache.values) == [0, -1, -2, -3, -4, -5]
    assert numbers(failed) == [0, 1, 2, 3, 4, 9]


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy])
def test_copies_of_a_cache_go_ways_of_their_own(copied):
    cache = filled(5)
    other = copied(cache)
    for number in (5, 6, 7):
        cache.append(row(number), row(number))
        other.append(row(-number), row(-number))
    assert numbers(cache.keys) == [0, 1, 2, 3, 4, 5, 6, 7]
    assert numbers(other.keys) == [0, 1, 2, 3, 4, -5, -6, -7]
    assert numbers(other.values) == [0, -1, -2, -3, -4, -5, -6, -7]


def test_rows_stay_where_they_are_until_the_room_is_full(monkeypatch):
    monkeypatch.setattr(key_value_cache, "_WORTH_A_ROOM", 0)
    cache, moved = filled(2), []
    for length in range(2, 70):
        before = np.asarray(cache.keys.cached_data)
        cache.append(row(length), row(length))
        if not np.shares_memory(before, np.asarray(cache.keys.cached_data)):
            moved.append(length)
    assert moved == [4, 8, 16, 32, 64]


def test_keys_with_a_graph_and_without_one_follow_each_other():
    cache, x = filled(3), drawn(2, 1, 1, 3)
    cache.append(x, x)
    assert cache.keys.requires_grad
    (found,) = ndl.grad([(cache.keys * 2).sum()], [x])
    np.testing.assert_array_equal(found.numpy(), np.full(x.shape, 2.0))
    with ndl.no_grad():
        keys, _ = cache.append(row(5), row(5))
    assert not keys.requires_grad
    np.testing.assert_array_equal(keys[:, :, 3].numpy(), x[:, :, 0].numpy())
    assert numbers(keys)[4] == 5


def test_lazy_keys_are_put_together_when_they_are_asked_for():
    with ndl.lazy(), ndl.no_grad():
        cache = filled(3)
        keys, _ = cache.append(row(1) + row(2), row(0))
        assert keys.cached_data is None and keys.shape == (2, 1, 4, 3)
    cache.append(row(9), row(9))
    assert numbers(cache.keys) == [0, 1, 2, 3, 9]


@pytest.mark.parametrize("lengths", [(0, 1, 2), (2, 0, 3), (0, 0, 1)])
def test_pieces_may_be_empty(lengths):
    cache = nn.KeyValueCache()
    for number, length in enumerate(lengths):
        cache.append(row(number, length), row(number, length))
    assert numbers(cache.keys) == np.repeat(range(3), lengths).tolist()


@pytest.mark.nd_mode
def test_cache_of_arrays_that_have_no_values():
    from needle.backend_ndarray.ndarray_backend_trace import trace

    x, cache = ndl.init.ones(2, 1, 3, device=trace(ndl.cpu())), nn.KeyValueCache()
    for length in range(1, 6):
        assert cache.append(x, x)[0].shape == (2, length, 3)


@pytest.mark.nd_mode
def test_keys_on_another_device_are_refused():
    cache = filled(2)
    (other,) = {ndl.cpu(), ndl.cpu_numpy()} - {cache.keys.device}
    with pytest.raises(DeviceError, match="concatenate: expected"):
        cache.append(row(2).to(other), row(2).to(other))
    assert cache.length == 2

"""Contract, sections 9.1 and 9.3: NDArrays and the functions on them, on every device."""

from __future__ import annotations

import math
import operator
from typing import Any

import numpy as np
import pytest
from ndarray.side_by_side import each_device

import needle.backend_ndarray as nd
from needle.errors import DeviceError, DTypeError, ShapeError


def normal(*shape: int) -> np.ndarray:
    return np.random.randn(*shape).astype(np.float32)


def pair(device: nd.BackendDevice, *shape: int) -> tuple[nd.NDArray, np.ndarray]:
    array = normal(*shape)
    return nd.array(array, device=device), array


def close(x: nd.NDArray, expected: Any, tolerance: float = 1e-5) -> None:
    assert isinstance(x, nd.NDArray)
    assert x.dtype == "float32"
    np.testing.assert_allclose(x.numpy(), expected, rtol=tolerance, atol=tolerance)


def numpy_strides(array: np.ndarray) -> tuple[int, ...]:
    return tuple(step // array.itemsize for step in array.strides)


# -- 9.1 module functions --------------------------------------------------------------------------


def test_the_module_has_its_devices():
    assert nd.cpu().enabled() is True
    assert nd.cpu_numpy().enabled() is True
    assert nd.cuda().enabled() is False
    assert nd.default_device() == nd.cpu()
    assert {nd.cpu(), nd.cuda(), nd.cpu_numpy()} <= set(nd.all_devices())


@each_device
def test_arrays_are_made_by_functions_of_the_module(device):
    x = nd.array([[1, 2], [3, 4]], dtype="float32", device=device)
    close(x, [[1, 2], [3, 4]])
    assert nd.array([1, 2], dtype=None, device=device).dtype == "float32"
    assert nd.empty((2, 3), dtype="float32", device=device).shape == (2, 3)
    close(nd.full((2, 3), 1.5, device=device), np.full((2, 3), 1.5))
    assert nd.array([1]).device == nd.default_device()


@each_device
def test_functions_of_the_module_are_the_methods(device):
    x, array = pair(device, 3, 1)
    close(nd.broadcast_to(x, (3, 4)), np.broadcast_to(array, (3, 4)))
    close(nd.reshape(x, (1, 3)), array.reshape(1, 3))
    close(nd.maximum(x, 0.1), np.maximum(array, np.float32(0.1)))
    close(nd.maximum(x, x * 2), np.maximum(array, array * 2))
    close(nd.log(nd.exp(x)), array)
    close(nd.tanh(x), np.tanh(array))
    close(nd.sum(x, 0), array.sum(0))
    close(nd.flip(x, (0,)), np.flip(array, 0))


@each_device
def test_other_dtypes_are_refused_with_a_list(device):
    with pytest.raises(DTypeError, match=r"expected one of float16, .*float32.*, got complex64"):
        nd.array([1], dtype="complex64", device=device)


# -- 9.3 what an array is --------------------------------------------------------------------------


@each_device
def test_fields_are_tuples_of_ints_and_strides_count_elements(device):
    x = nd.array(np.zeros((2, 3, 4)), device=device)
    assert x._shape == x.shape == (2, 3, 4)
    assert x._strides == x.strides == (12, 4, 1)
    assert type(x._strides) is tuple and all(type(step) is int for step in x._strides)
    assert x._offset == 0 and x[1:]._offset == 12
    assert x._device == x.device == device
    assert x._handle.size == 24 and x._handle.ptr() == x.T._handle.ptr()
    assert (x.ndim, x.size, x.dtype) == (3, 24, "float32")


@each_device
@pytest.mark.parametrize("source", [
    np.arange(6, dtype="int64").reshape(2, 3), np.arange(6.0).reshape(3, 2).T,
    np.arange(12, dtype="uint8").reshape(2, 6)[:, ::-2], [[0, 1, 2], [3, 4, 5]], 3.5, [True],
])  # fmt: skip
def test_an_array_is_a_float32_copy_of_anything(device, source):
    x = nd.NDArray(source, device=device)
    close(x, np.array(source, dtype=np.float32), 0)
    assert x.device == device and x.is_compact()


@each_device
def test_an_array_of_an_array_is_a_copy_moved_if_asked(device):
    x, array = pair(device, 2, 3)
    for other in (nd.cpu(), nd.cpu_numpy()):
        y = nd.NDArray(x, device=other)
        close(y, array, 0)
        assert y.device == other
        y.fill(0)
    same = nd.NDArray(x)
    assert same.device == device and same._handle.ptr() != x._handle.ptr()
    close(x, array, 0)


@each_device
def test_make_allocates_or_takes_a_handle(device):
    x = nd.NDArray.make((2, 3), device=device)
    assert x.shape == (2, 3) and x.strides == (3, 1) and x._handle.size == 6
    x.fill(2.0)
    y = nd.NDArray.make((3,), strides=(2,), device=device, handle=x._handle, offset=1)
    assert (y.strides, y._offset, y._handle.ptr()) == ((2,), 1, x._handle.ptr())
    y[...] = 5
    close(x, [[2, 5, 2], [5, 2, 5]])
    whole = nd.NDArray.make((6,), device=device, handle=x._handle)
    close(whole, [2, 5, 2, 5, 2, 5])
    for bad in ({"offset": 1}, {"offset": -1}, {"strides": (2,)}):
        with pytest.raises(IndexError):
            nd.NDArray.make((6,), device=device, handle=x._handle, **bad)
    assert nd.NDArray.compact_strides((2, 3, 4)) == (12, 4, 1)


@each_device
def test_flat_writes_through(device):
    for x in (nd.ones((2, 3), device=device), nd.ones((3, 2), device=device).permute((1, 0))):
        assert x.flat[4].numpy().size == 1
        for j in range(x.size):
            x.flat[j] += 0.5
            x.flat[j] = x.flat[j] * 2
            x.flat[j] -= 1.0
        x.flat[0] = 7.0
        close(x, [[7, 2, 2], [2, 2, 2]])


@each_device
def test_fill_to_numpy_and_compact(device):
    x, array = pair(device, 3, 4)
    copy = x.numpy()
    x.fill(1.0)
    close(x, np.ones((3, 4)))
    np.testing.assert_array_equal(copy, array)
    assert x.to(device) is x
    assert x.to(nd.cpu_numpy()).device == nd.cpu_numpy()
    assert x.is_compact() and x.compact()._handle.ptr() == x._handle.ptr()
    for view in (x.permute((1, 0)), x[1:], x.broadcast_to((2, 3, 4))):
        assert not view.is_compact()
        assert view.compact().is_compact()
        assert view.compact()._handle.ptr() != x._handle.ptr()
    close(x.as_strided((2, 2), (4, 1)), np.ones((2, 2)))


VIEWS = [
    ("reshape", (4, 6), lambda x: x.reshape((8, 3)), lambda a: a.reshape(8, 3)),
    ("reshape to more", (8, 8), lambda x: x.reshape((2, 4, 8)), lambda a: a.reshape(2, 4, 8)),
    ("reshape -1", (4, 6), lambda x: x.reshape((-1, 3)), lambda a: a.reshape(-1, 3)),
    ("permute", (2, 3, 4), lambda x: x.permute((2, 0, 1)), lambda a: a.transpose(2, 0, 1)),
    ("broadcast", (4, 1, 4), lambda x: x.broadcast_to((4, 5, 4)),
     lambda a: np.broadcast_to(a, (4, 5, 4))),
    ("broadcast in front", (1, 3), lambda x: x.broadcast_to((6, 6, 3)),
     lambda a: np.broadcast_to(a, (6, 6, 3))),
    ("slices", (7, 8), lambda x: x[1:5:2, 3:], lambda a: a[1:5:2, 3:]),
    ("int", (7, 8), lambda x: x[1, 3:], lambda a: a[1:2, 3:]),
    ("negative int", (7, 8), lambda x: x[:, -1], lambda a: a[:, -1:]),
    ("negative start", (7, 8), lambda x: x[-3:, -5:-1], lambda a: a[-3:, -5:-1]),
    ("slices of permuted", (7, 8), lambda x: x.permute((1, 0))[3:7, 2:5],
     lambda a: a.transpose(1, 0)[3:7, 2:5]),
    ("slices of a reshape", (6, 6), lambda x: x.reshape((2, 3, 6))[1:2, ::2, 1:],
     lambda a: a.reshape(2, 3, 6)[1:2, ::2, 1:]),
    ("whole", (5, 5), lambda x: x[:, :], lambda a: a[:, :]),
]  # fmt: skip


@each_device
@pytest.mark.parametrize(("shape", "view", "numpy_view"), [row[1:] for row in VIEWS],
                         ids=[row[0] for row in VIEWS])  # fmt: skip
def test_views_do_not_copy_and_have_numpys_strides(device, shape, view, numpy_view):
    x, array = pair(device, *shape)
    y, expected = view(x), numpy_view(array)
    close(y, expected, 0)
    assert y._handle.ptr() == x._handle.ptr()
    assert y.shape == expected.shape
    assert y.strides == numpy_strides(expected)


@each_device
def test_bad_views_are_refused(device):
    x = nd.ones((4, 4), device=device)
    with pytest.raises(ValueError):
        x.reshape((3, 5))
    for act in (lambda: x.broadcast_to((4, 5)), lambda: x.broadcast_to((4,))):
        with pytest.raises(ValueError):
            act()
    for act in (lambda: x[0, 0, 0], lambda: x[4], lambda: x[::0]):
        with pytest.raises((IndexError, ValueError)):
            act()


class Recorder(nd.NDArray):
    """A subclass that overrides indexing only."""

    def __getitem__(self, key):
        if not isinstance(key, tuple):
            key = (key,)
        return tuple(self.process_slice(part, axis) for axis, part in enumerate(key)), self.shape


@each_device
def test_process_slice_serves_a_subclass(device):
    x = Recorder(np.zeros((10, 5)), device=device)
    assert x[:, 1:3] == ((slice(0, 10, 1), slice(1, 3, 1)), (10, 5))
    assert x[2::3, :] == ((slice(2, 10, 3), slice(0, 5, 1)), (10, 5))
    assert x[-4:-1] == ((slice(6, 9, 1),), (10, 5))
    assert x[:100] == ((slice(0, 10, 1),), (10, 5))


@each_device
def test_arrays_of_seven_axes_are_compacted(device):
    x, array = pair(device, 2, 1, 3, 2, 2, 3, 2)
    axes = (6, 2, 0, 4, 1, 5, 3)
    compact = x.permute(axes).compact()
    close(compact, array.transpose(axes), 0)
    assert compact.is_compact() and compact.strides == compact.compact_strides(compact.shape)
    close(x[:, :, ::2, 1:, :, 1::1].compact(), array[:, :, ::2, 1:, :, 1::1], 0)


WRITES = [
    ((7, 7, 7), (slice(1, 4), slice(2, 6, 2), 3), (slice(1, 4), slice(2, 6, 2), slice(3, 4))),
    ((4, 5, 6), (slice(1, 2), 0, 0), (slice(1, 2), slice(0, 1), slice(0, 1))),
    ((6, 6), (slice(None, None, 3), slice(-4, None)), (slice(None, None, 3), slice(-4, None))),
    ((5,), (slice(None),), (slice(None),)),
]


@each_device
@pytest.mark.parametrize(("shape", "key", "numpy_key"), WRITES, ids=str)
def test_setitem_keeps_the_address_and_strides(device, shape, key, numpy_key):
    x, array = pair(device, *shape)
    before = (x._handle.ptr(), x.strides, x._offset)
    value = normal(*array[numpy_key].shape)
    x[key] = nd.array(value, device=device)
    array[numpy_key] = value
    close(x, array, 0)
    reversed_axes = tuple(range(value.ndim))[::-1]
    x[key] = nd.array(value.transpose(), device=device).permute(reversed_axes)
    close(x, array, 0)
    x[key] = 2.5
    array[numpy_key] = 2.5
    close(x, array, 0)
    assert before == (x._handle.ptr(), x.strides, x._offset)


@each_device
def test_setitem_takes_as_many_elements_and_no_other_number(device):
    x = nd.zeros((4, 4), device=device)
    x[1:3, 1:3] = nd.array([1, 2, 3, 4], device=device)
    close(x[1:3, 1:3], [[1, 2], [3, 4]])
    with pytest.raises(ShapeError, match=r"float32\[2,2\], got float32\[3\]"):
        x[1:3, 1:3] = nd.ones((3,), device=device)


# -- 9.3 what arrays compute -----------------------------------------------------------------------

BINARY = [operator.add, operator.sub, operator.mul, operator.truediv]
COMPARISONS = [operator.eq, operator.ne, operator.ge, operator.gt, operator.le, operator.lt]


@each_device
@pytest.mark.parametrize("act", BINARY, ids=lambda act: act.__name__)
def test_arithmetic_of_arrays_numbers_and_views(device, act):
    (x, a), (y, b) = pair(device, 4, 5), pair(device, 5, 4)
    close(act(x, x[::1]), act(a, a))
    close(act(x, y.permute((1, 0))), act(a, b.T))
    close(act(x, 1.5), act(a, np.float32(1.5)))
    close(act(x.broadcast_to((2, 4, 5)), 2), act(np.broadcast_to(a, (2, 4, 5)), np.float32(2)))
    with pytest.raises(ShapeError, match=r"float32\[4,5\] and float32\[5,4\]"):
        act(x, y)


@each_device
def test_reflected_unary_and_powers(device):
    x, a = pair(device, 4, 5)
    close(2 + x, 2 + a)
    close(2 - x, 2 - a)
    close(2 * x, 2 * a)
    close(-x, -a)
    close(abs(x) ** 0.5, np.abs(a) ** np.float32(0.5))
    close(x**2, a**2)
    close(x.maximum(0.2), np.maximum(a, np.float32(0.2)))
    close(x.maximum(-x), np.abs(a))
    with np.errstate(invalid="ignore"):
        close(x**0.5, a ** np.float32(0.5))
    close((x * x).log(), np.log(a * a), 1e-4)
    close(x.exp(), np.exp(a))
    close(x.tanh(), np.tanh(a))


@each_device
@pytest.mark.parametrize("act", COMPARISONS, ids=lambda act: act.__name__)
def test_comparisons_are_zeros_and_ones(device, act):
    (x, a), (y, b) = pair(device, 4, 5), pair(device, 4, 5)
    y[::2] = x[::2]
    b[::2] = a[::2]
    for got, expected in [(act(x, y), act(a, b)), (act(x, 0.1), act(a, np.float32(0.1)))]:
        np.testing.assert_allclose(got.numpy(), expected.astype("float32"), rtol=1e-5, atol=1e-5)
        assert set(np.unique(got.numpy())) <= {0.0, 1.0}
    third = nd.array([0.1, 0.2], device=device)
    assert (third == 0.1).numpy().tolist() == [1.0, 0.0]  # 0.1 rounded to float32


@each_device
@pytest.mark.parametrize(("m", "n", "p"), [
    (1, 1, 1), (1, 2, 3), (8, 8, 8), (16, 16, 16), (16, 16, 32), (64, 64, 64), (72, 72, 72),
    (72, 73, 74), (74, 73, 72), (128, 128, 128), (5, 1, 7), (0, 3, 2), (3, 0, 2),
])  # fmt: skip
def test_matmul_of_any_size(device, m, n, p):
    (x, a), (y, b) = pair(device, m, n), pair(device, n, p)
    close(x @ y, a @ b, 1e-4)
    close(y.permute((1, 0)) @ x.permute((1, 0)), b.T @ a.T, 1e-4)


@each_device
def test_matmul_refuses_what_does_not_fit(device):
    with pytest.raises(ShapeError, match=r"^matmul: .*float32\[2,3\] and float32\[2,3\]"):
        nd.ones((2, 3), device=device) @ nd.ones((2, 3), device=device)


@each_device
@pytest.mark.parametrize("name", ["sum", "max"])
@pytest.mark.parametrize("axis", [None, 0, 1, 2, -1, (1,), (0, 2), (-1, 0), (0, 1, 2)], ids=str)
@pytest.mark.parametrize("keepdims", [False, True])
def test_sum_and_max_over_axes(device, name, axis, keepdims):
    x, a = pair(device, 4, 5, 3)
    expected = getattr(a, name)(axis=axis, keepdims=keepdims)
    close(getattr(x, name)(axis=axis, keepdims=keepdims), expected)
    swapped = getattr(a.transpose(2, 0, 1), name)(axis=axis, keepdims=keepdims)
    close(getattr(x.permute((2, 0, 1)), name)(axis=axis, keepdims=keepdims), swapped)


@each_device
def test_sum_over_everything_compares_with_a_row_of_one(device):
    x, a = pair(device, 4, 5)
    np.testing.assert_allclose(x.sum().numpy(), a.sum(keepdims=True).reshape(1), rtol=1e-5)
    np.testing.assert_allclose(x.max(axis=None).numpy(), a.max(), rtol=1e-5)


@each_device
@pytest.mark.parametrize(("shape", "axes"), [
    ((10, 5), (0,)), ((10, 5), (1,)), ((10, 5), (0, 1)), ((3, 3, 6, 8), (0, 1)),
    ((3, 3, 6, 8), (1, 3)), ((2, 5, 1), (2,)), ((4,), (0,)),
])  # fmt: skip
def test_flip_is_a_compact_copy(device, shape, axes):
    x, a = pair(device, *shape)
    flipped = x.flip(axes)
    close(flipped, np.flip(a, axes), 0)
    assert flipped.is_compact() and flipped.strides == nd.NDArray.compact_strides(shape)
    assert flipped._handle.ptr() != x._handle.ptr()
    close(x, a, 0)


@each_device
@pytest.mark.parametrize("axes", [((0, 0), (1, 1)), ((2, 0), (0, 3)), ((0, 0), (0, 0))])
def test_pad_is_a_new_array_with_zeros_around(device, axes):
    x, a = pair(device, 4, 3)
    padded = x.pad(axes)
    close(padded, np.pad(a, axes), 0)
    assert padded._handle.ptr() != x._handle.ptr()
    close(x, a, 0)


def test_arrays_on_two_devices_do_not_mix():
    x, y = nd.ones((2, 2), device=nd.cpu()), nd.ones((2, 2), device=nd.cpu_numpy())
    acts: list[Any] = [*BINARY, *COMPARISONS, operator.matmul, nd.maximum]
    for act in [*acts, lambda a, b: operator.setitem(a, 0, b[0]), lambda a, b: nd.stack([a, b])]:
        with pytest.raises(DeviceError, match=r"cpu\(\) and cpu_numpy\(\)\. Use to\(device\)"):
            act(x, y)


@each_device
def test_zero_size_and_0d_arrays_are_arrays(device):
    empty = nd.array(np.zeros((0, 3)), device=device)
    assert (empty + 1).shape == (0, 3) and empty.sum().numpy() == 0
    close(empty.sum(0), np.zeros(3))
    assert empty.reshape((3, 0)).is_compact() and (empty.T @ empty).numpy().sum() == 0
    point = nd.array(2.0, device=device)
    assert point.shape == () and math.isclose((point * 3).numpy(), 6)

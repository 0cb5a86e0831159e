"""Contract, section 9.2: devices, and the raw functions on flat buffers that they supply."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from ndarray.side_by_side import each_device

import needle.backend_ndarray as nd
from needle.backend_ndarray.devices import trace
from needle.errors import DeviceError, ShapeError


def normal(*shape: int) -> np.ndarray:
    return np.random.randn(*shape).astype(np.float32)


def test_devices_are_equal_by_name_and_print_it():
    for device, name in [(nd.cpu(), "cpu"), (nd.cuda(), "cuda"), (nd.cpu_numpy(), "cpu_numpy")]:
        assert isinstance(device, nd.BackendDevice)
        assert device.name == name
        assert repr(device) == f"{name}()"
        assert str(device) == f"{name}()"
    assert nd.cpu() == nd.cpu() and hash(nd.cpu()) == hash(nd.cpu())
    assert nd.cpu() != nd.cpu_numpy() and nd.cpu() != nd.cuda() and nd.cpu() != "cpu"


@each_device
def test_devices_draw_from_numpys_stream(device):
    np.random.seed(3)
    uniform, normals = np.random.rand(2, 3), np.random.randn(4)
    np.random.seed(3)
    assert (device.rand(2, 3, dtype="float32").numpy() == uniform.astype(np.float32)).all()
    assert (device.randn(4).numpy() == normals.astype(np.float32)).all()


@each_device
def test_devices_make_arrays(device):
    assert device.one_hot(3, np.array([2, 0])).tolist() == [[0, 0, 1], [1, 0, 0]]
    assert device.empty((2, 2), dtype="float32").device == device
    assert device.full((2,), 3.0).tolist() == [3, 3]


def test_a_device_that_is_absent_says_so_when_used():
    for use in (
        lambda: nd.array([1, 2], device=nd.cuda()),
        lambda: nd.ones((2,), device=nd.cuda()),
        lambda: nd.NDArray([1.0], device=nd.cuda()),
        lambda: nd.ones((2,)).to(nd.cuda()),
        lambda: nd.cuda().rand(2),
        lambda: nd.cuda().empty((2,)),
    ):
        with pytest.raises(DeviceError, match=r"^cuda\(\): expected a device that is enabled"):
            use()


@each_device
def test_a_device_refuses_attributes_it_does_not_have(device):
    with pytest.raises(AttributeError, match="no_such_function"):
        _ = device.no_such_function
    assert not hasattr(nd.cuda(), "ewise_add")


def raw(device, array) -> Any:
    out = device.Array(array.size)
    device.from_numpy(np.ascontiguousarray(array), out)
    return out


def flat(device, a) -> np.ndarray:
    return device.to_numpy(a, (a.size,), (1,), 0)


@each_device
def test_raw_buffers_have_a_size_and_an_address(device):
    a = device.Array(6)
    assert a.size == 6
    assert isinstance(a.ptr(), int) and a.ptr() != 0
    assert device.Array(6).ptr() != a.ptr()
    device.fill(a, 1.5)
    assert flat(device, a).tolist() == [1.5] * 6
    assert flat(device, a).dtype == np.float32


@each_device
def test_raw_buffers_are_refused_where_a_view_would_leave_them(device):
    a = device.Array(6)
    for shape, strides, offset in [((7,), (1,), 0), ((2, 3), (3, 1), 1), ((2,), (-1,), 0)]:
        with pytest.raises(IndexError, match="within the memory's 6 elements"):
            device.to_numpy(a, shape, strides, offset)
    with pytest.raises(MemoryError):
        device.Array(1 << 45)
    with pytest.raises(ValueError, match="extents of 0 or more"):
        device.Array(-1)


@each_device
def test_raw_functions_refuse_buffers_of_other_sizes(device):
    two, three, six = device.Array(2), device.Array(3), device.Array(6)
    for act, message in [
        (lambda: device.ewise_add(two, three, three), "ewise_add: expected 3 elements in a, got 2"),
        (lambda: device.ewise_add(three, two, three), "ewise_add: expected 3 elements in b, got 2"),
        (lambda: device.scalar_mul(two, 2.0, three), "scalar_mul: expected 3 elements in a, got 2"),
        (lambda: device.ewise_exp(two, three), "ewise_exp: expected 3 elements in a, got 2"),
        (lambda: device.from_numpy(np.ones(2), three), "from_numpy: expected 2 elements in out"),
        (lambda: device.compact(six, two, (3,), (1,), 0), "compact: expected 3 elements in out"),
        (lambda: device.ewise_setitem(two, six, (3,), (1,), 0), "ewise_setitem: expected 3 elem"),
        (lambda: device.scalar_setitem(2, 1.0, six, (3,), (1,), 0), "scalar_setitem: expected a v"),
        (
            lambda: device.matmul(six, six, six, 2, 3, 2),
            "matmul: expected 4 elements in out, got 6",
        ),
        (lambda: device.reduce_sum(six, two, 0), "reduce_sum: expected a reduce_size of 1 or more"),
        (lambda: device.reduce_max(six, two, 2), "reduce_max: expected 4 elements in a, got 6"),
    ]:
        with pytest.raises(ShapeError, match=f"^{message}"):
            act()
    with pytest.raises(IndexError, match=r"^compact: expected a view within the memory's 6"):
        device.compact(six, six, (7,), (1,), 0)


def test_a_trace_has_no_raw_functions():
    with pytest.raises(AttributeError, match=r"^trace\(cpu\(\)\) holds no elements and has no"):
        _ = trace(nd.cpu()).Array


@each_device
def test_raw_functions_are_those_of_the_module_below(device):
    assert nd.cuda().mod is None
    assert device.mod.ewise_add is device.ewise_add
    assert device.mod.Array(3).size == 3
    assert device.mod.__device_name__ == device.name


@each_device
def test_raw_buffers_are_read_and_written_by_strides(device):
    array = np.arange(12, dtype=np.float32)
    a = raw(device, array)
    assert device.to_numpy(a, (2, 3), (1, 4), 1).tolist() == [[1, 5, 9], [2, 6, 10]]
    out = device.Array(6)
    device.compact(a, out, (3, 2), (4, 2), 1)
    assert flat(device, out).tolist() == [1, 3, 5, 7, 9, 11]
    device.ewise_setitem(raw(device, np.arange(-4, 0)), a, (2, 2), (4, 1), 5)
    device.scalar_setitem(2, 7.0, a, (2,), (11,), 0)
    assert flat(device, a).tolist() == [7, 1, 2, 3, 4, -4, -3, 7, 8, -2, -1, 7]


RAW_BINARY = [("add", np.add), ("mul", np.multiply), ("div", np.divide), ("maximum", np.maximum),
              ("eq", np.equal), ("ge", np.greater_equal)]  # fmt: skip


@each_device
@pytest.mark.parametrize(("name", "function"), RAW_BINARY)
def test_raw_functions_of_two(device, name, function):
    x, y = normal(10), normal(10)
    y[::2] = x[::2]
    out = device.Array(10)
    getattr(device, f"ewise_{name}")(raw(device, x), raw(device, y), out)
    np.testing.assert_allclose(flat(device, out), function(x, y), rtol=1e-6)
    getattr(device, f"scalar_{name}")(raw(device, x), float(x[3]), out)
    np.testing.assert_allclose(flat(device, out), function(x, x[3]), rtol=1e-6)


@each_device
def test_raw_functions_of_one_and_reductions(device):
    x = np.abs(normal(12))
    out, rows = device.Array(12), device.Array(3)
    for name in ("log", "exp", "tanh"):
        getattr(device, f"ewise_{name}")(raw(device, x), out)
        np.testing.assert_allclose(flat(device, out), getattr(np, name)(x), rtol=1e-5, atol=1e-6)
    device.scalar_power(raw(device, x), 2.5, out)
    np.testing.assert_allclose(flat(device, out), x**2.5, rtol=1e-5)
    device.reduce_max(raw(device, x), rows, 4)
    np.testing.assert_allclose(flat(device, rows), x.reshape(3, 4).max(1))
    device.reduce_sum(raw(device, x), rows, 4)
    np.testing.assert_allclose(flat(device, rows), x.reshape(3, 4).sum(1), rtol=1e-6)


@each_device
def test_raw_matmul(device):
    a, b = normal(5, 7), normal(7, 3)
    out = device.Array(15)
    device.matmul(raw(device, a), raw(device, b), out, 5, 7, 3)
    np.testing.assert_allclose(flat(device, out).reshape(5, 3), a @ b, rtol=1e-5, atol=1e-5)


def tiled(array, t) -> np.ndarray:
    m, n = array.shape
    return np.ascontiguousarray(array.reshape(m // t, t, n // t, t).transpose(0, 2, 1, 3))


@pytest.mark.parametrize(("m", "n", "p"), [(1, 1, 1), (2, 3, 4), (4, 1, 2)])
def test_raw_tiled_matmul_writes_all_of_an_uninitialised_buffer(m, n, p):
    device = nd.cpu()
    assert hasattr(device, "matmul_tiled") and not hasattr(nd.cpu_numpy(), "matmul_tiled")
    t = device.__tile_size__
    assert isinstance(t, int) and device.__device_name__ == "cpu"
    a, b = normal(m * t, n * t), normal(n * t, p * t)
    out = device.Array(m * p * t * t)
    device.fill(out, np.nan)
    tiles = raw(device, tiled(a, t)), raw(device, tiled(b, t))
    device.matmul_tiled(*tiles, out, m * t, n * t, p * t)
    got = flat(device, out).reshape(m, p, t, t)
    np.testing.assert_allclose(got, tiled(a @ b, t), rtol=1e-4, atol=1e-4)

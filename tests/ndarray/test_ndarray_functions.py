"""Functions that NumPy has as well, on every device: ranges, identities, spreads, divmod."""

from __future__ import annotations

import tracemalloc
from typing import Any

import numpy as np
import pytest
from ndarray.side_by_side import BFLOAT16, each_device, require_equal

import needle.backend_ndarray as nd


@each_device
@pytest.mark.parametrize(
    "bounds", [(5,), (2, 10), (2, 10, 3), (10, 2, -3), (5, 2), (0, 9, 4), (-3,)]
)
def test_arange_is_numpys(device: nd.Device, bounds: tuple[int, ...]) -> None:
    require_equal(nd.arange(*bounds, device=device), np.arange(*bounds))
    require_equal(nd.arange(*bounds, dtype="float64", device=device), np.arange(*bounds) * 1.0)


@each_device
@pytest.mark.parametrize("bounds", [(5.5,), (0, 1, 0.25), (1.0, -1.0, -0.5), (2.5, 3.5)])
def test_arange_of_floats_is_float32(device: nd.Device, bounds: tuple[float, ...]) -> None:
    require_equal(nd.arange(*bounds, device=device), np.arange(*bounds).astype("float32"))


@each_device
@pytest.mark.parametrize("args", [(3,), (3, 4), (4, 3), (3, 4, 1), (3, 4, -2), (2, 2, 5), (0, 3)])
def test_eye_is_numpys(device: nd.Device, args: tuple[int, ...]) -> None:
    require_equal(nd.eye(*args, device=device), np.eye(*args, dtype="float32"))
    require_equal(nd.eye(*args, dtype="bool", device=device), np.eye(*args, dtype="bool"))


@each_device
@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "int8", "bool"])
@pytest.mark.parametrize("axis", [None, 0, (0, 1)])
@pytest.mark.parametrize("correction", [0, 1])
def test_spreads_are_numpys(device: nd.Device, dtype: str, axis: Any, correction: int) -> None:
    array = np.array([[1, 2, 4], [0, 7, 1]]).astype(dtype)
    x = nd.array(array, dtype, device)
    for name in ("std", "var"):
        expected = getattr(np, name)(array, axis, ddof=correction, keepdims=True)
        result = getattr(nd, name)(x, axis, keepdims=True, correction=correction)
        assert (result.dtype, result.shape) == (expected.dtype, expected.shape)
        np.testing.assert_allclose(
            result.numpy(), expected, rtol=2e-3 if dtype == "float16" else 1e-6
        )


@each_device
def test_a_variance_without_freedom_is_not_a_number(device: nd.Device) -> None:
    assert np.isnan(nd.ones((1,), device=device).var(correction=1).item())
    assert np.isnan(nd.ones((0,), device=device).std().item())


@each_device
@pytest.mark.parametrize("dtype", ["int8", "uint64", "bool", "float16", BFLOAT16], ids=str)
def test_means_add_up_in_a_wider_dtype(device: nd.Device, dtype: Any) -> None:
    x = nd.ones((1000, 3), dtype, device)
    expected = np.ones(3, "float64" if np.dtype(dtype).kind in "iub" else dtype)
    require_equal(x.mean(0), expected)
    require_equal((x.astype("int64") * 100).astype("float16").mean(0), np.full(3, 100, "float16"))


@each_device
def test_pos_divmod_and_format_are_numpys(device: nd.Device) -> None:
    array = np.array([7, -7, 5], "int32")
    x = nd.array(array, "int32", device)
    for mine, theirs in zip(divmod(x, 3), divmod(array, 3), strict=True):
        require_equal(mine, theirs)
    for mine, theirs in zip(divmod(20, x), divmod(20, array), strict=True):
        require_equal(mine, theirs)
    copy = +x
    copy[:] = 0
    require_equal(x, array)
    assert (
        f"{nd.array(2.5, device=device):.3f}" == f"{nd.array([2.5], device=device):.3f}" == "2.500"
    )
    assert f"{x}" == str(array)


@each_device
def test_flat_reads_and_writes_one_element_alone(device: nd.Device) -> None:
    x = nd.zeros((1000, 500), device=device).T
    flat = x.flat
    tracemalloc.start()
    flat[-1] = 3
    assert flat[499_999].tolist() == [3] and x[-1, -1].item() == 3
    assert tracemalloc.get_traced_memory()[1] < 1_000_000
    tracemalloc.stop()
    assert flat[1:3].tolist() == [0, 0]
    with pytest.raises(IndexError, match=r"^flat: expected an index in \[-500000, 500000\)"):
        flat[500_000]


def test_16_bit_floats_are_rounded_once_on_both_devices() -> None:
    for dtype in ("float16", "bfloat16"):
        values = np.linspace(0.1, 8, 500).astype(dtype if dtype == "float16" else BFLOAT16)
        x, y = [nd.array(values, values.dtype, device) for device in (nd.cpu(), nd.cpu_numpy())]
        for name in ("exp", "log", "sin", "tanh", "sqrt", "expm1", "log1p", "sigmoid", "erf"):
            wide = getattr(nd, name)(y.astype("float32"))
            require_equal(getattr(nd, name)(y), wide.astype(values.dtype).numpy())
            exact = (getattr(nd, name)(x) == getattr(nd, name)(y).to(nd.cpu())).mean().item()
            assert exact > 0.99  # the two differ in float32's last bit


def test_the_reference_device_makes_few_temporaries() -> None:
    x = nd.ones((1 << 20,), device=nd.cpu_numpy())
    for act, most in ((lambda: x + x, 1), (lambda: nd.exp(x), 1), (lambda: x.astype("float64"), 4),
                      (lambda: x.__setitem__(slice(None), x[::-1]), 1)):  # fmt: skip
        act()
        tracemalloc.start()
        kept = act()
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        del kept
        assert peak < (most + 0.5) * x.nbytes


@pytest.mark.parametrize("dtype", ["int32", "int64"])
def test_floats_out_of_range_become_the_nearest_integer_on_cpu(dtype: str) -> None:
    x = nd.array([1e30, -1e30, np.nan, 1.9], device=nd.cpu())
    limits = np.iinfo(dtype)
    assert x.astype(dtype).tolist() == [limits.max, limits.min, 0, 1]

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
@pytest.mark.parametrize(
    "bounds",
    [
        (2**63, 2**63 + 3),
        (2**63 + 3, 2**63 - 3, -2),
        (2**64 - 2, 2**64),
        (0, 2**64, 2**62),
        (2**63, 2**63 + 1, 2**63),
        (2**63, 0),
    ],
)
def test_arange_counts_beyond_int64(device: nd.Device, bounds: tuple[int, ...]) -> None:
    expected = np.array(range(*bounds), "uint64")
    require_equal(nd.arange(*bounds, dtype="uint64", device=device), expected)
    require_equal(
        nd.arange(*bounds, dtype="float64", device=device), np.array(range(*bounds), "float64")
    )


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


@each_device
@pytest.mark.parametrize("name", ["sum", "prod", "mean", "cumsum"])
def test_a_reduction_has_the_dtype_that_is_named(device: nd.Device, name: str) -> None:
    for source, dtype in (("int8", "int8"), ("int16", "float32"), ("float32", "float64"),
                          ("float64", "float32"), ("float32", "int32"), ("uint8", "bool"),
                          ("bool", "uint16"), ("float16", "float64")):  # fmt: skip
        array = np.array([[1, 2, 100], [0, 7, 1]]).astype(source)
        x = nd.array(array, source, device)
        for axis in (None, 1):
            expected = np.asarray(getattr(np, name)(array, axis=axis, dtype=dtype))
            require_equal(getattr(nd, name)(x, axis, dtype=dtype), expected, exact=name != "mean")


@each_device
def test_a_named_dtype_is_added_up_in(device: nd.Device) -> None:
    x = nd.full((3,), 60_000, "float16", device)
    assert x.sum().item() == np.inf
    assert x.sum(dtype="float32").item() == 180_000
    assert x.mean(dtype="float64").item() == x.mean().item() == 60_000
    require_equal(x.mean(dtype=BFLOAT16), np.asarray(60_000).astype(BFLOAT16))


@each_device
def test_letters_of_one_array_alone_are_summed_before_products(device: nd.Device) -> None:
    x = nd.ones((3000, 300), device=device)
    assert nd.einsum("ab,cd->", x, x).item() == np.float32(900_000**2)
    a, b = np.arange(6.0).reshape(2, 3), np.arange(12.0).reshape(3, 4)
    for subscripts in ("ij,kl->", "ij,kl->k", "ij,jk->", "ij,jk->j", "ij,kk->ik", "ji,ki->k"):
        left, right = a, b[:, :3] if "kk" in subscripts or "ki" in subscripts else b
        expected = np.asarray(np.einsum(subscripts, left, right))
        operands = [nd.array(each, "float64", device) for each in (left, right)]
        require_equal(nd.einsum(subscripts, *operands), expected)


@each_device
def test_an_einsum_first_multiplies_what_gives_little(device: nd.Device) -> None:
    """From the left, the first product alone would have 1e12 elements."""
    x, y = nd.ones((2**20,), device=device), nd.ones((1, 2**20), device=device)
    assert nd.einsum("i,j,i,j->", x, x, x, x).item() == 2**40
    require_equal(nd.einsum("i,kj,i,kj->k", x, y, x, y), np.full(1, 2**40, "float32"))
    rng = np.random.default_rng(0)
    shapes = ((4, 1), (3, 4, 6), (3, 6, 5))
    gates, *rest = [rng.integers(-3, 4, shape).astype("float32") for shape in shapes]
    expected = np.einsum("be,ebh,eho->bo", np.repeat(gates, 3, 1), *rest)
    operands = [nd.array(each, "float32", device) for each in (gates, *rest)]
    require_equal(nd.einsum("be,ebh,eho->bo", *operands), expected)


@each_device
def test_letters_summed_before_are_added_up_in_the_dtype_of_the_result(device: nd.Device) -> None:
    bytes_, signed = np.full((3, 200), 2, "uint8"), np.full((3,), -3, "int8")
    expected = np.einsum("ij,i->i", bytes_, signed)
    operands = [nd.array(each, each.dtype, device) for each in (bytes_, signed)]
    require_equal(nd.einsum("ij,i->i", *operands), expected)
    halves = nd.full((3, 3000), 60_000, "float16", device)
    small = nd.full((3,), 2**-12, "float16", device)
    result = nd.einsum("ij,i->i", halves, small)  # sums that are no float16
    require_equal(result, np.full(3, 60_000 * 3000 * 2.0**-12, "float16"))


@each_device
def test_an_axis_of_length_1_is_repeated_no_times_beside_an_empty_one(device: nd.Device) -> None:
    for subscripts in ("m,jm->j", "m,jm->jm", "m,jm->"):
        expected = np.einsum(subscripts, np.ones(1, "float32"), np.ones((2, 0), "float32"))
        operands = [nd.ones(shape, device=device) for shape in ((1,), (2, 0))]
        require_equal(nd.einsum(subscripts, *operands), np.asarray(expected))


@each_device
def test_an_einsum_of_one_array_is_no_view(device: nd.Device) -> None:
    x = nd.ones((2, 2), device=device)
    for subscripts in ("ij->ji", "ii->i", "ij"):
        nd.einsum(subscripts, x)[:] = 5
    assert x.tolist() == [[1, 1], [1, 1]]


@each_device
def test_joined_arrays_keep_their_order_of_axes(device: nd.Device) -> None:
    """Pictures with channels innermost stay so; a part of one channel does not decide."""
    wide, narrow = (nd.ones((2, 4, 5, n), device=device).permute((0, 3, 1, 2)) for n in (6, 1))
    for parts in ([wide, narrow], [narrow, wide, wide], [wide, wide.copy()[:, :1]]):
        joined = nd.concatenate(parts, 1)
        require_equal(joined, np.ones(joined.shape, "float32"))
        assert joined.permute((0, 2, 3, 1)).is_compact()
    assert nd.concatenate([wide, wide.copy()], 1).is_compact()
    assert nd.stack([wide[0, 0], wide[0, 0]], 0).is_compact()
    assert nd.stack([nd.ones((2, 3), device=device)] * 4, 1).is_compact()


@each_device
def test_a_copy_lies_row_after_row(device: nd.Device) -> None:
    x = nd.array([[1, 2, 3], [4, 5, 6]], "int8", device)
    copy = x.T.copy()
    require_equal(copy, x.numpy().T)
    assert copy.strides == (2, 1)
    copy[:] = 0
    assert x.tolist() == [[1, 2, 3], [4, 5, 6]]


@each_device
def test_axes_and_extents_may_stand_in_the_call_itself(device: nd.Device) -> None:
    x = nd.array([[1, 2, 3], [4, 5, 6]], device=device)
    require_equal(x.permute(1, 0), x.numpy().T)
    require_equal(x.broadcast_to(2, 2, 3), np.broadcast_to(x.numpy(), (2, 2, 3)))
    assert nd.ones((), device=device).permute().shape == ()
    assert nd.ones((), device=device).broadcast_to().shape == ()


@each_device
def test_numpys_functions_see_numpys_array(device: nd.Device) -> None:
    array = np.array([[1, 5, 3], [4, 2, 6]], "float32")
    x = nd.array(array, "float32", device)
    functions = [np.sum, np.prod, np.mean, np.std, np.var, np.max, np.min, np.argmax, np.cumsum,
                 np.all, np.any, np.sort, np.transpose, np.ravel, np.median, np.ptp]  # fmt: skip
    for function in functions:
        np.testing.assert_array_equal(function(x), function(array), strict=True)
        if function not in (np.transpose, np.ravel):
            expected = function(array, axis=0)
            np.testing.assert_array_equal(function(x, axis=0), expected, strict=True)
    assert np.sum(x, axis=1, dtype="float64", keepdims=True).tolist() == [[9], [12]]
    assert np.std(x, ddof=1) == np.std(array, ddof=1)
    assert np.concatenate([x, array]).shape == (4, 3)
    assert np.einsum("ij->i", x).tolist() == [9, 12]
    assert (np.shape(x), np.ndim(x), np.size(x), np.size(x, axis=1)) == ((2, 3), 2, 6, 3)
    np.copyto(x, 7)
    assert x.tolist() == [[7] * 3] * 2


def test_numpy_knows_the_shape_of_an_array_without_values() -> None:
    from needle.backend_ndarray.devices import trace

    x = nd.ones((2, 3), device=trace())
    assert (np.shape(x), np.ndim(x), np.size(x)) == ((2, 3), 2, 6)


@each_device
def test_the_first_products_of_an_einsum_are_of_the_dtype_of_all(device: nd.Device) -> None:
    small, one = nd.array([100] * 3, "int8", device), nd.array(1, "int32", device)
    assert nd.einsum("i,i,->", small, small, one).item() == 30_000
    half, single = nd.array([300] * 3, "float16", device), nd.array(1, device=device)
    assert nd.einsum("i,i,->", half, half, single).item() == 270_000

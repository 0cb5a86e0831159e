"""Memory shared through DLPack, and with NumPy: whose it is, and when it is given back."""

from __future__ import annotations

import gc
import importlib.util
import threading
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from ndarray.side_by_side import (
    BFLOAT16,
    DEVICES,
    Pair,
    address,
    each_device,
    each_dtype,
    numpy_address,
    pairs,
    repeats,
    require_equal,
    whole_numbers,
)

import needle.backend_ndarray as nd
from needle.errors import DeviceError, DTypeError, OptionError
from needle.runtime.call import runtime_function

VERSIONS = [None, (1, 0)]
needs_torch = pytest.mark.skipif(
    importlib.util.find_spec("torch") is None, reason="PyTorch is not installed"
)


class Producer:
    """An array of another library, which may know only some of DLPack."""

    def __init__(self, array: Any, versioned: bool = True, device: Any = (1, 0)) -> None:
        self.array, self.versioned, self.device = array, versioned, device

    def __dlpack__(self, **options: Any) -> Any:
        if options and not self.versioned:
            raise TypeError("unexpected keyword argument")
        return self.array.__dlpack__(**options)

    def __dlpack_device__(self) -> tuple[int, int]:
        return self.device


def forward(pair: Pair) -> nd.NDArray:
    """The array, compact if an axis of it is reversed: those are not exported."""
    return pair.x if min(pair.x.strides, default=0) >= 0 else pair.x.compact()


@given(pairs())
def test_numpy_sees_the_same_memory(pair: Pair) -> None:
    x = forward(pair)
    if x.dtype == BFLOAT16:
        return
    array = np.from_dlpack(x)
    require_equal(x, array)
    if x.size:
        assert numpy_address(array) == address(x)
        assert np.shares_memory(array, np.asarray(x))


@given(pairs())
def test_an_array_comes_back_as_it_went(pair: Pair) -> None:
    for versioned in (True, False):
        x = forward(pair)
        if repeats(pair) and not versioned:
            continue  # such capsules cannot say that they are read-only
        back = nd.from_dlpack(Producer(x, versioned), x.device)
        require_equal(back, x.numpy())
        if x.size and not repeats(pair):
            assert address(back) == address(x)
            steps = zip(x.shape, back.strides, x.strides, strict=True)
            assert all(n == 1 or mine == theirs for n, mine, theirs in steps)


@given(pairs())
def test_numpys_memory_is_taken_in_any_layout(pair: Pair) -> None:
    for device in DEVICES:
        x = nd.from_numpy(pair.array, device)
        pair_of_both = Pair(x, pair.array, numpy_address(pair.array), numpy_address(pair.array))
        pair_of_both.check()
        require_equal(x.compact(), pair.array)
        if pair.array.size and not repeats(pair):
            x[...] = 1
            assert (pair.array == 1).all()


@each_device
@each_dtype
@needs_torch
def test_pytorch_shares_every_dtype_both_ways(device: nd.Device, dtype: Any) -> None:
    import torch

    x = nd.array(whole_numbers((2, 3, 4), dtype), dtype, device)
    view = x.permute((2, 0, 1))[1:, :, ::2]
    tensor = torch.from_dlpack(view)
    assert str(tensor.dtype) == f"torch.{dtype.name}"
    assert tensor.data_ptr() == address(view)
    assert (tuple(tensor.shape), tensor.stride()) == (view.shape, view.strides)
    back = nd.from_dlpack(tensor, device)
    assert (back.dtype, back.shape, back.strides) == (dtype, view.shape, view.strides)
    back[...] = 1
    require_equal(view, np.ones(view.shape, dtype))
    assert bool((tensor == 1).all())


@each_device
@needs_torch
def test_pytorch_shares_points_empty_and_repeated_arrays(device: nd.Device) -> None:
    import torch

    for shape in [(), (0,), (2, 0, 3), (1, 1)]:
        tensor = torch.from_dlpack(nd.ones(shape, "bfloat16", device))
        assert tuple(tensor.shape) == shape
        assert nd.from_dlpack(tensor, device).shape == shape
    repeated = nd.from_dlpack(torch.ones(1).expand(5), device)
    assert repeated.strides == (0,) and repeated.tolist() == [1] * 5


@each_device
@pytest.mark.parametrize("version", VERSIONS)
def test_the_capsule_says_which_version_it_has(device: nd.Device, version: Any) -> None:
    capsule = nd.ones((2,), "bfloat16", device).__dlpack__(max_version=version)
    assert ('"dltensor_versioned"' if version else '"dltensor"') in repr(capsule)
    assert nd.ones((2,), device=device).__dlpack_device__() == (1, 0)


@each_device
def test_a_copy_is_made_if_it_is_asked_for(device: nd.Device) -> None:
    x = nd.array([1, 2, 3], device=device)
    assert numpy_address(np.from_dlpack(x, copy=True)) != address(x)
    assert np.from_dlpack(x[::-1], copy=True).tolist() == [3, 2, 1]
    assert address(nd.from_dlpack(x)) == address(x)
    assert address(nd.from_dlpack(x, copy=True)) != address(x)
    array = np.ones(3)
    assert address(nd.from_dlpack(array, device, copy=True)) != numpy_address(array)
    assert address(nd.from_dlpack(array, device, copy=False)) == numpy_address(array)


def test_both_devices_can_look_at_one_memory() -> None:
    x = nd.zeros((3,), "bfloat16", nd.cpu())
    other = nd.from_dlpack(x, nd.cpu_numpy())
    other[1:] = 2
    assert x.tolist() == [0, 2, 2]
    again = nd.from_dlpack(other, nd.cpu())
    assert again.device == nd.cpu() and address(again) == address(x)
    assert nd.from_dlpack(x).device == nd.cpu()


@each_device
def test_a_shared_array_computes_like_any_other(device: nd.Device) -> None:
    array = np.arange(12.0, dtype="float32").reshape(3, 4)
    x = nd.from_numpy(array[::-1, 1:], device)
    require_equal(x + 1, array[::-1, 1:] + 1)
    require_equal(x @ x.T, array[::-1, 1:] @ array[::-1, 1:].T)
    require_equal(x[[0, 2]], array[::-1, 1:][[0, 2]])
    x[0] = -1
    assert (array[2] == [8, -1, -1, -1]).all()
    assert x._handle.size == 11
    with pytest.raises(IndexError, match=r"within the memory's 11 elements"):
        x.as_strided((3, 4), (-4, 1))


# -- whose memory it is --------------------------------------------------------------------------


@pytest.fixture
def used() -> Iterator[Callable[[], int]]:
    """The bytes of native memory in use, none of them given back by a collection of cycles."""
    gc.disable()
    yield runtime_function("used")
    gc.enable()


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_capsule_nobody_takes_gives_the_memory_back(
    version: Any, dtype: str, used: Callable[[], int]
) -> None:
    before = used()
    capsule = nd.zeros((100_000,), dtype, nd.cpu()).__dlpack__(max_version=version)
    assert used() > before
    del capsule
    assert used() == before


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_last_holder_gives_the_memory_back(dtype: str, used: Callable[[], int]) -> None:
    before = used()
    first = nd.ones((100_000,), dtype, nd.cpu())
    second = nd.from_dlpack(Producer(first), nd.cpu_numpy())
    third = np.asarray(nd.from_dlpack(Producer(second), nd.cpu())[5:].reshape((-1, 5)))
    del first, second
    assert used() > before
    assert (third == 1).all()
    del third
    assert used() == before


@each_device
def test_the_producer_is_held_by_what_was_made_of_it(device: nd.Device) -> None:
    class Owned(np.ndarray):
        pass

    array = np.ones((3, 4)).view(Owned)
    gone = weakref.ref(array)
    x = nd.from_numpy(array, device)[1:].T
    del array
    assert gone() is not None and x.tolist() == [[1, 1]] * 4
    del x
    assert gone() is None


@needs_torch
def test_a_consumer_may_go_in_another_thread_or_while_an_exception_passes(
    used: Callable[[], int],
) -> None:
    import torch

    def unused(*arguments: Any) -> None: ...

    before = used()
    held = [torch.from_dlpack(nd.ones((100_000,), "bfloat16", nd.cpu()))]
    thread = threading.Thread(target=held.clear)
    thread.start()
    thread.join()
    assert used() == before
    with pytest.raises(ZeroDivisionError):
        unused(torch.from_dlpack(nd.ones((100_000,), device=nd.cpu())), 1 / 0)
    assert used() == before


# -- what is refused -----------------------------------------------------------------------------


@each_device
def test_what_may_not_be_written_to_is_copied_or_refused(device: nd.Device) -> None:
    array = np.ones(3)
    array.flags.writeable = False
    for source in (array, Producer(array)):
        x = nd.from_dlpack(source, device)
        assert not np.shares_memory(np.asarray(x), array)
        with pytest.raises(OptionError, match=r"got float64\[3\], which is read-only\. Copy it"):
            nd.from_dlpack(source, device, copy=False)
    with pytest.raises(OptionError, match=r"^from_numpy: expected memory to share, got"):
        nd.from_numpy(array, device)


@each_device
def test_what_repeats_is_exported_read_only(device: nd.Device) -> None:
    x = nd.zeros((1, 2), device=device)
    repeated = x.broadcast_to((3, 2))
    for view in (repeated, repeated[1:2]):
        assert not np.from_dlpack(view).flags.writeable
        assert np.shares_memory(np.from_dlpack(view), np.asarray(x))
        with pytest.raises(BufferError, match=r"^dlpack: expected a max_version from \(1, 0\) on"):
            view.__dlpack__()
        view.__dlpack__(copy=True)
        other = nd.cpu_numpy() if device == nd.cpu() else nd.cpu()
        assert not np.shares_memory(np.asarray(nd.from_dlpack(view, other)), np.asarray(x))
        with pytest.raises(OptionError, match=r"^from_dlpack: .* is read-only"):
            nd.from_dlpack(view, other, copy=False)
    with pytest.raises(OptionError, match=r"^setitem: expected an element of its own"):
        nd.from_dlpack(repeated)[0] = 1


@each_device
@needs_torch
def test_arrays_are_made_of_any_tensor_of_pytorch(device: nd.Device) -> None:
    import torch

    x = nd.array(torch.ones(2, requires_grad=True), device=device)
    y = nd.asarray(torch.ones(2, dtype=torch.bfloat16), device=device)
    assert (x.dtype, x.tolist()) == ("float32", [1, 1])
    assert (y.dtype, y.tolist()) == (BFLOAT16, [1, 1])
    for tensor in (torch.ones(2).to_sparse(), torch.ones(2, dtype=torch.float8_e5m2)):
        with pytest.raises(DTypeError, match=r"^array: expected numbers, got torch\..*\[2\]\. \("):
            nd.array(tensor, device=device)
    if device == nd.cpu():
        repeated = nd.from_dlpack(torch.zeros(1).expand(3))
        with pytest.raises(OptionError, match=r"^setitem: expected an element of its own"):
            repeated[0] = 1


def strange_arrays() -> list[tuple[np.ndarray, str]]:
    field = np.zeros(3, [("a", "i1"), ("b", "f4")])["b"]
    padded = np.zeros(3, [("a", "f4"), ("b", "f2")])["a"]
    return [
        (np.zeros(3, ">f4"), "is in byte order '>'"),
        (field, "does not lie at multiples of its 4 bytes"),
        (padded, "does not lie at multiples of its 4 bytes"),
    ]


@each_device
@pytest.mark.parametrize(("array", "reason"), strange_arrays(), ids=["order", "field", "padded"])
def test_memory_that_no_array_can_lie_on_is_copied_or_refused(
    device: nd.Device, array: np.ndarray, reason: str
) -> None:
    array[:] = [1, 2, 3]
    with pytest.raises(OptionError, match=reason):
        nd.from_numpy(array, device)
    assert nd.from_dlpack(array, device).tolist() == [1, 2, 3]


@each_device
def test_what_is_no_array_of_a_known_kind_is_refused(device: nd.Device) -> None:
    with pytest.raises(DTypeError, match=r"^from_dlpack: .* an object with __dlpack__, got int 3"):
        nd.from_dlpack(3, device)
    with pytest.raises(DTypeError, match=r"^from_numpy: expected a NumPy array, got list"):
        nd.from_numpy([1], device)  # type: ignore[arg-type]
    with pytest.raises(DTypeError, match=r"^dtype: expected one of float16, .* got complex128"):
        nd.from_dlpack(Producer(np.zeros(2, complex)), device)
    with pytest.raises(DTypeError, match=r"^dtype: expected one of float16, .* got float8_e5m2"):
        nd.from_numpy(np.zeros(2, ml_dtypes.float8_e5m2), device)
    with pytest.raises(DeviceError, match=r"in the processor's memory, got one on .* \(2, 0\)"):
        nd.from_dlpack(Producer(np.zeros(2), device=(2, 0)), device)
    with pytest.raises(DeviceError, match=r"^cuda\(\): expected a device that is enabled"):
        nd.from_numpy(np.zeros(2), nd.cuda())


@each_device
def test_a_capsule_is_taken_once(device: nd.Device) -> None:
    class Again:
        capsule = np.zeros(2).__dlpack__()

        def __dlpack__(self, **options: Any) -> Any:
            return self.capsule

        def __dlpack_device__(self) -> tuple[int, int]:
            return (1, 0)

    assert nd.from_dlpack(Again(), device).tolist() == [0, 0]
    with pytest.raises(BufferError, match=r"^from_dlpack: expected a capsule of DLPack, not used"):
        nd.from_dlpack(Again(), device)


@each_device
def test_what_cannot_be_exported_is_refused(device: nd.Device) -> None:
    x = nd.ones((3, 2), device=device)
    with pytest.raises(BufferError, match=r"^dlpack: expected strides of 0 or more, got \(-2, 1\)"):
        x[::-1].__dlpack__()
    with pytest.raises(BufferError, match=r"^dlpack: expected no stream and device \(1, 0\)"):
        x.__dlpack__(stream=1)
    with pytest.raises(BufferError, match=r"got stream None and device \(2, 0\)"):
        x.__dlpack__(dl_device=(2, 0))
    assert np.from_dlpack(x[:1][::-1]).shape == (1, 2)  # one row cannot be reversed


@needs_torch
def test_a_dtype_of_pytorch_that_arrays_lack_is_refused() -> None:
    import torch

    with pytest.raises(DTypeError, match=r"^from_dlpack: expected a dtype that NDArrays have"):
        nd.from_dlpack(torch.zeros(2, dtype=torch.float8_e5m2))

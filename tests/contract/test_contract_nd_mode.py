"""Contract, sections 2, 3.3, 5 and 8, in nd mode: float32 unless named, and everything on a device.

What is said of one device is asked of both; the other one is then the default, so that whatever is
made without a thought for the device would be found out.
"""

from __future__ import annotations

import copy
import pickle

import ml_dtypes
import numpy as np
import pytest

import needle as ndl
from needle import backend_ndarray as nd
from needle import nn, optim
from needle.errors import DeviceError, DTypeError
from needle.testing import assert_close

pytestmark = pytest.mark.nd_mode


@pytest.fixture(params=["cpu", "cpu_numpy"])
def device(request, monkeypatch):
    other = {"cpu": "cpu_numpy", "cpu_numpy": "cpu"}[request.param]
    monkeypatch.setattr("needle.backend_ndarray.devices._default", getattr(ndl, other)())
    return getattr(ndl, request.param)()


# -- 2. the top level --------------------------------------------------------------------------


def test_nd_mode_stands_on_needles_own_arrays():
    assert ndl.BACKEND == "nd"
    assert ndl.array_api is nd and ndl.NDArray is nd.NDArray
    assert type(ndl.Tensor([1.0]).cached_data) is nd.NDArray


def test_devices_print_exactly_and_cuda_is_there_but_not_enabled():
    names = [str(device) for device in (ndl.cpu(), ndl.cuda(), ndl.cpu_numpy())]
    assert names == ["cpu()", "cuda()", "cpu_numpy()"]
    assert ndl.cuda().enabled() is False
    assert ndl.default_device() == ndl.cpu() == nd.default_device()
    with pytest.raises(DeviceError, match=r"expected a device that is enabled, got cuda\(\)"):
        ndl.Tensor([1.0], device=ndl.cuda())
    with pytest.raises(DeviceError, match=r"device: expected one that is enabled here, got cuda"):
        ndl.ones(2, device=ndl.cuda())


def test_threads_can_be_set_and_read():
    before = ndl.get_num_threads()
    try:
        ndl.set_num_threads(1)
        assert ndl.get_num_threads() == 1
    finally:
        ndl.set_num_threads(before)


# -- 3.3 construction --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "source",
    [[1, 2], 3, 1.5, True, [True, False], np.arange(3), np.ones((2, 3)), np.zeros((0, 4)),
     np.array([1, 2], dtype=object), np.float64(2.5), range(3), np.arange(6.0).reshape(2, 3).T,
     np.ones(2, ml_dtypes.bfloat16)],
    ids=str,
)  # fmt: skip
def test_whatever_is_no_ndarray_becomes_float32(device, source):
    x = ndl.Tensor(source, device=device)
    assert (x.dtype, x.shape, x.device) == ("float32", np.shape(source), device)
    np.testing.assert_array_equal(x.numpy(), np.asarray(source).astype("float32"))


@pytest.mark.parametrize(
    "dtype", ["float64", "float16", "bfloat16", "int8", "int64", "uint8", "bool"]
)
def test_a_dtype_that_is_named_is_taken(device, dtype):
    x = ndl.Tensor([0, 1, 1], device=device, dtype=dtype)
    assert (str(x.dtype), x.tolist()) == (dtype, [0, 1, 1])
    assert ndl.Tensor(x.cached_data).dtype == dtype  # an NDArray keeps its own
    assert ndl.Tensor(x).dtype == dtype
    assert ndl.Tensor(x.cached_data, dtype="float32").dtype == "float32"


@pytest.mark.parametrize("source", [1j, None, "7", ["a"], [[1], [1, 2]], np.array([1, None])])
def test_what_is_no_real_number_is_refused(source):
    with pytest.raises(DTypeError, match="Tensor: expected an array of numbers, got"):
        ndl.Tensor(source)


def test_an_ndarray_stays_where_it_is_unless_a_device_is_named(device):
    array = nd.array([1.0, 2.0], device=device)
    assert ndl.Tensor(array).device == device
    for other in (ndl.cpu(), ndl.cpu_numpy()):
        moved = ndl.Tensor(array, device=other)
        assert (moved.device, moved.tolist()) == (other, [1.0, 2.0])
    x = ndl.Tensor(array)
    x.cached_data[0] = 9
    assert array.numpy()[0] == 1, "a Tensor made of an NDArray has memory of its own"


# -- 3.3 devices -------------------------------------------------------------------------------


def test_results_gradients_and_constants_are_on_the_device_of_their_inputs(device):
    x = ndl.Tensor(np.linspace(-1, 1, 6).reshape(2, 3), device=device)
    results = [
        x + 1, 1 - x, 2 / (x + 5), 2 ** x, x - np.ones(3), np.ones((4, 2)) @ x, x @ np.ones((3, 1)),
        x[[1, 0]], x[:, np.array([2])], x[x > 0], x[0, 1:], ndl.take(x, [1], 1), ndl.relu(x),
        ndl.where(x > 0, x, 0), ndl.where(np.array([True, False, True]), 1.0, x), ndl.tril(x),
        ndl.maximum(x, 0.5), ndl.clip(x, -0.5, 0.5), ndl.einsum("ij,ij->i", x, x), x.argmax(1),
        ndl.stack([x, x], 0), ndl.pad(x, ((1, 1), (0, 2))), ndl.zeros_like(x), x.to("float64"),
        ndl.gather(x, 1, np.array([[0], [2]])), ndl.softmax(x), x.std(1), x.cumsum(0),
    ]  # fmt: skip
    assert {y.device for y in results} == {device}
    sum(y.astype("float32").sum() for y in results if y.requires_grad).backward()
    assert x.grad.device == device
    assert ndl.jacobian(lambda z: z * z, x[0]).device == device


def test_two_devices_in_one_op_are_refused_by_name():
    a, b = ndl.Tensor([1.0], device=ndl.cpu()), ndl.Tensor([1.0], device=ndl.cpu_numpy())
    with pytest.raises(DeviceError, match=r"^add: expected .* got cpu\(\) and cpu_numpy\(\)"):
        a + b
    with pytest.raises(DeviceError, match=r"^multiply: expected .* got cpu_numpy\(\) and cpu\(\)"):
        b * a.cached_data
    with pytest.raises(DeviceError, match=r"^matmul: expected"):
        ndl.Tensor(np.ones((1, 1)), device=ndl.cpu()) @ b.reshape((1, 1))


def test_moving_a_tensor_carries_gradients_back():
    x = ndl.Tensor([1.0, 2.0], device=ndl.cpu())
    y = x.to(ndl.cpu_numpy())
    assert (y.device, y.dtype, x.to(ndl.cpu())) == (ndl.cpu_numpy(), "float32", x)
    (y * y).sum().backward()
    assert x.grad.device == ndl.cpu()
    np.testing.assert_array_equal(x.grad.numpy(), [2.0, 4.0])
    with pytest.raises(DeviceError, match=r"to: expected a device that is enabled.*got cuda\(\)"):
        x.to(ndl.cuda())


def test_a_module_moves_with_its_buffers_and_its_loss(device):
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(0.1), nn.Linear(4, 2))
    assert model.to(device) is model
    assert {tensor.device for tensor in model.state_dict().values()} == {device}
    loss_of = nn.CrossEntropyLoss(weight=np.array([1.0, 2.0]), label_smoothing=0.1)
    x = ndl.Tensor(np.ones((5, 3)), device=device)
    loss = loss_of(model(x), ndl.Tensor([0.0, 1.0, 0.0, 1.0, -100.0]))
    loss.backward()
    assert {p.grad.device for p in model.parameters()} == {device}


@pytest.mark.parametrize("kind", [optim.SGD, optim.Adam, optim.AdamW, optim.RMSprop, optim.Adagrad,
                                  optim.Lion])  # fmt: skip
def test_training_stays_on_its_device_and_in_float32(device, kind):
    model = nn.Sequential(nn.Linear(3, 4, device=device), nn.ReLU(), nn.Linear(4, 2, device=device))
    optimizer, ema = kind(model.parameters(), lr=0.01), optim.EMA(model)
    x, y = ndl.randn(6, 3, device=device), ndl.Tensor(np.arange(6) % 2, device=device)
    for _ in range(3):
        optimizer.reset_grad()
        nn.SoftmaxLoss()(model(x), y).backward()
        optim.clip_grad_norm(model, 0.5)
        optim.clip_grad_value(model, 0.1)
        optimizer.step()
        ema.update()
    optimizer.load_state_dict(optimizer.state_dict())
    with ema.average_parameters():
        assert model(x).device == device
    assert {(p.device, str(p.dtype)) for p in model.parameters()} == {(device, "float32")}


# -- 5. initialisers, 8. data --------------------------------------------------------------------


def test_initialisers_default_to_the_cpu_and_draw_once_from_numpys_stream():
    np.random.seed(3)
    ours = [ndl.rand(2, 3), ndl.randn(4), ndl.init.kaiming_uniform(3, 2)]
    np.random.seed(3)
    assert_close(ours[0], np.random.rand(2, 3).astype("float32"))
    assert_close(ours[1], np.random.randn(4).astype("float32"))
    assert all(x.device == ndl.cpu() and x.dtype == "float32" for x in ours)


def test_one_hot_takes_ids_of_any_kind(device):
    for ids in ([2, 0], np.array([2, 0]), ndl.Tensor([2.0, 0.9]), ndl.Tensor([2, 0], dtype="int8")):
        y = ndl.init.one_hot(3, ids, device=device)
        assert (y.device, y.dtype) == (device, "float32")
        assert y.tolist() == [[0, 0, 1], [1, 0, 0]]


def test_batches_are_float32_tensors_on_the_device(device):
    dataset = ndl.data.NDArrayDataset(np.zeros((4, 3)), np.arange(4, dtype=np.uint8))
    x, y = next(iter(ndl.data.DataLoader(dataset, 2, device=device)))
    assert [(t.dtype, t.device) for t in (x, y)] == [("float32", device)] * 2
    assert isinstance(x.cached_data, nd.NDArray)


# -- integers ----------------------------------------------------------------------------------


def test_integers_in_an_index_stay_integers_and_argmax_is_int64(device):
    x = ndl.Tensor(np.arange(6.0).reshape(3, 2), device=device)
    ids = ndl.Tensor([0, 2], dtype="int64", device=device)
    for index in ([0, 2], np.array([0, 2]), ids, ids.cached_data):
        assert x[index].tolist() == [[0, 1], [4, 5]]
    assert x[x > 2].tolist() == [3, 4, 5]
    assert x[np.array([True, False, True])].tolist() == [[0, 1], [4, 5]]
    assert (x.argmax(1).dtype, x.argmax().item()) == ("int64", 5)
    with pytest.raises(DTypeError, match=r"expected integer or bool indices, got float32\[1\]"):
        x[ndl.Tensor([0], device=device)]


def test_arrays_beside_a_tensor_become_float32_but_integers_and_bools_keep_their_kind():
    x = ndl.Tensor([1.0, 2.0])
    assert (x * np.array([0.5, 0.25])).dtype == "float32"
    count = ndl.Tensor([1, 2], dtype="int64")
    assert (count + np.array([1, 1])).dtype == "int64"
    assert (count * 2).dtype == "int64" and (count / 2).dtype == "float64"
    assert ndl.logical_and(x > 1, np.array([True, True])).tolist() == [False, True]


# -- what tensors go through -------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int64", "bool"])
def test_copies_pickles_and_files_keep_dtype_and_device(device, dtype, tmp_path):
    x = ndl.Tensor([0, 1, 1], dtype=dtype, device=device)
    for other in (copy.deepcopy(x), pickle.loads(pickle.dumps(x))):  # noqa: S301  its own
        assert (other.dtype, other.device, other.tolist()) == (x.dtype, device, x.tolist())
        assert other.cached_data is not x.cached_data
    ndl.save({"x": x}, tmp_path / "x.safetensors")
    loaded = ndl.load(tmp_path / "x.safetensors")["x"]
    assert (loaded.dtype, loaded.tolist()) == (x.dtype, x.tolist())


def test_loading_float64_weights_loses_nothing():
    layer = nn.Linear(2, 1, bias=False, dtype="float64")
    values = np.array([[0.1], [0.2]])
    layer.load_state_dict({"weight": values})
    np.testing.assert_array_equal(layer.weight.numpy(), values)

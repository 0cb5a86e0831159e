"""Files of weights between Needle and PyTorch, both by safetensors."""

from __future__ import annotations

import numpy as np
import pytest
from parity.side_by_side import torch

import needle as ndl
from needle import nn

safetensors_torch = pytest.importorskip("safetensors.torch")

DTYPES = [
    "float64", "float32", "float16", "bfloat16", "float8_e4m3fn", "float8_e5m2", "int64", "int32",
    "int16", "int8", "uint8", "bool",
]  # fmt: skip


def bits(tensor):
    """The bytes of a PyTorch tensor, whatever its dtype."""
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(4,), (2, 3), (0, 2)])
def test_pytorch_reads_what_needle_writes(tmp_path, dtype, shape):
    x = ndl.Tensor(np.random.RandomState(0).randint(2, size=shape), dtype=dtype)
    ndl.save({"x": x}, tmp_path / "file", metadata={"by": "needle"})
    found = safetensors_torch.load_file(tmp_path / "file")["x"]
    assert found.dtype == getattr(torch, dtype)
    assert tuple(found.shape) == shape
    assert bits(found) == x.numpy().tobytes()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(4,), (2, 3), (0, 2), ()])
def test_needle_reads_what_pytorch_writes(tmp_path, dtype, shape):
    tensor = torch.tensor(np.random.RandomState(0).randint(2, size=shape)).to(getattr(torch, dtype))
    safetensors_torch.save_file({"x": tensor}, tmp_path / "file", metadata={"by": "torch"})
    x = ndl.load(tmp_path / "file")["x"]
    assert x.dtype.name == dtype
    assert x.shape == shape
    assert x.numpy().tobytes() == bits(tensor)
    assert ndl.serialization.load_metadata(tmp_path / "file") == {"by": "torch"}


def test_weights_of_a_pytorch_network_give_the_same_outputs(tmp_path):
    theirs = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.BatchNorm1d(3)).eval()
    safetensors_torch.save_file(theirs.state_dict(), tmp_path / "file")
    state = ndl.load(tmp_path / "file")
    ours = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3)).eval()
    report = ours.load_state_dict(
        {
            "modules.0.weight": state["0.weight"].transpose(),
            "modules.0.bias": state["0.bias"].reshape((1, 3)),
            **{f"modules.{name}": x for name, x in state.items() if name.startswith("1.")},
        },
        strict=False,
    )
    assert report == ([], ["modules.1.num_batches_tracked"])
    x = np.random.RandomState(0).randn(5, 4).astype("float32")
    expected = theirs(torch.tensor(x)).detach().numpy()
    np.testing.assert_allclose(ours(ndl.Tensor(x)).numpy(), expected, rtol=1e-5, atol=1e-6)

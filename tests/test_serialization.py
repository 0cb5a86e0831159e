"""Tensors on disk: every dtype and layout, whole files or clear errors, and safe saving."""

from __future__ import annotations

import json
import os
import struct
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from tensors import tensor

import needle as ndl
from needle import nn, serialization
from needle.autograd import Tensor
from needle.errors import DTypeError, FileFormatError, OptionError
from needle.serialization import load_metadata

DTYPES = [
    "float64", "float32", "float16", "bfloat16", "float8_e4m3fn", "float8_e5m2", "int64", "int32",
    "int16", "int8", "uint64", "uint32", "uint16", "uint8", "bool",
]  # fmt: skip


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "weights.safetensors"


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def assert_same_array(found, expected):
    found, expected = np.asarray(found), np.asarray(expected)
    assert found.dtype == expected.dtype.newbyteorder("=")
    assert found.shape == expected.shape
    np.testing.assert_array_equal(found, expected)


# -- round trips -------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(), (1,), (5,), (2, 3), (0,), (2, 0, 3), (1, 1, 1, 1)])
def test_every_dtype_and_shape_comes_back(path, dtype, shape):
    values = np.random.RandomState(0).randint(2, size=shape)
    x = tensor(values, dtype=dtype)
    ndl.save({"x": x}, path)
    loaded = ndl.load(path)
    assert list(loaded) == ["x"]
    assert isinstance(loaded["x"], Tensor)
    assert_same_array(loaded["x"].numpy(), x.numpy())


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "bfloat16", "float8_e5m2"])
def test_special_values_come_back_bit_by_bit(path, dtype):
    dtype = tensor([0.0], dtype=dtype).dtype
    values = np.array([np.nan, np.inf, -np.inf, -0.0, 1e-7, 3.14159]).astype(dtype)
    ndl.save({"x": values}, path)
    assert ndl.load(path)["x"].numpy().tobytes() == values.tobytes()


@pytest.mark.parametrize(
    "array",
    [
        np.arange(12.0).reshape(3, 4).T,
        np.arange(12).reshape(3, 4)[::2, ::-1],
        np.broadcast_to(np.arange(3.0), (4, 3)),
        np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        np.arange(6, dtype=">i4").reshape(2, 3),
        np.array([1.5, -2.5], dtype=">f8"),
        np.array(2.5, dtype=">f4"),
        np.arange(6, dtype=ml_dtypes.bfloat16).reshape(2, 3).T,
    ],
    ids=["transposed", "sliced", "broadcast", "fortran", "big ints", "big floats", "0-d", "bf16"],
)
def test_every_layout_and_byte_order_comes_back(path, array):
    ndl.save({"x": array}, path)
    assert_same_array(ndl.load(path)["x"].numpy(), array)


@pytest.mark.parametrize(
    ("value", "dtype"), [(3, "int64"), (2.5, "float64"), (True, "bool"), (np.float32(1), "float32")]
)
def test_numbers_come_back_as_0d_tensors(path, value, dtype):
    ndl.save({"x": value}, path)
    x = ndl.load(path)["x"]
    assert (x.shape, x.dtype, x.item()) == ((), dtype, value)


def test_lists_of_numbers_and_lazy_tensors_are_stored(path):
    with ndl.lazy():
        lazy = tensor([1.0, 2.0]) * 2
    ndl.save({"list": [[1, 2], [3, 4]], "lazy": lazy}, path)
    loaded = ndl.load(path)
    assert loaded["list"].tolist() == [[1, 2], [3, 4]]
    assert loaded["lazy"].tolist() == [2.0, 4.0]


def test_nested_dicts_become_dotted_names(path):
    state = {"a": {"b": tensor([1.0]), "c": {"d": 2}}, "e": tensor([3.0]), 5: 6, "none": {}}
    ndl.save(state, path)
    loaded = {name: x.numpy().ravel()[0] for name, x in ndl.load(path).items()}
    assert loaded == {"a.b": 1, "a.c.d": 2, "e": 3, "5": 6}


def test_names_may_be_anything(path):
    names = ["", "a b", "grün", "line\nbreak", '"quoted"', "x" * 1000]
    ndl.save(dict.fromkeys(names, 1), path)
    assert sorted(ndl.load(path)) == sorted(names)


def test_nothing_at_all_comes_back(path):
    ndl.save({}, path)
    assert ndl.load(path) == {}
    ndl.save(nn.ReLU(), path)
    assert ndl.load(path) == {}


def test_loaded_tensors_are_constants_of_their_own(path):
    ndl.save({"x": tensor([1.0, 2.0])}, path)
    x = ndl.load(path)["x"]
    assert not x.requires_grad
    assert x.is_leaf()
    x.cached_data[0] = 5
    assert ndl.load(path)["x"].tolist() == [1.0, 2.0]


def test_a_path_may_be_a_string(path):
    ndl.save({"x": 1}, str(path))
    assert ndl.load(str(path))["x"].item() == 1
    assert load_metadata(str(path)) == {}


# -- modules and optimisers --------------------------------------------------------------------


def network():
    return nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.ReLU(), nn.Linear(3, 2))


def step(model, optimiser, seed):
    x = tensor(np.random.RandomState(seed).randn(6, 4), dtype="float32", requires_grad=False)
    optimiser.reset_grad()
    nn.SoftmaxLoss()(model(x), tensor([0, 1, 0, 1, 0, 1])).backward()
    optimiser.step()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_module_goes_through_a_file(path, dtype):
    model, twin = network().to(dtype), network().to(dtype)
    model(ndl.init.randn(5, 4, dtype=dtype))
    ndl.save(model, path)
    twin.load_state_dict(ndl.load(path))
    x = ndl.init.randn(5, 4, dtype=dtype)
    np.testing.assert_array_equal(model.eval()(x).numpy(), twin.eval()(x).numpy())


@pytest.mark.parametrize("name", ["SGD", "Adam", "AdamW", "RMSprop", "Adagrad", "Lion"])
def test_training_resumes_from_a_file_bit_by_bit(path, name):
    make = getattr(ndl.optim, name)
    model = network()
    optimiser = make(model.parameters(), lr=0.01)
    for seed in range(3):
        step(model, optimiser, seed)
    ndl.save({"model": model.state_dict(), "optimiser": optimiser.state_dict()}, path)

    resumed = network()
    resumed_optimiser = make(resumed.parameters(), lr=0.01)
    loaded = ndl.load(path)
    for part, prefix in ((resumed, "model."), (resumed_optimiser, "optimiser.")):
        part.load_state_dict(
            {key[len(prefix) :]: x for key, x in loaded.items() if key.startswith(prefix)}
        )
    for seed in range(3, 6):
        step(model, optimiser, seed)
        step(resumed, resumed_optimiser, seed)
    for one, other in zip(model.parameters(), resumed.parameters(), strict=True):
        np.testing.assert_array_equal(one.numpy(), other.numpy())


def test_an_optimiser_saves_itself(path):
    model = network()
    optimiser = ndl.optim.Adam(model.parameters())
    step(model, optimiser, 0)
    ndl.save(optimiser, path)
    assert set(ndl.load(path)) == set(optimiser.state_dict())


# -- metadata ----------------------------------------------------------------------------------


def test_metadata_comes_back(path):
    metadata = {"epoch": "3", "grün": "ja\n", "empty": ""}
    ndl.save({"x": 1}, path, metadata=metadata)
    assert load_metadata(path) == metadata
    assert ndl.load(path)["x"].item() == 1


@pytest.mark.parametrize("metadata", [None, {}])
def test_no_metadata_is_an_empty_dict(path, metadata):
    ndl.save({"x": 1}, path, metadata=metadata)
    assert load_metadata(path) == {}


@pytest.mark.parametrize("metadata", [{"a": 1}, {1: "a"}, {"a": None}, "text", ["a"]])
def test_metadata_that_is_no_strings_is_refused(path, metadata):
    with pytest.raises(DTypeError, match="save: expected metadata of strings to strings, got"):
        ndl.save({"x": 1}, path, metadata=metadata)
    assert not path.exists()


# -- what cannot be stored ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (None, "NoneType None"),
        ("text", "str 'text'"),
        (b"bytes", "bytes b'bytes'"),
        (1j, "complex 1j"),
        (np.ones(3, dtype="complex64"), "complex64[3]"),
        (np.ones(1, ml_dtypes.float8_e4m3fnuz), "float8_e4m3fnuz[1]"),
        (np.array(["2020-01-01"], dtype="datetime64[D]"), "datetime64[D][1]"),
        (np.array([1, None], dtype=object), "object[2]"),
        (2**70, "int 1180591620717411303424"),
        ([[1], [2, 3]], ""),
        (network, "function"),
    ],
    ids=lambda v: str(type(v).__name__),
)
def test_what_the_format_does_not_know_is_refused(path, value, shown):
    path.write_bytes(b"before")
    with pytest.raises(DTypeError) as error:
        ndl.save({"good": 1, "layer": {"bad": value}}, path)
    message = str(error.value)
    assert message.startswith("save: expected Tensors, arrays or numbers, of dtypes float64, ")
    assert f"got layer.bad: {shown}" in message
    assert path.read_bytes() == b"before"


@pytest.mark.parametrize("state", [[1, 2], tensor([1.0]), 3, None, "abc"])
def test_what_is_no_dict_is_refused(path, state):
    with pytest.raises(DTypeError, match="save: expected a dict or a module, got"):
        ndl.save(state, path)
    assert not path.exists()


@pytest.mark.parametrize(
    ("state", "name"),
    [
        ({"a.b": 1, "a": {"b": 2}}, "a.b"),
        ({0: 1, "0": 2}, "0"),
        ({"__metadata__": 1}, "__metadata__"),
    ],
)
def test_a_name_that_would_be_lost_is_refused(path, state, name):
    with pytest.raises(OptionError, match=f"save: expected names that differ.*got '{name}'"):
        ndl.save(state, path)
    assert not path.exists()


# -- files that are no weights -----------------------------------------------------------------


def small_file(path):
    state = {"weight": np.arange(4, dtype="float32"), "flag": True}
    ndl.save(state, path, metadata={"epoch": "1"})
    return path.read_bytes()


def test_a_file_truncated_at_any_byte_is_refused(path):
    content = small_file(path)
    for length in range(len(content)):
        path.write_bytes(content[:length])
        with pytest.raises(FileFormatError, match="load: expected a whole safetensors file, got"):
            ndl.load(path)


def test_a_file_with_bytes_after_its_end_is_refused(path):
    path.write_bytes(small_file(path) + b"\x00")
    with pytest.raises(FileFormatError):
        ndl.load(path)


def test_a_file_with_any_one_byte_changed_loads_or_is_refused(path):
    content = small_file(path)
    for position in range(len(content)):
        for change in (0x01, 0x20, 0xFF):
            damaged = bytearray(content)
            damaged[position] ^= change
            path.write_bytes(damaged)
            try:
                ndl.load(path)
                load_metadata(path)
            except FileFormatError as error:
                assert str(path) in str(error)


@pytest.mark.parametrize(
    "content",
    [b"", b"\x80\x04\x95pickle", b"PK\x03\x04zip archive", b"\x00" * 100, b"text\n" * 10],
    ids=["empty", "pickle", "zip", "zeros", "text"],
)
def test_a_foreign_file_is_refused(path, content):
    path.write_bytes(content)
    for function in (ndl.load, load_metadata):
        with pytest.raises(FileFormatError, match="load: expected a whole safetensors file, got"):
            function(path)


def with_header(header):
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text


def test_a_dtype_of_other_programs_is_named(path, monkeypatch):
    entry = {"dtype": "F64", "shape": [1], "data_offsets": [0, 8]}
    path.write_bytes(with_header({"x": entry}) + b"\x00" * 8)
    monkeypatch.delitem(serialization._DTYPES, "F64")
    with pytest.raises(FileFormatError, match=r"load: expected dtypes F32, .* got F64"):
        ndl.load(path)


@pytest.mark.parametrize("function", [ndl.load, load_metadata])
def test_a_missing_file_is_named(tmp_path, function):
    path = tmp_path / "nothing-here"
    with pytest.raises(FileNotFoundError) as error:
        function(path)
    assert str(error.value) == f"load: expected a safetensors file, got no file at {path}."


def test_a_folder_is_no_file(tmp_path):
    for function in (ndl.load, load_metadata):
        with pytest.raises(IsADirectoryError) as error:
            function(tmp_path)
        assert str(error.value) == f"load: expected a safetensors file, got the folder {tmp_path}."
    with pytest.raises(IsADirectoryError, match="write: expected the path of a file, got"):
        ndl.save({"x": 1}, tmp_path)


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="write: expected a folder that exists, got"):
        ndl.save({"x": 1}, tmp_path / "missing" / "weights")


# -- interruptions -----------------------------------------------------------------------------


def test_a_save_interrupted_at_any_byte_leaves_the_previous_file(path):
    resource = pytest.importorskip("resource")
    before = small_file(path)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    for room in range(0, 200, 7):
        resource.setrlimit(resource.RLIMIT_FSIZE, (room, hard))
        try:
            with pytest.raises(OSError, match="too large"):
                ndl.save({"weight": np.ones(100)}, path)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert path.read_bytes() == before
        assert names_in(path.parent) == [path.name]


@pytest.mark.parametrize("name", ["fsync", "replace"])
def test_a_save_interrupted_at_its_end_leaves_the_previous_file(path, monkeypatch, name):
    before = small_file(path)

    def interrupt(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, name, interrupt)
    with pytest.raises(KeyboardInterrupt):
        ndl.save({"weight": np.ones(100)}, path)
    assert path.read_bytes() == before
    assert names_in(path.parent) == [path.name]

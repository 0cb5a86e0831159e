"""Contract, sections 1 and 2: how the package is reached, and its devices, in np mode."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys

import numpy as np
import pytest

import needle as ndl


def names(text: str) -> list[str]:
    return text.split()


FUNCTIONS = names("""
add add_scalar multiply mul_scalar power power_scalar divide divide_scalar transpose
reshape broadcast_to summation matmul negate log exp relu tanh stack split flip logsoftmax logsumexp
make_tuple tuple_get_item fused_add_scalars""")

CLASSES = names("""
EWiseAdd AddScalar EWiseMul MulScalar EWisePow PowerScalar EWiseDiv DivScalar Transpose
Reshape BroadcastTo Summation MatMul Negate Log Exp ReLU Tanh LogSumExp LogSoftmax Stack Split Flip
MakeTensorTuple TupleGetItem FusedAddScalars""")

INITIALISERS = names("""
rand randn randb constant ones zeros one_hot zeros_like ones_like xavier_uniform
xavier_normal kaiming_uniform kaiming_normal""")

SUBMODULES = names("""
autograd ops init nn optim data backend_selection backend_numpy
ops.ops_mathematic ops.ops_logarithmic ops.ops_tuple init.init_basic init.init_initializers
nn.nn_basic nn.layers data.data_basic data.data_transforms""")


@pytest.mark.parametrize("name", names("Tensor TensorTuple autograd ops init nn optim data"))
def test_core_name_is_on_the_package(name):
    assert hasattr(ndl, name)
    assert name in ndl.__all__


@pytest.mark.parametrize(
    "name", names("cpu default_device all_devices Device NDArray array_api BACKEND")
)
def test_device_name_is_on_the_package(name):
    assert hasattr(ndl, name)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_op_function_is_on_the_package_and_in_ops(name):
    assert getattr(ndl, name) is getattr(ndl.ops, name)
    assert callable(getattr(ndl, name))


@pytest.mark.parametrize("name", CLASSES)
def test_op_class_is_on_the_package_and_in_ops(name):
    assert getattr(ndl, name) is getattr(ndl.ops, name)
    assert issubclass(getattr(ndl, name), ndl.autograd.Op)


@pytest.mark.parametrize("name", INITIALISERS)
def test_initialiser_is_in_init(name):
    assert callable(getattr(ndl.init, name))


@pytest.mark.parametrize("name", ["ones", "zeros", "ones_like", "zeros_like"])
def test_constants_are_on_the_package_too(name):
    assert getattr(ndl, name) is getattr(ndl.init, name)


@pytest.mark.parametrize("name", SUBMODULES)
def test_submodule_can_be_imported_by_its_dotted_name(name):
    assert importlib.import_module(f"needle.{name}").__name__ == f"needle.{name}"


@pytest.mark.np_mode
def test_np_mode_stands_on_numpy():
    assert ndl.BACKEND == "np"
    assert ndl.array_api is np
    assert ndl.NDArray is np.ndarray
    assert isinstance(ndl.Tensor([1.0]).cached_data, np.ndarray)


def import_with_backend(value):
    environment = {**os.environ, "NEEDLE_BACKEND": value}
    command = [sys.executable, "-c", "import needle; print(needle.BACKEND)"]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("backend", ["np", "nd"])
def test_backend_is_read_from_the_environment_and_nothing_is_printed_at_import(backend):
    result = import_with_backend(backend)
    assert result.stdout == f"{backend}\n"
    assert result.stderr == ""


def test_an_empty_variable_counts_as_unset():
    result = import_with_backend("")
    assert result.stdout == "nd\n"
    assert result.stderr == ""


def test_unknown_backend_raises_runtime_error_naming_the_variable():
    result = import_with_backend("gpu")
    assert result.returncode != 0
    assert "RuntimeError: NEEDLE_BACKEND: expected" in result.stderr
    assert "'gpu'" in result.stderr


def test_devices_are_equal_by_kind():
    assert ndl.cpu() == ndl.cpu()
    assert ndl.cpu() != "cpu"
    assert hash(ndl.cpu()) == hash(ndl.cpu())
    assert ndl.cpu().enabled() is True


def test_default_device_is_the_cpu_and_tensors_live_on_the_device_they_were_built_with():
    assert ndl.default_device() == ndl.cpu()
    assert next(device for device in ndl.all_devices() if device.enabled()) == ndl.cpu()
    assert ndl.Tensor([1.0]).device == ndl.cpu()
    device = ndl.cpu()
    assert ndl.Tensor([1.0], device=device).device == device
    assert ndl.init.ones(2, device=device).device == device


def test_device_prints_as_a_call():
    assert str(ndl.cpu()) == "cpu()"
    assert str(ndl.cuda()) == "cuda()"
    assert str(ndl.cpu_numpy()) == "cpu_numpy()"

"""Contract, sections 1, 2.2 and 6: names and signatures of the last exercises."""

from __future__ import annotations

import importlib
import inspect

import pytest

import needle as ndl
from needle import nn

OPS = "conv dilate undilate Conv Dilate UnDilate"

PLACES = {
    "ops.ops_mathematic": "EWiseAdd AddScalar EWiseMul MulScalar EWisePow PowerScalar EWiseDiv "
    "DivScalar Transpose Reshape BroadcastTo Summation MatMul Negate Log Exp ReLU Tanh Stack Split "
    "Flip Dilate UnDilate Conv add add_scalar multiply mul_scalar power power_scalar divide "
    "divide_scalar transpose reshape broadcast_to summation matmul negate log exp relu tanh stack "
    "split flip dilate undilate conv",
    "ops.ops_logarithmic": "LogSumExp LogSoftmax logsumexp logsoftmax",
    "ops.ops_tuple": "MakeTensorTuple TupleGetItem FusedAddScalars make_tuple tuple_get_item "
    "fused_add_scalars",
    "nn.nn_basic": "Parameter Module Identity Linear Flatten ReLU Sequential SoftmaxLoss "
    "BatchNorm1d BatchNorm2d LayerNorm1d Dropout Residual",
    "nn.nn_conv": "Conv",
    "nn.nn_sequence": "Sigmoid RNNCell RNN LSTMCell LSTM Embedding",
    "nn.nn_transformer": "MultiHeadAttention AttentionLayer TransformerLayer Transformer",
    "data.data_basic": "Dataset DataLoader",
    "data.data_transforms": "Transform RandomFlipHorizontal RandomCrop",
    "data.datasets": "MNISTDataset NDArrayDataset CIFAR10Dataset Corpus Dictionary batchify "
    "get_batch",
}


@pytest.mark.parametrize("module", PLACES)
def test_course_module_has_the_packages_own_objects(module):
    found = importlib.import_module(f"needle.{module}")
    package = getattr(ndl, module.split(".")[0])
    for name in PLACES[module].split():
        assert getattr(found, name) is getattr(package, name)


@pytest.mark.parametrize(
    "name",
    ["backend_ndarray", "backend_ndarray.ndarray", "backend_ndarray.ndarray_backend_numpy",
     "backend_ndarray.ndarray_backend_cpu", "backend_ndarray.ndarray_backend_cuda"],
)  # fmt: skip
def test_modules_of_the_array_library_can_be_imported(name):
    assert importlib.import_module(f"needle.{name}").__name__ == f"needle.{name}"


@pytest.mark.parametrize("name", OPS.split())
def test_operators_of_convolution_are_exported(name):
    assert name in ndl.__all__ and name in ndl.ops.__all__


LAYERS = """
Parameter Module Identity Linear Flatten ReLU Sequential SoftmaxLoss BatchNorm1d BatchNorm2d
LayerNorm1d Dropout Residual Conv Sigmoid RNNCell RNN LSTMCell LSTM Embedding MultiHeadAttention
AttentionLayer TransformerLayer Transformer"""


@pytest.mark.parametrize("name", LAYERS.split())
def test_layer_is_exported_from_nn(name):
    assert name in nn.__all__
    assert name == "Parameter" or issubclass(getattr(nn, name), nn.Module)


SIGNATURES = {
    "BatchNorm2d": "dim, eps=1e-05, momentum=0.1, device=None, dtype='float32'",
    "Conv": "in_channels, out_channels, kernel_size, stride=1, bias=True, device=None, "
    "dtype='float32'",
    "Sigmoid": "",
    "RNNCell": "input_size, hidden_size, bias=True, nonlinearity='tanh', device=None, "
    "dtype='float32'",
    "RNN": "input_size, hidden_size, num_layers=1, bias=True, nonlinearity='tanh', device=None, "
    "dtype='float32'",
    "LSTMCell": "input_size, hidden_size, bias=True, device=None, dtype='float32'",
    "LSTM": "input_size, hidden_size, num_layers=1, bias=True, device=None, dtype='float32'",
    "Embedding": "num_embeddings, embedding_dim, device=None, dtype='float32'",
}


@pytest.mark.parametrize("name", SIGNATURES)
def test_constructor_takes_the_contracts_arguments_first(name):
    """In this order, with these defaults; what follows has a default of its own."""
    parameters = list(inspect.signature(getattr(nn, name)).parameters.values())
    found = [str(p.replace(annotation=p.empty)) for p in parameters]
    expected = SIGNATURES[name].split(", ") if SIGNATURES[name] else []
    assert found[: len(expected)] == expected
    assert all(p.default is not p.empty for p in parameters[len(expected) :])


@pytest.mark.parametrize(
    ("name", "arguments"),
    [("RNNCell", "X h"), ("RNN", "X h0"), ("LSTMCell", "X h"), ("LSTM", "X h"),
     ("AttentionLayer", "q k v"), ("Transformer", "x h")],
)  # fmt: skip
def test_the_state_of_forward_is_none_by_default(name, arguments):
    parameters = list(inspect.signature(getattr(nn, name).forward).parameters.values())
    count = len(arguments.split())
    assert len(parameters) >= count + 1  # with self
    assert all(p.default is None for p in parameters[2 : count + 1])

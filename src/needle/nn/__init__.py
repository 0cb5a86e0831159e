"""Modules: what networks are built from.

module         Parameter, Module: finding parameters, training mode, state on disk, moving
layers         Linear, Sequential, Residual, Dropout, Identity
flattening     Flatten and Unflatten
channel_dropout  Dropout of whole channels
activations    ReLU and the other nonlinearities as modules
normalization  LayerNorm, RMSNorm, GroupNorm; batch_normalization: BatchNorm, InstanceNorm
convolution    Conv, Conv1d, Conv2d and their transposes
padding        borders around pictures
resampling     pictures at another resolution
pooling        maxima and means of windows, of adaptive ones, of all places
embedding      vectors for ids and for positions
attention      attention with learned projections
key_value_cache  what it remembers of tokens before, for generation
transformer    the course's Transformer
encoder_decoder  the Transformer's encoder and decoder, as in PyTorch
recurrent      RNN, LSTM, GRU: layers of the cells in recurrent_cells
sequences      sequences of different lengths in one batch
losses         what training minimises
checks         what layers and losses ask of their arguments
"""

from __future__ import annotations

from needle.nn.activations import (
    ELU,
    GELU,
    Hardsigmoid,
    Hardswish,
    Hardtanh,
    LeakyReLU,
    LogSoftmax,
    PReLU,
    ReLU,
    ReLU6,
    Sigmoid,
    SiLU,
    Softmax,
    Softplus,
    Tanh,
)
from needle.nn.attention import Attention, MultiHeadAttention
from needle.nn.batch_normalization import (
    BatchNorm1d,
    BatchNorm2d,
    InstanceNorm1d,
    InstanceNorm2d,
)
from needle.nn.channel_dropout import Dropout1d, Dropout2d
from needle.nn.convolution import (
    Conv,
    Conv1d,
    Conv2d,
    ConvTranspose1d,
    ConvTranspose2d,
)
from needle.nn.embedding import Embedding, RotaryEmbedding, SinusoidalEmbedding
from needle.nn.encoder_decoder import (
    TransformerDecoder,
    TransformerDecoderLayer,
    TransformerEncoder,
    TransformerEncoderLayer,
)
from needle.nn.flattening import Flatten, Unflatten
from needle.nn.key_value_cache import KeyValueCache
from needle.nn.layers import Dropout, Identity, Linear, Residual, Sequential
from needle.nn.losses import (
    BCEWithLogitsLoss,
    CrossEntropyLoss,
    HuberLoss,
    L1Loss,
    MSELoss,
    SmoothL1Loss,
    SoftmaxLoss,
)
from needle.nn.module import Module, Parameter
from needle.nn.normalization import GroupNorm, LayerNorm, LayerNorm1d, RMSNorm
from needle.nn.padding import (
    CircularPad1d,
    CircularPad2d,
    ConstantPad1d,
    ConstantPad2d,
    ReflectionPad1d,
    ReflectionPad2d,
    ReplicationPad1d,
    ReplicationPad2d,
    ZeroPad1d,
    ZeroPad2d,
)
from needle.nn.pooling import (
    AdaptiveAvgPool1d,
    AdaptiveAvgPool2d,
    AdaptiveMaxPool1d,
    AdaptiveMaxPool2d,
    AvgPool1d,
    AvgPool2d,
    GlobalAvgPool,
    GlobalMaxPool,
    MaxPool1d,
    MaxPool2d,
)
from needle.nn.recurrent import GRU, LSTM, RNN
from needle.nn.recurrent_cells import GRUCell, LSTMCell, RNNCell
from needle.nn.resampling import PixelShuffle, PixelUnshuffle, Upsample
from needle.nn.sequences import (
    PackedSequence,
    pack_padded_sequence,
    pack_sequence,
    pad_packed_sequence,
    pad_sequence,
    unpad_sequence,
)
from needle.nn.transformer import AttentionLayer, Transformer, TransformerLayer

__all__ = [
    "ELU",
    "GELU",
    "GRU",
    "LSTM",
    "RNN",
    "AdaptiveAvgPool1d",
    "AdaptiveAvgPool2d",
    "AdaptiveMaxPool1d",
    "AdaptiveMaxPool2d",
    "Attention",
    "AttentionLayer",
    "AvgPool1d",
    "AvgPool2d",
    "BCEWithLogitsLoss",
    "BatchNorm1d",
    "BatchNorm2d",
    "CircularPad1d",
    "CircularPad2d",
    "ConstantPad1d",
    "ConstantPad2d",
    "Conv",
    "Conv1d",
    "Conv2d",
    "ConvTranspose1d",
    "ConvTranspose2d",
    "CrossEntropyLoss",
    "Dropout",
    "Dropout1d",
    "Dropout2d",
    "Embedding",
    "Flatten",
    "GRUCell",
    "GlobalAvgPool",
    "GlobalMaxPool",
    "GroupNorm",
    "Hardsigmoid",
    "Hardswish",
    "Hardtanh",
    "HuberLoss",
    "Identity",
    "InstanceNorm1d",
    "InstanceNorm2d",
    "KeyValueCache",
    "L1Loss",
    "LSTMCell",
    "LayerNorm",
    "LayerNorm1d",
    "LeakyReLU",
    "Linear",
    "LogSoftmax",
    "MSELoss",
    "MaxPool1d",
    "MaxPool2d",
    "Module",
    "MultiHeadAttention",
    "PReLU",
    "PackedSequence",
    "Parameter",
    "PixelShuffle",
    "PixelUnshuffle",
    "RMSNorm",
    "RNNCell",
    "ReLU",
    "ReLU6",
    "ReflectionPad1d",
    "ReflectionPad2d",
    "ReplicationPad1d",
    "ReplicationPad2d",
    "Residual",
    "RotaryEmbedding",
    "Sequential",
    "SiLU",
    "Sigmoid",
    "SinusoidalEmbedding",
    "SmoothL1Loss",
    "Softmax",
    "SoftmaxLoss",
    "Softplus",
    "Tanh",
    "Transformer",
    "TransformerDecoder",
    "TransformerDecoderLayer",
    "TransformerEncoder",
    "TransformerEncoderLayer",
    "TransformerLayer",
    "Unflatten",
    "Upsample",
    "ZeroPad1d",
    "ZeroPad2d",
    "pack_padded_sequence",
    "pack_sequence",
    "pad_packed_sequence",
    "pad_sequence",
    "unpad_sequence",
]

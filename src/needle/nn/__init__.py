"""Modules: what networks are built from.

module         Parameter, Module: finding parameters, training mode, state on disk, moving
layers         Linear, Flatten, Sequential, Residual, Dropout, Identity
activations    ReLU and the other nonlinearities as modules
normalization  BatchNorm1d, LayerNorm1d
losses         what training minimises
checks         what layers and losses ask of their arguments
"""

from __future__ import annotations

from needle.nn.activations import (
    GELU,
    LogSoftmax,
    ReLU,
    Sigmoid,
    SiLU,
    Softmax,
    Softplus,
    Tanh,
)
from needle.nn.layers import Dropout, Flatten, Identity, Linear, Residual, Sequential
from needle.nn.losses import (
    BCEWithLogitsLoss,
    CrossEntropyLoss,
    HuberLoss,
    L1Loss,
    MSELoss,
    SoftmaxLoss,
)
from needle.nn.module import Module, Parameter
from needle.nn.normalization import BatchNorm1d, LayerNorm1d

__all__ = [
    "GELU",
    "BCEWithLogitsLoss",
    "BatchNorm1d",
    "CrossEntropyLoss",
    "Dropout",
    "Flatten",
    "HuberLoss",
    "Identity",
    "L1Loss",
    "LayerNorm1d",
    "Linear",
    "LogSoftmax",
    "MSELoss",
    "Module",
    "Parameter",
    "ReLU",
    "Residual",
    "Sequential",
    "SiLU",
    "Sigmoid",
    "Softmax",
    "SoftmaxLoss",
    "Softplus",
    "Tanh",
]

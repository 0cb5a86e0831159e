"""Optimisers, and what goes with them.

optimizer    Optimizer: parameter groups, the step over them, saving and restoring
sgd          SGD, with momentum
adam         Adam, AdamW
adaptive     RMSprop, Adagrad
lion         Lion
schedules    the learning rate as a function of the step
clipping     gradients within bounds, by norm and by value
ema          EMA: an exponential moving average of the parameters
options      the numbers of an optimiser and their ranges
parameters   which Tensors are meant
state        what is remembered per parameter; state dicts
"""

from __future__ import annotations

from needle.optim.adam import Adam, AdamW
from needle.optim.adaptive import Adagrad, RMSprop
from needle.optim.clipping import clip_grad_norm, clip_grad_value
from needle.optim.ema import EMA
from needle.optim.lion import Lion
from needle.optim.optimizer import Optimizer
from needle.optim.options import Flag, Option
from needle.optim.schedules import (
    CosineAnnealingLR,
    ExponentialLR,
    LambdaLR,
    LinearWarmup,
    MultiStepLR,
    OneCycleLR,
    Schedule,
    SequentialLR,
    StepLR,
    WarmupCosine,
)
from needle.optim.sgd import SGD
from needle.optim.state import State

__all__ = [
    "EMA",
    "SGD",
    "Adagrad",
    "Adam",
    "AdamW",
    "CosineAnnealingLR",
    "ExponentialLR",
    "Flag",
    "LambdaLR",
    "LinearWarmup",
    "Lion",
    "MultiStepLR",
    "OneCycleLR",
    "Optimizer",
    "Option",
    "RMSprop",
    "Schedule",
    "SequentialLR",
    "State",
    "StepLR",
    "WarmupCosine",
    "clip_grad_norm",
    "clip_grad_value",
]

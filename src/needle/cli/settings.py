"""What may be asked for, and what holds where nothing is said."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

__all__ = [
    "LEARNING_RATES",
    "MODELS",
    "USUAL",
    "USUAL_HOLDOUT",
    "WITH_MOMENTUM",
    "InfoOptions",
    "PredictOptions",
    "TrainOptions",
    "Usual",
]

MODELS = ("two-layer", "mlp-resnet")

# The learning rate of each optimiser, unless one is given; all end near the same accuracy.
LEARNING_RATES = {
    "sgd": 0.4,
    "adam": 0.002,
    "adamw": 0.002,
    "rmsprop": 0.001,
    "adagrad": 0.02,
    "lion": 0.0003,
}
USUAL_HOLDOUT = 0.2
WITH_MOMENTUM = {"sgd": 0.9, "rmsprop": 0.0}


class Usual(NamedTuple):
    """What depends on the data unless it is given."""

    batch_size: int
    epochs: int
    hidden: int


USUAL = {
    "digits": Usual(batch_size=32, epochs=20, hidden=256),
    "mnist": Usual(batch_size=100, epochs=15, hidden=256),
    "npz": Usual(batch_size=32, epochs=30, hidden=128),
}


@dataclass(frozen=True)
class TrainOptions:
    """`needle train`, with the defaults filled in.

    batch_size  None: the usual one, but no more than there are examples
    momentum    None: the optimiser has none
    holdout     None: a fifth, where the data has no test set of its own
    out         None: a new folder
    """

    model: str
    data: str
    data_dir: str
    batch_size: int | None
    usual_batch_size: int
    lr: float
    epochs: int
    seed: int
    optimizer: str
    weight_decay: float
    momentum: float | None
    hidden: int
    holdout: float | None
    workers: int
    out: str | None
    overwrite: bool
    quiet: bool


@dataclass(frozen=True)
class PredictOptions:
    """`needle predict`."""

    run: str
    images: list[str]
    invert: bool
    json: bool


@dataclass(frozen=True)
class InfoOptions:
    """`needle info`."""

    json: bool

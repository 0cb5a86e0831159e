"""What may be asked for, and what holds where nothing is said."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, NamedTuple, TypeAlias

__all__ = [
    "CIFAR_MODELS",
    "LEARNING_RATES",
    "MODELS",
    "OF_ONE_CALL",
    "TEXT_MODELS",
    "USUAL",
    "USUAL_HOLDOUT",
    "WITH_MOMENTUM",
    "Cifar10Options",
    "GenerateOptions",
    "GptOptions",
    "InfoOptions",
    "LmOptions",
    "PredictOptions",
    "RecipeOptions",
    "TrainJob",
    "TrainOptions",
    "Usual",
    "kept_options",
]

MODELS = ("two-layer", "mlp-resnet")
CIFAR_MODELS = ("resnet9", "resnet18")
TEXT_MODELS = ("lstm", "gru", "rnn", "transformer")

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
OF_ONE_CALL = ("out", "overwrite", "quiet")
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


@dataclass(frozen=True, kw_only=True)
class Common:
    """What every recipe of `needle train` can be told.

    out         None: a new folder
    save_every  None: a checkpoint after each evaluation only; N: after each N steps too
    """

    seed: int = 0
    save_every: int | None = None
    out: str | None = None
    overwrite: bool = False
    quiet: bool = False


@dataclass(frozen=True, kw_only=True)
class TrainOptions(Common):
    """`needle train`, with the defaults filled in.

    batch_size  None: the usual one, but no more than there are examples
    momentum    None: the optimiser has none
    holdout     None: a fifth, where the data has no test set of its own
    """

    model: str = "two-layer"
    data: str = "digits"
    data_dir: str = "data"
    batch_size: int | None = None
    usual_batch_size: int
    lr: float
    epochs: int
    optimizer: str = "adam"
    weight_decay: float = 1e-4
    momentum: float | None
    hidden: int
    holdout: float | None = None
    workers: int = 0


@dataclass(frozen=True, kw_only=True)
class Cifar10Options(Common):
    """`needle train cifar10`."""

    model: str = "resnet9"
    data_dir: str = "data"
    batch_size: int = 64
    lr: float = 0.002
    epochs: int = 12
    weight_decay: float = 0.01
    no_augment: bool = False
    workers: int = 0


@dataclass(frozen=True, kw_only=True)
class LmOptions(Common):
    """`needle train lm`."""

    data: str
    model: str = "lstm"
    embedding: int = 200
    hidden: int = 200
    layers: int = 2
    dropout: float = 0.2
    seq_len: int = 35
    batch_size: int = 20
    lr: float = 0.002
    epochs: int = 6
    clip: float = 0.5
    weight_decay: float = 0.0
    vocabulary: int = 10_000


@dataclass(frozen=True, kw_only=True)
class GptOptions(Common):
    """`needle train gpt`."""

    data: str
    layers: int = 4
    heads: int = 4
    width: int = 128
    context: int = 64
    dropout: float = 0.0
    batch_size: int = 16
    lr: float = 0.002
    steps: int = 3000
    warmup: int = 100
    eval_every: int = 500
    clip: float = 1.0
    weight_decay: float = 0.1
    holdout: float = 0.1


RecipeOptions: TypeAlias = TrainOptions | Cifar10Options | LmOptions | GptOptions


def kept_options(options: RecipeOptions) -> dict[str, Any]:
    """The options by name that a run is gone on with: all but those of this call alone."""
    return {name: value for name, value in asdict(options).items() if name not in OF_ONE_CALL}


@dataclass(frozen=True)
class TrainJob:
    """One call of `needle train`.

    recipe   examples (the one without a word of its own), cifar10, lm or gpt
    options  of that recipe; of a run that is gone on with, its own
    resume   the run folder to go on with
    """

    recipe: str
    options: RecipeOptions
    resume: str | None = None


@dataclass(frozen=True)
class PredictOptions:
    """`needle predict`."""

    run: str
    images: list[str]
    invert: bool
    json: bool


@dataclass(frozen=True)
class GenerateOptions:
    """`needle generate`.

    prompt  None: where a text begins
    stop    None: after `tokens`
    """

    run: str
    prompt: str | None = None
    tokens: int = 300
    temperature: float = 0.8
    top_k: int | None = None
    top_p: float | None = None
    seed: int = 0
    stop: str | None = None


@dataclass(frozen=True)
class InfoOptions:
    """`needle info`."""

    json: bool

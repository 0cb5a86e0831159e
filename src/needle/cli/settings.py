"""What may be asked of each command, and what holds where nothing is said.

What the recipes of `needle train` can be told besides stands with each of them.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

__all__ = [
    "OF_ONE_CALL",
    "Common",
    "GenerateOptions",
    "InfoOptions",
    "PredictOptions",
    "TrainJob",
    "kept_options",
]

OF_ONE_CALL = ("out", "overwrite", "quiet")


@dataclass(frozen=True, kw_only=True)
class Common:
    """What every recipe of `needle train` can be told.

    out         None: a new folder
    save_every  None: a checkpoint after each evaluation only; N: after each N steps too
    eager       one operator after the other, not compiled to one program a step
    """

    seed: int = 0
    eager: bool = False
    save_every: int | None = None
    out: str | None = None
    overwrite: bool = False
    quiet: bool = False


def kept_options(options: Common) -> dict[str, Any]:
    """The options by name that a run is gone on with: all but those of this call alone."""
    return {name: value for name, value in asdict(options).items() if name not in OF_ONE_CALL}


@dataclass(frozen=True)
class TrainJob:
    """One call of `needle train`.

    recipe   examples (the one without a word of its own), cifar10, lm or gpt
    options  of that recipe, so of its own class; of a run that is gone on with, its own
    resume   the run folder to go on with
    """

    recipe: str
    options: Any
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

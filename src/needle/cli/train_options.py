"""The options of `needle train` that all recipes have, and which a resumed run may change."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any, NoReturn

from needle.cli.checkpoint import read_plan
from needle.cli.grammar import Parser, adder, did_you_mean, path, whole
from needle.cli.recipes import RECIPES, WORDS, recipe
from needle.cli.settings import OF_ONE_CALL, Common, TrainJob
from needle.errors import FileFormatError, OptionError

__all__ = ["add_train_options", "train_job"]

# what may differ when a run is gone on with: how far, where the data lies, what is shown
_FREE = {"epochs", "steps", "data", "data_dir", "workers", "save_every", "eager", "quiet"}


def train_job(parser: Parser, words: Sequence[str]) -> TrainJob:
    """The words after `needle train` as a job.

    Raises OptionError and FileFormatError for a run that cannot be gone on with so.
    """
    word = words[0] if words and not words[0].startswith("-") else None
    if word is None:
        found = _recipe_to_resume(words) or "examples"
    elif word in WORDS:
        found, words = word, words[1:]
    else:
        _not_a_recipe(parser, word)
    if found != "examples":
        parser = _recipe_parser(found)
    said = vars(parser.parse_args(words))
    resume = said.pop("resume", None)
    if resume is not None:
        return TrainJob(found, _resumed(found, resume, said), resume)
    return TrainJob(found, recipe(found).options(parser, said))


def add_train_options(parser: Parser, word: str) -> None:
    """Give the parser the options of a recipe. What is not said is not in its namespace."""
    parser.argument_default = argparse.SUPPRESS
    if word == "examples":
        parser.known_elsewhere = _known_in_a_recipe
    recipe(word).add_options(parser)
    add = adder(parser, Common())
    add("--seed", whole(0, 2**32 - 1), "of all draws")
    parser.add_argument(
        "--eager", action="store_true", help="run operators one by one; do not compile the step"
    )
    add("--save-every", whole(1), "a checkpoint every N steps, besides those after evaluations")
    add("--resume", path("run folder"), "go on with this run", metavar="RUN")
    add("--out", path("folder"), "the run folder (runs/TIME-DATA-MODEL)", metavar="DIR")
    parser.add_argument(
        "--overwrite", action="store_true", help="write into --out though it holds files"
    )
    parser.add_argument("--quiet", action="store_true", help="print the last lines only")


def _known_in_a_recipe(name: str) -> str | None:
    """What to say of a recipe that comes too late, or of an option that only a recipe has."""
    if name in WORDS:
        return f"expected the recipe first: needle train {name} ..."
    words = [word for word in WORDS if _recipe_parser(word).has_option(name)]
    if words:
        first = f"needle train {words[0]} {name} ..."
        return f"{name}: expected a recipe first, {' or '.join(words)}: {first}"
    return None


def _recipe_parser(word: str) -> Parser:
    parser = Parser(prog=f"needle train {word}", allow_abbrev=False)
    add_train_options(parser, word)
    return parser


def _not_a_recipe(parser: Parser, word: str) -> NoReturn:
    hint = did_you_mean(word, WORDS)
    parser.error(f"expected options, or a recipe: {', '.join(WORDS)}; got {word!r}.{hint}")


# -- going on with a run -------------------------------------------------------------------------


def _recipe_to_resume(words: Sequence[str]) -> str | None:
    """The recipe of the run after --resume, where that is among the words."""
    finder = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    finder.add_argument("--resume", nargs="?")
    run = finder.parse_known_args(words)[0].resume
    if run is None:
        return None
    found = read_plan(run).recipe
    if found not in RECIPES:
        raise FileFormatError(
            f"--resume: expected a checkpoint of the recipes {', '.join(RECIPES)}, got {run}, "
            f"one of {found!r}."
        )
    return found


def _resumed(word: str, run: str, said: Mapping[str, Any]) -> Any:
    """The options that the run was begun with, with those of `said` that may be others."""
    for name in ("out", "overwrite"):
        if name in said:
            raise OptionError(f"--{name}: not with --resume, which goes on in the run's folder.")
    plan = read_plan(run)
    if plan.recipe != word:
        raise OptionError(
            f"--resume: expected a run of needle train {word}, got {run}, one of {plan.recipe}."
        )
    for name, value in said.items():
        if name not in _FREE and value != plan.options.get(name):
            begun_with = plan.options.get(name, "none")
            raise OptionError(
                f"--{name.replace('_', '-')}: expected {begun_with}, as {run} was begun with, got "
                f"{value}. Leave it out, or begin another run without --resume."
            )
    kind = recipe(word).OPTIONS
    if plan.options.keys() != {field.name for field in fields(kind)}.difference(OF_ONE_CALL):
        raise FileFormatError(
            f"--resume: expected a checkpoint with the options of needle train {word}, got "
            f"others in {run}. Is it of another version?"
        )
    return kind(**(plan.options | dict(said)))

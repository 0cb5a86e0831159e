"""The options of `needle train` and its recipes, and which of them a resumed run may change."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from typing import Any, NoReturn

from needle.cli.checkpoint import read_plan
from needle.cli.grammar import Parser, did_you_mean, number, one_of, path, share, whole
from needle.cli.settings import (
    CIFAR_MODELS,
    LEARNING_RATES,
    MODELS,
    OF_ONE_CALL,
    TEXT_MODELS,
    USUAL,
    WITH_MOMENTUM,
    Cifar10Options,
    Common,
    GptOptions,
    LmOptions,
    TrainJob,
    TrainOptions,
)
from needle.errors import FileFormatError, OptionError

__all__ = ["add_train_options", "train_job"]

_WORDS = ("cifar10", "lm", "gpt")
# what may differ when a run is gone on with: how far, where the data lies, what is shown
_FREE = {"epochs", "steps", "data", "data_dir", "workers", "save_every", "quiet"}


def train_job(parser: Parser, words: Sequence[str]) -> TrainJob:
    """The words after `needle train` as a job.

    Raises OptionError and FileFormatError for a run that cannot be gone on with so.
    """
    word = words[0] if words and not words[0].startswith("-") else None
    if word is None:
        recipe = _recipe_to_resume(words) or "examples"
    elif word in _WORDS:
        recipe, words = word, words[1:]
    else:
        _not_a_recipe(parser, word)
    if recipe != "examples":
        parser = _recipe_parser(recipe)
    said = vars(parser.parse_args(words))
    resume = said.pop("resume", None)
    if resume is not None:
        return TrainJob(recipe, _resumed(recipe, resume, said), resume)
    return TrainJob(recipe, _OPTIONS[recipe][1](parser, said))


def _known_in_a_recipe(name: str) -> str | None:
    """What to say of a recipe that comes too late, or of an option that only a recipe has."""
    if name in _WORDS:
        return f"expected the recipe first: needle train {name} ..."
    for word in _WORDS:
        if _recipe_parser(word).has_option(name):
            return f"{name}: expected a recipe first: needle train {word} {name} ..."
    return None


def _recipe_parser(recipe: str) -> Parser:
    parser = Parser(prog=f"needle train {recipe}", allow_abbrev=False)
    add_train_options(parser, recipe)
    return parser


def _not_a_recipe(parser: Parser, word: str) -> NoReturn:
    hint = did_you_mean(word, _WORDS)
    parser.error(f"expected options, or a recipe: {', '.join(_WORDS)}; got {word!r}.{hint}")


# -- going on with a run -------------------------------------------------------------------------


def _recipe_to_resume(words: Sequence[str]) -> str | None:
    """The recipe of the run after --resume, where that is among the words."""
    finder = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    finder.add_argument("--resume", nargs="?")
    run = finder.parse_known_args(words)[0].resume
    if run is None:
        return None
    found = read_plan(run).recipe
    if found not in _OPTIONS:
        raise FileFormatError(
            f"--resume: expected a checkpoint of the recipes {', '.join(_OPTIONS)}, got {run}, "
            f"one of {found!r}."
        )
    return found


def _resumed(recipe: str, run: str, said: Mapping[str, Any]) -> Any:
    """The options that the run was begun with, with those of `said` that may be others."""
    plan = read_plan(run)
    if plan.recipe != recipe:
        raise OptionError(
            f"--resume: expected a run of needle train {recipe}, got {run}, one of {plan.recipe}."
        )
    for name, value in said.items():
        if name not in _FREE and value != plan.options.get(name):
            begun_with = plan.options.get(name, "none")
            raise OptionError(
                f"--{name.replace('_', '-')}: expected {begun_with}, as {run} was begun with, got "
                f"{value}. Leave it out, or begin another run without --resume."
            )
    kind = _OPTIONS[recipe][2]
    if plan.options.keys() != {field.name for field in fields(kind)}.difference(OF_ONE_CALL):
        raise FileFormatError(
            f"--resume: expected a checkpoint with the options of needle train {recipe}, got "
            f"others in {run}. Is it of another version?"
        )
    return kind(**(plan.options | dict(said)))


# -- the parsers ---------------------------------------------------------------------------------


def add_train_options(parser: Parser, recipe: str) -> None:
    """Give the parser the options of a recipe. What is not said is not in its namespace."""
    parser.argument_default = argparse.SUPPRESS
    _OPTIONS[recipe][0](parser)
    add = _adder(parser, Common())
    add("--seed", whole(0, 2**32 - 1), "of all draws")
    add("--save-every", whole(1), "a checkpoint every N steps, besides those after evaluations")
    add("--resume", path("run folder"), "go on with this run", metavar="RUN")
    add("--out", path("folder"), "the run folder (runs/TIME-DATA-MODEL)", metavar="DIR")
    parser.add_argument(
        "--overwrite", action="store_true", help="write into --out though it holds files"
    )
    parser.add_argument("--quiet", action="store_true", help="print the last lines only")


def _adder(parser: Parser, defaults: Any) -> Callable[..., None]:
    """Adds an option with the default that the settings have, if it is a word or a number."""

    def add(name: str, kind: Any, summary: str, metavar: str = "N") -> None:
        default = getattr(defaults, name.removeprefix("--").replace("-", "_"), None)
        shown = "" if default is None else f" ({default})"
        parser.add_argument(name, type=kind, metavar=metavar, help=f"{summary}{shown}")

    return add


def _add_examples_options(parser: Parser) -> None:
    add = _adder(parser, TrainOptions(lr=0, epochs=0, hidden=0, momentum=None, usual_batch_size=0))
    add("--model", one_of(MODELS), ", ".join(MODELS), "MODEL")
    add("--data", path("data set"), "digits, mnist, or an .npz file with X and y", "DATA")
    add("--data-dir", path("folder"), "where MNIST's files are", "DIR")
    parser.add_argument("--batch-size", type=whole(1), metavar="N", help="examples per step")
    parser.add_argument("--lr", type=number(), metavar="X", help="learning rate")
    parser.add_argument("--epochs", type=whole(1), metavar="N", help="passes over the data")
    add("--optimizer", one_of(LEARNING_RATES), ", ".join(LEARNING_RATES), "NAME")
    add("--weight-decay", number(), "how strongly weights are drawn towards 0", "X")
    add("--momentum", number(below=1), "of sgd (0.9) or rmsprop (0)", "X")
    parser.add_argument(
        "--hidden", type=whole(2, 2**31 - 1), metavar="N", help="width of the hidden layer"
    )
    add("--holdout", share, "share kept for testing (0.2)", "X")
    add("--workers", whole(0), "threads that load data")
    parser.description = (
        "Train a network and keep all about it. Without a recipe: a network of linear layers on "
        "digits or other examples. cifar10: a convolutional network on images. lm: a language "
        "model of words. gpt: a GPT on the characters of a text."
    )
    parser.known_elsewhere = _known_in_a_recipe
    parser.usage = "needle train [cifar10 | lm | gpt] [options]"
    parser.epilog = (
        "Without a number, options take what suits the data and the optimiser. The recipes have "
        "options of their own: needle train gpt --help."
    )


def _add_cifar10_options(parser: Parser) -> None:
    parser.description = "train a convolutional network on the images of CIFAR-10"
    add = _adder(parser, Cifar10Options())
    add("--model", one_of(CIFAR_MODELS), ", ".join(CIFAR_MODELS), "MODEL")
    add("--data-dir", path("folder"), "cifar-10-batches-py, or the folder that it is in", "DIR")
    add("--batch-size", whole(1), "images per step")
    add("--lr", number(), "highest learning rate, of AdamW", "X")
    add("--epochs", whole(1), "passes over the training images")
    add("--weight-decay", number(), "how strongly weights are drawn towards 0", "X")
    parser.add_argument(
        "--no-augment", action="store_true", help="train on the images as they are, not shifted "
        "and mirrored at random",
    )  # fmt: skip
    add("--workers", whole(0), "threads that load data")


def _add_lm_options(parser: Parser) -> None:
    parser.description = "train a language model of words"
    add = _adder(parser, LmOptions(data=""))
    add("--model", one_of(TEXT_MODELS), ", ".join(TEXT_MODELS), "MODEL")
    parser.add_argument(
        "--data",
        type=path("text"),
        metavar="TEXT",
        help="a folder with train.txt and test.txt (valid.txt is used if there), or a text file",
    )
    add("--vocabulary", whole(2), "most words told apart in a text file; others are <unk>")
    add("--embedding", whole(1), "numbers per word")
    add("--hidden", whole(1), "width of the sequence model")
    add("--layers", whole(1), "of the sequence model")
    add("--dropout", number(below=1), "share zeroed between layers in training", "X")
    add("--seq-len", whole(1), "words per step and column")
    add("--batch-size", whole(1), "columns that the text is laid out in")
    add("--lr", number(), "learning rate, of Adam; it sinks to a tenth", "X")
    add("--clip", number(), "longest that a gradient may be", "X")
    add("--weight-decay", number(), "how strongly weights are drawn towards 0", "X")
    add("--epochs", whole(1), "passes over the text")


def _add_gpt_options(parser: Parser) -> None:
    parser.description = "train a GPT on the characters of a text"
    add = _adder(parser, GptOptions(data=""))
    parser.add_argument("--data", type=path("text"), metavar="FILE", help="any text file in UTF-8")
    add("--layers", whole(1), "blocks of attention and feed-forward layers")
    add("--heads", whole(1), "of the attention; a divisor of the width")
    add("--width", whole(1), "numbers per character")
    add("--context", whole(1), "characters that it looks back on")
    add("--dropout", number(below=1), "share zeroed in training", "X")
    add("--batch-size", whole(1), "pieces of text per step")
    add("--steps", whole(1), "steps of the optimiser")
    add("--lr", number(), "highest learning rate, of AdamW; it sinks to a tenth", "X")
    add("--warmup", whole(0), "steps until the learning rate is at its highest")
    add("--clip", number(), "longest that a gradient may be", "X")
    add("--weight-decay", number(), "how strongly weights are drawn towards 0", "X")
    add("--eval-every", whole(1), "steps between evaluations")
    add("--holdout", share, "share of the text kept for validation", "X")


# -- what holds where nothing is said ------------------------------------------------------------


def _examples_options(parser: Parser, said: Mapping[str, Any]) -> TrainOptions:
    usual = USUAL.get(said.get("data", "digits"), USUAL["npz"])
    optimizer = said.get("optimizer", "adam")
    if "momentum" in said and optimizer not in WITH_MOMENTUM:
        parser.error(
            f"--momentum: expected with --optimizer {' or '.join(WITH_MOMENTUM)}, got {optimizer}."
        )
    defaults = {
        "usual_batch_size": usual.batch_size,
        "epochs": usual.epochs,
        "hidden": usual.hidden,
        "lr": LEARNING_RATES[optimizer],
        "momentum": WITH_MOMENTUM.get(optimizer),
    }
    return TrainOptions(**(defaults | dict(said)))


def _text_options(kind: Any) -> Callable[[Parser, Mapping[str, Any]], Any]:
    def options(parser: Parser, said: Mapping[str, Any]) -> Any:
        if "data" not in said:
            parser.error("--data: expected a text to learn from, got none.")
        return kind(**said)

    return options


# recipe: what gives a parser its options, what makes settings of them, and their class
_OPTIONS: dict[str, tuple[Callable[[Parser], None], Callable[..., Any], Any]] = {
    "examples": (_add_examples_options, _examples_options, TrainOptions),
    "cifar10": (
        _add_cifar10_options,
        lambda parser, said: Cifar10Options(**said),
        Cifar10Options,
    ),
    "lm": (_add_lm_options, _text_options(LmOptions), LmOptions),
    "gpt": (_add_gpt_options, _text_options(GptOptions), GptOptions),
}

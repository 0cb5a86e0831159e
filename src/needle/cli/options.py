"""The command line's grammar: from words to options, and one line for what is not understood."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Mapping, Sequence
from difflib import get_close_matches
from typing import Any, NoReturn

from needle.cli.settings import (
    LEARNING_RATES,
    MODELS,
    USUAL,
    WITH_MOMENTUM,
    InfoOptions,
    PredictOptions,
    TrainOptions,
)
from needle.version import __version__

__all__ = ["parse"]


def parse(arguments: Sequence[str]) -> tuple[str, TrainOptions | PredictOptions | InfoOptions]:
    """The job and its options. Prints one line and exits with 2 for what is not understood."""
    parser, jobs = _parsers()
    if not arguments or arguments[0] not in jobs:
        _without_job(parser, jobs, arguments)
    job = arguments[0]
    return job, _filled(job, jobs[job], jobs[job].parse_args(arguments[1:]))


def _without_job(
    parser: _Parser, jobs: Mapping[str, _Parser], arguments: Sequence[str]
) -> NoReturn:
    """Help, the version, or what was meant."""
    if not arguments:
        parser.print_help()
        parser.exit(2)
    name = arguments[0].partition("=")[0]
    owners = [job for job, known in jobs.items() if known.has_option(name)]
    if owners and not parser.has_option(name):
        parser.error(f"{name}: expected a command first: {parser.prog} {owners[0]} {name} ...")
    if not arguments[0].startswith("-"):
        hint = _did_you_mean(arguments[0], jobs)
        parser.error(f"expected a command: {', '.join(jobs)}; got {arguments[0]!r}.{hint}")
    parser.parse_args(arguments)
    parser.error("expected a command after the options.")


def _filled(
    job: str, parser: _Parser, said: argparse.Namespace
) -> TrainOptions | PredictOptions | InfoOptions:
    if job == "predict":
        return PredictOptions(said.run, said.images, said.invert, said.json)
    if job == "info":
        return InfoOptions(said.json)
    usual = USUAL.get(said.data, USUAL["npz"])
    if said.momentum is not None and said.optimizer not in WITH_MOMENTUM:
        parser.error(
            f"--momentum: expected with --optimizer {' or '.join(WITH_MOMENTUM)}, "
            f"got {said.optimizer}."
        )
    defaults = {
        "usual_batch_size": usual.batch_size,
        "epochs": usual.epochs,
        "hidden": usual.hidden,
        "lr": LEARNING_RATES[said.optimizer],
        "momentum": WITH_MOMENTUM.get(said.optimizer),
        "batch_size": None,
        "holdout": None,
        "out": None,
    }
    given = {name: value for name, value in vars(said).items() if value is not None}
    return TrainOptions(**(defaults | given))


# -- the parsers ---------------------------------------------------------------------------------


class _Parser(argparse.ArgumentParser):
    """A parser whose errors are one line, with the option that was probably meant."""

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        said, extra = self.parse_known_args(args, namespace)
        if extra:
            name = next((word for word in extra if word.startswith("-")), extra[0])
            name = name.partition("=")[0]
            if not name.startswith("-"):
                self.error(f"expected options only, got {name!r}: it takes no arguments.")
            hint = _did_you_mean(name, self._option_string_actions)
            self.error(f"{name}: expected an option that exists.{hint}")
        return said

    def has_option(self, name: str) -> bool:
        """Whether `name`, such as --lr, is one of this parser's options."""
        return name in self._option_string_actions

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message.removeprefix('argument ')}\n")


def _did_you_mean(word: str, known: Any) -> str:
    near = get_close_matches(word, list(known), n=1)
    return f" Did you mean {near[0]}?" if near else " See --help."


def _parsers() -> tuple[_Parser, dict[str, _Parser]]:
    parser = _Parser(prog="needle", description="Deep learning that one can read.")
    parser.add_argument("--version", action="version", version=f"needle {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", title="commands")
    jobs = {
        "train": _train_parser(_job(commands, "train", "train a network and keep all about it")),
        "predict": _predict_parser(_job(commands, "predict", "ask a trained network about images")),
        "info": _job(commands, "info", "versions, devices, the processor"),
    }
    jobs["info"].add_argument("--json", action="store_true", help="print JSON")
    return parser, jobs


def _job(commands: Any, name: str, summary: str) -> _Parser:
    parser = commands.add_parser(name, help=summary, description=summary, allow_abbrev=False)
    assert isinstance(parser, _Parser)
    return parser


def _train_parser(parser: _Parser) -> _Parser:
    add = parser.add_argument
    add("--model", type=_one_of(MODELS), default="two-layer", help="two-layer or mlp-resnet")
    add("--data", default="digits", help="digits, mnist, or an .npz file with X and y")
    add(
        "--data-dir",
        type=_folder,
        default="data",
        metavar="DIR",
        help="where MNIST's files are (data)",
    )
    add("--batch-size", type=_whole(1), metavar="N", help="examples per step")
    add("--lr", type=_number(), help="learning rate")
    add("--epochs", type=_whole(1), metavar="N", help="passes over the training data")
    add("--seed", type=_whole(0, 2**32 - 1), default=0, metavar="N", help="of all draws (0)")
    add("--optimizer", type=_one_of(LEARNING_RATES), default="adam", help=", ".join(LEARNING_RATES))
    add("--weight-decay", type=_number(), default=1e-4, metavar="X", help="(0.0001)")
    add("--momentum", type=_number(below=1), metavar="X", help="of sgd (0.9) or rmsprop (0)")
    add("--hidden", type=_whole(2, 2**31 - 1), metavar="N", help="width of the hidden layer")
    add("--holdout", type=_share, metavar="X", help="share kept for testing (0.2)")
    add("--workers", type=_whole(0), default=0, metavar="N", help="threads that load data (0)")
    add("--out", type=_folder, metavar="DIR", help="the run folder (runs/TIME-DATA-MODEL)")
    add("--overwrite", action="store_true", help="write into --out though it holds files")
    add("--quiet", action="store_true", help="print the last lines only")
    parser.epilog = "Without a number, options take what suits the data and the optimiser."
    return parser


def _predict_parser(parser: _Parser) -> _Parser:
    add = parser.add_argument
    add("run", metavar="RUN", help="a run folder of `needle train`")
    add("images", metavar="IMAGE", nargs="+", help="PNG files, one object in each")
    add(
        "--invert",
        action="store_true",
        help="swap light and dark: digits and mnist are light strokes on a dark ground, so "
        "use it for dark ink on white paper",
    )
    add("--json", action="store_true", help="print JSON")
    return parser


# -- values --------------------------------------------------------------------------------------


def _one_of(names: Any) -> Callable[[str], str]:
    def name(text: str) -> str:
        if text not in names:
            near = get_close_matches(text, list(names), n=1)
            hint = f" Did you mean {near[0]}?" if near else ""
            raise argparse.ArgumentTypeError(f"expected {', '.join(names)}; got {text!r}.{hint}")
        return text

    return name


def _whole(least: int, most: float = math.inf) -> Callable[[str], int]:
    def whole(text: str) -> int:
        try:
            number = int(text)
        except ValueError:
            number = least - 1
        if not least <= number <= most:
            limit = "" if most == math.inf else f" to {most}"
            raise argparse.ArgumentTypeError(
                f"expected a whole number from {least}{limit or ' on'}, got {text!r}."
            )
        return number

    return whole


def _number(below: float = math.inf) -> Callable[[str], float]:
    def number(text: str) -> float:
        value = _float(text)
        if not 0 <= value < below:
            kind = "finite number from 0 on" if below == math.inf else f"number in [0, {below:g})"
            raise argparse.ArgumentTypeError(f"expected a {kind}, got {text!r}.")
        return value

    return number


def _folder(text: str) -> str:
    if not text.strip():
        raise argparse.ArgumentTypeError(f"expected the name of a folder, got {text!r}.")
    return text


def _share(text: str) -> float:
    if not 0 < _float(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a share between 0 and 1, got {text!r}.")
    return float(text)


def _float(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan

"""The command line's grammar: from words to options, and one line for what is not understood."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

from needle.cli.grammar import Parser, did_you_mean, number, path, share_or_all, whole
from needle.cli.settings import GenerateOptions, InfoOptions, PredictOptions, TrainJob
from needle.cli.train_options import add_train_options, train_job
from needle.version import __version__

__all__ = ["Options", "parse"]

Options = TrainJob | PredictOptions | GenerateOptions | InfoOptions


def parse(arguments: Sequence[str]) -> tuple[str, Options]:
    """The job and its options. Prints one line and exits with 2 for what is not understood."""
    parser, jobs = _parsers()
    if not arguments or arguments[0] not in jobs:
        _without_job(parser, jobs, arguments)
    job, words = arguments[0], arguments[1:]
    if job == "train":
        return job, train_job(jobs[job], words)
    said = vars(jobs[job].parse_args(words))
    options: Any = {"predict": PredictOptions, "generate": GenerateOptions, "info": InfoOptions}
    return job, options[job](**said)


def _without_job(parser: Parser, jobs: Mapping[str, Parser], arguments: Sequence[str]) -> NoReturn:
    """Help, the version, or what was meant."""
    if not arguments:
        parser.print_help()
        parser.exit(2)
    name = arguments[0].partition("=")[0]
    owners = [job for job, known in jobs.items() if known.has_option(name)]
    if owners and not parser.has_option(name):
        parser.error(f"{name}: expected a command first: {parser.prog} {owners[0]} {name} ...")
    if not arguments[0].startswith("-"):
        hint = did_you_mean(arguments[0], jobs)
        parser.error(f"expected a command: {', '.join(jobs)}; got {arguments[0]!r}.{hint}")
    parser.parse_args(arguments)
    parser.error("expected a command after the options.")


def _parsers() -> tuple[Parser, dict[str, Parser]]:
    parser = Parser(prog="needle", description="Deep learning that one can read.")
    parser.add_argument("--version", action="version", version=f"needle {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", title="commands")
    jobs = {
        "train": _job(commands, "train", "train a network and keep all about it"),
        "predict": _job(commands, "predict", "ask a trained network about images"),
        "generate": _job(commands, "generate", "let a trained language model write"),
        "info": _job(commands, "info", "versions, devices, the processor"),
    }
    add_train_options(jobs["train"], "examples")
    _add_predict_options(jobs["predict"])
    _add_generate_options(jobs["generate"])
    jobs["info"].add_argument("--json", action="store_true", help="print JSON")
    return parser, jobs


def _job(commands: Any, name: str, summary: str) -> Parser:
    parser = commands.add_parser(name, help=summary, description=summary, allow_abbrev=False)
    assert isinstance(parser, Parser)
    return parser


def _add_predict_options(parser: Parser) -> None:
    add = parser.add_argument
    add("run", metavar="RUN", help="a run folder of `needle train` or `needle train cifar10`")
    add("images", metavar="IMAGE", nargs="+", help="PNG files, one object in each")
    add(
        "--invert",
        action="store_true",
        help="swap light and dark: digits and mnist are light strokes on a dark ground, so "
        "use it for dark ink on white paper",
    )
    add("--json", action="store_true", help="print JSON")


def _add_generate_options(parser: Parser) -> None:
    add = parser.add_argument
    like = GenerateOptions("")
    add("run", metavar="RUN", help="a run folder of `needle train lm` or `gpt`")
    add("--prompt", metavar="TEXT", help="how the text begins (as a line does)")
    add(
        "--tokens",
        type=whole(1),
        default=like.tokens,
        metavar="N",
        help=f"characters or words to write ({like.tokens})",
    )
    add(
        "--temperature",
        type=number(),
        default=like.temperature,
        metavar="X",
        help=f"above 1 bolder, below 1 safer, 0 always the likeliest ({like.temperature})",
    )
    add("--top-k", type=whole(1), metavar="N", help="choose among the N likeliest only")
    add(
        "--top-p",
        type=share_or_all,
        metavar="X",
        help="choose among the likeliest that make up this share",
    )
    add("--seed", type=whole(0, 2**32 - 1), default=0, metavar="N", help="of the draws (0)")
    add("--stop", type=path("text"), metavar="TEXT", help="end where this has been written")

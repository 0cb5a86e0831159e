"""`needle generate`: a trained language model writes on."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from needle.cli.recipes.text import write_text
from needle.cli.run_folder import load_run
from needle.cli.settings import GenerateOptions
from needle.errors import OptionError

__all__ = ["generate"]


def generate(options: GenerateOptions) -> None:
    """Print the prompt, and what the network writes after it as it comes.

    The same seed gives the same text. Nothing is printed if something asked for cannot be.
    """
    model, vocabulary = load_run(options.run, "text")
    if options.prompt == "":
        raise OptionError(
            "--prompt: expected text to go on from, got ''. Leave it out to begin a line."
        )
    prompt = vocabulary.beginning if options.prompt is None else options.prompt
    pieces = write_text(
        model,
        vocabulary,
        prompt,
        options.tokens,
        np.random.default_rng(options.seed),
        temperature=options.temperature,
        top_k=options.top_k,
        top_p=options.top_p,
    )
    if options.stop is not None:
        pieces = _until(options.stop, pieces)
    shown = "" if options.prompt is None else prompt
    try:
        for piece in pieces:
            print(shown + piece, end="", flush=True)
            shown = ""
    except KeyboardInterrupt:
        print()  # so that what is said of it has a line of its own
        raise
    print()


def _until(stop: str, pieces: Iterator[str]) -> Iterator[str]:
    """The pieces up to where `stop` has been written; it is the last thing that is shown."""
    written = ""
    for piece in pieces:
        written += piece
        yield piece
        if stop in written:
            return

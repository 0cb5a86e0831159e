"""What `needle train` can train, one file per recipe; a module of each has the same names.

images    what the recipes for images share
examples  digits, MNIST, a file of the user's: networks of linear layers; has no word of its own
cifar10   convolutional networks
text      what the recipes for text share; vocabularies: ids of their characters and words
lm        words: recurrent networks, or a Transformer
gpt       characters: a GPT

`OPTIONS` is the class of a recipe's options; `add_options` gives them to a parser, `options` makes
them of what was said; `prepare` makes a Task of them. `KIND` says what a trained network takes,
"images" or "text"; `restore` makes the network again from what its file of weights says of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any, Protocol, cast

from needle import nn
from needle.cli.grammar import Parser
from needle.cli.settings import Common
from needle.cli.task import Task

__all__ = ["RECIPES", "WORDS", "Recipe", "recipe"]

WORDS = ("cifar10", "lm", "gpt")
RECIPES = ("examples", *WORDS)


class Recipe(Protocol):
    """What each of the modules has."""

    KIND: str
    OPTIONS: type[Common]

    @staticmethod
    def add_options(parser: Parser) -> None:
        """Give the parser a description, and the options that only this recipe has."""

    @staticmethod
    def options(parser: Parser, said: Mapping[str, Any]) -> Any:
        """An instance of OPTIONS; what does not go together is one line of the parser's."""

    @staticmethod
    def prepare(options: Any) -> Task:
        """Read the data, build the network and what trains it; writes nothing."""

    @staticmethod
    def restore(model: dict[str, Any], data: dict[str, Any]) -> tuple[nn.Module, Any]:
        """The network with fresh weights, and what to know of its data.

        model, data  as the Task's `about_model` and `about_data` gave them; raises KeyError,
                     TypeError, ValueError for anything else
        """


def recipe(word: str) -> Recipe:
    """The module of a recipe, imported when it is asked for."""
    if word not in RECIPES:
        raise ValueError(f"recipe: expected one of {', '.join(RECIPES)}, got {word!r}.")
    return cast(Recipe, import_module(f"needle.cli.recipes.{word}"))

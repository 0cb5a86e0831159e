"""What `needle train` can train, one file per recipe; a module of each has the same three names.

images    what the recipes for images share
examples  digits, MNIST, a file of the user's: networks of linear layers; has no word of its own
cifar10   convolutional networks
text      what the recipes for text share
lm        words: recurrent networks, or a Transformer
gpt       characters: a GPT

`KIND` says what a trained network takes, "images" or "text"; `prepare` makes a Task of options;
`restore` makes the network again from what its file of weights says of it.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any, Protocol, cast

from needle import nn
from needle.cli.task import Task

__all__ = ["RECIPES", "Recipe", "recipe"]

RECIPES = ("examples", "cifar10", "lm", "gpt")


class Recipe(Protocol):
    """What each of the modules has."""

    KIND: str

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

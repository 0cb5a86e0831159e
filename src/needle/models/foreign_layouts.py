"""A model's weights as PyTorch has them: their names there, and how they lie."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from needle import nn
from needle.autograd import Tensor
from needle.autograd.tensor import as_tensor
from needle.errors import StateDictError

__all__ = ["Entry", "ForeignNames", "entries"]


@dataclass(frozen=True)
class ForeignNames:
    """How the names of a model's weights differ from those in PyTorch's files.

    parts         a part of our dotted names, and what theirs have in its place; the first of
                  several is the one to write
    outer         parts that their names may begin with
    ignored       endings of names of what is no weight
    tied          pairs of their names: a file that has only the second means it for both
    inputs_first  parts that name Linears which some files have as (in, out)
    """

    parts: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    outer: tuple[str, ...] = ()
    ignored: tuple[str, ...] = ()
    tied: tuple[tuple[str, str], ...] = ()
    inputs_first: tuple[str, ...] = ()


@dataclass(frozen=True)
class Entry:
    """One of a model's weights.

    own         its name here
    tensor      its value here
    names       the names that it may have there
    layout      how it lies there: "turned", with the outputs first; "row", (n,) for our (1, n);
                "same"
    either_way  whether it is the weight of a Linear that some files have as (in, out)
    """

    own: str
    tensor: Tensor
    names: tuple[str, ...]
    layout: str
    either_way: bool

    @property
    def name(self) -> str:
        """The name there that is written."""
        return self.names[0]

    def shape(self, inputs_first: bool) -> tuple[int, ...]:
        """The shape there."""
        shape: tuple[int, ...] = self.tensor.shape
        if self._is_turned(inputs_first):
            return (shape[-1], shape[-2], *shape[:-2])
        return shape[1:] if self.layout == "row" else shape

    def as_ours(self, value: Any, inputs_first: bool) -> Tensor:
        """Their array in our layout. Raises StateDictError for another shape, and for
        numbers beyond the range of our dtype.
        """
        given = as_tensor(value)
        if given.shape != self.shape(inputs_first):
            raise StateDictError(f"expected shape {self.shape(inputs_first)}, got {given.shape}")
        self._require_range(given)
        if self._is_turned(inputs_first):  # (out, in, k1, k2) -> (k1, k2, in, out)
            return given.permute((*range(2, given.ndim), 1, 0))
        return given.reshape(self.tensor.shape)

    def _require_range(self, given: Tensor) -> None:
        if given.dtype == self.tensor.dtype or given.dtype.kind == "c":  # refused when loaded
            return
        values = given.numpy()
        with np.errstate(over="ignore"):
            lost = np.isfinite(values) & ~np.isfinite(values.astype(self.tensor.dtype))
        if lost.any():
            raise StateDictError(
                f"expected numbers that {self.tensor.dtype} holds, got {values[lost][0]}"
            )

    def as_theirs(self, inputs_first: bool) -> np.ndarray[Any, Any]:
        """Our array in their layout."""
        array = self.tensor.numpy()
        if self._is_turned(inputs_first):
            array = np.moveaxis(array, (-1, -2), (0, 1))
        return np.array(array.reshape(self.shape(inputs_first)), order="C")

    def _is_turned(self, inputs_first: bool) -> bool:
        return self.layout == "turned" and not (self.either_way and inputs_first)


def entries(model: nn.Module, names: ForeignNames) -> Iterator[Entry]:
    """What a file must hold, in the order of `state_dict`."""
    modules = dict(model.named_modules())
    for own, tensor in model.state_dict().items():
        path, _, last = own.rpartition(".")
        parts = _parts(own, modules)
        layout = _layout(modules.get(path), last)
        either_way = layout == "turned" and not set(names.inputs_first).isdisjoint(parts)
        yield Entry(own, tensor, _their_names(parts, names), layout, either_way)


# layers and cells whose weights have the axis of their outputs first in PyTorch and last here
_LAYERS = (nn.Linear, nn.Conv, nn.Conv1d, nn.Conv2d, nn.ConvTranspose1d, nn.ConvTranspose2d)
_CELLS = (nn.RNNCell, nn.LSTMCell, nn.GRUCell)
_NETWORKS = (nn.RNN, nn.LSTM, nn.GRU)


def _layout(module: nn.Module | None, attribute: str) -> str:
    if isinstance(module, nn.Linear) and attribute == "bias":
        return "row"
    turned = (isinstance(module, _LAYERS) and attribute == "weight") or (
        isinstance(module, _CELLS) and attribute.startswith("W_")
    )
    return "turned" if turned else "same"


def _parts(own: str, modules: Mapping[str, nn.Module]) -> list[str]:
    """The parts of the name that PyTorch would give it."""
    parts: list[str] = []
    path = own.split(".")
    for i, part in enumerate(path):
        module = modules.get(".".join(path[:i]))
        if isinstance(module, _NETWORKS):  # lstm_cells, 1, W_ih
            return [*parts, _in_cell(path[-1]) + _of_layer(module, int(path[-2]))]
        if isinstance(module, _CELLS):
            return [*parts, _in_cell(part)]
        if isinstance(module, nn.Attention) and part == "in_proj":
            return [*parts, "_".join(path[i:])]
        if not (isinstance(module, nn.Sequential) and part == "modules"):
            parts.append(part)
    return parts


def _in_cell(attribute: str) -> str:
    return attribute.replace("W_", "weight_")


def _of_layer(network: Any, cell: int) -> str:
    """What the names of a cell's weights end in."""
    if not network.bidirectional:
        return f"_l{cell}"
    return f"_l{cell // 2}" + ("_reverse" if cell % 2 else "")


def _their_names(parts: Sequence[str], names: ForeignNames) -> tuple[str, ...]:
    choices = itertools.product(*[names.parts.get(part, (part,)) for part in parts])
    return tuple([".".join(choice) for choice in choices])

"""What PyTorch's files of a model hold: which arrays, and by which names."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, product
from typing import Any

from needle import nn
from needle.autograd import Tensor
from needle.errors import DTypeError, StateDictError, kind_of
from needle.models.foreign_layouts import Entry, Weights
from needle.models.foreign_names import ForeignNames, Place
from needle.nn.module import walk

__all__ = ["Contents", "contents"]

Modules = Mapping[str, nn.Module]  # by every name that they have


@dataclass(frozen=True)
class Contents:
    """What a file may hold.

    weights  in the order of `state_dict`
    known    names that arrays may have, and the one of those that is written
    tied     pairs of names: a file that has only the second means it for both
    ignored  beginnings and endings of names of what is no weight
    """

    weights: Sequence[Weights]
    known: Mapping[str, str]
    tied: Sequence[tuple[str, str]]
    ignored: Sequence[tuple[str, str]]

    def is_ignored(self, name: str) -> bool:
        """Whether what has this name is no weight."""
        return any(
            name.startswith(beginning) and f".{name}".endswith(ending)
            for beginning, ending in self.ignored
        )


def contents(owner: str, model: Any) -> Contents:
    """What files of this model hold. `owner`: what errors call the caller.

    Raises DTypeError for what is no module, or whose `foreign_names` are no ForeignNames;
    StateDictError where two weights have the same name.
    """
    if not isinstance(model, nn.Module):
        raise DTypeError(f"{owner}: expected a module, got {kind_of(model)}.")
    modules = {name: value for name, value in walk(model) if isinstance(value, nn.Module)}
    for module in modules.values():
        _require_foreign_names(owner, module)
    weights = list(_weights(model, modules))
    known = _known(owner, weights)
    tied: list[tuple[str, str]] = []
    ignored: list[tuple[str, str]] = []
    for name, module in modules.items():
        names = getattr(module, "foreign_names", None)
        if names is not None:
            beginnings = _place(name.split(".") if name else [], modules).names
            tied += _tied(names, beginnings, known)
            starts = [_below(beginning, "") for beginning in beginnings]
            ignored += [(start, f".{end}") for start in starts for end in names.ignored]
    return Contents(weights, known, tied, ignored)


def _require_foreign_names(owner: str, module: nn.Module) -> None:
    names = getattr(module, "foreign_names", None)
    if not (names is None or isinstance(names, ForeignNames)):
        raise DTypeError(
            f"{owner}: expected the foreign_names of {type(module).__name__} to be a "
            f"ForeignNames, got {kind_of(names)}."
        )


# -- names -----------------------------------------------------------------------------------------


def _known(owner: str, weights: Sequence[Weights]) -> dict[str, str]:
    """Names that weights may have, and those that are written; what is written goes before."""
    known: dict[str, str] = {}
    owners: dict[str, str] = {}
    for each in weights:
        for entry in each.forms[0]:
            own = " and ".join(each.own)
            if entry.name in known:
                raise StateDictError(
                    f"{owner}: expected a name in files for each weight, got {entry.name!r} for "
                    f"{owners[entry.name]} and {own}."
                )
            known[entry.name], owners[entry.name] = entry.name, own
    for entry in [entry for each in weights for form in each.forms for entry in form]:
        for name in entry.names:
            known.setdefault(name, entry.name)
    return known


def _tied(
    names: ForeignNames, beginnings: Sequence[str], known: dict[str, str]
) -> Iterator[tuple[str, str]]:
    """Pairs of heads and tables below `beginnings`; adds heads to `known` that are no weights."""
    for head, table in names.tied:
        heads = [_below(beginning, head) for beginning in beginnings]
        written = known.setdefault(heads[0], heads[0])
        for name in heads:
            known.setdefault(name, written)
        first = _below(beginnings[0], table)
        yield written, known.get(first, first)


def _below(beginning: str, name: str) -> str:
    return f"{beginning}.{name}" if beginning else name


def _place(path: Sequence[str], modules: Modules) -> Place:
    """Where the parts of a name lead, in PyTorch's words."""
    place = _under_names(Place(), modules[""])
    for i, part in enumerate(path):
        module, cell = (modules.get(".".join(path[:end])) for end in (i, i + 2))
        if isinstance(module, _NETWORKS) and isinstance(cell, _CELLS):  # lstm_cells, 1, W_ih
            return place.at(_in_cell(path[-1]) + _of_layer(module, int(path[i + 1])))
        if isinstance(module, _CELLS):
            return place.at(_in_cell(part))
        if not (isinstance(module, nn.Sequential) and part == "modules"):
            place = place.at(part)
        place = _under_names(place, modules.get(".".join(path[: i + 1])))
    return place


def _under_names(place: Place, module: nn.Module | None) -> Place:
    names = getattr(module, "foreign_names", None)
    return place if names is None else place.under(names)


def _in_cell(attribute: str) -> str:
    return attribute.replace("W_", "weight_")


def _of_layer(network: Any, cell: int) -> str:
    """What the names of a cell's weights end in."""
    if not network.bidirectional:
        return f"_l{cell}"
    return f"_l{cell // 2}" + ("_reverse" if cell % 2 else "")


# -- layouts ---------------------------------------------------------------------------------------

# layers and cells whose weights have the axis of their outputs first in PyTorch and last here
_LAYERS = (nn.Linear, nn.Conv, nn.Conv1d, nn.Conv2d, nn.ConvTranspose1d, nn.ConvTranspose2d)
_CELLS = (nn.RNNCell, nn.LSTMCell, nn.GRUCell)
_NETWORKS = (nn.RNN, nn.LSTM, nn.GRU)


def _weights(model: nn.Module, modules: Modules) -> Iterator[Weights]:
    state = model.state_dict()
    done: set[str] = set()
    for own, tensor in state.items():
        if own in done:
            continue
        path = own.split(".")
        attention = modules.get(".".join(path[:-2]))
        if isinstance(attention, nn.Attention) and tuple(path[-2:]) in _PROJECTIONS:
            weights = _of_attention(attention, path, state, modules)
        else:
            layout = _layout(modules.get(".".join(path[:-1])), path[-1])
            entry = _entry([_place(path, modules)], tensor, tensor.shape, layout)
            weights = Weights({own: tensor}, ((entry,),))
        done.update(weights.own)
        yield weights


def _layout(module: nn.Module | None, attribute: str) -> str:
    if isinstance(module, nn.Linear) and attribute == "bias":
        return "row"
    turned = (isinstance(module, _LAYERS) and attribute == "weight") or (
        isinstance(module, _CELLS) and attribute.startswith("W_")
    )
    return "turned" if turned else "same"


def _entry(
    places: Sequence[Place],
    tensor: Tensor,
    shape: tuple[int, ...],
    layout: str,
    columns: slice = slice(None),
    inputs_first: bool = False,
) -> Entry:
    """The array that may be at any of these places."""
    names = tuple([name for place in places for name in place.names])
    either_way = inputs_first or any(place.has_inputs_first() for place in places)
    return Entry(names, shape, tensor.dtype, layout, layout == "turned" and either_way, columns)


# -- the projections of attention ------------------------------------------------------------------

_JOINED = "in_proj"
_PARTS = ("q_proj", "k_proj", "v_proj")
_PROJECTIONS = set(product((_JOINED, *_PARTS), ("weight", "bias")))


def _of_attention(
    attention: nn.Attention, path: Sequence[str], state: Mapping[str, Tensor], modules: Modules
) -> Weights:
    """Weights or biases of q, k and v, of which files have one array or three; and so have we.

    One is written, as by PyTorch, unless ForeignNames tell of the three. Weights that differ in
    height are three in any case.
    """
    *above, projection, attribute = path
    place, layout = _place(above, modules), _layout(modules.get(".".join(path[:-1])), attribute)
    own = [".".join([*above, part, attribute]) for part in _PARTS]
    if projection == _JOINED:
        own = [".".join(path)]
    elif attribute == "weight" or not set(own) <= set(state):  # a model may have given up a bias
        return _of_projection(path, state, place, layout)
    tensors = {name: state[name] for name in own}
    first = tensors[own[0]]
    rows, width = first.shape[:-1], sum(tensor.shape[-1] for tensor in tensors.values())
    joined = _either(place, _JOINED, attribute)
    one = _entry(joined, first, (*rows, width), layout)
    parts = [place.at(part, attribute) for part in _PARTS]
    widths = (attention.embed_dim, *[attention.kv_heads * attention.head_dim] * 2)
    three = [
        _entry([part], first, (*rows, width), layout, slice(end - width, end), one.either_way)
        for part, width, end in zip(parts, widths, accumulate(widths), strict=True)
    ]
    forms = [(one,), tuple(three)]
    are_told = [any(p.is_told_below(place) for p in places) for places in (joined, parts)]
    return Weights(tensors, tuple(forms[::-1] if are_told == [False, True] else forms))


def _of_projection(
    path: Sequence[str], state: Mapping[str, Tensor], place: Place, layout: str
) -> Weights:
    """Its weight, which PyTorch names with an underscore, or its bias."""
    places = [place.at(*path[-2:])] if path[-1] == "bias" else _either(place, *path[-2:])
    own = ".".join(path)
    return Weights({own: state[own]}, ((_entry(places, state[own], state[own].shape, layout),),))


def _either(place: Place, projection: str, attribute: str) -> list[Place]:
    """PyTorch's in_proj_weight, and in_proj.weight; the one that ForeignNames tell of first."""
    places = [place.at(f"{projection}_{attribute}"), place.at(projection, attribute)]
    return sorted(places, key=lambda below: not below.is_told_below(place))

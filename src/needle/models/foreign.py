"""Weights from and for PyTorch and Hugging Face: the same numbers under other names, laid out anew.

Layouts follow from the layers: PyTorch's Linear, convolutions and recurrent cells have the axis of
their outputs first, ours have it last; all else is alike. Names follow from the model: where they
differ, its attribute `foreign_names` says how; where it has none, they are the same.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from needle import nn
from needle.autograd import Tensor
from needle.errors import (
    DTypeError,
    FileFormatError,
    NeedleError,
    StateDictError,
    describe,
    kind_of,
)
from needle.models.foreign_layouts import Entry, ForeignNames, entries
from needle.nn.module import LoadReport
from needle.serialization import load

__all__ = ["foreign_state", "load_foreign"]

_MOST_NAMED = 6
_PICKLED = (b"PK", b"\x80")  # PyTorch's files are zip archives with a pickle, or were a pickle
_NO_WEIGHTS = ("num_batches_tracked",)
_WRAPPERS = ("module", "_orig_mod")  # DataParallel's and torch.compile's

# by the name that `foreign_state` writes: the name that the source has, and the array
Found = dict[str, tuple[str, Any]]


def load_foreign(
    model: nn.Module,
    source: str | os.PathLike[str] | Mapping[str, Any],
    *,
    rename: Mapping[str, str] | None = None,
    strict: bool = True,
) -> LoadReport:
    """Take over the weights of a PyTorch model of the same architecture.

    source  a safetensors file, or a dict of names and arrays, such as PyTorch's `state_dict()`
    rename  beginnings of names in the source, and what to read in their place: {"lstm": "rnn"}
    strict  raise unless the names are exactly those wanted; otherwise load what there is

    Returns the names that were missing and unexpected: none, with strict. Numbers are cast to the
    model's dtype. `num_batches_tracked` is left out; so are GPT-2's masks, and a head that is its
    table of embeddings.

    Raises StateDictError, which names the weights at fault in the source's own words, and how many
    there are; DTypeError for arguments of other types; FileNotFoundError; FileFormatError for a
    truncated or foreign file. The model is unchanged then.
    """
    names = _names_of("load_foreign", model)
    wanted = list(entries(model, names))
    found, unexpected = _matched(_read(source), wanted, names, _checked(rename))
    faults = _tied(found, unexpected, wanted, names)
    missing = [entry.name for entry in wanted if entry.name not in found]
    state = _as_ours(found, wanted, faults)
    kinds = {"at fault": faults}
    if strict:
        kinds["missing"] = [f"{name}: missing" for name in missing]
        kinds["unexpected"] = [f"{name}: unexpected" for name, _ in unexpected.values()]
    count = sum(map(len, kinds.values()))
    if count:
        shown = "; ".join(_first(kind, of_kind) for kind, of_kind in kinds.items() if of_kind)
        raise StateDictError(
            f"load_foreign: expected the weights of {type(model).__name__}, got {count} at "
            f"fault: {shown}."
        )
    model.load_state_dict(state, strict=False)
    return LoadReport(missing, [name for name, _ in unexpected.values()])


def foreign_state(
    model: nn.Module, *, inputs_first: bool = False
) -> dict[str, np.ndarray[Any, Any]]:
    """The weights under PyTorch's names and in its layouts; `ndl.save` writes them to a file.

    inputs_first  True for Hugging Face's GPT-2, whose Linears are (in, out), as ours are

    >>> from needle import nn
    >>> from needle.models import foreign_state
    >>> state = foreign_state(nn.Sequential(nn.Linear(3, 2), nn.ReLU(), nn.Linear(2, 5)))
    >>> {name: array.shape for name, array in state.items()}
    {'0.weight': (2, 3), '0.bias': (2,), '2.weight': (5, 2), '2.bias': (5,)}
    """
    names = _names_of("foreign_state", model)
    return {entry.name: entry.as_theirs(inputs_first) for entry in entries(model, names)}


def _read(source: Any) -> Mapping[str, Any]:
    if isinstance(source, (str, os.PathLike)):
        return _from_file(source)
    expected = "load_foreign: expected a path or a dict of names and arrays"
    if not isinstance(source, Mapping):
        raise DTypeError(f"{expected}, got {describe(source)}.")
    for name, value in source.items():
        if not isinstance(name, str):
            raise DTypeError(f"{expected}, got a dict with the name {name!r}, {kind_of(name)}.")
        if isinstance(value, Mapping):
            raise DTypeError(
                f"{expected}, got a dict that holds another under {name!r}. Hand over that one, "
                "if it is the model's."
            )
    return source


def _from_file(path: str | os.PathLike[str]) -> Mapping[str, Any]:
    try:
        return load(path)
    except FileFormatError as error:
        if not Path(path).read_bytes()[:4].startswith(_PICKLED):
            raise
        raise FileFormatError(
            f"{error} It is pickled, and is not read, as it could run any code. In PyTorch: "
            "safetensors.torch.save_file(model.state_dict(), path)."
        ) from error


def _names_of(owner: str, model: Any) -> ForeignNames:
    if not isinstance(model, nn.Module):
        raise DTypeError(f"{owner}: expected a module, got {kind_of(model)}.")
    names: ForeignNames = getattr(model, "foreign_names", ForeignNames())
    return names


def _checked(rename: Any) -> Mapping[str, str]:
    if rename is None:
        return {}
    if not isinstance(rename, Mapping) or not all(
        isinstance(part, str) for pair in rename.items() for part in pair
    ):
        raise DTypeError(
            f"load_foreign: expected rename to be a dict of strings, got {describe(rename)}."
        )
    return rename


def _first(kind: str, faults: Sequence[str]) -> str:
    """The first few; how many more there are of that kind."""
    more = len(faults) - _MOST_NAMED
    return "; ".join([*faults[:_MOST_NAMED], *[f"and {more} more {kind}"] * (more > 0)])


# -- which array is which weight -------------------------------------------------------------------


def _matched(
    given: Mapping[str, Any],
    wanted: Sequence[Entry],
    names: ForeignNames,
    rename: Mapping[str, str],
) -> tuple[Found, Found]:
    """What was given, for the entries that it is of; and what is of none, or of one that is taken.

    Left out is what holds no weights.
    """
    known = {name: entry.name for entry in wanted for name in entry.names}
    found: Found = {}
    unexpected: Found = {}
    for name, value in given.items():
        bare = _bare(_with_other_beginning(name, rename), known, names)
        if bare in known and known[bare] not in found:
            found[known[bare]] = (name, value)
        elif not f".{bare}".endswith(tuple(f".{end}" for end in (*_NO_WEIGHTS, *names.ignored))):
            unexpected[bare] = (name, value)
    return found, unexpected


def _with_other_beginning(name: str, rename: Mapping[str, str]) -> str:
    for beginning, other in rename.items():
        if f"{name}.".startswith(f"{beginning}."):
            return f"{other}{name[len(beginning) :]}".lstrip(".")
    return name


def _bare(name: str, known: Mapping[str, str], names: ForeignNames) -> str:
    """The name without the parts of what the model is wrapped in."""
    part, _, rest = name.partition(".")
    if name in known or part not in (*_WRAPPERS, *names.outer):
        return name
    return _bare(rest, known, names)


def _tied(
    found: Found, unexpected: Found, wanted: Sequence[Entry], names: ForeignNames
) -> list[str]:
    """Make up for a head that the source or the model has as its table only; name what differs."""
    faults = []
    wants = {entry.name for entry in wanted}
    for head, table in names.tied:
        if head in wants and head not in found and table in found:
            found[head] = found[table]
        elif head not in wants and head in unexpected and table in found:
            name, value = unexpected.pop(head)
            other, expected = found[table]
            if not np.array_equal(_numpy(value), _numpy(expected)):
                faults.append(f"{name}: differs from {other}, and here they are one (tied)")
    return faults


def _as_ours(found: Found, wanted: Sequence[Entry], faults: list[str]) -> dict[str, Tensor]:
    """The state to load; adds to `faults` what does not fit."""
    inputs_first = _has_inputs_first(found, wanted)
    state: dict[str, Tensor] = {}
    for entry in wanted:
        if entry.name in found:
            name, value = found[entry.name]
            try:
                state[entry.own] = entry.as_ours(_detached(value), inputs_first)
            except NeedleError as error:
                faults.append(f"{name}: {error}".rstrip("."))
    return state


def _has_inputs_first(found: Found, wanted: Sequence[Entry]) -> bool:
    """Whether the Linears that files have either way are (in, out): their shapes tell.

    Square ones tell nothing, and are as the others.
    """
    for entry in wanted:
        shapes = entry.shape(False), entry.shape(True)
        if shapes[0] != shapes[1] and entry.name in found:
            return tuple(np.shape(found[entry.name][1])) == shapes[1]
    return False


def _detached(value: Any) -> Any:
    """A PyTorch tensor that requires a gradient cannot be read; others are what they are."""
    return value.detach() if hasattr(value, "detach") else value


def _numpy(value: Any) -> np.ndarray[Any, Any]:
    return np.asarray(value.numpy() if isinstance(value, Tensor) else _detached(value))

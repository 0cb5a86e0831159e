"""Weights from and for PyTorch and Hugging Face: the same numbers under other names, laid out anew.

Layouts follow from the layers: PyTorch's Linear, convolutions and recurrent cells have the axis of
their outputs first, ours have it last; attention's q, k and v are one array or three; all else is
alike. Names follow from the model: where they differ, its attribute `foreign_names`, or that of a
module within it, says how; where there is none, they are the same.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from needle import nn
from needle.autograd import Tensor
from needle.autograd.tensor import as_tensor
from needle.errors import (
    DTypeError,
    FileFormatError,
    NeedleError,
    StateDictError,
    describe,
    kind_of,
)
from needle.models.foreign_contents import Contents, contents
from needle.models.foreign_layouts import Entry, Weights
from needle.nn.checks import require_state
from needle.nn.module import LoadReport
from needle.serialization import load

__all__ = ["foreign_state", "load_foreign"]

_MOST_NAMED = 6
_PICKLED = (b"PK", b"\x80")  # PyTorch's files are zip archives with a pickle, or were a pickle
_NO_WEIGHTS = "num_batches_tracked"
_WRAPPERS = ("module", "_orig_mod")  # DataParallel's and torch.compile's

# by the name that `foreign_state` writes: the name that the source has, and the array
Found = dict[str, tuple[str, Any]]
Form = tuple[Entry, ...]


def load_foreign(
    model: nn.Module,
    source: str | os.PathLike[str] | Mapping[str, Any],
    *,
    rename: Mapping[str, str] | None = None,
    strict: bool = True,
) -> LoadReport:
    """Take over the weights of a PyTorch model of the same architecture.

    source  a safetensors file, or a dict of names and arrays, such as PyTorch's `state_dict()`
    rename  beginnings of names in the source, and what to read in their place: {"lstm": "rnn"}, or
            {"model.": ""}; of several that fit, the longest counts
    strict  raise unless the names are exactly those wanted; otherwise load what there is

    Returns the names that were missing and unexpected: none, with strict. Numbers are cast to the
    model's dtype. `num_batches_tracked` is left out; so are GPT-2's masks, and a head that is its
    table of embeddings. Attention's q, k and v may be one array or three.

    Raises StateDictError, which names the weights at fault in the source's own words, and how many
    there are; DTypeError for arguments of other types; FileNotFoundError; FileFormatError for a
    truncated or foreign file. The model is unchanged then.
    """
    wanted = contents("load_foreign", model)
    found, unexpected = _matched(_read(source), wanted, _checked(rename))
    faults = _tied(found, unexpected, wanted)
    forms = [_form(weights, found, unexpected) for weights in wanted.weights]
    missing = [entry.name for form in forms for entry in form if entry.name not in found]
    state = _as_ours(found, wanted.weights, forms, faults)
    kinds = {"at fault": faults}
    if strict:
        kinds["missing"] = [f"{name}: missing" for name in missing]
        kinds["unexpected"] = [f"{name}: unexpected" for name in unexpected]
    count = sum(map(len, kinds.values()))
    if count:
        shown = "; ".join(_first(kind, of_kind) for kind, of_kind in kinds.items() if of_kind)
        raise StateDictError(
            f"load_foreign: expected the weights of {type(model).__name__}, got {count} at "
            f"fault: {shown}."
        )
    model.load_state_dict(state, strict=False)
    return LoadReport(missing, unexpected)


def foreign_state(
    model: nn.Module, *, inputs_first: bool = False
) -> dict[str, np.ndarray[Any, Any]]:
    """The weights under PyTorch's names and in its layouts; `ndl.save` writes them to a file.

    inputs_first  True for Hugging Face's GPT-2, whose Linears are (in, out), as ours are

    Raises DTypeError for what is no module, StateDictError if names here become one there.

    >>> from needle import nn
    >>> from needle.models import foreign_state
    >>> state = foreign_state(nn.Sequential(nn.Linear(3, 2), nn.ReLU(), nn.Linear(2, 5)))
    >>> {name: array.shape for name, array in state.items()}
    {'0.weight': (2, 3), '0.bias': (2,), '2.weight': (5, 2), '2.bias': (5,)}
    """
    state: dict[str, np.ndarray[Any, Any]] = {}
    for weights in contents("foreign_state", model).weights:
        state.update(weights.as_theirs(inputs_first))
    return state


def _read(source: Any) -> Mapping[str, Any]:
    if isinstance(source, (str, os.PathLike)):
        return _from_file(source)
    wanted = "a path or a dict of names and arrays"
    state = require_state("load_foreign", wanted, source)
    expected = f"load_foreign: expected {wanted}"
    for name, value in state.items():
        if not isinstance(name, str):
            raise DTypeError(f"{expected}, got a dict with the name {name!r}, {kind_of(name)}.")
        if isinstance(value, Mapping):
            raise DTypeError(
                f"{expected}, got a dict that holds another under {name!r}. Hand over that one, "
                "if it is the model's."
            )
    return state


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


def _checked(rename: Any) -> Mapping[str, str]:
    """Without dots around the names, and the longest beginnings first."""
    if rename is None:
        return {}
    if not isinstance(rename, Mapping) or not all(
        isinstance(part, str) for pair in rename.items() for part in pair
    ):
        raise DTypeError(
            f"load_foreign: expected rename to be a dict of strings, got {describe(rename)}."
        )
    bare = {beginning.strip("."): other.strip(".") for beginning, other in rename.items()}
    return {beginning: bare[beginning] for beginning in sorted(bare, key=len, reverse=True)}


def _first(kind: str, faults: Sequence[str]) -> str:
    """The first few; how many more there are of that kind."""
    more = len(faults) - _MOST_NAMED
    return "; ".join([*faults[:_MOST_NAMED], *[f"and {more} more {kind}"] * (more > 0)])


# -- which array is which weight -------------------------------------------------------------------


def _matched(
    given: Mapping[str, Any], wanted: Contents, rename: Mapping[str, str]
) -> tuple[Found, list[str]]:
    """What was given, by the names that are written; and names of what is none, or comes twice.

    Left out is what holds no weights.
    """
    found: Found = {}
    unexpected = []
    for name, value in given.items():
        bare = _bare(_with_other_beginning(name, rename), wanted.known)
        written = wanted.known.get(bare)
        if written is not None and written not in found:
            found[written] = (name, value)
        elif bare.rpartition(".")[2] != _NO_WEIGHTS and not wanted.is_ignored(bare):
            unexpected.append(name)
    return found, unexpected


def _with_other_beginning(name: str, rename: Mapping[str, str]) -> str:
    for beginning, other in rename.items():
        if not beginning or f"{name}.".startswith(f"{beginning}."):
            rest = name[len(beginning) :].lstrip(".")
            return ".".join(filter(None, (other, rest)))
    return name


def _bare(name: str, known: Mapping[str, str]) -> str:
    """The name without the parts of what the model is wrapped in."""
    part, _, rest = name.partition(".")
    return name if name in known or part not in _WRAPPERS else _bare(rest, known)


def _tied(found: Found, unexpected: list[str], wanted: Contents) -> list[str]:
    """Make up for a head that the source or the model has as its table only; name what differs."""
    faults = []
    wants = {entry.name for weights in wanted.weights for entry in weights.forms[0]}
    for head, table in wanted.tied:
        if head in wants and head not in found and table in found:
            found[head] = found[table]
        elif head not in wants and head in found:
            name, value = found.pop(head)
            other, expected = found.get(table, ("", None))
            if not other:
                unexpected.append(name)
            elif not np.array_equal(_numpy(value), _numpy(expected)):
                faults.append(f"{name}: differs from {other}, and here they are one (tied)")
    return faults


def _form(weights: Weights, found: Found, unexpected: list[str]) -> Form:
    """The way in which the source has weights; what is there of another one is unexpected."""

    def count(form: Form) -> tuple[bool, int]:
        there = sum(entry.name in found for entry in form)
        return there == len(form), there

    chosen = max(weights.forms, key=count)
    for form in weights.forms:
        if form is not chosen:
            unexpected += [found.pop(entry.name)[0] for entry in form if entry.name in found]
    return chosen


def _as_ours(
    found: Found, wanted: Sequence[Weights], forms: Sequence[Form], faults: list[str]
) -> dict[str, Any]:
    """The state to load; adds to `faults` what does not fit."""
    entries = [entry for form in forms for entry in form if entry.name in found]
    given: dict[str, Tensor] = {}
    arrays: dict[str, Tensor] = {}
    for entry in entries:
        name, value = found[entry.name]
        with _noted(faults, name):
            given[entry.name] = as_tensor(_detached(value))
    inputs_first = _has_inputs_first(given, entries)
    for entry in entries:
        if entry.name in given:
            with _noted(faults, found[entry.name][0]):
                arrays[entry.name] = entry.as_ours(given[entry.name], inputs_first)
    state: dict[str, Any] = {}
    for weights, form in zip(wanted, forms, strict=True):
        state.update(weights.as_ours(form, arrays))
    return state


@contextmanager
def _noted(faults: list[str], name: str) -> Iterator[None]:
    """Add to `faults` what is wrong with the array of this name."""
    try:
        yield
    except NeedleError as error:
        faults.append(f"{name}: {error}".rstrip("."))


def _has_inputs_first(given: Mapping[str, Tensor], entries: Sequence[Entry]) -> bool:
    """Whether the Linears that files have either way are (in, out): their shapes tell.

    Square ones tell nothing, and are as the others.
    """
    for entry in entries:
        shapes = entry.shape_there(False), entry.shape_there(True)
        if shapes[0] != shapes[1] and entry.name in given:
            return bool(given[entry.name].shape == shapes[1])
    return False


def _detached(value: Any) -> Any:
    """What NumPy can read: no PyTorch tensor that requires a gradient, or is bfloat16."""
    if isinstance(value, Tensor) or not hasattr(value, "detach"):
        return value
    value = value.detach()
    return value.float() if str(value.dtype) == "torch.bfloat16" else value


def _numpy(value: Any) -> np.ndarray[Any, Any]:
    return np.asarray(value.numpy() if isinstance(value, Tensor) else _detached(value))

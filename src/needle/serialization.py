"""Tensors on disk, as safetensors: plain numbers with names, shapes and dtypes. No pickle.

Source of the format: https://github.com/huggingface/safetensors.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from needle.autograd import Tensor
from needle.autograd.tensor import as_tensor
from needle.dtypes import as_dtype
from needle.errors import DTypeError, FileFormatError, OptionError, describe
from needle.files import write_atomically

__all__ = ["load", "load_metadata", "save"]

# the format's name of a dtype : ours
_DTYPES = {
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "BF16": "bfloat16",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2",
    "I64": "int64",
    "I32": "int32",
    "I16": "int16",
    "I8": "int8",
    "U64": "uint64",
    "U32": "uint32",
    "U16": "uint16",
    "U8": "uint8",
    "BOOL": "bool",
}


def save(
    state: Any, path: str | os.PathLike[str], *, metadata: Mapping[str, str] | None = None
) -> None:
    """Write Tensors to a safetensors file, all of it or none.

    state     a dict from names to Tensors, NumPy arrays and numbers; dicts within become dotted
              names. Or what has a `state_dict()`: a module, an optimiser
    path      the file; one that is there already stays whole until the new one is complete
    metadata  strings to store beside them; `load_metadata` reads them

    Raises DTypeError for what cannot be stored, OptionError for a name that comes twice, both
    before anything is written.
    """
    from safetensors import numpy as safetensors_numpy

    if hasattr(state, "state_dict"):
        state = state.state_dict()
    if not isinstance(state, Mapping):
        raise DTypeError(f"save: expected a dict or a module, got {describe(state)}.")
    tensors: dict[str, np.ndarray[Any, Any]] = {}
    for name, value in _flattened(state, ""):
        if name in tensors or name == "__metadata__":  # the format keeps that name to itself
            raise OptionError(
                f"save: expected names that differ, none of them '__metadata__', got {name!r}."
            )
        tensors[name] = _stored(name, value)
    content = safetensors_numpy.save(tensors, metadata=_strings(metadata))
    write_atomically(path, content)


def load(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """Read a safetensors file: a dict from names to Tensors (constants; numbers come back 0-d).

    Raises FileNotFoundError, IsADirectoryError, and FileFormatError for a truncated or foreign
    file.
    """
    from safetensors import SafetensorError, deserialize

    content = _existing(path).read_bytes()
    try:
        entries = deserialize(content)  # type: ignore[no-untyped-call]
    except SafetensorError as error:
        raise _not_safetensors(path, error) from error
    return {name: as_tensor(_array(entry)) for name, entry in entries}


def load_metadata(path: str | os.PathLike[str]) -> dict[str, str]:
    """The strings that `save` stored beside the Tensors."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(_existing(path), framework="np") as file:
            return dict(file.metadata() or {})
    except SafetensorError as error:
        raise _not_safetensors(path, error) from error


def _existing(path: str | os.PathLike[str]) -> Path:
    """The path, which there is and which is no folder."""
    if Path(path).is_dir():
        raise IsADirectoryError(f"load: expected a safetensors file, got the folder {path}.")
    if not Path(path).exists():
        raise FileNotFoundError(f"load: expected a safetensors file, got no file at {path}.")
    return Path(path)


def _flattened(state: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for name, value in state.items():
        if isinstance(value, Mapping):
            yield from _flattened(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _stored(name: str, value: Any) -> np.ndarray[Any, Any]:
    try:
        array = np.array(value.numpy() if isinstance(value, Tensor) else value, order="C")
    except (ValueError, TypeError):  # lists of lists of different lengths, and the like
        array = np.array(None)
    if array.dtype.name not in _DTYPES.values():
        raise DTypeError(
            f"save: expected Tensors, arrays or numbers, of dtypes {', '.join(_DTYPES.values())}, "
            f"got {name}: {describe(value)}."
        )
    return array.astype(array.dtype.newbyteorder("="), copy=False)


def _strings(metadata: Mapping[str, str] | None) -> dict[str, str] | None:
    if metadata is None:
        return None
    if not isinstance(metadata, Mapping) or not all(
        isinstance(text, str) for pair in metadata.items() for text in pair
    ):
        raise DTypeError(f"save: expected metadata of strings to strings, got {metadata!r}.")
    return dict(metadata)


def _array(entry: dict[str, Any]) -> np.ndarray[Any, Any]:
    if entry["dtype"] not in _DTYPES:
        raise FileFormatError(f"load: expected dtypes {', '.join(_DTYPES)}, got {entry['dtype']}.")
    dtype = as_dtype(_DTYPES[entry["dtype"]])
    little = np.frombuffer(entry["data"], dtype=dtype.newbyteorder("<"))
    return np.asarray(little.astype(dtype).reshape(entry["shape"]))


def _not_safetensors(path: Any, error: Exception) -> FileFormatError:
    return FileFormatError(f"load: expected a whole safetensors file, got {path}. ({error})")

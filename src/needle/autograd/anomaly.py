"""The watch that `detect_anomaly()` switches on: where did the first NaN or Inf come from?"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from needle.backend_selection import primitives
from needle.dtypes import is_floating
from needle.errors import NonFiniteError, describe

if TYPE_CHECKING:
    from needle.autograd.value import Op, Value

__all__ = ["in_backward", "watch", "watch_adjoints"]

_PACKAGE = str(Path(__file__).resolve().parent.parent) + os.sep


def watch(value: Value, op: Op, inputs: Sequence[Any]) -> None:
    """Remember the user's line on `value`; raise if its data is the first that is not finite."""
    if value._origin is None:
        value._origin = _users_line()
    found = _not_finite(value.cached_data)
    if found is None:
        return
    arrays = [edge.cached_data for edge in inputs]
    already = [i for i, data in enumerate(arrays) if _not_finite(data)]
    where = f"already in input {already[0]}" if already else "the inputs were finite"
    raise NonFiniteError(
        f"{op.name}: expected finite values, got {found} in its result ({where}). "
        f"Inputs: {describe(*arrays)}. Called at {value._origin}."
    )


def watch_adjoints(adjoints: Sequence[Any], node: Value) -> None:
    """Raise if a partial adjoint that `node` hands on is not finite, though no op said so."""
    for adjoint in adjoints:
        found = None if adjoint is None else _not_finite(adjoint.cached_data)
        if found is not None:
            what = f"expected finite values, got {found} in {describe(adjoint)}."
            raise in_backward(NonFiniteError(what), node)


def in_backward(error: NonFiniteError, node: Value) -> NonFiniteError:
    """The same finding, with the forward op whose gradient it is and the line that called it."""
    op = node.op.name if node.op is not None else "a leaf"
    origin = node._origin or "a line not recorded: run the forward pass in detect_anomaly() too"
    return NonFiniteError(f"in the gradient of {op}, called at {origin}: {error}")


def _not_finite(data: Any) -> str | None:
    """`NaN` or `Inf` if the data holds one."""
    if data is None:
        return None
    if type(data) is tuple:
        return next((found for item in data if (found := _not_finite(item))), None)
    array = primitives.to_numpy(data)
    if not is_floating(array.dtype) or np.isfinite(array).all():
        return None
    return "NaN" if np.isnan(array).any() else "Inf"


def _users_line() -> str:
    """File and line of the nearest caller outside this package."""
    frame = sys._getframe(1)
    while frame.f_back is not None and frame.f_code.co_filename.startswith(_PACKAGE):
        frame = frame.f_back
    return f"{frame.f_code.co_filename}:{frame.f_lineno}"

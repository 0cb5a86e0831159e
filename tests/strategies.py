"""What random tests draw from: shapes, memory layouts, axes, indices, subscripts.

HYPOTHESIS_PROFILE=thorough draws more, and other examples at each run; the default is the same
short run every time.
"""

from __future__ import annotations

import os
from typing import Any

import numpy as np
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import needle as ndl
from needle.testing.layouts import raw_array

Shape = tuple[int, ...]

_SLOW = [HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large]
settings.register_profile(
    "ci", derandomize=True, max_examples=60, deadline=None, database=None,
    suppress_health_check=_SLOW,
)  # fmt: skip
settings.register_profile("thorough", max_examples=2000, deadline=None, suppress_health_check=_SLOW)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))

SEEDS = st.integers(0, 2**31 - 1)


def shapes(min_dims: int = 0, max_dims: int = 4, min_side: int = 0) -> st.SearchStrategy[Shape]:
    return hnp.array_shapes(min_dims=min_dims, max_dims=max_dims, min_side=min_side, max_side=4)


def broadcastable(count: int) -> st.SearchStrategy[tuple[Shape, ...]]:
    """Shapes that broadcast together, extents of 0 among them."""
    together = hnp.mutually_broadcastable_shapes(
        num_shapes=count, min_dims=0, max_dims=3, min_side=0, max_side=4
    )
    return together.map(lambda found: found.input_shapes)


@st.composite
def arrays(draw: Any, shape: Shape, low: float = -2.0, high: float = 2.0) -> np.ndarray:
    """Floats at least 0.1 from 0, in any layout: axes in any order, strides of any sign, or 0."""
    rng = np.random.RandomState(draw(SEEDS))
    repeated = [n > 0 and draw(st.integers(0, 9)) == 0 for n in shape]
    steps = [draw(st.sampled_from([1, 1, 1, 2, -1, -2])) for _ in shape]
    order = draw(st.permutations(range(len(shape))))
    extents = [1 if same else n for n, same in zip(shape, repeated, strict=True)]
    memory = np.zeros([extents[axis] * abs(steps[axis]) for axis in order])
    inverse = sorted(range(len(shape)), key=order.__getitem__)
    view = memory.transpose(inverse)[(..., *[slice(None, None, step) for step in steps])]
    view[...] = rng.uniform(low, high, extents)
    view[np.abs(view) < 0.1] = 0.1
    return np.broadcast_to(view, shape)


def tensor(array: np.ndarray) -> ndl.Tensor:
    """A leaf in the array's layout and dtype; `ndl.Tensor(array)` would make a plain copy."""
    raw = raw_array(array, ndl.default_device())
    return ndl.Tensor.make_const(raw, requires_grad=array.dtype.kind == "f")


@st.composite
def axes_of(draw: Any, ndim: int) -> Any:
    """None, one axis, or several of them, counted from either end."""
    if ndim == 0 or draw(st.booleans()):
        return draw(st.sampled_from([None, ()])) if ndim == 0 else None
    chosen = draw(st.lists(st.integers(0, ndim - 1), min_size=1, max_size=ndim, unique=True))
    signed = [axis - ndim if draw(st.booleans()) else axis for axis in chosen]
    return signed[0] if len(signed) == 1 and draw(st.booleans()) else tuple(signed)


@st.composite
def indices(draw: Any, shape: Shape) -> tuple[Any, ...]:
    """Ints, slices with any step, None, ..., integer arrays and bool masks, as NumPy takes them."""
    common = draw(shapes(max_dims=2))  # of all integer arrays together
    parts: list[Any] = []
    axis, masked = 0, False
    while axis < len(shape):
        extent = shape[axis]
        kinds = ["slice", "slice", "all"] + (["int", "array"] if extent else [])
        kinds += [] if masked else ["mask"]
        kind = draw(st.sampled_from(kinds))
        if kind == "slice":
            parts.append(draw(st.slices(extent)))
        elif kind == "all":
            parts.append(slice(None))
        elif kind == "int":
            parts.append(draw(st.integers(-extent, extent - 1)))
        elif kind == "array":
            rng = np.random.RandomState(draw(SEEDS))
            parts.append(np.asarray(rng.randint(-extent, extent, common)))
        else:
            masked = True
            rng = np.random.RandomState(draw(SEEDS))
            parts.append(rng.randint(0, 2, extent).astype(bool))
        axis += 1
    if masked:  # a mask is an array of unknown length: alone with slices it always fits
        parts = [slice(None) if isinstance(p, np.ndarray) and p.dtype != bool else p
                 for p in parts]  # fmt: skip
    while parts and draw(st.integers(0, 3)) == 0 and not masked:
        parts.pop()  # the last axes whole
    if draw(st.integers(0, 3)) == 0:
        parts.insert(draw(st.integers(0, len(parts))), None)
    return tuple(parts)


@st.composite
def einsums(draw: Any) -> tuple[str, list[Shape]]:
    """Subscripts and the shapes of one to three arrays that fit them."""
    letters = "ijkL"
    extents = {c: draw(st.integers(0 if c == "L" else 1, 3)) for c in letters}
    count = draw(st.integers(1, 3))
    terms = [draw(st.text(letters, max_size=3)) for _ in range(count)]
    dots = [draw(st.integers(0, 4)) == 0 for _ in range(count)]
    batch = draw(shapes(max_dims=2, min_side=1))
    inputs, found = [], []
    for term, dotted in zip(terms, dots, strict=True):
        at = draw(st.integers(0, len(term))) if dotted else 0
        hidden = batch[draw(st.integers(0, len(batch))) :] if dotted else ()
        inputs.append(f"{term[:at]}...{term[at:]}" if dotted else term)
        ones = {c: 1 for c in letters if draw(st.integers(0, 7)) == 0}  # they broadcast
        own = {**extents, **ones}
        found.append((*[own[c] for c in term[:at]], *hidden, *[own[c] for c in term[at:]]))
    if draw(st.booleans()):
        return ",".join(inputs), found
    present = sorted(set("".join(terms)))
    output = "".join(draw(st.permutations(present))[: draw(st.integers(0, len(present)))])
    return f"{','.join(inputs)}->{'...' if any(dots) else ''}{output}", found

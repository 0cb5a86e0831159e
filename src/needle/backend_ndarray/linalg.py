"""Sums of products: matrices, vectors, batches, and whatever subscripts can spell."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from functools import lru_cache, reduce
from itertools import chain, combinations, pairwise
from string import ascii_letters
from typing import Any

import numpy as np

from needle.backend_ndarray import promotion, reductions
from needle.backend_ndarray.device import Run
from needle.backend_ndarray.elementwise import as_number, as_operand, one_device
from needle.backend_ndarray.layout import Layout, Shape, compact_strides, require_extents
from needle.backend_ndarray.ndarray import NDArray, new_array, require_array
from needle.backend_ndarray.plans import Plan, Plans, checked
from needle.errors import DTypeError, OptionError, ShapeError, describe

__all__ = ["einsum", "matmul"]

_LETTERS = frozenset(ascii_letters)
_FEW = 32  # up to so many m or n, vectors along the batch are better than tiles of m and n

_products = Plans()
_pairs = Plans()  # of einsums of two arrays that are one product: by subscripts and layouts


def matmul(a: NDArray, b: NDArray) -> NDArray:
    """The matrix product over the last two axes; leading axes broadcast, vectors as in NumPy."""
    try:
        plan = _products.get((a._layout, b._layout))
    except AttributeError:
        return matmul(*_as_arrays(a, b))
    if plan is None:
        plan = _products.keep((a._layout, b._layout), _matmul_plan(a, b))
    return new_array(plan.layout, plan.run(a._memory, a._offset, b._memory, b._offset))


def _as_arrays(*operands: Any) -> list[NDArray]:
    """NDArrays, of which one at least is there, and what lies beside it, on its device."""
    arrays = [x for x in operands if isinstance(x, NDArray)]
    numbers = [x for x in operands if not isinstance(x, NDArray) and as_number(x) is not None]
    if numbers or not arrays:
        require_array("matmul", *operands)
    return [x if isinstance(x, NDArray) else as_operand("matmul", x, arrays[0]) for x in operands]


def _matmul_plan(a: NDArray, b: NDArray) -> Plan:
    device = one_device("matmul", [a, b])
    row, column = a.ndim == 1, b.ndim == 1
    if not a.ndim or not b.ndim or a.shape[-1] != b.shape[0 if column else -2]:
        raise ShapeError(f"matmul: expected a [..., m, k] and b [..., k, n], got {describe(a, b)}.")
    x = a._layout.expand_dims((0,))[0] if row else a._layout
    y = b._layout.expand_dims((1,))[0] if column else b._layout
    batch = _batch(a, b, x, y)
    x = x.broadcast_to((*batch, *x.shape[-2:]))[0]
    y = y.broadcast_to((*batch, *y.shape[-2:]))[0]
    dtype = _product_dtype(a.dtype, b.dtype)
    require_extents("matmul", (*batch, x.shape[-2], y.shape[-1]), dtype.itemsize)
    whole = Layout.of(device, dtype, (*batch, x.shape[-2], y.shape[-1]))
    run = device.contract(x, y, whole, (len(batch), 1, 1, 1))
    shape = batch + (() if row else (x.shape[-2],)) + (() if column else (y.shape[-1],))
    out = Layout.of(device, dtype, shape)
    return Plan(out, checked("matmul", run, out))


def _batch(a: NDArray, b: NDArray, x: Layout, y: Layout) -> tuple[int, ...]:
    try:
        return np.broadcast_shapes(x.shape[:-2], y.shape[:-2])
    except ValueError:
        raise ShapeError(
            f"matmul: expected leading axes that broadcast together, got {describe(a, b)}."
        ) from None


def einsum(subscripts: str, *arrays: NDArray) -> NDArray:
    """The sum of products that `subscripts` spells: "ij,jk->ik". There is no "..." here.

    Without "->" the output has the letters that occur once, in alphabetical order.

    Two arrays at a time, first those of which the least is to be kept, and from the left where that
    is the same: a letter that one array alone has, and the output has not, is summed before; what
    neither the output nor a later array has, with the product.
    """
    if len(arrays) == 2:
        a, b = arrays
        try:
            plan = _pairs.get((subscripts, a._layout, b._layout))
        except (AttributeError, TypeError):
            plan = None
        if plan is not None:
            return new_array(plan.layout, plan.run(a._memory, a._offset, b._memory, b._offset))
    return _einsum(subscripts, arrays)


def _einsum(subscripts: str, arrays: tuple[NDArray, ...]) -> NDArray:
    require_array("einsum", *arrays)
    terms, output = _parsed(subscripts, arrays)
    _require_extents(subscripts, terms, arrays)
    dtype = reduce(_product_dtype, [x.dtype for x in arrays])
    if len(arrays) > 2:
        order = _order_of_products(tuple(terms), output, tuple([x.shape for x in arrays]))
        terms, arrays = [terms[k] for k in order], tuple([arrays[k] for k in order])
    later = ["".join(terms[position:]) + output for position in range(1, len(terms) + 1)]
    term, x = _summed(*_diagonal(terms[0], arrays[0]), later[0], dtype)
    if len(arrays) > 2:  # what two of them give is to be of the dtype that all of them give
        x = x.astype(dtype, copy=False)
    for other, y, needed in zip(terms[1:], arrays[1:], later[1:], strict=True):
        other, y = _summed(*_diagonal(other, y), term + needed, dtype)
        a, b = x, y
        term, x, run = _contract(term, x, other, y, needed, output)
    x = x.permute([term.index(letter) for letter in output])
    if len(arrays) == 2 and _are_views(arrays, (a, b)):  # the whole einsum is one product
        _pairs.keep((subscripts, *[array._layout for array in arrays]), Plan(x._layout, run))
    is_view = len(arrays) == 1 and len(term) == len(set(terms[0]))
    return x.astype(dtype) if is_view or x.dtype != dtype else x


@lru_cache(maxsize=256)
def _order_of_products(
    terms: tuple[str, ...], output: str, shapes: tuple[Shape, ...]
) -> tuple[int, ...]:
    """Which array comes after which, so that what lies between two products is small.

    >>> _order_of_products(("ab", "cd", "bc"), "ad", ((9, 9), (9, 1), (9, 9)))
    (1, 2, 0)
    """
    extents: dict[str, int] = {}
    for letter, extent in zip("".join(terms), chain(*shapes), strict=True):
        if extents.get(letter, 1) == 1:
            extents[letter] = extent

    def kept(joined: Collection[int]) -> int:
        there = {letter for k in joined for letter in terms[k]}
        needed = output + "".join(term for k, term in enumerate(terms) if k not in joined)
        return math.prod(extents[letter] for letter in there.intersection(needed))

    order: tuple[int, ...] = min(combinations(range(len(terms)), 2), key=kept)
    while len(order) < len(terms):
        rest = [k for k in range(len(terms)) if k not in order]
        order = min([(*order, k) for k in rest], key=kept)
    return order


def _are_views(arrays: Sequence[NDArray], operands: Sequence[NDArray]) -> bool:
    """Whether the operands lie where the arrays do, and nothing was computed in between."""
    return all(
        x._memory is y._memory and x._offset == y._offset
        for x, y in zip(arrays, operands, strict=True)
    )


def _product_dtype(a: np.dtype[Any], b: np.dtype[Any]) -> np.dtype[Any]:
    return promotion.result_dtypes("multiply", (a, b))[1]


def _parsed(subscripts: str, arrays: Sequence[NDArray]) -> tuple[list[str], str]:
    """The letters of each array's axes, and of the output's."""
    if not isinstance(subscripts, str):
        raise DTypeError(f"einsum: expected subscripts, got {describe(subscripts)}.")
    inputs, arrow, output = subscripts.replace(" ", "").partition("->")
    terms, letters = inputs.split(","), inputs.replace(",", "")

    def got() -> str:
        return f"got {subscripts!r} for {describe(*arrays) or 'no arrays'}."

    if not _LETTERS.issuperset(letters + output):
        hint = " Name every axis that '...' stands for." if "..." in subscripts else ""
        raise OptionError(f"einsum: expected letters, commas and one '->', {got()}{hint}")
    if [len(term) for term in terms] != [x.ndim for x in arrays]:
        raise ShapeError(f"einsum: expected a term for each array, a letter for each axis, {got()}")
    if not arrow:
        output = "".join(sorted(c for c in letters if letters.count(c) == 1))
    if len(set(output)) != len(output) or not set(output) <= set(letters):
        raise ShapeError(f"einsum: expected an output of letters of the inputs, each once, {got()}")
    return terms, output


def _require_extents(subscripts: str, terms: Sequence[str], arrays: Sequence[NDArray]) -> None:
    """Raise ShapeError unless a letter has one extent, or 1 in some of the arrays."""
    extents: dict[str, int] = {}
    for term, x in zip(terms, arrays, strict=True):
        own: dict[str, int] = {}  # an axis of length 1 is repeated for other arrays only
        for letter, extent in zip(term, x.shape, strict=True):
            known = extents.setdefault(letter, extent)
            if own.setdefault(letter, extent) != extent or (
                extent not in (1, known) and known != 1
            ):
                raise ShapeError(
                    f"einsum: expected equal extents for {letter!r} in {subscripts!r}, "
                    f"got {describe(*arrays)}."
                )
            if known == 1:
                extents[letter] = extent


def _diagonal(term: str, x: NDArray) -> tuple[str, NDArray]:
    """The view in which axes of one letter are walked in step, each letter once."""
    letters = "".join(dict.fromkeys(term))
    if letters == term:
        return term, x
    groups = tuple([tuple(i for i, c in enumerate(term) if c == letter) for letter in letters])
    return letters, x._view(x._layout.merge_axes(groups))


def _summed(term: str, x: NDArray, needed: str, dtype: np.dtype[Any]) -> tuple[str, NDArray]:
    """x without the letters that nothing else has; added up as numbers of the result's dtype."""
    gone = tuple([axis for axis, letter in enumerate(term) if letter not in needed])
    if not gone:
        return term, x
    left = "".join([letter for letter in term if letter in needed])
    return left, reductions.sum(x, gone, dtype=promotion.sum_dtype(dtype))


def _contract(
    term: str, x: NDArray, other: str, y: NDArray, needed: str, output: str
) -> tuple[str, NDArray, Run]:
    """The product of two arrays, summed over what is not needed any more, and what computes it."""
    shared = [c for c in term if c in other]
    # a letter whose extent is 1 on one side only is repeated there
    pairs = {c: (x.shape[term.index(c)], y.shape[other.index(c)]) for c in shared}
    extents = {c: n if m == 1 else m for c, (m, n) in pairs.items()}
    x = x.broadcast_to([extents.get(c, n) for c, n in zip(term, x.shape, strict=True)])
    y = y.broadcast_to([extents.get(c, n) for c, n in zip(other, y.shape, strict=True)])
    batch = sorted([c for c in shared if c in needed], key=output.find)
    summed = [c for c in shared if c not in needed]
    m = sorted([c for c in term if c not in shared], key=output.find)
    n = sorted([c for c in other if c not in shared], key=output.find)
    a = x.permute([term.index(c) for c in (*batch, *m, *summed)])
    b = y.permute([other.index(c) for c in (*batch, *summed, *n)])
    made = (*batch, *m, *n)
    order = tuple([made.index(c) for c in output if c in made])
    groups = (len(batch), len(m), len(n), len(summed))
    key = (a._layout, b._layout, groups, order)
    plan = _products.find(key, lambda: _contract_plan(a, b, groups, order))
    result = new_array(plan.layout, plan.run(a._memory, a._offset, b._memory, b._offset))
    return "".join(made), result, plan.run


def _contract_plan(
    a: NDArray, b: NDArray, groups: tuple[int, int, int, int], order: tuple[int, ...]
) -> Plan:
    batch, m, _, k = groups
    dtype = _product_dtype(a.dtype, b.dtype)
    device = one_device("einsum", [a, b])
    shape = a.shape[: batch + m] + b.shape[batch + k :]
    require_extents("einsum", shape, dtype.itemsize)
    strides = _strides_in_order(shape, order)
    is_possible = _has_lanes(a, b, strides, groups) or _has_rows(shape, strides, groups)
    out = Layout.of(device, dtype, shape, strides if is_possible else None)
    run = device.contract(a._layout, b._layout, out, groups)
    return Plan(out, checked("einsum", run, out))


def _strides_in_order(shape: tuple[int, ...], order: tuple[int, ...]) -> tuple[int, ...]:
    """Strides with which the result is compact once its axes stand in `order`."""
    if len(order) != len(shape):
        return tuple(compact_strides(shape))
    steps = compact_strides([shape[axis] for axis in order])
    return tuple([steps[order.index(axis)] for axis in range(len(shape))])


def _has_lanes(
    a: NDArray, b: NDArray, strides: tuple[int, ...], groups: tuple[int, int, int, int]
) -> bool:
    """Whether `Device.contract` can work on neighbours of the batch, and that is the best way."""
    batch, m, _, k = groups
    few = min(math.prod(a.shape[batch : batch + m]), math.prod(b.shape[batch + k :])) <= _FEW
    return few and any(
        n > 1 and steps == [1, 1, 1]
        for n, *steps in zip(a.shape[:batch], a.strides, b.strides, strides, strict=False)
    )


def _has_rows(
    shape: tuple[int, ...], strides: tuple[int, ...], groups: tuple[int, int, int, int]
) -> bool:
    """Whether the result's m and n axes are each walked in one stride, and one of these is 1."""
    batch, m, _, _ = groups
    steps = []
    for group in (slice(batch, batch + m), slice(batch + m, None)):
        axes = [(n, s) for n, s in zip(shape[group], strides[group], strict=True) if n != 1]
        if any(s != t * n for (_, s), (n, t) in pairwise(axes)):
            return False
        steps += [s for _, s in axes[-1:]]
    return 1 in steps

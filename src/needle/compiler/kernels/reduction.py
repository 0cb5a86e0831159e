"""Sums, products, extremes, all and any over axes of a strided view, in a fixed order.

The elements of an output are cut into leaves; a leaf is gathered in a few vector accumulators of
some 64 steps each, and leaves meet in a cascade: partial result number i waits on the level that
the trailing ones of i say, as in a binary counter, so all sums are sums of about equally many
elements, as in pairwise summation. See `reduction_layout` for the classes of layout.
"""

from __future__ import annotations

from collections.abc import Sequence

from needle.compiler import build
from needle.compiler.kernels.monoid import Monoid
from needle.compiler.kernels.reduction_kernel import HEADER
from needle.compiler.kernels.reduction_layout import Walk
from needle.compiler.kernels.reduction_leaves import writer
from needle.compiler.prepared import Operand, Prepared, tasks_for
from needle.compiler.target import Target
from needle.compiler.types import itemsize
from needle.dtypes import name_of

__all__ = ["prepare"]


def prepare(name: str, x: Operand, axes: Sequence[int], out: Operand) -> Prepared:
    """out = `name` (sum, prod, max, min, all, any) of x over `axes`.

    x    any strides; converted to what `out` is computed in as it is loaded (all, any: to bool)
    out  row-major: the kept axes in their order

    Floats are summed in a cascade. NaN is the maximum and the minimum of whatever holds one.
    Of 0.0 and -0.0 either may be the maximum or minimum, as in NumPy.
    """
    source, result = name_of(x.dtype), name_of(out.dtype)
    monoid = Monoid(name, source, result)
    lanes = Target.host().lanes(monoid.type.itemsize)
    walk = Walk(x, tuple(axes), lanes, repeats=monoid.name in ("sum", "prod"))

    key = f"reduce {monoid.name} {walk.kind} {source} to {result}"
    nanoseconds = _nanoseconds(walk, itemsize(source))
    return Prepared(
        build.address_of(key, writer(walk.kind, monoid, source)),
        walk.numbers(),
        nanoseconds,
        tasks_for(nanoseconds, at_most=max(1, walk.units * walk.chunks)),
        HEADER + walk.chunks * walk.row * monoid.type.itemsize if walk.chunks > 1 else 0,
    )


def _nanoseconds(walk: Walk, bytes: int) -> float:
    """Of one thread: some 50 bytes/ns out of the caches, 30 out of memory; or 1 element."""
    start = 100.0 + 30 * walk.outputs / walk.tile
    if walk.kind.startswith("strided"):
        return start + walk.elements
    size = walk.elements * bytes
    return start + size / (50 if size < 1 << 20 else 30)

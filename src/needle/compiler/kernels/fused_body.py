"""What a fused kernel computes: elementwise primitives, and reductions along rows, as one list.

The kernel walks rows of one length. A value is either *wide*, an element for each column, or
*narrow*, one for the row. A reduction makes a narrow value of a wide one, and what depends on it
belongs to a later *pass* over the row:

    m = max(x); e = exp(x - m); y = e / sum(e)      pass 0: max; pass 1: exp, sum; pass 2: divide

A wide value that a later pass needs is computed again where that is cheap, else kept in scratch
memory, which a row does not leave the first caches in.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

from needle.compiler.types import TYPES

__all__ = ["DEAR", "Apply", "Body", "Index", "Load", "Number", "Reduce", "Scalar", "Store"]

# What is kept rather than computed again.
DEAR = frozenset(
    ("cos", "divide", "erf", "exp", "expm1", "floor_divide", "log", "log1p", "log2", "power",
     "reciprocal", "remainder", "sigmoid", "sin", "sqrt", "tanh")
)  # fmt: skip


@dataclass(frozen=True)
class Load:
    """An operand's element. kind: "row" (neighbours), "same" (one for the row), "strided"."""

    dtype: str
    kind: str


@dataclass(frozen=True, eq=False)
class Number:
    """A constant that is part of the code. 0.0 is not -0.0."""

    value: float
    dtype: str

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Number) and repr(self) == repr(other)

    def __hash__(self) -> int:
        return hash(repr(self))


@dataclass(frozen=True)
class Scalar:
    """A number that the call brings, as a double or an i64 by its dtype."""

    dtype: str


@dataclass(frozen=True)
class Index:
    """A number for each place: the operand's beginning + its strides along rows and columns.

    What would be read from an array of 0, 1, 2, ...
    """

    dtype: str
    kind: str  # "row" or "same", as of a load


@dataclass(frozen=True)
class Apply:
    """An elementwise primitive of earlier values, each converted to a dtype first."""

    name: str
    inputs: tuple[int, ...]
    compute: tuple[str, ...]
    dtype: str


@dataclass(frozen=True)
class Reduce:
    """sum, prod, max or min of a wide value over the columns of the row."""

    name: str
    input: int
    dtype: str


@dataclass(frozen=True)
class Store:
    """Where a value goes. kind: as of a load; "sums": added up over rows, chunk by chunk.

    streamed: whether a row, which is long, may go past the caches, if the call says so
    """

    value: int
    dtype: str
    kind: str
    streamed: bool = False


Item = Load | Number | Scalar | Index | Apply | Reduce


@dataclass(frozen=True)
class Body:
    """Values, each made from earlier ones (known by their numbers), and what is stored."""

    values: tuple[Item, ...]
    stores: tuple[Store, ...]

    @staticmethod
    def of(values: Sequence[Item], stores: Sequence[Store]) -> Body:
        """The body of these; the same object each time, so that what is known of it is kept."""
        return _interned(Body(tuple(values), tuple(stores)))

    @cached_property
    def key(self) -> str:
        """All that the code depends on."""
        return f"fused {self!r}"

    @cached_property
    def operands(self) -> list[int]:
        """The values that have strides: loads and indices."""
        return [i for i, v in enumerate(self.values) if isinstance(v, (Load, Index))]

    @cached_property
    def loads(self) -> list[int]:
        """The values that are read from memory."""
        return [i for i, v in enumerate(self.values) if isinstance(v, Load)]

    @cached_property
    def scalars(self) -> list[int]:
        """The values that the call brings as numbers."""
        return [i for i, v in enumerate(self.values) if isinstance(v, Scalar)]

    @cached_property
    def reduces(self) -> bool:
        """Whether rows are taken as wholes."""
        return any(isinstance(v, Reduce) for v in self.values)

    @cached_property
    def wide(self) -> tuple[bool, ...]:
        """Of each value: whether it has an element for each column."""
        wide: list[bool] = []
        for v in self.values:
            if isinstance(v, (Load, Index)):
                wide.append(v.kind != "same")
            elif isinstance(v, Apply):
                wide.append(any(wide[i] for i in v.inputs))
            else:
                wide.append(False)
        return tuple(wide)

    @cached_property
    def level(self) -> tuple[int, ...]:
        """Of each value: the first pass in which (wide), or before which (narrow), it is known."""
        level: list[int] = []
        for v in self.values:
            if isinstance(v, Reduce):
                level.append(level[v.input] + 1)
            elif isinstance(v, Apply):
                level.append(max(level[i] for i in v.inputs))
            else:
                level.append(0)
        return tuple(level)

    @cached_property
    def passes(self) -> int:
        """How many times a row is walked."""
        return 1 + max([self.level[i] for i in self._ends()], default=-1)

    def _ends(self) -> Iterator[int]:
        """The wide values that are reduced or stored."""
        for v in self.values:
            if isinstance(v, Reduce):
                yield v.input
        for store in self.stores:
            if store.kind != "same":
                yield store.value

    def ends_of(self, number: int) -> list[int]:
        """The wide values that a pass reduces or stores."""
        return [i for i in self._ends() if self.level[i] == number]

    def needed(self, number: int) -> set[int]:
        """The wide values that a pass reads or computes."""
        needed, stack = set[int](), self.ends_of(number)
        while stack:
            i = stack.pop()
            v = self.values[i]
            if i in needed or not self.wide[i]:
                continue
            needed.add(i)
            if isinstance(v, Apply) and not (i in self.kept and self.level[i] < number):
                stack += v.inputs
        return needed

    @cached_property
    def kept(self) -> dict[int, int]:
        """The values that are kept for a later pass, by the number of their place in scratch."""
        kept: dict[int, int] = {}
        for number in range(self.passes):
            stack, seen = self.ends_of(number), set[int]()
            while stack:
                i = stack.pop()
                v = self.values[i]
                if i in seen or not self.wide[i] or not isinstance(v, Apply):
                    continue
                seen.add(i)
                if self.level[i] < number and i in self._dear:
                    kept.setdefault(i, len(kept))
                else:
                    stack += v.inputs
        return kept

    @cached_property
    def _dear(self) -> set[int]:
        """The wide values that take long to compute from what is loaded."""
        dear: set[int] = set()
        for i, v in enumerate(self.values):
            if not isinstance(v, Apply) or not self.wide[i]:
                continue
            if v.name in DEAR or any(j in dear for j in v.inputs):
                dear.add(i)
        return dear

    def is_dear(self, number: int) -> bool:
        """Whether a pass computes something that takes long."""
        return any(
            isinstance(v := self.values[i], Apply)
            and v.name in DEAR
            and not (i in self.kept and self.level[i] < number)
            for i in self.needed(number)
        )

    @cached_property
    def itemsize(self) -> int:
        """Bytes of the widest type that is in vectors."""
        dtypes = [v.dtype for v, wide in zip(self.values, self.wide, strict=True) if wide]
        dtypes += [v.dtype for v in self.values if isinstance(v, Reduce)]
        dtypes += [s.dtype for s in self.stores if s.kind != "same"]
        return max([4, *[TYPES[dtype].itemsize for dtype in dtypes if dtype != "bool"]])


@lru_cache(maxsize=1024)
def _interned(body: Body) -> Body:
    """The first body that was equal to it."""
    return body

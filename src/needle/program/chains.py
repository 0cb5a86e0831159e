"""Chains: contractions and loops over common batch dimensions, run item by item, block by block.

Attention is the pattern: scores = q kᵀ, weights = softmax(scores), y = weights v, each (batch,
heads, rows, ...). One unit computes a block of rows of one item in all three before it goes on to
the next, so that scores and weights are never more than a block, in memory of the thread's own. The
gradients of q, k and v are a chain too; it computes the weights again rather than read them.

A value that may pass on like this lies row by row: (items, rows, width), an item being an index of
the batch dimensions. A member of a chain either makes rows of one from the same rows of another, or
it sums over rows: then it goes over all blocks of an item before its result is complete.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import count
from math import prod

from needle.backend_ndarray.layout import Layout, compact_strides
from needle.backend_ndarray.ndarray_backend_trace import Node, Operand
from needle.compiler.kernels.contraction import takes_parts
from needle.compiler.kernels.fused_body import DEAR
from needle.program.fuse import Fused, Unit
from needle.program.graph import Graph
from needle.program.space import Space

__all__ = ["Chain", "Member", "chain", "is_narrow"]

_MOST_MEMBERS = 24
_LONG = 1024  # rows, for which a chain is worth it for a single item
_MOST_RECOMPUTED = 12  # nodes that are computed again for one value


@dataclass(eq=False)
class Member:
    """A unit in a chain.

    sums   whether it is a contraction that sums over the rows
    items  of a loop: the digits of the batch dimensions, outermost first
    row    of a loop: the digit of the rows
    """

    unit: Unit
    sums: bool = False
    items: tuple[int, ...] = ()
    row: int = -1


class Chain(Unit):
    """A unit of several, over the same items and rows.

    members  each after those that it reads
    items    how many
    rows     of each
    values   of what may pass from member to member: elements in a row
    """

    def __init__(
        self, number: int, members: Sequence[Member], items: int, rows: int, values: dict[Node, int]
    ) -> None:
        nodes = [node for member in members for node in member.unit.nodes]
        super().__init__(nodes[0], number)
        self.nodes, self.members = nodes, list(members)
        self.items, self.rows, self.values = items, rows, values

    @property
    def kind(self) -> str:
        """What it is, for people."""
        return f", a chain over {self.items} items of {self.rows} rows"


@dataclass(eq=False)
class _Draft:
    """A chain in the making: its members by their units, and what may pass between them."""

    items: int
    rows: int
    members: dict[Unit, Member] = field(default_factory=dict)
    values: dict[Node, int] = field(default_factory=dict)
    recomputed: dict[Unit, Member] = field(default_factory=dict)  # what is computed again


def chain(fused: Fused) -> Fused:
    """The units, with chains in the place of their members."""
    return _Chains(fused).fused()


class _Chains:
    def __init__(self, fused: Fused) -> None:
        self.graph, self.units = fused.graph, list(fused.units)
        self.place = {unit: i for i, unit in enumerate(self.units)}
        self.unit_of = {node: unit for unit in self.units for node in unit.nodes}
        self.users: dict[Node, dict[Unit, None]] = {}
        for unit in self.units:
            self._note_users(unit)
        self.asked = {x.node for x in (*self.graph.outputs, *self.graph.checks)}
        updated = [given for given in self.graph.updates.values() if given is not None]
        self.overwritten = {self.graph.inputs[given] for given in updated}
        self.numbers = count(1 + max([unit.number for unit in self.units], default=0))
        self.original: dict[Node, Node] = {}  # of copies
        self.drafts: list[_Draft] = []
        self.draft_of: dict[Unit, _Draft] = {}
        for unit in self.units:
            if unit not in self.draft_of and _is_seed(unit):
                self._try(unit)
        for draft in self.drafts:
            _Recomputation(self, draft).apply()

    def _note_users(self, unit: Unit) -> None:
        for node in unit.nodes:
            for x in node.inputs:
                self.users.setdefault(x.node, {})[unit] = None

    # -- which ---------------------------------------------------------------------------------

    def _try(self, seed: Unit) -> None:
        """Begin a chain with a contraction; keep it if a contraction reads what it made."""
        node = seed.nodes[0]
        batch = node.parameters["groups"][0]
        draft = _Draft(prod(node.layout.shape[:batch]), node.layout.shape[batch])
        self._add(draft, seed)
        contractions = [unit for unit in draft.members if unit.space is None]
        if len(contractions) < 2:
            for unit in draft.members:
                del self.draft_of[unit]
        else:
            self.drafts.append(draft)

    def _add(self, draft: _Draft, seed: Unit) -> None:
        """Add a seed, then all that reads what members make, and what they alone read."""
        queue = [seed]
        while queue:
            unit = queue.pop(0)
            member = self._fitting(draft, unit)
            if member is None:
                continue
            made = {} if member.sums else dict(_values_of(unit, member, draft))
            if not self._is_read_by_rows(draft, unit, made) or not self._keeps_order(draft, unit):
                continue
            self.draft_of[unit] = draft
            draft.members[unit] = member
            draft.values |= made
            queue += [user for value in made for user in self.users.get(value, ())]
            queue += [self.unit_of[x.node] for x in _read(unit) if self._is_only_for(draft, x.node)]
            queue += self._siblings(draft, unit)

    def _fitting(self, draft: _Draft, unit: Unit) -> Member | None:
        """The part that a unit has in a chain as it is now; None if it has none."""
        if not draft.members:
            return Member(unit)
        if unit in self.draft_of or len(draft.members) >= _MOST_MEMBERS:
            return None
        return _member(draft, unit, self._made(draft), self._values(draft, unit))

    def _is_read_by_rows(self, draft: _Draft, unit: Unit, made: dict[Node, int]) -> bool:
        """Whether members read of a unit only what may pass on, row by row."""
        return all(
            node in made and _reads_by_rows(draft, draft.members[user], node)
            for node in unit.nodes
            for user in self.users.get(node, ())
            if user in draft.members and user is not unit
        )

    def _is_only_for(self, draft: _Draft, node: Node) -> bool:
        """Whether all that reads what a node's unit makes is in a chain."""
        unit = self.unit_of[node]
        made = [user for one in unit.nodes for user in self.users.get(one, ()) if user is not unit]
        return not self.asked & set(unit.nodes) and all(user in draft.members for user in made)

    def _siblings(self, draft: _Draft, unit: Unit) -> Iterator[Unit]:
        """What reads, beside a member, what another chain has made."""
        for x in _read(unit):
            other = self.draft_of.get(self.unit_of[x.node])
            if other is not None and other is not draft and x.node in other.values:
                yield from self.users[x.node]

    def _values(self, draft: _Draft, unit: Unit) -> dict[Node, int]:
        """What a unit reads that passes between members, of other chains too: how long rows are."""
        values = dict(draft.values)
        for one in self._ahead(unit):
            other = self.draft_of.get(one)
            if other is not None and (other.items, other.rows) == (draft.items, draft.rows):
                values |= other.values
        return values

    def _made(self, draft: _Draft) -> set[Node]:
        return {node for unit in draft.members for node in unit.nodes}

    # -- order ---------------------------------------------------------------------------------

    def _keeps_order(self, draft: _Draft, unit: Unit) -> bool:
        """Whether no way leads from a chain with the unit out of it and back."""
        inside = {*draft.members, unit}
        ahead = [other for one in inside for other in self._ahead(one) if other not in inside]
        lowest = min(self.place[one] for one in inside)
        seen = set(ahead)
        while ahead:
            now = ahead.pop()
            together = self.draft_of.get(now)
            units = [now] if together is None else list(together.members)
            if max(self.place[one] for one in units) < lowest:
                continue
            for other in {other for one in units for other in self._ahead(one)}:
                if other in inside:
                    return False
                if other not in seen:
                    seen.add(other)
                    ahead.append(other)
        return True

    def _ahead(self, unit: Unit) -> dict[Unit, None]:
        """The units that one reads, in the order in which it does."""
        return dict.fromkeys(self.unit_of[x.node] for x in _read(unit))

    # -- the result ----------------------------------------------------------------------------

    def fused(self) -> Fused:
        """All units in order, chains among them; without those that nobody needs any more."""
        if not self.drafts:
            return Fused(self.graph, self.units)
        whole: dict[Unit, Unit] = {}
        for draft in self.drafts:
            members = self._sorted([*draft.recomputed.values(), *draft.members.values()])
            made = Chain(next(self.numbers), members, draft.items, draft.rows, draft.values)
            own = {member.unit for member in members}
            for unit in own:  # the others in the chain
                unit.direct = {other.number for other in self._ahead(unit) if other in own}
            whole |= dict.fromkeys([member.unit for member in members], made)
        order = self._in_order(whole)
        for unit in order:
            unit.direct = {
                other.number
                for x in _read(unit)
                if (other := whole.get(self.unit_of[x.node], self.unit_of[x.node])) is not unit
            }
        graph = self.graph
        nodes = [node for unit in order for node in unit.nodes]
        return Fused(Graph(graph.inputs, graph.outputs, nodes, graph.checks, graph.updates), order)

    def _sorted(self, members: Sequence[Member]) -> list[Member]:
        """Each after those that it reads."""
        known = {member.unit: member for member in members}
        order: dict[Unit, None] = {}

        def add(unit: Unit) -> None:
            for other in self._ahead(unit):
                if other in known and other not in order:
                    add(other)
            order[unit] = None

        for member in sorted(members, key=lambda member: self.place[member.unit]):
            add(member.unit)
        return [known[unit] for unit in order]

    def _in_order(self, whole: dict[Unit, Unit]) -> list[Unit]:
        """Each unit that outputs depend on, after those that it depends on itself."""
        order: dict[Unit, None] = {}
        needed = {self.unit_of[node] for node in self.asked}
        for root in sorted(needed, key=lambda unit: self.place[unit]):
            stack = [whole.get(root, root)]
            while stack:
                unit = stack[-1]
                read = {whole.get(u, u) for u in (self.unit_of[x.node] for x in _read(unit))}
                ahead = [other for other in read if other is not unit and other not in order]
                if unit in order or not ahead:
                    order[stack.pop()] = None
                else:
                    stack += sorted(ahead, key=lambda other: -other.number)
        return list(order)


def _read(unit: Unit) -> list[Operand]:
    """What a unit reads that others made."""
    own = set(unit.nodes)
    return [x for node in unit.nodes for x in node.inputs if x.node not in own]


# -- members ---------------------------------------------------------------------------------------


def _is_row_by_row(view: Layout, items: int, rows: int, width: int) -> bool:
    """Whether a view is (items, rows, width) as it lies, whatever axes the items have."""
    shape = view.shape
    return (
        len(shape) >= 2
        and view.size == items * rows * width
        and prod(shape[:-2]) == items
        and shape[-2:] == (rows, width)
        and _lies_so(view, shape)
    )


def _lies_so(view: Layout, shape: Sequence[int]) -> bool:
    """Whether it lies row after row, of axes longer than 1."""
    steps = compact_strides(shape)
    return all(n == 1 or a == b for n, a, b in zip(shape, view.strides, steps, strict=True))


def _is_turned(view: Layout, items: int, rows: int, width: int) -> bool:
    """The same with the last two axes in each other's place."""
    order = (*range(view.ndim - 2), view.ndim - 1, view.ndim - 2)
    return view.ndim >= 2 and _is_row_by_row(view.permute(order)[0], items, rows, width)


def _is_batched(node: Node) -> bool:
    """Whether it is a product of matrices for each item of a batch, its result row by row."""
    if node.primitive != "contract" or node.layout.dtype.name not in ("float32", "float64"):
        return False
    batch, *groups = node.parameters["groups"]
    if not batch or groups != [1, 1, 1] or not _lies_so(node.layout, node.layout.shape):
        return False
    # a matrix of weights: items are more rows, and nothing is gained by taking them apart; but not
    # one key head of all query heads
    second = node.inputs[1]
    several = prod(node.layout.shape[:batch]) > 1
    shared = several and second.node.layout.ndim <= 2 and not any(second.layout.strides[:batch])
    return not shared and all(x.layout.dtype == node.layout.dtype for x in node.inputs)


def _is_seed(unit: Unit) -> bool:
    """Whether a chain may begin with a unit: its rows are longer than those it is made of."""
    node = unit.nodes[0]
    if len(unit.nodes) > 1 or not _is_batched(node):
        return False
    batch = node.parameters["groups"][0]
    m, n = node.layout.shape[batch:]
    k = node.inputs[0].layout.shape[-1]
    several = prod(node.layout.shape[:batch]) > 1 or m >= _LONG
    return several and n > k and _may_be_cut(node, m)


def _may_be_cut(node: Node, rows: int) -> bool:
    """Whether a contraction's kernel can do a part of the rows, with a part of the sums."""
    batch = node.parameters["groups"][0]
    a, b = [_of_item(x.layout, batch) for x in node.inputs]
    return rows > 1 and takes_parts(a, b, _of_item(node.layout, batch))


def _of_item(view: Layout, batch: int) -> Layout:
    return view.strided(view.shape[batch:], view.strides[batch:])


def _member(draft: _Draft, unit: Unit, made: set[Node], values: dict[Node, int]) -> Member | None:
    """How a unit takes part in a chain that has made this; None if it does not fit in."""
    if any(x.node in made and x.node not in values for x in _read(unit)):
        return None
    if unit.space is not None:
        return _loop_member(draft, unit, unit.space, values)
    node = unit.nodes[0]
    if not _is_batched(node) or len(unit.nodes) > 1:
        return None
    batch = node.parameters["groups"][0]
    a, b = [x.node for x in node.inputs]
    m, k = node.layout.shape[batch], node.inputs[0].layout.shape[-1]
    if prod(node.layout.shape[:batch]) != draft.items or not _may_be_cut(node, m):
        return None
    by_rows, summing = Member(unit), Member(unit, sums=True)
    if (
        m == draft.rows
        and b not in made
        and (a not in values or _is_by_rows(draft, by_rows, node, 0))
    ):
        return by_rows
    read = [number for number, x in enumerate((a, b)) if x in values]
    sums = k == draft.rows and all(_is_by_rows(draft, summing, node, number) for number in read)
    return summing if sums and read else None


def _loop_member(draft: _Draft, unit: Unit, space: Space, values: dict[Node, int]) -> Member | None:
    """The digits of items and rows, by the values of the chain that a loop reads or makes."""
    found = None
    for node in unit.nodes:
        for x in node.inputs:
            if x.node not in values:
                continue
            steps = space.strides(space.axes_read(node), x.layout.strides)
            digits = None if x.offset else _digits(draft, space, steps, values[x.node])
            if digits is None or found not in (None, digits):
                return None
            found = digits
    for node in unit.nodes:
        found = found or _digits_of(draft, space, node)
    if found is None:
        return None
    items, row = found
    if {*items, row} & set(space.columns or ()):
        return None
    return Member(unit, items=items, row=row)


def _digits(
    draft: _Draft, space: Space, steps: dict[int, int], width: int
) -> tuple[tuple[int, ...], int] | None:
    """The digits that lead through items, and through rows, of a value with rows so long."""
    order = sorted((d for d in steps if space.extents[d] > 1), key=lambda d: -steps[d])
    items = tuple([d for d in order if steps[d] >= width * draft.rows])
    rows = [d for d in order if width <= steps[d] < width * draft.rows]
    step = width * draft.rows
    for digit in reversed(items):
        if steps[digit] != step:
            return None
        step *= space.extents[digit]
    whole = step == width * draft.rows * draft.items
    one = len(rows) == 1 and steps[rows[0]] == width and space.extents[rows[0]] == draft.rows
    return (items, rows[0]) if whole and one else None


def _digits_of(draft: _Draft, space: Space, node: Node) -> tuple[tuple[int, ...], int] | None:
    """The same of what a loop makes, by its shape."""
    shape = node.layout.shape
    if len(shape) < 2 or prod(shape[:-2]) != draft.items or shape[-2] != draft.rows:
        return None
    steps = space.strides(space.axes[node], compact_strides(shape))
    return _digits(draft, space, steps, shape[-1])


def _values_of(unit: Unit, member: Member, draft: _Draft) -> Iterator[tuple[Node, int]]:
    """What a member makes that may pass on: each with the length of its rows."""
    for node in unit.nodes:
        width = node.layout.shape[-1] if node.layout.ndim else 1
        if not _is_row_by_row(node.layout, draft.items, draft.rows, width):
            continue
        if unit.space is None:
            yield node, width
            continue
        steps = unit.space.strides(unit.space.axes[node], node.layout.strides)
        if _digits(draft, unit.space, steps, width) == (member.items, member.row):
            yield node, width


# -- what is computed again ------------------------------------------------------------------------


class _Recomputation:
    """What a chain computes for itself, rather than read it: weights from scores, for instance.

    Rows may be made again of what is in memory anyway; what has one element for each row (the
    largest score, the sum of powers) is kept.
    """

    def __init__(self, chains: _Chains, draft: _Draft) -> None:
        self.chains, self.draft = chains, draft
        self.first = min(chains.place[unit] for unit in draft.members)
        self.copies: dict[Node, Node] = {}
        self.copied: dict[Unit, Member] = {}  # of loops

    def apply(self) -> None:
        """Compute again all that can be, and have the members read it."""
        for x in [x for unit in self.draft.members for x in _read(unit)]:
            if self._is_wanted(x.node):
                recipe = self._recipe(x.node)
                if recipe is not None and len(recipe) <= _MOST_RECOMPUTED:
                    for node in recipe:
                        self._copy(node)
        for unit in self.draft.members:
            for node in unit.nodes:
                self._read_copies(node, unit)

    def _is_wanted(self, node: Node) -> bool:
        """Whether only chains read it, as it lies: if all make it again, it is not kept."""
        chains, own = self.chains, self.chains.unit_of[node]
        if node in chains.asked or chains.draft_of.get(own) is self.draft:
            return False
        return all(
            (draft := chains.draft_of.get(user)) is not None
            and _reads_by_rows(draft, draft.members.get(user) or draft.recomputed[user], node)
            for user in chains.users[node]
            if user is not own
        )

    def _recipe(self, node: Node) -> dict[Node, None] | None:
        """What has to be computed for a node, in order; None if it should not be."""
        chains = self.chains
        node = chains.original.get(node, node)
        if node in self.copies:
            return {}
        unit = chains.unit_of[node]
        member = self._may_be_made(node, unit)
        if member is None:
            return None
        recipe: dict[Node, None] = {}
        for number, x in enumerate(node.inputs):
            own = unit.space is not None and chains.unit_of[x.node] is unit
            if own and unit.space is not None and is_narrow(x.node, unit.space, member):
                continue
            by_rows = own or _is_by_rows(self.draft, member, node, number)
            more = self._recipe(x.node) if by_rows else None
            if more is None and (own or not self._is_there(x.node)):
                return None
            recipe |= more or {}
        return recipe | {node: None}

    def _may_be_made(self, node: Node, unit: Unit) -> Member | None:
        """The part that a node's unit would have in the chain, if it makes rows of rows."""
        other = self.chains.draft_of.get(unit)
        if node in self.chains.asked or other is self.draft:
            return None
        if other is not None:
            fits = (other.items, other.rows) == (self.draft.items, self.draft.rows)
            member = other.members.get(unit) or other.recomputed.get(unit)
            if not fits or member is None or member.sums:
                return None
            return member if node.primitive in ("elementwise", "contract") else None
        if unit.space is None or node.primitive != "elementwise" or node.parameters["name"] in DEAR:
            return None
        digits = _digits_of(self.draft, unit.space, node)
        return None if digits is None else Member(unit, items=digits[0], row=digits[1])

    def _is_there(self, node: Node) -> bool:
        """Whether what lies in memory is there until the chain runs, and costs nothing more."""
        if node.primitive in ("constant", "fill"):
            return True
        if node in self.chains.overwritten or node.primitive in ("assign", "empty"):
            return False
        later = (self.chains.place[user] >= self.first for user in self.chains.users.get(node, ()))
        return node.primitive == "input" or any(later)

    def _copy(self, old: Node) -> None:
        chains, draft = self.chains, self.draft
        layout = Layout.of(old.layout.device, old.layout.dtype, old.layout.shape)
        new = Node(old.primitive, layout, old.inputs, old.parameters, old.numbers)
        new.origin = old.origin
        chains.original[new] = old
        member = self._member_for(chains.unit_of[old], old, new)
        self.copies[old] = new
        self._read_copies(new, member.unit)
        chains.unit_of[new] = member.unit
        draft.values |= dict(_values_of(member.unit, member, draft))

    def _member_for(self, unit: Unit, old: Node, new: Node) -> Member:
        """The member that a copy belongs to: one for all that comes of the same loop."""
        member = self.copied.get(unit)
        if member is not None:
            member.unit.nodes.append(new)
        else:
            like = self._may_be_made(old, unit)
            assert like is not None
            copy = Unit(new, next(self.chains.numbers), None if unit.space is None else Space())
            member = Member(copy, items=like.items, row=like.row)
            self.chains.place[copy] = self.chains.place[unit]
            self.chains.draft_of[copy] = self.draft
            self.draft.recomputed[copy] = member
        space, source = member.unit.space, unit.space
        if space is not None and source is not None:
            self.copied[unit] = member
            space.axes[new] = [list(row or ()) for row in source.axes[old]]
            space.extents |= {digit: source.extents[digit] for digit in space.of(new)}
        return member

    def _read_copies(self, node: Node, unit: Unit) -> None:
        """Have a node of a unit read copies where there are some, and where it reads rows."""
        users = self.chains.users
        for x in node.inputs:
            users[x.node].pop(unit, None)
        member = self.draft.members.get(unit) or self.draft.recomputed[unit]
        node.inputs = tuple(
            [self._copy_read(member, node, number) for number in range(len(node.inputs))]
        )
        for x in (x for one in {*unit.nodes, node} for x in one.inputs):
            users.setdefault(x.node, {})[unit] = None

    def _copy_read(self, member: Member, reader: Node, number: int) -> Operand:
        """What is read of a copy, which lies row by row, in place of the original."""
        x = reader.inputs[number]
        copy = self.copies.get(self.chains.original.get(x.node, x.node))
        if copy is None or copy is x.node:
            return x
        if copy not in member.unit.nodes and not _is_by_rows(self.draft, member, reader, number):
            return x
        as_it_lies = x.layout.strides == x.node.layout.strides
        return Operand(copy, copy.layout if as_it_lies else x.layout, x.offset)


def _reads_by_rows(draft: _Draft, member: Member, node: Node) -> bool:
    """Whether a member reads of a node only the rows that it makes rows of, or sums over."""
    return all(
        _is_by_rows(draft, member, reader, number)
        for reader in member.unit.nodes
        for number, x in enumerate(reader.inputs)
        if x.node is node
    )


def _is_by_rows(draft: _Draft, member: Member, reader: Node, number: int) -> bool:
    """The same of an operand of a node of a member; what it reads has (items, rows, width).

    In memory it may lie in another order of axes, if all of it is read as it lies.
    """
    x, space = reader.inputs[number], member.unit.space
    own = x.node.layout
    shape = own.shape
    if x.offset or len(shape) < 2 or (prod(shape[:-2]), shape[-2]) != (draft.items, draft.rows):
        return False
    view = x.layout
    if own.strides != compact_strides(shape):
        if (view.shape, view.strides) != (shape, own.strides):
            return False
        view = Layout.of(own.device, own.dtype, shape)
    if space is not None:
        steps = space.strides(space.axes_read(reader), view.strides)
        return _digits(draft, space, steps, shape[-1]) == (member.items, member.row)
    if number == 1 and not member.sums:
        return False  # each row of the result is made of all that the second operand has
    check = _is_turned if member.sums and number == 0 else _is_row_by_row
    return check(view, draft.items, draft.rows, shape[-1])


def is_narrow(node: Node, space: Space, member: Member) -> bool:
    """Whether there is one element for each row, or less."""
    return space.of(node) <= {*member.items, member.row}

"""What the comparison of operators with PyTorch is made of: pairs of functions, and inputs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from parity.side_by_side import torch

from needle import ops

F = torch.nn.functional


class Pair(NamedTuple):
    """The same function in both libraries, and the shapes or arrays to try it on."""

    ours: Callable[..., Any]
    theirs: Callable[..., Any]
    inputs: tuple[Any, ...]
    positive: bool = False

    def arrays(self) -> list[np.ndarray]:
        rng = np.random.RandomState(0)
        return [x if isinstance(x, np.ndarray) else self._draw(rng, x) for x in self.inputs]

    def _draw(self, rng: np.random.RandomState, shape: Any) -> np.ndarray:
        """Away from 0, where derivatives have their kinks and poles."""
        sign = 1.0 if self.positive else rng.choice([-1.0, 1.0], shape)
        return np.asarray(sign * rng.uniform(0.2, 2.0, shape))


SHAPES = [(), (3,), (2, 3), (2, 0)]
TOGETHER = [((2, 3), (2, 3)), ((2, 3), (3,)), ((), (2, 3)), ((4, 1, 3), (2, 1)), ((0, 3), (1, 3))]
MASK = np.array([[True, False, True], [False, False, True]])
SOME_ZERO = np.array([[0.0, 2.0, -0.5], [np.nan, 0.0, 0.0]])


def unary(ours: Any, theirs: Any, positive: bool = False) -> list[Pair]:
    return [Pair(ours, theirs, (shape,), positive) for shape in SHAPES]


def binary(ours: Any, theirs: Any, positive: bool = False) -> list[Pair]:
    return [Pair(ours, theirs, pair, positive) for pair in TOGETHER]


def on(shape: Any, *pairs: tuple[Any, Any]) -> list[Pair]:
    return [Pair(ours, theirs, (shape,)) for ours, theirs in pairs]


def scalars(ours: Any, theirs: Any, *numbers: Any, positive: bool = False) -> list[Pair]:
    return [
        Pair(lambda x, n=n: ours(x, n), lambda x, n=n: theirs(x, n), (shape,), positive)
        for n in numbers
        for shape in ((), (2, 3))
    ]


def reductions(ours: Any, theirs: Any) -> list[Pair]:
    """Over one axis, several and all; dropped and kept. PyTorch wants every axis in `dim`."""
    cases = [((2, 3, 4), axes) for axes in (None, 0, -1, (0, 2), (-1, 0))] + [((), None)]
    pairs = []
    for shape, axes in cases:
        every = tuple(range(len(shape))) if axes is None else axes
        for keep in (False, True):
            pairs.append(
                Pair(
                    lambda x, axes=axes, keep=keep: ours(x, axes, keepdims=keep),
                    lambda x, dim=every, keep=keep: theirs(x, dim=dim, keepdim=keep),
                    (shape,),
                )
            )
    return pairs


def logic(ours: Any, theirs: Any) -> list[Pair]:
    arrays = [(MASK, ~MASK), (MASK, MASK[0]), (MASK, SOME_ZERO), (SOME_ZERO, SOME_ZERO[:, :1])]
    return [Pair(ours, theirs, pair) for pair in arrays]


def truths(ours: Any, theirs: Any) -> list[Pair]:
    """Whether all or any hold, along one axis and all."""
    return [
        pair
        for array in (MASK, SOME_ZERO, np.zeros((0, 3)), np.zeros((0, 3), dtype=bool))
        for pair in on(
            array,
            (ours, theirs),
            (lambda x: ours(x, 0), lambda x: theirs(x, dim=0)),
            (
                lambda x: ours(x, (0, -1), keepdims=True),
                lambda x: theirs(x, dim=(0, -1), keepdim=True),
            ),
        )
    ]


def einsums() -> list[Pair]:
    cases = [
        ("ij,jk->ik", (2, 3), (3, 4)),
        ("ij,jk", (2, 3), (3, 4)),
        ("bij,bjk->bik", (2, 3, 4), (2, 4, 2)),
        ("...ij,...jk->...ik", (5, 2, 3), (3, 4)),
        ("...ij,...jk->...ik", (5, 1, 2, 3), (4, 3, 2)),
        ("ii->i", (3, 3)),
        ("ii", (3, 3)),
        ("iij->ij", (2, 2, 3)),
        ("iij,jk->ik", (2, 2, 3), (3, 2)),
        ("i,i", (3,), (3,)),
        ("ij->", (2, 3)),
        ("ij->j", (2, 3)),
        ("ba", (2, 3)),
        ("i...j->j...i", (2, 3, 4)),
        ("ij,i,j->", (2, 3), (2,), (3,)),
        ("bhqd,bhkd->bhqk", (2, 2, 3, 4), (2, 2, 5, 4)),
        ("a,b,c->abc", (2,), (3,), (2,)),
    ]
    return [
        Pair(
            lambda *xs, s=subscripts: ops.einsum(s, *xs),
            lambda *xs, s=subscripts: torch.einsum(s, *xs),
            tuple(shapes),
        )
        for subscripts, *shapes in cases
    ]


def products(ours: Any) -> list[Pair]:
    cases = [
        ((2, 3), (3, 4)),
        ((3,), (3,)),
        ((3,), (3, 4)),
        ((2, 3), (3,)),
        ((3,), (5, 3, 4)),
        ((5, 2, 3), (3,)),
        ((6, 6, 5, 4), (4, 3)),
        ((5, 4), (6, 6, 4, 3)),
        ((3, 2, 1), (3, 3, 1, 2)),
        ((0, 3), (3, 2)),
        ((2, 0), (0, 3)),
    ]
    return [Pair(ours, torch.matmul, shapes) for shapes in cases]


def indices() -> list[Pair]:
    """Indices that both libraries take; those of NumPy alone are in tests/test_ops_random.py."""
    repeated, grid = np.array([0, 2, 0]), np.array([[0, 1], [2, 2]])
    cases = [0, -1, slice(1, None), None, ..., (..., 0), (0, None, slice(0, 1))]
    cases += [repeated, grid, (slice(None), repeated), (repeated, repeated), (grid, slice(1, 3))]
    cases += [(repeated, slice(None), np.array([1, 1, 0])), np.array([True, False, True])]
    pairs = []
    for index in cases:
        parts = index if isinstance(index, tuple) else (index,)
        theirs = tuple(torch.tensor(p) if isinstance(p, np.ndarray) else p for p in parts)
        pairs.append(Pair(lambda x, i=index: x[i], lambda x, i=theirs: x[i], ((3, 4, 2),)))
    return pairs


def along(ours: Any, theirs: Any) -> list[Pair]:
    down, across = np.array([[0, 2, 1, 0], [2, 2, 0, 1]]), np.array([[3, 0], [1, 1], [2, 0]])
    return [
        Pair(lambda x: ours(x, down, 0), lambda x: theirs(x, torch.tensor(down), 0), ((3, 4),)),
        Pair(lambda x: ours(x, across, -1), lambda x: theirs(x, torch.tensor(across), -1),
             ((3, 4),)),
    ]  # fmt: skip


def comparisons(ours: Any, theirs: Any) -> list[Pair]:
    ties = np.array([[1.0, 2.0, 3.0], [3.0, 2.0, 1.0]])
    return [*binary(ours, theirs), Pair(ours, theirs, (ties, ties[0]))]


def swap(x: Any, axes: Any = (-1, -2)) -> Any:
    return torch.transpose(x, *axes)


def torch_pad(x: Any, widths: Any, value: float = 0.0) -> Any:
    return F.pad(x, [n for pair in reversed(widths) for n in pair], value=value)


def argmin_first(x: Any, axis: Any = None) -> Any:
    return torch.argmin(x, axis)


CLASSES = np.array([[2], [0], [1], [2]])
PAD = [(1, 0), (0, 2)]
CROP = [(-1, 2), (1, -2)]


def embeddings() -> list[Pair]:
    ids = np.array([[2, 0, 2], [3, 1, 1]])
    return [
        Pair(lambda w, i, p=p: ops.embedding(w, i, p), lambda w, i, p=p: F.embedding(i, w, p),
             ((4, 3), ids))
        for p in (None, 2)
    ]  # fmt: skip


def masked_softmaxes() -> list[Pair]:
    def theirs(x: Any, mask: Any) -> Any:
        return F.softmax(x.masked_fill(~mask, -torch.inf), -1).nan_to_num(0.0)

    return [Pair(ops.masked_softmax, theirs, ((2, 3), MASK))]


def attentions() -> list[Pair]:
    """The rest of its options is in test_attention_parity.py."""

    def both(**options: Any) -> Pair:
        named = {"causal": "is_causal", "mask": "attn_mask"}
        torchs = {named.get(name, name): value for name, value in options.items()}
        return Pair(
            lambda q, k, v: ops.scaled_dot_product_attention(q, k, v, **options),
            lambda q, k, v: F.scaled_dot_product_attention(q, k, v, **torchs),
            ((2, 3, 4), (2, 5, 4), (2, 5, 3)),
        )

    return [both(), both(causal=True), both(scale=0.7)]


def recurrence(ours: Any, kind: str, blocks: int, count: int) -> list[Pair]:
    """PyTorch's layer with the identity for W_ih: then x is what each step reads of the input.

    More is in test_recurrent_parity.py.
    """
    size = 2
    layer = getattr(torch.nn, kind)(blocks * size, size, bias=False, dtype=torch.float64)

    def theirs(x: Any, weight: Any, *states: Any) -> Any:
        eye = torch.eye(blocks * size, dtype=torch.float64)
        parameters = {"weight_ih_l0": eye, "weight_hh_l0": weight.T}
        given = tuple([state[None] for state in states])
        hidden = given if kind == "LSTM" else given[0]
        return torch.func.functional_call(layer, parameters, (x, hidden))[0]

    shapes = ((3, 2, blocks * size), (size, blocks * size), *[(2, size)] * count)
    return [Pair(lambda *inputs: _first(ours(*inputs)), theirs, shapes)]


def one_step(ours: Any, kind: str, blocks: int) -> list[Pair]:
    """PyTorch's cell with the identity for W_ih and 0 for W_hh: then x is what the gates are of."""
    size = 2
    eye = torch.eye(blocks * size, dtype=torch.float64)

    def lstm(gates: Any, c: Any) -> Any:
        none = torch.zeros(blocks * size, size, dtype=torch.float64)
        return torch.lstm_cell(gates, (torch.zeros_like(c), c), eye, none)

    def gru(x: Any, s: Any, h: Any) -> Any:
        none = torch.zeros(blocks * size, size, dtype=torch.float64)
        rows = zip(x.split(1), h.split(1), s, strict=True)  # of h it reads nothing: s is a bias
        return torch.cat([torch.gru_cell(x, h, eye, none, s * 0, s) for x, h, s in rows])

    wide, narrow = (3, blocks * size), (3, size)
    if kind == "LSTM":
        return [Pair(ours, lstm, (wide, narrow))]
    return [Pair(ours, gru, (wide, wide, narrow))]


def _first(result: Any) -> Any:
    return result[0] if isinstance(result, tuple) else result


def on_pictures(ours: Any, theirs: Any, *shapes: Any) -> list[Pair]:
    """PyTorch has channels first, and kernels (out, in, *K). More is in test_convolution_parity."""

    def turned(x: Any, *kernel: Any) -> Any:
        kernels = [w.permute(3, 2, 0, 1) for w in kernel]
        return theirs(x.permute(0, 3, 1, 2), *kernels).permute(0, 2, 3, 1)

    return [Pair(ours, turned, shapes)]


def same(function: Any, shape: Any = (2, 3), positive: bool = False) -> list[Pair]:
    """A function that reads the same in both libraries."""
    return [Pair(function, function, (shape,), positive)]

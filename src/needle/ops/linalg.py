"""Products of matrices, and their triangles."""

from __future__ import annotations

import math
import operator
import re
from typing import Any

import numpy as np

from needle.autograd.tensor import Tensor, TensorOp
from needle.backend_selection import Array, array_api, primitives
from needle.errors import DTypeError, OptionError, ShapeError, describe
from needle.fixed import fixed
from needle.ops.broadcasting import unbroadcast

__all__ = ["Einsum", "MatMul", "Tril", "Triu", "einsum", "matmul", "tril", "triu"]


class MatMul(TensorOp):
    """y = a b: the matrix product over the last two axes; leading axes broadcast.

    a: (..., M, K), b: (..., K, N) -> y: (..., M, N). A vector on the left is a row, on the right a
    column, and y lacks its axis, as in NumPy. With transpose_a, transpose_b that matrix is given
    as its transpose, and nothing is copied.
    Gradient: da = dy bᵀ, db = aᵀ dy, summed over what broadcasting repeated.
    """

    expects = "a [..., m, k] and b [..., k, n]"

    def __init__(self, transpose_a: bool = False, transpose_b: bool = False) -> None:
        self.transpose_a, self.transpose_b = transpose_a, transpose_b
        if transpose_a:
            self.expects = self.expects.replace("m, k", "k, m")
        if transpose_b:
            self.expects = self.expects.replace("k, n", "n, k")

    def compute(self, a: Array, b: Array) -> Array:
        if self.transpose_a:
            a = array_api.swapaxes(a, -1, -2)
        if self.transpose_b:
            b = array_api.swapaxes(b, -1, -2)
        product = array_api.matmul(a, b)
        if product.dtype != a.dtype and a.dtype == b.dtype:  # NumPy multiplies bfloat16 as float32
            product = product.astype(a.dtype)
        return product

    def gradient(self, out_grad: Tensor, node: Tensor) -> Any:
        a, b = node.inputs
        if a.ndim == 1 or b.ndim == 1:
            return _gradient_with_vector(out_grad, a, b)
        turned_a, turned_b = self.transpose_a, self.transpose_b
        if b.ndim == 2 and a.ndim > 2 and not turned_a:  # one b for all: as many more rows of a
            return self._gradient_of_rows(out_grad, a, b)
        da = db = None
        if a.requires_grad and turned_a:
            da = MatMul(turned_b, True)(b, out_grad)
        elif a.requires_grad:
            da = MatMul(False, not turned_b)(out_grad, b)
        if b.requires_grad and turned_b:
            db = MatMul(True, turned_a)(out_grad, a)
        elif b.requires_grad:
            db = MatMul(not turned_a, False)(a, out_grad)
        return (
            None if da is None else unbroadcast(da, a),
            None if db is None else unbroadcast(db, b),
        )

    def _gradient_of_rows(self, out_grad: Tensor, a: Tensor, b: Tensor) -> Any:
        """db sums over all rows of a in one product, instead of one for each matrix of a."""
        da = db = None
        if a.requires_grad:
            da = MatMul(False, not self.transpose_b)(out_grad, b)
        if b.requires_grad:
            count = math.prod(a.shape[:-1])
            rows, dy = (x.reshape((count, x.shape[-1])) for x in (a, out_grad))
            db = MatMul(True)(dy, rows) if self.transpose_b else MatMul(True)(rows, dy)
            db = unbroadcast(db, b)
        return None if da is None else unbroadcast(da, a), db


def _gradient_with_vector(out_grad: Tensor, a: Tensor, b: Tensor) -> Any:
    """The gradient by way of the row and the column that vectors stand for."""
    row, column = a.ndim == 1, b.ndim == 1
    a2 = a.reshape((1, *a.shape)) if row else a
    b2 = b.reshape((*b.shape, 1)) if column else b
    batch = out_grad.shape[: out_grad.ndim - (not row) - (not column)]
    dy = out_grad.reshape((*batch, a2.shape[-2], b2.shape[-1]))
    da = unbroadcast(dy @ b2.transpose(), a2).reshape(a.shape) if a.requires_grad else None
    db = unbroadcast(a2.transpose() @ dy, b2).reshape(b.shape) if b.requires_grad else None
    return da, db


def matmul(a: Tensor, b: Tensor, transpose_a: bool = False, transpose_b: bool = False) -> Tensor:
    """The matrix product, over the last two axes, of matrices or their transposes.

    Leading axes broadcast.
    """
    return MatMul(transpose_a, transpose_b)(a, b)


class Einsum(TensorOp):
    """y = the sum of products that `subscripts` spells, as `numpy.einsum` reads them.

    Example: "bik,bkj->bij" is the batched matrix product. Letters and "..." as in NumPy.
    Arrays of one dtype give that dtype; 16- and 8-bit floats add up in float32.
    Gradient: for each array, the einsum of dy and the other arrays, with its own letters as output.
    """

    def __init__(self, subscripts: str) -> None:
        if not isinstance(subscripts, str):
            raise DTypeError(f"einsum: expected subscripts, got {describe(subscripts)}.")
        self.subscripts = subscripts.replace(" ", "")
        if not _SUBSCRIPTS.fullmatch(self.subscripts):
            raise OptionError(
                "einsum: expected letters, '...' and commas, then '->' and letters, "
                f"got {subscripts!r}."
            )
        self.expects = f"arrays that fit {self.subscripts!r}"

    def compute(self, *arrays: Array) -> Array:
        terms, output = self._spelled_out([array.ndim for array in arrays])
        for term, array in zip(terms, arrays, strict=True):
            if len(set(zip(term, array.shape, strict=True))) != len(set(term)):
                raise ShapeError(
                    f"einsum: expected equal extents along the axes of one letter in {term!r}, "
                    f"got {describe(array)}."
                )
        return primitives.einsum(f"{','.join(terms)}->{output}", *arrays)

    def gradient(self, out_grad: Tensor, node: Tensor) -> Any:
        tensors = node.inputs
        terms, output = self._spelled_out([x.ndim for x in tensors])
        return [
            self._gradient_of(i, out_grad, tensors, terms, output) if x.requires_grad else None
            for i, x in enumerate(tensors)
        ]

    def _gradient_of(
        self, i: int, out_grad: Tensor, tensors: list[Tensor], terms: list[str], output: str
    ) -> Tensor:
        x, term = tensors[i], terms[i]
        others = [t for j, t in enumerate(tensors) if j != i]
        other_terms = [t for j, t in enumerate(terms) if j != i]
        letters = "".join(dict.fromkeys(term))  # each once: a diagonal first shrinks to a line
        reached = [c for c in letters if c in output or any(c in t for t in other_terms)]
        found = einsum(f"{','.join([output, *other_terms])}->{''.join(reached)}", out_grad, *others)
        # letters summed within x alone: dy is the same all along them
        extents = dict(zip(term, x.shape, strict=True))
        line = found.expand_dims([k for k, c in enumerate(letters) if c not in reached])
        # extents of 1 that met longer ones were repeated: sum them back
        line = line.sum([k for k, c in enumerate(letters) if extents[c] == 1], keepdims=True)
        line = line.broadcast_to([extents[c] for c in letters])
        if len(letters) < len(term):
            line = _onto_diagonal(line, letters, term, extents)
        return unbroadcast(line, x)  # type: ignore[no-any-return]

    def _spelled_out(self, ranks: list[int]) -> tuple[list[str], str]:
        """The terms and the output with letters in place of "..." and of an unwritten output."""
        inputs, arrow, output = self.subscripts.partition("->")
        terms = inputs.split(",")
        if len(terms) != len(ranks):
            raise ShapeError(
                f"einsum: expected {len(terms)} arrays for {self.subscripts!r}, got {len(ranks)}."
            )
        free = [c for c in _LETTERS if c not in self.subscripts]
        longest = 0
        for k, (term, rank) in enumerate(zip(terms, ranks, strict=True)):
            hidden = rank - len(term.replace("...", ""))
            if hidden < 0 or (hidden and "..." not in term):
                raise ShapeError(
                    f"einsum: expected {len(term.replace('...', ''))} axes for {term!r} in "
                    f"{self.subscripts!r}, got {rank}."
                )
            terms[k] = term.replace("...", "".join(free[:hidden][::-1]))
            longest = max(longest, hidden)
        hidden_letters = "".join(free[:longest][::-1])
        if not arrow:
            joined = "".join(terms)
            once = sorted(c for c in set(joined) - set(hidden_letters) if joined.count(c) == 1)
            return terms, hidden_letters + "".join(once)
        return terms, output.replace("...", hidden_letters)


_SUBSCRIPTS = re.compile(r"[a-zA-Z,.]*(->[a-zA-Z.]*)?")
_LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"


def _onto_diagonal(line: Tensor, letters: str, term: str, extents: dict[str, int]) -> Tensor:
    """Zeros but where equal letters of `term` have equal indices; there, `line`."""
    free = iter(c for c in _LETTERS if c not in term)
    renamed, masks, mask_terms = "", [], []
    for c in term:
        if c not in renamed:
            renamed += c
            continue
        fresh = next(free)
        renamed += fresh
        eye = fixed(np.eye(extents[c]))
        masks.append(Tensor(eye, device=line.device, dtype=line.dtype, requires_grad=False))
        mask_terms.append(c + fresh)
    return einsum(f"{','.join([letters, *mask_terms])}->{renamed}", line, *masks)


def einsum(subscripts: str, *tensors: Tensor) -> Tensor:
    """The sum of products that `subscripts` spells: "ij,jk->ik" is the matrix product."""
    return Einsum(subscripts)(*tensors)


class _Triangle(TensorOp):
    expects = "[..., m, n] and an int k"

    def __init__(self, k: int = 0) -> None:
        self.k = k

    def _require_matrix(self, x: Array) -> Array:
        if x.ndim < 2:
            raise ShapeError(f"{self.name}: expected [..., m, n], got {describe(x)}.")
        return x


class Tril(_Triangle):
    """y = x on and below the k-th diagonal, 0 above it; x: (..., M, N). Gradient: so for dy."""

    def compute(self, x: Array) -> Array:
        return array_api.tril(self._require_matrix(x), operator.index(self.k))

    def gradient(self, out_grad: Tensor, node: Tensor) -> Any:
        return tril(out_grad, self.k)


def tril(a: Tensor, k: int = 0) -> Tensor:
    """x on and below the k-th diagonal, 0 above it."""
    return Tril(k)(a)


class Triu(_Triangle):
    """y = x on and above the k-th diagonal, 0 below it; x: (..., M, N). Gradient: so for dy."""

    def compute(self, x: Array) -> Array:
        return array_api.triu(self._require_matrix(x), operator.index(self.k))

    def gradient(self, out_grad: Tensor, node: Tensor) -> Any:
        return triu(out_grad, self.k)


def triu(a: Tensor, k: int = 0) -> Tensor:
    """x on and above the k-th diagonal, 0 below it."""
    return Triu(k)(a)

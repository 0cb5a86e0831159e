"""Loops that become one compute what they computed apart."""

from __future__ import annotations

import pytest
from program.agreement import assert_compiled_as_eager, normal

import needle as ndl

pytestmark = pytest.mark.nd_mode


def test_a_loop_that_reads_another_mirrored_stays_apart_from_it():
    def mirrored(x, w):
        y = ndl.exp(x)
        return y[::-1] + ndl.sin(w) + y

    assert_compiled_as_eager(mirrored, normal(8, 8), normal(8, 8, seed=1))


def test_a_loop_that_reads_another_turned_stays_apart_from_it():
    def turned(x, w):
        y = ndl.exp(x)
        return y.T + ndl.sin(w) + y

    assert_compiled_as_eager(turned, normal(8, 8), normal(8, 8, seed=1))


def test_a_product_of_two_vectors_is_one_number():
    def length(x):
        y = x.sum(0) * 0.1
        return ndl.einsum("i,i->", y, y), ndl.einsum("...i,...i->...", y, y)

    assert_compiled_as_eager(length, normal(7, 33, dtype="float64"))

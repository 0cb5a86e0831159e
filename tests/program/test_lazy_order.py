"""Values that wait: those that share work with what is asked for, and those that do not."""

from __future__ import annotations

import pytest
from program.agreement import assert_same, normal, tensor

import needle as ndl
from needle.autograd.laziness import expect

pytestmark = pytest.mark.nd_mode


def test_what_shares_work_with_an_unrelated_value_too():
    x, w = tensor(normal(5)), tensor(normal(5, seed=1))
    with ndl.lazy():
        asked, shared = x * 2, w * 3
        unrelated, related = shared + 1, shared + asked
        expect(unrelated)
        expect(related)
        assert_same(asked, tensor(2 * x.numpy()))
    assert_same(related, tensor(w.numpy() * 3 + x.numpy() * 2))
    assert_same(unrelated, tensor(w.numpy() * 3 + 1))

"""Chains: attention and what is like it, block by block, held against eager and counted."""

from __future__ import annotations

from unittest import mock

import numpy as np
import pytest
from program.agreement import assert_compiled_as_eager, normal, tensor
from program.guarded import guarded

import needle as ndl
from needle import nn, ops
from needle.fixed import fixed
from needle.jit import jit
from needle.program import chain_steps, lower
from needle.program.chains import Chain

pytestmark = pytest.mark.nd_mode

RTOL = 3e-4  # of sums of hundreds of products, in another order


def q_k_v(batch=2, heads=3, rows=70, keys=None, deep=8, dtype="float32"):
    """Queries, keys and values (batch, heads, rows or keys, deep)."""
    sizes = (rows, keys or rows, keys or rows)
    return [
        tensor(normal(batch, heads, n, deep, dtype=dtype, seed=i), requires_grad=True)
        for i, n in enumerate(sizes)
    ]


def chains_of(compiled):
    return [
        unit for unit in compiled._latest.executable.compiled.fused.units if type(unit) is Chain
    ]


def chain_steps_of(compiled):
    steps = compiled._latest.executable.compiled.lowered.steps
    return [step for step in steps if step.links is not None]


def with_gradients(attend, q, k, v):
    """What attention returns, and the gradients of q, k and v, in two chains."""
    w = tensor(normal(v.shape[-1], v.shape[-1], dtype=str(v.dtype), seed=9))

    def step(q, k, v):
        y = attend(q, k, v)
        loss = (ops.tanh(y @ w) * y).sum()  # whose gradient needs all of y first
        for x in (q, k, v):
            x.grad = None
        loss.backward()
        return y, loss, *[x.grad for x in (q, k, v) if x.grad is not None]

    return step


def attend_with(mask=None, allowed=None, **options):
    """Attention with a mask; or with one that the compiler knows: allowed(query, key)."""

    def attend(q, k, v):
        masks = [] if mask is None else [mask]
        if allowed is not None:
            i, j = np.ogrid[: q.shape[2], : k.shape[2]]
            known = fixed(np.broadcast_to(allowed(i, j), (q.shape[2], k.shape[2])))
            masks.append(ndl.Tensor(known, dtype="bool", requires_grad=False))
        return ops.scaled_dot_product_attention(q, k, v, tuple(masks) or None, **options)

    return attend


def causal(q, k):
    return attend_with(causal=True)


def plain(q, k):
    return attend_with()


def by_hand(q, k):
    """As one writes it without the operator."""

    def attend(q, k, v):
        scores = ops.matmul(q, ops.transpose(k, (2, 3))) / 3.0
        return ops.matmul(ops.softmax(scores, axis=-1), v)

    return attend


def bools(*shape):
    values = np.random.RandomState(3).rand(*shape) > 0.3
    return ndl.Tensor(values, dtype="bool", requires_grad=False)


def padded(q, k):
    """With a mask that differs from item to item."""
    return attend_with(bools(q.shape[0], 1, q.shape[2], k.shape[2]))


def windowed(q, k):
    """Only near keys, before and after."""
    return attend_with(allowed=lambda i, j: abs(i - j) < 20)


def with_lost_rows(q, k):
    """The first queries may look nowhere."""
    return attend_with(allowed=lambda i, j: (i >= 50) & (j <= i))


def twice_masked(q, k):
    """Three masks, two of which are known."""
    return attend_with(bools(q.shape[2], k.shape[2]), lambda i, j: j < i + 30, causal=True)


def added(q, k):
    """A mask of floats."""
    i, j = np.ogrid[: q.shape[2], : k.shape[2]]
    bias = np.where(j <= i, 0.0, -np.inf) - abs(i - j) / 16
    return attend_with(tensor(bias.astype(np.float32)))


def squares(q, k):
    """Without a softmax."""

    def attend(q, k, v):
        scores = ops.matmul(q, ops.transpose(k, (2, 3)))
        return ops.matmul(scores * scores, v)

    return attend


def attention(make, *given):
    """`with_gradients` of what `make` makes for these q, k and v."""
    return with_gradients(make(*given[:2]), *given)


@pytest.mark.parametrize(
    "rows, keys", [(70, 70), (48, 48), (200, 200), (97, 150), (150, 97), (5, 9)]
)
@pytest.mark.parametrize(
    "make",
    [
        causal,
        plain,
        by_hand,
        padded,
        windowed,
        with_lost_rows,
        twice_masked,
        added,
        squares,
    ],
)
def test_attention_and_its_gradients(make, rows, keys):
    given = q_k_v(rows=rows, keys=keys)
    with guarded():
        compiled = assert_compiled_as_eager(attention(make, *given), *given, rtol=RTOL)
    assert len(chains_of(compiled)) == 2


@pytest.mark.parametrize("shape", [(1, 2, 70), (5, 1, 70), (1, 9, 33), (2, 2, 2)])
def test_any_number_of_items(shape):
    given = q_k_v(*shape)
    assert_compiled_as_eager(attention(causal, *given), *given, rtol=RTOL)


def test_a_single_long_item():
    given = q_k_v(1, 1, 1100)
    compiled = assert_compiled_as_eager(attention(causal, *given), *given, rtol=2e-3)
    assert chains_of(compiled)
    plan = compiled._latest.executable.compiled.memory
    assert plan.total < 1100 * 1100 * 4 / 2


def test_float64_and_no_gradients():
    given = q_k_v(dtype="float64")
    assert_compiled_as_eager(attention(causal, *given), *given, rtol=1e-11)

    def forward(q, k, v):
        with ndl.no_grad():
            return causal(q, k)(q, k, v)

    compiled = assert_compiled_as_eager(forward, *given, rtol=1e-12)
    assert len(chains_of(compiled)) == 1


def test_a_gradient_that_comes_turned():
    """With as many rows as columns it could be taken for rows."""

    def step(q, k, v):
        scores = ops.matmul(q, ops.transpose(k, (2, 3)))
        y = ops.matmul(ops.transpose(scores + scores * scores, (2, 3)), v)
        for x in (q, k, v):
            x.grad = None
        y.sum().backward()
        return y, q.grad, k.grad, v.grad

    assert_compiled_as_eager(step, *q_k_v(rows=120, dtype="float64"), rtol=1e-11)


def shared(x, v):
    """Queries are keys: their gradient needs all that sums over rows first."""
    weights = ops.softmax(ops.matmul(x, ops.transpose(x, (2, 3))), axis=-1)
    return ops.matmul(weights, v)


def twice(x, v):
    """Weights times all rows that weights have made."""
    weights = ops.softmax(ops.matmul(x, ops.transpose(x, (2, 3))), axis=-1)
    return ops.matmul(weights, ops.matmul(weights, v))


def both_ways(x, v):
    """A sum over rows, and rows, that a loop adds."""
    weights = ops.softmax(ops.matmul(x, ops.transpose(x, (2, 3))), axis=-1)
    return ops.matmul(weights, v) + ops.matmul(ops.transpose(weights, (2, 3)), v)


def with_changed_keys(x, v):
    """All of what is cheap to compute is read, so it is not computed block by block."""
    return ops.scaled_dot_product_attention(x, ops.relu(x), v * 0.5, causal=True)


@pytest.mark.parametrize("attend", [shared, twice, both_ways, with_changed_keys])
def test_what_needs_more_than_a_block(attend):
    def step(x, v):
        for leaf in (x, v):
            leaf.grad = None
        y = attend(x, v)
        (y * y.sum()).sum().backward()
        return y, x.grad, v.grad

    x, _, v = q_k_v(rows=130, dtype="float64")
    with guarded():
        assert_compiled_as_eager(step, x, v, rtol=1e-10)


def test_forward_and_backward_in_one_chain():
    """A loss whose gradient is known before the forward pass is done."""

    def step(q, k, v):
        loss = (causal(q, k)(q, k, v) * 0.5).sum()
        for x in (q, k, v):
            x.grad = None
        loss.backward()
        return loss, q.grad, k.grad, v.grad

    assert_compiled_as_eager(step, *q_k_v(), rtol=RTOL)


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("kv_heads", [1, 2, 4])
@pytest.mark.parametrize("rotary", [False, True])
def test_layers(batch, kv_heads, rotary):
    np.random.seed(0)
    turns = nn.RotaryEmbedding(8) if rotary else None
    layer = nn.Attention(32, 4, kv_heads=kv_heads, rotary=turns)
    weights = layer.parameters()

    def step(x):
        y = layer(x, causal=True)
        for w in weights:
            w.grad = None
        (y * y).sum().backward()
        return y, *[w.grad for w in weights]

    compiled = assert_compiled_as_eager(step, normal(batch, 90, 32), rtol=1e-3)
    assert len(chains_of(compiled)) == 2


def test_weights_that_are_asked_for():
    def step(q, k, v):
        return ops.scaled_dot_product_attention(q, k, v, causal=True, return_weights=True)

    assert_compiled_as_eager(step, *q_k_v(), rtol=RTOL)


def test_dropout_of_the_weights():
    given = q_k_v()
    step = with_gradients(attend_with(causal=True, dropout=0.2), *given)
    results = []
    for function in (step, jit(step)):
        np.random.seed(4)
        results.append(function(*given))
    for a, b in zip(*results, strict=True):
        np.testing.assert_allclose(a.numpy(), b.numpy(), RTOL, RTOL)


def test_members_that_do_not_fit_run_one_by_one():
    given = q_k_v()
    with mock.patch.object(lower, "chain_step", lambda *given: None):
        compiled = assert_compiled_as_eager(attention(causal, *given), *given, rtol=RTOL)
    assert chains_of(compiled) and not chain_steps_of(compiled)


# -- what is gained --------------------------------------------------------------------------------


def run_once(make, *given):
    compiled = jit(attention(make, *given))
    compiled(*given)
    return compiled


def test_scores_are_nowhere_in_memory():
    batch, heads, rows = 2, 3, 200
    compiled = run_once(causal, *q_k_v(batch, heads, rows))
    plan = compiled._latest.executable.compiled.memory
    scores = batch * heads * rows * rows * 4
    assert max(span.buffer.nbytes for span in plan.spans.values()) < scores / 2
    forward, backward = chains_of(compiled)
    assert sum(node.primitive == "contract" for node in forward.nodes) == 2
    assert sum(node.primitive == "contract" for node in backward.nodes) == 5


def ranges_of(compiled):
    """Of each chain: how many columns its scores have in each block."""
    found = []
    for step in chain_steps_of(compiled):
        first = next(link for link, _ in step.links.steps if link.nodes[0].primitive == "contract")
        vary = [v for v in step.links.varies if v.step is first and v.at < 0]
        found.append(max((v.table for v in vary if sum(v.table) > 200), default=()))
    return found


def test_causal_blocks_leave_out_what_is_masked():
    compiled = run_once(causal, *q_k_v(rows=192))
    assert ranges_of(compiled) == [(64, 96, 160, 192)] * 2


def test_windows_leave_out_both_sides():
    compiled = run_once(windowed, *q_k_v(rows=192))
    assert ranges_of(compiled) == [(96, 128, 128, 96)] * 2


@pytest.mark.parametrize("make", [padded, plain, added])
def test_other_masks_leave_out_nothing(make):
    compiled = run_once(make, *q_k_v(rows=192))
    assert ranges_of(compiled) == [(), ()]


def test_nothing_is_left_out_of_weights_that_are_asked_for():
    compiled = jit(
        lambda q, k, v: ops.scaled_dot_product_attention(q, k, v, causal=True, return_weights=True)
    )
    _, weights = compiled(*q_k_v(rows=192))
    assert np.all(weights.numpy()[0, 0][np.triu_indices(192, 1)] == 0)


def test_other_lengths_need_no_new_code():
    from needle.compiler import build

    compiled = run_once(causal, *q_k_v(rows=192))
    before = build.made.compiled + build.made.loaded
    for rows in (193, 70, 64):
        compiled(*q_k_v(rows=rows))
    assert build.made.compiled + build.made.loaded == before


@pytest.mark.parametrize("items", [(1, 1), (1, 2), (2, 3)])
def test_the_same_bits_with_one_thread_and_two(items):
    results = []
    threads = ndl.get_num_threads()
    try:
        for count in (1, 2):
            ndl.set_num_threads(count)
            given = q_k_v(*items, rows=200)
            results.append([x.numpy() for x in jit(attention(causal, *given))(*given)])
    finally:
        ndl.set_num_threads(threads)
    for one, two in zip(*results, strict=True):
        assert np.array_equal(one, two)


def test_rows_do_not_crowd():
    assert chain_steps._apart(1024, 4) == 1024 + 16
    assert chain_steps._apart(70, 4) == 80
    assert chain_steps._apart(1, 4) == 1


def test_explain_counts_what_is_done():
    given = q_k_v(rows=192)
    facts = []
    for make in (causal, plain):
        compiled = jit(attention(make, *given))
        compiled(*given)
        facts.append([k.facts for k in compiled.explain().kernels if k.facts.kind == "chain"])
    for masked, whole in zip(*facts, strict=True):
        assert 0.5 < masked.flops / whole.flops < 0.8
        assert masked.written == whole.written
        assert len(masked.codes) > 3

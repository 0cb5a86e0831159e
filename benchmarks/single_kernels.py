"""Single operators and layers, forward and backward: `ndl.jit` against PyTorch.

    python benchmarks/single_kernels.py [--only WORD] [--rounds 15] [--threads N] [--json FILE]

    softmax, layer norm, cross-entropy   700 x 10000 and 4096 x 256
    convolution                          3 x 3 as in ResNet-18, batch 32, channels last: the result,
                                         and the gradients of pictures and weights
    attention                            causal, batch 4, 6 heads of 64, at 256 and 1024 tokens

Each call computes the result and the gradients of all operands, for a given adjoint. Results are
compared first. PyTorch is eager ("torch") and by torch.compile ("compile").
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import machine
import network_flops
import numpy as np
import torch
from interleaved import compare, earlier_results, parser_for, write_json
from torch.nn import functional

import needle as ndl
from needle import ops
from needle.jit import jit

ROWS = [(700, 10_000), (4096, 256)]
PICTURES = [(32, 64), (16, 128), (8, 256), (4, 512)]  # side and channels
TOKENS = [256, 1024]
BATCH, ATTENTION_BATCH, HEADS, HEAD_WIDTH = 32, 4, 6, 64


class Case(NamedTuple):
    """One operator on given operands.

    ours, theirs  functions of the operands, Needle's and PyTorch's
    operands      as PyTorch has them; the first `wanted` want a gradient
    flops         of its contractions; 0 where there are none
    axes          for each operand, its axes in the order in which Needle has them; None: the same
    """

    ours: Callable[..., Any]
    theirs: Callable[..., Any]
    operands: Sequence[np.ndarray]
    wanted: int
    flops: float = 0.0
    axes: Sequence[tuple[int, ...]] | None = None


def main() -> None:
    """Print one line per case."""
    parser = parser_for(__doc__, rounds=15)
    parser.add_argument("--threads", type=int, default=ndl.get_num_threads())
    parser.add_argument("--only", default="", help="cases whose label contains this")
    options = parser.parse_args()
    machine.set_threads(options.threads)
    results, peak = earlier_results(options.json), machine.peak()
    for label, case in cases():
        if options.only not in label:
            continue
        found = compare(checked_calls(case), options.rounds, 2e-2)
        results[label] = {**found.as_dict(), "session": machine.session()}
        share = ""
        if case.flops:
            rate = case.flops / found.seconds["jit"] / 1e9
            results[label]["share_of_peak"] = rate / peak
            share = f"  {rate / peak:4.0%} of peak"
        print(found.line(label), share, flush=True)
        write_json(options.json, results)


# -- cases -----------------------------------------------------------------------------------------


def cases() -> Iterator[tuple[str, Case]]:
    """All, each with its label."""
    for rows, columns in ROWS:
        size = f"{rows} x {columns}"
        yield f"softmax, {size}", softmax(rows, columns)
        yield f"layer norm, {size}", layer_norm(rows, columns)
        yield f"cross-entropy, {size}", cross_entropy(rows, columns)
    for side, channels in PICTURES:
        label = f"convolution 3 x 3, {side} x {side}, {channels} channels"
        yield label, convolution(side, channels)
    for tokens in TOKENS:
        yield f"attention, {tokens} tokens", attention(tokens)


def softmax(rows: int, columns: int) -> Case:
    """Along rows."""
    return Case(
        lambda x: ops.softmax(x, -1),
        lambda x: functional.softmax(x, -1),
        [_normal(rows, columns)],
        1,
    )


def layer_norm(rows: int, columns: int) -> Case:
    """Along rows, with scale and shift."""
    return Case(
        lambda x, w, b: ops.normalize(x, -1, w, b),
        lambda x, w, b: functional.layer_norm(x, (columns,), w, b),
        [_normal(rows, columns), _normal(columns), _normal(columns)],
        3,
    )


def cross_entropy(rows: int, columns: int) -> Case:
    """The mean loss of class ids."""
    loss_of = ndl.nn.SoftmaxLoss()
    ids = np.random.default_rng(1).integers(0, columns, rows)
    return Case(loss_of, functional.cross_entropy, [_normal(rows, columns), ids], 1)


def convolution(side: int, channels: int, batch: int = BATCH) -> Case:
    """Padded by one, without a bias, in both libraries' fastest layouts."""
    return Case(
        lambda x, w: ops.conv(x, w, padding=1),
        lambda x, w: functional.conv2d(x, w, padding=1),
        [_normal(batch, channels, side, side), 0.05 * _normal(channels, channels, 3, 3)],
        2,
        network_flops.convolution(batch, side, 3, channels, channels),
        axes=[(0, 2, 3, 1), (2, 3, 1, 0)],
    )


def attention(tokens: int, batch: int = ATTENTION_BATCH, heads: int = HEADS) -> Case:
    """Of queries, keys and values (B, heads, T, width)."""
    shape = (batch, heads, tokens, HEAD_WIDTH)
    return Case(
        lambda q, k, v: ops.scaled_dot_product_attention(q, k, v, causal=True),
        lambda q, k, v: functional.scaled_dot_product_attention(q, k, v, is_causal=True),
        [_normal(*shape) for _ in range(3)],
        3,
        network_flops.attention(batch, tokens, heads * HEAD_WIDTH),
    )


def _normal(*shape: int) -> np.ndarray:
    return np.random.default_rng(len(shape)).standard_normal(shape).astype(np.float32)


# -- calls -----------------------------------------------------------------------------------------


def checked_calls(case: Case, compiles: bool = True) -> dict[str, Callable[[], Any]]:
    """A call for each contender, after their results have been compared.

    compiles  whether torch.compile is one of them
    """
    operands, adjoint = _theirs(case)
    calls: dict[str, Callable[[], Any]] = {
        "jit": _our_call(case, adjoint),
        "torch": _their_call(case.theirs, operands, adjoint, case.wanted),
    }
    if compiles:
        compiled = torch.compile(case.theirs)
        calls["compile"] = _their_call(compiled, operands, adjoint, case.wanted)
    found = [_turned(case, number, y.numpy()) for number, y in enumerate(calls["jit"]())]
    for name in list(calls)[1:]:
        for a, b in zip(found, calls[name](), strict=True):
            b = b.detach().numpy()
            np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4 * np.abs(b).max(), err_msg=name)
    return calls


def _our_call(case: Case, adjoint: torch.Tensor) -> Callable[[], Any]:
    @jit
    def both(adjoint: ndl.Tensor, *operands: ndl.Tensor) -> Any:
        y = case.ours(*operands)
        wanted = operands[: case.wanted]
        return y, *ndl.grad(y, wanted, adjoint, create_graph=False)

    arrays = list(case.operands)
    seed = adjoint.numpy()
    if case.axes is not None:
        arrays = [x.transpose(axes) for x, axes in zip(arrays, case.axes, strict=True)]
        seed = seed.transpose(case.axes[0])
    tensors = [
        ndl.Tensor(np.array(x, order="C"), requires_grad=number < case.wanted)
        for number, x in enumerate(arrays)
    ]
    given = ndl.Tensor(np.array(seed, order="C"), requires_grad=False)
    return lambda: both(given, *tensors)


def _turned(case: Case, number: int, found: np.ndarray) -> np.ndarray:
    """Result 0, or the gradient of operand `number` - 1, as PyTorch has it."""
    if case.axes is None:
        return found
    return found.transpose(np.argsort(case.axes[max(number - 1, 0)]))


def _theirs(case: Case) -> tuple[list[torch.Tensor], torch.Tensor]:
    """PyTorch's operands and the adjoint of the result, pictures channels-last."""
    operands = [torch.tensor(x) for x in case.operands]
    if case.axes is not None:
        operands = [x.contiguous(memory_format=torch.channels_last) for x in operands]
    for x in operands[: case.wanted]:
        x.requires_grad_()
    y = case.theirs(*operands).detach()
    return operands, torch.randn_like(y) if y.ndim else torch.ones_like(y)


def _their_call(
    function: Callable[..., Any],
    operands: Sequence[torch.Tensor],
    adjoint: torch.Tensor,
    wanted: int,
) -> Callable[[], Any]:
    def both() -> Any:
        y = function(*operands)
        return y, *torch.autograd.grad(y, operands[:wanted], adjoint)

    return both


if __name__ == "__main__":
    main()

"""One training step of the two-layer network, in Needle and in plain NumPy written by hand.

    python benchmarks/two_layer_step.py [--batch 100] [--rounds 40] [--json FILE]

The network is 784-100-10 with ReLU and softmax loss, trained by SGD in float32 on batches of
made-up data, one after another. The contenders take turns in one process; first their losses over
ten steps must agree. Printed are medians, the ratio of each to the step by hand (taken round by
round, so that a drift of the machine cancels), and its quartiles.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import cycle

import numpy as np
from interleaved import compare, parser_for, write_json

import needle as ndl
from needle import nn, optim

FEATURES, HIDDEN, CLASSES, LR, BATCHES = 784, 100, 10, 0.1, 20

Step = Callable[[], float]


class Problem:
    """Batches and initial weights, the same for every contender."""

    def __init__(self, batch: int) -> None:
        rng = np.random.default_rng(0)
        x = rng.random((BATCHES, batch, FEATURES)).astype(np.float32)
        y = rng.integers(0, CLASSES, (BATCHES, batch))
        self.batches = list(zip(x, y, strict=True))
        self.w1 = (rng.standard_normal((FEATURES, HIDDEN)) / 28).astype(np.float32)
        self.w2 = (rng.standard_normal((HIDDEN, CLASSES)) / 10).astype(np.float32)
        self.b1 = np.zeros((1, HIDDEN), np.float32)
        self.b2 = np.zeros((1, CLASSES), np.float32)


def numpy_step(problem: Problem) -> Step:
    """No biases: logits = relu(X W1) W2."""
    batches = cycle(problem.batches)
    w1, w2 = problem.w1.copy(), problem.w2.copy()
    rows = np.arange(len(problem.batches[0][1]))

    def step() -> float:
        nonlocal w1, w2
        x, y = next(batches)
        hidden = np.maximum(x @ w1, 0)
        logits = hidden @ w2
        shifted = logits - logits.max(axis=1, keepdims=True)
        powers = np.exp(shifted)
        sums = powers.sum(axis=1, keepdims=True)
        loss = (np.log(sums[:, 0]) - shifted[rows, y]).mean()
        d_logits = powers / sums
        d_logits[rows, y] -= 1
        d_logits /= len(y)
        d_w2 = hidden.T @ d_logits
        d_w1 = x.T @ ((d_logits @ w2.T) * (hidden > 0))
        w1 -= LR * d_w1
        w2 -= LR * d_w2
        return float(loss)

    return step


def numpy_module_step(problem: Problem) -> Step:
    """With biases, as `nn.Linear` has them."""
    batches = cycle(problem.batches)
    w1, w2 = problem.w1.copy(), problem.w2.copy()
    b1, b2 = problem.b1.copy(), problem.b2.copy()
    rows = np.arange(len(problem.batches[0][1]))

    def step() -> float:
        nonlocal w1, w2, b1, b2
        x, y = next(batches)
        hidden = np.maximum(x @ w1 + b1, 0)
        logits = hidden @ w2 + b2
        shifted = logits - logits.max(axis=1, keepdims=True)
        powers = np.exp(shifted)
        sums = powers.sum(axis=1, keepdims=True)
        loss = (np.log(sums[:, 0]) - shifted[rows, y]).mean()
        d_logits = powers / sums
        d_logits[rows, y] -= 1
        d_logits /= len(y)
        d_w2 = hidden.T @ d_logits
        d_hidden = (d_logits @ w2.T) * (hidden > 0)
        d_w1 = x.T @ d_hidden
        w1 -= LR * d_w1
        b1 -= LR * d_hidden.sum(axis=0, keepdims=True)
        w2 -= LR * d_w2
        b2 -= LR * d_logits.sum(axis=0, keepdims=True)
        return float(loss)

    return step


def as_tensors(problem: Problem) -> list[tuple[ndl.Tensor, ndl.Tensor]]:
    """The batches as constants."""
    return [
        (ndl.Tensor(x, requires_grad=False), ndl.Tensor(y, requires_grad=False))
        for x, y in problem.batches
    ]


def needle_step(problem: Problem) -> Step:
    """The step of the course: Tensors, operators, one line of SGD."""
    batches = cycle(as_tensors(problem))
    w1, w2 = ndl.Tensor(problem.w1), ndl.Tensor(problem.w2)
    loss_of = nn.SoftmaxLoss()

    def step() -> float:
        x, y = next(batches)
        loss = loss_of(ndl.relu(x @ w1) @ w2, y)
        loss.backward(create_graph=False)
        for weight in (w1, w2):
            weight.data = weight.data + weight.grad.data * -LR  # a - b would be two operators
        return float(loss)

    return step


def needle_module_step(problem: Problem) -> Step:
    """Modules and `optim.SGD`."""
    batches = cycle(as_tensors(problem))
    model = nn.Sequential(nn.Linear(FEATURES, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, CLASSES))
    arrays = (problem.w1, problem.b1, problem.w2, problem.b2)
    model.load_state_dict(dict(zip(model.state_dict(), arrays, strict=True)))
    optimizer = optim.SGD(model.parameters(), lr=LR)
    loss_of = nn.SoftmaxLoss()

    def step() -> float:
        x, y = next(batches)
        optimizer.reset_grad()
        loss = loss_of(model(x), y)
        loss.backward(create_graph=False)
        optimizer.step()
        return float(loss)

    return step


PAIRS = {
    "tensors": (needle_step, numpy_step),
    "modules": (needle_module_step, numpy_module_step),
}


def require_same_losses(ours: Step, by_hand: Step) -> None:
    """Raise unless the first ten losses agree to 1e-4."""
    a, b = [[step() for _ in range(10)] for step in (ours, by_hand)]
    np.testing.assert_allclose(a, b, rtol=1e-4)


def main() -> None:
    """Run both pairs and print one line for each."""
    parser = parser_for(__doc__, rounds=40)
    parser.add_argument("--batch", type=int, default=100)
    options = parser.parse_args()
    problem, results = Problem(options.batch), {}
    for name, (make_ours, make_by_hand) in PAIRS.items():
        require_same_losses(make_ours(problem), make_by_hand(problem))
        steps = {"needle": make_ours(problem), "by hand": make_by_hand(problem)}
        found = compare(steps, options.rounds, 2e-2)
        results[name] = found.as_dict()
        print(found.line(name))
    write_json(options.json, {"batch": options.batch, **results})


if __name__ == "__main__":
    main()

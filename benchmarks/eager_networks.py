"""Eager training steps of convolutional, recurrent and attention networks against PyTorch eager.

    python benchmarks/eager_networks.py [--only NAME] [--rounds 9] [--threads N] [--json FILE]

    resnet9   CIFAR pictures, batch 128, Adam
    resnet18  CIFAR pictures, batch 32, SGD
    lstm      two layers of 256, vocabulary 10,000, 35 steps, batch 20, SGD, gradients clipped
    gpt       four blocks of 128, 4 heads, 64 tokens, batch 12, vocabulary 65, AdamW

Same initial weights and batches; the first losses must agree. PyTorch runs at its best, eager:
fused optimisers, channels last, gradients set to None.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import cycle
from typing import Any, NamedTuple

import numpy as np
import torch
import torch_networks
from interleaved import compare, parser_for, write_json
from torch.nn import functional

import needle as ndl
from needle import nn, optim
from needle.models import GPT, LanguageModel, ResNet9, ResNet18, foreign_state

Step = Callable[[], float]
VOCABULARY, TOKENS = 10_000, 65

# Losses of batch-normalised networks drift apart quickly: rounding decides the sign of what Adam
# divides by nearly nothing.
ADAM_EPS = 1e-3


class Task(NamedTuple):
    """One network twice, its batches, and how either one trains."""

    ours: Any
    theirs: Any
    batches: list[tuple[np.ndarray, np.ndarray]]
    our_step: Callable[[Any, list[Any]], Step]
    their_step: Callable[[Any, list[Any]], Step]


# -- steps -----------------------------------------------------------------------------------------


def our_classifier_step(optimizer: Any) -> Callable[[Any, list[Any]], Step]:
    """Steps of a network that gives logits."""

    def steps(model: Any, batches: list[Any]) -> Step:
        turns = cycle(
            [(ndl.Tensor(x, requires_grad=False), ndl.Tensor(y, requires_grad=False))
             for x, y in batches]
        )  # fmt: skip
        opt, loss_of = optimizer(model.parameters()), nn.SoftmaxLoss()

        def step() -> float:
            x, y = next(turns)
            opt.reset_grad()
            logits = model(x)
            loss = loss_of(logits.reshape((-1, logits.shape[-1])), y.reshape((-1,)))
            loss.backward(create_graph=False)
            opt.step()
            return loss.item()

        return step

    return steps


def their_classifier_step(optimizer: Any, pictures: bool) -> Callable[[Any, list[Any]], Step]:
    """The same in PyTorch."""

    def steps(model: Any, batches: list[Any]) -> Step:
        data = [(torch.tensor(x), torch.tensor(y)) for x, y in batches]
        if pictures:
            model = model.to(memory_format=torch.channels_last)
            data = [(x.contiguous(memory_format=torch.channels_last), y) for x, y in data]
        turns, opt = cycle(data), optimizer(model.parameters())

        def step() -> float:
            x, y = next(turns)
            opt.zero_grad(set_to_none=True)
            loss = functional.cross_entropy(model(x).flatten(0, -2), y.flatten())
            loss.backward()
            opt.step()
            return loss.item()

        return step

    return steps


def our_language_step(model: Any, batches: list[Any]) -> Step:
    """Steps that carry the state on."""
    turns = cycle(
        [(ndl.Tensor(x, requires_grad=False), ndl.Tensor(y, requires_grad=False))
         for x, y in batches]
    )  # fmt: skip
    opt, loss_of, state = optim.SGD(model.parameters(), lr=1.0), nn.SoftmaxLoss(), None

    def step() -> float:
        nonlocal state
        x, y = next(turns)
        opt.reset_grad()
        logits, state = model(x, state)
        state = tuple(s.detach() for s in state)
        loss = loss_of(logits, y)
        loss.backward(create_graph=False)
        opt.clip_grad_norm(0.25)
        opt.step()
        return loss.item()

    return step


def their_language_step(model: Any, batches: list[Any]) -> Step:
    """The same in PyTorch."""
    turns = cycle([(torch.tensor(x), torch.tensor(y)) for x, y in batches])
    opt, state = torch.optim.SGD(model.parameters(), lr=1.0, fused=True), None

    def step() -> float:
        nonlocal state
        x, y = next(turns)
        opt.zero_grad(set_to_none=True)
        logits, state = model(x, state)
        state = tuple(s.detach() for s in state)
        loss = functional.cross_entropy(logits, y)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 0.25)
        opt.step()
        return loss.item()

    return step


# -- tasks -----------------------------------------------------------------------------------------


def classifier(
    ours: Any, theirs: Any, batches: list[Any], our_opt: Any, their_opt: Any, pictures: bool
) -> Task:
    """A task whose network gives logits."""
    return Task(
        ours, theirs, batches,
        our_classifier_step(our_opt), their_classifier_step(their_opt, pictures),
    )  # fmt: skip


def pictures(ours: Any, theirs: Any, batch: int, our_opt: Any, their_opt: Any) -> Task:
    """Made-up CIFAR pictures."""
    rng = np.random.default_rng(0)
    batches = [
        (rng.standard_normal((batch, 3, 32, 32)).astype(np.float32), rng.integers(0, 10, batch))
        for _ in range(8)
    ]
    return classifier(ours, theirs, batches, our_opt, their_opt, pictures=True)


def resnet9() -> Task:
    """Adam."""
    return pictures(
        ResNet9(), torch_networks.ResNet9(), 128,
        lambda p: optim.Adam(p, lr=1e-3, eps=ADAM_EPS),
        lambda p: torch.optim.Adam(p, lr=1e-3, eps=ADAM_EPS, fused=True),
    )  # fmt: skip


def resnet18() -> Task:
    """SGD with weight decay."""
    return pictures(
        ResNet18(), torch_networks.ResNet18(), 32,
        lambda p: optim.SGD(p, lr=1e-3, weight_decay=5e-4),
        lambda p: torch.optim.SGD(p, lr=1e-3, weight_decay=5e-4, fused=True),
    )  # fmt: skip


def language() -> Task:
    """Made-up words."""
    rng = np.random.default_rng(0)
    words = rng.integers(0, VOCABULARY, (20 * 35 + 1, 20))
    starts = range(0, 20 * 35, 35)
    batches = [(words[s : s + 35], words[s + 1 : s + 36].reshape(-1)) for s in starts]
    ours = LanguageModel(256, VOCABULARY, 256, num_layers=2, seq_model="lstm")
    theirs = torch_networks.LanguageModel("lstm", VOCABULARY, 256, 256, 2)
    return Task(ours, theirs, batches, our_language_step, their_language_step)


def gpt() -> Task:
    """Made-up characters, and AdamW."""
    rng = np.random.default_rng(0)
    text = rng.integers(0, TOKENS, (8, 12, 65))
    batches = [(rows[:, :-1], np.ascontiguousarray(rows[:, 1:])) for rows in text]
    return classifier(
        GPT(TOKENS, 64, 4, 4, 128), torch_networks.GPT(TOKENS, 64, 4, 4, 128), batches,
        lambda p: optim.AdamW(p, lr=1e-3, weight_decay=0.01),
        lambda p: torch.optim.AdamW(p, lr=1e-3, weight_decay=0.01, fused=True),
        pictures=False,
    )  # fmt: skip


TASKS: dict[str, Callable[[], Task]] = {
    "resnet9": resnet9,
    "resnet18": resnet18,
    "lstm": language,
    "gpt": gpt,
}


def steps_of(task: Task) -> dict[str, Step]:
    """Both steps, from the same weights."""
    state = {name: torch.tensor(array) for name, array in foreign_state(task.ours).items()}
    report = task.theirs.load_state_dict(state, strict=False)
    missing = [name for name in report.missing_keys if "num_batches" not in name]
    assert not missing and not report.unexpected_keys, (missing, report.unexpected_keys)
    return {
        "needle": task.our_step(task.ours, task.batches),
        "torch": task.their_step(task.theirs, task.batches),
    }


def require_same_losses(steps: dict[str, Step], count: int = 10) -> None:
    """Raise unless the first losses agree to 2e-3."""
    a, b = [[step() for _ in range(count)] for step in steps.values()]
    np.testing.assert_allclose(a, b, rtol=2e-3)


def main() -> None:
    """Check the losses, then print one line per network."""
    parser = parser_for(__doc__, rounds=9)
    parser.add_argument("--threads", type=int, default=ndl.get_num_threads())
    parser.add_argument("--only", choices=list(TASKS), help="one network")
    options = parser.parse_args()
    ndl.set_num_threads(options.threads)
    torch.set_num_threads(options.threads)
    results = {}
    for name, make in TASKS.items():
        if options.only in (None, name):
            np.random.seed(0)
            steps = steps_of(make())
            require_same_losses(steps)
            found = compare(steps, options.rounds, 0.1)
            results[name] = found.as_dict()
            print(found.line(name), flush=True)
    write_json(options.json, results)


if __name__ == "__main__":
    main()

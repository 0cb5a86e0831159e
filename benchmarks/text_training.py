"""The same training in Needle and in PyTorch: a GPT on characters, an LSTM on words.

    python benchmarks/text_training.py TEXT [--only gpt|lstm] [--steps 1500] [--epochs 3]
                                       [--json FILE]

The same initial weights, batches in the same order, and optimisers; what is compared is the loss
on the part of the text that is kept from training, the last tenth. It should agree within 1 %. At
the end the GPT writes some text.

    gpt   four blocks of 128, 4 heads, 64 characters, batch 12, AdamW
    lstm  two layers of 256, 10,000 words, 35 steps, batch 20, SGD with gradients clipped
"""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch_networks
from interleaved import write_json
from torch.nn import functional

import needle as ndl
from needle import nn, optim
from needle.data import CharacterText, Corpus, batchify, random_windows, windows, write_ptb_folder
from needle.generation import generate
from needle.models import GPT, LanguageModel, foreign_state

CONTEXT, BATCH = 64, 12
WORD_BATCH, WORD_STEPS = 20, 35


def main() -> None:
    """Train both twice, print the losses side by side."""
    options = _options()
    ndl.set_num_threads(options.threads)
    torch.set_num_threads(options.threads)
    results = {}
    if options.only in (None, "gpt"):
        results["gpt"] = characters(options.text, options.steps)
    if options.only in (None, "lstm"):
        results["lstm"] = words(options.text, options.epochs)
    write_json(options.json, results)


def _options() -> Any:
    from argparse import ArgumentParser

    parser = ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("text", type=Path, help="any text file")
    parser.add_argument("--only", choices=["gpt", "lstm"])
    parser.add_argument("--steps", type=int, default=1500, help="of the GPT")
    parser.add_argument("--epochs", type=int, default=3, help="of the LSTM")
    parser.add_argument("--threads", type=int, default=ndl.get_num_threads())
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


def copied(ours: Any, theirs: torch.nn.Module) -> None:
    """Needle's initial weights into PyTorch's network."""
    theirs.load_state_dict({k: torch.tensor(v) for k, v in foreign_state(ours).items()})


def report(name: str, what: str, ours: list[float], theirs: list[float]) -> dict[str, Any]:
    """Print both rows, and how far apart the last of them are."""
    for label, row in [("needle", ours), ("torch", theirs)]:
        print(f"{name:<5} {label:<7} {what}: " + "  ".join(f"{value:.4f}" for value in row))
    apart = abs(ours[-1] / theirs[-1] - 1)
    print(f"{name:<5} apart by {100 * apart:.2f} % at the end", flush=True)
    return {what: {"needle": ours, "torch": theirs, "apart": apart}}


# -- characters ------------------------------------------------------------------------------------


def characters(path: Path, steps: int) -> dict[str, Any]:
    """Validation losses of the GPT, four times on the way."""
    text = CharacterText(path)
    np.random.seed(0)
    ours = GPT(len(text.vocabulary), CONTEXT, 4, 4, 128)
    theirs = torch_networks.GPT(len(text.vocabulary), CONTEXT, 4, 4, 128)
    copied(ours, theirs)
    our_opt = optim.AdamW(ours.parameters(), lr=1e-3, weight_decay=0.01)
    their_opt = torch.optim.AdamW(theirs.parameters(), lr=1e-3, weight_decay=0.01, fused=True)
    loss_of = nn.SoftmaxLoss()

    def our_loss(x: ndl.Tensor, y: ndl.Tensor) -> ndl.Tensor:
        logits = ours(x)
        return loss_of(logits.reshape((x.size, -1)), y.reshape((x.size,)))

    def our_step(x: ndl.Tensor, y: ndl.Tensor) -> None:
        our_opt.reset_grad()
        our_loss(x, y).backward(create_graph=False)
        our_opt.step()

    def their_loss(x: ndl.Tensor, y: ndl.Tensor) -> torch.Tensor:
        x, y = torch.tensor(x.numpy()), torch.tensor(y.numpy())
        return functional.cross_entropy(theirs(x).flatten(0, 1), y.flatten())

    def their_step(x: ndl.Tensor, y: ndl.Tensor) -> None:
        their_opt.zero_grad(set_to_none=True)
        their_loss(x, y).backward()
        their_opt.step()

    def validation(loss: Callable[..., Any]) -> float:
        total = 0.0
        with ndl.no_grad(), torch.no_grad():
            for x, y in windows(text.validation, 64, CONTEXT):
                total += loss(x, y).item() * y.size
        return total / (len(text.validation) - 1)

    losses: list[list[float]] = []
    for step, loss in [(our_step, our_loss), (their_step, their_loss)]:
        rng, begun, row = np.random.default_rng(1), time.perf_counter(), []
        for number in range(1, steps + 1):
            step(*random_windows(text.train, BATCH, CONTEXT, rng))
            if number % -(-steps // 4) == 0 or number == steps:
                row.append(validation(loss))
        losses.append(row)
        print(
            f"gpt   {steps} steps and validation: {time.perf_counter() - begun:.0f} s", flush=True
        )
    found = report("gpt", "validation loss", *losses)
    ids = generate(
        ours, text.vocabulary.encode("ROMEO:"), 300, temperature=0.8,
        rng=np.random.default_rng(2),
    )  # fmt: skip
    print("ROMEO:" + text.vocabulary.decode(list(ids)))
    return found


# -- words -----------------------------------------------------------------------------------------


def words(path: Path, epochs: int) -> dict[str, Any]:
    """Perplexity on the test words after each epoch of the LSTM."""
    with tempfile.TemporaryDirectory() as folder:
        write_ptb_folder(path, folder, vocabulary_size=10_000)
        corpus = Corpus(folder)
    train, test = (batchify(ids, WORD_BATCH, dtype="int64") for ids in (corpus.train, corpus.test))
    size = len(corpus.dictionary)
    np.random.seed(0)
    ours = LanguageModel(256, size, 256, num_layers=2, seq_model="lstm")
    theirs = torch_networks.LanguageModel("lstm", size, 256, 256, 2)
    copied(ours, theirs)
    our_opt = optim.SGD(ours.parameters(), lr=4.0)
    their_opt = torch.optim.SGD(theirs.parameters(), lr=4.0, fused=True)
    loss_of = nn.SoftmaxLoss()

    def our_pass(data: np.ndarray, learn: bool) -> float:
        total, state = 0.0, None
        with ndl.enable_grad() if learn else ndl.no_grad():
            for x, y in chunks(data):
                logits, state = ours(ndl.Tensor(x, requires_grad=False), state)
                state = tuple(s.detach() for s in state)
                loss = loss_of(logits, ndl.Tensor(y, requires_grad=False))
                total += loss.item() * y.size
                if learn:
                    our_opt.reset_grad()
                    loss.backward(create_graph=False)
                    our_opt.clip_grad_norm(0.25)
                    our_opt.step()
        return math.exp(total / (len(data) - 1) / WORD_BATCH)

    def their_pass(data: np.ndarray, learn: bool) -> float:
        total, state = 0.0, None
        with torch.set_grad_enabled(learn):
            for x, y in chunks(data):
                logits, state = theirs(torch.tensor(x), state)
                state = tuple(s.detach() for s in state)
                loss = functional.cross_entropy(logits, torch.tensor(y))
                total += loss.item() * y.size
                if learn:
                    their_opt.zero_grad(set_to_none=True)
                    loss.backward()
                    torch.nn.utils.clip_grad_norm_(theirs.parameters(), 0.25)
                    their_opt.step()
        return math.exp(total / (len(data) - 1) / WORD_BATCH)

    rows: list[list[float]] = []
    for one_pass in (our_pass, their_pass):
        begun, row = time.perf_counter(), []
        for _ in range(epochs):
            one_pass(train, True)
            row.append(one_pass(test, False))
        rows.append(row)
        print(f"lstm  {epochs} epochs and tests: {time.perf_counter() - begun:.0f} s", flush=True)
    return report("lstm", "perplexity", *rows)


def chunks(data: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """x (T, B) and the words that follow, (T · B,)."""
    for i in range(0, len(data) - 1, WORD_STEPS):
        length = min(WORD_STEPS, len(data) - 1 - i)
        yield data[i : i + length], data[i + 1 : i + 1 + length].reshape(-1)


if __name__ == "__main__":
    main()

"""The same training in Needle and in PyTorch: a GPT on characters, an LSTM on words.

    python benchmarks/text_training.py TEXT [--only gpt|lstm] [--steps 1500] [--epochs 3]
                                       [--json FILE]

The same initial weights, batches in the same order, and optimisers; what is compared is the loss
on the part of the text that is kept from training, the last tenth. It should agree within 1 %. Of
the GPT, compiled, the time to get there is compared too, all included. At the end it writes some
text.

    gpt   four blocks of 128, 4 heads, 64 characters, batch 12, AdamW
    lstm  two layers of 256, 10,000 words, 35 steps, batch 20, SGD with gradients clipped
"""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import machine
import numpy as np
import torch
import torch_networks
from interleaved import earlier_results, write_json
from torch.nn import functional

import needle as ndl
from needle import nn, optim
from needle.data import CharacterText, Corpus, batchify, random_windows, windows, write_ptb_folder
from needle.generation import generate
from needle.models import GPT, LanguageModel, foreign_state

CONTEXT, BATCH = 64, 12
TURN = 25  # steps that one contender does before the next
WORD_BATCH, WORD_STEPS = 20, 35


def main() -> None:
    """Train both twice, print the losses side by side."""
    options = _options()
    ndl.set_num_threads(options.threads)
    torch.set_num_threads(options.threads)
    results = earlier_results(options.json)
    if options.only in (None, "gpt"):
        results["gpt"] = characters(options.text, options.steps) | {"session": machine.session()}
    if options.only in (None, "lstm"):
        results["lstm"] = words(options.text, options.epochs) | {"session": machine.session()}
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
    return {"needle": ours, "torch": theirs, "apart": apart}


# -- characters ------------------------------------------------------------------------------------


class Trained(NamedTuple):
    """A network being trained: a step on a batch, and the loss of one."""

    step: Callable[[np.ndarray, np.ndarray], object]
    loss: Callable[[np.ndarray, np.ndarray], float]


def characters(path: Path, steps: int) -> dict[str, Any]:
    """Validation losses of the GPT on the way, and the time that each library took for it.

    They take turns, a few steps each; batches, compiling and validation are in the time.
    """
    text = CharacterText(path)
    np.random.seed(0)
    ours = GPT(len(text.vocabulary), CONTEXT, 4, 4, 128)
    contenders = {"needle": _our_gpt(ours)}
    for name, compiled in (("torch", False), ("torch.compile", True)):
        theirs = torch_networks.GPT(len(text.vocabulary), CONTEXT, 4, 4, 128)
        copied(ours, theirs)
        contenders[name] = _their_gpt(theirs, compiled)
    losses: dict[str, list[float]] = {name: [] for name in contenders}
    seconds = dict.fromkeys(contenders, 0.0)
    batches = {name: np.random.default_rng(1) for name in contenders}
    looks = [-(-steps * part // 4) for part in range(1, 5)]
    done = 0
    while done < steps:
        stop = min(done + TURN, min(look for look in looks if look > done))
        for name, trained in contenders.items():
            begun = time.perf_counter()
            for _ in range(done, stop):
                x, y = random_windows(text.train, BATCH, CONTEXT, batches[name])
                trained.step(x.numpy(), y.numpy())
            if stop in looks:
                losses[name].append(_validation(text, trained.loss))
            seconds[name] += time.perf_counter() - begun
        done = stop
    fastest = min((name for name in contenders if name != "needle"), key=seconds.__getitem__)
    found = report("gpt", "validation loss", losses["needle"], losses["torch"])
    for name, took in seconds.items():
        print(f"gpt   {name:<13} {took:6.1f} s for {steps} steps and validation", flush=True)
    ratio = seconds["needle"] / seconds[fastest]
    print(f"gpt   needle's time: {ratio:.2f} of that of {fastest}", flush=True)
    ids = generate(
        ours, text.vocabulary.encode("ROMEO:"), 300, temperature=0.8,
        rng=np.random.default_rng(2),
    )  # fmt: skip
    print("ROMEO:" + text.vocabulary.decode(list(ids)))
    title = f"GPT 4x128 on characters, {steps:,} steps: validation loss at each quarter"
    return found | {"title": title, "seconds": seconds, "ratio": ratio, "fastest": fastest}


def _our_gpt(model: GPT) -> Trained:
    opt = optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.01)
    loss_of = nn.SoftmaxLoss()

    def loss(x: ndl.Tensor, y: ndl.Tensor) -> ndl.Tensor:
        logits = model(x)
        return loss_of(logits.reshape((x.size, -1)), y.reshape((x.size,)))

    @ndl.jit
    def step(x: ndl.Tensor, y: ndl.Tensor) -> ndl.Tensor:
        opt.reset_grad()
        value = loss(x, y)
        value.backward(create_graph=False)
        opt.step()
        return value

    @ndl.jit
    def without_gradients(x: ndl.Tensor, y: ndl.Tensor) -> ndl.Tensor:
        with ndl.no_grad():
            return loss(x, y)

    def given(*ids: np.ndarray) -> list[ndl.Tensor]:
        return [ndl.Tensor(x, dtype="int32", requires_grad=False) for x in ids]

    return Trained(
        lambda x, y: step(*given(x, y)), lambda x, y: without_gradients(*given(x, y)).item()
    )


def _their_gpt(model: torch.nn.Module, compiled: bool) -> Trained:
    opt = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.01, fused=True)
    run = torch.compile(model) if compiled else model

    def loss(x: np.ndarray, y: np.ndarray, run: Callable[..., Any] = run) -> torch.Tensor:
        logits = run(torch.from_numpy(x).long())
        return functional.cross_entropy(logits.flatten(0, 1), torch.from_numpy(y).long().flatten())

    def step(x: np.ndarray, y: np.ndarray) -> None:
        opt.zero_grad(set_to_none=True)
        loss(x, y).backward()
        opt.step()

    def without_gradients(x: np.ndarray, y: np.ndarray) -> float:
        with torch.no_grad():
            return loss(x, y, model).item()  # not compiled again for another batch size

    return Trained(step, without_gradients)


def _validation(text: CharacterText, loss: Callable[[np.ndarray, np.ndarray], float]) -> float:
    total = sum(
        loss(x.numpy(), y.numpy()) * y.size for x, y in windows(text.validation, 64, CONTEXT)
    )
    return total / (len(text.validation) - 1)


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
    title = f"LSTM 2x256 on words, {epochs} epochs: perplexity after each"
    return report("lstm", "perplexity", *rows) | {"title": title}


def chunks(data: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """x (T, B) and the words that follow, (T · B,)."""
    for i in range(0, len(data) - 1, WORD_STEPS):
        length = min(WORD_STEPS, len(data) - 1 - i)
        yield data[i : i + length], data[i + 1 : i + 1 + length].reshape(-1)


if __name__ == "__main__":
    main()

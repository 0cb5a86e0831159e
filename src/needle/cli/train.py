"""`needle train`: from options to a run folder."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np

from needle import nn, optim
from needle.autograd import Tensor, find_topo_sort
from needle.cli import plots
from needle.cli.datasets import Examples, load_examples
from needle.cli.fit import Epoch, Fit, evaluate, interrupt_after_step
from needle.cli.info import versions
from needle.cli.run_folder import CONFUSION, CURVES, GRAPH, ModelSpec, RunFolder
from needle.cli.settings import TrainOptions
from needle.data import DataLoader, NDArrayDataset
from needle.errors import MissingDependencyError, NonFiniteError
from needle.files import write_atomically
from needle.visualize import graph_svg

__all__ = ["Outcome", "train"]

_OPTIMIZERS = {
    "sgd": optim.SGD,
    "adam": optim.Adam,
    "adamw": optim.AdamW,
    "rmsprop": optim.RMSprop,
    "adagrad": optim.Adagrad,
    "lion": optim.Lion,
}


class Outcome(NamedTuple):
    """Whether Ctrl-C ended the training early, and the accuracy on the test data (0..1)."""

    interrupted: bool
    test_accuracy: float


@dataclass(frozen=True)
class _Job:
    """What the steps of a training job share."""

    options: TrainOptions
    examples: Examples
    batch_size: int
    spec: ModelSpec
    model: nn.Module
    folder: RunFolder


def train(options: TrainOptions) -> Outcome:
    """Train a network, and leave a run folder with all about it.

    The same options give the same weights, bit for bit. Raises NonFiniteError if the loss became
    NaN or Inf; the folder then holds the last weights that were finite.
    """
    job = _prepare(options)
    if not options.quiet:
        print(_header(job), flush=True)
    # the losses are looked at, so NumPy need not warn of overflow as well
    with interrupt_after_step() as interrupt, np.errstate(all="ignore"):
        fit = Fit(
            job.model,
            _optimizer(job),
            _loader(job),
            job.examples.test_x,
            job.examples.test_y,
            interrupt,
            on_epoch=lambda epoch: _on_epoch(job, epoch),
            show_progress=not options.quiet,
        )
        try:
            fit.run(options.epochs)
        except NonFiniteError as error:
            _finish(job, fit.history)
            kept = f"The last finite weights are in {job.folder.path}."
            raise NonFiniteError(f"{error} {kept}") from None
        accuracy = _finish(job, fit.history)
    if interrupt.requested:
        print("Interrupted: what was learnt until then is kept.")
    print(f"{100 * accuracy:.1f} % of {len(job.examples.test_y):,} test examples right")
    print(f"run folder: {job.folder.path}")
    return Outcome(interrupt.requested, accuracy)


# -- before --------------------------------------------------------------------------------------


def _prepare(options: TrainOptions) -> _Job:
    examples = load_examples(options)
    about = examples.about
    spec = ModelSpec(options.model, math.prod(about.shape), options.hidden, len(about.class_names))
    np.random.seed(options.seed)
    model = spec.build()
    folder = RunFolder.create(options.out, options.overwrite, about.name, options.model)
    batch_size = options.batch_size or min(options.usual_batch_size, len(examples.train_y))
    job = _Job(options, examples, batch_size, spec, model, folder)
    folder.write_config(_config(job))
    return job


def _config(job: _Job) -> dict[str, Any]:
    options = asdict(job.options) | {"batch_size": job.batch_size}
    del options["usual_batch_size"]
    counts = {"train": len(job.examples.train_y), "test": len(job.examples.test_y)}
    return {
        "options": options,
        "model": asdict(job.spec) | {"parameters": job.model.num_parameters()},
        "data": job.examples.about.as_json() | {"examples": counts},
        "versions": versions(),
    }


def _header(job: _Job) -> str:
    options, examples = job.options, job.examples
    return (
        f"{examples.about.name}: {len(examples.train_y):,} examples to train on, "
        f"{len(examples.test_y):,} to test; {options.model}: "
        f"{job.model.num_parameters():,} parameters; {options.optimizer}, lr {options.lr:g}, "
        f"batches of {job.batch_size}"
    )


def _optimizer(job: _Job) -> optim.Optimizer:
    options = job.options
    numbers = {"lr": options.lr, "weight_decay": options.weight_decay}
    if options.momentum is not None:
        numbers["momentum"] = options.momentum
    kind: Any = _OPTIMIZERS[options.optimizer]
    optimizer: optim.Optimizer = kind(job.model.named_parameters(), **numbers)
    return optimizer


def _loader(job: _Job) -> DataLoader:
    return DataLoader(
        NDArrayDataset(job.examples.train_x, job.examples.train_y),
        batch_size=job.batch_size,
        shuffle=True,
        num_workers=job.options.workers,
        seed=job.options.seed,
    )


# -- during --------------------------------------------------------------------------------------


def _on_epoch(job: _Job, epoch: Epoch) -> None:
    speed = epoch.examples_per_second
    job.folder.append_metrics(asdict(epoch) | {"examples_per_second": round(speed, 1)})
    job.folder.save_model(job.model, job.spec, job.examples.about)
    if not job.options.quiet:
        width = len(str(job.options.epochs))
        print(
            f"epoch {epoch.epoch:>{width}}/{job.options.epochs}  "
            f"loss {epoch.loss:.4f}  accuracy {100 * epoch.accuracy:5.1f} %  "
            f"test loss {epoch.test_loss:.4f}  test accuracy {100 * epoch.test_accuracy:5.1f} %  "
            f"{speed:,.0f} examples/s",
            flush=True,
        )


# -- after ---------------------------------------------------------------------------------------


def _finish(job: _Job, history: list[Epoch]) -> float:
    """Write the weights and the pictures; returns the accuracy on the test data."""
    job.folder.save_model(job.model, job.spec, job.examples.about)
    _, predicted = evaluate(job.model, job.examples.test_x, job.examples.test_y)
    names = job.examples.about.class_names
    try:
        plots.learning_curves(history, job.folder.path / CURVES)
        plots.confusion_matrix(job.examples.test_y, predicted, names, job.folder.path / CONFUSION)
    except MissingDependencyError as error:
        print(error)
    write_atomically(job.folder.path / GRAPH, _loss_graph(job))
    return float(np.mean(predicted == job.examples.test_y))


def _loss_graph(job: _Job) -> str:
    """The computational graph of the loss on the first batch of training data."""
    batch = slice(job.batch_size)
    # an x without gradient would drop out of the graph where it is reshaped
    x = Tensor(job.examples.train_x[batch], requires_grad=True)
    y = Tensor(job.examples.train_y[batch], requires_grad=False)
    job.model.train()
    logits = job.model(x)
    loss = nn.SoftmaxLoss()(logits, y)
    names: dict[Any, str] = {value: name for name, value in job.model.named_parameters()}
    names |= {x: "examples", logits: "logits", loss: "loss"}
    for value in find_topo_sort([loss]):
        if value.is_leaf() and value.cached_data.dtype.kind in "iu":
            names[value] = "class ids"
    return graph_svg(loss, names=names, data=[x])

"""What the recipes for images (and tables of numbers) share: epochs, accuracies, pictures."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from needle import nn, ops
from needle.autograd import Tensor, find_topo_sort
from needle.cli import plots
from needle.cli.datasets import Description, Examples
from needle.cli.run_folder import CONFUSION, CURVES, GRAPH
from needle.cli.task import Batch, Count, Progress, Record, Task, compiling
from needle.data import DataLoader
from needle.files import write_atomically
from needle.models import MLPResNet, ResNet9, ResNet18, TwoLayerNet
from needle.visualize import graph_svg

__all__ = ["KIND", "ImageTask", "ModelSpec", "models", "restore"]

Array = np.ndarray[Any, Any]

KIND = "images"
_TEST_BATCH = {True: 250, False: 1000}  # whether the network convolves, which takes memory


class _Model(NamedTuple):
    build: Callable[[Any], nn.Module]
    convolves: bool


_MODELS = {
    "two-layer": _Model(lambda s: TwoLayerNet(s.in_features, s.hidden, s.classes), False),
    "mlp-resnet": _Model(
        lambda s: MLPResNet(s.in_features, s.hidden, num_classes=s.classes), False
    ),
    "resnet9": _Model(lambda s: ResNet9(), True),
    "resnet18": _Model(lambda s: ResNet18(s.classes), True),
}


def models(convolving: bool) -> tuple[str, ...]:
    """The names of those that convolve, or that do not."""
    return tuple(name for name, model in _MODELS.items() if model.convolves == convolving)


@dataclass(frozen=True)
class ModelSpec:
    """Enough to build a network again: its kind and its widths (hidden: None if it says it all)."""

    kind: str
    in_features: int
    hidden: int | None
    classes: int

    def build(self) -> nn.Module:
        """The network with fresh weights."""
        return _MODELS[self.kind].build(self)

    @property
    def channels_first(self) -> bool:
        """Whether it reads images as (C, H, W), not (H, W, C)."""
        return _MODELS[self.kind].convolves


class ImageTask(Task):
    """Classes from examples: epochs over a loader, then the examples kept for the test.

    spec, model, optimizer, schedule  what is trained, and how
    examples                          what it is trained and tested with
    loader                            batches of the training examples, with a seed of its own
    options                           of the recipe, for what is printed
    """

    def __init__(
        self,
        options: Any,
        examples: Examples,
        spec: ModelSpec,
        model: nn.Module,
        optimizer: Any,
        loader: DataLoader,
        schedule: Any = None,
    ) -> None:
        self.options, self.examples, self.spec = options, examples, spec
        self.model, self.optimizer, self.schedule = model, optimizer, schedule
        self.loader = loader
        self.loss_function = nn.SoftmaxLoss()
        self.test_accuracy = math.nan
        self._predicted = np.zeros(0, dtype=np.int64)

    # -- the loop ------------------------------------------------------------------------------

    def steps_in_round(self, progress: Progress) -> int:
        return len(self.loader)

    def is_finished(self, progress: Progress) -> bool:
        return bool(progress.rounds >= self.options.epochs)

    def batches(self, progress: Progress) -> Iterable[Batch]:
        return self.loader

    def objective(self) -> Callable[..., Any]:
        model, loss_function = self.model, self.loss_function

        def classify(x: Tensor, y: Tensor) -> Any:
            """The mean loss of class ids y (B,) for examples x (B, ...), and the ids predicted."""
            logits = model(x)
            return loss_function(logits, y), ops.argmax(logits, 1)

        return classify

    def count(self, batch: Batch, *found: Any) -> Count:
        (_, y), (predicted,) = batch, found
        return Count(len(y), int((predicted.numpy() == y.numpy()).sum()))

    def evaluate(self) -> dict[str, float]:
        """The mean loss and the accuracy on the examples for the test, in evaluation mode."""
        self.model.eval()
        x, y = self.examples.test_x, self.examples.test_y
        size = _TEST_BATCH[self.spec.channels_first]
        total, predicted = 0.0, []
        for start in range(0, len(y), size):
            inputs, labels = (
                Tensor(part[start : start + size], requires_grad=False) for part in (x, y)
            )
            loss, classes = self.measure(inputs, labels)
            total += float(loss.item()) * len(labels)
            predicted.append(classes.numpy())
        self._predicted = np.concatenate(predicted)
        self.test_accuracy = float(np.mean(self._predicted == y))
        return {"test_loss": total / len(y), "test_accuracy": self.test_accuracy}

    def record(self, progress: Progress, measured: Mapping[str, float], complete: bool) -> Record:
        """The training loss and accuracy are those of the batches as they came, the network getting
        better meanwhile; those of the test are of the network at the end. Losses are means per
        example; times in seconds.
        """
        return {
            "epoch": progress.rounds + 1,
            "loss": progress.loss / progress.items,
            "accuracy": progress.right / progress.items,
            **measured,
            "examples": progress.items,
            "seconds": progress.seconds,
            "complete": complete,
            "examples_per_second": round(progress.speed, 1),
        }

    def state_dict(self) -> dict[str, Any]:
        return self.loader.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.loader.load_state_dict(state)

    # -- what is said of it --------------------------------------------------------------------

    def title(self, progress: Progress) -> str:
        return f"epoch {progress.rounds + 1}/{self.options.epochs}"

    def header(self) -> str:
        options, examples = self.options, self.examples
        return (
            f"{examples.about.name}: {len(examples.train_y):,} examples to train on, "
            f"{len(examples.test_y):,} to test; {options.model}: "
            f"{self.model.num_parameters():,} parameters; "
            f"{type(self.optimizer).__name__.lower()}, lr {options.lr:g}, "
            f"batches of {self.loader.batch_size}"
        )

    def line(self, record: Record) -> str:
        width = len(str(self.options.epochs))
        return (
            f"epoch {record['epoch']:>{width}}/{self.options.epochs}  "
            f"loss {record['loss']:.4f}  accuracy {100 * record['accuracy']:5.1f} %  "
            f"test loss {record['test_loss']:.4f}  "
            f"test accuracy {100 * record['test_accuracy']:5.1f} %  "
            f"{record['examples_per_second']:,.0f} examples/s{compiling(record)}"
        )

    def last_line(self) -> str:
        accuracy, count = 100 * self.test_accuracy, len(self.examples.test_y)
        return f"{accuracy:.1f} % of {count:,} test examples right"

    def names(self) -> tuple[str, str]:
        return self.examples.about.name, self.spec.kind

    def about_model(self) -> dict[str, Any]:
        return asdict(self.spec)

    def about_data(self) -> dict[str, Any]:
        return self.examples.about.as_json()

    def counts(self) -> dict[str, int]:
        return {"train": len(self.examples.train_y), "test": len(self.examples.test_y)}

    def data_digest(self) -> str:
        """Of class ids and of some pixels of every part: all of a large set would take long."""
        digest = hashlib.sha256(self.examples.about.name.encode())
        for part in (self.examples.train_x, self.examples.test_x):
            digest.update(repr(part.shape).encode() + part[:: len(part) // 100 + 1].tobytes())
        for labels in (self.examples.train_y, self.examples.test_y):
            digest.update(labels.tobytes())
        return digest.hexdigest()

    def finish(self, folder: Path, history: list[Record]) -> None:
        names = self.examples.about.class_names
        write_atomically(folder / GRAPH, self._loss_graph())
        plots.learning_curves(history, folder / CURVES)
        plots.confusion_matrix(self.examples.test_y, self._predicted, names, folder / CONFUSION)

    def _loss_graph(self) -> str:
        """The computational graph of the loss on the first batch of training data."""
        batch = slice(self.loader.batch_size)
        # an x without gradient would drop out of the graph where it is reshaped
        x = Tensor(self.examples.train_x[batch], requires_grad=True)
        y = Tensor(self.examples.train_y[batch], requires_grad=False)
        self.model.train()
        logits = self.model(x)
        loss = self.loss_function(logits, y)
        names: dict[Any, str] = {value: name for name, value in self.model.named_parameters()}
        names |= {x: "examples", logits: "logits", loss: "loss"}
        for value in find_topo_sort([loss]):
            if value.is_leaf() and value.cached_data.dtype.kind in "iu":
                names[value] = "class ids"
        return graph_svg(loss, names=names, data=[x])


# -- a network from its file ---------------------------------------------------------------------


def restore(model: dict[str, Any], data: dict[str, Any]) -> tuple[nn.Module, Description]:
    """The network with fresh weights, and what it knows of its data."""
    spec = ModelSpec(**model)
    shape, names = tuple(map(int, data["shape"])), tuple(map(str, data["class_names"]))
    about = Description(**(data | {"shape": shape, "class_names": names}))
    if not (_is_sound(spec, about) and math.prod(shape) == spec.in_features):
        raise ValueError("the network does not fit the data")
    return spec.build(), about


def _is_sound(spec: ModelSpec, about: Description) -> bool:
    """Whether the values are of the types and in the ranges that a Task gives."""
    if spec.kind not in _MODELS:
        return False
    hidden = () if spec.channels_first else (spec.hidden,)
    widths = (spec.in_features, *hidden, spec.classes, *about.shape)
    texts = (about.name, about.polarity or "")
    return (
        all(isinstance(width, int) and width > 0 for width in widths)
        and all(isinstance(text, str) for text in texts)
        and (about.scale is None or math.isfinite(about.scale))
        and len(about.class_names) == spec.classes >= 2
    )

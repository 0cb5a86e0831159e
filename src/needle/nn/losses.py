"""What training minimises. Shapes must match exactly: nothing broadcasts in a loss."""

from __future__ import annotations

from typing import Any

import numpy as np

from needle import ops
from needle.autograd import Tensor
from needle.dtypes import is_floating
from needle.errors import OptionError, OutOfRangeError, ShapeError, describe
from needle.nn.module import Module

__all__ = [
    "BCEWithLogitsLoss",
    "CrossEntropyLoss",
    "HuberLoss",
    "L1Loss",
    "MSELoss",
    "SoftmaxLoss",
]

REDUCTIONS = ("mean", "sum", "none")


class _Loss(Module):
    """Base: `reduction` says whether the elements' losses are averaged, summed, or given as is."""

    def __init__(self, reduction: str = "mean") -> None:
        super().__init__()
        if reduction not in REDUCTIONS:
            raise OptionError(
                f"{type(self).__name__}: expected reduction {', '.join(REDUCTIONS)}, "
                f"got {reduction!r}."
            )
        self.reduction = reduction

    def _reduced(self, losses: Tensor) -> Tensor:
        if self.reduction == "none":
            return losses
        return losses.mean() if self.reduction == "mean" else losses.sum()

    def _require_same_shape(self, prediction: Tensor, target: Tensor) -> None:
        if prediction.shape != target.shape:
            raise ShapeError(
                f"{type(self).__name__}: expected target of the prediction's shape, got "
                f"{describe(prediction, target)}."
            )


class MSELoss(_Loss):
    """Mean of (prediction - target)². Both of the same shape -> 0-d."""

    def forward(self, prediction: Tensor, target: Tensor) -> Tensor:
        self._require_same_shape(prediction, target)
        difference = prediction - target
        return self._reduced(difference * difference)


class L1Loss(_Loss):
    """Mean of |prediction - target|. Both of the same shape -> 0-d."""

    def forward(self, prediction: Tensor, target: Tensor) -> Tensor:
        self._require_same_shape(prediction, target)
        return self._reduced(ops.abs(prediction - target))


class HuberLoss(_Loss):
    """Mean of d²/2 where |d| ≤ delta, else delta · (|d| - delta/2), d = prediction - target.

    Both of the same shape -> 0-d. Huber, "Robust Estimation of a Location Parameter", 1964.
    """

    def __init__(self, delta: float = 1.0, reduction: str = "mean") -> None:
        super().__init__(reduction)
        if not delta > 0:
            raise OptionError(f"HuberLoss: expected delta above 0, got {delta}.")
        self.delta = delta

    def forward(self, prediction: Tensor, target: Tensor) -> Tensor:
        self._require_same_shape(prediction, target)
        difference = prediction - target
        inner = ops.clip(difference, -self.delta, self.delta)
        # inner · (d - inner/2) is d²/2 within delta and delta · (|d| - delta/2) beyond
        return self._reduced(inner * (difference - inner * 0.5))


class BCEWithLogitsLoss(_Loss):
    """Mean of -[w · y · log σ(x) + (1 - y) · log(1 - σ(x))], computed from the logits x.

    logits, target (y in [0, 1]): the same shape -> 0-d
    pos_weight  w, the weight of positive examples; a number, or a Tensor that broadcasts to x
    """

    def __init__(self, pos_weight: float | Tensor = 1.0, reduction: str = "mean") -> None:
        super().__init__(reduction)
        self.pos_weight = pos_weight

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        self._require_same_shape(logits, target)
        if isinstance(self.pos_weight, (int, float)) and self.pos_weight == 1:
            return self._reduced(ops.softplus(logits) - logits * target)
        weight = (self.pos_weight - 1) * target + 1
        return self._reduced((1 - target) * logits + weight * ops.softplus(-logits))


class CrossEntropyLoss(_Loss):
    """Mean of -log softmax(logits)[y], for class ids y.

    logits: (N, C), or (C,), or (N, C, d1, ...) with the classes on axis 1
    y: (N,), or (), or (N, d1, ...): class ids in 0..C-1, of any dtype (floats are truncated)
    -> 0-d; of y's shape with reduction "none"

    label_smoothing  ε: the target is 1 - ε + ε/C for class y and ε/C for the others
                     (Szegedy et al., 2016, section 7)
    ignore_index     the id whose places count for nothing, in the mean's divisor neither; where
                     every place has it the loss is 0
    weight           (C,): a weight per class; the mean is the weighted one

    Raises ShapeError, and OutOfRangeError for an id that is no class.
    """

    def __init__(
        self,
        label_smoothing: float = 0.0,
        ignore_index: int = -100,
        reduction: str = "mean",
        weight: Tensor | None = None,
    ) -> None:
        super().__init__(reduction)
        if not 0 <= label_smoothing <= 1:
            raise OptionError(
                f"CrossEntropyLoss: expected label_smoothing in [0, 1], got {label_smoothing}."
            )
        self.label_smoothing = label_smoothing
        self.ignore_index = ignore_index
        self.weight = weight

    def forward(self, logits: Tensor, y: Tensor) -> Tensor:
        rows, ids = _as_rows(logits, y)
        counted = ids != self.ignore_index
        classes = _class_ids(np.where(counted, ids, 0), rows.shape[1])
        per_class = np.ones(rows.shape[1]) if self.weight is None else self.weight.numpy()
        weight = _constant(per_class, like=rows)
        of_row = ops.take(weight, classes) * _constant(counted, like=rows)
        losses = ops.cross_entropy(rows, classes.reshape((-1, 1))).reshape((-1,)) * of_row
        if self.label_smoothing:
            every_class = -(ops.logsoftmax(rows) * weight).sum(1) * _constant(counted, like=rows)
            share = self.label_smoothing / rows.shape[1]
            losses = losses * (1 - self.label_smoothing) + every_class * share
        if self.reduction == "none":
            return losses.reshape(y.shape)
        if self.reduction == "sum":
            return losses.sum()
        total = of_row.sum().item()
        return losses.sum() / total if total else losses.sum()


class SoftmaxLoss(Module):
    """Mean over N of logsumexp(row) - logit[y]: cross-entropy of class ids, without options.

    logits: (N, C); y: (N,) class ids in 0..C-1, of any dtype -> 0-d, the logits' dtype
    """

    def forward(self, logits: Tensor, y: Tensor) -> Tensor:
        if logits.ndim != 2 or y.shape != logits.shape[:1]:
            raise ShapeError(
                f"SoftmaxLoss: expected logits [N, C] and y [N], got {describe(logits, y)}."
            )
        if logits.shape[0] == 0:
            raise ShapeError(f"SoftmaxLoss: expected one row or more, got {describe(logits)}.")
        classes = _class_ids(y.numpy().reshape((-1, 1)), logits.shape[1])
        return ops.cross_entropy(logits, classes).mean()


def _as_rows(logits: Tensor, y: Tensor) -> tuple[Tensor, Any]:
    """Logits as (rows, C) and class ids as (rows,), whatever axes there were beside."""
    axis = 0 if logits.ndim == 1 else 1
    others = logits.shape[:axis] + logits.shape[axis + 1 :]
    if logits.ndim == 0 or y.shape != others:
        raise ShapeError(
            "CrossEntropyLoss: expected logits [N, C, ...] and y [N, ...], got "
            f"{describe(logits, y)}."
        )
    if logits.ndim > 2:
        logits = logits.permute((0, *range(2, logits.ndim), 1))
    return logits.reshape((y.size, logits.shape[-1])), y.numpy().reshape(-1)


def _class_ids(ids: Any, classes: int) -> Tensor:
    """Ids as an integer Tensor, all of them classes."""
    if is_floating(ids.dtype) or ids.dtype == np.bool_:
        ids = ids.astype(np.int64)
    if ids.size and not 0 <= ids.min() <= ids.max() < classes:
        raise OutOfRangeError(
            f"loss: expected class ids in 0..{classes - 1}, got {ids.min()}..{ids.max()}."
        )
    return Tensor(ids, requires_grad=False)


def _constant(array: Any, like: Tensor) -> Tensor:
    return Tensor(array, dtype=like.dtype, device=like.device, requires_grad=False)

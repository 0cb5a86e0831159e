"""What training minimises. Shapes must match exactly: nothing broadcasts in a loss."""

from __future__ import annotations

from typing import Any

import numpy as np

from needle import ops
from needle.autograd import Tensor
from needle.autograd.modes import is_traced
from needle.autograd.tensor import as_tensor
from needle.dtypes import is_floating, is_integer
from needle.errors import DTypeError, OptionError, OutOfRangeError, ShapeError, describe
from needle.nn.checks import require_number, require_tensors
from needle.nn.module import Module
from needle.ops.conditions import finite, require_to_be

__all__ = [
    "BCEWithLogitsLoss",
    "CrossEntropyLoss",
    "HuberLoss",
    "L1Loss",
    "MSELoss",
    "SmoothL1Loss",
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
        if self.reduction == "sum":
            return losses.sum()
        if losses.size == 0:
            raise ShapeError(
                f"{type(self).__name__}: expected one element or more to average, got "
                f"{describe(losses)}."
            )
        return losses.mean()

    def _fitting(self, target: Tensor, prediction: Tensor) -> Tensor:
        """The target, of the prediction's shape; whole numbers in the prediction's dtype."""
        require_tensors(type(self).__name__, prediction, target)
        if prediction.shape != target.shape:
            raise ShapeError(
                f"{type(self).__name__}: expected target of the prediction's shape, got "
                f"{describe(prediction, target)}."
            )
        if not is_floating(prediction.dtype):  # whose differences would wrap around
            raise DTypeError(
                f"{type(self).__name__}: expected a floating prediction, got "
                f"{describe(prediction)}."
            )
        return target if is_floating(target.dtype) else target.astype(prediction.dtype)

    def extra_repr(self) -> str:
        return f"reduction={self.reduction!r}"


class MSELoss(_Loss):
    """Mean of (prediction - target)². Both of the same shape -> 0-d."""

    def forward(self, prediction: Tensor, target: Tensor) -> Tensor:
        difference = prediction - self._fitting(target, prediction)
        return self._reduced(difference * difference)


class L1Loss(_Loss):
    """Mean of |prediction - target|. Both of the same shape -> 0-d."""

    def forward(self, prediction: Tensor, target: Tensor) -> Tensor:
        return self._reduced(ops.abs(prediction - self._fitting(target, prediction)))


class HuberLoss(_Loss):
    """Mean of d²/2 where |d| ≤ delta, else delta · (|d| - delta/2), d = prediction - target.

    Both of the same shape -> 0-d. Huber, "Robust Estimation of a Location Parameter", 1964.
    """

    def __init__(self, delta: float = 1.0, reduction: str = "mean") -> None:
        super().__init__(reduction)
        require_number("HuberLoss", "delta above 0", delta, lambda delta: delta > 0)
        self.delta = delta

    def forward(self, prediction: Tensor, target: Tensor) -> Tensor:
        difference = prediction - self._fitting(target, prediction)
        inner = ops.clip(difference, -self.delta, self.delta)
        # inner · (d - inner/2) is d²/2 within delta and delta · (|d| - delta/2) beyond
        return self._reduced(inner * (difference - inner * 0.5))

    def extra_repr(self) -> str:
        return f"delta={self.delta}, {super().extra_repr()}"


class SmoothL1Loss(_Loss):
    """Mean of d² / (2 beta) where |d| < beta, else |d| - beta/2, d = prediction - target.

    Both of the same shape -> 0-d: `HuberLoss` / beta, and `L1Loss` with beta = 0.
    Girshick, "Fast R-CNN", 2015, eq. 3.
    """

    def __init__(self, beta: float = 1.0, reduction: str = "mean") -> None:
        super().__init__(reduction)
        require_number("SmoothL1Loss", "beta of 0 or more", beta, lambda beta: beta >= 0)
        self.beta = beta

    def forward(self, prediction: Tensor, target: Tensor) -> Tensor:
        difference = prediction - self._fitting(target, prediction)
        if self.beta == 0:
            return self._reduced(ops.abs(difference))
        inner = ops.clip(difference, -self.beta, self.beta)
        return self._reduced(inner * (difference - inner * 0.5) * (1 / self.beta))

    def extra_repr(self) -> str:
        return f"beta={self.beta}, {super().extra_repr()}"


class BCEWithLogitsLoss(_Loss):
    """Mean of -[w · y · log σ(x) + (1 - y) · log(1 - σ(x))], computed from the logits x.

    logits x, target y (in [0, 1]): the same shape -> 0-d
    pos_weight  w, the weight of positive examples: a number, or an array that broadcasts to x

    Raises ShapeError, DTypeError, and OutOfRangeError for a target outside [0, 1].
    """

    def __init__(self, pos_weight: Any = 1.0, reduction: str = "mean") -> None:
        super().__init__(reduction)
        self.pos_weight = _non_negative("BCEWithLogitsLoss", "pos_weight", pos_weight)

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        target = self._fitting(target, logits)
        _require_within_0_and_1("BCEWithLogitsLoss", target)
        # log σ(x) = -softplus(-x) and log(1 - σ(x)) = -softplus(x), without overflow
        positive = target * ops.softplus(-logits)
        return self._reduced(self._weighted(positive) + (1 - target) * ops.softplus(logits))

    def _weighted(self, losses: Tensor) -> Tensor:
        if not isinstance(self.pos_weight, Tensor):
            return losses if self.pos_weight == 1 else losses * self.pos_weight
        weighted = losses * self.pos_weight.to(losses.device, losses.dtype)
        if weighted.shape != losses.shape:
            raise ShapeError(
                "BCEWithLogitsLoss: expected pos_weight to broadcast to the logits, got "
                f"{describe(self.pos_weight, losses)}."
            )
        return weighted

    def extra_repr(self) -> str:
        return f"pos_weight={self.pos_weight}, {super().extra_repr()}"


class CrossEntropyLoss(_Loss):
    """Mean of -log softmax(logits)[y], for class ids y.

    logits: (N, C), or (C,), or (N, C, d1, ...) with the classes on axis 1
    y: (N,), or (), or (N, d1, ...): class ids in 0..C-1, of any dtype (floats are truncated)
       or, of the logits' shape and floating, the probability of each class
    -> 0-d; a loss per place, (N, d1, ...), with reduction "none"

    label_smoothing  ε: the target is 1 - ε + ε/C for class y and ε/C for the others
                     (Szegedy et al., 2016, section 7)
    ignore_index     the id whose places count for nothing, in the mean's divisor neither; where
                     every place has it the loss is 0. Probabilities have no such places
    weight           (C,): a weight per class, as a Tensor or an array; the mean is the weighted
                     one, but of probabilities' losses the plain one

    Raises ShapeError, and OutOfRangeError for an id that is no class or a probability outside
    [0, 1].
    """

    def __init__(
        self,
        label_smoothing: float = 0.0,
        ignore_index: int = -100,
        reduction: str = "mean",
        weight: Any = None,
    ) -> None:
        super().__init__(reduction)
        require_number(
            "CrossEntropyLoss",
            "label_smoothing in [0, 1]",
            label_smoothing,
            lambda share: 0 <= share <= 1,
        )
        self.label_smoothing = label_smoothing
        self.ignore_index = ignore_index
        self.weight = None if weight is None else _kept(weight)

    def forward(self, logits: Tensor, y: Tensor) -> Tensor:
        require_tensors("CrossEntropyLoss", logits, y)
        if logits.ndim and y.shape == logits.shape and is_floating(y.dtype):
            return self._reduced(self._of_probabilities(logits, y))
        rows = _as_rows(logits, y)
        classes, counted = self._classes(rows, y)
        losses = ops.cross_entropy(rows, classes.reshape((-1, 1))).reshape((-1,))
        weight = self._class_weight(rows)
        of_row = None if weight is None else ops.take(weight, classes)
        if of_row is not None:
            losses = losses * of_row
        if self.label_smoothing:
            log_p = ops.logsoftmax(rows)
            every_class = -(log_p if weight is None else log_p * weight).sum(1)
            share = self.label_smoothing / rows.shape[1]
            losses = losses * (1 - self.label_smoothing) + every_class * share
        if is_traced() or not counted.all():
            # chosen, not multiplied by 0: what is ignored may be infinite
            losses = ops.where(counted, losses, 0)
        if self.reduction != "mean" or losses.size == 0:
            return self._reduced(losses.reshape(y.shape))
        if is_traced():
            return losses.mean() * _share_to_be(counted, of_row, losses.dtype)
        total = counted.sum() if of_row is None else of_row.numpy()[counted].sum(dtype=np.float64)
        if not total:
            return losses.sum()
        return losses.mean() if total == losses.size else losses.mean() * (losses.size / total)

    def _classes(self, rows: Tensor, y: Tensor) -> tuple[Tensor, Any]:
        """The class of each row, 0 where it is ignored, and which rows are not."""
        if is_traced():
            to_be = y.detach().reshape((y.size,))
            counts = ops.not_equal(to_be, self.ignore_index)
            return _class_ids_to_be(ops.where(counts, to_be, 0), rows), counts
        ids = y.numpy().reshape(-1)
        counted = ids != self.ignore_index
        return _class_ids("CrossEntropyLoss", np.where(counted, ids, 0), rows), counted

    def _of_probabilities(self, logits: Tensor, target: Tensor) -> Tensor:
        """-Σ w · p · log softmax over the classes, for each place."""
        # mixtures of labels may pass 1 by a rounding error, in bfloat16 by 1/128
        _require_within_0_and_1("CrossEntropyLoss", target, slack=0.01)
        rows, p = _classes_last(logits), _classes_last(target.astype(logits.dtype))
        if self.label_smoothing:
            p = p * (1 - self.label_smoothing) + self.label_smoothing / rows.shape[-1]
        weight = self._class_weight(rows)
        return -((p if weight is None else p * weight) * ops.logsoftmax(rows)).sum(-1)

    def _class_weight(self, rows: Tensor) -> Tensor | None:
        """The weight of each class, in the logits' dtype."""
        if self.weight is None:
            return None
        if self.weight.shape != (rows.shape[-1],):
            raise ShapeError(
                f"CrossEntropyLoss: expected weight [{rows.shape[-1]}], one per class, got "
                f"{describe(self.weight)}."
            )
        return self.weight.to(rows.device, rows.dtype)

    def extra_repr(self) -> str:
        options = f"label_smoothing={self.label_smoothing}, ignore_index={self.ignore_index}"
        if self.weight is not None:
            options += f", weight={describe(self.weight)}"
        return f"{options}, {super().extra_repr()}"


class SoftmaxLoss(Module):
    """Mean over N of logsumexp(row) - logit[y]: cross-entropy of class ids, without options.

    logits: (N, C); y: (N,) class ids in 0..C-1, of any dtype -> 0-d, the logits' dtype
    """

    def forward(self, logits: Tensor, y: Tensor) -> Tensor:
        require_tensors("SoftmaxLoss", logits, y)
        if logits.ndim != 2 or y.shape != logits.shape[:1]:
            raise ShapeError(
                f"SoftmaxLoss: expected logits [N, C] and y [N], got {describe(logits, y)}."
            )
        if logits.shape[0] == 0:
            raise ShapeError(f"SoftmaxLoss: expected one row or more, got {describe(logits)}.")
        if is_traced():
            classes = _class_ids_to_be(y, logits).reshape((-1, 1))
        else:
            classes = _class_ids("SoftmaxLoss", y.numpy().reshape((-1, 1)), logits)
        return ops.cross_entropy(logits, classes, mean=True)


def _as_rows(logits: Tensor, y: Tensor) -> Tensor:
    """Logits as (rows, C), one for each class id, whatever axes there were beside."""
    axis = 0 if logits.ndim == 1 else 1
    others = logits.shape[:axis] + logits.shape[axis + 1 :]
    if logits.ndim == 0 or y.shape != others:
        raise ShapeError(
            "CrossEntropyLoss: expected logits [N, C, ...] and y [N, ...], got "
            f"{describe(logits, y)}."
        )
    logits = _classes_last(logits)
    return logits.reshape((y.size, logits.shape[-1]))


def _classes_last(x: Tensor) -> Tensor:
    """(N, C, d1, ...) -> (N, d1, ..., C)."""
    return x.permute((0, *range(2, x.ndim), 1)) if x.ndim > 2 else x


def _class_ids(loss: str, ids: Any, rows: Tensor) -> Tensor:
    """Ids as an integer Tensor on the logits' device, all of them classes."""
    classes = rows.shape[1]
    if is_floating(ids.dtype) and not np.isfinite(ids).all():
        raise OutOfRangeError(
            f"{loss}: expected class ids in 0..{classes - 1}, got {ids.dtype} ids with NaN or "
            "Inf, which are not whole numbers."
        )
    if not is_integer(ids.dtype):
        with np.errstate(invalid="ignore"):  # beyond int64 it becomes a number that is no class
            ids = ids.astype(np.int64)
    if ids.size and ids.astype(np.uint64).max() >= classes:  # below 0 it is huge
        raise OutOfRangeError(
            f"{loss}: expected class ids in 0..{classes - 1}, got {ids.min()}..{ids.max()}."
        )
    return as_tensor(ids, rows.device)


def _class_ids_to_be(ids: Tensor, rows: Tensor) -> Tensor:
    """The same while no values are known: cross-entropy itself refuses what is no class."""
    ids = ids.detach().to(rows.device)
    if is_integer(ids.dtype):
        return ids
    if is_floating(ids.dtype):  # NaN and Inf are no numbers to cut off
        require_to_be(finite(ids))
    return ids.astype("int64")


def _share_to_be(counted: Tensor, of_row: Tensor | None, dtype: Any) -> Tensor:
    """What the mean over all rows is to be multiplied by, to be that over those which count.

    Where nothing does, losses are 0, and so is their mean.
    """
    weights = counted if of_row is None else ops.where(counted, of_row.astype("float64"), 0)
    total = weights.astype("float64").sum()
    return (counted.size / ops.where(ops.equal(total, 0), 1, total)).astype(dtype)


def _require_within_0_and_1(loss: str, target: Tensor, slack: float = 0.0) -> None:
    if is_traced():
        above, below = ops.greater_equal(target, -slack), ops.less_equal(target, 1 + slack)
        require_to_be(ops.logical_and(above, below))
        return
    values = target.numpy()
    if values.size and not -slack <= values.min() <= values.max() <= 1 + slack:
        raise OutOfRangeError(
            f"{loss}: expected targets in [0, 1], got {values.min()}..{values.max()}."
        )


def _non_negative(loss: str, option: str, weight: Any) -> Any:
    """A number as it is, an array as a constant. Raises OptionError for what is below 0 or NaN."""
    kept = weight
    try:
        if isinstance(weight, (int, float)):
            fits = weight >= 0
        else:
            kept = _kept(weight)
            fits = kept.dtype.kind != "c" and _is_not_negative(kept)
    except DTypeError:
        fits = False
    if not fits:
        raise OptionError(f"{loss}: expected {option} of 0 or more, got {weight!r}.")
    return kept


def _is_not_negative(x: Tensor) -> bool:
    not_negative = ops.greater_equal(x, 0)
    if is_traced():
        require_to_be(not_negative)
        return True
    return bool(not_negative.numpy().all())


def _kept(weight: Any) -> Tensor:
    """An option's array as a constant, in its dtype; among a module's attributes it is saved."""
    return as_tensor(weight).detach()

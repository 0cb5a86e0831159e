"""What all optimisers share: parameter groups, the step over them, saving and restoring."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Iterator, Mapping
from itertools import count
from typing import Any

from needle.autograd import Tensor, no_grad, realize
from needle.autograd.modes import is_lazy, modes
from needle.dtypes import is_floating
from needle.errors import (
    DeviceError,
    DTypeError,
    GradientError,
    OptionError,
    ShapeError,
    StateDictError,
    describe,
)
from needle.optim.clipping import clip_grad_norm
from needle.optim.options import LearningRate, Option
from needle.optim.parameters import collect, items_of, label
from needle.optim.state import fit, number_in, plain, require_dict
from needle.origins import current
from needle.run_numbers import Counting

__all__ = ["Group", "Optimizer", "add_l2"]

Group = dict[str, Any]


def add_l2(grad: Tensor, p: Tensor, weight_decay: float) -> Tensor:
    """grad + weight_decay · p: the gradient of the loss with ½ · weight_decay · |p|² added."""
    return grad + p * weight_decay if weight_decay else grad


class Optimizer(Counting):
    """Base of the optimisers: walks over the parameters and gives each its next value.

    params   Tensors; or (name, Tensor) pairs, so that messages can name them; or a list of
             groups, `{"params": [...], "lr": 0.1}`, with options of their own
    options  the numbers that `update` reads from each group; those declared as an `Option` in
             the class are checked, saved, and readable as attributes

    A parameter given twice counts once. `param_groups` holds the groups with their options;
    `t` is how many steps were taken.

    An optimiser of one's own writes `update`:

    >>> import needle as ndl
    >>> class SignDescent(ndl.optim.Optimizer):
    ...     def update(self, p, grad, group):
    ...         return p - ndl.ops.sign(grad) * group["lr"]
    >>> w = ndl.Tensor([1.0, -2.0])
    >>> opt = SignDescent([w], lr=0.5)
    >>> (w * w).sum().backward()
    >>> opt.step()
    >>> w
    needle.Tensor([ 0.5 -1.5])
    """

    lr = LearningRate()

    def __init__(self, params: Any, **options: Any) -> None:
        self.t = 0
        self._names: dict[Tensor, str] = {}
        self._defaults = options
        self.param_groups = [self._group(item, options) for item in self._group_items(params)]
        if not self._names:
            raise OptionError(f"{type(self).__name__}: expected at least one parameter, got none.")

    @property
    def params(self) -> list[Tensor]:
        """Every parameter, once, group after group."""
        return [p for group in self.param_groups for p in group["params"]]

    def add_param_group(self, group: Mapping[str, Any]) -> None:
        """Take in more parameters, `{"params": [...], "lr": 0.1}`; a schedule is made afterwards.

        Options that the group lacks are the constructor's. Raises OptionError for a parameter
        that the optimiser has already.
        """
        self.param_groups.append(self._group(group, self._defaults))

    def reset_grad(self) -> None:
        """Set `.grad` of every parameter to None."""
        for p in self.params:
            p.grad = None

    def zero_grad(self) -> None:
        """`reset_grad`, by PyTorch's name."""
        self.reset_grad()

    def clip_grad_norm(self, max_norm: float = 0.25) -> Tensor:
        """Scale all gradients so that their common norm is at most `max_norm`; see there."""
        return clip_grad_norm(self.params, max_norm)

    def step(self) -> None:
        """Give every parameter that has a gradient its next value.

        The first step warns of parameters that no gradient reached, and raises GradientError if
        none reached any. Later steps leave out parameters without a gradient silently.
        Raises ShapeError for a gradient of another shape; no parameter has changed then.
        """
        if type(self).update is Optimizer.update:
            raise NotImplementedError(f"{type(self).__name__}: neither step nor update is written.")
        due = self._due()
        if modes.tracer is not None or self.t == 0:
            self._name_those_without_gradient()
        self.t += 1
        with no_grad(), current.span("step", f"{type(self).__name__}.step"):
            if is_lazy():  # all of them, and the state, in one go
                values = [self._updated(p, grad, group) for p, grad, group in due]
                realize(*values, *self._waiting_state())
                for (p, _, group), value in zip(due, values, strict=True):
                    self._put(p, value, group)
                return
            for p, grad, group in due:
                self._put(p, self._updated(p, grad, group), group)

    def _updated(self, p: Tensor, grad: Tensor, group: Group) -> Tensor:
        try:
            return self.update(p, grad, group)
        except (DeviceError, DTypeError) as error:
            self._name_what_has_moved(p, group, error)
            raise

    def _put(self, p: Tensor, value: Tensor, group: Group) -> None:
        try:
            p.data = value
        except (DeviceError, DTypeError) as error:
            self._name_what_has_moved(p, group, error)
            raise

    def _waiting_state(self) -> list[Tensor]:
        held = [values.get(p) for _, values, p in self._entries(self.param_groups)]
        return [value for value in held if isinstance(value, Tensor)]

    def update(self, p: Tensor, grad: Tensor, group: Group) -> Tensor:
        """The next value of `p`; `group` holds the options. Runs under `no_grad`."""
        raise NotImplementedError(f"{type(self).__name__}: update is not written.")

    def slots(self, group: Group) -> tuple[str, ...]:
        """The attributes that hold one value per parameter, for parameters of `group`."""
        return ()

    def make_state(self) -> None:
        """Store what every parameter begins with, which otherwise the first step would do."""
        for _, values, p in self._entries(self.param_groups):
            values[p] = values[p]

    def counted(self) -> list[dict[Any, Any]]:
        """What holds the numbers that steps read and change: a compiled step works them out."""
        counts = [getattr(self, slot) for group in self.param_groups for slot in self.slots(group)]
        return [vars(self), *self.param_groups, *[c for c in counts if isinstance(c, Counter)]]

    # -- gradients -----------------------------------------------------------------------------

    def _due(self) -> list[tuple[Tensor, Tensor, Group]]:
        return [
            (p, self._fitting(p.grad, p), group)
            for group in self.param_groups
            for p in group["params"]
            if p.grad is not None
        ]

    def _fitting(self, grad: Any, p: Tensor) -> Tensor:
        """The gradient, in the dtype of its parameter."""
        if isinstance(grad, Tensor) and grad.shape == p.shape and grad.dtype == p.dtype:
            return grad
        if not isinstance(grad, Tensor):
            raise DTypeError(
                f"{type(self).__name__}.step: expected the gradient of {self._label(p)} "
                f"to be a Tensor, got {describe(grad)}."
            )
        if grad.shape != p.shape:
            raise ShapeError(
                f"{type(self).__name__}.step: expected a gradient of the shape of "
                f"{self._label(p)}, got {describe(grad)}."
            )
        return grad.detach().astype(p.dtype)

    def _name_those_without_gradient(self) -> None:
        name = f"{type(self).__name__}.step"
        params = self.params
        if all(p.grad is None for p in params):
            raise GradientError(
                f"{name}: expected gradients, got none on any of {len(params)} parameters "
                f"({self._label(params[0])}, ...). Call backward() on the loss first."
            )
        skipped = [self._label(p) for p in params if p.grad is None and p.requires_grad]
        if skipped:
            warnings.warn(
                f"{name}: expected a gradient for every parameter, got none for "
                f"{', '.join(skipped)}. They stay as they are; does the loss depend on them?",
                UserWarning,
                stacklevel=3,
            )

    def _name_what_has_moved(self, p: Tensor, group: Group, error: Exception) -> None:
        """Raise DeviceError or DTypeError if what is remembered of `p` lies or is otherwise."""
        for slot in self.slots(group):
            kept = getattr(self, slot).get(p)
            if not isinstance(kept, Tensor):
                continue
            for kind, was, now in (
                (DeviceError, kept.device, p.device),
                (DTypeError, kept.dtype, p.dtype),
            ):
                if was != now:
                    raise kind(
                        f"{type(self).__name__}.step: expected {self._label(p)} where it was at "
                        f"the last step, in {was}, got it in {now}. Make the optimiser after "
                        "moving the model."
                    ) from error

    def _label(self, p: Tensor) -> str:
        return label(self._names[p], p)

    # -- groups --------------------------------------------------------------------------------

    def _group_items(self, params: Any) -> list[Any]:
        items = items_of(type(self).__name__, params)
        if any(isinstance(item, dict) for item in items):
            return items
        return [{"params": items}]

    def _group(self, item: Any, defaults: Mapping[str, Any]) -> Group:
        """A group with every option: its own, else the constructor's."""
        owner = type(self).__name__
        if not isinstance(item, dict) or "params" not in item:
            raise OptionError(f"{owner}: expected groups as dicts with 'params', got {item!r}.")
        own = {name: value for name, value in item.items() if name != "params"}
        unknown = sorted(own.keys() - defaults.keys())
        if unknown:
            raise OptionError(
                f"{owner}: expected group options among {', '.join(defaults)}, "
                f"got {', '.join(unknown)}."
            )
        options = {name: self._checked(name, value) for name, value in {**defaults, **own}.items()}
        return {"params": self._group_params(item["params"]), **options}

    def _group_params(self, params: Any) -> list[Tensor]:
        owner = type(self).__name__
        found = collect(owner, params, first=len(self._names))
        for p, name in found.items():
            if p in self._names:
                raise OptionError(
                    f"{owner}: expected each parameter in one group, got {label(name, p)} in two."
                )
            if p.op is not None and p.requires_grad:
                raise GradientError(
                    f"{owner}: expected leaves, got {label(name, p)}, the result of {p.op.name}. "
                    "Use detach() and requires_grad_()."
                )
            if not is_floating(p.dtype):
                raise DTypeError(f"{owner}: expected floating parameters, got {label(name, p)}.")
        self._names.update(found)
        return list(found)

    def _option(self, name: str) -> Option | None:
        option = getattr(type(self), name, None)
        return option if isinstance(option, Option) else None

    def _checked(self, name: str, value: Any) -> Any:
        option = self._option(name)
        return value if option is None else option.check(type(self).__name__, value)

    # -- saving and restoring ------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Everything the next step depends on but the parameters: a flat dict that `save` takes.

        `t`; each group's options, as `lr.0`; each parameter's state, as `m.0`; numbers and
        NumPy arrays.
        """
        return {key: plain(value) for key, value in self._collected(self.param_groups).items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from where `state` was taken, options included.

        Raises StateDictError naming every missing, unexpected and misshapen key, or an option
        out of range; nothing has changed then.
        """
        require_dict(state)
        groups = [self._restored(state, i, group) for i, group in enumerate(self.param_groups)]
        fitted = fit(type(self).__name__, state, self._collected(groups))
        self.t = fitted["t"]
        for group, restored in zip(self.param_groups, groups, strict=True):
            group.update(restored)
        for key, values, p in self._entries(groups):
            values[p] = fitted[key]

    def _collected(self, groups: list[Group]) -> dict[str, Any]:
        collected: dict[str, Any] = {"t": self.t}
        for i, group in enumerate(groups):
            collected.update({f"{k}.{i}": v for k, v in group.items() if self._option(k)})
        collected.update({key: values[p] for key, values, p in self._entries(groups)})
        return collected

    def _entries(self, groups: list[Group]) -> Iterator[tuple[str, Any, Tensor]]:
        """Key in the state dict, values by parameter, and the parameter, of all state."""
        indices = count()
        for group in groups:
            for p in group["params"]:
                index = next(indices)
                for slot in self.slots(group):
                    yield f"{slot}.{index}", getattr(self, slot), p

    def _restored(self, state: Mapping[str, Any], i: int, group: Group) -> Group:
        """The group with the options that `state` holds; `fit` reports those it lacks."""
        saved = {name: number_in(state.get(f"{name}.{i}")) for name in group if self._option(name)}
        try:
            options = {name: self._checked(name, v) for name, v in saved.items() if v is not None}
        except OptionError as error:
            raise StateDictError(f"load_state_dict: {error}") from None
        return {**group, **options}

    def __repr__(self) -> str:
        first = self.param_groups[0]
        options = [f"{name}={first[name]}" for name in first if self._option(name)]
        return f"{type(self).__name__}({', '.join([f'params={len(self.params)}', *options])})"

"""`Parameter` and `Module`: what a network consists of, and what can be asked of all of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import update_wrapper
from reprlib import recursive_repr
from types import FunctionType
from typing import Any, NamedTuple

import numpy as np

from needle.autograd import Tensor
from needle.autograd.tensor import as_tensor
from needle.dtypes import as_dtype, is_floating
from needle.errors import DTypeError, NeedleError, StateDictError, describe
from needle.nn.checks import require_state

__all__ = ["LoadReport", "Module", "Parameter", "walk"]


class Parameter(Tensor):
    """A Tensor that training changes. Modules find their Parameters by this type."""


class LoadReport(NamedTuple):
    """What `load_state_dict(strict=False)` did not use or find."""

    missing: list[str]
    unexpected: list[str]


class Module:
    """The base of layers, losses and networks.

    A subclass sets Parameters, Modules, and lists, tuples and dicts of them as attributes, and
    writes `forward`. Plain Tensors among the attributes (running statistics) are buffers: saved
    and moved with the module, but not trained.

    >>> import needle as ndl
    >>> class Scale(ndl.nn.Module):
    ...     def __init__(self, size):
    ...         super().__init__()
    ...         self.weight = ndl.nn.Parameter(ndl.init.ones(size))
    ...     def forward(self, x):
    ...         return x * self.weight
    >>> [name for name, _ in Scale(3).named_parameters()]
    ['weight']
    """

    training: bool = True

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        for name in ("__init__", "forward"):
            _take_over(cls, name)

    def __init__(self) -> None:
        self.training = True

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What the module computes."""
        raise NotImplementedError(f"{type(self).__name__}: forward is not written.")

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.forward(*args, **kwargs)

    # -- what it consists of -------------------------------------------------------------------

    def parameters(self) -> list[Parameter]:
        """Every Parameter, in the order of attributes; one reached by two ways stands twice."""
        return [tensor for _, tensor in _tensors(self) if isinstance(tensor, Parameter)]

    def named_parameters(self, remove_duplicate: bool = True) -> Iterator[tuple[str, Parameter]]:
        """Pairs of dotted name and Parameter; a shared one once, unless told otherwise."""
        for name, tensor in _tensors(self, once=remove_duplicate):
            if isinstance(tensor, Parameter):
                yield name, tensor

    def named_buffers(self) -> Iterator[tuple[str, Tensor]]:
        """Pairs of dotted name and Tensor, for those that are no Parameters."""
        for name, tensor in _tensors(self):
            if not isinstance(tensor, Parameter):
                yield name, tensor

    def submodules(self) -> list[Module]:
        """This module and all within it, each once."""
        return [module for _, module in self.named_modules()]

    def named_modules(self) -> Iterator[tuple[str, Module]]:
        """Pairs of dotted name and Module, each module once; this one's name is empty."""
        for name, value in walk(self, once=True):
            if isinstance(value, Module):
                yield name, value

    def _children(self) -> list[Module]:
        """The modules within this one, in the order of attributes."""
        return [value for _, value in walk(self) if isinstance(value, Module)][1:]

    def num_parameters(self) -> int:
        """How many numbers training changes; shared ones counted once."""
        return sum(parameter.size for _, parameter in self.named_parameters())

    # -- modes ---------------------------------------------------------------------------------

    def train(self, mode: bool = True) -> Module:
        """Switch this module and all within it to training (or, with False, to evaluation)."""
        for module in self.submodules():
            module.training = mode
        return self

    def eval(self) -> Module:
        """Switch to evaluation: Dropout passes everything, BatchNorm uses running statistics."""
        return self.train(False)

    def requires_grad_(self, requires_grad: bool = True) -> Module:
        """Freeze (False) or unfreeze every Parameter."""
        for _, parameter in self.named_parameters():
            parameter.requires_grad = requires_grad
        return self

    def zero_grad(self) -> None:
        """Forget the gradient of every Parameter."""
        for _, parameter in self.named_parameters():
            parameter.grad = None

    def apply(self, function: Callable[[Module], Any]) -> Module:
        """Call `function` on each module within, in order, then on this one; for initialisers."""
        for module in _inside_out(self, set()):
            function(module)
        return self

    def to(self, device: Any = None, dtype: Any = None) -> Module:
        """Move Parameters and buffers to a device, and cast those that hold floats to a dtype.

        Gradients are forgotten. Make the optimiser after this. Raises DTypeError for a dtype that
        is no float.
        """
        if isinstance(device, (str, np.dtype, type)):
            device, dtype = None, device  # to("float64")
        if dtype is not None and not is_floating(as_dtype(dtype)):
            raise DTypeError(f"to: expected a float dtype, got {as_dtype(dtype)}.")
        for _, tensor in _tensors(self, once=True):
            cast_to = dtype if dtype is not None and is_floating(tensor.dtype) else None
            moved = tensor.detach().to(device, cast_to)
            if moved.device != tensor.device or cast_to is not None:
                tensor.cached_data, tensor.grad = moved.realize_cached_data(), None
        return self

    # -- state ---------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Tensor]:
        """Dotted names and values of all Parameters and buffers, as they are now.

        Raises StateDictError where two of them have the same name.
        """
        return {name: tensor.detach() for name, tensor in self._state().items()}

    def _state(self) -> dict[str, Tensor]:
        state: dict[str, Tensor] = {}
        for name, tensor in _tensors(self):
            if name in state:
                raise StateDictError(f"state_dict: expected names that differ, got {name!r} twice.")
            state[name] = tensor
        return state

    def load_state_dict(self, state: Mapping[str, Any], strict: bool = True) -> LoadReport:
        """Take over values (Tensors or arrays) by name, in the dtype that each Tensor has.

        strict  raise StateDictError unless the names are exactly those of `state_dict()`;
                otherwise load what there is. Shapes must match in any case.

        On an error nothing has changed; the message names every key at fault.
        """
        require_state("load_state_dict", "a dict of names and Tensors", state)
        own = self._state()
        report = LoadReport(
            missing=[name for name in own if name not in state],
            unexpected=[name for name in state if name not in own],
        )
        values: dict[str, Tensor] = {}
        faults = []
        for name in [name for name in own if name in state]:
            try:
                values[name] = _in_place_of(own[name], state[name])
            except NeedleError as error:
                faults.append(f"{name}: {error}".rstrip("."))
        if strict:
            faults += [f"{name}: missing" for name in report.missing]
            faults += [f"{name}: unexpected" for name in report.unexpected]
        if faults:
            raise StateDictError(
                f"load_state_dict: expected the keys and shapes of {type(self).__name__}, got "
                f"{len(faults)} at fault: {'; '.join(faults)}."
            )
        for name, value in values.items():
            own[name].cached_data = value.cached_data
        return report

    # -- printing ------------------------------------------------------------------------------

    def extra_repr(self) -> str:
        """What a subclass shows between the brackets of its repr: its options."""
        return ""

    @recursive_repr("(...)")
    def __repr__(self) -> str:
        lines = [
            f"  ({name}): {module!r}".replace("\n", "\n  ")
            for name, module in _direct_children(self)
        ]
        inside = "\n".join(["", *lines, ""]) if lines else ""
        return f"{type(self).__name__}({self.extra_repr()}{inside})"


def _take_over(cls: type[Module], name: str) -> None:
    """A method that a public class of ours has from a base, under the class's own name.

    Python's errors about arguments name the function: `LSTM.__init__() got an unexpected ...`.
    """
    lent = getattr(cls, name)
    ours = cls.__module__.startswith("needle.") and isinstance(lent, FunctionType)
    if name in vars(cls) or cls.__name__.startswith("_") or not ours:
        return
    own = FunctionType(
        lent.__code__, lent.__globals__, name, lent.__defaults__, lent.__closure__
    )  # fmt: skip
    update_wrapper(own, lent)
    own.__kwdefaults__, own.__qualname__ = lent.__kwdefaults__, f"{cls.__qualname__}.{name}"
    setattr(cls, name, own)


def _in_place_of(own: Tensor, value: Any) -> Tensor:
    """A copy of `value` that can stand where `own` does: of its shape, in its dtype.

    Row after row in memory, as `own` was made: sums over other orders end in other bits.
    """
    # first in its own dtype: given another one, None becomes NaN, "7" a number
    given = as_tensor(value)
    if given.dtype.kind == "c":
        raise DTypeError(f"Tensor: expected real numbers, got {describe(given)}.")
    array = np.asarray(given.numpy(), order="C")
    tensor = Tensor(array, dtype=own.dtype, device=own.device, requires_grad=False)
    if tensor.shape != own.shape:
        raise StateDictError(f"expected shape {own.shape}, got {tensor.shape}")
    return tensor


def _direct_children(module: Module) -> list[tuple[str, Module]]:
    within = walk(vars(module), into_modules=False)
    return [(name, value) for name, value in within if isinstance(value, Module)]


def _inside_out(module: Module, seen: set[Module]) -> Iterator[Module]:
    seen.add(module)
    for _, child in _direct_children(module):
        if child not in seen:
            yield from _inside_out(child, seen)
    yield module


def _items(value: Any) -> list[tuple[Any, Any]]:
    """What stands within a container, with its key."""
    if isinstance(value, Module):
        return list(vars(value).items())
    if isinstance(value, dict):
        return list(value.items())
    if isinstance(value, (list, tuple)):
        return list(enumerate(value))
    return []


def walk(root: Any, into_modules: bool = True, once: bool = False) -> Iterator[tuple[str, Any]]:
    """Modules and Tensors reached from `root`, with dotted names; circles are followed once.

    once  each comes by its first name only, in linear time; otherwise by every path there is
    """
    seen: set[int] = set()
    pending: list[tuple[str, Any, frozenset[int]]] = [("", root, frozenset())]
    while pending:
        name, value, above = pending.pop()
        if once and id(value) in seen:
            continue
        seen.add(id(value))
        is_module = isinstance(value, Module)
        if is_module or isinstance(value, Tensor):
            yield name, value
        if id(value) in above or (is_module and not into_modules):
            continue
        above = above | {id(value)}
        pending += [
            (f"{name}.{key}" if name else str(key), item, above)
            for key, item in reversed(_items(value))
            if isinstance(item, (Module, Tensor, dict, list, tuple))
        ]


def _tensors(module: Module, once: bool = False) -> Iterator[tuple[str, Tensor]]:
    for name, value in walk(module, once=once):
        if isinstance(value, Tensor):
            yield name, value

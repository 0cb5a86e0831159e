"""Everything that is asked of an operator, asked of one: `check_op`."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

import needle
from needle.autograd import Op, Tensor, TensorTuple, Value, lazy, no_grad
from needle.backend_selection import Device, all_devices, default_device
from needle.dtypes import is_floating
from needle.errors import DTypeError, NeedleError, describe
from needle.testing.compare import assert_close
from needle.testing.gradients import (
    as_tensors,
    check_grads,
    device_of,
    is_float_array,
    require_at_least,
)
from needle.testing.layouts import LAYOUTS, raw_array

__all__ = ["check_op"]

Array = np.ndarray[Any, Any]


def check_op(
    op: Op | Callable[..., Any],
    *inputs: Any,
    reference: Callable[..., Any] | None = None,
    bad_inputs: Sequence[tuple[Sequence[Any], str]] = (),
    order: int = 2,
    keeps_dtype: bool = True,
    rtol: float | None = None,
    seed: int = 0,
    devices: Sequence[Device] | None = None,
) -> None:
    """Put an operator, with these inputs, through everything that is asked of Needle's own.

    In float64 unless said otherwise:
    - inputs and out_grad stay as they were
    - it computes the same bits eagerly, lazily, under no_grad(), and a second time
    - shape and dtype, in nd mode known from a run without data, are those of the result
    - it equals `reference`, and on all devices itself
    - float32 inputs give float32 results and gradients
    - gradients have the shapes of the inputs and are right, to `order`
    - permuted, sliced, flipped and zero-stride inputs give what contiguous ones give
    - inputs cut to no elements work, or are refused with a NeedleError
    - bad inputs are refused with a NeedleError that says what `bad_inputs` expects

    op           an op, `MyOp()`, or a function of Tensors; gives a Tensor or several
    inputs       Tensors or arrays, the floats away from kinks by more than 0.01. Lists and numbers
                 are arrays to an op; to a function, one of whose inputs must be a Tensor or an
                 array, they are other arguments, handed on as they are
    reference    the same function of NumPy arrays
    bad_inputs   pairs (inputs, a regular expression that the message must contain)
    order        how often it can be differentiated; 0: not at all
    keeps_dtype  False where the result's dtype does not follow the inputs', as in a cast
    rtol         for the reference; default: 1e-12, the precision of float64
    seed         of out_grad and directions, a stream of their own
    devices      where to run all this. Default: for an op every device there is; for a function,
                 which may hold Tensors of its own, that of the inputs

    Raises AssertionError, which starts with the op's name and says what did not hold, and where if
    not on the default device; that the op raised something itself is one such thing. For what is no
    check: DTypeError and OptionError.

    >>> import needle as ndl
    >>> import numpy as np
    >>> from needle.testing import check_op
    >>> class Cube(ndl.TensorOp):
    ...     def compute(self, x):
    ...         return x * x * x
    ...     def gradient(self, out_grad, node):
    ...         return out_grad * 3 * node.inputs[0] ** 2
    >>> check_op(Cube(), ndl.randn(2, 3), reference=lambda x: x**3)
    >>> class WrongCube(Cube):
    ...     def gradient(self, out_grad, node):
    ...         return out_grad * 2 * node.inputs[0] ** 2
    >>> check_op(WrongCube(), ndl.Tensor([1.0]))  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    AssertionError: wrongcube: check_grads: expected ... got ... from the gradient.
    """
    subjects = []
    for device in _devices(op, inputs) if devices is None else devices:
        with _named(device):
            subject = _Subject(op, inputs, order, seed, device)
            subjects.append(subject)
            _check_inputs_stay(subject)
            _check_modes(subject)
            _check_reference(subject, reference, rtol)
            if keeps_dtype:
                _check_float32_stays(subject)
            _check_layouts(subject)
            _check_no_elements(subject)
            _check_bad_inputs(subject, bad_inputs)
            _check_gradients(subject)
            _check_devices_agree(subjects[0], subject)


def _devices(op: Any, inputs: Sequence[Any]) -> list[Device]:
    if isinstance(op, Op):
        return [device for device in all_devices() if device.enabled()]
    return [device_of(inputs)]


@contextmanager
def _named(device: Device) -> Iterator[None]:
    """Failures inside say on which device, unless it is the default one."""
    try:
        yield
    except AssertionError as error:
        if device != default_device():
            error.args = (f"{error} (On {device!r}.)",)
        raise


class _Subject:
    """The op under test, and its inputs, the floats in float64, for one device."""

    def __init__(
        self, op: Any, inputs: Sequence[Any], order: int, seed: int, device: Device
    ) -> None:
        if isinstance(op, type) or not callable(op):
            raise DTypeError(
                f"check_op: expected an op or a function of Tensors, got {op!r}. "
                "Make one first: MyOp()."
            )
        require_at_least(0, "check_op", order=order)
        self.op, self.order, self.seed, self.device = op, order, seed, device
        self.name = str(getattr(op, "name", None) or getattr(op, "__name__", "op"))
        self.inputs = _floats_as(np.float64, _copies(_plain(op, inputs)))
        if not getattr(op, "differentiable", True) or not self._has_float_result():
            self.order = 0

    def _has_float_result(self) -> bool:
        return any(is_float_array(y) for y in self.forward(_copies(self.inputs)))

    def tensors(self, inputs: Sequence[Any], constant: bool = False) -> list[Any]:
        """The inputs with a Tensor on the device for each array, laid out as that is."""
        return [self._tensor(x, constant) for x in inputs]

    def _tensor(self, x: Any, constant: bool) -> Any:
        if isinstance(x, np.ndarray):
            requires_grad = is_float_array(x) and not constant
            return Tensor.make_const(raw_array(x, self.device), requires_grad=requires_grad)
        if isinstance(x, TensorTuple):
            return needle.ops.make_tuple(*[item.to(self.device) for item in x])
        return x

    def forward(self, inputs: Sequence[Any]) -> list[Tensor]:
        """The results for these arrays and other arguments."""
        try:
            return self.apply(self.tensors(inputs))
        except Exception as error:
            raise self.failure(f"a result for {describe(inputs)}", error) from error

    def apply(self, tensors: Sequence[Any]) -> list[Tensor]:
        """The results for these Tensors and other arguments; raises what the op raises."""
        return as_tensors(self.op(*tensors), self.name)

    def failure(self, wanted: str, error: Exception) -> AssertionError:
        """What the op raised in place of what was wanted, under the op's name."""
        said = str(error)
        if said.startswith(f"{self.name}: "):
            return AssertionError(said)
        if isinstance(error, (AssertionError, NeedleError)) and said:
            return AssertionError(f"{self.name}: {said}")
        return AssertionError(f"{self.name}: expected {wanted}, got {error!r}.")

    def backward(
        self, inputs: Sequence[Any], out_grads: Sequence[Any] | None = None
    ) -> list[tuple[Array, Array]]:
        """Pairs of a float input and the gradient for it."""
        tensors = self.tensors(inputs)
        outputs = [y for y in self.apply(tensors) if y.requires_grad]
        if not outputs:
            raise AssertionError(
                f"{self.name}: expected a result with a graph, got one without. Pass order=0 for "
                "an op that has no gradient."
            )
        out_grads = self.out_grads(outputs) if out_grads is None else out_grads
        variables = [x for x in tensors if isinstance(x, Tensor) and x.requires_grad]
        try:
            grads = needle.grad(outputs, variables, self.tensors(out_grads, constant=True))
            return [(x.numpy(), g.numpy()) for x, g in zip(variables, grads, strict=True)]
        except Exception as error:
            raise self.failure(f"a gradient for {describe(inputs)}", error) from error

    def out_grads(self, outputs: Sequence[Tensor]) -> list[Array]:
        """Random adjoints of the outputs, the same at every call."""
        rng = np.random.RandomState(self.seed)
        return [
            np.asarray(rng.standard_normal(y.shape)).astype(y.dtype)
            for y in outputs
            if y.requires_grad
        ]


def _plain(op: Any, inputs: Sequence[Any]) -> list[Any]:
    """The inputs with an array for each Tensor, and for whatever else an op takes one of."""
    plain = [x.numpy() if isinstance(x, Tensor) else x for x in inputs]
    if isinstance(op, Op):
        plain = [x if isinstance(x, Value) else np.asarray(x) for x in plain]
    if not any(isinstance(x, np.ndarray) for x in plain):
        raise DTypeError(
            f"check_op: expected Tensors or arrays among the inputs, got {describe(inputs)}. "
            "Wrap them first: np.array(...)."
        )
    return plain


def _floats_as(dtype: Any, inputs: Sequence[Any]) -> list[Any]:
    return [x.astype(dtype) if is_float_array(x) else x for x in inputs]


def _copies(inputs: Sequence[Any]) -> list[Any]:
    """Fresh arrays, row after row."""
    return [np.array(x, order="C") if isinstance(x, np.ndarray) else x for x in inputs]


def _check_modes(subject: _Subject) -> None:
    eager = subject.forward(subject.inputs)
    with lazy():
        deferred = subject.forward(subject.inputs)
    with no_grad():
        without_graph = subject.forward(subject.inputs)
    runs = {"lazily": deferred, "under no_grad()": without_graph}
    runs["a second time"] = subject.forward(subject.inputs)
    for mode, outputs in runs.items():
        if len(outputs) != len(eager):
            raise AssertionError(
                f"{subject.name}: expected {len(eager)} results {mode}, got {len(outputs)}."
            )
        for y, expected in zip(outputs, eager, strict=True):
            what = f"{subject.name}, {mode}"
            _check_foreseen(y, expected, what)
            bound = None if mode == "lazily" else 0  # a program of several ops may round otherwise
            assert_close(y, expected, rtol=bound, atol=bound, same_dtype=True, what=what)


def _check_foreseen(y: Tensor, expected: Tensor, what: str) -> None:
    """Shape and dtype, before there is data."""
    foreseen = describe(y)
    if foreseen != describe(expected):
        raise AssertionError(
            f"{what}: expected {describe(expected)}, got {foreseen} from compute() without data."
        )


def _check_reference(
    subject: _Subject, reference: Callable[..., Any] | None, rtol: float | None
) -> None:
    if reference is None:
        return
    outputs = subject.forward(subject.inputs)
    expected = reference(*_copies(subject.inputs))
    if not isinstance(expected, (tuple, list)):
        expected = [expected]
    if len(outputs) != len(expected):
        raise AssertionError(
            f"{subject.name}: expected {len(expected)} results as the reference gives, "
            f"got {len(outputs)}."
        )
    for y, e in zip(outputs, expected, strict=True):
        assert_close(y, e, rtol=rtol, what=f"{subject.name}, against the reference")


def _check_float32_stays(subject: _Subject) -> None:
    narrow = _floats_as(np.float32, subject.inputs)
    for y in subject.forward(narrow):
        if is_floating(y.dtype) and y.dtype != np.float32:
            raise AssertionError(
                f"{subject.name}: expected float32 for float32 inputs, got {describe(y)}. "
                "NumPy's scalars and float64 arrays promote; Python's numbers do not."
            )
    for x, grad in subject.backward(narrow) if subject.order else ():
        if grad.dtype != x.dtype:
            raise AssertionError(
                f"{subject.name}: expected a gradient of dtype {x.dtype} for {describe(x)}, "
                f"got {describe(grad)}."
            )


def _check_inputs_stay(subject: _Subject) -> None:
    given = subject.tensors(_copies(subject.inputs))
    watched = {f"input {i}": x for i, x in enumerate(given) if isinstance(x, Tensor)}
    before = {what: x.numpy() for what, x in watched.items()}
    outputs = subject.forward(given)
    if subject.order:
        out_grads = subject.tensors(subject.out_grads(outputs), constant=True)
        watched |= {f"out_grad {i}": g for i, g in enumerate(out_grads)}
        before |= {f"out_grad {i}": g.numpy() for i, g in enumerate(out_grads)}
        subject.backward(given, out_grads)
    for what, x in watched.items():
        if not np.array_equal(x.numpy(), before[what], equal_nan=x.dtype.kind == "f"):
            raise AssertionError(f"{subject.name}: expected {what} to stay as it was, it changed.")


def _check_devices_agree(first: _Subject, other: _Subject) -> None:
    if first is other:
        return
    what = f"{other.name}, against {first.device!r}"
    for dtype in (np.float64, np.float32):
        results = [s.forward(_floats_as(dtype, s.inputs)) for s in (other, first)]
        for y, expected in zip(*results, strict=True):
            assert_close(y, expected, same_dtype=True, what=what)


def _check_layouts(subject: _Subject) -> None:
    for layout, rearranged in LAYOUTS.items():
        views = [rearranged(x) if isinstance(x, np.ndarray) else x for x in subject.inputs]
        plain = _copies(views)
        what = f"{subject.name}, {layout} inputs"
        for y, expected in zip(subject.forward(views), subject.forward(plain), strict=True):
            assert_close(y, expected, same_dtype=True, what=what)
        if subject.order:
            pairs = zip(subject.backward(views), subject.backward(plain), strict=True)
            for (_, grad), (_, expected_grad) in pairs:
                assert_close(grad, expected_grad, what=f"{what}, gradient")


def _check_no_elements(subject: _Subject) -> None:
    empty = [x[:0] if isinstance(x, np.ndarray) and x.ndim else x for x in subject.inputs]
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore", RuntimeWarning)  # the mean of nothing, for one
        try:
            outputs = subject.apply(subject.tensors(empty))
        except NeedleError:
            return  # refused in so many words
        except Exception as error:
            wanted = f"a result or a NeedleError for {describe(empty)}, which has no elements"
            raise subject.failure(wanted, error) from error
        if outputs and subject.order:
            subject.backward(empty)


def _check_bad_inputs(subject: _Subject, bad_inputs: Sequence[tuple[Sequence[Any], str]]) -> None:
    for given, message in bad_inputs:
        inputs = given if isinstance(given, (tuple, list)) else (given,)
        try:
            plain = [x.numpy() if isinstance(x, Tensor) else x for x in inputs]
            subject.apply(subject.tensors(plain))
        except NeedleError as error:
            if not re.search(message, str(error)):
                raise AssertionError(
                    f"{subject.name}: expected a message like {message!r}, got {str(error)!r}."
                ) from error
        except Exception as error:
            raise AssertionError(
                f"{subject.name}: expected a NeedleError for {describe(inputs)}, got {error!r}."
            ) from error
        else:
            raise AssertionError(
                f"{subject.name}: expected an error for {describe(inputs)}, got a result."
            )


def _check_gradients(subject: _Subject) -> None:
    if not subject.order:
        return
    inputs = subject.tensors(subject.inputs)
    try:
        check_grads(subject.op, *inputs, order=subject.order, seed=subject.seed)
    except Exception as error:
        raise subject.failure(f"gradients to order {subject.order}", error) from error

"""Text from a language model, token by token: drawing from its logits, and the loop around it."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from needle import nn
from needle.autograd import Tensor, no_grad
from needle.data.random_stream import stream_given
from needle.errors import NonFiniteError, OptionError, OutOfRangeError, ShapeError, describe
from needle.nn.checks import require_number, require_positive

__all__ = ["generate", "sample"]

Array = np.ndarray[Any, Any]


def sample(
    logits: Any,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    rng: Any = None,
) -> Array:
    """ids ~ softmax(logits / temperature), restricted first to the top k, then to the top p.

    logits: (..., V), a Tensor or an array -> ids: (...), int64
    temperature  0 takes the most likely id (of equal ones the first) and draws nothing
    top_k        only the k most likely ids, and those as likely as the k-th
    top_p        only the smallest set of most likely ids whose probability reaches p, at least one
    rng          a `numpy.random.Generator`; None draws from NumPy's global stream. One draw per row

    Logits of -inf are never drawn. Raises OptionError for options outside their range, ShapeError
    for no ids to choose from, NonFiniteError for NaN, +inf, and rows of nothing but -inf.

    Sources: Fan, Lewis, Dauphin, "Hierarchical Neural Story Generation", 2018 (top k); Holtzman et
    al., "The Curious Case of Neural Text Degeneration", 2020, section 3.1 (top p).

    >>> import numpy as np
    >>> from needle.generation import sample
    >>> logits = np.log([[0.5, 0.3, 0.2]] * 1000)
    >>> ids = sample(logits, top_p=0.7, rng=np.random.default_rng(0))
    >>> np.bincount(ids, minlength=3)
    array([604, 396,   0])
    """
    _require_options("sample", temperature, top_k, top_p)
    scores = _scores(logits)
    if temperature == 0:
        return np.asarray(scores.argmax(-1))
    with np.errstate(over="ignore"):  # of a very low temperature: -inf is what is meant
        weights = np.exp(scores / temperature)
    if top_k is not None and top_k < weights.shape[-1]:
        least = np.partition(weights, -top_k)[..., -top_k, None]
        weights = np.where(weights >= least, weights, 0)
    if top_p is not None and top_p < 1:
        weights = _nucleus(weights, top_p)
    reached = weights.cumsum(-1)
    reached /= reached[..., -1:]
    draws = np.asarray(stream_given("sample", rng).random(reached.shape[:-1]))
    return np.asarray((reached <= draws[..., None]).sum(-1), dtype=np.int64)


def generate(
    model: nn.Module,
    prompt: Any,
    max_new: int,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    rng: Any = None,
    stop: int | Collection[int] | Callable[[list[int]], bool] | None = None,
    never: Collection[int] = (),
) -> Iterator[int]:
    """Continue a prompt: an iterator over the new ids, each as soon as it is drawn (`sample`).

    model    with a `context`, such as GPT: called with ids (1, T), and, where it has `new_cache()`,
             with that `cache`, for logits (1, T, V). Beyond the context it looks at the last
             `context` ids; or recurrent, such as LanguageModel: called with ids (T, 1) and the
             state that it gave last, for logits (T, V) and the state
    prompt   (T,) ids, one or more
    max_new  at most so many ids
    stop     an id or several, at the first of which it ends; or a function of the list of new ids
             that says whether it does. The id that ends it is the last one given
    never    ids that are not drawn, such as that of unknown words

    The model computes in evaluation mode and without a graph; between two ids it is as it was.
    Raises at once OptionError for options outside their range and for a module of neither kind,
    ShapeError and OutOfRangeError for the prompt.

    >>> import numpy as np
    >>> from needle.generation import generate
    >>> from needle.models import GPT
    >>> model = GPT(vocab_size=65, context=8, layers=1, heads=2, width=16)
    >>> len(list(generate(model, [1, 2, 3], max_new=20, rng=np.random.default_rng(0))))
    20
    """
    if not isinstance(model, nn.Module):
        raise OptionError(f"generate: expected a module, got {describe(model)}.")
    if isinstance(max_new, bool) or not isinstance(max_new, (int, np.integer)) or max_new < 0:
        raise OptionError(f"generate: expected max_new of 0 or more, got {max_new!r}.")
    _require_options("generate", temperature, top_k, top_p)
    stream_given("generate", rng)
    ids, ended = _prompt_ids(prompt), _ended_by(stop)
    left_out = _ids("never to be ids", never)
    vocab_size = getattr(model, "vocab_size", None)
    if isinstance(vocab_size, int):
        _require_known("prompt", ids, vocab_size)
        _require_known("never", left_out, vocab_size)

    def choose(logits: Array) -> Array:
        if left_out:
            logits = logits.copy()
            logits[left_out] = -np.inf
        return sample(logits, temperature, top_k, top_p, rng)

    return _generate(model, _reader(model), ids, int(max_new), choose, ended)


def _generate(
    model: nn.Module,
    read: Callable[[list[int], int], Array],
    ids: list[int],
    max_new: int,
    choose: Callable[[Array], Array],
    ended: Callable[[list[int]], bool],
) -> Iterator[int]:
    modules, known, unread = model.submodules(), len(ids), len(ids)
    for _ in range(max_new):
        with _evaluating(modules), no_grad():
            logits = read(ids, unread)
        ids.append(int(choose(logits)))
        unread = 1
        yield ids[-1]
        if ended(ids[known:]):
            return


@contextmanager
def _evaluating(modules: list[nn.Module]) -> Iterator[None]:
    """Evaluation mode; afterwards each module has the mode that it had."""
    before = [module.training for module in modules]
    for module in modules:
        module.training = False
    try:
        yield
    finally:
        for module, training in zip(modules, before, strict=True):
            module.training = training


# -- how models are asked ------------------------------------------------------------------------


def _reader(model: Any) -> Callable[[list[int], int], Array]:
    """A function (ids, n) -> logits (V,) after all ids, of which the last n have not been read."""
    parameters = model.parameters()
    device = parameters[0].device if parameters else None

    def tensor(ids: list[int], axis: int) -> Tensor:
        rows = np.expand_dims(np.asarray(ids, dtype=np.int64), axis)
        return Tensor(rows, device=device, dtype="int64", requires_grad=False)

    if hasattr(model, "context"):
        return _window_reader(model, tensor)
    if isinstance(getattr(model, "seq_model", None), nn.Transformer):  # a state carries nothing
        length = model.seq_len
        return lambda ids, _: _last(_pair(model(tensor(ids[-length:], 1)))[0])
    try:
        inspect.signature(model.forward).bind(None, None)
    except TypeError as error:
        raise OptionError(
            "generate: expected a model with a context, or one that is called with ids and a "
            f"state, got {type(model).__name__}."
        ) from error
    return _recurrent_reader(model, tensor)


def _window_reader(
    model: Any, tensor: Callable[[list[int], int], Tensor]
) -> Callable[[list[int], int], Array]:
    cache = model.new_cache() if hasattr(model, "new_cache") else None

    def read(ids: list[int], unread: int) -> Array:
        if cache is not None and len(ids) <= model.context:
            return _last(model(tensor(ids[-unread:], 0), cache=cache))
        # the places of all ids move with the window, so what a cache has is of no use
        return _last(model(tensor(ids[-model.context :], 0)))

    return read


def _recurrent_reader(
    model: Any, tensor: Callable[[list[int], int], Tensor]
) -> Callable[[list[int], int], Array]:
    state: Any = None

    def read(ids: list[int], unread: int) -> Array:
        nonlocal state
        logits, state = _pair(model(tensor(ids[-unread:], 1), state))
        return _last(logits)

    return read


def _pair(result: Any) -> tuple[Any, Any]:
    if not isinstance(result, tuple) or len(result) != 2:
        raise OptionError(
            "generate: expected a model that gives logits and a state, or one with a context, got "
            f"one that gives {describe(result)}."
        )
    logits, state = result
    return logits, state


def _last(logits: Any) -> Array:
    """The logits (V,) of the last place."""
    values = logits.numpy()
    return np.asarray(values.reshape(-1, values.shape[-1])[-1])


# -- what is asked of arguments ------------------------------------------------------------------


def _require_options(owner: str, temperature: Any, top_k: Any, top_p: Any) -> None:
    _require_no_bool(owner, "temperature", temperature)
    require_number(owner, "temperature of 0 or more", temperature, lambda t: 0 <= t < np.inf)
    if top_k is not None:
        _require_no_bool(owner, "top_k", top_k)
        require_positive(owner, top_k=top_k)
    if top_p is not None:
        _require_no_bool(owner, "top_p", top_p)
        require_number(owner, "top_p in [0, 1]", top_p, lambda p: 0 <= p <= 1)


def _require_no_bool(owner: str, name: str, value: Any) -> None:
    if isinstance(value, (bool, np.bool_)):
        raise OptionError(f"{owner}: expected a number for {name}, got {value!r}.")


def _scores(logits: Any) -> Array:
    """The logits in float64, the largest of each row moved to 0."""
    scores = _array("sample: expected logits [..., V] of numbers", logits)
    if scores.ndim == 0 or scores.shape[-1] == 0:
        raise ShapeError(f"sample: expected logits [..., V], got {describe(scores)}.")
    scores = scores.astype(np.float64)
    largest = scores.max(-1, keepdims=True)
    if not np.isfinite(largest).all():
        raise NonFiniteError(
            f"sample: expected a largest logit that is finite, got "
            f"{largest[~np.isfinite(largest)][0]}."
        )
    return np.asarray(scores - largest)


def _nucleus(weights: Array, p: float) -> Array:
    """Weights with 0 outside the smallest set of the largest whose share reaches p."""
    order = np.argsort(-weights, axis=-1, kind="stable")
    ordered = np.take_along_axis(weights, order, -1)
    reached = ordered.cumsum(-1)
    enough = p * (1 - 1e-6) * reached[..., -1:]  # 0.5 + 0.3 reaches 0.8, however it is rounded
    ordered[..., 1:][reached[..., :-1] >= enough] = 0
    kept = np.empty_like(weights)
    np.put_along_axis(kept, order, ordered, -1)
    return kept


def _prompt_ids(prompt: Any) -> list[int]:
    ids = _array("generate: expected a prompt of whole numbers", prompt)
    if ids.ndim != 1 or ids.size == 0:
        raise ShapeError(
            f"generate: expected a prompt of ids [T], one or more, got {describe(ids)}."
        )
    if not (np.isfinite(ids) & (ids == np.trunc(ids))).all():
        raise OptionError(f"generate: expected a prompt of whole numbers, got {describe(ids)}.")
    return [int(i) for i in ids]


def _array(expected: str, given: Any) -> Array:
    """What was given, as an array of real numbers."""
    try:
        array = np.asarray(given.numpy() if isinstance(given, Tensor) else given)
    except ValueError as error:  # lists of unequal lengths
        raise OptionError(f"{expected}, got {describe(given)}.") from error
    if array.dtype.kind not in "iuf" and array.dtype.name != "bfloat16":
        raise OptionError(f"{expected}, got {describe(array)}.")
    return array


def _require_known(name: str, ids: list[int], vocab_size: int) -> None:
    wrong = [i for i in ids if not 0 <= i < vocab_size]
    if wrong:
        raise OutOfRangeError(
            f"generate: expected a {name} of ids in 0..{vocab_size - 1}, got {wrong[0]}."
        )


def _ids(wanted: str, given: Any) -> list[int]:
    if not (isinstance(given, Collection) and all(_is_id(i) for i in given)):
        raise OptionError(f"generate: expected {wanted}, got {describe(given)}.")
    return [int(i) for i in given]


def _is_id(value: Any) -> bool:
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool)


def _ended_by(stop: Any) -> Callable[[list[int]], bool]:
    if callable(stop):
        return lambda new: bool(stop(new))
    given = [] if stop is None else [stop] if _is_id(stop) else stop
    ids = set(_ids("stop to be ids or a function", given))
    return lambda new: new[-1] in ids

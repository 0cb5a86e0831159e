"""Drawing ids from logits, and continuing a prompt with every kind of language model."""

from __future__ import annotations

import numpy as np
import pytest
from tensors import tensor

import needle as ndl
from needle import nn
from needle.errors import NonFiniteError, OptionError, OutOfRangeError, ShapeError
from needle.generation import generate, sample
from needle.models import GPT, LanguageModel

SHARES = np.array([0.1, 0.4, 0.05, 0.25, 0.2])
LOGITS = np.log(SHARES) + 3


def frequencies(**options):
    rng = np.random.default_rng(0)
    ids = sample(np.broadcast_to(LOGITS, (20_000, 5)), rng=rng, **options)
    return np.bincount(ids, minlength=5) / 20_000


def normalised(weights):
    return weights / weights.sum()


# -- sample --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "shares"),
    [
        ({}, SHARES),
        ({"temperature": 0.5}, normalised(SHARES**2)),
        ({"temperature": 4}, normalised(SHARES**0.25)),
        ({"top_k": 2}, normalised(SHARES * [0, 1, 0, 1, 0])),
        ({"top_k": 5}, SHARES),
        ({"top_k": 50}, SHARES),
        ({"top_p": 0.6}, normalised(SHARES * [0, 1, 0, 1, 0])),
        ({"top_p": 0.65}, normalised(SHARES * [0, 1, 0, 1, 0])),  # 0.4 + 0.25 reach it
        ({"top_p": 0.66}, normalised(SHARES * [0, 1, 0, 1, 1])),
        ({"top_p": 0.85}, normalised(SHARES * [0, 1, 0, 1, 1])),
        ({"top_p": 0.94}, normalised(SHARES * [1, 1, 0, 1, 1])),
        ({"top_p": 0.96}, SHARES),
        ({"top_p": 1}, SHARES),
        ({"top_k": 3, "top_p": 0.45}, np.eye(5)[1]),  # of 0.85: 0.4 is more than 45 %
        ({"top_k": 3, "top_p": 0.5}, normalised(SHARES * [0, 1, 0, 1, 0])),
        ({"temperature": 0.5, "top_p": 0.55}, np.eye(5)[1]),  # of 0.275: 0.16 is more than 55 %
    ],
)
def test_ids_come_as_often_as_their_probability_says(options, shares):
    np.testing.assert_allclose(frequencies(**options), shares, atol=0.015)
    assert (frequencies(**options)[shares == 0] == 0).all()


@pytest.mark.parametrize(
    "options", [{"temperature": 0}, {"top_k": 1}, {"top_p": 0}, {"temperature": 1e-300}]
)
def test_only_the_most_likely_id_is_left(options):
    assert frequencies(**options).tolist() == [0, 1, 0, 0, 0]


def test_equal_logits_under_the_filters():
    logits = np.array([1.0, 2.0, 2.0, 2.0])
    assert sample(logits, temperature=0) == 1
    rng = np.random.default_rng(0)
    # as likely as the second is as likely as the first: all three stay
    assert {int(sample(logits, top_k=2, rng=rng)) for _ in range(100)} == {1, 2, 3}
    # two of three equal ones reach a half: the first two
    assert {int(sample(logits, top_p=0.5, rng=rng)) for _ in range(100)} == {1, 2}


@pytest.mark.parametrize("shape", [(), (3,), (2, 3), (0,)])
def test_one_id_for_each_row(shape):
    logits = np.random.randn(*shape, 7).astype("float32")
    for options in ({}, {"temperature": 0}, {"top_k": 3, "top_p": 0.7}):
        ids = sample(tensor(logits), **options)
        assert isinstance(ids, np.ndarray) and ids.shape == shape and ids.dtype == np.int64
    np.testing.assert_array_equal(sample(logits, temperature=0), logits.argmax(-1))


def test_draws_follow_the_generator_or_the_global_stream():
    logits = np.zeros((50, 1000))
    drawn = [sample(logits, rng=np.random.default_rng(seed)) for seed in (1, 1, 2)]
    assert (drawn[0] == drawn[1]).all() and (drawn[0] != drawn[2]).any()
    np.random.seed(1)
    first = sample(logits)
    np.random.seed(1)
    assert (sample(logits) == first).all()


def test_what_is_impossible_is_never_drawn_and_large_logits_do_not_overflow():
    logits = np.array([-np.inf, 1e30, -np.inf, 1e30])
    assert {int(i) for i in sample(np.tile(logits, (200, 1)))} == {1, 3}
    assert {int(i) for i in sample(np.tile(logits, (200, 1)), temperature=1e-5)} == {1, 3}


class EndOfRange(np.random.RandomState):
    """Draws the largest number below 1."""

    def random(self, size=None):
        return np.full(size, 1 - 2**-53)


def test_the_largest_draw_takes_the_last_possible_id():
    logits = np.append(np.random.randn(1000), [-np.inf] * 3)
    assert sample(logits, rng=EndOfRange()) == 999


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": -1}, "expected temperature of 0 or more, got -1"),
        ({"temperature": float("nan")}, "expected temperature of 0 or more, got nan"),
        ({"temperature": "hot"}, "expected temperature of 0 or more, got 'hot'"),
        ({"top_k": 0}, "expected top_k of 1 or more, got 0"),
        ({"top_k": 2.5}, r"expected top_k of 1 or more, got 2\.5"),
        ({"top_p": 1.5}, r"expected top_p in \[0, 1\], got 1\.5"),
        ({"top_p": -0.5}, r"expected top_p in \[0, 1\], got -0\.5"),
        ({"rng": 7}, r"expected rng to be a numpy.random.Generator, got int 7\. Make one of a se"),
    ],
)
def test_options_outside_their_range_are_refused(options, message):
    with pytest.raises(OptionError, match=f"sample: {message}"):
        sample(LOGITS, **options)
    with pytest.raises(OptionError, match=f"generate: {message}"):
        generate(Counter(), [1], 3, **options)


@pytest.mark.parametrize("logits", [[0, np.nan], [0, np.inf], [-np.inf] * 2, [[0, 1], [np.nan, 0]]])
def test_logits_that_are_no_numbers_are_refused(logits):
    with pytest.raises(NonFiniteError, match="expected a largest logit that is finite, got"):
        sample(np.array(logits))


@pytest.mark.parametrize("logits", [3.0, np.zeros((2, 0))])
def test_no_ids_to_choose_from_are_refused(logits):
    with pytest.raises(ShapeError, match=r"sample: expected logits \[\.\.\., V\], got float64"):
        sample(logits)


# -- generate ------------------------------------------------------------------------------------


class Counter(nn.Module):
    """After id i comes i + 1, modulo 10; remembers what it was asked and in which mode."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(np.zeros(1))
        self.inside = nn.Dropout(0.5)
        self.asked = []

    def note(self, ids):
        assert not self.training and not self.inside.training
        self.asked.append(ids.numpy().tolist())

    def logits(self, ids):
        result = ndl.Tensor(np.eye(10)[(ids.numpy().astype(int) + 1) % 10]) + self.weight
        assert not result.requires_grad
        return result


class Recurrent(Counter):
    def forward(self, x, h=None):
        self.note(x)
        logits = self.logits(x).reshape((x.size, 10))
        return logits, ("state", 0 if h is None else h[1] + 1)


class Window(Counter):
    context = 4

    def forward(self, ids, cache=None):
        self.note(ids)
        assert ids.shape[1] + (cache.length if cache else 0) <= self.context
        if cache is not None:
            cache.length += ids.shape[1]
        return self.logits(ids)


class Cache:
    length = 0


class Cached(Window):
    def new_cache(self):
        return Cache()


def greedy(model, prompt=(5, 6), max_new=6, **options):
    return list(generate(model, prompt, max_new, temperature=0, **options))


@pytest.mark.parametrize("kind", [Recurrent, Window, Cached])
def test_every_kind_of_model_goes_on_from_the_prompt(kind):
    ids = greedy(kind())
    assert ids == [7, 8, 9, 0, 1, 2]
    assert all(type(i) is int for i in ids)


def test_a_recurrent_model_reads_each_id_once_in_columns():
    model = Recurrent()
    greedy(model, max_new=3)
    assert model.asked == [[[5], [6]], [[7]], [[8]]]


def test_a_model_with_a_context_reads_a_window_that_slides():
    model = Window()
    greedy(model, max_new=4)
    assert model.asked == [[[5, 6]], [[5, 6, 7]], [[5, 6, 7, 8]], [[6, 7, 8, 9]]]


def test_a_model_with_a_cache_reads_new_ids_until_the_context_is_full():
    model = Cached()
    greedy(model, max_new=5)
    assert model.asked == [[[5, 6]], [[7]], [[8]], [[6, 7, 8, 9]], [[7, 8, 9, 0]]]


@pytest.mark.parametrize("kind", [Window, Cached])
def test_of_a_long_prompt_the_end_is_read(kind):
    model = kind()
    assert greedy(model, prompt=range(8), max_new=1) == [8]
    assert model.asked == [[[4, 5, 6, 7]]]


def test_modes_are_restored_between_ids_and_the_graph_stays_on():
    model = Recurrent()
    model.train()
    model.inside.eval()  # a part that was frozen by hand stays so
    for _ in generate(model, [1], 3):
        assert model.training and not model.inside.training
        assert (model.weight * 2).requires_grad
    assert len(model.asked) == 3


def test_modes_are_restored_after_an_error():
    model = Window()
    model.context = 0
    with pytest.raises(AssertionError):
        greedy(model)
    assert model.training


def test_ids_come_one_by_one():
    model = Recurrent()
    stream = generate(model, [1], 100, temperature=0)
    assert model.asked == []
    assert [next(stream), next(stream)] == [2, 3]
    assert len(model.asked) == 2


@pytest.mark.parametrize("stop", [9, np.int64(9), {9, 4}, [9], lambda new: sum(new) > 20])
def test_the_id_that_ends_it_is_the_last(stop):
    assert greedy(Recurrent(), stop=stop) == [7, 8, 9]


def test_nothing_ends_it_but_the_number_of_ids():
    assert greedy(Recurrent(), stop=[]) == greedy(Recurrent()) == [7, 8, 9, 0, 1, 2]
    assert greedy(Recurrent(), max_new=0) == []


def test_a_prompt_may_be_a_tensor_and_is_not_changed():
    prompt = ndl.Tensor([5.0, 6.0])
    assert greedy(Recurrent(), prompt=prompt, max_new=2) == [7, 8]
    assert prompt.numpy().tolist() == [5, 6]


@pytest.mark.parametrize("kind", ["rnn", "lstm", "gru", "transformer"])
def test_a_language_model_goes_on_as_from_all_ids_at_once(kind):
    model = LanguageModel(8, 12, 16, 2, seq_model=kind, seq_len=6)
    ids = [3, 1, 4]
    for new in generate(model, ids.copy(), 8, temperature=0):
        seen = ids[-6:] if kind == "transformer" else ids
        with ndl.no_grad():
            model.eval()
            logits, _ = model(ndl.Tensor(np.array(seen)[:, None], dtype="int64"))
        assert new == logits.numpy()[-1].argmax()
        ids.append(new)


@pytest.mark.parametrize("positions", ["learned", "rotary"])
def test_gpt_with_its_cache_goes_on_as_without(positions):
    model = GPT(12, context=6, layers=2, heads=2, width=16, dropout=0.5, positions=positions)
    model.apply(_spread)
    ids = [3, 1, 4]
    for new in generate(model, ids.copy(), 8, temperature=0):
        assert model.training
        model.eval()
        with ndl.no_grad():
            logits = model(ndl.Tensor(np.array(ids[-6:])[None], dtype="int64"))
        model.train()
        assert new == logits.numpy()[0, -1].argmax()
        ids.append(new)


def _spread(module):
    """Weights so large that the ids depend on each other."""
    for parameter in vars(module).values():
        if isinstance(parameter, nn.Parameter):
            parameter.data = parameter.detach() * 5


@pytest.mark.nd_mode
def test_ids_go_where_the_model_is():
    for model in (
        GPT(12, context=4, layers=1, heads=2, width=16, device=ndl.cpu_numpy()),
        LanguageModel(8, 12, 16, seq_model="lstm", device=ndl.cpu_numpy()),
    ):
        assert len(list(generate(model, [1, 2], 6))) == 6


def test_the_same_generator_gives_the_same_text():
    model = GPT(12, context=6, layers=1, heads=2, width=16)
    runs = [
        list(generate(model, [1], 20, top_p=0.9, rng=np.random.default_rng(seed)))
        for seed in (1, 1, 2)
    ]
    assert runs[0] == runs[1] != runs[2]


# -- bad input -----------------------------------------------------------------------------------


@pytest.mark.parametrize("prompt", [[], 3, [[1, 2]]])
def test_a_prompt_that_is_no_row_of_ids_is_refused_at_once(prompt):
    with pytest.raises(ShapeError, match=r"generate: expected a prompt of ids \[T\], one or more,"):
        generate(Recurrent(), prompt, 3)


def test_other_bad_arguments_are_refused_at_once():
    for prompt in ([0.5], ["a"], [np.nan], [True]):
        with pytest.raises(OptionError, match=r"expected a prompt of whole numbers, got "):
            generate(Recurrent(), prompt, 3)
    with pytest.raises(OptionError, match="expected max_new of 0 or more, got -1"):
        generate(Recurrent(), [1], -1)
    with pytest.raises(OptionError, match=r"generate: expected a module, got int 3\."):
        generate(3, [1], 3)
    with pytest.raises(OptionError, match=r"expected stop to be ids or a function, got .*'end'"):
        generate(Recurrent(), [1], 3, stop=["end"])


def test_a_model_of_neither_kind_is_named():
    class Plain(Counter):
        def forward(self, x, h=None):
            return self.logits(x)

    with pytest.raises(OptionError, match=r"a model that gives logits and a state, or one with a"):
        list(generate(Plain(), [1], 3))


def test_a_module_that_takes_no_state_is_refused_at_once():
    with pytest.raises(OptionError, match=r"called with ids and a state, got Linear\.$"):
        generate(nn.Linear(3, 3), [1], 3)


@pytest.mark.parametrize("model", [GPT(12, 4, 1, 2, 8), LanguageModel(8, 12, 8)])
@pytest.mark.parametrize("wrong", [12, -1])
def test_ids_outside_the_vocabulary_are_refused_at_once(model, wrong):
    with pytest.raises(OutOfRangeError, match=rf"a prompt of ids in 0\.\.11, got {wrong}\.$"):
        generate(model, [1, wrong], 3)
    with pytest.raises(OutOfRangeError, match=rf"a never of ids in 0\.\.11, got {wrong}\.$"):
        generate(model, [1], 3, never=[wrong])


def test_ids_that_are_never_to_be_drawn_are_not():
    model = GPT(4, 4, 1, 2, 8)
    assert set(generate(model, [0], 60, temperature=5, never=(0, 2))) == {1, 3}
    with pytest.raises(OptionError, match=r"expected never to be ids, got int 3\.$"):
        generate(model, [0], 3, never=3)


@pytest.mark.parametrize("logits", [["a"], [1j, 2j], [None], [True, False], [[1.0], [1.0, 2.0]]])
def test_logits_of_other_types_are_refused(logits):
    with pytest.raises(
        OptionError, match=r"^sample: expected logits \[\.\.\., V\] of numbers, got "
    ):
        sample(logits)


@pytest.mark.parametrize("option", ["temperature", "top_k", "top_p"])
def test_bools_are_no_numbers(option):
    with pytest.raises(OptionError, match=f"sample: expected a number for {option}, got True"):
        sample([1.0, 2.0], **{option: True})
    with pytest.raises(OptionError, match="expected max_new of 0 or more, got True"):
        generate(GPT(4, 4, 1, 2, 8), [0], True)

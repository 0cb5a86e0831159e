"""Errors about the arguments of layers: each names the class that the user wrote."""

from __future__ import annotations

import inspect

import pytest

from needle import nn
from needle.errors import DTypeError

CLASSES = [v for v in vars(nn).values() if inspect.isclass(v) and issubclass(v, nn.Module)]


@pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.__name__)
def test_errors_about_arguments_name_the_class(kind):
    assert kind.__init__.__qualname__ == f"{kind.__name__}.__init__"
    assert kind.forward.__qualname__ == f"{kind.__name__}.forward"
    with pytest.raises(TypeError, match=rf"^{kind.__name__}\.__init__\(\) ") as caught:
        kind(no_such_option=1)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: nn.Tanh(1), "Tanh.__init__() takes 1 positional argument but 2 were given"),
        (lambda: nn.ReLU(True), "ReLU.__init__() takes 1 positional argument but 2 were given"),
        (
            lambda: nn.ReLU(inplace=True),
            "ReLU.__init__() got an unexpected keyword argument 'inplace'",
        ),
        (
            lambda: nn.Softmax(dim=1),
            "Softmax.__init__() got an unexpected keyword argument 'dim'",
        ),
        (
            lambda: nn.BatchNorm2d(num_features=8),
            "BatchNorm2d.__init__() got an unexpected keyword argument 'num_features'",
        ),
        (
            lambda: nn.ReLU()(),
            "ReLU.forward() missing 1 required positional argument: 'x'",
        ),
    ],
)
def test_options_that_only_others_have_are_told_with_the_layers_name(make, message):
    with pytest.raises(TypeError) as caught:
        make()
    assert str(caught.value).startswith(message)  # newer Pythons add a suggestion


def test_a_layer_of_ones_own_takes_its_init_from_where_python_says():
    class Counted(nn.Module):
        def __init__(self, count):
            super().__init__()
            self.count = count

    class Plain(nn.Module):
        pass

    class Both(Plain, Counted):
        pass

    assert Both(3).count == 3
    assert type(Plain().training) is bool


def test_methods_of_a_private_base_of_ones_own_stay_where_they_are():
    class _Base(nn.Module):
        def forward(self):
            return "base"

    class Plain(_Base):
        pass

    class Other(_Base):
        def forward(self):
            return "other"

    class Both(Plain, Other):
        pass

    assert Plain.forward is _Base.forward
    assert Both()() == "other"


def test_a_long_list_in_place_of_a_tensor_is_shown_by_its_beginning():
    with pytest.raises(DTypeError) as error:
        nn.Linear(100, 2)([[1.0] * 100] * 64)
    row = "(float 1.0, float 1.0, float 1.0, ... 100 in all)"
    assert f"got ({row}, {row}, {row}, ... 64 in all). Wrap it first" in str(error.value)

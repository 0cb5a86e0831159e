"""The watch over calls: what is met, and what becomes of what is raised then."""

from __future__ import annotations

import io
import math
import sys
import threading
from types import FrameType
from typing import Any

import pytest

from needle.runtime.watch import definition_of, watching_calls

pytestmark = pytest.mark.nd_mode


def test_built_in_functions_and_methods_are_met_whatever_they_are_bound_to() -> None:
    met: list[Any] = []
    definitions = [definition_of(len), definition_of(io.StringIO().write)]
    text = io.StringIO()
    with watching_calls(definitions, [], met.append):
        assert len([1, 2]) == 2
        text.write("here")
        repr(text)
    assert met == [len, text.write]
    assert sys.getprofile() is None


def test_codes_and_frames_that_are_entered() -> None:
    def entered() -> int:
        return 1

    def counting() -> Any:
        yield from (1, 2)

    numbers, others = counting(), counting()
    met: list[FrameType] = []
    with watching_calls([], [entered.__code__, numbers.gi_frame], met.append):
        assert entered() == next(numbers) == next(others) == 1
    assert [frame.f_code.co_name for frame in met] == ["entered", "counting"]


def test_what_is_raised_comes_in_the_place_of_the_call() -> None:
    def refuse(called: Any) -> None:
        raise ValueError(called.__name__)

    with watching_calls([definition_of(math.gamma)], [], refuse):
        for _ in range(2):
            with pytest.raises(ValueError, match="gamma"):
                math.gamma(1.0)
    assert math.gamma(1.0) == 1


def test_other_threads_are_not_watched() -> None:
    met: list[Any] = []
    found: list[float] = []
    with watching_calls([definition_of(math.gamma)], [], met.append):
        other = threading.Thread(target=lambda: found.append(math.gamma(1.0)))
        other.start()
        other.join()
    assert found == [1] and met == []

"""The arena of programs: lent to one after the other, as large as those need that there are."""

from __future__ import annotations

import pytest

from needle.runtime.arenas import Arenas
from needle.runtime.call import runtime_function

pytestmark = pytest.mark.nd_mode


class Program:
    """Somebody who needs memory."""

    def __init__(self, arenas: Arenas, nbytes: int) -> None:
        self.arenas, self.nbytes = arenas, nbytes
        arenas.need(self, nbytes)

    def run(self) -> int:
        """The bytes that it was lent."""
        memory = self.arenas.take(self.nbytes)
        self.arenas.give(memory)
        return int(runtime_function("size")(memory))


def test_one_arena_serves_all() -> None:
    arenas = Arenas()
    small, large = Program(arenas, 1000), Program(arenas, 5000)
    assert (small.run(), large.run(), small.run()) == (1000, 5000, 5000)
    assert arenas.kept == 5000


def test_two_at_the_same_time_leave_the_larger_one() -> None:
    arenas = Arenas()
    programs = Program(arenas, 1000), Program(arenas, 5000)
    lent = [arenas.take(program.nbytes) for program in programs]
    for memory in lent:
        arenas.give(memory)
    assert arenas.kept == 5000


def test_what_a_program_needed_that_is_gone_goes_too() -> None:
    arenas = Arenas()
    small, large = Program(arenas, 1000), Program(arenas, 5000)
    assert large.run() == 5000
    del large
    assert arenas.kept == 0
    assert small.run() == arenas.kept == 1000


def test_what_is_lent_meanwhile_is_not_taken_back() -> None:
    arenas = Arenas()
    small, large = Program(arenas, 1000), Program(arenas, 5000)
    large.run()
    lent = arenas.take(small.nbytes)
    del large
    arenas.give(lent)
    assert arenas.kept == 0

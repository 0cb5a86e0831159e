"""When each step runs: in stages, each as early as what it reads, and overwrites, allows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from needle.program.steps import Buffer, Step, listing

if TYPE_CHECKING:
    from needle.program.lower import Lowered

__all__ = ["Schedule", "schedule"]


def schedule(lowered: Lowered) -> Schedule:
    """The steps in stages, each as early as it can be."""
    return Schedule(lowered.steps, lowered.in_place)


class Schedule:
    """Stages of steps that do not depend on each other.

    steps     each after those whose results it reads
    in_place  buffers that may share memory with others, which hold what was there before; None:
              with memory of which no step knows

    stages    the steps
    granted   those of `in_place` whose old contents nobody reads when they are written, and that
              are written when no fault of a value can come any more
    """

    def __init__(self, steps: Sequence[Step], in_place: Mapping[Buffer, Buffer | None]) -> None:
        self.steps, self.in_place = list(steps), dict(in_place)
        self._ahead: list[set[int]] = [set() for _ in steps]
        self._closure = [0] * len(steps)
        self._level = [0] * len(steps)
        self._checks = {number for number, step in enumerate(steps) if step.error}
        self._readers: dict[Buffer, list[int]] = {}
        self._writers: dict[Buffer, list[int]] = {}
        for number, step in enumerate(steps):
            self._take(number, step)
        self.granted = {new for new, old in in_place.items() if self._grant(new, old)}
        self.stages = self._in_stages()

    def __str__(self) -> str:
        """The steps, stage by stage."""
        names: dict[Buffer, str] = {}
        return "\n".join(f"stage {i}:\n{listing(row, names)}" for i, row in enumerate(self.stages))

    def _take(self, number: int, step: Step) -> None:
        ahead = self._ahead[number]
        for place in step.places_read:
            ahead |= set(self._writers.get(place.buffer, ()))
        for place in step.places_written:  # over an earlier version
            ahead |= set(self._writers.get(place.buffer, ()))
            ahead |= set(self._readers.get(place.buffer, ()))
        ahead.discard(number)
        for other in ahead:
            self._closure[number] |= self._closure[other] | 1 << other
            self._level[number] = max(self._level[number], self._level[other] + 1)
        for place in step.places_read:
            self._readers.setdefault(place.buffer, []).append(number)
        for place in step.places_written:
            self._writers.setdefault(place.buffer, []).append(number)

    def _grant(self, new: Buffer, old: Buffer | None) -> bool:
        writers = set(self._writers.get(new, ()))
        if len(writers) != 1:
            return False
        (writer,) = writers
        if self.steps[writer].error:
            return False  # it writes before all of it has been looked at
        first = set(self._checks)
        if old is None:
            if any(self._level[other] >= self._level[writer] for other in first):
                return False  # it would wait for them, and what it reads be kept meanwhile
        else:
            first |= set(self._readers.get(old, ())) - {writer}
        if any(self._closure[other] >> writer & 1 for other in first):
            return False
        if not self.steps[writer].may_overwrite(old, new):
            return False
        self._put_ahead(writer, first)
        return True

    def _put_ahead(self, number: int, others: set[int]) -> None:
        self._ahead[number] |= others
        more = 0
        for other in others:
            more |= self._closure[other] | 1 << other
        if more & ~self._closure[number]:
            for i, closure in enumerate(self._closure):
                if i == number or closure >> number & 1:
                    self._closure[i] = closure | more

    def _in_stages(self) -> list[list[Step]]:
        stage_of = self._earliest()
        self._put_off(stage_of)
        stages: list[list[Step]] = [[] for _ in range(1 + max(stage_of, default=-1))]
        for number, stage in enumerate(stage_of):
            stages[stage].append(self.steps[number])
        return stages

    def _earliest(self) -> list[int]:
        """The stage of each step, by what has to be ahead of it."""
        stage_of = [-1] * len(self.steps)
        for root in range(len(self.steps)):
            stack = [root]
            while stack:
                number = stack[-1]
                waiting = [other for other in self._ahead[number] if stage_of[other] < 0]
                if stage_of[number] < 0 and waiting:
                    stack += waiting
                    continue
                stack.pop()
                stage = 1 + max([stage_of[other] for other in self._ahead[number]], default=-1)
                stage_of[number] = stage
        return stage_of

    def _put_off(self, stage_of: list[int]) -> None:
        """Have what is made for later made later, where all that it reads is there still.

        Zeros around a picture in the gradient of a convolution, for instance: the memory of what is
        made too early is nobody else's meanwhile.
        """
        behind: list[list[int]] = [[] for _ in self.steps]
        for number, ahead in enumerate(self._ahead):
            for other in ahead:
                behind[other].append(number)
        for number in reversed(range(len(self.steps))):
            if self.steps[number].error or not behind[number]:
                continue
            stage = min([stage_of[other] for other in behind[number]]) - 1
            if stage > stage_of[number] and self._is_there(number, stage, stage_of):
                stage_of[number] = stage

    def _is_there(self, number: int, stage: int, stage_of: Sequence[int]) -> bool:
        """Whether what a step reads is kept until that stage anyway, as others read it then."""
        for place in self.steps[number].places_read:
            readers = [other for other in self._readers[place.buffer] if other != number]
            is_kept = any(stage_of[other] >= stage for other in readers)
            if place.buffer.in_arena and not is_kept:
                return False
        return True

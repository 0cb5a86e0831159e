"""Loops and branches of a function being written."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from needle.compiler.target import Target
from needle.compiler.types import I64
from needle.compiler.value import Value

__all__ = ["Flow"]


class Flow:
    """The part of `code.Code` that decides what runs when."""

    builder: Any
    target: Target
    if TYPE_CHECKING:  # Code has them
        as_value: Any
        minimum: Any
        row: Any
        wrap: Any

    @contextmanager
    def loop(self, start: Any, stop: Any, step: Any = 1) -> Iterator[Value]:
        """for i in range(start, stop, step), with an i64 that grows."""
        start, stop, step = [self.as_value(x, I64) for x in (start, stop, step)]
        head = self.builder.append_basic_block("loop")
        body = self.builder.append_basic_block("body")
        after = self.builder.append_basic_block("after")
        entry = self.builder.block
        self.builder.branch(head)
        self.builder.position_at_end(head)
        index = self.builder.phi(I64.ir)
        index.add_incoming(start.ir, entry)
        self.builder.cbranch(self.builder.icmp_signed("<", index, stop.ir), body, after)
        self.builder.position_at_end(body)
        yield self.wrap(index, I64)
        following = self.builder.add(index, step.ir, flags=["nsw"])
        index.add_incoming(following, self.builder.block)
        self.builder.branch(head)
        self.builder.position_at_end(after)

    @contextmanager
    def when(self, condition: Value, likely: bool | None = None) -> Iterator[None]:
        """if condition: ..."""
        with self.builder.if_then(condition.ir, likely=likely):
            yield

    def either(
        self, condition: Value, then: Callable[[], object], otherwise: Callable[[], object]
    ) -> None:
        """if condition: then() else: otherwise()."""
        with self.builder.if_else(condition.ir) as (if_true, if_false):
            with if_true:
                then()
            with if_false:
                otherwise()

    def strip(
        self,
        start: Value,
        stop: Value,
        lanes: int,
        body: Callable[[Value, int, Value | None], None],
        masked: bool = True,
    ) -> None:
        """Walk start..stop in vectors: body(index, lanes, mask), then what is left.

        The rest is one masked vector where the target has masks and `masked` allows it (the mask
        is a Value then), else a scalar loop (lanes 1).
        """
        if lanes == 1:
            with self.loop(start, stop) as i:
                body(i, 1, None)
            return
        whole = start + ((stop - start) // lanes) * lanes
        with self.loop(start, whole, lanes) as i:
            body(i, lanes, None)
        if masked and self.target.has_masks:
            with self.when(whole < stop):
                numbers = self.row(range(lanes), I64)
                body(whole, lanes, numbers < (stop - whole))
        else:
            with self.loop(whole, stop) as i:
                body(i, 1, None)

    def share(self, count: Value, task: Value, tasks: Value, grain: int = 1) -> tuple[Value, Value]:
        """What falls to one of `tasks` of 0..count: begin and end, in multiples of `grain`."""
        blocks = (count + (grain - 1)) // grain
        begin = ((blocks * task) // tasks) * grain
        end = ((blocks * (task + 1)) // tasks) * grain
        return self.minimum(begin, count), self.minimum(end, count)

    @contextmanager
    def repeat_while(self, condition: Callable[[], Value]) -> Iterator[None]:
        """while condition(): ..."""
        head = self.builder.append_basic_block("while")
        body = self.builder.append_basic_block("body")
        after = self.builder.append_basic_block("after")
        self.builder.branch(head)
        self.builder.position_at_end(head)
        self.builder.cbranch(condition().ir, body, after)
        self.builder.position_at_end(body)
        yield
        self.builder.branch(head)
        self.builder.position_at_end(after)

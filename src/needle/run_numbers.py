"""Numbers that a compiled function works out again at each call: learning rates, step counts.

While a function is traced, a `RunNumber` stands for such a number. It has the value of that moment
and remembers how it came about; arithmetic gives others. Where it meets an array it stays one, and
the program is given its value at each run. Whoever asks whether it is true, or compares it, gets an
answer that is noted: it has to be the same at each call, or the function is traced again.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

__all__ = ["Counting", "Numbers", "RunNumber", "value_of"]


class Counting:
    """Base of what keeps numbers that change from call to call: optimisers, schedules, averages."""

    def counted(self) -> list[dict[Any, Any]]:
        """What holds them: while a function is traced a `RunNumber` stands for each."""
        raise NotImplementedError


class RunNumber:
    """A number of a traced function.

    value     what it is while the function is traced
    source    Python's spelling of it, of `n[0], n[1], ...`
    numbers   the record that it belongs to
    """

    __slots__ = ("numbers", "source", "value")

    is_fixed = True  # an array made of it has the same values at each call: see `fixed`

    def __init__(self, numbers: Numbers, source: str, value: Any) -> None:
        self.numbers, self.source, self.value = numbers, source, value

    def __repr__(self) -> str:
        return f"RunNumber({self.value})"

    def __str__(self) -> str:
        return str(self.plain())

    def __format__(self, spec: str) -> str:
        return format(self.plain(), spec)

    def plain(self) -> Any:
        """The number that it is now; the function is traced again where it is another."""
        return float(self) if isinstance(self.value, float) else int(self)

    # -- arithmetic: other such numbers ----------------------------------------------------------

    def _with(self, spelling: str, function: Callable[..., Any], *others: Any) -> Any:
        if not all(isinstance(x, (RunNumber, int, float)) for x in others):
            return NotImplemented
        operands = (self, *others)
        value = function(*map(value_of, operands))
        return self.numbers.named(spelling.format(*map(_spelt, operands)), value)

    def _reversed(self, spelling: str, function: Callable[..., Any], other: Any) -> Any:
        if not isinstance(other, (int, float)):
            return NotImplemented
        value = function(other, self.value)
        return self.numbers.named(spelling.format(_spelt(other), self.source), value)

    def __add__(self, other: Any) -> Any:
        return self._with("({} + {})", operator.add, other)

    def __sub__(self, other: Any) -> Any:
        return self._with("({} - {})", operator.sub, other)

    def __mul__(self, other: Any) -> Any:
        return self._with("({} * {})", operator.mul, other)

    def __truediv__(self, other: Any) -> Any:
        return self._with("({} / {})", operator.truediv, other)

    def __pow__(self, other: Any) -> Any:
        return self._with("({} ** {})", operator.pow, other)

    def __mod__(self, other: Any) -> Any:
        return self._with("({} % {})", operator.mod, other)

    def __floordiv__(self, other: Any) -> Any:
        return self._with("({} // {})", operator.floordiv, other)

    def __radd__(self, other: Any) -> Any:
        return self._reversed("({} + {})", operator.add, other)

    def __rsub__(self, other: Any) -> Any:
        return self._reversed("({} - {})", operator.sub, other)

    def __rmul__(self, other: Any) -> Any:
        return self._reversed("({} * {})", operator.mul, other)

    def __rtruediv__(self, other: Any) -> Any:
        return self._reversed("({} / {})", operator.truediv, other)

    def __rpow__(self, other: Any) -> Any:
        return self._reversed("({} ** {})", operator.pow, other)

    def __neg__(self) -> Any:
        return self._with("(-{})", operator.neg)

    def __abs__(self) -> Any:
        return self._with("abs({})", abs)

    def __pos__(self) -> Any:
        return self

    def __rmod__(self, other: Any) -> Any:
        return self._reversed("({} % {})", operator.mod, other)

    def __rfloordiv__(self, other: Any) -> Any:
        return self._reversed("({} // {})", operator.floordiv, other)

    def __divmod__(self, other: Any) -> Any:
        return self // other, self % other

    def __floor__(self) -> Any:
        return self._with("math.floor({})", math.floor)

    def __ceil__(self) -> Any:
        return self._with("math.ceil({})", math.ceil)

    def __trunc__(self) -> Any:
        return self._with("math.trunc({})", math.trunc)

    def __round__(self, digits: int | None = None) -> Any:
        return self._with(f"round({{}}, {digits})", partial(round, ndigits=digits))

    def sqrt(self) -> Any:
        """Its square root."""
        return self._with("math.sqrt({})", math.sqrt)

    # -- questions: Python's own answers, which are noted ------------------------------------------

    def _ask(self, spelling: str, function: Callable[..., Any], *others: Any) -> Any:
        operands = (self, *others)
        if not all(isinstance(x, (RunNumber, int, float)) for x in others):
            return NotImplemented
        answer = function(*map(value_of, operands))
        if self.numbers.listens:
            self.numbers.answers[spelling.format(*map(_spelt, operands))] = answer
        return answer

    def __bool__(self) -> bool:
        return self._ask("bool({})", bool)  # type: ignore[no-any-return]

    def __float__(self) -> float:
        return self._ask("float({})", float)  # type: ignore[no-any-return]

    def __int__(self) -> int:
        return self._ask("int({})", int)  # type: ignore[no-any-return]

    def __index__(self) -> int:
        return self._ask("operator.index({})", operator.index)  # type: ignore[no-any-return]

    def __eq__(self, other: object) -> Any:
        return self._ask("({} == {})", operator.eq, other)

    def __ne__(self, other: object) -> Any:
        return self._ask("({} != {})", operator.ne, other)

    def __lt__(self, other: Any) -> Any:
        return self._ask("({} < {})", operator.lt, other)

    def __le__(self, other: Any) -> Any:
        return self._ask("({} <= {})", operator.le, other)

    def __gt__(self, other: Any) -> Any:
        return self._ask("({} > {})", operator.gt, other)

    def __ge__(self, other: Any) -> Any:
        return self._ask("({} >= {})", operator.ge, other)

    def __hash__(self) -> int:
        return hash(int(self) if isinstance(self.value, int) else float(self))


class Numbers:
    """The numbers of one traced function.

    given    what `n` holds: the values from outside, in the order in which they were named
    answers  the questions that were asked, by their spelling, with the answers
    listens  whether questions are noted still: not when the function has been traced
    """

    def __init__(self) -> None:
        self.given: list[Any] = []
        self.answers: dict[str, Any] = {}
        self.listens = True
        self._named: dict[str, RunNumber] = {}
        self._functions: list[Callable[..., Any]] = []

    def new(self, value: Any) -> RunNumber:
        """Another number from outside."""
        self.given.append(value)
        return self.named(f"n[{len(self.given) - 1}]", value)

    def named(self, source: str, value: Any) -> RunNumber:
        """The number with that spelling."""
        found = self._named.get(source)
        if found is None:
            found = self._named[source] = RunNumber(self, source, value)
        return found

    def applied(self, function: Callable[..., Any], *arguments: Any) -> RunNumber:
        """`function(*arguments)`, which is called again at each run.

        It may raise: then nothing is run.
        """
        if function not in self._functions:
            self._functions.append(function)
        spelled = ", ".join(map(_spelt, arguments))
        value = function(*map(value_of, arguments))
        return self.named(f"f[{self._functions.index(function)}]({spelled})", value)

    def release(self) -> None:
        """Forget the numbers, which know this record, by their spelling."""
        self._named.clear()

    def asks(self) -> Callable[[Sequence[Any]], bool]:
        """Whether all answers are the same for other given values."""
        terms = [f"{spelling} == {answer!r}" for spelling, answer in self.answers.items()]
        return self._compiled(" and ".join(terms) or "True")

    def evaluates(self, numbers: Sequence[RunNumber]) -> Callable[[Sequence[Any]], Any]:
        """The values of some numbers, as a tuple, for other given values."""
        return self._compiled("(" + "".join(f"{number.source}, " for number in numbers) + ")")

    def _compiled(self, expression: str) -> Callable[[Sequence[Any]], Any]:
        names = {
            "math": math, "operator": operator, "inf": math.inf, "nan": math.nan,
            "f": self._functions,
        }  # fmt: skip
        return eval(f"lambda n: {expression}", names)  # type: ignore[no-any-return]


def _spelt(number: Any) -> str:
    return number.source if isinstance(number, RunNumber) else repr(number)


def value_of(number: Any) -> Any:
    """The value that a number has now."""
    return number.value if isinstance(number, RunNumber) else number

"""The device `trace`: nothing is computed; what would have been is written down.

An array on it has a shape and a dtype, and in place of data the `Node` that stands for it. So
`compute()` of an operator, run on such arrays, tells the shape and dtype of its result at once, and
leaves a record of the primitives it consists of.

Writes into an array (`pad`, `concatenate`) are recorded as new versions: its memory holds the
newest node, an "assign" being all of the memory after the write, and whoever reads takes the
version of that moment. So the record has no order but that of its inputs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple, NoReturn

import numpy as np
from numpy.lib.stride_tricks import as_strided

from needle.backend_ndarray.device import Device, Run, Scalar
from needle.backend_ndarray.layout import Layout
from needle.backend_ndarray.ndarray import NDArray, new_array
from needle.errors import NeedleError, describe
from needle.fixed import Fixed
from needle.origins import Origin, current
from needle.run_numbers import value_of

__all__ = [
    "Memory",
    "NoValueError",
    "Node",
    "Operand",
    "TraceDevice",
    "delayed",
    "moved",
    "recorded",
    "result_layouts",
    "sorted_nodes",
    "trace",
    "traced",
]


class NoValueError(NeedleError, RuntimeError):
    """The values of a traced array were asked for."""


class Operand(NamedTuple):
    """What a primitive reads: a view of the memory that a node fills."""

    node: Node
    layout: Layout
    offset: int


class Node:
    """A primitive that was applied.

    primitive   a method of `Device`: "elementwise", "reduce", "assign", ...; or "input", an array
                from outside, "constant", an array with values, "empty", arbitrary contents, "to",
                an array of another device, "delay", a copy of its first input after the others,
                "recur", the same step again and again, and "part", what that makes
    inputs      what it reads; of "assign": the source, if it is an array, and the place
    parameters  the method's other arguments, by name; of a constant its `values`, or the `memory`
                of an array on the device traced for
    numbers     Python numbers handed over at the call
    layout      of the memory it fills, all of it
    origin      the operator that it is a part of, and whose line that was; None: not known
    """

    __slots__ = ("inputs", "layout", "numbers", "origin", "parameters", "primitive")

    def __init__(
        self,
        primitive: str,
        layout: Layout,
        inputs: tuple[Operand, ...] = (),
        parameters: dict[str, Any] | None = None,
        numbers: tuple[Any, ...] = (),
    ) -> None:
        self.primitive, self.layout = primitive, layout
        self.inputs, self.parameters, self.numbers = inputs, parameters or {}, numbers
        self.origin: Origin | None = current.origin

    def __repr__(self) -> str:
        """`subtract(1.0, float32[2]) -> float32[2]`, `sum(float32[2,3], axes=(0,)) -> float32[3]`.

        Operands are shown as they are read: broadcast, permuted.
        """
        given = dict(self.parameters)
        name, order = given.pop("name", self.primitive), given.pop("operands", self.inputs)
        numbers = [str(value_of(number)) for number in self.numbers]
        shown = [numbers.pop(0) if isinstance(x, Scalar) else _read(x) for x in order] + numbers
        hidden = ("compute", "values", "memory")
        shown += [f"{key}={value}" for key, value in given.items() if key not in hidden]
        return f"{name}({', '.join(shown)}) -> {describe(self.layout)}"


def _read(x: Operand | Layout) -> str:
    return describe(x.layout if isinstance(x, Operand) else x)


def sorted_nodes(roots: Iterable[Node]) -> list[Node]:
    """The nodes that the roots depend on, and they: each once, after what it reads."""
    begun, done = set[Node](), set[Node]()
    order: list[Node] = []
    for root in roots:
        stack = [root]
        while stack:
            node = stack.pop()
            if node not in begun:
                begun.add(node)
                stack.append(node)  # again, beneath what it reads
                for x in reversed(node.inputs):
                    if x.node not in begun:
                        stack.append(x.node)
            elif node not in done:
                done.add(node)
                order.append(node)
    return order


class Memory:
    """What a traced array and its views share: the node that made the newest contents."""

    __slots__ = ("node",)

    def __init__(self, node: Node) -> None:
        self.node = node


class TraceDevice(Device):
    """Shapes and dtypes only, and a record of what would be computed on the device `real`.

    Arrays of that device may stand beside traced ones: the record has them as constants.
    """

    name = "trace"
    has_memory = False

    def __init__(self, real: Device) -> None:
        self._real, self._hash = real, hash(("trace", real))

    @property
    def real(self) -> Device:
        return self._real

    def __repr__(self) -> str:
        return f"trace({self._real})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, TraceDevice) and other._real == self._real

    def __hash__(self) -> int:
        return self._hash

    # -- memory --------------------------------------------------------------------------------

    def empty_memory(self, layout: Layout) -> Memory:
        return Memory(Node("empty", layout))

    def adopt(self, array: np.ndarray[Any, Any]) -> Memory:
        layout = Layout.of(self, array.dtype, array.shape)
        return Memory(Node("constant", layout, parameters={"values": array}))

    def memory_size(self, layout: Layout, memory: Any) -> int:
        return memory.node.layout.nbytes // layout.itemsize  # type: ignore[no-any-return]

    def view(self, layout: Layout, memory: Any, offset: int) -> np.ndarray[Any, Any]:
        values = memory.node.parameters.get("values")
        if isinstance(values, Fixed):  # of a constant of the record, which nobody changes
            steps = [step * layout.itemsize for step in layout.strides]
            flat = values.reshape(-1)[offset:]
            return as_strided(flat, layout.shape, steps, writeable=False)
        raise _no_value(layout)

    def address(self, memory: Any) -> NoReturn:
        raise _no_value(memory.node.layout)

    # -- primitives ----------------------------------------------------------------------------

    def elementwise(
        self,
        name: str,
        inputs: Sequence[Layout | Scalar],
        compute: Sequence[np.dtype[Any]],
        out: Layout,
    ) -> Run:
        arrays = [x for x in inputs if isinstance(x, Layout)]
        operands = tuple(inputs)
        return _recorder(
            "elementwise", arrays, out, name=name, operands=operands, compute=tuple(compute)
        )

    def assign(self, source: Layout | Scalar, target: Layout) -> Run:
        arrays = [target] if isinstance(source, Scalar) else [source, target]

        def run(*arguments: Any) -> None:
            inputs = _operands(arrays, arguments)
            place = arguments[2 * len(arrays) - 2]
            numbers = arguments[2 * len(arrays) :]
            place.node = Node("assign", place.node.layout, inputs, numbers=numbers)

        return run

    def reduce(self, name: str, x: Layout, axes: tuple[int, ...], out: Layout) -> Run:
        return _recorder("reduce", [x], out, name=name, axes=axes)

    def arg_reduce(self, name: str, x: Layout, axis: int, out: Layout) -> Run:
        return _recorder("arg_reduce", [x], out, name=name, axis=axis)

    def scan(self, name: str, x: Layout, axis: int, out: Layout) -> Run:
        return _recorder("scan", [x], out, name=name, axis=axis)

    def contract(self, a: Layout, b: Layout, out: Layout, groups: tuple[int, int, int, int]) -> Run:
        return _recorder("contract", [a, b], out, groups=groups)

    def gather(self, x: Layout, indices: Sequence[Layout], axis: int, out: Layout) -> Run:
        return _recorder("gather", [x, *indices], out, axis=axis)

    def scatter_add(self, x: Layout, indices: Sequence[Layout], axis: int, out: Layout) -> Run:
        return _recorder("scatter_add", [x, *indices], out, axis=axis)

    def iota(self, out: Layout) -> Run:
        return _recorder("iota", [], out)


def _no_value(layout: Layout) -> NoValueError:
    return NoValueError(
        f"trace: expected an array with values, got {describe(layout)} without: its shape and "
        "dtype are known, its elements not yet. Use array functions only: where() for an if, "
        "maximum() and minimum() for comparisons, integer arrays for masks."
    )


def _recorder(primitive: str, layouts: Sequence[Layout], out: Layout, **parameters: Any) -> Run:
    """What a plan runs: it makes a node, and the memory that the node fills."""

    def run(*arguments: Any) -> Memory:
        numbers = arguments[2 * len(layouts) :]
        return Memory(Node(primitive, out, _operands(layouts, arguments), parameters, numbers))

    return run


def _operands(layouts: Sequence[Layout], arguments: Sequence[Any]) -> tuple[Operand, ...]:
    """The operands of a call: (memory, offset, memory, offset, ...)."""
    memories, offsets = arguments[::2], arguments[1::2]
    nodes = map(_node, memories, layouts)
    return tuple(map(Operand, nodes, layouts, offsets))


def _node(memory: Any, layout: Layout) -> Node:
    """What the memory holds now; memory of the device traced for is a constant."""
    if type(memory) is Memory:
        return memory.node
    real: Any = layout.device
    size = real.memory_size(layout, memory)
    return Node("constant", Layout.of(real, layout.dtype, (size,)), parameters={"memory": memory})


_traces: dict[Device, TraceDevice] = {}


def trace(real: Device) -> TraceDevice:
    """The device that traces what would run on `real`; of a trace, itself."""
    found = _traces.get(real)
    if found is None:
        made = real if isinstance(real, TraceDevice) else TraceDevice(real)
        found = _traces.setdefault(real, made)
    return found


def traced(like: NDArray | Layout) -> NDArray:
    """A traced array laid out like `like`: an input of the record, from outside."""
    layout = like if isinstance(like, Layout) else like._layout
    found = layout.views.get("traced")
    view, memory, offset = found or layout.remember("traced", _as_input(layout))
    array = new_array(view, Memory(Node("input", memory)))
    array._offset = offset
    return array


def _as_input(layout: Layout) -> tuple[Layout, Layout, int]:
    """The layout traced, that of the memory it needs, and where in that its first element is."""
    view = _on(trace(layout.device), layout)
    if view.compact:
        return view, view, 0
    spans = [(n - 1) * step for n, step in zip(view.shape, view.strides, strict=True)]
    memory = Layout.of(view.device, view.dtype, (1 + sum(abs(span) for span in spans),))
    return view, memory, -sum(span for span in spans if span < 0)


def recorded(array: NDArray) -> Operand:
    """A traced array as the record has it now: the last node, and how the array lies on it."""
    return Operand(_node(array._memory, array._layout), array._layout, array._offset)


def moved(array: NDArray, device: Device) -> NDArray:
    """A traced array on another device, which its trace then is of."""
    layout = Layout.of(trace(device), array.dtype, array.shape)
    return new_array(layout, Memory(Node("to", layout, (recorded(array),), {"device": device})))


def delayed(array: NDArray, others: Sequence[NDArray]) -> NDArray:
    """The same elements, known when the others are: what is computed of them is computed then.

    And it is computed, though the same may have been computed of the array before.
    """
    copy: NDArray = +array
    node = copy._memory.node
    waiting = tuple([recorded(other) for other in others])
    copy._memory.node = Node("delay", node.layout, (*node.inputs, *waiting))
    return copy


def _on(device: Device, layout: Layout) -> Layout:
    """The same layout on another device."""
    return Layout.of(device, layout.dtype, layout.shape, layout.strides)


def _untraced(array: NDArray) -> Layout:
    """How the array will lie on the real device."""
    layout = array._layout
    return layout.views.get("real") or layout.remember("real", _on(array.device.real, layout))


Layouts = Layout | tuple[Layout, ...]


def result_layouts(function: Callable[[list[Any]], Any], inputs: Sequence[Layouts]) -> Any:
    """How what `function` returns for arrays laid out as `inputs` is laid out, on real devices.

    An array, or a tuple of them, gives a Layout, or a tuple. None where that depends on values.
    Raises what `function` raises.
    """
    arrays = [
        tuple([traced(item) for item in x]) if isinstance(x, tuple) else traced(x) for x in inputs
    ]
    try:
        result = function(arrays)
    except NoValueError:
        return None
    return tuple(map(_untraced, result)) if isinstance(result, tuple) else _untraced(result)

"""A record of traced arrays, run on a device: what a compiler of it has to come to."""

from __future__ import annotations

from typing import Any

import numpy as np

import needle.backend_ndarray as nd
from needle.backend_ndarray.device import Device, Scalar
from needle.backend_ndarray.layout import Layout
from needle.backend_ndarray.ndarray_backend_trace import Node, recorded


class Replay:
    """Runs nodes on `device`, each once; `inputs` gives the values of the "input" nodes."""

    def __init__(self, device: Device, inputs: dict[Node, np.ndarray]) -> None:
        self.device, self.inputs, self.done = device, inputs, dict[Node, Any]()

    def value(self, array: nd.NDArray) -> np.ndarray:
        """What a traced array stands for."""
        node, layout, offset = recorded(array)
        return np.array(self.device.view(self.on_device(layout), self.memory(node), offset))

    def on_device(self, x: Any) -> Any:
        if not isinstance(x, Layout):
            return x
        return Layout.of(self.device, x.dtype, x.shape, x.strides)

    def memory(self, node: Node) -> Any:
        if node not in self.done:
            self.done[node] = self.run(node)
        return self.done[node]

    def run(self, node: Node) -> Any:
        given, out = dict(node.parameters), self.on_device(node.layout)
        if node.primitive == "input":
            return self.device.adopt(self.inputs[node])
        if node.primitive == "constant":
            return self.device.adopt(given["values"]) if "values" in given else given["memory"]
        if node.primitive == "empty":
            return self.device.empty_memory(out)
        arguments = [x for read in node.inputs for x in (self.memory(read.node), read.offset)]
        layouts = [self.on_device(read.layout) for read in node.inputs]
        if node.primitive == "assign":
            return self.assigned(node, layouts, arguments)
        if node.primitive == "elementwise":
            operands = [self.on_device(x) for x in given["operands"]]
            run = self.device.elementwise(given["name"], operands, given["compute"], out)
        elif node.primitive in ("gather", "scatter_add"):
            method = getattr(self.device, node.primitive)
            run = method(layouts[0], layouts[1:], given["axis"], out)
        elif node.primitive == "contract":
            run = self.device.contract(*layouts, out, given["groups"])
        else:  # reduce, arg_reduce, scan, iota
            run = getattr(self.device, node.primitive)(*_in_order(given, layouts), out)
        return run(*arguments, *node.numbers)

    def assigned(self, node: Node, layouts: list[Layout], arguments: list[Any]) -> Any:
        """All of the memory written to, in a copy with the place overwritten."""
        whole = self.on_device(Layout.of(self.device, node.layout.dtype, (node.layout.size,)))
        copy = self.device.elementwise("copy", [whole], [whole.dtype], whole)(arguments[-2], 0)
        place = (copy, arguments[-1])
        if node.numbers:
            kind = np.dtype(np.float64 if isinstance(node.numbers[0], float) else np.int64)
            self.device.assign(Scalar(kind), layouts[0])(*place, *node.numbers)
        else:
            self.device.assign(*layouts)(*arguments[:2], *place)
        return copy


def _in_order(given: dict[str, Any], layouts: list[Layout]) -> list[Any]:
    """name, layout, axis: what the device's methods are called with."""
    name = [given["name"]] if "name" in given else []
    return [*name, *layouts, *[given[key] for key in ("axes", "axis") if key in given]]

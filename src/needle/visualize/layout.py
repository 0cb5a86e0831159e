"""Where the nodes of a directed acyclic graph go: in layers, top to bottom.

The steps of Sugiyama, Tagawa and Toda, "Methods for visual understanding of hierarchical system
structures", 1981: assign layers, order within each to cross few edges, then place. An edge that
skips layers passes through a bend in each of them; edges of one source share their bends, so the
number of bends grows with the layers that a source is visible over, not with its users.
"""

from __future__ import annotations

from bisect import bisect_right, insort
from collections.abc import Sequence
from typing import NamedTuple

__all__ = ["Layout", "Point", "place"]

LAYER_GAP = 24.0  # between the lowest point of a layer and the highest of the next
NODE_GAP = 18.0
BEND_WIDTH = 8.0
MANY = 1500  # nodes and bends from which ordering stops looking for the best sweep
ORDER_SWEEPS = 12
PLACE_SWEEPS = 16


class Point(NamedTuple):
    """A place in the picture; y grows downwards."""

    x: float
    y: float


class Layout(NamedTuple):
    """Where everything goes.

    centres  of each node
    trunks   of each node whose edges skip layers: the corners of its bends, from the top down
    starts   of each edge: where it leaves its source's trunk; None where it leaves the source
    """

    centres: list[Point]
    trunks: dict[int, list[Point]]
    starts: list[Point | None]
    width: float
    height: float


class _Net(NamedTuple):
    """Nodes and bends alike, with edges between neighbouring layers only."""

    widths: list[float]
    weights: list[float]
    layers: list[list[int]]
    above: list[list[int]]
    below: list[list[int]]
    trunks: dict[int, list[int]]  # the bends below a source, one per layer
    branches: list[int]  # for each edge, how many bends of its source's trunk it passes


def place(sizes: Sequence[tuple[float, float]], edges: Sequence[tuple[int, int]]) -> Layout:
    """A layout of nodes with `sizes` (width, height); every edge leads to a higher number."""
    depths, layer_of = _assign_layers(len(sizes), edges)
    net = _with_bends(sizes, edges, depths, layer_of)
    _order(net)
    xs = _place_across(net)
    tops, heights, total = _place_down(sizes, net)
    centres = [
        Point(xs[node], tops[layer] + heights[layer] / 2) for node, layer in enumerate(layer_of)
    ]
    trunks = {
        source: [
            Point(xs[bend], tops[layer] + part * heights[layer])
            for layer, bend in enumerate(trunk, start=layer_of[source] + 1)
            for part in (0, 1)  # straight down past the nodes of the layer
        ]
        for source, trunk in net.trunks.items()
    }
    starts = [
        trunks[source][2 * passed - 1] if passed else None
        for (source, _), passed in zip(edges, net.branches, strict=True)
    ]
    width = max((x + w / 2 for x, w in zip(xs, net.widths, strict=True)), default=0.0)
    return Layout(centres, trunks, starts, width, total)


def _assign_layers(count: int, edges: Sequence[tuple[int, int]]) -> tuple[list[int], list[int]]:
    """The longest path from a source to each node; and its layer: as low as its users let it."""
    depth = [0] * count
    users: list[list[int]] = [[] for _ in range(count)]
    for source, target in sorted(edges):
        users[source].append(target)
        depth[target] = max(depth[target], depth[source] + 1)
    layer = list(depth)
    for node in reversed(range(count)):
        if users[node]:
            layer[node] = min(layer[user] for user in users[node]) - 1
    return depth, layer


def _with_bends(
    sizes: Sequence[tuple[float, float]],
    edges: Sequence[tuple[int, int]],
    depths: list[int],
    layer_of: list[int],
) -> _Net:
    layers: list[list[int]] = [[] for _ in range(max(layer_of, default=-1) + 1)]
    for node, layer in enumerate(layer_of):
        layers[layer].append(node)
    # what has the longer path behind it is the main line, and others make room
    weights = [(1.0 + depth) ** 2 for depth in depths]
    net = _Net([w for w, _ in sizes], weights, layers, [[] for _ in sizes], [[] for _ in sizes],
               {}, [])  # fmt: skip
    for source, target in edges:
        passed = layer_of[target] - layer_of[source] - 1
        trunk = net.trunks.setdefault(source, []) if passed else []
        while len(trunk) < passed:
            trunk.append(_add_bend(net, trunk[-1] if trunk else source))
            net.layers[layer_of[source] + len(trunk)].append(trunk[-1])
        _connect(net, trunk[passed - 1] if passed else source, target)
        net.branches.append(passed)
    return net


def _add_bend(net: _Net, after: int) -> int:
    bend = len(net.widths)
    net.widths.append(BEND_WIDTH)
    net.weights.append(net.weights[after])
    net.above.append([])
    net.below.append([])
    _connect(net, after, bend)
    return bend


def _connect(net: _Net, upper: int, lower: int) -> None:
    net.below[upper].append(lower)
    net.above[lower].append(upper)


# -- order within the layers ---------------------------------------------------------------------


def _order(net: _Net) -> None:
    """Sort each layer by the mean position of its neighbours, down and up; keep the best."""
    many = len(net.widths) > MANY
    position = [0.0] * len(net.widths)
    for layer in net.layers:
        _number(layer, position)
    best, fewest = [list(layer) for layer in net.layers], _crossings(net, position)
    for sweep in range(2 if many else ORDER_SWEEPS):
        if fewest == 0:
            break
        downwards = sweep % 2 == 0
        neighbours = net.above if downwards else net.below
        for layer in net.layers if downwards else reversed(net.layers):
            wanted = {node: _mean(neighbours[node], position, position[node]) for node in layer}
            layer.sort(key=wanted.__getitem__)
            _number(layer, position)
        if (crossings := _crossings(net, position)) < fewest:
            best, fewest = [list(layer) for layer in net.layers], crossings
    net.layers[:] = best


def _number(layer: list[int], position: list[float]) -> None:
    for place_in_layer, node in enumerate(layer):
        position[node] = place_in_layer


def _mean(nodes: list[int], position: list[float], otherwise: float) -> float:
    return sum(position[node] for node in nodes) / len(nodes) if nodes else otherwise


def _crossings(net: _Net, position: list[float]) -> int:
    """How many pairs of edges between neighbouring layers cross."""
    total = 0
    for layer in net.layers:
        seen: list[float] = []
        for node in layer:
            ends = [position[user] for user in net.below[node]]
            total += sum(len(seen) - bisect_right(seen, end) for end in ends)
            for end in ends:
                insort(seen, end)
    return total


# -- coordinates ---------------------------------------------------------------------------------


def _place_across(net: _Net) -> list[float]:
    """Each node near the mean of its neighbours, no closer to the next than its width allows."""
    xs = [0.0] * len(net.widths)
    for layer in net.layers:
        _settle(layer, net, xs)
    for sweep in range(2 if len(net.widths) > MANY else PLACE_SWEEPS):
        downwards = sweep % 2 == 0
        neighbours = net.above if downwards else net.below
        for layer in net.layers if downwards else reversed(net.layers):
            for node in layer:
                xs[node] = _weighted_mean(neighbours[node], xs, net.weights, xs[node])
            _settle(layer, net, xs)
    left = min((x - w / 2 for x, w in zip(xs, net.widths, strict=True)), default=0.0)
    return [x - left for x in xs]


def _weighted_mean(
    nodes: list[int], xs: list[float], weights: list[float], otherwise: float
) -> float:
    if not nodes:
        return otherwise
    return sum(weights[node] * xs[node] for node in nodes) / sum(weights[node] for node in nodes)


def _settle(layer: list[int], net: _Net, xs: list[float]) -> None:
    """Move the nodes of a layer as little as possible (least squares) so that none overlap.

    Less the room of the nodes to their left, the wanted places must not decrease: isotonic
    regression, by pooling neighbours that violate the order.
    """
    offset, offsets = 0.0, []
    pools: list[tuple[float, float, int]] = []  # sum of weight·place, weight, number of nodes
    for before, node in zip([None, *layer], layer, strict=False):
        if before is not None:
            offset += (net.widths[before] + net.widths[node]) / 2 + NODE_GAP
        offsets.append(offset)
        weight = net.weights[node]
        pool = (weight * (xs[node] - offset), weight, 1)
        while pools and pools[-1][0] / pools[-1][1] > pool[0] / pool[1]:
            previous = pools.pop()
            pool = (previous[0] + pool[0], previous[1] + pool[1], previous[2] + pool[2])
        pools.append(pool)
    places = [total / weight for total, weight, count in pools for _ in range(count)]
    for node, start, x in zip(layer, offsets, places, strict=True):
        xs[node] = start + x


def _place_down(
    sizes: Sequence[tuple[float, float]], net: _Net
) -> tuple[list[float], list[float], float]:
    tops, heights, y = [], [], 0.0
    for layer in net.layers:
        height = max((sizes[node][1] for node in layer if node < len(sizes)), default=0.0)
        tops.append(y)
        heights.append(height)
        y += height + LAYER_GAP
    return tops, heights, max(y - LAYER_GAP, 0.0)

"""Where a graph of states is drawn: columns from START to END, and curves between boxes.

The layout is layered, as Sugiyama's: columns by how early in dialogues a state is, an edge across
several columns goes through a place of its own in each, and places are ordered by the mean of
their neighbours', to have few crossings. In inches, y downwards.
"""

from collections.abc import Sequence
import dataclasses
import math

import numpy as np

BOX = 2.3, 0.56          # width and height
GAP, ROW, VIA = 1.3, 1.0, 0.24   # between columns; of a box, and of an edge that passes
LABEL = 0.30, 0.15
Point = tuple[float, float]


@dataclasses.dataclass(frozen=True)
class Layout:
  """Attributes:
    boxes: the centre of each node.
    curves: of each edge the points of a cubic Bézier spline, 1 + 3 n of them, source first.
    labels: where each edge has room for its label; None where it has none.
    width, height: of the whole.
  """
  boxes: tuple[Point, ...]
  curves: tuple[tuple[Point, ...], ...]
  labels: tuple[Point | None, ...]
  width: float
  height: float


def lay_out(positions: Sequence[float], edges: Sequence[tuple[int, int]]) -> Layout:
  """Lays out nodes, the first of them START and the last END.

  Args:
    positions: how early a node is, from 0 to 1.
    edges: (source, target), those whose label matters most first.
  """
  column_of = _columns(positions)
  places = _order(column_of, edges)
  points = _coordinates(places)
  nodes = [points[node] for node in range(len(positions))]
  ports = _ports(points, column_of, edges)
  curves = [_curve(e, edge, points, column_of, ports) for e, edge in enumerate(edges)]
  every = np.array(nodes + [p for curve in curves for p in curve])
  half = np.array(BOX) / 2 + 0.1
  low, high = every.min(axis=0) - half, every.max(axis=0) + half
  move = lambda p: (float(p[0] - low[0]), float(p[1] - low[1]))
  curves = [tuple(map(move, curve)) for curve in curves]
  boxes = tuple(map(move, nodes))
  return Layout(boxes, tuple(curves), _labels(boxes, curves), *map(float, high - low))


def _columns(positions: Sequence[float]) -> list[int]:
  """The column of each node: about sqrt(1.5 n) of like size, between START's and END's."""
  inner = sorted(range(1, len(positions) - 1), key=lambda node: positions[node])
  number = max(math.ceil(math.sqrt(1.5 * len(inner))), 1)
  columns = [0] * len(positions)
  for place, node in enumerate(inner):
    columns[node] = 1 + place * number // len(inner)
  columns[-1] = max(columns) + 1
  return columns


def _chain(e: int, edge: tuple[int, int], column_of: Sequence[int]) -> list:
  """The places of an edge from left to right: a node, (edge, column) of those passed, a node."""
  left, right = sorted(edge, key=lambda node: column_of[node])
  return [left, *((e, c) for c in range(column_of[left] + 1, column_of[right])), right]


def _order(column_of: Sequence[int], edges: Sequence[tuple[int, int]], sweeps: int = 12
           ) -> list[list]:
  """The places of each column from top to bottom."""
  columns = [[] for _ in range(max(column_of) + 1)]
  for node, column in enumerate(column_of):
    columns[column].append(node)
  neighbours = {place: [] for column in columns for place in column}
  for e, edge in enumerate(edges):
    if column_of[edge[0]] == column_of[edge[1]]:
      continue
    chain = _chain(e, edge, column_of)
    for place in chain[1:-1]:
      columns[place[1]].append(place)
      neighbours[place] = []
    for a, b in zip(chain, chain[1:]):
      neighbours[a].append(b)
      neighbours[b].append(a)
  for _ in range(sweeps):
    for column in columns:
      height = {place: y for places in columns for place, (_, y) in
                _coordinates([places]).items()}
      column.sort(key=lambda place: np.mean([height[other] for other in neighbours[place]] or
                                            [height[place]]))
  return columns


def _coordinates(columns: Sequence[Sequence]) -> dict:
  """The centre of each place; columns are centred on one line."""
  found = {}
  for c, places in enumerate(columns):
    heights = [ROW if isinstance(place, int) else VIA for place in places]
    ends = np.cumsum(heights) - sum(heights) / 2
    for place, height, end in zip(places, heights, ends):
      found[place] = (c * (BOX[0] + GAP), float(end - height / 2))
  return found


def _ports(points: dict, column_of: Sequence[int], edges: Sequence[tuple[int, int]]) -> dict:
  """{(edge, node): the point of the node's box where it begins or ends}; none of loops."""
  sides = {}   # (node, +1 right or -1 left): [(y of the other end, edge)]
  for e, (source, target) in enumerate(edges):
    if source == target:
      continue
    if column_of[source] == column_of[target]:   # downwards on the right, upwards on the left
      side = 1 if points[source][1] < points[target][1] else -1
      sides.setdefault((source, side), []).append((points[target][1], e))
      sides.setdefault((target, side), []).append((points[source][1], e))
    else:
      chain = _chain(e, edges[e], column_of)
      sides.setdefault((chain[0], 1), []).append((points[chain[1]][1], e))
      sides.setdefault((chain[-1], -1), []).append((points[chain[-2]][1], e))
  found = {}
  for (node, side), ends in sides.items():
    x, y = points[node]
    for place, (_, e) in enumerate(sorted(ends)):
      share = (place + 0.5) / len(ends) - 0.5
      found[e, node] = (x + side * BOX[0] / 2, y + 0.8 * share * BOX[1])
  return found


def _curve(e: int, edge: tuple[int, int], points: dict, column_of: Sequence[int], ports: dict
           ) -> list[Point]:
  source, target = edge
  if source == target:   # a loop above the box
    x, y = points[source]
    top = y - BOX[1] / 2
    return [(x + 0.65, top), (x + 0.5, top - 0.4), (x + 1.05, top - 0.4), (x + 0.9, top)]
  if column_of[source] == column_of[target]:
    (x, y), (_, end) = ports[e, source], ports[e, target]
    out = math.copysign(0.2 + 0.1 * abs(end - y), x - points[source][0])
    return [(x, y), (x + out, y), (x + out, end), (x, end)]
  chain = _chain(e, edge, column_of)
  curve = [ports[e, chain[0]]]
  for place in chain[1:]:
    x, y = points[place]
    entry = ports[e, place] if isinstance(place, int) else (x - BOX[0] / 2, y)
    middle = (curve[-1][0] + entry[0]) / 2
    curve += [(middle, curve[-1][1]), (middle, entry[1]), entry]
    if not isinstance(place, int):
      curve += [(x - BOX[0] / 6, y), (x + BOX[0] / 6, y), (x + BOX[0] / 2, y)]
  return curve if chain[0] == source else curve[::-1]


def _labels(boxes: Sequence[Point], curves: Sequence[Sequence[Point]]
            ) -> tuple[Point | None, ...]:
  """A place near the source of each edge that no box or earlier label covers."""
  taken = [(x, y, *BOX) for x, y in boxes]
  found = []
  for curve in curves:
    free = None
    for t in (0.5, 0.4, 0.6, 0.3, 0.7, 0.2, 0.8):
      x, y = bezier(curve[:4], t)
      if all(abs(x - a) >= (LABEL[0] + w) / 2 or abs(y - b) >= (LABEL[1] + h) / 2
             for a, b, w, h in taken):
        free = x, y
        taken.append((x, y, *LABEL))
        break
    found.append(free)
  return tuple(found)


def bezier(points: Sequence[Point], t: float) -> Point:
  """The point of a cubic Bézier curve at t."""
  weights = ((1 - t) ** 3, 3 * t * (1 - t) ** 2, 3 * t ** 2 * (1 - t), t ** 3)
  return (sum(w * p[0] for w, p in zip(weights, points)),
          sum(w * p[1] for w, p in zip(weights, points)))

"""The picture of a graph of states: PNG, SVG or PDF, by matplotlib."""

from t5x_lite.dialogue.structure.graph import FILLS, LINES, Graph, lines_of
from t5x_lite.dialogue.structure.layout import BOX, LABEL, Layout, lay_out


def layout_of(graph: Graph) -> Layout:
  return lay_out([node.position for node in graph.nodes],
                 [(edge.source, edge.target) for edge in graph.edges])


def draw_graph(graph: Graph):
  """A matplotlib Figure: a box a state, edges as wide as they are probable."""
  from matplotlib.figure import Figure  # not pyplot, which has a state of its own
  from matplotlib.patches import FancyArrowPatch, FancyBboxPatch
  from matplotlib.path import Path
  layout = layout_of(graph)
  figure = Figure(figsize=(layout.width, layout.height))
  axes = figure.add_axes((0, 0, 1, 1))
  axes.set(xlim=(0, layout.width), ylim=(layout.height, 0))
  axes.set_axis_off()
  for edge, curve, place in zip(graph.edges, layout.curves, layout.labels):
    color = LINES[graph.nodes[edge.source].speaker]
    path = Path(curve, [Path.MOVETO] + [Path.CURVE4] * (len(curve) - 1))
    axes.add_patch(FancyArrowPatch(
        path=path, arrowstyle='-|>', mutation_scale=7 + 5 * edge.probability, color=color,
        linewidth=0.5 + 4 * edge.probability, alpha=0.35 + 0.5 * edge.probability, fill=False,
        joinstyle='miter', capstyle='butt', zorder=1))
    if place:
      axes.add_patch(FancyBboxPatch((place[0] - LABEL[0] / 2, place[1] - LABEL[1] / 2), *LABEL,
                                    boxstyle='square,pad=0', color='white', alpha=0.85, zorder=2))
      axes.text(*place, f'{edge.probability:.2f}', fontsize=7, color=color, ha='center',
                va='center', zorder=3)
  for node, (x, y) in zip(graph.nodes, layout.boxes):
    axes.add_patch(FancyBboxPatch(
        (x - BOX[0] / 2, y - BOX[1] / 2), *BOX, boxstyle='round,pad=0,rounding_size=0.08',
        facecolor=FILLS[node.speaker], edgecolor=LINES[node.speaker], linewidth=1, zorder=4))
    lines = lines_of(node)
    for i, line in enumerate(lines):
      axes.text(x, y + 0.17 * (i - (len(lines) - 1) / 2), line, ha='center', va='center', zorder=5,
                fontsize=7.5 if i < 2 else 6.5, weight='bold' if i == 0 else 'normal',
                style='italic' if i == 2 else 'normal', color='#1c2733', parse_math=False)
  return figure

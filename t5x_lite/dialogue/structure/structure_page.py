"""One HTML file of a structure: its graph, in which a click on a state shows its utterances."""

import pathlib
from typing import Any

from t5x_lite.core import html_page
from t5x_lite.dialogue.structure.discover import Structure
from t5x_lite.dialogue.structure.drawing import layout_of
from t5x_lite.dialogue.structure.graph import FILLS, LINES, lines_of
from t5x_lite.dialogue.structure.layout import BOX

_TEMPLATE = pathlib.Path(__file__).with_suffix('.html')
_SCALE = 96   # pixels an inch


def render_page(title: str, structure: Structure) -> str:
  return html_page.render_page(_TEMPLATE, title, page_data(structure))


def page_data(structure: Structure) -> dict[str, Any]:
  """What the page's script reads, in pixels."""
  graph, layout = structure.graph, layout_of(structure.graph)
  pixels = lambda point: [round(_SCALE * x, 1) for x in point]
  nodes = [{
      'name': node.name, 'speaker': node.speaker, 'lines': lines_of(node), 'center': pixels(box),
      'states': [{'name': state.name, 'size': state.size, 'text': state.text,
                  'words': list(state.words), 'examples': list(state.examples)}
                 for state in (structure.states[i] for i in node.states)]}
      for node, box in zip(graph.nodes, layout.boxes)]
  edges = [{
      'source': edge.source, 'target': edge.target, 'count': edge.count,
      'probability': edge.probability, 'path': _svg_path([pixels(p) for p in curve]),
      'label': label and pixels(label)}
      for edge, curve, label in zip(graph.edges, layout.curves, layout.labels)]
  return {'nodes': nodes, 'edges': edges, 'size': pixels((layout.width, layout.height)),
          'box': pixels(BOX), 'fills': FILLS, 'lines': LINES}


def _svg_path(points) -> str:
  words = [f'{x:g},{y:g}' for x, y in points]
  return f'M{words[0]} C{" ".join(words[1:])}'

"""The files of a structure that was found: JSON, DOT, pictures and a page."""

from collections.abc import Sequence
import pathlib
from typing import Any

from t5x_lite.core.files import save_figure, write_text
from t5x_lite.core.strict_json import format_json
from t5x_lite.dialogue.structure.automaton import probabilities
from t5x_lite.dialogue.structure.discover import Structure
from t5x_lite.dialogue.structure.drawing import draw_graph
from t5x_lite.dialogue.structure.graph import END, START, to_dot
from t5x_lite.dialogue.structure.structure_page import render_page


def write_structure(folder: pathlib.Path, title: str, found: Structure, ids: Sequence[str]) -> None:
  """Writes structure.json, .dot, .png, .svg and .html; `ids` are the dialogues'."""
  write_text(folder / 'structure.json', format_json(to_record(found, ids), indent=1) + '\n')
  write_text(folder / 'structure.dot', to_dot(found.graph))
  write_text(folder / 'structure.html', render_page(title, found))
  figure = draw_graph(found.graph)
  for suffix in ('png', 'svg'):
    save_figure(figure, folder / f'structure.{suffix}')


def figures(found: Structure) -> dict[str, Any]:
  """The numbers alone."""
  return {'states': {speaker: sum(state.speaker == speaker for state in found.states)
                     for speaker in dict.fromkeys(state.speaker for state in found.states)},
          'nodes': len(found.graph.nodes) - 2, 'edges': len(found.graph.edges),
          'scores': found.scores, 'agreement': found.agreement, 'entropy': found.entropy,
          'held_out': found.held_out}


def to_record(found: Structure, ids: Sequence[str]) -> dict[str, Any]:
  """The structure as JSON has it; transitions are all, before pruning, edges those of the graph."""
  names = [state.name for state in found.states]
  p = probabilities(found.counts)
  transitions = [
      {'from': ([*names, START])[i], 'to': ([*names, END])[j], 'count': found.counts[i, j],
       'probability': p[i, j], 'kept': bool(found.automaton.edges[i, j]),
       **({} if found.prior is None else {'prior': found.prior[i, j]})}
      for i, j in zip(*found.counts.nonzero())]
  nodes = [node.name for node in found.graph.nodes]
  edges = [{'from': nodes[edge.source], 'to': nodes[edge.target], 'count': edge.count,
            'probability': edge.probability} for edge in found.graph.edges]
  return {'figures': figures(found), 'states': found.states, 'transitions': transitions,
          'nodes': found.graph.nodes, 'edges': edges,
          'dialogues': {name: [names[s] for s in path] for name, path in zip(ids, found.paths)}}

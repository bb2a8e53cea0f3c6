"""A minimised automaton as nodes and edges, with what a reader needs of each, and as DOT."""

from collections.abc import Sequence
import dataclasses
import json
import textwrap

import numpy as np

from t5x_lite.dialogue.schema import Speaker
from t5x_lite.dialogue.structure.automaton import Automaton, probabilities

START, END = 'START', 'END'
FILLS = {'user': '#fdeedd', 'system': '#e3eefa', '': '#e9ecef'}   # of nodes, by speaker
LINES = {'user': '#b4610f', 'system': '#1f5f99', '': '#51606f'}


@dataclasses.dataclass(frozen=True)
class State:
  """A cluster of utterances.

  Attributes:
    name: such as 's3', the third of the system, or 'u0', of the user.
    text: its most frequent utterance, numbers and codes masked.
    words: those of the highest c-TF-IDF.
    size: how many utterances it has.
    position: their mean place in dialogues, from 0 for the first to 1 for the last.
    examples: utterances as they were said, nearest to the centre first.
  """
  name: str
  speaker: Speaker
  text: str
  words: tuple[str, ...]
  size: int
  position: float
  examples: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Node:
  """States that are one in the minimal automaton; START and END have none.

  Attributes:
    states: their indices.
  """
  name: str
  speaker: str
  text: str
  words: tuple[str, ...]
  size: int
  position: float
  states: tuple[int, ...] = ()


@dataclasses.dataclass(frozen=True)
class Edge:
  """From a node to a node, by index; the probability is among the edges of the source."""
  source: int
  target: int
  count: int
  probability: float


@dataclasses.dataclass(frozen=True)
class Graph:
  """Attributes: nodes, START first and END last, and edges, the most probable first."""
  nodes: tuple[Node, ...]
  edges: tuple[Edge, ...]


def to_graph(automaton: Automaton, states: Sequence[State]) -> Graph:
  """The nodes and edges of an automaton of these states."""
  number = int(automaton.blocks.max(initial=-1)) + 1
  nodes = [Node(START, '', '', (), 0, 0.0)]
  for block in range(number):
    members = np.flatnonzero(automaton.blocks == block)
    largest = max(members, key=lambda i: states[i].size)
    sizes = [states[i].size for i in members]
    nodes.append(dataclasses.replace(_node(states[largest]), **{
        'name': ' '.join(states[i].name for i in members), 'size': sum(sizes),
        'position': float(np.average([states[i].position for i in members], weights=sizes)),
        'states': tuple(map(int, members))}))
  nodes.append(Node(END, '', '', (), 0, 1.0))
  rows, columns = np.append(automaton.blocks + 1, 0), np.append(automaton.blocks + 1, number + 1)
  counts = np.zeros((number + 2, number + 2), np.int64)
  for i, j in zip(*np.nonzero(automaton.counts)):
    counts[rows[i], columns[j]] += automaton.counts[i, j]
  p = probabilities(counts)
  edges = [Edge(int(i), int(j), int(counts[i, j]), float(p[i, j]))
           for i, j in zip(*np.nonzero(counts))]
  return Graph(tuple(nodes), tuple(sorted(edges, key=lambda e: (-e.probability, e.source))))


def _node(state: State) -> Node:
  return Node(state.name, state.speaker, state.text, state.words, state.size, state.position)


def lines_of(node: Node, width: int = 36) -> list[str]:
  """What a box says: name and size, words, utterance."""
  if not node.states:
    return [node.name]
  short = lambda text: textwrap.shorten(text, width, placeholder=' …') or text[:width]
  return [f'{short(node.name)} · {node.size:,}', short(', '.join(node.words)),
          short(node.text.replace('\n', ' / '))]


def to_dot(graph: Graph) -> str:
  """The graph in the language of Graphviz."""
  quote = lambda text: json.dumps(text, ensure_ascii=False)
  lines = ['digraph structure {', '  rankdir=LR;',
           '  node [shape=box, style="rounded,filled", fontname="sans-serif", fontsize=10];']
  for i, node in enumerate(graph.nodes):
    lines.append(f'  n{i} [label={quote(chr(10).join(lines_of(node)))}, '
                 f'fillcolor="{FILLS[node.speaker]}", color="{LINES[node.speaker]}"];')
  for edge in graph.edges:
    lines.append(f'  n{edge.source} -> n{edge.target} [label="{edge.probability:.2f}", '
                 f'penwidth={0.5 + 4 * edge.probability:.2f}, '
                 f'color="{LINES[graph.nodes[edge.source].speaker]}"];')
  return '\n'.join([*lines, '}']) + '\n'

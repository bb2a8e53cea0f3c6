"""The graph of an automaton: nodes, DOT, a layout without overlaps, and text that is no markup."""

import itertools
import json
import re
import shutil
import subprocess

import numpy as np
import pytest

from t5x_lite.dialogue.structure import automaton, drawing, graph, layout, structure_page
from t5x_lite.dialogue.structure.discover import Structure

NASTY = '</script><img src=x onerror="1"> $x^2$ "quoted" \\ <b>'


def make_structure(k=9, seed=0):
  """States of both sides, each followed by a few that were drawn for it."""
  rng = np.random.default_rng(seed)
  following = [rng.choice(k, min(4, k - 1), replace=False) for _ in range(k)]
  paths = []
  for _ in range(40 * k):
    path = [int(rng.integers(0, 2))]
    while rng.random() < 0.8:
      path.append(int(rng.choice(following[path[-1]])))
    paths.append(path)
  states = tuple(graph.State(
      f'{"us"[i % 2]}{i}', ('user', 'system')[i % 2], NASTY if i == 1 else f'text {i}',
      (f'word{i}', 'other'), sum(path.count(i) for path in paths), i / k, (NASTY, f'example {i}'))
                 for i in range(k))
  counts = automaton.count_transitions(paths, k)
  found = automaton.find_automaton(counts, 0.05, 2)
  return Structure(states, tuple(map(tuple, paths)), counts, found, graph.to_graph(found, states),
                   {}, {}, {}, {})


def test_a_node_is_a_block_and_an_edge_the_sum_of_its_transitions():
  states = [graph.State(name, 'user', name.upper(), (name,), size, position, ())
            for name, size, position in [('a', 4, 0.0), ('b', 1, 0.5), ('c', 3, 0.9), ('d', 1, 1.)]]
  counts = automaton.count_transitions([[0, 1], [0, 2], [0, 2], [0, 2]], 4)
  found = graph.to_graph(automaton.find_automaton(counts, 0, 1), states)
  assert [(n.name, n.states, n.size, n.text) for n in found.nodes] == [
      ('START', (), 0, ''), ('a', (0,), 4, 'A'), ('b c', (1, 2), 4, 'C'), ('END', (), 0, '')]
  assert found.nodes[2].position == pytest.approx((0.5 + 3 * 0.9) / 4)
  assert found.edges == tuple(graph.Edge(i, i + 1, 4, 1.0) for i in range(3))
  assert graph.lines_of(found.nodes[2]) == ['b c · 4', 'c', 'C']


def overlap(a, b, size):
  return all(abs(x - y) < s - 1e-9 for x, y, s in zip(a, b, size))


@pytest.mark.parametrize('k, seed', [(3, 0), (9, 1), (24, 2)])
def test_no_boxes_or_labels_overlap_and_curves_join_boxes(k, seed):
  found = make_structure(k, seed).graph
  placed = drawing.layout_of(found)
  assert not any(overlap(a, b, layout.BOX) for a, b in itertools.combinations(placed.boxes, 2))
  labels = [label for label in placed.labels if label]
  assert not any(overlap(a, b, layout.LABEL) for a, b in itertools.combinations(labels, 2))
  assert not any(overlap(a, b, np.add(layout.BOX, layout.LABEL) / 2)
                 for a in labels for b in placed.boxes)
  assert len(labels) > 0.8 * len(found.edges)
  for edge, curve in zip(found.edges, placed.curves):
    assert len(curve) % 3 == 1
    for node, end in ((edge.source, curve[0]), (edge.target, curve[-1])):   # on the box's border
      x, y = np.abs(np.subtract(end, placed.boxes[node])) / np.divide(layout.BOX, 2)
      assert max(x, y) == pytest.approx(1)
    # Between its ends a curve is in no box: at most it leaves and comes back to its own.
    inside = [node for node, box in enumerate(placed.boxes)
              for i in range(0, len(curve) - 1, 3) for t in np.linspace(0, 1, 9)
              if node not in (edge.source, edge.target) and overlap(
                  layout.bezier(curve[i:i + 4], t), box, np.divide(layout.BOX, 2))]
    assert not inside
  corners = np.array(placed.boxes)
  assert (corners > 0).all() and (corners < (placed.width, placed.height)).all()


def test_start_is_on_the_left_and_end_on_the_right():
  placed = layout.lay_out([0, 0.9, 0.1, 0.5, 1], [(0, 2), (2, 3), (3, 1), (1, 4), (1, 2), (3, 3)])
  x = [box[0] for box in placed.boxes]
  assert x[0] < x[2] < x[1] < x[4] and x[0] < x[3]


def test_dot_quotes_what_is_said(tmp_path):
  text = graph.to_dot(make_structure().graph)
  assert text.startswith('digraph structure {') and text.rstrip().endswith('}')
  assert text.count(' -> ') == len(make_structure().graph.edges)
  for label in re.findall(r'label=("(?:[^"\\]|\\.)*")', text):
    json.loads(label)
  if not shutil.which('dot'):
    pytest.skip('there is no Graphviz on this machine')
  (tmp_path / 'x.dot').write_text(text)
  subprocess.run(['dot', '-Tsvg', str(tmp_path / 'x.dot')], check=True, capture_output=True)


def test_a_click_on_a_state_shows_its_utterances_as_text(tmp_path):
  found = make_structure()
  page = structure_page.render_page('a<i>', found)
  data = json.loads(re.search('id="data">(.*?)</script>', page, re.DOTALL)[1])
  assert page.count('<img') == 0 and '<title>a&lt;i&gt;</title>' in page
  assert [s['examples'][0] for n in data['nodes'] for s in n['states']] == [NASTY] * 9
  assert len(data['edges']) == len(found.graph.edges)
  chromium = shutil.which('chromium')
  if not chromium:
    pytest.skip('there is no chromium on this machine')
  # A script at the end of the page clicks on the second state.
  path = tmp_path / 'page.html'
  path.write_text(page.replace('</html>', '<script>document.querySelectorAll(".node")[2]'
                               '.dispatchEvent(new Event("click"))</script></html>'))
  shown = subprocess.run(
      [chromium, '--headless', '--no-sandbox', f'--user-data-dir={tmp_path}/profile', '--dump-dom',
       path.as_uri()], capture_output=True, text=True, timeout=120).stdout
  side = shown[shown.index('<aside'):shown.index('</aside>')]
  assert '<h2>s1, system</h2>' in side and 'example 1' in side and 'example 2' not in side
  assert '&lt;/script&gt;&lt;img' in side and '<img' not in shown
  assert shown.count('class="node') == len(found.graph.nodes)

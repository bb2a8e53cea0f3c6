"""The page of single items: its numbers by hand, its texts as text, and as a browser shows it."""

import html.parser
import json
import math
import shutil
import subprocess

import pytest

from t5x_lite import cli
from t5x_lite.core.errors import UserError
from t5x_lite.evaluation import item_page, results

NASTY = '</script><img src=x onerror="document.title=1"> & <!-- \u2028 <b>bold</b>'


def make_part(model='runs/base', items=None, **fields):
  result = results.TaskResult(**dict(
      task='made_up', shots=2, number=3, headline='acc', model=model, step=10, metrics={
          'acc': results.Metric(0.5, 0.25), 'nats': results.Metric(3.0, None)}) | fields)
  items = items or [
      {'id': 0, 'question': NASTY, 'choices': ['yes', NASTY], 'gold': 1, 'group': 'g<1>',
       'logprobs': [math.log(0.03), math.log(0.01)], 'chosen': {'acc': 0},
       'metrics': {'acc': 0.0, 'nats': 4.6}},
      {'id': 7, 'question': 'Which?', 'choices': ['a', 'b', 'c'], 'gold': [0, 2],
       'logprobs': [-1.0, -4.0, -3.0], 'chosen': {'acc': 0}, 'metrics': {'acc': 1.0, 'nats': 1.0}},
      {'id': 8, 'question': 'Say', 'output': f'x{NASTY}', 'target': 'y', 'metrics': {'acc': 0.0}}]
  return result, items


def test_probabilities_and_margins_by_hand():
  data = item_page.page_data([make_part()])
  first, second, third = data['items']
  assert first['models'][0]['probabilities'] == pytest.approx([0.75, 0.25], abs=1e-12)
  assert first['models'][0]['margin'] == pytest.approx(-math.log(3), abs=1e-12)
  assert second['models'][0]['margin'] == 3.0     # best right -1, best wrong -4
  assert (first['gold'], second['gold'], third['gold']) == ([1], [0, 2], [])
  assert third['models'] == [
      {'metrics': {'acc': 0.0}, 'chosen': {}, 'output': f'x{NASTY}'}]
  assert data['metrics'] == ['acc']   # nats are no share of right answers
  assert data['models'] == [{'name': 'base, step 10', 'metrics': {'acc': [0.5, 0.25],
                                                                  'nats': [3.0, None]}}]
  assert item_page.softmax([-1e4, -1e4]) == [0.5, 0.5]
  assert item_page.margin_of([-1.0], [0]) is None and item_page.margin_of([-1.0], []) is None


class Reader(html.parser.HTMLParser):
  """The tags of a page, and its data."""

  def __init__(self, page):
    super().__init__()
    self.tags, self.data, self.title, self._in = [], '', '', None
    self.feed(page)

  def handle_starttag(self, tag, attrs):
    self.tags.append(tag)
    self._in = 'data' if ('id', 'data') in attrs else tag

  def handle_endtag(self, tag):
    self._in = None

  def handle_data(self, text):
    self.data += text if self._in == 'data' else ''
    self.title += text if self._in == 'title' else ''


def test_no_text_of_an_item_is_markup():
  page = item_page.render_page([make_part(task='a<i>__DATA__', metrics={
      'acc': results.Metric(math.nan, None)})])
  reader = Reader(page)
  assert reader.title == 'a<i>__DATA__, 2 shots'
  assert not {'img', 'b', 'i'} & set(reader.tags) and reader.tags.count('script') == 2
  data = json.loads(reader.data)
  assert data['items'][0]['question'] == NASTY and data['items'][2]['models'][0]['output'][1:] == (
      NASTY)
  assert data['models'][0]['metrics']['acc'] == [None, None]
  assert not {'src=', 'http'} & set(page.split('"data"')[0].split())   # needs no other file


def test_two_models_of_one_name_and_of_other_items():
  other = make_part('runs/tuned')
  assert [m['name'] for m in item_page.page_data([make_part(), other])['models']] == [
      'base, step 10', 'tuned, step 10']
  assert [m['name'] for m in item_page.page_data([make_part('a/x'), make_part('b/x')])['models']
          ] == ['a/x, step 10', 'b/x, step 10']
  with pytest.raises(UserError, match='a page compares two models on the same task'):
    item_page.page_data([make_part(), make_part(shots=3)])
  with pytest.raises(UserError, match='other items, by their ids'):
    item_page.page_data([make_part(), make_part(items=make_part()[1][:2])])
  changed = [{**item, 'question': 'else'} for item in make_part()[1]]
  with pytest.raises(UserError, match='item 0 has another question'):
    item_page.page_data([make_part(), make_part(items=changed)])


def test_the_command_writes_a_page_that_a_browser_shows(tmp_path, capsys):
  paths = []
  for name in ('base', 'tuned'):
    result, items = make_part(f'runs/{name}')
    if name == 'tuned':
      items[0] |= {'metrics': {'acc': 1.0}, 'chosen': {'acc': 1}}
    paths.append(str(results.write_result(tmp_path / name, result, items)))
  assert cli.main(['evaluate', 'page', *paths]) == 0
  page = tmp_path / 'base/made_up-2shot-10.html'
  assert capsys.readouterr().out == f'3 items: {page}\n'
  assert cli.main(['evaluate', 'page', paths[0], f'--output={tmp_path}/one.html']) == 0
  assert cli.main(['evaluate', 'page', str(tmp_path / 'none.json')]) == 1
  chromium = shutil.which('chromium')
  if not chromium:
    pytest.skip('there is no chromium on this machine')
  shown = subprocess.run(
      [chromium, '--headless', '--no-sandbox', f'--user-data-dir={tmp_path}/profile', '--dump-dom',
       page.as_uri()], capture_output=True, text=True, timeout=60).stdout
  assert shown.count('<article>') == 3 and '<img' not in shown and '<title>made_up' in shown
  assert '75.0 %' in shown and 'right over wrong: \u22121.10 nats' in shown
  assert '3 of 3 items; an item is wrong where' in shown
  assert '&lt;/script&gt;&lt;img' in shown

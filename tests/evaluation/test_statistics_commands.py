"""The commands of docs/statistics.md, on files of one test."""

import json

import numpy as np
import pytest

from t5x_lite import cli
from t5x_lite.evaluation.results import Metric, TaskResult, write_result


def call(capsys, *argv) -> str:
  """What a command prints; it ends well, and says nothing on stderr."""
  status = cli.main(list(map(str, argv)))
  out, err = capsys.readouterr()
  assert status == 0 and not err, err
  return out


def fails(capsys, *argv) -> str:
  """The error line of a command."""
  status = cli.main(list(map(str, argv)))
  out, err = capsys.readouterr()
  assert status == 1 and err.startswith('error: ') and err.count('\n') == 1 and not out
  return err


def write(run, seed, shift=0.0, task='arc', number=200):
  """A result of items of four choices, better for a larger shift; its path."""
  rng = np.random.default_rng(seed)
  logprobs = rng.normal(size=(number, 4)) * 2
  logprobs[:, 0] += shift
  right = (logprobs.argmax(axis=1) == 0).astype(float)
  items = [{'id': i, 'metrics': {'acc': x}, 'logprobs': row.tolist(), 'gold': 0}
           for i, (x, row) in enumerate(zip(right, logprobs))]
  error = float(right.std(ddof=1) / number ** 0.5)
  return write_result(run / 'evaluations', TaskResult(
      task=task, shots=5, number=number, headline='acc', step=100,
      metrics={'acc': Metric(float(right.mean()), error)}), items)


def test_compare_two_runs(tmp_path, capsys):
  a, b = write(tmp_path / 'lm', 0), write(tmp_path / 'tuned', 1, 3.0)
  write(tmp_path / 'lm', 2, task='piqa')
  write(tmp_path / 'tuned', 3, task='piqa')
  text = call(capsys, 'evaluate', 'compare', tmp_path / 'lm', tmp_path / 'tuned')
  arc, piqa = text.split('\n\n')
  assert arc.startswith('arc, 5-shot, acc, 200 items\n  lm ')
  assert 'tuned scores higher than lm on these 200 items: -' in arc
  assert 'lm and tuned cannot be told apart on these 200 items' in piqa
  (report,) = json.loads(call(capsys, 'evaluate', 'compare', a, b, '--json'))
  assert report['differ'] and report['difference'] == pytest.approx(
      report['mean_a'] - report['mean_b'])


def test_compare_with_the_noise_of_seeds(tmp_path, capsys):
  runs = [tmp_path / f'{side}{seed}' for side in 'ab' for seed in range(3)]
  for seed, run in enumerate(runs):
    write(run, seed, 0.3 * (seed > 2))
  argv = ['evaluate', 'compare', runs[0], runs[3], '--seeds_a', *runs[1:3], '--seeds_b', *runs[4:]]
  assert 'between the means of runs, sd over seeds' in call(capsys, *argv)
  (report,) = json.loads(call(capsys, *argv, '--json'))
  acc = [json.loads(next(run.glob('evaluations/*.json')).read_text())['metrics']['acc'][0]
         for run in runs]
  assert report['seeds']['difference'] == pytest.approx(np.mean(acc[:3]) - np.mean(acc[3:]))
  assert 'has no result of arc 5-shot' in fails(
      capsys, *argv[:5], write(tmp_path / 'x', 0, task='piqa').parents[1])


def test_mistakes_of_compare(tmp_path, capsys):
  a = write(tmp_path / 'a', 0)
  assert 'is compared with itself' in fails(capsys, 'evaluate', 'compare', a, a)
  assert 'no such file or folder' in fails(capsys, 'evaluate', 'compare', a, tmp_path / 'b')


def test_calibration_with_a_temperature(tmp_path, capsys):
  test, validation = write(tmp_path / 'a', 0, 0.5), write(tmp_path / 'b', 1, 0.5)
  picture = tmp_path / 'reliability.png'
  text = call(capsys, 'calibration', test, '--fit', validation, '--output', picture)
  assert 'as it is' in text and 'temperature' in text and 'ECE, 15 bins of equal width' in text
  assert picture.read_bytes().startswith(b'\x89PNG')
  before, after = json.loads(call(capsys, 'calibration', test, '--fit', validation, '--json'))
  assert after['ece'] < before['ece'] and after['temperature'] > 1 == before['temperature']
  assert sum(row['number'] for row in after['reliability']) == 200
  assert 'name one that exists' in fails(capsys, 'calibration', tmp_path / 'nothing.json')
  assert f'name {test.name} beside it' in fails(
      capsys, 'calibration', test.with_suffix('.jsonl'))
  assert 'fit the temperature on another part' in fails(
      capsys, 'calibration', test, '--fit', test)


@pytest.mark.parametrize('change, message', [
    ({'logprobs': None}, 'no log-likelihoods of choices'), ({'gold': [0, 1]}, 'one right choice'),
    ({'gold': 4}, 'gold is 4'), ({'logprobs': [0, float('-inf')]}, 'is not finite')])
def test_items_without_calibration(change, message, tmp_path, capsys):
  path = write(tmp_path / 'a', 0, number=2)
  lines = path.with_suffix('.jsonl')
  first, second = map(json.loads, lines.read_text().splitlines())
  lines.write_text(json.dumps(first) + '\n' + json.dumps(second | change) + '\n')
  error = fails(capsys, 'calibration', path)
  assert message in error and 'arc-5shot-100.jsonl, item 1' in error


def test_arena(tmp_path, capsys):
  log = tmp_path / 'log.jsonl'
  rows = [('x', 'y', 'a', False), ('x', 'y', 'a', True), ('x', 'y', 'b', False),
          ('y', 'x', 'tie', True)] * 5
  log.write_text(''.join(json.dumps({
      'a': a, 'b': b, 'winner': w, 'swapped': swapped, 'prompt': i // 2}) + '\n'
      for i, (a, b, w, swapped) in enumerate(rows)))
  text = call(capsys, 'arena', log, '--samples=50')
  assert '20 comparisons of 2, 5 ties' in text and 'bootstrap samples of prompts' in text
  assert 'Position: the side shown first scores 37.5 % of 20' in text
  found = json.loads(call(capsys, 'arena', log, '--samples=50', '--json'))
  assert found['names'] == ['x', 'y'] and found['win_rates'][0][1] == 0.625
  points = found['bradley_terry']['points']
  assert 10 ** ((points['x'] - points['y']) / 400) == pytest.approx(12.5 / 7.5)
  log.write_text(log.read_text().splitlines()[0])
  assert 'x won every comparison' in fails(capsys, 'arena', log)
  assert 'with 0.5 wins added' in call(capsys, 'arena', log, '--prior=0.5', '--samples=5')
  assert '--elo_k=0: name a step' in fails(capsys, 'arena', log, '--elo_k=0')
  assert '--samples=0: name one at least' in fails(capsys, 'arena', log, '--samples=0')


def test_questionnaire(tmp_path, capsys):
  path = tmp_path / 'answers.csv'
  path.write_text('system,question,success\n' + ''.join(
      f'{system},found it,{int(i < right)}\n'
      for system, right in (('HDC', 16), ('NBC', 10)) for i in range(20)))
  text = call(capsys, 'questionnaire', path)
  assert 'HDC         20  80.00 %  ±17.53    58.4 – 91.9    56.3 – 94.3' in text
  assert 'HDC and NBC: +30.00, p = 0.047, two proportions' in text
  found = json.loads(call(capsys, 'questionnaire', path, '--json'))
  assert found['cells'][0]['successes'] == 16 and len(found['tests']) == 1


def test_leaderboard(tmp_path, capsys):
  for name, shift in (('lm', 0.0), ('tuned', 3.0)):
    write(tmp_path / name, 0, shift)
  runs = tmp_path / 'lm', tmp_path / 'tuned'
  text = call(capsys, 'leaderboard', *runs)
  assert text.splitlines()[2].startswith('| tuned |')
  page = tmp_path / 'out/board.html'
  assert call(capsys, 'leaderboard', *runs, '--output', page) == f'Leaderboard: {page}\n'
  assert page.read_text().startswith('<!DOCTYPE html>')
  table = tmp_path / 'board.csv'
  call(capsys, 'leaderboard', *runs, '--output', table)
  assert call(capsys, 'leaderboard', table, '--format=csv') == table.read_text()
  assert call(capsys, 'leaderboard', table) == text
  assert 'pass --format' in fails(capsys, 'leaderboard', *runs, '--output', tmp_path / 'x.txt')
  assert 'named twice' in fails(capsys, 'leaderboard', runs[0], runs[0])
  assert 'no such folder' in fails(capsys, 'leaderboard', tmp_path / 'none')
  assert 'name it alone' in fails(capsys, 'leaderboard', table, runs[0])
  assert 'no result of the suite' in fails(capsys, 'leaderboard', *runs, '--suite=open_llm_v1')


def test_the_alignment_tax(tmp_path, capsys):
  """Scores and calibration as `evaluate compare` and `calibration` have them, task by task."""
  paths = write(tmp_path / 'lm', 0, 3.0), write(tmp_path / 'tuned', 1)
  for run, seed in (('lm', 2), ('tuned', 3)):   # no multiple choice
    path = write(tmp_path / run, seed, task='text')
    items = [json.loads(line) for line in path.with_suffix('.jsonl').read_text().splitlines()]
    path.with_suffix('.jsonl').write_text(''.join(json.dumps(
        {name: item[name] for name in ('id', 'metrics')}) + '\n' for item in items))
  runs = [tmp_path / name for name in ('lm', 'tuned')]
  table = tmp_path / 'tax.md'
  out = call(capsys, 'evaluate', 'tax', *runs, f'--output={table}')
  assert out == table.read_text()
  head, _, arc, text = [[cell.strip() for cell in line.split('|')[1:-1]]
                        for line in out.splitlines()]
  assert head[3:5] == ['lm', 'tuned'] and head[7:] == ['ECE', 'Brier', 'NLL']
  (report,) = json.loads(call(capsys, 'evaluate', 'compare', *reversed(paths), '--json'))
  low, high = (100 * end for end in report['interval'])
  assert arc == [
      'arc', '5', 'acc', f'{100 * report["mean_b"]:.1f}', f'{100 * report["mean_a"]:.1f}',
      f'{100 * report["difference"]:+.1f} ({low:+.1f} to {high:+.1f})',
      f'p = {report["mcnemar"]:.2g}',
      *[' → '.join(f'{json.loads(call(capsys, "calibration", path, "--json"))[0][name]:.3f}'
                   for path in paths) for name in ('ece', 'brier', 'nll')]]
  assert text[0] == 'text' and text[6:] == ['no', '', '', '']
  rows = json.loads(call(capsys, 'evaluate', 'tax', *runs, '--json'))
  assert [row['task'] for row in rows] == ['arc', 'text'] and rows[1]['calibration'] is None
  assert rows[0]['after'] - rows[0]['before'] == pytest.approx(report['difference'])
  assert 'compared with itself' in fails(capsys, 'evaluate', 'tax', runs[0], runs[0])

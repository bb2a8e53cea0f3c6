"""Pictures and the table of runs."""

import errno
import json
import os

import pytest

from t5x_lite import cli
from t5x_lite.core.errors import UserError
from t5x_lite.training import plots


def write_run(folder, scale=1.0, tasks=('wiki', 'code'), tokens=100.0):
  """A run of eight steps with a loss of `scale` / step, evaluated at steps 4 and 8."""
  folder.mkdir(parents=True)
  records = []
  for step in range(1, 9):
    records.append({'step': step, 'kind': 'train', 'loss': scale / step, 'accuracy': step / 8,
                    'tokens_per_second': tokens * 2, 'seconds_per_step': 0.5})
    if step % 4 == 0:
      records.append({'step': step, 'kind': 'eval'} | {
          f'{task}/{metric}': scale * (i + 1) for i, task in enumerate(tasks)
          for metric in ('loss', 'f1')})
  (folder / 'metrics.jsonl').write_text('\n'.join(map(json.dumps, records)))
  return folder


@pytest.fixture
def runs(tmp_path):
  return [write_run(tmp_path / 'a/lm'), write_run(tmp_path / 'b/lm', 2.0, tokens=50.0),
          write_run(tmp_path / 'c/large', 3.0, tasks=('wiki',))]


def test_loss_curve_is_a_picture_and_needs_metrics(tmp_path):
  with pytest.raises(UserError, match='is it the folder of a run that was trained'):
    plots.loss_curve(tmp_path)
  picture = plots.loss_curve(write_run(tmp_path / 'run'))
  assert picture == tmp_path / 'run/loss.png'
  assert picture.read_bytes().startswith(b'\x89PNG')


def test_series_differ_without_color_and_carry_the_logged_numbers(runs):
  (axes,) = plots.draw_metric(runs).axes
  lines = {line.get_label(): line for line in axes.lines}
  assert set(lines) == {'a/lm', 'b/lm', 'c/large', 'a/lm, wiki', 'a/lm, code', 'b/lm, wiki',
                        'b/lm, code', 'c/large, wiki'}
  dashes = {lines[name].get_linestyle() for name in ('a/lm', 'b/lm', 'c/large')}
  assert len(dashes) == 3
  assert lines['a/lm, wiki'].get_marker() != lines['a/lm, code'].get_marker()
  assert list(lines['b/lm'].get_ydata()) == [2 / step for step in range(1, 9)]
  assert lines['b/lm, code'].get_xydata().tolist() == [[4, 4.0], [8, 4.0]]
  assert axes.get_legend() is not None and axes.get_ylabel() == 'loss (nats per token)'


def test_tokens_are_summed_over_the_logged_steps(runs):
  (axes,) = plots.draw_metric(runs[:2], unit='tokens').axes
  lines = {line.get_label(): line for line in axes.lines}
  assert list(lines['a/lm'].get_xdata()) == [100.0 * step for step in range(1, 9)]
  assert list(lines['b/lm, wiki'].get_xdata()) == [200.0, 400.0]


def test_the_table_has_a_column_a_run(runs):
  assert plots.runs_table(runs).splitlines() == [
      'run             a/lm  b/lm  c/large',
      'step               8     8        8',
      'tokens           800   400      800',
      'training loss  0.125  0.25    0.375',
      'wiki/loss          1     2        3',
      'wiki/f1            1     2        3',
      'code/loss          2     4        -',
      'code/f1            2     4        -']


def test_the_command_draws_tabulates_and_names_what_it_cannot_draw(runs, tmp_path, capsys):
  picture = tmp_path / 'new/f1.svg'
  command = ['plot', *map(str, runs), f'--output={picture}']
  assert cli.main([*command, '--metric=f1']) == 0
  assert f'Picture: {picture}' in capsys.readouterr().out and b'<svg' in picture.read_bytes()
  for argv, message in (
      ([*command, '--metric=f2'], "has logged no 'f2'; did you mean 'f1'?"),
      (['plot', str(tmp_path / 'none')], 'no such folder'),
      (['plot', str(runs[0]), f'{runs[0]}/'], 'A run is named twice'),
      (['plot', f'{runs[0]}/metrics.jsonl'], f'is a file: name its folder, {runs[0]}'),
      (['plot', str(tmp_path / 'a')], f'holds runs, and is none: name them, such as {tmp_path}/a'),
      (['plot', str(runs[0]), f'--output={tmp_path}/x.foo'], "Format 'foo' is not supported")):
    assert cli.main(argv) == 1
    error = capsys.readouterr().err
    assert message in error and error.count('\n') == 1


def test_a_picture_that_a_full_disk_does_not_take_is_named(tmp_path, monkeypatch, capsys):
  from matplotlib.figure import Figure

  def full(*args, **kwargs):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

  monkeypatch.setattr(Figure, 'savefig', full)
  run = write_run(tmp_path / 'run')
  assert cli.main(['plot', str(run)]) == 1
  assert capsys.readouterr().err.startswith(f'error: {run}/loss.png: No space left on device; free')

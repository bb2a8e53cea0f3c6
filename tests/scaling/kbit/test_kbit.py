"""k-bit inference: what is counted and rounded, the fit of widths, the table, the command."""

import dataclasses
import json
import math
import pathlib

import jax
import numpy as np
import pytest

from scaling.kbit import fit, measurements, report
from scaling.kbit.measurements import Measurement
from t5x_lite import cli, models
from t5x_lite.core import trees
from t5x_lite.core.errors import UserError

COMMITTED = pathlib.Path(measurements.__file__).parents[1] / 'data/kbit/kbit.csv'
SIZES = (1e5, 2e5, 4e5, 8e5, 16e5)


def made(loss_of, sizes=SIZES, widths=(3, 4, 8, 16)):
  """Measurements of models whose total bits are width * parameters, each in one format."""
  return [Measurement(f'm{int(n)}', int(n), f'int{width}' if width < 16 else 'float16', width,
                      16 if width < 16 else 0, int(n * width), loss_of(n, width), 1000, 'text',
                      'bytes') for n in sizes for width in widths]


def law(n, width):
  """Parallel parabolas of total bits, 4 bits the lowest."""
  x = math.log2(n * width)
  return {3: 0.3, 4: 0.0, 8: 0.05, 16: 0.2}[width] + 4 - 0.2 * x + 0.002 * x ** 2


def test_widths_that_follow_the_law_are_told_apart_exactly():
  found = fit.fit_widths(made(law))
  assert len(found.comparisons) == fit.POINTS
  for one in found.comparisons:
    assert one.best == 4 and one.loss.keys() == {3, 4, 8, 16} and not one.tied
    assert 1e5 * 16 * 0.999 < one.total_bits < 16e5 * 3 * 1.001   # where all are measured
    for width, loss in one.loss.items():
      assert loss == pytest.approx(law(one.total_bits / width, width), abs=1e-9)
    for low, value, high in ((low, value, high) for value, low, high in one.behind.values()):
      assert low == pytest.approx(value, abs=1e-8) == high
  assert report.statement(found) == (
      '4 bits have the lowest loss for their total bits at 7 of 7 sizes')


def test_widths_of_equal_loss_cannot_be_told_apart():
  rng = np.random.default_rng(0)
  equal = lambda n, width: 4 - 0.2 * math.log2(n * width) + 0.01 * rng.normal()
  found = fit.fit_widths(made(equal, widths=(4, 8)))
  assert all(one.tied for one in found.comparisons)
  assert report.statement(found) == ('at 7 of 7 the best cannot be told apart, among 4 and 8 bits')


def test_the_interval_covers_the_truth_as_often_as_it_says():
  """4 bits are 0.02 better; models are off their curves, and each measurement a little more."""
  rng, hits = np.random.default_rng(1), []
  for _ in range(200):
    off = dict(zip(SIZES, 0.01 * rng.normal(size=len(SIZES))))
    noisy = lambda n, width, off=off: (4 - 0.2 * math.log2(n * width) + 0.02 * (width == 8)
                                       + off[n] + 0.003 * rng.normal())
    one = fit.fit_widths(made(noisy, widths=(4, 8))).comparisons[3]
    (width, (_, low, high)), = one.behind.items()
    hits.append(low <= (0.02 if width == 8 else -0.02) <= high)
  assert np.mean(hits) > 0.9


def test_the_jackknife_of_a_mean_is_its_standard_error():
  x = np.random.default_rng(2).normal(size=9)
  without = np.array([np.delete(x, i).mean() for i in range(9)])
  assert fit.jackknife_error(without) == pytest.approx(x.std(ddof=1) / 3)


def test_a_width_takes_its_best_format_that_every_model_has():
  found = made(law)
  better = [dataclasses.replace(one, format='nf4', loss=one.loss - 0.01)
            for one in found if one.bits == 4]
  lacking = [dataclasses.replace(one, format='fp4', loss=0.1) for one in better[1:]]
  chosen = fit.choose([*found, *better, *lacking])
  assert {one.format for one in chosen[4]} == {'nf4'} and len(chosen) == 4
  assert [one.parameters for one in chosen[3]] == [*map(int, SIZES)]


def test_a_small_block_pays_for_its_scales():
  """Two bits a parameter more are worth 0.1 nats here, and what they gain is a third of that."""
  slope = lambda n, width: 4 - 0.3 * math.log2(n * width)
  found = made(slope, widths=(4, 8))
  blocks = [dataclasses.replace(one, block=8, loss=one.loss - gain,
                                total_bits=one.total_bits + 2 * one.parameters)
            for one, gain in ((one, 0.03 if one.bits == 8 else 0.3) for one in found)]
  chosen = fit.choose([*found, *blocks])
  assert {one.block for one in chosen[8]} == {16} and {one.block for one in chosen[4]} == {8}


@pytest.mark.parametrize('found, message', [
    (made(law, SIZES[:3]), '3 model.s. of 3 size.s.: a fit with an interval needs 4'),
    (made(law, widths=(4,)), '1 width.s. of codes'),
    (made(law, (1e5, 1.1e5, 1.2e5, 1.3e5), (4, 16)), 'No total bits lie between')])
def test_what_cannot_be_fitted_is_refused(found, message):
  with pytest.raises(UserError, match=message):
    fit.fit_widths(found)


@pytest.mark.parametrize('name, block, levels', [('int3', 8, 3), ('int5', 16, 15), ('int6', 0, 31)])
def test_kernels_are_rounded_and_bits_counted(name, block, levels, configs, random_params):
  config = configs['decoder']
  flat = trees.flatten(random_params(config))
  network = models.build_network(config)
  held, total = measurements.round_kernels(network, flat, name, block)
  want = 0
  for path, x in flat.items():
    if 'kernel' not in path and '/mlp/' not in path:
      assert held[path] is x
      want += 16 * x.size
      continue
    inputs = {'output': 32, 'down': 64}.get(path.split('/')[-2], 32)
    matrix = np.asarray(x).reshape(x.shape[0], inputs, -1)
    blocks = matrix.reshape(x.shape[0], -1, block or inputs, matrix.shape[-1])
    scale = np.abs(blocks).max(-2, keepdims=True)
    value = np.round(blocks / scale * levels) / levels * np.float16(scale).astype(np.float32)
    off = np.abs(np.asarray(held[path]) - value.reshape(x.shape))
    assert np.mean(off > 1e-5) < 1e-3   # ties of rounding
    want += int(name[-1]) * x.size + 16 * scale.size
  assert total == want


def test_a_run_that_is_measured_has_its_loss_in_16_bits_first(configs, random_params):
  import types
  params = random_params(configs['decoder'])
  plain = types.SimpleNamespace(
      params=params, network=models.build_network(configs['decoder']),
      experiment=types.SimpleNamespace(data=types.SimpleNamespace(fingerprint=lambda: 'v')))
  distance = lambda other: types.SimpleNamespace(weight=10, mean=1 + sum(
      float(np.square(x - y).sum()) for x, y in zip(*map(jax.tree.leaves, (params, other)))))
  found = measurements.measure_run('run', plain, distance, 'text', ['int4', 'int8'], [16, 48, 0])
  assert [(one.format, one.block, one.bits) for one in found] == [
      ('float16', 0, 16), ('int4', 16, 4), ('int4', 0, 4), ('int8', 16, 8), ('int8', 0, 8)]
  assert found[0].total_bits == 16 * found[0].parameters
  assert found[0].loss < found[3].loss < found[1].loss < found[2].loss


def test_a_table_is_read_as_it_was_written(tmp_path):
  found = made(law)
  path = tmp_path / 'kbit.csv'
  path.write_text(measurements.to_csv(found))
  assert measurements.read_csv(path) == found
  for text, message in (
      (path.read_text().replace('loss', 'lost', 1), 'no columns'),
      (path.read_text().replace(',text,', ',other,', 1), 'losses of unlike tokens'),
      (path.read_text() + path.read_text().splitlines()[1] + '\n', 'is there twice')):
    path.with_name('bad.csv').write_text(text)
    with pytest.raises(UserError, match=message):
      measurements.read_csv(path.with_name('bad.csv'))


def test_the_committed_measurements_say_what_the_docs_say(capsys, tmp_path):
  assert cli.main(['scaling', 'kbit', f'--table={COMMITTED}', f'--out={tmp_path}/out']) == 0
  said = capsys.readouterr().out
  docs = (COMMITTED.parents[3] / 'docs/scaling.md').read_text(encoding='utf-8')
  assert said.splitlines()[-1] in ' '.join(docs.split())
  result = json.loads((tmp_path / 'out/kbit.json').read_text())
  assert result['statement'] == said.splitlines()[-1]
  assert (tmp_path / 'out/kbit.png').read_bytes().startswith(b'\x89PNG')
  assert (tmp_path / 'out/kbit.csv').read_text() == COMMITTED.read_text()


@pytest.mark.parametrize('flags, message', [
    ([], 'pass --runs=FOLDERS to measure, or --table=FILE'),
    (['--runs=none/*'], '--runs=none/*: no folder is there'),
    (['--runs=.', '--formats=int9'], '--formats=int9: did you mean'),
    (['--runs=.', '--blocks=7'], "'7' is not an even number"),
    (['--runs=.'], 'is no run: it has no config.gin'),
    ([f'--table={COMMITTED}', '--text=x'], '--text is of --runs')])
def test_a_mistake_is_one_line_and_leaves_nothing(flags, message, tmp_path, monkeypatch, capsys):
  monkeypatch.chdir(tmp_path)
  assert cli.main(['scaling', 'kbit', *flags, '--out=out']) == 1
  said = capsys.readouterr().err
  assert message in said and said.count('\n') == 1, said
  assert not [*tmp_path.iterdir()]

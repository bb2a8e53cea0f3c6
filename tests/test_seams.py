"""The parts of docs/seams.md, as they stand there, in a folder outside the repository."""

import pathlib
import re
import sys

import jax
import numpy as np
import pytest

from t5x_lite import cli
from t5x_lite.core import trees
from t5x_lite.core.errors import UserError
from t5x_lite.experiment import gin_config
from t5x_lite.training.checkpoints import reader_of
from t5x_lite.training.initial_params import load_params
from t5x_lite.training.run_folder import RunFolder

TEXT = (pathlib.Path(__file__).resolve().parents[1] / 'docs/seams.md').read_text()
FILES = dict(re.findall(r'^```(?:python|gin) (\S+)\n(.*?)^```$', TEXT, re.M | re.S))
OWN = [pathlib.Path(name).stem for name in FILES if name.endswith('.py')]
TRUSTED = f'--trusted_modules={",".join(OWN)}'
SMALL = ['--gin.STEPS=8', '--gin.BATCH_SIZE=8', '--gin.WARMUP_STEPS=2', '--gin.Bytes.length=16',
         '--gin.TrainConfig.log_every=1', '--gin.ModelConfig.embed_dim=32',
         '--gin.ModelConfig.num_layers=1', '--gin.ModelConfig.num_heads=2',
         '--gin.ModelConfig.mlp_dim=32', '--gin.ModelConfig.init_std=0.02']


@pytest.fixture
def folder(tmp_path, monkeypatch):
  """The files of the page in a folder of their own, and a book; nothing of them is imported."""
  for name, text in FILES.items():
    (tmp_path / name).write_text(text)
  (tmp_path / 'book.txt').write_text('It was the best of times, it was the worst of times. ' * 40)
  monkeypatch.chdir(tmp_path)
  monkeypatch.syspath_prepend(tmp_path)
  yield tmp_path
  for name in FILES:
    sys.modules.pop(pathlib.Path(name).stem, None)


def train(gin_file, *flags, status=0):
  """The metrics of a run in runs/<name>, {step: {name: value}}."""
  name = pathlib.Path(gin_file).stem
  argv = ['train', f'--gin_file={gin_file}', f'--gin.MODEL_DIR=runs/{name}', *SMALL, TRUSTED]
  assert cli.main([*argv, *flags]) == status
  records = RunFolder(pathlib.Path('runs') / name).read_metrics()
  return {r['step']: r for r in records if r['kind'] == 'train'}


def test_each_part_is_under_25_lines():
  parts = {name: len(text.splitlines()) for name, text in FILES.items() if name.endswith('.py')}
  assert len(parts) == 5 and max(parts.values()) < 25, parts


def test_a_source_is_read_and_a_stopped_run_reads_on(folder):
  whole = train('bytes.gin')
  assert sorted(whole) == list(range(1, 9)) and whole[8]['loss'] < whole[1]['loss']
  assert whole[8]['target_tokens'] == 8 * 16
  first = ['--gin.MODEL_DIR=runs/again', '--gin.TrainConfig.checkpoint_every=3']
  (folder / 'halt.gin').write_text(FILES['stop.gin'])
  train('halt.gin', *first, '--gin.StopBelow.loss=1e9', '--gin.StopBelow.every=3')
  again = RunFolder(folder / 'runs/again')
  assert [r['step'] for r in again.read_metrics()] == [1, 2, 3]
  train('halt.gin', *first, '--gin.StopBelow.loss=0.0')
  assert [r['loss'] for r in again.read_metrics() if r['step'] > 3] == [
      whole[step]['loss'] for step in range(4, 9)]


def test_an_objective_is_added_and_its_metric_logged(folder):
  plain, penalised = train('bytes.gin'), train('penalty.gin')
  assert penalised[1]['loss'] == plain[1]['loss']
  assert 0.9 * np.log(384) < penalised[1]['entropy'] < np.log(384)
  for record in penalised.values():
    assert record['objective'] == pytest.approx(record['loss'] - 0.2 * record['entropy'], rel=1e-5)


def test_an_optimizer_steps_and_its_rate_is_logged(folder):
  records = train('lion.gin', '--gin.Lion.weight_decay=0.0')
  rate = records[3]['learning_rate']
  assert rate == pytest.approx(3e-4)
  # Lion moves every parameter by the rate, up or down.
  size = sum(x.size for x in jax.tree.leaves(restored('lion')))
  assert records[3]['update_norm'] == pytest.approx(rate * size ** 0.5, rel=1e-2)


def restored(name):
  experiment, _ = gin_config.load_experiment([f'runs/{name}/config.gin'], (), OWN)
  network, partitioner = experiment.build_network(experiment.mesh.make(jax.devices()[:1]))
  return load_params(experiment.folder, network, partitioner, None)[0]


def test_a_hook_ends_a_run_which_is_saved(folder, capsys):
  records = train('stop.gin', '--gin.StopBelow.loss=1e9')
  assert sorted(records) == [1, 2]
  assert 'Stopped by a loss below 1000000000.0 after step 2: saved' in capsys.readouterr().out
  assert (folder / 'runs/stop/checkpoints/2').is_dir()


def test_frozen_parameters_stay_and_are_in_no_checkpoint(folder):
  train('freeze.gin')
  checkpoints = reader_of(folder / 'runs/freeze')
  step = checkpoints.find_step(None)
  saved = trees.flatten(checkpoints.param_shapes(step))
  assert checkpoints.read_meta(step)['frozen_from'] == {'seed': 0}
  assert saved and not any(name.startswith('embedder') for name in saved)
  params = trees.flatten(restored('freeze'))
  experiment, _ = gin_config.load_experiment(['runs/freeze/config.gin'], (), OWN)
  network, _ = experiment.build_network(experiment.mesh.make(jax.devices()[:1]))
  fresh = trees.flatten(network.init(jax.random.key(0)))
  assert params.keys() == fresh.keys()
  for name, value in params.items():
    same = np.allclose(value, fresh[name], rtol=0, atol=1e-6)
    assert same == name.startswith('embedder'), name


FROM_ANOTHER = """
experiment.Experiment.init_from = @experiment.InitFrom()
experiment.InitFrom.model_dir = 'runs/bytes'
"""


@pytest.mark.parametrize('start', ['', FROM_ANOTHER], ids=['a seed', 'another run'])
def test_a_run_with_frozen_parameters_resumes_as_if_it_had_never_stopped(start, folder):
  if start:
    train('bytes.gin')
  (folder / 'tuned.gin').write_text(FILES['freeze.gin'] + start)
  whole = train('tuned.gin')
  if start:
    base, tuned = trees.flatten(restored('bytes')), trees.flatten(restored('tuned'))
    assert {n for n in base if np.array_equal(base[n], tuned[n])} == {
        n for n in base if n.startswith('embedder')}
  (folder / 'halted.gin').write_text((folder / 'tuned.gin').read_text() + """
import mystop
experiment.Experiment.hooks = (@mystop.StopBelow(),)
mystop.StopBelow.loss = 1e9
mystop.StopBelow.every = 3
""")
  train('halted.gin')
  rest = train('halted.gin', '--gin.StopBelow.loss=0.0')
  assert {step: rest[step]['loss'] for step in range(4, 9)} == {
      step: whole[step]['loss'] for step in range(4, 9)}


def test_a_module_that_is_not_trusted_is_not_imported(folder, capsys):
  argv = ['train', '--gin_file=bytes.gin', '--gin.MODEL_DIR=runs/x']
  assert cli.main(argv) == 1
  said = capsys.readouterr().err
  assert said == ('error: bytes.gin:3: mybytes is not part of this project: pass '
                  '--trusted_modules=mybytes to let gin import it and run its code\n')
  assert 'mybytes' not in sys.modules


@pytest.mark.parametrize('flag, message', [
    ('--gin.Lion.beta3=1', "Lion has no 'beta3'; did you mean"),
    ('--gin.Lion.beta1=high', "Lion.beta1 = 'high': expected float (the command line)"),
    ('--gin.Experiment.optimizer=@mylion.Lyon()', "name 'mylion.Lyon'; did you mean 'Lion'"),
])
def test_a_users_class_is_checked_as_ours_are(flag, message, folder, capsys):
  train('lion.gin', flag, status=1)
  said = capsys.readouterr().err
  assert message in said and said.count('\n') == 1


def test_a_bug_in_a_users_class_shows_its_traceback(folder):
  """Of its constructor, of its methods, and of its module."""
  text = FILES['mylion.py']
  for old, new, error in (
      ('  def make', "  def __post_init__(self):\n    self.beta1.nothing\n\n  def make",
       AttributeError),
      ('return optax.lion(', "return {}['lion'](", KeyError),
      ('import optax', 'import optax\nundefined', NameError)):
    sys.modules.pop('mylion', None)
    (folder / 'mylion.py').write_text(text.replace(old, new))
    with pytest.raises(error) as raised:
      train('lion.gin')
    assert not isinstance(raised.value, UserError)
    assert str(folder / 'mylion.py') in {str(entry.path) for entry in raised.traceback}

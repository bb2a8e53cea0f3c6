"""`infer` and `eval` of a base with adapters from gin, one chosen by name; what is refused."""

import contextlib
import functools
import os
import pathlib
import shutil

import jax
import numpy as np
import pytest

from t5x_lite import cli
from t5x_lite.commands import adapters, eval, infer, train
from t5x_lite.core import trees
from t5x_lite.core.errors import UserError
from t5x_lite.experiment import gin_config
from t5x_lite.training import initial_params
from t5x_lite.training.checkpoints import Checkpoints
from t5x_lite.training.initial_params import FROZEN_FROM

DATA = pathlib.Path(os.environ.get('T5X_LITE_TEST_DATA', '')) / 'peers' / 'lora'
TINY = ['MeshConfig.data=1', 'BATCH_SIZE=8', 'TARGETS_LENGTH=16', 'InferConfig.batch_size=8',
        'InferConfig.max_tokens=6', 'ModelConfig.num_layers=1', 'ModelConfig.embed_dim=32',
        'ModelConfig.num_heads=2', 'ModelConfig.mlp_dim=64']
LORA = ['Experiment.adaptation=@lora.Lora()', 'Lora.rank=4']
CODES = ['Experiment.adaptation=@quantized.Quantized()', 'Quantized.block=32']


def write_run(gin_file, model_dir, *bindings, step=2, seed=0, base=None):
  """A run of random parameters; if `base` is a run, that of an adapter on it."""
  experiment, text = gin_config.load_experiment(
      [str(gin_file)], [*TINY, f"MODEL_DIR='{model_dir}'", 'Experiment.eval=None', *bindings],
      trains=False)
  network, _ = experiment.build_network(experiment.mesh.make(jax.devices()[:1]))
  params = jax.jit(network.init)(jax.random.key(seed))
  params, _ = trees.partition(params, network.is_trained)
  draw = lambda path, x: 0.5 * jax.random.normal(jax.random.key(seed + x.size), x.shape)
  meta = {'vocabulary': experiment.data.fingerprint()}
  if base is not None:
    params = jax.tree_util.tree_map_with_path(draw, params)
    meta |= {initial_params.ADDED: initial_params.added_paths(network),
             FROZEN_FROM: initial_params.origin_of(base, step)}
  model_dir.mkdir()
  (model_dir / 'config.gin').write_text(text)
  with contextlib.closing(Checkpoints(model_dir, keep=1)) as saved:
    saved.save_params(params, step, meta)


def own(folder, *bindings):
  """A run as its own config has it."""
  return gin_config.load_experiment([str(folder / 'config.gin')], bindings, trains=False)[0]


@functools.cache
def own_answers(folder):
  return answers(own(folder))


@pytest.fixture(scope='module')
def runs(gin_file, tmp_path_factory):
  """A base, `base`, one of other parameters, `other`, and three adapters on `base`."""
  folder = tmp_path_factory.mktemp('runs')
  write_run(gin_file, folder / 'base')
  write_run(gin_file, folder / 'other', seed=1)
  on_base = dict(base=folder / 'base')
  write_run(gin_file, folder / 'a', *LORA, seed=2, **on_base)
  write_run(gin_file, folder / 'b', *LORA, 'Lora.dropout=0.1', seed=3, **on_base)
  write_run(gin_file, folder / 'codes', *LORA, *CODES, 'Quantized.adaptation=@lora.Lora()', seed=4,
            **on_base)
  return folder


def with_adapters(runs, *bindings, base='base', **folders):
  named = {name: str(runs / folder) for name, folder in folders.items()}
  return gin_config.load_experiment(
      [str(runs / base / 'config.gin')], [f'Experiment.adapters={named!r}', *bindings],
      trains=False)[0]


def answers(experiment):
  return infer.answer(experiment, ['1 + 2 =', '13'])


def test_each_answers_as_its_own_run_and_none_as_the_base(runs):
  choose = lambda name: answers(with_adapters(
      runs, f'Experiment.adapter={name!r}', x='a', y='b'))
  found = {name: choose(name) for name in ('x', 'y', None)}
  assert found == {name: own_answers(runs / folder)
                   for name, folder in (('x', 'a'), ('y', 'b'), (None, 'base'))}
  assert len({record['score'] for records in found.values() for record in records}) == 6


def test_a_generator_changes_its_adapter_without_compiling(runs):
  experiment = with_adapters(runs, x='a', y='b')
  network, partitioner = experiment.build_network(experiment.mesh.make())
  found, step = adapters.load_adapters(experiment, network, partitioner, None, None)
  assert step == 2
  generator = infer.load_generator(experiment, found.params('x'))[0]
  first = generator(['1 + 2 ='])
  second = generator.with_params(found.params('y'))(['1 + 2 ='])
  assert first != second and first == generator(['1 + 2 ='])
  assert generator._generate._cache_size() == 1
  shared = {id(x) for x in jax.tree.leaves(found.base)}
  for name in 'xy':
    assert shared <= {id(x) for x in jax.tree.leaves(found.params(name))}


def test_a_base_is_quantised_as_it_is_read_and_evaluated_with_an_adapter(runs, capsys):
  chosen = with_adapters(runs, *CODES, "Experiment.adapter='q'", q='codes')
  assert answers(chosen) == own_answers(runs / 'codes')
  assert 'note' not in capsys.readouterr().err
  # On the plain base its numbers are others, which is said.
  answers(with_adapters(runs, "Experiment.adapter='q'", q='codes'))
  assert 'was trained on kernels in format nf4, block 32, double True, and answers here on ' \
         'kernels in float32' in capsys.readouterr().err
  scores = ['Experiment.eval=@evaluator.EvalConfig()', 'EvalConfig.num_examples=8',
            'EvalConfig.batch_size=8']
  got, want = (eval.evaluate(x) for x in (
      with_adapters(runs, *CODES, *scores, "Experiment.adapter='q'", q='codes'),
      own(runs / 'codes', *scores)))
  assert got == want and got


def test_outputs_are_named_after_the_adapter(runs, tmp_path, capsys):
  (tmp_path / 'p.txt').write_text('1 + 1\n')
  code = cli.main(['infer', f'--gin_file={runs}/base/config.gin',
                   f"--gin.Experiment.adapters={{'a/1': '{runs}/a'}}",
                   '--gin.Experiment.adapter=a/1', f'--gin.InferConfig.input={tmp_path}/p.txt'])
  assert code == 0, capsys.readouterr().err
  (file,) = (runs / 'base').glob('inferences-p-a_1-2.jsonl')
  file.unlink()


@pytest.mark.parametrize('folder, flags, message', [
    ('a', ['adapter=y'], "Experiment.adapter = 'y': is none of Experiment.adapters; choose from x"),
    (None, ['adapter=y'], 'is none of Experiment.adapters; there are none'),
    ('base', [], 'is a run without an adapter'),
    ('nowhere', [], 'holds neither the config.gin of a run nor the adapter_config.json of PEFT'),
    ('a', ['base=other'], "'x': the adapter is for another base, step 2 of "),
    ('b', ['base=a'], 'the run is adapted itself: give the config.gin of its'),
    ('a', ['ModelConfig.rope_theta=5.0'], "'x': the adapter is for another base: of "
     'ModelConfig.rope_theta 10000.0, where this one has 5.0')])
def test_what_does_not_fit_is_refused_in_one_line(runs, capsys, folder, flags, message):
  base = next((flag[5:] for flag in flags if flag.startswith('base=')), 'base')
  given = [f'--gin.{flag}'.replace('gin.adapter', 'gin.Experiment.adapter') for flag in flags
           if not flag.startswith('base=')]
  if folder is not None:
    given.append(f'--gin.Experiment.adapters={ {"x": str(runs / folder)}!r}')
  code = cli.main(['infer', f'--gin_file={runs}/{base}/config.gin', '--prompt=1', *given])
  err = capsys.readouterr().err
  assert code == 1 and message in err and err.count('\n') == 1, err


def test_an_adapter_that_is_cut_off_is_refused(runs, tmp_path):
  half = shutil.copytree(runs / 'a', tmp_path / 'half')
  shutil.rmtree(half / 'checkpoints/2/params')
  with pytest.raises(UserError, match="'x': .*is damaged") as error:
    answers(with_adapters(runs, "Experiment.adapter='x'", x=half))
  assert '\n' not in str(error.value)


def test_training_refuses_what_only_answers(runs, gin_file, tmp_path):
  for bindings, message in (
      ([f"Experiment.adapters={{'x': '{runs}/a'}}"], 'are of infer and eval'),
      (CODES, 'trains nothing: set it to an adapter')):
    experiment, text = gin_config.load_experiment(
        [gin_file], [*TINY, 'WARMUP_STEPS=1', f"MODEL_DIR='{tmp_path}/run'", *bindings])
    with pytest.raises(UserError, match=message):
      train.train(experiment, text)
  assert not (tmp_path / 'run/config.gin').exists()


@pytest.mark.skipif(not DATA.is_dir(), reason='T5X_LITE_TEST_DATA/peers/lora is unset')
def test_folders_of_peft_give_pefts_logits(tmp_path):
  assert cli.main(['import', f'--from={DATA}/llama/base', f'--to={tmp_path}/base']) == 0
  names = 'dora_all', 'patterns', 'modules_to_save'
  experiment = with_adapters(tmp_path, **{name: DATA / 'llama' / name for name in names})
  network, partitioner = experiment.build_network(experiment.mesh.make(jax.devices()[:1]))
  found, _ = adapters.load_adapters(experiment, network, partitioner, None, None)
  logits = jax.jit(lambda params, batch: network.bind(params)(batch))
  for name in names:
    fixture = np.load(DATA / 'llama' / name / 'fixture.npz')
    batch = dict.fromkeys(('decoder_input_tokens', 'decoder_target_tokens'),
                          np.int32(fixture['input_ids']))
    np.testing.assert_allclose(logits(found.params(name), batch), fixture['adapter_logits'],
                               atol=1e-4)
  assert trees.flatten(found.base).keys() == trees.flatten(network.shapes).keys()
  experiment = with_adapters(tmp_path, other=DATA / 'gpt2/lora_attn')
  with pytest.raises(UserError, match="'other': .*the adapter is for another base"):
    adapters.load_adapters(experiment, network, partitioner, None, None)


def test_an_adapters_own_run_is_not_answered_for_on_another_base(runs, tmp_path):
  load = lambda folder: own(runs / 'a', 'Experiment.init_from=@experiment.InitFrom()',
                            f"InitFrom.model_dir='{folder}'")
  with pytest.raises(UserError, match=r'a was trained on step 2 of .*base, whose parameters are '
                                      r'not those of INIT_FROM, .*other: leave INIT_FROM as it is'):
    answers(load(runs / 'other'))
  shutil.copytree(runs / 'base', tmp_path / 'copy')
  want = own_answers(runs / 'a')
  assert answers(load(tmp_path / 'copy')) == answers(load(tmp_path / 'gone')) == want

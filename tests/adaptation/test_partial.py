"""A run with frozen parameters: what it trains and saves, that it resumes, what starts from it."""


import jax
import numpy as np
import pytest

from t5x_lite.adaptation.partial import Partial
from t5x_lite.commands import eval, train
from t5x_lite.core import trees
from t5x_lite.core.errors import UserError
from t5x_lite.experiment import gin_config
from t5x_lite.training import run_folder
from t5x_lite.training.checkpoints import reader_of
from t5x_lite.training.initial_params import load_params

# Two layers, of which parts are frozen: the tree of parameters has layers, which are ints, in both.
TINY = ['ModelConfig.embed_dim=32', 'ModelConfig.num_layers=2', 'ModelConfig.num_heads=2',
        'ModelConfig.mlp_dim=32', 'BATCH_SIZE=8', 'STEPS=6', 'WARMUP_STEPS=1', 'TARGETS_LENGTH=16',
        'TrainConfig.log_every=1', 'EvalConfig.num_examples=8', 'EvalConfig.batch_size=8']
NORMS = ['Experiment.adaptation=@partial.Partial()', "Partial.trained='norm'"]


def run(gin_file, model_dir, *bindings):
  experiment, text = gin_config.load_experiment(
      [gin_file], [*TINY, f"MODEL_DIR='{model_dir}'", *bindings])
  return experiment, train.train(experiment, text)


@pytest.fixture(scope='module')
def norms(gin_file, tmp_path_factory):
  """A finished run that trains the scales of norms alone."""
  return run(gin_file, tmp_path_factory.mktemp('norms') / 'run', *NORMS)


def network_of(experiment):
  return experiment.build_network(experiment.mesh.make(jax.devices()[:1]))


def losses(experiment):
  records = run_folder.read_metrics(experiment.folder / 'metrics.jsonl')
  return [r['loss'] for r in records if r['kind'] == 'train']


def test_what_matches_is_trained_and_saved_the_rest_stays_as_the_seed_gave_it(norms):
  experiment, _ = norms
  network, partitioner = network_of(experiment)
  fresh = trees.flatten(jax.jit(network.init)(jax.random.key(experiment.seed)))
  params, step = load_params(experiment.folder, network, partitioner, None)
  assert step == 6
  assert jax.tree.structure(params) == jax.tree.structure(network.shapes)
  for path, x in trees.flatten(params).items():
    assert np.allclose(x, fresh[path], rtol=1e-5, atol=0) == ('norm' not in path), path
  source = reader_of(experiment.folder)
  step = source.find_step(None)
  saved = set(trees.flatten(source.param_shapes(step)))
  assert saved == {path for path in fresh if 'norm' in path}


def test_the_checkpoint_is_evaluated_as_the_run_was(norms):
  experiment, result = norms
  assert eval.evaluate(experiment) == pytest.approx(result.metrics)


def test_a_stopped_run_resumes_exactly(norms, gin_file, tmp_path):
  run(gin_file, tmp_path / 'run', *NORMS, 'TrainConfig.steps=3')
  experiment, _ = run(gin_file, tmp_path / 'run', *NORMS)
  assert losses(experiment) == losses(norms[0])


def test_another_run_starts_from_it_and_trains_other_parameters(norms, gin_file, tmp_path):
  source, _ = norms
  experiment, _ = run(
      gin_file, tmp_path / 'run', 'Experiment.init_from=@experiment.InitFrom()',
      f"InitFrom.model_dir='{source.folder}'", *NORMS[:1], "Partial.trained='layers?/1|blocks/1'")
  network, partitioner = network_of(experiment)
  base, _ = load_params(source.folder, network_of(source)[0], partitioner, None)
  params, _ = load_params(experiment.folder, network, partitioner, None)
  base, params = trees.flatten(base), trees.flatten(params)
  changed = {path for path in base if not np.array_equal(base[path], params[path])}
  assert changed == {path for path in base if network.is_trained(path)}
  assert 0 < len(changed) < len(base)


def test_an_adaptation_that_trains_nothing_is_refused_before_the_folder_is_made(
    gin_file, tmp_path):
  with pytest.raises(UserError, match=r"Partial\(trained='lora'\): trains none of .*embed"):
    run(gin_file, tmp_path / 'run', *NORMS[:1], "Partial.trained='lora'")
  assert not (tmp_path / 'run').exists()


def test_an_invalid_expression_is_refused():
  with pytest.raises(UserError, match=r"Partial.trained = '\(': not a regular expression"):
    Partial(trained='(')

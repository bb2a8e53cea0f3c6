"""A run with frozen parameters: what it trains and saves, that it resumes, what starts from it."""

import jax
import numpy as np
import pytest

from t5x_lite.adaptation.partial import Partial
from t5x_lite.commands import eval
from t5x_lite.core import trees
from t5x_lite.core.errors import UserError
from t5x_lite.training import run_folder
from t5x_lite.training.checkpoints import reader_of
from t5x_lite.training.initial_params import load_params

NORMS = ['Experiment.adaptation=@partial.Partial()', "Partial.trained='norm'"]


@pytest.fixture(scope='module')
def norms(run, tmp_path_factory):
  """A finished run that trains the scales of norms alone."""
  return run(tmp_path_factory.mktemp('norms') / 'run', *NORMS)


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
  assert step == 4
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


def test_a_stopped_run_resumes_exactly(norms, resumed, tmp_path):
  experiment = resumed(norms[0], tmp_path / 'run', *NORMS)
  assert losses(experiment) == losses(norms[0])


def test_another_run_starts_from_it_and_trains_other_parameters(norms, run, tmp_path):
  source, _ = norms
  experiment, _ = run(
      tmp_path / 'run', 'Experiment.init_from=@experiment.InitFrom()',
      f"InitFrom.model_dir='{source.folder}'", *NORMS[:1], "Partial.trained='layers?/1|blocks/1'")
  network, partitioner = network_of(experiment)
  base, _ = load_params(source.folder, network_of(source)[0], partitioner, None)
  params, _ = load_params(experiment.folder, network, partitioner, None)
  base, params = trees.flatten(base), trees.flatten(params)
  changed = {path for path in base if not np.array_equal(base[path], params[path])}
  assert changed == {path for path in base if network.is_trained(path)}
  assert 0 < len(changed) < len(base)


def test_an_adaptation_that_trains_nothing_is_refused_before_the_folder_is_made(
    run, tmp_path):
  with pytest.raises(UserError, match=r"Partial\(trained='lora'\): trains none of .*embed"):
    run(tmp_path / 'run', *NORMS[:1], "Partial.trained='lora'")
  assert not (tmp_path / 'run').exists()


def test_an_invalid_expression_is_refused():
  with pytest.raises(UserError, match=r"Partial.trained = '\(': not a regular expression"):
    Partial(trained='(')

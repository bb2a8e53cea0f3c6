"""Text of pretraining beside rollouts: what a step reads, on meshes, in parts, and after a stop."""

import dataclasses
import shutil

import jax
import numpy as np
import pytest

from t5x_lite.core.dataclass_checks import FieldError
from t5x_lite.data.source import Source
from t5x_lite.inference.rollouts.estimators import ValueEstimator
from t5x_lite.inference.rollouts.source import Rollouts
from t5x_lite.inference.rollouts.with_pretraining import WithPretraining
from t5x_lite.objectives.policy.policy_loss import PolicyLoss
from t5x_lite.objectives.policy.pretraining_mix import PretrainingMix
from t5x_lite.objectives.policy.value_loss import ValueLoss
from t5x_lite.training.run_folder import RunFolder
from tests.conftest import CONFIGS
from tests.inference.rollouts.letters import Follower, Prompts, Vowels, assert_goes_on_as

LENGTH = 9
CONFIG = dataclasses.replace(CONFIGS['decoder'], head='value', num_layers=1)
OBJECTIVES = (PolicyLoss(), ValueLoss(), PretrainingMix(gamma=2.0))


@dataclasses.dataclass(frozen=True)
class Text(Source):
  """Rows of random letters; row i of the stream follows from the seed and i."""
  batch_size: int = 16
  vocabulary_name: str | None = None
  name = 'text'
  lengths = {'targets': LENGTH}

  def fingerprint(self):
    return self.vocabulary_name

  def batches(self, model, *, seed, start=0, shard=(0, 1)):
    while True:
      rows = [np.random.default_rng((seed, i)).integers(4, 30, LENGTH)
              for i in range(start, start + self.batch_size)][shard[0]::shard[1]]
      # rows of unequal weight: a mean of the means of parts would be another
      weights = np.stack([np.arange(LENGTH) < 1 + row[0] % LENGTH for row in rows])
      targets = np.stack(rows).astype(np.int32)
      yield {'decoder_input_tokens': np.pad(targets[:, :-1], ((0, 0), (1, 0))),
             'decoder_target_tokens': targets, 'decoder_loss_weights': weights.astype(np.int32)}
      start += self.batch_size


def follow(folder, text=Text(), **settings):
  return Follower(folder, CONFIG, OBJECTIVES, ValueEstimator(), group_size=1, epochs=2, rate=1e-2,
                  prompts=Prompts(batch_size=text.batch_size),
                  wrap=lambda source: WithPretraining(source=source, text=text), **settings)


@pytest.fixture(scope='module')
def whole(tmp_path_factory):
  """A run of four steps; `states` are copies of its state and folder before each of them."""
  run, folder = follow(tmp_path_factory.mktemp('whole')), tmp_path_factory.mktemp('states')
  run.states = []
  for step in range(4):
    run.states.append((jax.device_get(run.state), folder / str(step)))
    shutil.copytree(run.run_context.folder.path, folder / str(step))
    run.run(1)
  return run


def state_of(whole, step):
  """The state before a step, of arrays that a step may take the memory of."""
  return jax.tree.map(jax.numpy.array, whole.states[step][0])


def test_a_step_reads_a_batch_of_rollouts_and_the_next_one_of_text(whole, tmp_path):
  """The rollout of the first two steps is that of a run without text."""
  context = dataclasses.replace(whole.run_context, folder=RunFolder(tmp_path))
  alone = whole.source.source.open(context)(state_of(whole, 0))
  text = Text().batches(CONFIG, seed=0)
  for step, (batch, _, stats) in enumerate(whole.seen):
    want = next(text)
    found = {name.removeprefix('pretraining_'): x for name, x in batch.items()
             if name.startswith('pretraining_')}
    assert found.keys() == want.keys()
    for name, x in want.items():
      np.testing.assert_array_equal(found[name], x, err_msg=f'{name} of step {step}')
    assert 'reward' in stats and batch['rollout'].tolist() == [step // 2] * 16
  first = whole.seen[0][0]
  for name, x in alone.items():
    np.testing.assert_array_equal(first[name], x, err_msg=name)


def test_the_loss_of_text_falls_and_is_logged_a_token(whole):
  losses = [whole.metric(step, 'pretraining_loss') for step in range(4)]
  weights = [whole.seen[step][0]['pretraining_decoder_loss_weights'].sum() for step in range(4)]
  assert [float(whole.seen[i][1].metrics['pretraining_loss'][1]) for i in range(4)] == weights
  assert losses[3] < losses[0] - 0.1


@pytest.mark.parametrize('changes', [
    dict(microbatches=2), pytest.param(dict(devices=8), marks=pytest.mark.slow)],
                         ids=['microbatches', 'mesh'])
def test_a_mesh_and_microbatches_learn_the_same(changes, whole, tmp_path):
  other = follow(tmp_path, **changes).run(1)
  for name in ('loss', 'grad_norm', 'pretraining_loss', 'pretraining_accuracy', 'value_loss'):
    assert whole.metric(0, name) == pytest.approx(other.metric(0, name), abs=1e-5), name


@pytest.mark.parametrize('stop', [
    pytest.param(2, marks=[pytest.mark.slow, pytest.mark.sweep]), 3])
def test_a_run_that_is_stopped_and_resumed_is_the_same_bit_for_bit(stop, whole, tmp_path):
  """Between two rollouts, and within one."""
  shutil.copytree(whole.states[stop][1], tmp_path / 'run')
  again = follow(tmp_path / 'run', start=stop, state=state_of(whole, stop)).run(4 - stop)
  assert_goes_on_as(again, whole, stop)


def test_shards_are_rows_of_the_same_batches(whole, tmp_path):
  whole_batch = whole.seen[0][0]
  for index in range(2):
    run = dataclasses.replace(whole.run_context, shard=(index, 2), folder=RunFolder(tmp_path / str(
        index)))
    batch = whole.source.open(run)(state_of(whole, 0))
    for name, x in batch.items():
      np.testing.assert_array_equal(x, whole_batch[name][index::2], err_msg=name)


def test_text_that_does_not_fit_the_rollouts_is_refused(tmp_path):
  rollouts = Rollouts(prompts=Prompts(), rewards=(Vowels(),), estimator=ValueEstimator(),
                      group_size=1)
  with pytest.raises(FieldError, match='has batches of 8 rows, and rollouts have 16: set the same'):
    WithPretraining(source=rollouts, text=Text(batch_size=8))
  with pytest.raises(FieldError, match='Text has no rollouts: give it @source.Rollouts'):
    WithPretraining(source=Text(), text=Text())
  with pytest.raises(FieldError, match='Rollouts follows from the policy'):
    WithPretraining(source=rollouts, text=rollouts)
  with pytest.raises(FieldError, match='text has the vocabulary other, and the policy None: give '
                     'both the same'):
    follow(tmp_path, text=Text(vocabulary_name='other'))

"""A policy on its own completions: what holds at step 0, on meshes, and after a stop."""

import dataclasses
import json
import shutil

import jax
import numpy as np
import pytest

from t5x_lite.core.dataclass_checks import FieldError
from t5x_lite.core.errors import UserError
from t5x_lite.inference.rollouts import policy
from t5x_lite.inference.rollouts.estimators import GroupEstimator, ValueEstimator
from t5x_lite.inference.rollouts.source import Rollouts
from t5x_lite.objectives.policy.policy_loss import PolicyLoss
from t5x_lite.objectives.policy.value_loss import ValueLoss
from t5x_lite.rewards.reward import Rating
from t5x_lite.training.run_folder import RunFolder
from tests.conftest import CONFIGS
from tests.inference.rollouts.letters import (
  INPUTS,
  TARGETS,
  Follower,
  Prompts,
  Vowels,
  assert_goes_on_as,
)

GRPO = dict(objectives=(PolicyLoss(beta=0.04),), estimator=GroupEstimator())
PPO = dict(objectives=(PolicyLoss(), ValueLoss()), estimator=ValueEstimator(), group_size=1,
           epochs=2, minibatches=2)
METHODS = {'grpo': GRPO, 'ppo': PPO}


def config_of(kind, method):
  return dataclasses.replace(CONFIGS[kind], head='value' if method == 'ppo' else None)


def records_of(folder):
  return [json.loads(line) for line in RunFolder(folder).rollouts.read_text().splitlines()]


@pytest.fixture(scope='module')
def grpo(tmp_path_factory):
  """Six steps of three rollouts, each of two minibatches."""
  folder = tmp_path_factory.mktemp('grpo')
  return folder, Follower(folder, CONFIGS['decoder'], minibatches=2, rate=1e-2, **GRPO).run(6)


def test_rows_are_prompts_and_completions_as_the_model_reads_them(grpo):
  _, follower = grpo
  batch = follower.seen[0][0]
  assert batch['decoder_input_tokens'].shape == (16, INPUTS + TARGETS)
  for r in range(16):
    there = batch['decoder_segment_ids'][r] > 0
    inputs, targets = batch['decoder_input_tokens'][r], batch['decoder_target_tokens'][r]
    assert inputs[0] == 0 and (inputs[1:there.sum()] == targets[:there.sum() - 1]).all()
    written = batch['decoder_loss_weights'][r] > 0
    if written.any():   # a group of equal rewards has no weight
      ids = targets[written].tolist()
      assert 1 not in ids[:-1] and (ids[-1] == 1 or len(ids) == TARGETS)
      assert np.flatnonzero(written).tolist() == [*range(there.sum() - len(ids), there.sum())]
    assert not inputs[~there].any() and not batch['advantages'][r][~written].any()


@pytest.mark.parametrize('kind, method', [
    ('decoder', 'grpo'), ('decoder', 'ppo'),
    pytest.param('encoder_decoder', 'grpo', marks=pytest.mark.slow),
    pytest.param('encoder_decoder', 'ppo', marks=pytest.mark.slow)])
def test_at_step_0_kl_is_0_and_the_ratio_1_and_without_learning_they_stay(kind, method, tmp_path):
  follower = Follower(tmp_path, config_of(kind, method), rate=0.0, **METHODS[method]).run(20)
  for step in range(20):
    stats = follower.stats(step)
    assert stats['kl'] == stats['kl_sequence'] == 0.0
    assert stats['sampling_mismatch'] == pytest.approx(1, abs=1e-5)
    assert follower.metric(step, 'ratio') == pytest.approx(1, abs=1e-6)
    assert follower.metric(step, 'mismatch') == pytest.approx(1, abs=1e-6)
  assert follower.stats(0)['reward'] != follower.stats(19)['reward'], 'each rollout is another'


def test_a_step_off_the_policy_has_other_ratios_and_a_kl(grpo):
  _, follower = grpo
  assert follower.metric(0, 'mismatch') == pytest.approx(1, abs=1e-6)
  assert follower.metric(1, 'mismatch') > 1.001, 'the second minibatch is after an update'
  assert follower.metric(2, 'mismatch') == pytest.approx(1, abs=1e-6), 'a new rollout'
  assert follower.stats(0)['kl'] == 0 != follower.stats(5)['kl']


def test_each_epoch_reads_every_row_of_the_rollout_once_in_an_order_of_its_own(tmp_path):
  follower = Follower(tmp_path, CONFIGS['decoder'], minibatches=2, epochs=2, rate=0.0,
                      **GRPO).run(4)
  rows = [sorted(map(tuple, np.concatenate([
      follower.seen[i][0]['decoder_target_tokens'] for i in pair]))) for pair in ((0, 1), (2, 3))]
  assert rows[0] == rows[1]
  first = [follower.seen[i][0]['decoder_target_tokens'] for i in (0, 2)]
  assert (first[0] != first[1]).any()


def test_every_completion_is_recorded_with_its_reward_and_kl(grpo):
  folder, follower = grpo
  records = records_of(folder)
  assert [r['rollout'] for r in records] == [0] * 32 + [1] * 32 + [2] * 32
  vowels = lambda text: sum(c in 'aeiou' for c in text) / max(len(text), 1)
  for record in records:
    assert record['reward'] == pytest.approx(vowels(record['completion']))
    assert record['reference'] == record['prompt'][0]
  assert [len({r['prompt'] for r in records[i:i + 4]}) for i in range(0, 96, 4)] == [1] * 24
  assert np.mean([r['reward'] for r in records[:32]]) == pytest.approx(follower.stats(0)['reward'])
  assert {r['kl'] for r in records[:32]} == {0.0} and any(r['kl'] for r in records[64:])


@pytest.mark.parametrize('method, stop', [
    ('ppo', 3), *(pytest.param(*case, marks=[pytest.mark.slow, pytest.mark.sweep]) for case in (
        ('grpo', 3), ('grpo', 4), ('ppo', 4)))])
def test_a_run_that_is_stopped_and_resumed_is_the_same_bit_for_bit(method, stop, tmp_path):
  """Stopped between two rollouts of four steps, and within one; what came after is done anew."""
  settings = dict(config=config_of('decoder', method), rate=1e-2, **METHODS[method])
  if method == 'grpo':
    settings |= dict(minibatches=2, epochs=2)
  else:
    settings['estimator'] = ValueEstimator(kl_target=0.1, kl_horizon=100.0)
  whole = Follower(tmp_path / 'whole', **settings).run(10)
  first = Follower(tmp_path / 'run', **settings).run(stop)
  saved = jax.tree.map(np.asarray, jax.device_get(first.state))
  first.run(3)   # killed after the checkpoint
  again = Follower(tmp_path / 'run', **settings, start=stop,
                   state=jax.tree.map(jax.numpy.asarray, saved)).run(10 - stop)
  assert_goes_on_as(again, whole, stop)
  assert records_of(tmp_path / 'run') == records_of(tmp_path / 'whole')


@pytest.mark.parametrize('method', [
    'grpo', pytest.param('ppo', marks=pytest.mark.slow)])
@pytest.mark.parametrize('changes', [dict(devices=8), dict(microbatches=2)],
                         ids=['mesh', 'microbatches'])
def test_a_mesh_and_microbatches_learn_the_same(method, changes, tmp_path):
  # 32 rows, so that eight devices have a group each
  settings = dict(config=config_of('decoder', method), prompts=Prompts(batch_size=32),
                  **METHODS[method])
  one = Follower(tmp_path / 'one', **settings).run(1)
  other = Follower(tmp_path / 'other', **settings, **changes).run(1)
  for name in ('decoder_target_tokens', 'decoder_loss_weights'):
    np.testing.assert_array_equal(one.seen[0][0][name], other.seen[0][0][name])
  for name in ('loss', 'grad_norm', 'ratio'):
    assert one.metric(0, name) == pytest.approx(other.metric(0, name), abs=1e-5)


def test_the_policy_that_is_kept_close_stays_and_the_one_that_is_not_goes(tmp_path):
  learn = lambda name, beta: Follower(
      tmp_path / name, CONFIGS['decoder'], objectives=(PolicyLoss(beta=beta),),
      estimator=GroupEstimator(), rate=3e-3).run(25).stats(24)
  free, kept = learn('free', 0.0), learn('kept', 30.0)
  assert kept['kl'] < 0.02 < free['kl']
  assert free['reward'] > kept['reward'] + 0.05


def test_completions_without_an_end_are_left_out_or_punished(tmp_path):
  masked = Follower(tmp_path / 'masked', CONFIGS['decoder'], mask_truncated=True,
                    rate=0.0, objectives=(PolicyLoss(),), estimator=GroupEstimator(
                        skip_equal=False)).run(1)
  batch, ended = masked.seen[0][0], [r['ended'] for r in records_of(tmp_path / 'masked')]
  rows = sorted(batch['decoder_loss_weights'].any(1))
  assert rows == sorted(ended) and 0 < sum(ended) < len(ended)
  assert masked.stats(0)['completion_tokens'] > batch['decoder_loss_weights'].sum(1).mean()
  punished = Follower(tmp_path / 'punished', CONFIGS['decoder'], truncation_penalty=1.0,
                      rate=0.0, **GRPO).run(1)
  plain = Follower(tmp_path / 'plain', CONFIGS['decoder'], rate=0.0, **GRPO).run(1)
  assert punished.stats(0)['reward'] == pytest.approx(
      plain.stats(0)['reward'] - (1 - np.mean(ended)))


def test_groups_of_equal_rewards_are_skipped_and_counted(tmp_path):
  follower = Follower(tmp_path, CONFIGS['decoder'], rate=0.0, **GRPO).run(1)
  rewards = np.reshape([r['reward'] for r in records_of(tmp_path)], (-1, 4))
  equal = (rewards == rewards[:, :1]).all(1)
  assert follower.stats(0)['equal_groups'] == equal.mean()
  weights = follower.seen[0][0]['decoder_loss_weights'].any(1)
  assert weights.sum() == 4 * (~equal).sum()


def test_an_alarm_is_given_when_what_is_sampled_is_not_what_is_trained(
    tmp_path, monkeypatch, capsys):
  follower = Follower(tmp_path, CONFIGS['decoder'], rate=0.0, **GRPO)
  real = policy.draw.score_in_parts
  monkeypatch.setattr(policy.draw, 'score_in_parts', lambda *args: (real(*args)[0] - 0.1, None))
  follower.run(1)
  assert 'mean exp|difference of log p| is 1.105, above 1.05' in capsys.readouterr().err


def test_a_faulty_reward_is_0_recorded_and_counted(tmp_path, monkeypatch):
  monkeypatch.setattr(Vowels, 'make', lambda self, data: lambda completions: [
      Rating(float('nan')) for _ in completions])
  follower = Follower(tmp_path, CONFIGS['decoder'], rate=0.0, **GRPO).run(1)
  assert follower.stats(0)['faults'] == 16 and follower.stats(0)['reward'] == 0
  assert records_of(tmp_path)[0]['fault'] == 'vowels: the reward is nan'


@pytest.mark.parametrize('lost, message', [
    ('rollouts', r'rollouts/0.npz is missing, and the checkpoint is within that rollout'),
    ('reference', r'lacks the reference policy of the run')])
def test_a_run_whose_files_are_gone_says_which(lost, message, grpo, tmp_path):
  folder, follower = grpo
  shutil.copytree(folder, tmp_path / 'run')
  shutil.rmtree(tmp_path / 'run' / lost)
  resumed = Follower(tmp_path / 'run', CONFIGS['decoder'], minibatches=2, start=1, **GRPO)
  with pytest.raises(UserError, match=message):
    resumed.run(1)


def test_settings_that_do_not_fit_are_refused():
  make = lambda **settings: Rollouts(**dict(
      prompts=Prompts(), rewards=(Vowels(),), estimator=GroupEstimator()) | settings)
  for settings, message in (
      (dict(rewards=()), 'nothing to be rewarded for'),
      (dict(group_size=1), 'there are no others to compare with: raise Rollouts.group_size'),
      (dict(group_size=3), 'must divide the batch size 16'),
      (dict(reward_weights=(1.0, 2.0)), 'are 2 for 1 rewards')):
    with pytest.raises(FieldError, match=message):
      make(**settings)
  with pytest.raises(UserError, match='has batches of a run alone'):
    make().batches(CONFIGS['decoder'], seed=0)


def test_what_a_method_needs_is_named(tmp_path):
  with pytest.raises(UserError, match="set ModelConfig.head = 'value'"):
    Follower(tmp_path / 'a', CONFIGS['decoder'], **PPO).run(1)
  with pytest.raises(UserError, match='set Rollouts.reference = True'):
    Follower(tmp_path / 'b', config_of('decoder', 'ppo'), reference=False, **PPO).run(1)
  with pytest.raises(FieldError, match='4 prompts a step, which the 8 parts of the mesh'):
    Follower(tmp_path / 'c', CONFIGS['decoder'], devices=8, **GRPO)

"""Policies trained by command on sums: a run resumed, rated by another run's model, evaluated."""

import dataclasses
import json

import numpy as np
import pytest

from t5x_lite import cli
from t5x_lite.alignment.reward_run import RewardRun
from t5x_lite.core.dataclass_checks import FieldError
from t5x_lite.rewards.reward import Completion, rate
from tasks.datasets import problems
from tasks.pipeline.seqio_data import DataConfig

TINY = ['--gin.ModelConfig.embed_dim=32', '--gin.ModelConfig.num_layers=1',
        '--gin.ModelConfig.mlp_dim=32', '--gin.BATCH_SIZE=16', '--gin.WARMUP_STEPS=1']
DATA = dict(task='two_digit_addition', task_module='tasks.datasets.problems', inputs_length=7,
            targets_length=4, batch_size=16)


def train(name, folder, *flags):
  return cli.main(['train', f'--gin_file=experiments/{name}.gin', f'--gin.MODEL_DIR={folder}',
                   *TINY, *flags])


@pytest.fixture(scope='module')
def start(tmp_path_factory):
  folder = tmp_path_factory.mktemp('runs') / 'start'
  assert train('addition', folder, '--gin.STEPS=3', '--gin.EvalConfig.num_examples=8') == 0
  return folder


@pytest.fixture(scope='module')
def rater(tmp_path_factory, start):
  """A model with a head of values, which is not trained further."""
  folder = tmp_path_factory.mktemp('runs') / 'rater'
  assert train('addition', folder, '--gin.STEPS=1', "--gin.ModelConfig.head='value'",
               '--gin.EvalConfig.num_examples=8') == 0
  return folder


def test_the_problems_are_all_sums_parted_by_their_text():
  found = problems.sums()
  assert len(set(found)) == 8100 and ('12+34=', '46') in found and ('99+99=', '198') in found
  held_out = [problem for problem, _ in found if problems.split_of(problem) == 'validation']
  assert 700 < len(held_out) < 920
  examples = list(DataConfig(**DATA).examples('validation'))
  assert {e['inputs'] for e in examples} == set(held_out)
  assert all(str(eval(e['inputs'][:-1])) == e['targets'] for e in examples)


@pytest.mark.parametrize('method', [
    'grpo', 'ppo', pytest.param('rloo', marks=pytest.mark.slow)])
def test_each_method_trains_and_is_evaluated_on_held_out_prompts(method, start, tmp_path):
  flags = [f'--gin.INIT_FROM={start}', '--gin.RewardEval.num_examples=40',
           '--gin.RewardEval.batch_size=16', '--gin.TrainConfig.log_every=1']
  flags += ['--gin.GroupEstimator.skip_equal=False'] * (method == 'grpo')   # all have 0
  assert train(f'{method}_addition', tmp_path / 'run', *flags, '--gin.STEPS=5') == 0
  records = [json.loads(line) for line in (tmp_path / 'run/metrics.jsonl').read_text().splitlines()]
  steps = [r for r in records if r['kind'] == 'train']
  assert steps[0]['rollout/kl'] == 0 and steps[0]['ratio'] == pytest.approx(1, abs=1e-6)
  assert {'rollout/reward', 'rollout/completion_tokens', 'rollout/ended', 'loss',
          'rollout/seconds/generating'} <= steps[0].keys()
  assert ('value_loss' in steps[0]) == (method == 'ppo')
  evaluation = records[-1]
  assert evaluation['kind'] == 'eval' and 0 <= evaluation['reward/exact_answer'] <= 1
  rollouts = (tmp_path / 'run/rollouts.jsonl').read_text().splitlines()
  assert len(rollouts) == 16 * {'grpo': 5, 'rloo': 5, 'ppo': 2}[method]


@pytest.mark.slow
def test_a_run_that_is_killed_goes_on_from_its_checkpoint(start, tmp_path, monkeypatch):
  """The process dies at step 6, after the checkpoint of step 3, within the first rollout."""
  flags = [f'--gin.INIT_FROM={start}', '--gin.RewardEval.num_examples=8',
           '--gin.RewardEval.batch_size=8', '--gin.TrainConfig.log_every=1', '--gin.STEPS=8',
           '--gin.TrainConfig.checkpoint_every=3']
  from t5x_lite.inference.rollouts.live import RolloutBatches
  assert train('ppo_addition', tmp_path / 'whole', *flags) == 0
  real = RolloutBatches.__call__

  def dies(self, state):
    if self._position == 6:
      raise KeyboardInterrupt
    return real(self, state)

  monkeypatch.setattr(RolloutBatches, '__call__', dies)
  assert train('ppo_addition', tmp_path / 'run', *flags) == 130
  monkeypatch.undo()
  assert train('ppo_addition', tmp_path / 'run', *flags) == 0
  timed = lambda name: 'seconds' in name or name in ('tokens_per_second', 'mfu')
  read = lambda run: [{k: v for k, v in json.loads(line).items() if not timed(k)}
                      for line in (tmp_path / run / 'metrics.jsonl').read_text().splitlines()]
  assert read('run') == read('whole')
  text = lambda run: (tmp_path / run / 'rollouts.jsonl').read_text()
  assert text('run') == text('whole')


def test_the_model_of_a_run_rates_ids_one_by_one_as_in_a_batch(rater):
  data = DataConfig(**DATA)
  tokens = data.tokenizer('targets')
  completions = [Completion(p, a, a, True, [*tokens.encode(p), 1], [*tokens.encode(a), 1])
                 for p, a in problems.sums()[::900]]
  together = rate(RewardRun(model_dir=str(rater), batch_size=4).make(data), completions)
  alone = RewardRun(model_dir=str(rater), batch_size=1, shift=1.0, scale=2.0).make(data)
  for one, rating in zip(completions, together, strict=True):
    assert rate(alone, [one])[0].reward == pytest.approx(2 * (rating.reward - 1), abs=1e-5)
  assert np.std([rating.reward for rating in together]) > 1e-4


def test_a_reward_model_of_another_tokenizer_or_without_values_is_refused(rater, start):
  data = DataConfig(**DATA)
  with pytest.raises(FieldError, match=r"gives no values: it is to be a run with "
                     r"ModelConfig.head = 'value'"):
    RewardRun(model_dir=str(start)).make(data)

  @dataclasses.dataclass(frozen=True, kw_only=True)
  class Other(DataConfig):
    def fingerprint(self):
      return 'another'

  with pytest.raises(FieldError, match='and the policy another: train a reward model on the '
                     'vocabulary of the policy'):
    RewardRun(model_dir=str(rater)).make(Other(**DATA))

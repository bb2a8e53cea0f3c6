"""Policies trained by command on sums: a run resumed, rated by another run's model, evaluated."""

import dataclasses
import json
import shutil

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
  assert len(rollouts) == 16 * {'grpo': 3, 'rloo': 3, 'ppo': 2}[method]


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


PTX = """from __gin__ import dynamic_registration
from t5x_lite.evaluation import rewards
from t5x_lite.rewards import checkers
from tasks import files
from tasks.pipeline import seqio_data

include 'models/tiny_decoder.gin'
include 'runs/ppo_ptx.gin'
include 'hardware/cpu.gin'

TASK = 'two_digit_addition'
seqio_data.DataConfig.task_module = 'tasks.datasets.problems'
REWARDS = (@checkers.Length(),)
checkers.Length.target = 3.0
INPUTS_LENGTH = 7
TARGETS_LENGTH = 4
LEARNING_RATE = 1e-2
TEXT = @files.FileTask()
TEXT_LENGTH = 24
files.FileTask.train = 'text.txt'
files.FileTask.validation = 'text.txt'
rewards.RewardEval.num_examples = 8
rewards.RewardEval.batch_size = 8
"""


@pytest.mark.slow
def test_a_policy_with_text_beside_is_resumed_as_if_it_had_not_stopped(
    start, tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  (tmp_path / 'text.txt').write_text(''.join(f'{i} is a number of text {i % 7}.\n'
                                             for i in range(300)))
  (tmp_path / 'ptx.gin').write_text(PTX)
  flags = ['train', '--gin_file=ptx.gin', f'--gin.INIT_FROM={start}', *TINY, '--gin.STEPS=4',
           '--gin.TrainConfig.checkpoint_every=2', '--gin.TrainConfig.log_every=1']
  assert cli.main([*flags, '--gin.MODEL_DIR=whole']) == 0
  shutil.copytree('whole', 'run')
  shutil.rmtree('run/checkpoints/4')
  assert cli.main([*flags, '--gin.MODEL_DIR=run']) == 0
  timed = lambda name: 'seconds' in name or name in ('tokens_per_second', 'mfu')
  read = lambda run: [{k: v for k, v in json.loads(line).items() if not timed(k)}
                      for line in (tmp_path / run / 'metrics.jsonl').read_text().splitlines()]
  assert read('run') == read('whole')
  losses = [r['pretraining_loss'] for r in read('run') if r['kind'] == 'train']
  assert len(losses) == 4 and losses[0] > 2 and losses[3] < losses[0] - 0.1
  weights = lambda run: [path.read_bytes() for path in sorted(
      (tmp_path / run / 'rollouts').glob('*.npz'))]
  assert weights('run') == weights('whole') != []


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


def test_completions_are_rated_as_rows_of_comparisons(start, tmp_path, capsys):
  rate_file = lambda name, *flags: cli.main([
      'rate', str(start), '--gin_file=experiments/grpo_addition.gin', '--gin.BATCH_SIZE=16',
      '--gin.Rollouts.group_size=4', f'--output={tmp_path / name}', *flags])
  assert rate_file('all.jsonl', '--prompts=6') == 0
  assert '6 prompts, 24 responses, mean reward 0' in capsys.readouterr().out
  rows = [json.loads(line) for line in (tmp_path / 'all.jsonl').read_text().splitlines()]
  prompts = [e['inputs'] for e in DataConfig(**DATA).examples('train', 6)]
  assert [row['prompt'] for row in rows] == prompts
  for row in rows:
    answer = str(eval(row['prompt'][:-1]))
    assert row['scores'] == [float(text.strip() == answer) for text in row['responses']]
  assert rate_file('distinct.jsonl', '--prompts=6', '--distinct') == 0
  fewer = [json.loads(line) for line in (tmp_path / 'distinct.jsonl').read_text().splitlines()]
  want = [sorted({text for text in row['responses'] if text.strip()}) for row in rows]
  assert [sorted(row['responses']) for row in fewer] == [row for row in want if len(row) > 1]
  capsys.readouterr()
  assert rate_file('all.jsonl') == 1
  assert 'exists and is not overwritten' in capsys.readouterr().err
  assert cli.main(['rate', str(start), '--gin_file=experiments/dpo_addition.gin',
                   '--gin.PREFERENCES=x', f'--output={tmp_path / "new.jsonl"}']) == 1
  assert 'what prompts and rewards are is of Rollouts' in capsys.readouterr().err


SEQUENCE = ['--sft=sft.gin', '--judge=judge.gin', '--reward_model=reward_model.gin',
            '--ppo=ppo.gin', '--prompts=6']


@pytest.mark.slow
def test_the_sequence_runs_from_one_command_and_goes_on_where_it_was_stopped(
    start, tmp_path, monkeypatch, capsys):
  monkeypatch.chdir(tmp_path)
  small = ['models.ModelConfig.embed_dim = 32', 'models.ModelConfig.num_layers = 1',
           'models.ModelConfig.mlp_dim = 32', 'WARMUP_STEPS = 1', 'BATCH_SIZE = 16', 'STEPS = 3']
  judged = ['checkers.Length.target = 3.0', 'REWARDS = (@checkers.Length(),)',
            'source.Rollouts.group_size = 4']
  for name, base, more in (
      ('sft', 'addition', ['evaluator.EvalConfig.num_examples = 8']),
      ('judge', 'grpo_addition', judged),
      ('reward_model', 'reward_addition', ['BATCH_SIZE = 4']),
      ('ppo', 'ppo_reward_addition', ['rewards.RewardEval.num_examples = 16',
                                      'rewards.RewardEval.batch_size = 16'])):
    (tmp_path / f'{name}.gin').write_text('\n'.join([
        'from __gin__ import dynamic_registration', 'from t5x_lite import models',
        'from t5x_lite.evaluation import rewards', 'from t5x_lite.inference.rollouts import source',
        'from t5x_lite.rewards import checkers', 'from tasks.pipeline import evaluator',
        f"include 'experiments/{base}.gin'", *small, *more]) + '\n')
  assert cli.main(['instruct-gpt', 'runs', *SEQUENCE, '--plan']) == 0
  assert not (tmp_path / 'runs').exists()
  told = capsys.readouterr().out
  for line in ('1. demonstrations: 3 steps of 16 rows (sft.gin)',
               '2. comparisons: 4 responses to 6 prompts, judged by length (judge.gin)',
               'runs/sft and runs/comparisons.jsonl -> runs/reward_model',
               'runs/sft and runs/reward_model -> runs/ppo'):
    assert line in told
  assert cli.main(['instruct-gpt', 'runs', *SEQUENCE]) == 0
  records = [json.loads(line) for line in
             (tmp_path / 'runs/ppo/metrics.jsonl').read_text().splitlines()]
  assert {'reward/exact_answer', 'reward/reward_model'} <= records[-1].keys()
  before = (tmp_path / 'runs/sft/metrics.jsonl').read_bytes()
  shutil.rmtree(tmp_path / 'runs/ppo')
  capsys.readouterr()
  assert cli.main(['instruct-gpt', 'runs', *SEQUENCE]) == 0
  told = capsys.readouterr().out
  assert told.count('(done)') == 3 and '4 of 4: policy' in told and '1 of 4' not in told
  assert (tmp_path / 'runs/sft/metrics.jsonl').read_bytes() == before


@pytest.mark.slow
def test_a_policy_with_a_head_of_values_is_exported_without_it(rater, tmp_path, capsys):
  transformers = pytest.importorskip('transformers')
  assert cli.main(['export', f'--from={rater}', f'--to={tmp_path / "hf"}']) == 0
  assert 'has a head of values, which writes nothing and is left out' in capsys.readouterr().err
  model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / 'hf')
  assert type(model).__name__ == 'LlamaForCausalLM'

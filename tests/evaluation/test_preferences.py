"""Accuracy on pairs against a loop over them; a reward model recovers a planted order."""

import json

import numpy as np
import pytest
import scipy.stats

from t5x_lite import cli
from t5x_lite.alignment.reward_run import RewardRun
from t5x_lite.core.errors import UserError
from t5x_lite.data.source import NoData
from t5x_lite.evaluation.preferences import PreferenceEval, pair_metrics
from t5x_lite.rewards.reward import Completion, rate
from t5x_lite.training.run_folder import RunFolder
from tasks.pipeline.seqio_data import DataConfig


def test_accuracy_is_of_all_pairs_of_unequal_scores():
  rng = np.random.default_rng(0)
  scores = rng.integers(0, 3, (40, 4)).astype(np.float32)
  scores[rng.random((40, 4)) < 0.2] = np.nan
  ratings = rng.integers(0, 4, (40, 4)).astype(np.float32)   # with ties
  right, margins, groups = [], [], []
  for g in range(40):
    for i in range(4):
      for j in range(4):
        if scores[g, i] > scores[g, j]:
          right.append(np.sign(ratings[g, i] - ratings[g, j]) / 2 + 0.5)
          margins.append(ratings[g, i] - ratings[g, j])
          groups.append(g)
  found = pair_metrics('reward', ratings, scores)
  assert found['reward/pairs'] == len(right)
  assert found['reward/accuracy'] == pytest.approx(np.mean(right))
  assert found['reward/margin'] == pytest.approx(np.mean(margins))
  # the standard error is the spread of the accuracy over draws of groups
  groups, right = np.asarray(groups), np.asarray(right)
  members = [np.flatnonzero(groups == g) for g in np.unique(groups)]
  drawn = [np.concatenate([right[members[g]] for g in rng.integers(0, len(members), len(members))])
           for _ in range(2000)]
  spread = np.std([x.mean() for x in drawn])
  assert found['reward/accuracy_stderr'] == pytest.approx(spread, rel=0.1)


def test_pairs_of_one_a_group_have_the_binomial_error():
  right = np.arange(100) < 70
  ratings = np.stack([right, ~right], 1).astype(np.float32)
  found = pair_metrics('reward', ratings, np.tile([1.0, 0.0], (100, 1)))
  assert found['reward/accuracy'] == 0.7
  assert found['reward/accuracy_stderr'] == pytest.approx((0.7 * 0.3 / 99) ** 0.5)


def test_what_cannot_be_evaluated_is_said():
  with pytest.raises(UserError, match='no two responses to a prompt have unequal scores'):
    pair_metrics('reward', np.zeros((2, 2)), np.ones((2, 2)))
  with pytest.raises(UserError, match='NoData has none: give it a PreferenceData'):
    PreferenceEval().make(None, None, NoData({}), 0)


NOISE = 1.0   # of Bradley-Terry: P(first) = sigmoid((quality - quality) / NOISE)
TRAIN = ['--gin_file=models/tiny_decoder.gin', '--gin_file=runs/reward_model.gin',
         '--gin_file=hardware/cpu.gin', '--gin.ModelConfig.embed_dim=64',
         '--gin.ModelConfig.num_layers=1', '--gin.ModelConfig.mlp_dim=64',
         '--gin.INPUTS_LENGTH=4', '--gin.TARGETS_LENGTH=8', '--gin.BATCH_SIZE=32',
         '--gin.LEARNING_RATE=3e-3', '--gin.PreferenceTask.validation=0.1']


def quality(text):
  """What the planted order is by: each letter has a weight."""
  return sum({'a': 2.0, 'b': 1.0, 'c': 0.0, 'd': -1.0, 'e': -2.0}[c] for c in text) / 2


@pytest.mark.slow
def test_a_reward_model_recovers_a_planted_order_of_bradley_and_terry(tmp_path):
  rng = np.random.default_rng(0)
  draw = lambda: ''.join(rng.choice([*'abcde'], rng.integers(2, 7)))
  rows = []
  while len(rows) < 3000:
    one, other = draw(), draw()
    if one != other:
      first = rng.random() < 1 / (1 + np.exp(-(quality(one) - quality(other)) / NOISE))
      rows.append({'prompt': 'Q', 'chosen': one if first else other,
                   'rejected': other if first else one})
  (tmp_path / 'pairs.jsonl').write_text(''.join(json.dumps(row) + '\n' for row in rows))
  start = ['train', '--gin_file=experiments/addition.gin', f'--gin.MODEL_DIR={tmp_path / "start"}',
           '--gin.STEPS=1', '--gin.BATCH_SIZE=8', *TRAIN[3:6], '--gin.EvalConfig.num_examples=8']
  assert cli.main(start) == 0
  assert cli.main(['train', *TRAIN, f'--gin.PREFERENCES={tmp_path / "pairs.jsonl"}',
                   f'--gin.INIT_FROM={tmp_path / "start"}', f'--gin.MODEL_DIR={tmp_path / "run"}',
                   '--gin.STEPS=250']) == 0
  folder = RunFolder(tmp_path / 'run')
  metrics = folder.evaluation_at(250)
  # no model can do better on labels that are drawn than their own odds
  best = np.mean([1 / (1 + np.exp(-abs(quality(r['chosen']) - quality(r['rejected'])) / NOISE))
                  for r in rows])
  assert best - 0.06 < metrics['reward/accuracy'] < best + 0.06
  assert metrics['reward/accuracy'] > metrics['length/accuracy'] + 0.15
  data = DataConfig(task='two_digit_addition', task_module='tasks.datasets.problems',
                    inputs_length=4, targets_length=8, batch_size=8)
  tokens = data.tokenizer('targets')
  texts = sorted({draw() for _ in range(200)})
  found = rate(RewardRun(model_dir=str(folder.path)).make(data), [
      Completion('Q', text, '', True, tokens.encode('Q'), [*tokens.encode(text), tokens.eos_id])
      for text in texts])
  order = scipy.stats.spearmanr([x.reward for x in found], [*map(quality, texts)]).statistic
  print(f'Spearman {order:.3f}, accuracy {metrics["reward/accuracy"]:.3f} of at best {best:.3f}')
  assert order > 0.95

"""A run that classifies texts as a reward: what it says of a class, and what it cannot rate."""

import json
import math

import numpy as np
import pytest

from t5x_lite import cli
from t5x_lite.alignment.classifier_run import ClassifierRun
from t5x_lite.commands import infer
from t5x_lite.core.dataclass_checks import FieldError
from t5x_lite.data.source import NoData
from t5x_lite.experiment import gin_config
from t5x_lite.rewards.reward import Completion, Reward, rate

TINY = ['--gin.ModelConfig.embed_dim=32', '--gin.ModelConfig.num_layers=1',
        '--gin.ModelConfig.mlp_dim=32', '--gin.BATCH_SIZE=16', '--gin.WARMUP_STEPS=1']
TEXTS = ['good', 'fine and good', 'bad', 'a bad one', '', 'neither']


@pytest.fixture(scope='module')
def classifier(tmp_path_factory):
  """Of texts with 'good' or 'bad', by bytes, 24 at most."""
  folder = tmp_path_factory.mktemp('classifier')
  rng = np.random.default_rng(0)
  rows = []
  for i in range(64):
    label = i % 2
    words = [*rng.choice(['a', 'one', 'film', 'so'], 2), ('bad', 'good')[label]]
    rows.append({'sentence': ' '.join(rng.permutation(words)), 'label': ('low', 'high')[label]})
  (folder / 'rows.jsonl').write_text(''.join(json.dumps(row) + '\n' for row in rows))
  assert cli.main([
      'train', '--gin_file=experiments/classify_files.gin', f'--gin.MODEL_DIR={folder / "run"}',
      f'--gin.TRAIN={folder / "rows.jsonl"}', f'--gin.VALIDATION={folder / "rows.jsonl"}', *TINY,
      '--gin.STEPS=60', '--gin.INPUTS_LENGTH=24', "--gin.FileTask.labels=('low', 'high')",
      '--gin.ModelConfig.vocab_size=384', '--gin.LEARNING_RATE=1e-2']) == 0
  return folder / 'run'


def ratings(reward, *completions):
  assert isinstance(reward, Reward)
  return rate(reward.make(NoData({})), [Completion(*one) for one in completions])


def test_a_reward_is_the_probability_that_infer_has_of_the_class(classifier):
  """t5x-lite infer names the likeliest of two classes and its log-likelihood."""
  run = gin_config.load_experiment([str(classifier / 'config.gin')], [], trains=False)[0]
  generator, _ = infer.load_generator(run)
  want = [math.exp(got['score']) if got['output'] == 'high' else 1 - math.exp(got['score'])
          for got in generator(TEXTS)]
  reward = ClassifierRun(model_dir=str(classifier), label='high', batch_size=4)
  parts = [('', text) for text in TEXTS[:-1]] + [('nei', 'ther')]
  found = ratings(reward, *parts)
  assert [one.reward for one in found] == pytest.approx(want, abs=1e-5)
  assert want[0] > 0.9 and want[2] < 0.1, 'it has learnt the classes'
  other = ratings(ClassifierRun(model_dir=str(classifier), label='low'), *parts)
  assert [one.reward for one in other] == pytest.approx([1 - p for p in want], abs=1e-5)
  odds = ratings(ClassifierRun(model_dir=str(classifier), label='high', measure='log_odds'), *parts)
  assert [one.reward for one in odds] == pytest.approx(
      [math.log(p / (1 - p)) for p in want], abs=1e-2)


def test_the_template_says_what_is_classified(classifier):
  reward = lambda template: ClassifierRun(model_dir=str(classifier), label='high',
                                          template=template)
  alone, = ratings(reward('{completion}'), ('bad bad ', 'good'))
  assert alone == ratings(reward('{prompt}{completion}'), ('', 'good'))[0]
  assert ratings(reward('a {completion} one'), ('', 'bad')) == ratings(
      reward('{completion}'), ('', 'a bad one'))


def test_a_text_that_is_too_long_is_a_fault_and_no_other_is(classifier):
  whole, long = ratings(ClassifierRun(model_dir=str(classifier), label='high'),
                        ('', 'x' * 20), ('', 'x' * 60))
  assert whole.fault is None and long.reward == 0
  assert 'tokens longer than the classifier reads' in long.fault


def test_what_is_no_classifier_or_no_class_is_refused(classifier, tmp_path):
  with pytest.raises(FieldError, match="'good' is no class of .*: choose from low, high"):
    ClassifierRun(model_dir=str(classifier), label='good').make(NoData({}))
  with pytest.raises(FieldError, match='has no {completion}'):
    ClassifierRun(model_dir=str(classifier), label='high', template='{prompt}')
  assert cli.main(['train', '--gin_file=experiments/addition.gin', *TINY, '--gin.STEPS=1',
                   f'--gin.MODEL_DIR={tmp_path / "lm"}', '--gin.EvalConfig.num_examples=8']) == 0
  with pytest.raises(FieldError, match='has no classes: it is to be a run with '
                     'ModelConfig.num_classes'):
    ClassifierRun(model_dir=str(tmp_path / 'lm'), label='high').make(NoData({}))

"""A run that classifies texts as a reward: what it says of a class, and what it cannot rate."""

import functools
import json
import math

import numpy as np
import pytest

from t5x_lite.alignment.classifier_run import ClassifierRun
from t5x_lite.commands import infer, train
from t5x_lite.core.dataclass_checks import FieldError
from t5x_lite.data.source import NoData
from t5x_lite.experiment import gin_config
from t5x_lite.rewards.reward import Completion, Reward, rate

TINY = ['BATCH_SIZE=16', 'STEPS=1', 'WARMUP_STEPS=1', 'ModelConfig.embed_dim=32',
        'ModelConfig.num_layers=1', 'ModelConfig.mlp_dim=32', 'ModelConfig.vocab_size=384',
        'ModelConfig.init_std=0.3',   # texts differ in what is said of them
        'INPUTS_LENGTH=24', "FileTask.labels=('low', 'high')", 'Experiment.eval=None']
TEXTS = ['good', 'fine and good', 'bad', 'a bad one', '', 'neither']


@pytest.fixture(scope='module')
def classifier(tmp_path_factory):
  """The folder of a run of one step: by bytes, 24 at most."""
  folder = tmp_path_factory.mktemp('classifier')
  rows = [{'sentence': f'{i} {("bad", "good")[i % 2]}', 'label': ('low', 'high')[i % 2]}
          for i in range(16)]
  (folder / 'rows.jsonl').write_text(''.join(json.dumps(row) + '\n' for row in rows))
  path = folder / 'rows.jsonl'
  train.train(*gin_config.load_experiment(['experiments/classify_files.gin'], [
      f"MODEL_DIR='{folder / 'run'}'", f"TRAIN='{path}'", f"VALIDATION='{path}'", *TINY]))
  return folder / 'run'


@pytest.fixture(scope='module')
def rater(classifier):
  """(settings) -> what rates (prompt, completion) pairs."""
  @functools.cache
  def make(**settings):
    reward = ClassifierRun(**dict(model_dir=str(classifier), label='high', batch_size=4) | settings)
    assert isinstance(reward, Reward)
    made = reward.make(NoData({}))
    return lambda *pairs: rate(made, [Completion(*pair) for pair in pairs])
  return make


def test_a_reward_is_the_probability_that_infer_has_of_the_class(classifier, rater):
  """t5x-lite infer names the likeliest of two classes and its log-likelihood."""
  run = gin_config.load_experiment([str(classifier / 'config.gin')], ['InferConfig.batch_size=8'],
                                   trains=False)[0]
  generator, _ = infer.load_generator(run)
  want = [math.exp(got['score']) if got['output'] == 'high' else 1 - math.exp(got['score'])
          for got in generator(TEXTS)]
  assert np.std(want) > 0.01, 'texts differ'
  pairs = [('', text) for text in TEXTS[:-1]] + [('nei', 'ther')]
  rewards = lambda **settings: [one.reward for one in rater(**settings)(*pairs)]
  assert rewards() == pytest.approx(want, abs=1e-5)
  assert rewards(label='low') == pytest.approx([1 - p for p in want], abs=1e-5)
  assert rewards(measure='log_odds') == pytest.approx(
      [math.log(p / (1 - p)) for p in want], abs=1e-4)


def test_the_template_says_what_is_classified(rater):
  whole, alone = rater(), rater(template='a {completion} one')
  assert whole(('a bad', ' one')) == whole(('', 'a bad one')) == alone(('is not read', 'bad'))
  braces, = whole(('{completion}', ' of {prompt}'))
  assert braces == whole(('', '{completion} of {prompt}'))[0] != whole(('', ' of  of '))[0]


def test_a_text_that_is_too_long_is_a_fault_and_no_other_is(rater):
  whole, long = rater()(('', 'x' * 20), ('', 'x' * 60))
  assert whole.fault is None and long.reward == 0
  assert 'tokens longer than the classifier reads' in long.fault


def test_what_is_no_classifier_or_no_class_is_refused(classifier, tmp_path):
  with pytest.raises(FieldError, match="'good' is no class of .*: choose from low, high"):
    ClassifierRun(model_dir=str(classifier), label='good').make(NoData({}))
  with pytest.raises(FieldError, match='has no {completion}'):
    ClassifierRun(model_dir=str(classifier), label='high', template='{prompt}')
  (tmp_path / 'config.gin').write_text(
      f"include 'experiments/addition.gin'\nMODEL_DIR = '{tmp_path}'\n")
  with pytest.raises(FieldError, match='has no classes: it is to be a run with '
                     'ModelConfig.num_classes'):
    ClassifierRun(model_dir=str(tmp_path), label='high').make(NoData({}))

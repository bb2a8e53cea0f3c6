import json

import numpy as np
import pytest
import seqio
import tensorflow_datasets as tfds

from t5x_lite import cli
from t5x_lite.alignment.classifier_run import ClassifierRun
from t5x_lite.data.source import NoData
from t5x_lite.rewards.reward import Completion, rate
from t5x_lite.training.run_folder import RunFolder

SENTENCES = ['a fine film of one hour and more', 'too short a phrase , it is',
             'dull  and long and of no use to us', 'it is a one of those that are good ']
TINY = ['--gin.ModelConfig.embed_dim=32', '--gin.ModelConfig.num_layers=1',
        '--gin.ModelConfig.mlp_dim=32', '--gin.BATCH_SIZE=8', '--gin.WARMUP_STEPS=1']


@pytest.fixture
def sst2(prepare, tfds_dir):
  """The data directory with four sentences as SST-2."""
  rows = [{'sentence': s, 'label': i % 2, 'idx': i} for i, s in enumerate(SENTENCES)]
  prepare('glue/sst2:2.0.0', {'train': rows * 4, 'validation': rows},
          {'sentence': tfds.features.Text(), 'idx': np.int32,
           'label': tfds.features.ClassLabel(names=['negative', 'positive'])})
  return tfds_dir


def test_an_opening_is_four_words_of_a_sentence_of_eight(sst2):
  from tasks.datasets import sentiment  # noqa: F401

  task = seqio.TaskRegistry.get('sst2_openings')
  assert set(task.splits) == {'train', 'validation'}
  dataset = task.get_dataset(None, 'validation', shuffle=False)
  assert [(one['inputs_pretokenized'].decode(), one['targets_pretokenized'].decode())
          for one in dataset.as_numpy_iterator()] == [
      ('a fine film of', ' one hour and more'), ('dull and long and', ' of no use to us'),
      ('it is a one', ' of those that are good')]


@pytest.mark.slow
def test_a_policy_is_rewarded_by_a_classifier_of_whole_sentences(sst2, tmp_path):
  rows = tmp_path / 'rows.jsonl'
  rows.write_text(''.join(json.dumps({'sentence': f'{w} film {i}', 'label': str(label)}) + '\n'
                          for i in range(8) for label, w in enumerate(('dull', 'fine'))))
  runs = {name: tmp_path / name for name in ('classifier', 'start', 'policy')}
  train = lambda recipe, name, *flags: cli.main([
      'train', f'--gin_file=experiments/{recipe}.gin', f'--gin.MODEL_DIR={runs[name]}', *TINY,
      *flags])
  data = f'--gin.DataConfig.data_dir={sst2}'
  assert train('classify_files', 'classifier', f'--gin.TRAIN={rows}', f'--gin.VALIDATION={rows}',
               '--gin.STEPS=2', '--gin.ModelConfig.vocab_size=384', '--gin.INPUTS_LENGTH=160',
               '--gin.ModelConfig.init_std=0.3') == 0
  assert train('sst2_openings', 'start', data, '--gin.STEPS=2') == 0
  assert train('grpo_sentiment', 'policy', data, f'--gin.INIT_FROM={runs["start"]}',
               f'--gin.CLASSIFIER={runs["classifier"]}', '--gin.STEPS=2',
               '--gin.TrainConfig.log_every=1', '--gin.RewardEval.num_examples=3',
               '--gin.RewardEval.batch_size=3') == 0
  written = [json.loads(line) for line in
             (runs['policy'] / 'rollouts.jsonl').read_text().splitlines()]
  openings = {' '.join(s.split()[:4]) for s in SENTENCES if len(s.split()) > 7}
  assert len(written) == 8 and {one['prompt'] for one in written} <= openings
  reward = ClassifierRun(model_dir=str(runs['classifier']), label='1', template='{completion}')
  whole = [Completion('', one['prompt'] + one['completion']) for one in written]
  want = [one.reward for one in rate(reward.make(NoData({})), whole)]
  assert [one['reward'] for one in written] == pytest.approx(want, abs=1e-5)
  assert 0 < min(want) and max(want) < 1 and np.std(want) > 1e-3
  records = RunFolder(runs['policy']).read_metrics()
  assert records[0]['rollout/reward'] == pytest.approx(np.mean(want), abs=1e-5)
  assert 0 < records[-1]['reward/classifier'] < 1

"""The losses beside the cross-entropy are logged: of routers, and of BERT's next sentences."""

import json

import pytest

from t5x_lite import cli
from t5x_lite.training.run_folder import RunFolder

SMALL = ['ModelConfig.embed_dim=32', 'ModelConfig.num_layers=1', 'ModelConfig.num_heads=2',
         'ModelConfig.mlp_dim=32', 'BATCH_SIZE=8', 'STEPS=2', 'WARMUP_STEPS=1',
         'TrainConfig.log_every=1', 'Experiment.eval=None']


@pytest.mark.parametrize('base, objective, lengths, changes, logged', [
    ('tiny_lm', 'lm', ['TARGETS_LENGTH=16'], ['ModelConfig.num_experts=4'],
     {'load_balance': (0.9, 2.5), 'router_z': (0, 9)}),
    ('tiny_mlm', 'mlm_nsp', ['INPUTS_LENGTH=24', 'TARGETS_LENGTH=24'],
     ['ModelConfig.head=mlm_nsp', 'ModelConfig.num_token_types=2'],
     {'next_sentence_loss': (0.3, 1.5), 'next_sentence_accuracy': (0, 1)}),
])
def test_metrics_have_them_as_means(base, objective, lengths, changes, logged, tmp_path):
  texts = [{'text': f'{i} and {i + 1} are {2 * i + 1}, which is odd'} for i in range(60)]
  (tmp_path / 'texts.jsonl').write_text('\n'.join(map(json.dumps, texts)))
  (tmp_path / 'mine.gin').write_text(f"""
from __gin__ import dynamic_registration
from tasks import files
include 'experiments/{base}.gin'
TASK = @files.FileTask()
files.FileTask.train = '{tmp_path}/texts.jsonl'
files.FileTask.objective = '{objective}'
""")
  flags = [f'--gin.{b}' for b in (*SMALL, *lengths, *changes, f'MODEL_DIR={tmp_path / "run"}')]
  assert cli.main(['train', f'--gin_file={tmp_path / "mine.gin"}', *flags]) == 0
  records = RunFolder(tmp_path / 'run').read_metrics()
  assert len(records) == 2
  for record in records:
    for name, (low, high) in logged.items():
      assert low <= record[name] <= high, (name, record)
    assert record['objective'] > record['loss'] > 0

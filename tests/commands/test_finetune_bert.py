"""A BERT of Hugging Face, with its tokenizer, becomes a classifier by configs alone."""

import os
import pathlib
import shutil

import pytest

from t5x_lite import cli
from t5x_lite.training.run_folder import RunFolder

DATA = os.environ.get('T5X_LITE_TEST_DATA')


@pytest.mark.slow
@pytest.mark.skipif(not DATA, reason='no test data')
def test_an_imported_bert_is_fine_tuned_and_the_setting_it_asks_for_works(tmp_path, capsys):
  transformers = pytest.importorskip('transformers')
  config = transformers.BertConfig(
      vocab_size=30522, hidden_size=32, num_hidden_layers=2, num_attention_heads=2,
      intermediate_size=64, max_position_embeddings=128)
  transformers.BertForMaskedLM(config).save_pretrained(tmp_path / 'hf')
  for file in pathlib.Path(DATA, 'tokenizers/bert_uncased').iterdir():
    shutil.copy(file, tmp_path / 'hf')
  for name in ('train', 'dev'):
    lines = pathlib.Path(DATA, f'glue/SST-2/{name}.tsv').read_text().splitlines()[:40]
    (tmp_path / f'{name}.tsv').write_text('\n'.join(lines) + '\n')
  assert cli.main(['import', f'--from={tmp_path}/hf', f'--to={tmp_path}/bert']) == 0
  train = ['train', f'--gin_file={tmp_path}/bert/config.gin',
           '--gin_file=experiments/finetune_bert.gin', f'--gin.INIT_FROM={tmp_path}/bert',
           f'--gin.TRAIN={tmp_path}/train.tsv', f'--gin.VALIDATION={tmp_path}/dev.tsv',
           f'--gin.MODEL_DIR={tmp_path}/run', '--gin.STEPS=2', '--gin.WARMUP_STEPS=1',
           '--gin.BATCH_SIZE=8', '--gin.INPUTS_LENGTH=32']
  assert cli.main([*train, '--gin.InitFrom.missing_ok=()']) == 1
  ready = capsys.readouterr().err.strip().split('let them be new with ')[1].replace('"', '')
  assert cli.main([*train, ready]) == 0
  shown = capsys.readouterr().out
  assert 'new: classifier/bias, classifier/kernel, pooler' in shown
  assert 'not used: mlm_head' in shown
  assert 'files_classification/accuracy' in RunFolder(tmp_path / 'run').evaluation_at(2)

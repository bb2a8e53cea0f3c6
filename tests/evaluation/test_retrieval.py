"""Vectors of texts, retrieval among them, and a dual encoder that is trained."""

import dataclasses
import json
import types

import jax
import numpy as np
import pytest

from t5x_lite import cli, models
from t5x_lite.commands.text_encoders import load_encoder
from t5x_lite.core.errors import UserError
from t5x_lite.dialogue.schema import json_lines
from t5x_lite.evaluation.retrieval import RetrievalEval, retrieval_metrics
from t5x_lite.inference.text_encoder import TextEncoder
from t5x_lite.parallel.mesh import MeshConfig
from t5x_lite.parallel.partitioner import Partitioner
from tasks.dialogue.generated import generate
from tests.conftest import CONFIGS

TOKENIZER = types.SimpleNamespace(encode=lambda text: [ord(c) - 96 for c in text], cls_id=40,
                                  eos_id=41, add_eos=True)
TEXTS = ['abc', 'z', 'hello', 'abc', 'abcdefghijklmnopqrstuvwxyz']


def partitioner_of(devices):
  return Partitioner(MeshConfig(data=devices).make(jax.devices()[:devices]))


@pytest.mark.parametrize('changes', [
    {'head': 'pooler'}, {'head': 'pooler', 'pooling': 'mean', 'pooler_transform': False}, {}])
def test_a_vector_is_of_its_text_alone_in_any_batch_on_any_devices(changes, random_params):
  config = dataclasses.replace(CONFIGS['encoder'], **changes)
  params, found = random_params(config), []
  for devices, batch_size in ((1, 1), (8, 8)):
    partitioner = partitioner_of(devices)
    network = models.build_network(config, partitioner)
    found.append(TextEncoder(network, params, partitioner, TOKENIZER, 16,
                             batch_size=batch_size)(TEXTS))
  np.testing.assert_allclose(found[0], found[1], atol=1e-5)
  ids = np.array([[40, 1, 2, 3, 41]])
  model = models.build_network(config).bind(params)
  x = model.encode({'encoder_input_tokens': ids})
  want = np.tanh(model.pooler.transform(x[:, 0])) if config.pooler_transform and changes else (
      x.mean(1))
  np.testing.assert_allclose(found[0][3], want[0] / np.linalg.norm(want), atol=1e-5)
  np.testing.assert_array_equal(found[0][0], found[0][3])
  np.testing.assert_allclose(np.linalg.norm(found[0], axis=1), 1, rtol=1e-5)


def test_a_decoder_encodes_no_texts():
  network = models.build_network(CONFIGS['decoder'])
  with pytest.raises(UserError, match='family decoder_only: texts are encoded by one of encoder'):
    TextEncoder(network, {}, partitioner_of(1), TOKENIZER, 16)


def test_the_nearest_text_is_right_if_it_is_any_partner():
  x = np.eye(4)[[0, 1, 2, 2]]
  y = np.array([[1, 0, 0, 0], [0, 0, 0.8, 0.6], [0, 0, 1, 0], [0, 0, 1, 0]])
  # The first text 'c' has two partners, of which either is right; 'b' is nearest to none.
  metrics = retrieval_metrics(x, y, ['a', 'b', 'c', 'c'], ['A', 'B', 'C', 'D'])
  assert metrics == {'retrieval/forward': 0.75, 'retrieval/backward': 0.75, 'retrieval/pairs': 4}


def test_a_split_that_is_not_there_is_no_evaluation_or_refused():
  data = types.SimpleNamespace(splits=lambda: ['train'], name='some')
  assert RetrievalEval().make(None, None, data, 0) is None
  with pytest.raises(UserError, match='RetrievalEval.split'):
    RetrievalEval().make(None, None, data, 0, required=True)


@pytest.mark.slow
def test_a_dual_encoder_finds_sentences_in_a_made_language(stdlib, stdlib_data_dir, tmp_path,
                                                          capsys):
  """Of those held out; microbatches are refused, and its run is an encoder of utterances."""
  run = tmp_path / 'run'
  flags = ['train', '--gin_file=experiments/dual_encoder_cipher.gin',
           f'--gin.MODEL_DIR={str(run)!r}',
           f'--gin.DataConfig.data_dir={str(stdlib_data_dir)!r}']
  assert cli.main([*flags, '--gin.TrainConfig.microbatches=2']) == 1
  assert 'DualEncoder compares all rows of a batch' in capsys.readouterr().err
  assert cli.main(flags) == 0
  capsys.readouterr()
  assert cli.main(['eval', f'--gin_file={run}/config.gin', '--json']) == 0
  metrics = json.loads(capsys.readouterr().out.splitlines()[-1])
  assert metrics['retrieval/pairs'] > 100
  assert min(metrics['retrieval/forward'], metrics['retrieval/backward']) > 0.95, metrics

  dialogues = tmp_path / 'dialogues.jsonl'
  dialogues.write_text(json_lines(generate(20)))
  assert cli.main(['dialogue', 'discover', str(dialogues), f'--encoder={run}', '--k=4',
                   f'--output={tmp_path / "structure"}']) == 0
  assert (tmp_path / 'structure/structure.html').exists()


def test_a_folder_that_is_no_run_is_refused(tmp_path):
  with pytest.raises(UserError, match='is no run: it has no config.gin; name the folder'):
    load_encoder(tmp_path)

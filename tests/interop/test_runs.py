"""`import` and `export` as commands, and the checkpoints of T5X."""

import json
import os
import pathlib

import jax
import numpy as np
import pytest

from t5x_lite import cli, models
from t5x_lite.commands import import_checkpoint
from t5x_lite.core import trees
from t5x_lite.core.errors import UserError
from t5x_lite.experiment import gin_config
from t5x_lite.interop import huggingface, t5x
from t5x_lite.interop.hf_tokenizers import ImportedTokenizer
from t5x_lite.models import ModelConfig
from t5x_lite.parallel.mesh import MeshConfig
from t5x_lite.parallel.partitioner import Partitioner
from t5x_lite.training.initial_params import load_params

CONFIGS = {
    'llama3': ModelConfig(
        family='decoder_only', vocab_size=64, embed_dim=32, num_layers=2, num_heads=4, mlp_dim=48,
        num_kv_heads=2, tied_embeddings=False, max_length=64, norm_epsilon=1e-5,
        rope_scaling=models.positions.RopeScaling(original_length=16)),
    't5': ModelConfig(
        family='encoder_decoder', vocab_size=64, embed_dim=32, num_layers=2, num_decoder_layers=3,
        num_heads=4, head_dim=12, mlp_dim=48, gated_mlp=False, activation='relu',
        position_embedding='relative', attention_scale=1.0, scale_logits=True, init_std=None),
}


@pytest.fixture
def partitioner():
  return Partitioner(MeshConfig(data=1).make(jax.devices()[:1]))


def exported(folder: pathlib.Path, config: ModelConfig, **extra) -> dict:
  """Writes a random model as a Hugging Face folder; returns its parameters."""
  params = models.build_network(config).init(jax.random.key(0))
  folder.mkdir()
  huggingface.save_model(folder, config, params, extra=extra)
  return params


@pytest.mark.parametrize('name', CONFIGS)
def test_import_and_export_give_back_what_they_were_given(name, tmp_path, partitioner, capsys):
  config = CONFIGS[name]
  params = exported(tmp_path / 'hf', config, eos_token_id=7)
  (tmp_path / 'hf' / 'tokenizer.json').write_text('{"a tokenizer": 1}')
  run, out = tmp_path / 'run', tmp_path / 'out'
  assert cli.main(['import', f'--from={tmp_path / "hf"}', f'--to={run}']) == 0
  size = sum(x.size for x in jax.tree.leaves(params))
  assert f'{config.family} of {size:,} parameters' in capsys.readouterr().out
  # config.gin says all of the architecture, and a run can start from the checkpoint.
  assert gin_config.load_described([str(run / 'config.gin')]).model == config
  back, step = load_params(run, models.build_network(config), partitioner, None)
  assert step == 0
  jax.tree.map(np.testing.assert_array_equal, back, params)

  assert cli.main(['export', f'--from={run}', f'--to={out}']) == 0
  for file in ('model.safetensors', 'tokenizer.json', 'config.json'):
    assert (out / file).read_bytes() == (tmp_path / 'hf' / file).read_bytes(), file
  assert json.loads((out / 'config.json').read_text())['eos_token_id'] == 7
  generation = out / 'generation_config.json'   # of a T5, whose decoder has an id to start with
  assert generation.is_file() == (name == 't5')
  if name == 't5':
    assert json.loads(generation.read_text()) == {
        'decoder_start_token_id': 0, 'eos_token_id': 7, 'pad_token_id': 0}
  assert not list(tmp_path.glob('*.partial'))


def test_nothing_is_written_over_and_nothing_half_written(tmp_path, capsys):
  exported(tmp_path / 'hf', CONFIGS['t5'])
  (tmp_path / 'run').mkdir()
  (tmp_path / 'run' / 'notes.txt').write_text('mine')
  args = ['import', f'--from={tmp_path / "hf"}']
  assert cli.main([*args, f'--to={tmp_path / "run"}']) == 1
  assert 'exists and is not empty: name another folder' in capsys.readouterr().err
  file = tmp_path / 'hf' / 'model.safetensors'
  file.write_bytes(file.read_bytes()[:-1000])   # a download that was cut off
  assert cli.main([*args, f'--to={tmp_path / "other"}']) == 1
  assert 'is not a complete safetensors file' in capsys.readouterr().err
  assert sorted(p.name for p in tmp_path.iterdir()) == ['hf', 'run']
  assert [p.name for p in (tmp_path / 'run').iterdir()] == ['notes.txt']


@pytest.mark.parametrize('args, line', [
    (['import', '--from=nowhere', '--to=run'], 'nowhere: no such file or folder'),
    (['export', '--from=nowhere', '--to=out'],
     'nowhere is no run: it has no config.gin; name the folder'),
    (['import', '--from=.', '--to=run', '--gin.STEPS=1'], '--gin.STEPS=1: not an option')])
def test_a_wrong_call_is_one_line(args, line, tmp_path, monkeypatch, capsys):
  monkeypatch.chdir(tmp_path)
  assert cli.main(args) == 1
  err = capsys.readouterr().err
  assert line in err and err.count('\n') == 1


def test_a_model_that_transformers_lacks_is_not_exported(tmp_path, capsys):
  run = tmp_path / 'run'
  run.mkdir()
  (run / 'config.gin').write_text(import_checkpoint._gin(ModelConfig(
      family='decoder_only', vocab_size=64, embed_dim=32, num_layers=2, num_heads=4, mlp_dim=48,
      position_embedding='alibi'), pathlib.Path('nothing'), run, 'byte', ImportedTokenizer('byte')))
  assert cli.main(['export', f'--from={run}', f'--to={tmp_path / "out"}']) == 1
  assert 'No checkpoint in' in capsys.readouterr().err
  assert not (tmp_path / 'out').exists()


def t5x_tree(config, params):
  """Parameters as T5X's network names them, nested."""
  flat = {}
  for tensor in t5x.table(config):
    array = trees.flatten(params)[tensor.ours]
    array = np.asarray(array if tensor.layer is None else array[tensor.layer])
    flat[tensor.theirs] = tensor.to_theirs(array)
  return flat


@pytest.mark.parametrize('zarr', [False, True])
def test_a_t5x_checkpoint_is_read_in_both_of_its_forms(zarr, tmp_path, partitioner):
  from flax import serialization
  import tensorstore

  config = CONFIGS['t5']
  params = models.build_network(config).init(jax.random.key(1))
  folder = tmp_path / 'checkpoint_1000'
  folder.mkdir()
  target = {}
  for name, array in t5x_tree(config, params).items():
    if zarr and array.ndim == 2:
      path = 'target.' + name.replace('/', '.')
      spec = {'driver': 'zarr', 'kvstore': {'driver': 'file', 'path': str(folder / path)}}
      store = tensorstore.open(spec, create=True, dtype='float32', shape=array.shape).result()
      store.write(array).result()
      # As written in a bucket: the place where it lay, with arrays cut into chunks.
      array = {'driver': 'zarr', 'dtype': 'float32', 'kvstore': {
          'driver': 'gcs', 'bucket': 't5-data', 'path': f'models/x/checkpoint_1000/{path}'},
               'metadata': {'shape': list(array.shape), 'chunks': list(array.shape)}}
    target[name] = array
  tree = trees.unflatten(target)
  (folder / 'checkpoint').write_bytes(serialization.msgpack_serialize(
      {'version': 3, 'optimizer': {'target': tree, 'state': {'step': np.int32(1000)}}}))
  got_config, got = t5x.load_checkpoint(folder, partitioner)
  assert got_config == config
  jax.tree.map(np.testing.assert_array_equal, got, params)


def test_what_a_t5x_checkpoint_lacks_is_named(tmp_path, partitioner):
  from flax import serialization

  with pytest.raises(UserError, match="is not a T5X checkpoint: it has no file 'checkpoint'"):
    t5x.load_checkpoint(tmp_path, partitioner)
  index = tmp_path / 'checkpoint'
  index.write_bytes(b'not msgpack')
  with pytest.raises(UserError, match='cannot be read as one'):
    t5x.load_checkpoint(tmp_path, partitioner)
  config = CONFIGS['t5']
  flat = t5x_tree(config, models.build_network(config).init(jax.random.key(1)))
  write = lambda flat: index.write_bytes(serialization.msgpack_serialize(
      {'target': trees.unflatten(flat)}))
  write({n: x for n, x in flat.items() if n != 'decoder/decoder_norm/scale'} | {
      'decoder/extra/kernel': np.ones((2, 2), np.float32)})
  with pytest.raises(UserError, match='decoder/decoder_norm/scale, decoder/extra/kernel: missing'):
    t5x.load_checkpoint(tmp_path, partitioner)
  write(flat | {'token_embedder/embedding': {'driver': 'zarr', 'kvstore': {
      'driver': 'file', 'path': 'target.token_embedder.embedding'}}})
  with pytest.raises(UserError, match='target.token_embedder.embedding, which the index names'):
    t5x.load_checkpoint(tmp_path, partitioner)


DATA = pathlib.Path(os.environ.get('T5X_LITE_TEST_DATA', '/nonexistent')) / 'weights'
needs_data = pytest.mark.skipif(not DATA.exists(), reason='T5X_LITE_TEST_DATA is not set')


@needs_data
def test_a_real_t5x_checkpoint_is_read(partitioner):
  from flax import serialization

  path = DATA / 't5x_legacy_ckpt' / 'test_t5_tiny.checkpoint_0'
  config, params = t5x.load_checkpoint(path, partitioner)
  assert (config.embed_dim, config.num_heads, config.head_dim, config.mlp_dim) == (8, 4, 3, 16)
  assert config.gated_mlp and not config.tied_embeddings and config.vocab_size == 32128
  target = serialization.msgpack_restore(path.read_bytes())['optimizer']['target']
  theirs = target['decoder']['layers_1']['encoder_decoder_attention']['query']['kernel']
  ours = params['decoder']['blocks']['cross']['query']['kernel']
  np.testing.assert_array_equal(ours[1].reshape(8, 12), theirs)
  np.testing.assert_array_equal(params['encoder']['relative_bias'],
                                target['encoder']['relpos_bias']['rel_embedding'].T)

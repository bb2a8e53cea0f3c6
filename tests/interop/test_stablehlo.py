"""Exports as StableHLO: read in a process without this project, at sizes that nobody fixed."""

import dataclasses
import json
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from t5x_lite import cli, models
from t5x_lite.core import trees
from t5x_lite.core.errors import UserError
from t5x_lite.inference import generate
from t5x_lite.interop import stablehlo
from t5x_lite.parallel.mesh import MeshConfig
from t5x_lite.parallel.partitioner import Partitioner

HERE = pathlib.Path(__file__).parent
# Runs in the folder of an export: neither this project nor gin nor Flax can be imported there.
READER = '''
import json, sys
class Refuse:
  def find_spec(self, name, path=None, target=None):
    if name.split('.')[0] in ('t5x_lite', 'tasks', 'gin', 'flax', 'tensorflow'):
      raise ImportError(name)
sys.meta_path.insert(0, Refuse())
import load, numpy as np
functions = load.load()
results = {}
for key, arrays in np.load(sys.argv[1], allow_pickle=True).item().items():
  results[key] = np.asarray(functions[key.split('/')[0]](*arrays))
np.save(sys.argv[2], results)
'''


def save(folder: pathlib.Path, config, params) -> dict:
  folder.mkdir()
  about = stablehlo.save_functions(folder, config, params, num_ids=60, end_ids=(7,))
  (folder / 'model.json').write_text(json.dumps(about))
  return about


def read(folder: pathlib.Path, calls: dict) -> dict:
  """{key: result} of {'function/…': arguments}, by load.py in a process of its own."""
  np.save(folder / 'calls.npy', calls)
  subprocess.run([sys.executable, '-c', READER, 'calls.npy', 'results.npy'], cwd=folder, check=True)
  return np.load(folder / 'results.npy', allow_pickle=True).item()


def prompts(number, length, seed=0):
  """Ids padded on the left by a token a row, and which of them are no padding."""
  ids = np.random.default_rng(seed).integers(2, 60, (number, length)).astype(np.int32)
  return ids, np.arange(length)[None, :] >= np.arange(number)[:, None]


@pytest.mark.parametrize('name', [
    'decoder', *(pytest.param(name, marks=pytest.mark.slow) for name in ('gpt', 'windowed'))])
def test_a_decoder_scores_and_writes_as_here(name, configs, forward, random_params, tmp_path):
  config = configs['decoder' if name == 'windowed' else name]
  if name == 'windowed':
    config = dataclasses.replace(config, sliding_window=4, scan_layers=False)
  params = random_params(config)
  about = save(tmp_path / 'out', config, params)
  assert about['platforms'] == ('cpu', 'cuda', 'tpu')
  sizes, new = [(1, 5), (3, 9)], 6
  calls = {}
  for size in sizes:
    ids, valid = prompts(*size)
    calls[f'score/{size}'] = (ids,)
    calls[f'generate/{size}'] = (ids, valid, np.zeros(new, np.int32))
  got = read(tmp_path / 'out', calls)
  partitioner = Partitioner(MeshConfig(data=1).make(jax.devices()[:1]))
  run = generate.make_greedy(models.build_network(config, partitioner), partitioner, max_tokens=new,
                             eos_id=7, pad_id=0, num_ids=60)
  for size in sizes:
    ids, valid = map(jnp.asarray, prompts(*size))
    np.testing.assert_allclose(got[f'score/{size}'], forward(config)(
        params, {'decoder_input_tokens': ids}), atol=1e-5)
    want = run(params, {'decoder_input_tokens': ids}, ids, valid).tokens
    np.testing.assert_array_equal(got[f'generate/{size}'], want)


def test_an_encoder_decoder_answers_padded_inputs(configs, forward, random_params, tmp_path):
  config = configs['encoder_decoder']
  params = random_params(config)
  save(tmp_path / 'out', config, params)
  inputs, valid = prompts(2, 7)
  inputs, valid = inputs[:, ::-1], valid[:, ::-1]   # padded on the right
  targets, start, room = prompts(2, 4, seed=1)[0], np.zeros((2, 1), np.int32), np.zeros(5, np.int32)
  got = read(tmp_path / 'out', {'score/': (inputs, valid, targets),
                                'generate/': (inputs, valid, start, room)})
  batch = {'encoder_input_tokens': jnp.asarray(inputs),
           'encoder_segment_ids': jnp.asarray(valid, jnp.int32)}
  want = forward(config)(params, batch | {'decoder_input_tokens': jnp.asarray(targets)})
  np.testing.assert_allclose(got['score/'], want, atol=1e-5)
  partitioner = Partitioner(MeshConfig(data=1).make(jax.devices()[:1]))
  run = generate.make_greedy(models.build_network(config, partitioner), partitioner, max_tokens=5,
                             eos_id=7, pad_id=0, num_ids=60)
  want = run(params, batch, jnp.asarray(start), jnp.ones(start.shape, bool)).tokens
  np.testing.assert_array_equal(got['generate/'], want)


def test_an_encoder_gives_what_its_head_does(configs, forward, random_params, tmp_path):
  config = dataclasses.replace(configs['encoder'], num_token_types=2)
  params = random_params(config)
  about = save(tmp_path / 'out', config, params)
  assert list(about['functions']) == ['score']
  assert list(about['functions']['score']['arguments']) == ['tokens', 'valid', 'types']
  ids, valid = prompts(2, 6)
  valid, types = valid[:, ::-1], (ids % 2).astype(np.int32)
  got = read(tmp_path / 'out', {'score/': (ids, valid, types)})['score/']
  want = forward(config)(params, {
      'encoder_input_tokens': jnp.asarray(ids), 'encoder_token_types': jnp.asarray(types),
      'encoder_segment_ids': jnp.asarray(valid, jnp.int32)})
  np.testing.assert_allclose(got[valid], np.asarray(want)[valid], atol=1e-5)


@pytest.fixture(scope='module')
def exported(tmp_path_factory):
  folder = tmp_path_factory.mktemp('stablehlo')
  assert cli.main(['import', f'--from={HERE / "tiny_gpt2"}', f'--to={folder / "run"}']) == 0
  assert cli.main(['export', f'--from={folder / "run"}', f'--to={folder / "out"}',
                   '--format=stablehlo']) == 0
  return folder / 'out'


def run_loader(folder, *args):
  return subprocess.run([sys.executable, 'load.py', *args], cwd=folder, capture_output=True,
                        text=True)


def test_the_folder_is_complete_and_its_program_writes_what_infer_does(exported):
  assert sorted(p.name for p in exported.iterdir()) == [
      'generate.stablehlo', 'load.py', 'model.json', 'params.safetensors', 'score.stablehlo',
      'tokenizer.json', 'tokenizer_config.json']
  about = json.loads((exported / 'model.json').read_text())
  assert about['jax'] == jax.__version__ and about['stablehlo'].startswith('1.')
  assert about['functions']['generate'] == {
      'arguments': {'prompt': ['int32', 'b', 'l'], 'valid': ['bool', 'b', 'l'],
                    'room': ['int32', 't']},
      'result': ['int32', 'b', 't'], 'limit': 'l + t <= 256'}
  want = json.loads((HERE / 'llama_cpp.json').read_text())['gpt2']
  done = run_loader(exported, '--new=40', *map(str, want['prompt_ids']))
  assert [int(i) for i in done.stdout.split()] == want['tokens'][:40], done.stderr


@pytest.mark.parametrize('changes, reason', [
    ({'num_classes': 3}, "ModelConfig.head = 'classifier' of a decoder is not exported"),
    ({'num_experts': 4, 'expert_capacity': 1.5}, 'ModelConfig.expert_capacity = 1.5 is not')])
def test_what_needs_to_know_lengths_or_texts_is_refused(changes, reason, configs):
  with pytest.raises(UserError, match=reason):
    stablehlo.functions_of(dataclasses.replace(configs['decoder'], **changes), 60, (7,))


@pytest.mark.slow
@pytest.mark.parametrize('changes', [
    {'position_embedding': 'alibi'}, {'num_experts': 4},
    {'norm_placement': 'both', 'sliding_window': 4, 'full_attention_interval': 2,
     'attention_softcap': 5.0, 'logits_softcap': 3.0}], ids=['alibi', 'experts', 'gemma2'])
def test_models_that_no_other_library_has_are_exported(changes, configs, forward, random_params,
                                                       tmp_path):
  from jax import export

  config = dataclasses.replace(configs['decoder'], **changes)
  params = random_params(config)
  save(tmp_path / 'out', config, params)
  ids = prompts(2, 7)[0]
  content = bytearray((tmp_path / 'out/score.stablehlo').read_bytes())
  got = export.deserialize(content).call(trees.flatten(params), ids)
  want = forward(config)(params, {'decoder_input_tokens': jnp.asarray(ids)})
  np.testing.assert_allclose(got, want, atol=1e-5)


def test_lengths_beyond_the_models_are_refused(exported):
  done = run_loader(exported, '--new=254', '1', '2', '3')
  assert done.returncode and 'l + t <= 256' in done.stderr.replace('t + l', 'l + t')


def test_another_calling_convention_is_refused_in_one_line(exported, tmp_path):
  import shutil

  folder = tmp_path / 'newer'
  shutil.copytree(exported, folder)
  about = json.loads((folder / 'model.json').read_text())
  (folder / 'model.json').write_text(json.dumps(about | {'calling_convention_version': 99}))
  done = run_loader(folder, '1')
  assert done.returncode == 1 and done.stderr.count('\n') == 1
  assert f'has the calling convention 99 of jax {jax.__version__}' in done.stderr

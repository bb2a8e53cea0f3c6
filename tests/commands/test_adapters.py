"""A PEFT adapter through the commands: imported onto its base, exported, and merged."""

import contextlib
import functools
import io
import json
import os
import pathlib
import shutil

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file

from t5x_lite import cli
from t5x_lite.core import trees
from t5x_lite.experiment import gin_config
from t5x_lite.training.checkpoints import Checkpoints
from t5x_lite.training.initial_params import FROZEN_FROM, load_params

DATA = pathlib.Path(os.environ.get('T5X_LITE_TEST_DATA', '')) / 'peers' / 'lora'
pytestmark = pytest.mark.skipif(not DATA.is_dir(), reason='T5X_LITE_TEST_DATA/peers/lora is unset')
TENSORS, TEMPLATE = 'adapter_model.safetensors', 'chat_template.jinja'


def call(capsys, *args):
  code = cli.main([*map(str, args)])
  captured = capsys.readouterr()
  return code, captured.out + captured.err


@functools.cache
def logits_of(run):
  """Of the texts of DATA."""
  ids = np.load(DATA / 'llama/lora_all/fixture.npz')['input_ids']
  experiment = gin_config.load_described([str(run / 'config.gin')])
  network, partitioner = experiment.build_network(experiment.mesh.make(jax.devices()[:1]))
  params, _ = load_params(run, network, partitioner, None)
  batch = dict.fromkeys(('decoder_input_tokens', 'decoder_target_tokens'), np.int32(ids))
  return jax.jit(lambda params: network.bind(params)(batch))(params)


@pytest.fixture(scope='module')
def runs(tmp_path_factory):
  """The folder of an imported base, `base`, and of its adapter, `lora`."""
  folder = tmp_path_factory.mktemp('runs')
  assert cli.main(['import', f'--from={DATA}/llama/base', f'--to={folder}/base']) == 0
  assert cli.main(['import', f'--from={DATA}/llama/lora_all', f'--base={folder}/base',
                   f'--to={folder}/lora']) == 0
  return folder


@pytest.fixture(scope='module')
def merged(runs):
  """(the folder of `lora` merged into its base, what `merge` says, the template it took along)."""
  template = runs / 'lora' / TEMPLATE
  template.write_text('{{ messages }}')   # of a run on conversations
  said = io.StringIO()
  with contextlib.redirect_stdout(said):
    assert cli.main(['merge', f'--from={runs}/lora', f'--to={runs}/merged']) == 0
  template.unlink()
  taken = runs / 'merged' / TEMPLATE
  text = taken.read_text()
  taken.unlink()   # without a tokenizer no chat is exported
  return runs / 'merged', said.getvalue(), text


def test_an_imported_adapter_gives_pefts_logits_and_is_exported_as_it_came(runs, tmp_path, capsys):
  fixture = np.load(DATA / 'llama/lora_all/fixture.npz')
  got = logits_of(runs / 'lora')
  np.testing.assert_allclose(got, fixture['adapter_logits'], atol=1e-4)
  code, said = call(capsys, 'export', f'--from={runs}/lora', f'--to={tmp_path}/out')
  assert code == 0 and 'the adapter of step 0' in said
  want, got = (load_file(folder / TENSORS) for folder in (
      DATA / 'llama/lora_all', tmp_path / 'out'))
  assert trees.flatten(got).keys() == trees.flatten(want).keys()
  for name, x in want.items():
    np.testing.assert_array_equal(got[name], x)
  config = json.loads((tmp_path / 'out/adapter_config.json').read_text())
  assert config['base_model_name_or_path'] == str(DATA / 'llama/base')


def test_it_is_described(runs, capsys):
  code, said = call(capsys, 'describe', f'--gin_file={runs}/lora/config.gin')
  assert code == 0
  fixture = np.load(DATA / 'llama/lora_all/fixture.npz')
  (line,) = [line for line in said.splitlines() if 'of which trained' in line]
  assert line.split()[-1].replace(',', '') == str(fixture['trainable_parameters'])


def test_merged_it_is_a_plain_run_of_the_same_logits(merged, tmp_path, capsys):
  fixture = np.load(DATA / 'llama/lora_all/fixture.npz')
  folder, said, template = merged
  assert 'the largest difference of logits is' in said
  assert float(said.partition('logits is ')[2].split(',')[0]) < 1e-4
  np.testing.assert_allclose(logits_of(folder), fixture['merged_logits'], atol=1e-4)
  assert template == '{{ messages }}'
  code, said = call(capsys, 'export', f'--from={folder}', f'--to={tmp_path}/plain')
  assert code == 0 and (tmp_path / 'plain/model.safetensors').is_file()
  code, said = call(capsys, 'merge', f'--from={folder}', f'--to={tmp_path}/again')
  assert code == 1 and 'has no adapter' in said and not (tmp_path / 'again').exists()


@pytest.fixture(scope='module')
def quantized(runs):
  """The runs of the adapter, `qlora`, and of its norms alone, `norms`, on a base in NF4."""
  for name, inner, *more in (('qlora', 'lora.Lora'), ('norms', 'partial.Partial',
                                                      "Partial.trained='norm'")):
    folder = shutil.copytree(runs / 'lora', runs / name)
    text = gin_config.load_experiment([str(folder / 'config.gin')], [
        f'MODEL_DIR={str(folder)!r}', 'Experiment.adaptation=@quantized.Quantized()',
        f'Quantized.adaptation=@{inner}()', 'Quantized.block=16', *more], trains=False)[1]
    (folder / 'config.gin').write_text(text)
  shutil.rmtree(runs / 'norms/checkpoints')
  experiment = gin_config.load_described([str(runs / 'norms/config.gin')])
  network, _ = experiment.build_network(experiment.mesh.make(jax.devices()[:1]))
  trained, _ = trees.partition(jax.jit(network.init)(jax.random.key(0)), network.is_trained)
  with contextlib.closing(Checkpoints(runs / 'norms', keep=1)) as saved:
    saved.save_params(trained, 0, {FROZEN_FROM: {
        'model_dir': str(runs / 'base'), 'step': 0, 'new_from_seed': 0}})
  return runs


def test_an_adapter_on_a_quantised_base_is_exported_as_the_same(quantized, tmp_path, capsys):
  for name in ('lora', 'qlora'):
    code, said = call(capsys, 'export', f'--from={quantized}/{name}', f'--to={tmp_path}/{name}')
    assert code == 0 and 'the adapter of step 0' in said, said
  for file in (TENSORS, 'adapter_config.json'):
    assert (tmp_path / 'lora' / file).read_bytes() == (tmp_path / 'qlora' / file).read_bytes()


def test_it_is_merged_into_the_base_before_quantisation(quantized, merged, tmp_path, capsys):
  code, said = call(capsys, 'merge', f'--from={quantized}/qlora', f'--to={tmp_path}/merged')
  assert code == 0 and 'into the base as it was before it was quantised' in said, said
  got = logits_of(tmp_path / 'merged')
  np.testing.assert_array_equal(got, logits_of(merged[0]))
  rounded = float(np.abs(got - logits_of(quantized / 'qlora')).max())
  difference = float(said.partition('by the quantisation, is ')[2].split(',')[0])
  assert 0.01 < difference < 10 * rounded


def test_norms_trained_on_a_quantised_base_are_put_beside_the_plain_one(
    quantized, tmp_path, capsys):
  code, said = call(capsys, 'export', f'--from={quantized}/norms', f'--to={tmp_path}/out')
  assert code == 1 and 'has a quantised base: merge it' in said
  code, said = call(capsys, 'merge', f'--from={quantized}/norms', f'--to={tmp_path}/merged')
  assert code == 0 and 'by the quantisation' in said, said
  assert call(capsys, 'export', f'--from={tmp_path}/merged', f'--to={tmp_path}/out')[0] == 0
  base, got = (load_file(folder / 'model.safetensors') for folder in (
      DATA / 'llama/base', tmp_path / 'out'))
  for name, x in base.items():
    want = np.ones_like(x) if 'norm' in name else x
    np.testing.assert_allclose(got[name], want, atol=1e-6, err_msg=name)


def test_a_quantised_run_is_no_base_until_it_is_merged(quantized, tmp_path, capsys):
  for name in ('qlora', 'norms'):
    code, said = call(capsys, 'import', f'--from={DATA}/llama/lora_all',
                      f'--base={quantized}/{name}', f'--to={tmp_path}/run')
    assert code == 1 and 'is adapted itself: merge it' in said


def test_what_cannot_be_imported_is_refused_and_leaves_nothing(runs, tmp_path, capsys):
  for args, message in (
      ([f'--from={DATA}/llama/lora_all'], 'name its run as --base=MODEL_DIR'),
      ([f'--from={DATA}/gpt2/lora_attn', f'--base={runs}/base'], 'is for another base'),
      ([f'--from={DATA}/llama/lora_all', f'--base={runs}/lora'], 'is adapted itself: merge it'),
      ([f'--from={DATA}/llama/lora_all', f'--base={tmp_path}/no'], 'holds no config.gin'),
      ([f'--from={DATA}/llama/base', f'--base={runs}/base'], 'holds no adapter_config.json')):
    code, said = call(capsys, 'import', *args, f'--to={tmp_path}/run')
    assert code == 1 and message in said, said
    assert not (tmp_path / 'run').exists()


def test_an_adapter_that_was_trained_on_a_template_takes_it_along(runs, tmp_path, capsys):
  shutil.copytree(runs / 'lora', tmp_path / 'lora')
  template = tmp_path / 'lora' / TEMPLATE
  template.write_text('{% for m in messages %}{{ m.content }}{% endfor %}')
  code, said = call(capsys, 'export', f'--from={tmp_path}/lora', f'--to={tmp_path}/out')
  assert code == 0, said
  assert (tmp_path / 'out' / TEMPLATE).read_text() == template.read_text()
  assert not (tmp_path / 'out/generation_config.json').exists()

"""`t5x-lite quantize`: a run in codes of any family, what it costs, and what is refused."""

import contextlib
import json
import re

import jax
import numpy as np
import pytest

from t5x_lite import cli, models
from t5x_lite.adaptation.quantization.leaf import QuantizedLeaf
from t5x_lite.core import trees
from t5x_lite.experiment import gin_config
from t5x_lite.models import weights
from t5x_lite.training.checkpoints import Checkpoints, reader_of
from t5x_lite.training.initial_params import load_params

SIZES = dict(vocab_size=384, embed_dim=32, num_layers=2, num_heads=4, mlp_dim=64)
FAMILIES = {'decoder_only': {}, 'encoder_decoder': {}, 'encoder_only': {'head': 'mlm'}}
TEXT = 'What is written here is of no use but that it is long enough.\n' * 8


def call(capsys, *args):
  code = cli.main([*map(str, args)])
  captured = capsys.readouterr()
  return code, captured.out + captured.err


def write_run(folder, family='decoder_only', more=''):
  """A run as an import of bytes makes it, with parameters drawn from a seed."""
  folder.mkdir()
  fields = SIZES | FAMILIES[family] | {'family': family}
  (folder / 'config.gin').write_text('\n'.join([
      'from __gin__ import dynamic_registration', 'from t5x_lite import experiment',
      'from t5x_lite import models', 'from t5x_lite.adaptation import lora',
      "include 'runs/experiment.gin'", f'MODEL_DIR = {str(folder)!r}', "VOCABULARY = 'byte'", more,
      'models.ModelConfig:', *(f'  {name} = {value!r}' for name, value in fields.items())]) + '\n')
  params = jax.jit(models.build_network(models.ModelConfig(**fields)).init)(jax.random.key(0))
  with contextlib.closing(Checkpoints(folder, keep=1)) as checkpoints:
    checkpoints.save_params(params, 0, {'vocabulary': None})
  return folder


@pytest.fixture(scope='module')
def runs(tmp_path_factory):
  """{family: folder of a run}; beside them text.txt."""
  folder = tmp_path_factory.mktemp('runs')
  (folder / 'text.txt').write_text(TEXT)
  return {family: write_run(folder / family, family) for family in FAMILIES}


def held(run, *bindings):
  """{path: parameter} of a run as `infer` reads it."""
  experiment = gin_config.load_described([str(run / 'config.gin')], bindings)
  network, partitioner = experiment.build_network(experiment.mesh.make(jax.devices()[:1]))
  return trees.flatten(load_params(run, network, partitioner, None)[0], weights.is_structured)


@pytest.mark.parametrize('family, what', [
    ('decoder_only', 'tokens'), ('encoder_decoder', 'tokens of targets'),
    ('encoder_only', 'masked tokens')])
def test_a_run_of_each_family_in_codes(family, what, runs, tmp_path, capsys):
  run, text = runs[family], runs[family].parent / 'text.txt'
  code, said = call(capsys, 'quantize', f'--from={run}', f'--to={tmp_path}/codes', '--format=nf4',
                    '--block=16', f'--text={text}')
  assert code == 0 and f' {what} of {text}: ' in said, said
  got = held(tmp_path / 'codes')
  want = held(run, 'Experiment.adaptation=@quantized.Quantized()', 'Quantized.block=16')
  assert got.keys() == want.keys() and any(isinstance(x, QuantizedLeaf) for x in got.values())
  for name, leaf in want.items():
    assert jax.tree.structure(got[name]) == jax.tree.structure(leaf)
    jax.tree.map(np.testing.assert_array_equal, got[name], leaf)
  plain = held(run)
  old, new = (sum(x.nbytes for x in jax.tree.leaves(params)) for params in (plain, got))
  assert f'{old:,} → {new:,} bytes' in said
  before, after = map(float, re.search(r': ([0-9.]+) → ([0-9.]+) \(', said).groups())
  assert 100 < before < 2000 and 0 < abs(after / before - 1) < 0.05, said
  assert reader_of(tmp_path / 'codes').read_meta(0)['quantized'] == {
      'format': 'nf4', 'block': 16, 'double': True, 'threshold': None}


def test_without_data_or_text_it_says_so_and_the_run_answers(runs, tmp_path, capsys):
  code, said = call(capsys, 'quantize', f'--from={runs["decoder_only"]}', f'--to={tmp_path}/codes',
                    '--format=llm_int8')
  assert code == 0 and 'Perplexity was not measured' in said and '--text=FILE' in said
  code, said = call(capsys, 'infer', f'--gin_file={tmp_path}/codes/config.gin', '--prompt=What',
                    '--gin.InferConfig.max_tokens=2')
  assert code == 0, said


@pytest.mark.parametrize('flags, message', [
    (['--format=nf4', '--block=48'], '--format=nf4 --block=48: decoder/blocks/'),
    (['--format=nf4', '--block=3'], '--format=nf4 --block=3: must be even'),
    (['--format=int8', '--skip=.'], 'leaves no frozen kernel to quantise'),
    (['--format=nf5'], "invalid choice: 'nf5'"),
    (['--format=llm_int8', '--block=16'], 'leave --block and --double out'),
    (['--format=int8', '--block=16', '--text={folder}/none.txt'], 'No such file'),
    (['--format=int8', '--block=16', '--text={folder}/empty.txt'], 'is empty'),
    (['--format=int8', '--block=16', '--text={folder}/latin.txt'], 'not UTF-8 (byte 3)'),
    (['--format=int8', '--block=16', '--step=7'], 'No checkpoint of step 7'),
    (['--format=int8', '--block=16', '--from={folder}'], 'is no run: it has no config.gin')])
def test_what_does_not_fit_is_one_line_and_leaves_nothing(flags, message, runs, tmp_path, capsys):
  (tmp_path / 'empty.txt').write_text('\n')
  (tmp_path / 'latin.txt').write_bytes('caf\xe9'.encode('latin-1'))
  flags = [flag.format(folder=tmp_path) for flag in flags]
  before = sorted(tmp_path.iterdir())
  code, said = call(capsys, 'quantize', f'--from={runs["decoder_only"]}', f'--to={tmp_path}/out',
                    *flags)
  assert code == 1 and message in said and said.count('\n') == 1, said
  assert sorted(tmp_path.iterdir()) == before


def test_codes_adapters_and_folders_that_exist_are_refused(runs, tmp_path, capsys):
  lora = write_run(tmp_path / 'lora', more='experiment.Experiment.adaptation = @lora.Lora()')
  flags = '--format=int8', '--block=16'
  run = runs['decoder_only']
  assert call(capsys, 'quantize', f'--from={run}', f'--to={tmp_path}/codes', *flags)[0] == 0
  for source, target, message in (
      (tmp_path / 'codes', 'out', 'in codes already'),
      (lora, 'out', f'merge it first (t5x-lite merge --from={lora}'),
      (run, 'codes', 'exists and is not empty')):
    code, said = call(capsys, 'quantize', f'--from={source}', f'--to={tmp_path}/{target}', *flags)
    assert code == 1 and message in said and said.count('\n') == 1, said
  assert not (tmp_path / 'out').exists()


@pytest.mark.slow
def test_the_loss_is_that_of_eval_before_and_after(stdlib, stdlib_data_dir, tmp_path, capsys):
  sizes = ['--gin.STEPS=2', '--gin.BATCH_SIZE=8', '--gin.MeshConfig.data=1',
           '--gin.EvalConfig.num_examples=40', '--gin.EvalConfig.batch_size=32']
  assert call(capsys, 'train', '--gin_file=experiments/tiny_lm.gin', *sizes,
              f'--gin.MODEL_DIR={tmp_path}/lm')[0] == 0
  code, said = call(capsys, 'quantize', f'--from={tmp_path}/lm', f'--to={tmp_path}/codes',
                    '--format=nf4')
  assert code == 0, said
  losses = [float(x) for x in re.search(r'nats a token ([0-9.]+) → ([0-9.]+)', said).groups()]
  for run, loss in zip(('lm', 'codes'), losses):
    code, said = call(capsys, 'eval', f'--gin_file={tmp_path}/{run}/config.gin', '--json')
    (want,) = [x for name, x in json.loads(said.splitlines()[-1]).items()
               if name.endswith('/loss')]
    assert loss == pytest.approx(want, abs=1e-4)

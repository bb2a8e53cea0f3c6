"""Sizes by format: to the byte those of files, and figures that others published."""

import json
import pathlib

import jax
import numpy as np
import pytest

from t5x_lite import cli, models
from t5x_lite.adaptation.quantization.quantized import Quantized
from t5x_lite.experiment import gin_config
from t5x_lite.interop import compressed_tensors, huggingface, weight_sizes
from t5x_lite.models import ModelConfig
from t5x_lite.models.positions import RopeScaling
from t5x_lite.parallel.mesh import MeshConfig
from t5x_lite.parallel.partitioner import Partitioner

SIZES = dict(family='decoder_only', vocab_size=67, embed_dim=64, num_layers=2, num_heads=4,
             num_kv_heads=2, mlp_dim=128, max_length=33)
CONFIGS = {
    'llama3': ModelConfig(**SIZES, rope_scaling=RopeScaling(), tied_embeddings=False),
    'uneven': ModelConfig(**SIZES | {'mlp_dim': 200}),   # rows that no block of 32 divides
    'gpt2': ModelConfig(**SIZES | {'num_kv_heads': 4}, norm='layer_norm', activation='gelu',
                        gated_mlp=False, bias=True, position_embedding='learned'),
    't5': ModelConfig(family='encoder_decoder', vocab_size=67, embed_dim=64, num_layers=2,
                      num_heads=4, mlp_dim=128, gated_mlp=False, activation='relu',
                      position_embedding='relative', attention_scale=1.0, scale_logits=True,
                      init_std=None),
}


def tensor_bytes(folder: pathlib.Path) -> int:
  """Of model.safetensors, behind the header that its first eight bytes give the length of."""
  content = (folder / 'model.safetensors').read_bytes()
  return len(content) - 8 - int.from_bytes(content[:8], 'little')


@pytest.mark.parametrize('name', [
    pytest.param(name, marks=[pytest.mark.slow] * (name in ('gpt2', 't5'))) for name in CONFIGS])
def test_files_have_these_bytes(name, tmp_path, random_params):
  config = CONFIGS[name]
  params, sizes = random_params(config), weight_sizes.weight_bytes(config)
  found = {'checkpoint float32': sum(x.nbytes for x in jax.tree.leaves(params))}
  for dtype in ('float32', 'bfloat16'):
    (tmp_path / dtype).mkdir()
    huggingface.save_model(tmp_path / dtype, config, params, dtype=dtype)
    found[f'huggingface {dtype}'] = tensor_bytes(tmp_path / dtype)
  partitioner = Partitioner(MeshConfig(data=1).make(jax.devices()[:1]))
  for form in ('int8', 'int4', 'nf4') if name != 'uneven' else ():
    _, codes = huggingface.load_model(tmp_path / 'float32', partitioner,
                                      quantized=Quantized(format=form))
    found[f'codes {form}'] = sum(x.nbytes for x in jax.tree.leaves(codes))
  if name in ('llama3', 'uneven'):
    layers = compressed_tensors.linear_layers('llama', config)
    for dtype in ('int4', 'int8') if name == 'llama3' else ('int8',):
      (tmp_path / dtype).mkdir()
      huggingface.save_model(
          tmp_path / dtype, config, params, dtype='bfloat16',
          packed=(layers, compressed_tensors.packing_of(config, dtype).pack))
      found[f'compressed-tensors {dtype}'] = tensor_bytes(tmp_path / dtype)
  if name != 't5':
    gguf = pytest.importorskip('gguf', reason="pip install -e '.[gguf]'")
    from t5x_lite.interop import gguf_files, gguf_tokenizer
    for dtype in ('float32', 'float16', 'q8_0', 'q4_0'):
      file = tmp_path / f'{dtype}.gguf'
      gguf_files.save_gguf(file, config, params, gguf_tokenizer.Vocabulary('none'),
                           gguf_files.Prompting(), dtype)
      found[f'gguf {dtype}'] = file.stat().st_size - gguf.GGUFReader(file).data_offset
  assert sizes == found


def sizes_of(name: str) -> tuple[dict[str, int], int]:
  config = gin_config.load_described([f'models/{name}.gin']).model
  shapes = models.build_network(config).shapes
  return weight_sizes.weight_bytes(config), sum(np.prod(x.shape) for x in jax.tree.leaves(shapes))


def test_llama_3_1_has_the_sizes_that_llama_cpp_states():
  """tools/quantize/README.md of llama.cpp: F16 14.96 GiB, Q8_0 7.95 GiB and 8.5008 bits."""
  sizes, parameters = sizes_of('llama3_1_8b')
  assert parameters == 8_030_261_248
  assert round(sizes['gguf float16'] / 2 ** 30, 2) == 14.96
  assert round(sizes['gguf q8_0'] / 2 ** 30, 2) == 7.95
  assert round(8 * sizes['gguf q8_0'] / parameters, 4) == 8.5008


@pytest.mark.parametrize('name, published', [
    ('llama_7b', 3.9), ('llama_13b', 7.8), ('llama_33b', 19.5), ('llama_65b', 38.5)])
def test_the_first_4_bit_files_of_llama_had_a_scale_in_32_bits(name, published):
  """llama.cpp's first table: 5 bits a parameter and GB of 2^30 bytes come within 3 %; no one
  convention gives all four figures. Today's q4_0, a scale in 16 bits, is smaller by a tenth."""
  sizes, parameters = sizes_of(name)
  first = parameters * (4 + 32 / 32) / 8 / 2 ** 30
  assert first == pytest.approx(published, rel=0.03)
  assert parameters * 4.5 / 8 < sizes['gguf q4_0'] < parameters * 4.6 / 8
  for gb, bits in ((1e9, 4.5), (2 ** 30, 4.5), (1e9, 5.0)):
    worst = max(abs(n * bits / 8 / gb / want - 1) for n, want in (
        (6_738_415_616, 3.9), (13_015_864_320, 7.8), (32_528_943_616, 19.5),
        (65_285_660_672, 38.5)))
    assert worst > 0.06


def test_the_command_prints_them(capsys):
  assert cli.main(['describe', '--gin_file=models/gpt2_small.gin', '--sizes', '--json']) == 0
  sizes = json.loads(capsys.readouterr().out)
  assert sizes['checkpoint float32'] == sizes['huggingface float32'] == 4 * 124_439_808
  assert cli.main(['describe', '--gin_file=models/gpt2_small.gin', '--sizes']) == 0
  lines = capsys.readouterr().out.splitlines()
  assert lines[0].split() == ['format', 'bytes', 'GB', 'bits', 'a', 'parameter']
  assert lines[1].split() == ['checkpoint', 'float32', '497,759,232', '0.50', '32.000']
  assert len(lines) == len(sizes) + 1

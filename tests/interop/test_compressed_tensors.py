"""Exports as compressed-tensors: what the library itself and transformers make of them."""

import dataclasses
import json

import jax.numpy as jnp
import numpy as np
import pytest

from t5x_lite.core.errors import UserError
from t5x_lite.interop import compressed_tensors, huggingface
from t5x_lite.interop.compressed_tensors import packed, packing_of
from t5x_lite.models import ModelConfig

CONFIG = ModelConfig(family='decoder_only', vocab_size=64, embed_dim=64, num_layers=2, num_heads=4,
                     num_kv_heads=2, mlp_dim=96, max_length=32, init_std=0.2, tied_embeddings=False)


def test_codes_fill_words_from_the_lowest_bits():
  codes = np.arange(10).reshape(1, 10)
  assert packed(codes, 4).tolist() == [[0x76543210, 0x98]]
  assert packed(codes, 8).tolist() == [[0x03020100, 0x07060504, 0x0908]]
  assert packed(np.asarray([[15] * 8]), 4).tolist() == [[-1]]   # all bits of a signed word


def write(folder, dtype, params):
  packing = packing_of(CONFIG, dtype)
  layers = compressed_tensors.linear_layers('llama', CONFIG)
  folder.mkdir()
  huggingface.save_model(folder, CONFIG, params, dtype=compressed_tensors.DTYPE,
                         packed=(layers, packing.pack),
                         extra={'quantization_config': packing.config})
  return layers


def unpacked(words, scale, shape, bits):
  """The weights that three tensors stand for, as float32 products rounded to bfloat16."""
  rows, columns = shape
  codes = (words.view(np.uint32)[:, :, None] >> (bits * np.arange(32 // bits, dtype=np.uint32))
           ) & (2 ** bits - 1)
  codes = codes.reshape(rows, -1)[:, :columns].astype(np.float32) - 2 ** (bits - 1)
  scale = np.repeat(np.asarray(scale, np.float32), columns // scale.shape[1], axis=1)
  return (codes * scale).astype(jnp.bfloat16)


@pytest.mark.parametrize('dtype, group, error', [('int8', None, 1 / 255), ('int4', 32, 1 / 15)])
def test_the_library_gives_back_the_weights_to_half_a_step(dtype, group, error, tmp_path,
                                                           random_params):
  pytest.importorskip('compressed_tensors', reason='pip install compressed-tensors')
  from compressed_tensors.compressors import BaseCompressor
  from compressed_tensors.quantization import QuantizationConfig
  from safetensors.torch import load_file
  import torch

  params = random_params(CONFIG)
  layers = write(tmp_path / 'out', dtype, params)
  settings = json.loads((tmp_path / 'out/config.json').read_text())['quantization_config']
  scheme = QuantizationConfig.model_validate(settings).config_groups['group_0']
  library = BaseCompressor.get_value_from_registry(settings['format'])
  assert scheme.weights.group_size == group and len(layers) == 14
  file = load_file(tmp_path / 'out/model.safetensors')
  assert {n for n in file if n.rsplit('_', 1)[0] not in layers} == {
      n for n, _ in huggingface.their_tensors('llama', CONFIG, params)} - layers
  for name, weight in huggingface.their_tensors('llama', CONFIG, params):
    if name not in layers:
      np.testing.assert_array_equal(file[name].float(), torch.tensor(
          np.ascontiguousarray(weight)).bfloat16().float())
      continue
    parts = {f'weight_{part}': file[f'{name}_{part}'] for part in ('packed', 'scale', 'shape')}
    got = library.decompress(parts, scheme)['weight']
    rows, columns = weight.shape
    want = unpacked(parts['weight_packed'].numpy(), parts['weight_scale'].float().numpy(),
                    weight.shape, scheme.weights.num_bits)
    assert torch.equal(got.float(), torch.tensor(want.astype(np.float32)))
    # A step is 2 / (2^bits - 1) of a group's largest value; bfloat16 rounds scale and product.
    largest = np.abs(weight).reshape(rows, -1, group or columns).max(-1).repeat(
        group or columns, 1)
    assert (np.abs(got.float().numpy() - weight) <= largest * (error + 3 * 2 ** -9)).all()


@pytest.mark.parametrize('dtype', ['int8', 'int4'])
def test_transformers_computes_what_the_dequantised_weights_give(dtype, tmp_path, random_params):
  pytest.importorskip('compressed_tensors', reason='pip install compressed-tensors')
  transformers = pytest.importorskip('transformers')
  import torch

  params = random_params(CONFIG)
  layers = write(tmp_path / 'codes', dtype, params)
  packing = packing_of(CONFIG, dtype)

  def dequantised(name, weight):
    words, scale, _ = (x for _, x in packing.pack(name, weight))
    yield name, unpacked(words, scale, weight.shape, packing.bits)

  (tmp_path / 'plain').mkdir()
  huggingface.save_model(tmp_path / 'plain', CONFIG, params, dtype='bfloat16',
                         packed=(layers, dequantised))
  ids = torch.tensor([np.random.default_rng(0).integers(0, 64, 24).tolist()])
  logits = []
  for name in ('codes', 'plain'):
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / name)
    assert model.dtype == torch.bfloat16
    with torch.no_grad():
      logits.append(model(ids).logits)
  assert torch.equal(*logits)


@pytest.mark.parametrize('changes, dtype, reason', [
    ({'norm': 'layer_norm', 'activation': 'gelu', 'gated_mlp': False, 'bias': True,
      'position_embedding': 'learned', 'num_kv_heads': 4, 'tied_embeddings': True}, 'int8',
     "type 'gpt2' is not written as compressed-tensors: llama, mistral, gemma, gemma2 are"),
    ({'mlp_dim': 90}, 'int4', 'and the linear layers have 64, 90: export it as int8')])
def test_what_vllm_does_not_read_is_refused(changes, dtype, reason):
  with pytest.raises(UserError, match=reason):
    packing_of(dataclasses.replace(CONFIG, **changes), dtype)


def test_the_largest_group_that_divides_is_taken():
  for width, mlp, group in ((128, 256, 128), (128, 192, 64), (128, 96, 32)):
    config = dataclasses.replace(CONFIG, embed_dim=width, mlp_dim=mlp, head_dim=width // 4,
                                 attention_scale=None)
    assert packing_of(config, 'int4').group == group

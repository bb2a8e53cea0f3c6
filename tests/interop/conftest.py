"""A trained model of another project, as a folder of Hugging Face with its tokenizer."""

import os
import pathlib
import struct

import numpy as np
import pytest

STORIES = pathlib.Path(os.environ.get('T5X_LITE_TEST_DATA', '/nonexistent')) / 'weights/stories260k'


@pytest.fixture(scope='session')
def stories() -> tuple[dict[str, int], dict[str, np.ndarray], list[tuple[str, float]]]:
  """(sizes, weights by name, (piece, score) of each id) of llama2.c's files."""
  if not STORIES.exists():
    pytest.skip('T5X_LITE_TEST_DATA is not set')
  return *_weights(), _pieces()


def _weights():
  data = (STORIES / 'checkpoint_v1.bin').read_bytes()
  magic, version, *sizes, shared = struct.unpack('<Ii7iB', data[:37])
  assert (magic, version, shared) == (0x616B3432, 1, 1)
  dim, hidden, layers, heads, kv, vocab, length = sizes
  values = np.frombuffer(data[256:], np.float32)
  shapes = {'rms_att': (layers, dim), 'rms_ffn': (layers, dim), 'rms_final': (dim,),
            'embed': (vocab, dim), 'wq': (layers, dim, dim),
            'wk': (layers, kv * dim // heads, dim), 'wv': (layers, kv * dim // heads, dim),
            'wo': (layers, dim, dim), 'w1': (layers, hidden, dim), 'w2': (layers, dim, hidden),
            'w3': (layers, hidden, dim)}
  weights = {}
  for name, shape in shapes.items():
    size = int(np.prod(shape))
    weights[name], values = values[:size].reshape(shape), values[size:]
  assert not len(values)
  return dict(dim=dim, hidden=hidden, layers=layers, heads=heads, kv=kv, vocab=vocab,
              length=length), weights


def _pieces() -> list[tuple[str, float]]:
  data, found = (STORIES / 'tokenizer.bin').read_bytes()[4:], []
  while data:
    score, size = struct.unpack('<fi', data[:8])
    found.append((data[8:8 + size].decode(errors='replace'), score))
    data = data[8 + size:]
  return found


@pytest.fixture(scope='session')
def stories_folder(stories, tmp_path_factory) -> pathlib.Path:
  """The same as a folder of Hugging Face: config.json, tensors and a SentencePiece model."""
  import jax
  from safetensors.numpy import save_file

  from t5x_lite import models
  from t5x_lite.interop import huggingface
  from t5x_lite.models import ModelConfig
  sizes, w, pieces = stories
  folder = tmp_path_factory.mktemp('stories') / 'hf'
  folder.mkdir()
  halves = lambda x, heads: x.reshape(heads, -1, 2, sizes['dim']).swapaxes(1, 2).reshape(x.shape)
  tensors = {'model.embed_tokens.weight': w['embed'], 'model.norm.weight': w['rms_final']}
  for i in range(sizes['layers']):
    tensors |= {f'model.layers.{i}.{name}.weight': np.ascontiguousarray(x) for name, x in {
        'input_layernorm': w['rms_att'][i], 'post_attention_layernorm': w['rms_ffn'][i],
        'self_attn.q_proj': halves(w['wq'][i], sizes['heads']),
        'self_attn.k_proj': halves(w['wk'][i], sizes['kv']), 'self_attn.v_proj': w['wv'][i],
        'self_attn.o_proj': w['wo'][i], 'mlp.gate_proj': w['w1'][i], 'mlp.down_proj': w['w2'][i],
        'mlp.up_proj': w['w3'][i]}.items()}
  config = ModelConfig(
      family='decoder_only', vocab_size=sizes['vocab'], embed_dim=sizes['dim'],
      num_layers=sizes['layers'], num_heads=sizes['heads'], num_kv_heads=sizes['kv'],
      mlp_dim=sizes['hidden'], norm_epsilon=1e-5, max_length=sizes['length'])
  huggingface.save_model(folder, config, models.build_network(config).init(jax.random.key(0)),
                         extra={'bos_token_id': 1, 'eos_token_id': 2})
  save_file(tensors, folder / 'model.safetensors', metadata={'format': 'pt'})
  (folder / 'tokenizer.model').write_bytes(_sentencepiece(pieces))
  (folder / 'tokenizer_config.json').write_text('{"add_bos_token": true}')
  return folder


def _sentencepiece(pieces: list[tuple[str, float]]) -> bytes:
  """llama2.c's tokenizer.bin as the SentencePiece model that it was made of: LLaMA's kind."""
  from sentencepiece import sentencepiece_model_pb2
  proto = sentencepiece_model_pb2.ModelProto()
  types = proto.SentencePiece.Type
  for i, (text, score) in enumerate(pieces):
    special = {0: ('<unk>', types.UNKNOWN), 1: ('<s>', types.CONTROL), 2: ('</s>', types.CONTROL)}
    byte = (f'<0x{i - 3:02X}>', types.BYTE) if 3 <= i < 259 else None
    piece, kind = special.get(i) or byte or (text.replace(' ', '▁'), types.NORMAL)
    proto.pieces.add(piece=piece, score=score, type=kind)
  trainer, normalizer = proto.trainer_spec, proto.normalizer_spec
  trainer.model_type, trainer.byte_fallback = trainer.BPE, True
  trainer.vocab_size, trainer.pad_id = len(pieces), -1
  normalizer.name, normalizer.add_dummy_prefix = 'identity', True
  normalizer.remove_extra_whitespaces = False
  return proto.SerializeToString()

"""T5X's own checkpoints: the flat msgpack index with its arrays inside, or in zarr folders.

The released T5 1.1, LM-adapted and UL2 checkpoints are such. An index is a msgpack tree whose
`optimizer/target` holds the parameters; a parameter is an array or, in checkpoints written with
tensorstore, the specification of a zarr array whose folder is beside the index.
"""

from collections.abc import Mapping
import pathlib
import re
from typing import Any

from flax import serialization
import numpy as np
import tensorstore

from t5x_lite.adaptation.quantization.quantized import Quantized
from t5x_lite.core.errors import UserError
from t5x_lite.interop import huggingface
from t5x_lite.interop.hf_tensors import Tensor
from t5x_lite.interop.json_files import listed
from t5x_lite.models import ModelConfig
from t5x_lite.parallel.partitioner import Partitioner

INDEX = 'checkpoint'   # the name of the index in the folder of a checkpoint


def load_checkpoint(path: pathlib.Path, partitioner: Partitioner, *,
                    quantized: Quantized | None = None, **overrides
                    ) -> tuple[ModelConfig, dict[str, Any]]:
  """(config, parameters on the mesh) of a T5X checkpoint of an encoder-decoder.

  The sizes follow from the shapes. The rest is T5's: ReLU or, if gated, the tanh form of GELU
  (UL2: pass activation='silu').

  Args:
    path: the folder of a checkpoint, or its index.
    partitioner: shards the parameters.
    quantized: as in huggingface.load_model.
    overrides: fields of the ModelConfig.

  Raises:
    UserError: no such checkpoint, or one of another network; names the mismatches.
  """
  arrays = _read_index(path)
  config = _config(path, arrays, overrides)
  tensors = table(config)
  known = {t.theirs for t in tensors}
  wrong = sorted(known ^ set(arrays))
  if wrong:
    raise UserError(f'{path} is not of an unscanned T5: {listed(wrong)}: missing or unknown')
  return config, huggingface.assemble(config, partitioner, tensors,
                                      lambda name: _shape(arrays[name]),
                                      lambda name: _read(arrays[name]), quantized)


def _read_index(path: pathlib.Path) -> dict[str, Any]:
  """{'encoder/layers_0/…': array, or tensorstore specification with its full path}."""
  index = path / INDEX if path.is_dir() else path
  if not index.is_file():
    raise UserError(f'{path} is not a T5X checkpoint: it has no file {INDEX!r}')
  try:
    tree = serialization.msgpack_restore(index.read_bytes())
    target = tree['optimizer']['target'] if 'optimizer' in tree else tree['target']
  except Exception as e:  # msgpack has many types of errors
    raise UserError(f'{index} is not a T5X checkpoint: it cannot be read as one ({e})') from e
  return dict(_leaves(target, '', index.parent))


def _leaves(tree: Mapping, prefix: str, folder: pathlib.Path):
  for key, value in tree.items():
    name = f'{prefix}{key}'
    if isinstance(value, Mapping) and 'driver' in value:
      # The folder has moved since it was written; its arrays moved with it.
      array_folder = pathlib.PurePosixPath(value['kvstore'].get('path', '')).name
      yield name, {'driver': value['driver'], 'kvstore': {
          'driver': 'file', 'path': str(folder / array_folder)}}
    elif isinstance(value, Mapping):
      yield from _leaves(value, f'{name}/', folder)
    else:
      yield name, value


def _shape(leaf) -> tuple[int, ...]:
  if isinstance(leaf, np.ndarray):
    return leaf.shape
  try:
    return tuple(tensorstore.open(leaf, read=True, open=True).result().shape)
  except ValueError as e:
    raise UserError(f'{leaf["kvstore"]["path"]}, which the index names, cannot be read: fetch the '
                    'whole folder again') from e


def _read(leaf) -> np.ndarray:
  if isinstance(leaf, np.ndarray):
    return leaf
  return np.asarray(tensorstore.open(leaf, read=True, open=True).result().read().result())


def _config(path, arrays: dict[str, Any], overrides) -> ModelConfig:
  layers = lambda stack: len({m[1] for n in arrays if (m := re.match(
      rf'{stack}/layers_(\d+)/', n))})
  try:
    vocab_size, embed_dim = _shape(arrays['token_embedder/embedding'])
    num_heads, buckets = _shape(arrays['encoder/relpos_bias/rel_embedding'])
    joined = _shape(arrays['encoder/layers_0/attention/query/kernel'])[1]
    gated = 'encoder/layers_0/mlp/wi_0/kernel' in arrays
    mlp_dim = _shape(arrays['encoder/layers_0/mlp/wo/kernel'])[0]
  except (KeyError, ValueError) as e:
    raise UserError(f'{path} is not of an unscanned T5: {e} is missing or has another shape') from e
  tied = 'decoder/logits_dense/kernel' not in arrays
  return ModelConfig(**dict(
      family='encoder_decoder', vocab_size=vocab_size, embed_dim=embed_dim,
      num_layers=layers('encoder'), num_decoder_layers=layers('decoder'), num_heads=num_heads,
      head_dim=joined // num_heads, mlp_dim=mlp_dim, gated_mlp=gated,
      activation='gelu' if gated else 'relu', position_embedding='relative',
      relative_buckets=buckets, attention_scale=1.0, tied_embeddings=tied, scale_logits=tied,
      init_std=None) | overrides)


def table(config: ModelConfig) -> list[Tensor]:
  """All parameters of T5X's network `t5.Transformer`."""
  rows = [Tensor('token_embedder/embedding', 'embedder/tokens')]
  if not config.tied_embeddings:
    rows.append(Tensor('decoder/logits_dense/kernel', 'embedder/output'))
  for stack, num_layers in (('encoder', config.num_layers), ('decoder', config.num_decoder_layers)):
    rows += [Tensor(f'{stack}/relpos_bias/rel_embedding', f'{stack}/relative_bias',
                    layout='dense'),
             Tensor(f'{stack}/{stack}_norm/scale', f'{stack}/final_norm/scale')]
    for i in range(num_layers):
      rows += [Tensor(f'{stack}/layers_{i}/{theirs}', f'{stack}/blocks/{ours}', i,
                      'conv1d' if ours.endswith('/kernel') else 'same')
               for theirs, ours in _block(config, stack)]
  return rows


def _block(config: ModelConfig, stack: str) -> list[tuple[str, str]]:
  attentions = {'encoder': {'attention': 'attention'},
                'decoder': {'self_attention': 'attention',
                            'encoder_decoder_attention': 'cross'}}[stack]
  norms = {'attention': 'pre_attention_layer_norm', 'self_attention':
           'pre_self_attention_layer_norm', 'encoder_decoder_attention':
           'pre_cross_attention_layer_norm'}
  rows = [('pre_mlp_layer_norm/scale', 'mlp_norm/scale')]
  for theirs, ours in attentions.items():
    rows.append((f'{norms[theirs]}/scale', f'{ours}_norm/scale'))
    rows += [(f'{theirs}/{name}/kernel', f'{ours}/{name}/kernel')
             for name in ('query', 'key', 'value', 'out')]
  mlp = {'wi_0': 'gate', 'wi_1': 'up', 'wo': 'down'} if config.gated_mlp else {
      'wi': 'up', 'wo': 'down'}
  return rows + [(f'mlp/{theirs}/kernel', f'mlp/{ours}/kernel') for theirs, ours in mlp.items()]

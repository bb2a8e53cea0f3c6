"""Import and export of Hugging Face transformers models: folders of config.json and safetensors."""

import collections
from collections.abc import Callable, Iterator
import json
import pathlib
from typing import Any

import jax
import numpy as np

from t5x_lite import models
from t5x_lite.core import trees
from t5x_lite.core.errors import UserError
from t5x_lite.interop import hf_configs, hf_tensors
from t5x_lite.interop.hf_tensors import Tensor
from t5x_lite.interop.safetensors_files import ShardWriter, TensorFolder
from t5x_lite.models import ModelConfig
from t5x_lite.parallel.partitioner import Partitioner
from t5x_lite.training.state import abstract_params

_EMBEDDINGS = {'t5': 'shared.weight', 'gpt2': 'transformer.wte.weight',
               'openai-gpt': 'transformer.tokens_embed.weight'}


def load_model(folder: pathlib.Path, partitioner: Partitioner, **overrides
         ) -> tuple[ModelConfig, dict[str, Any]]:
  """(config, parameters on the mesh) of a folder that transformers' save_pretrained wrote.

  Tensors are read one at a time, each directly into the shards that this process holds.

  Args:
    folder: holds config.json and model.safetensors, in one file or in shards.
    partitioner: shards the parameters.
    overrides: fields of the ModelConfig, such as dtype or scan_layers.

  Raises:
    UserError: the model is of no supported family, a file is missing or damaged, or a tensor is
      unknown, missing or of another shape; all such tensors are named.
  """
  hf = read_config(folder)
  hf_configs.find_model_type(hf)
  files = TensorFolder(folder)
  names = {hf_tensors.renamed(name): name for name in files.files}
  config = hf_configs.read_config(hf, **_inferred_from_tensors(hf, files, names) | overrides)
  tensors = hf_tensors.table(hf['model_type'], config)
  tensors = _without_prefix(hf['model_type'], tensors, names)
  known = {t.theirs for t in tensors}
  unknown = [n for n in names if n not in known and not hf_tensors.ignored(
      n, config.tied_embeddings)]
  missing = sorted(known - set(names))
  if unknown or missing:
    problems = [f'{what} {", ".join(which)}' for what, which in (
        ('has unknown tensors:', unknown), ('lacks:', missing)) if which]
    raise UserError(f'{folder} {"; it ".join(problems)}')
  read = lambda name: files[names[name]]
  return config, assemble(config, partitioner, tensors, read)


def read_config(folder: pathlib.Path) -> dict[str, Any]:
  """config.json of a folder; UserError if there is none or it is not JSON."""
  path = folder / 'config.json'
  if not path.exists():
    raise UserError(f'{folder} holds no config.json: give the folder of a Hugging Face model')
  try:
    return json.loads(path.read_text())
  except ValueError as e:
    raise UserError(f'{path} is not JSON ({e}): fetch it again') from e


def _inferred_from_tensors(hf, files: TensorFolder, names) -> dict[str, Any]:
  """What the tensors state more reliably than config.json: the head, and whether it is tied."""
  if hf.get('model_type') == 'bert':
    if 'cls.seq_relationship.weight' in names:
      return {'head': 'mlm_nsp', 'num_classes': None}
    if 'cls.predictions.transform.dense.weight' in names:
      return {'head': 'mlm', 'num_classes': None}
    if 'classifier.weight' not in names:
      return {'head': 'pooler', 'num_classes': None}
    tagger = any('TokenClassification' in a for a in hf.get('architectures') or ())
    return {'head': 'tagger' if tagger else 'classifier',
            'num_classes': files.shape(names['classifier.weight'])[0]}
  tied = hf.get('tie_word_embeddings', hf.get('model_type') not in ('llama', 'mistral'))
  if not tied or 'lm_head.weight' not in names:
    # What transformers 5 ties in its config may still be stored separately, and is then read so.
    return {}
  table = _EMBEDDINGS.get(hf['model_type'], 'model.embed_tokens.weight')
  same = np.array_equal(files[names['lm_head.weight']], files[names[table]])
  return {'tied_embeddings': bool(same)}


def _without_prefix(model_type: str, tensors: list[Tensor], names) -> list[Tensor]:
  """The table for files that hold the body of a model alone."""
  prefix = hf_tensors.PREFIXES[model_type]
  if not prefix or any(name.startswith(prefix) for name in names):
    return tensors
  return [t.renamed(t.theirs.removeprefix(prefix)) for t in tensors]


def assemble(config: ModelConfig, partitioner: Partitioner, tensors: list[Tensor],
             read: Callable[[str], np.ndarray]) -> dict[str, Any]:
  """The parameters of `config`, float32 on the mesh, from the tensors that `read` gives by name."""
  sources: dict[str, dict[int | None, Tensor]] = collections.defaultdict(dict)
  for tensor in tensors:
    sources[tensor.ours][tensor.layer] = tensor
  make = lambda path, abstract: _array(
      trees.path_name(path), abstract, _layers_of(trees.path_name(path), sources), read)
  abstract = abstract_params(models.build_network(config, partitioner), partitioner)
  return jax.tree_util.tree_map_with_path(make, abstract)


def _layers_of(name: str, sources) -> list[Tensor] | Tensor:
  """The tensors stacked in a parameter, or the one of it."""
  if name in sources:
    layers = sources[name]
    return layers[None] if None in layers else [layers[i] for i in sorted(layers)]
  stack, _, rest = name.partition('/blocks/')
  layer, _, rest = rest.partition('/')
  return sources[f'{stack}/blocks/{rest}'][int(layer)]


def _array(name, abstract, tensors: list[Tensor] | Tensor, read) -> jax.Array:
  def one(tensor: Tensor, shape, index) -> np.ndarray:
    theirs = read(tensor.theirs)
    try:
      return tensor.to_ours(theirs, shape)[index].astype(np.float32)
    except ValueError:
      raise UserError(f'{tensor.theirs} has shape {theirs.shape}, which does not fit {name} of '
                      f'shape {shape}: config.json is of another model') from None

  def part(index):
    if isinstance(tensors, Tensor):
      return one(tensors, abstract.shape, index)
    first, *rest = index
    chosen = tensors[first]
    shape = [len(range(*s.indices(size))) for s, size in zip(index, abstract.shape)]
    out = np.empty(shape, np.float32)
    for i, tensor in enumerate(chosen):
      out[i] = one(tensor, abstract.shape[1:], tuple(rest))
    return out

  return jax.make_array_from_callback(abstract.shape, abstract.sharding, part)


def save_model(folder: pathlib.Path, config: ModelConfig, params: dict[str, Any], *,
         extra: dict[str, Any] | None = None, dtype: str = 'float32',
         shard_bytes: int = 5 * 10 ** 9) -> str:
  """Writes what transformers' from_pretrained reads; returns the model_type.

  Args:
    folder: must not exist, or be empty.
    config: of a model that transformers has.
    params: its parameters.
    extra: more keys of config.json, such as the ids of special tokens.
    dtype: of the tensors, float32 or bfloat16.
    shard_bytes: the size above which a new file is started.
  """
  model_type = hf_configs.model_type_of(config)
  # By default transformers takes the ids of the published model's tokenizer.
  ids = dict.fromkeys(('bos_token_id', 'eos_token_id', 'pad_token_id'))
  if model_type == 't5':
    ids |= {'pad_token_id': 0, 'decoder_start_token_id': 0}
  written = hf_configs.write_config(config, model_type) | {'torch_dtype': dtype, 'dtype': dtype}
  writer = ShardWriter(folder, shard_bytes)
  for name, tensor in _their_tensors(model_type, config, params):
    writer.add(name, tensor.astype(jax.numpy.dtype(dtype)))
  writer.close()
  (folder / 'config.json').write_text(json.dumps(ids | (extra or {}) | written, indent=2) + '\n')
  return model_type


def _their_tensors(model_type: str, config: ModelConfig, params
                   ) -> Iterator[tuple[str, np.ndarray]]:
  flat = trees.flatten(params)
  by_name: dict[str, list[Tensor]] = collections.defaultdict(list)
  for tensor in hf_tensors.table(model_type, config):
    by_name[tensor.theirs].append(tensor)

  def ours(tensor: Tensor) -> np.ndarray:
    if tensor.layer is None:
      return np.asarray(flat[tensor.ours])
    if tensor.ours in flat:
      return np.asarray(flat[tensor.ours][tensor.layer])
    return np.asarray(flat[tensor.ours.replace('/blocks/', f'/blocks/{tensor.layer}/')])

  for name, tensors in by_name.items():
    parts = [t.to_theirs(ours(t)) for t in sorted(tensors, key=lambda t: t.part)]
    yield name, parts[0] if len(parts) == 1 else np.concatenate(parts, -1)


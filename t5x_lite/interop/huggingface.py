"""Import and export of Hugging Face transformers models: folders of config.json and safetensors."""

import collections
from collections.abc import Callable, Iterable, Iterator
import dataclasses
import json
import pathlib
from typing import Any

import jax
import numpy as np

from t5x_lite import models
from t5x_lite.adaptation.quantization.quantized import Quantized
from t5x_lite.core import trees
from t5x_lite.core.errors import UserError
from t5x_lite.interop import hf_configs, hf_tensors, sentence_transformers
from t5x_lite.interop.hf_tensors import Tensor
from t5x_lite.interop.json_files import listed, read_object
from t5x_lite.interop.safetensors_files import ShardWriter, TensorFolder
from t5x_lite.models import ModelConfig, weights
from t5x_lite.parallel.partitioner import Partitioner
from t5x_lite.training.state import abstract_params

Packed = tuple[set[str], Callable[[str, np.ndarray], Iterable[tuple[str, np.ndarray]]]]


def load_model(folder: pathlib.Path, partitioner: Partitioner, *,
               log: Callable[[str], None] = lambda line: None,
               quantized: Quantized | None = None, **overrides
               ) -> tuple[ModelConfig, dict[str, Any]]:
  """(config, parameters on the mesh) of a folder that transformers' save_pretrained wrote.

  Tensors are read one at a time, each directly into the shards that this process holds.

  Args:
    folder: holds config.json and model.safetensors, in one file or in shards.
    partitioner: shards the parameters.
    log: told which tensors of other heads are not used.
    quantized: how kernels are held; each tensor is quantised before the next is read.
    overrides: fields of the ModelConfig, such as dtype or scan_layers.

  Raises:
    UserError: the model is of no supported family, a file is missing or damaged, a key of
      config.json is not known, or a tensor is unknown, missing, of another shape or quantised.
  """
  hf = read_config(folder)
  hf_configs.find_model_type(hf)
  model_type, files = hf['model_type'], TensorFolder(folder)
  names = hf_tensors.renamed(model_type, files)
  if model_type == 'bert':
    hf = hf | {'architectures': [hf_configs.BERT_HEADS[_bert_head(hf, names)]]}
  config = hf_configs.read_config(hf)
  pooled = sentence_transformers.read_pooling(folder) if model_type == 'bert' else None
  if pooled is not None:
    config = dataclasses.replace(config, num_classes=None, **pooled.fields)
    tokens = {'first': 'its first token', 'mean': 'the mean of its tokens'}[config.pooling]
    layer = ', a linear layer and tanh' if config.pooler_transform else ''
    log(f'A text becomes a vector by {tokens}{layer}')
  layers = max(config.num_layers, config.num_decoder_layers or 0)
  if layers > len(names):
    raise UserError(f'{folder}: config.json has {layers} layers, and the files {len(names)} '
                    'tensors: they are of different models')
  tied, names = _resolve_ties(folder, model_type, config.tied_embeddings, names, files)
  config = dataclasses.replace(config, **{'tied_embeddings': tied} | overrides)
  tensors = hf_tensors.table(model_type, config)
  places = {name: (files, own) for name, own in names.items()}
  if pooled is not None and pooled.dense is not None:
    dense = TensorFolder(pooled.dense)
    places |= {name: (dense, own) for name, own in sentence_transformers.DENSE.items()}
  _check_names(folder, model_type, tensors, places, log)
  for tensor in tensors:
    where, own = places[tensor.theirs]
    where.check_dtype(own)

  def shape(name: str) -> tuple[int, ...]:
    where, own = places[name]
    return where.shape(own)

  def read(name: str) -> np.ndarray:
    where, own = places[name]
    return where[own]

  return config, assemble(config, partitioner, tensors, shape, read, quantized)


def read_config(folder: pathlib.Path) -> dict[str, Any]:
  """config.json of a folder; UserError if there is none or it is not JSON."""
  path = folder / 'config.json'
  if not path.is_file():
    raise UserError(f'{folder} holds no config.json: give the folder of a Hugging Face model')
  return read_object(path)


def _bert_head(hf, names) -> str:
  """What the tensors state more reliably than config.json: the head of a BERT."""
  named = {name: head for head, name in hf_configs.BERT_HEADS.items()}.get(hf_configs.class_of(hf))
  if named in ('classifier', 'tagger') and 'classifier.weight' in names:
    return named
  if 'cls.predictions.transform.dense.weight' in names:
    return 'mlm_nsp' if 'cls.seq_relationship.weight' in names else 'mlm'
  return 'classifier' if named is None and 'classifier.weight' in names else 'pooler'


def _resolve_ties(folder: pathlib.Path, model_type: str, tied: bool, names: dict[str, str],
                  files: TensorFolder) -> tuple[bool, dict[str, str]]:
  """(whether the output layer is the embedding table, the names without those of copies).

  As transformers 5: what its config ties may be stored under any of its names, and is separate
  after all if it is stored twice with different values. T5 is tied unless it is stored so.
  """
  names = dict(names)
  table, copies, output = hf_tensors.ties(model_type)
  same = lambda a, b: np.array_equal(files[names[a]], files[names[b]])
  own = [name for name in (table, *copies) if name in names]
  for name in own[1:]:
    if not same(own[0], name):
      raise UserError(f'{folder}: {own[0]} and {name} differ, and a model has one embedding table '
                      'here')
  tied = tied or model_type in ('t5', 'mt5')
  if output in names and own:
    tied = tied and same(own[0], output)
  elif tied and output in names:
    own = [output]
  found = names[own[0]] if own else None
  for name in (table, *copies, *([output] if tied else [])):
    names.pop(name, None)
  if found is not None:
    names[table] = found
  if model_type == 'bert':
    bias, used = 'cls.predictions.bias', 'cls.predictions.decoder.bias'
    # The output's bias has two names; a file of transformers 4 may hold the first alone.
    if used in names or tied and bias in names:
      names[bias] = names[used] = names.get(used, names.get(bias))
    if tied:
      names.pop(used, None)
  return tied, names


def _check_names(folder: pathlib.Path, model_type: str, tensors: list[Tensor], names,
                 log: Callable[[str], None]) -> None:
  """Raises UserError for tensors that are unknown or missing; logs those of unused heads."""
  known = {t.theirs for t in tensors}
  rest = [n for n in names if n not in known and not hf_tensors.is_no_parameter(n)]
  unused = [n for n in rest if hf_tensors.is_other_head(model_type, n)]
  unknown = [n for n in rest if n not in unused]
  missing = sorted(known - set(names))
  if unknown or missing:
    problems = [f'{what} {listed(which)}' for what, which in (
        ('has unknown tensors:', unknown), ('lacks:', missing)) if which]
    raise UserError(f'{folder} {"; it ".join(problems)}')
  if unused:
    log(f'Not used, of heads that this model does not have: {listed(unused)}')


def assemble(config: ModelConfig, partitioner: Partitioner, tensors: list[Tensor],
             shape_of: Callable[[str], tuple[int, ...]], read: Callable[[str], np.ndarray],
             quantized: Quantized | None = None) -> dict[str, Any]:
  """The parameters of `config`, float32 or quantised on the mesh, of tensors given by name.

  Args:
    config: the model.
    partitioner: shards its parameters.
    tensors: all of it.
    shape_of: the shape of a tensor, without reading it.
    read: a tensor.
    quantized: how kernels are held; None: as they are.

  Raises:
    UserError: a tensor has another shape than exactly the one it must have.
    FieldError: `quantized` does not fit the model.
  """
  sources: dict[str, dict[int | None, Tensor]] = collections.defaultdict(dict)
  for tensor in tensors:
    sources[tensor.ours][tensor.layer] = tensor
  network = models.build_network(config, partitioner)
  network = network if quantized is None else quantized.adapt(network)
  abstract = abstract_params(network, partitioner)
  layers = {name: _layers_of(name, sources) for name in trees.flatten(abstract)}
  wrong = []
  for name, x in trees.flatten(abstract).items():
    stacked = isinstance(layers[name], list)
    for tensor in layers[name] if stacked else [layers[name]]:
      want = tensor.their_shape(x.shape[1:] if stacked else x.shape)
      if (got := tuple(shape_of(tensor.theirs))) != want:
        wrong.append(f'{tensor.theirs} has the shape {got} and not {want}')
  if wrong:
    raise UserError(f'{listed(wrong, 3)}: the config or the layout is of another model')

  def value(name, x):
    layout = network.quantized(name)
    return _array(x, layers[name], read) if layout is None else (
        _codes(x, layout, layers[name], read))

  return trees.fill(abstract, {name: value(name, x) for name, x in trees.flatten(
      abstract).items()})


def _layers_of(name: str, sources) -> list[Tensor] | Tensor:
  """The tensors stacked in a parameter, or the one of it."""
  if name in sources:
    layers = sources[name]
    return layers[None] if None in layers else [layers[i] for i in sorted(layers)]
  stack, _, rest = name.partition('/blocks/')
  layer, _, rest = rest.partition('/')
  return sources[f'{stack}/blocks/{rest}'][int(layer)]


def _array(abstract, tensors: list[Tensor] | Tensor, read) -> jax.Array:
  def one(tensor: Tensor, shape, index) -> np.ndarray:
    return tensor.to_ours(read(tensor.theirs), shape)[index].astype(np.float32)

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


def _codes(abstract, layout: weights.Layout, tensors: list[Tensor] | Tensor, read
           ) -> weights.StructuredLeaf:
  """The leaf of a parameter, of which one tensor at a time is in memory whole."""
  quantize = jax.jit(layout.quantize)

  def one(tensor: Tensor, shape):
    whole = tensor.to_ours(read(tensor.theirs), shape).astype(np.float32)
    return jax.device_get(quantize(whole))

  struct = layout.struct(abstract)
  if isinstance(tensors, Tensor):
    leaf = one(tensors, abstract.shape)
  else:
    leaf = jax.tree.map(lambda x: np.empty(x.shape, x.dtype), struct)
    for i, tensor in enumerate(tensors):
      jax.tree.map(lambda x, layer, i=i: x.__setitem__(i, layer), leaf,
                   one(tensor, abstract.shape[1:]))
  return jax.tree.map(lambda x, struct: jax.make_array_from_callback(
      x.shape, struct.sharding, lambda index: x[index]), leaf, struct)


def save_model(folder: pathlib.Path, config: ModelConfig, params: dict[str, Any], *,
         extra: dict[str, Any] | None = None, dtype: str = 'float32',
         packed: Packed | None = None, shard_bytes: int = 5 * 10 ** 9) -> str:
  """Writes what transformers' from_pretrained reads; returns the model_type.

  Args:
    folder: must not exist, or be empty.
    config: of a model that transformers has.
    params: its parameters.
    extra: more keys of config.json, such as the ids of special tokens, or names of classes.
    dtype: of the tensors, float32 or bfloat16.
    packed: names of weights that others stand for, and a function (name, weight) -> (name, tensor)
      of these.
    shard_bytes: the size above which a new file is started.
  """
  model_type = hf_configs.model_type_of(config)
  # By default transformers takes the ids of the published model's tokenizer.
  ids = dict.fromkeys(('bos_token_id', 'eos_token_id', 'pad_token_id'))
  if model_type in ('t5', 'mt5'):
    ids |= {'pad_token_id': 0, 'decoder_start_token_id': 0}
  written = hf_configs.write_config(config, model_type) | {'torch_dtype': dtype, 'dtype': dtype}
  writer = ShardWriter(folder, shard_bytes)
  for name, tensor in their_tensors(model_type, config, params):
    if packed is not None and name in packed[0]:
      for part, value in packed[1](name, tensor):
        writer.add(part, value)
    else:
      writer.add(name, tensor.astype(jax.numpy.dtype(dtype)))
  writer.close()
  extra = extra or {}
  if config.num_classes is not None:
    written |= {name: extra[name] for name in ('id2label', 'label2id') if name in extra}
  (folder / 'config.json').write_text(json.dumps(ids | extra | written, indent=2) + '\n')
  return model_type


def their_shapes(model_type: str, config: ModelConfig) -> dict[str, tuple[int, ...]]:
  """{name: shape} of what `their_tensors` gives, without parameters."""
  flat = trees.flatten(models.build_network(config).shapes)
  layer = lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype)
  return {t.theirs: t.their_shape(_layer_of(flat, t, layer).shape)
          for t in hf_tensors.table(model_type, config)}


def their_tensors(model_type: str, config: ModelConfig, params: dict[str, Any]
                  ) -> Iterator[tuple[str, np.ndarray]]:
  """(name, tensor) of all of a model as transformers has them, one at a time, float32."""
  flat = trees.flatten(params)
  by_name: dict[str, list[Tensor]] = collections.defaultdict(list)
  for tensor in hf_tensors.table(model_type, config):
    by_name[tensor.theirs].append(tensor)
  ours = lambda tensor: np.asarray(_layer_of(flat, tensor, lambda x: x[tensor.layer]))
  for name, tensors in by_name.items():
    parts = [t.to_theirs(ours(t)) for t in sorted(tensors, key=lambda t: t.part)]
    yield name, parts[0] if len(parts) == 1 else np.concatenate(parts, -1)


def _layer_of(flat: dict[str, Any], tensor: Tensor, of_stack: Callable[[Any], Any]) -> Any:
  """The parameter of a tensor, or its layer: `of_stack` takes that of scanned layers."""
  if tensor.layer is None:
    return flat[tensor.ours]
  if tensor.ours in flat:
    return of_stack(flat[tensor.ours])
  return flat[tensor.ours.replace('/blocks/', f'/blocks/{tensor.layer}/')]

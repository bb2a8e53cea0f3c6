"""LoRA adapters of PEFT, in and out: adapter_config.json and adapter_model.safetensors.

Theirs: A [rank, in], B [out, rank], the magnitudes of a DoRA [out]. GPT-2's fused c_attn is three
kernels here. Its A is the A of each of the three, and its B is cut into theirs; going out, the
three ranks stand one after the other in A, and B is block-diagonal, of three times the rank.
"""

import collections
import json
import math
import pathlib
from typing import Any

import jax
import numpy as np
from safetensors.numpy import save_file

from t5x_lite.adaptation import dora
from t5x_lite.adaptation.lora import A0, B0, NORM, A, B, Lora
from t5x_lite.core import trees
from t5x_lite.core.errors import UserError
from t5x_lite.interop import hf_configs, hf_tensors, peft_config
from t5x_lite.interop.hf_tensors import Tensor
from t5x_lite.interop.json_files import listed
from t5x_lite.interop.peft_config import CONFIG, TENSORS, PeftConfig
from t5x_lite.interop.safetensors_files import TensorFolder
from t5x_lite.models import ModelConfig, weights

PREFIX = 'base_model.model.'
# The ends of a module's tensors, by what they are.
_ENDS = {'.lora_A.weight': 'a', '.lora_B.weight': 'b', '.lora_embedding_A': 'a',
         '.lora_embedding_B': 'b', '.lora_magnitude_vector': 'm',
         '.lora_magnitude_vector.weight': 'm', '.base_layer.weight': 'base'}

_PARTS = {'a': 'lora_A', 'b': 'lora_B', 'm': 'lora_magnitude_vector'}


def load_adapter(folder: pathlib.Path, config: ModelConfig, base: dict[str, Any]
                 ) -> tuple[Lora, dict[str, np.ndarray]]:
  """(the adaptation, {path: value} of what it trains) of a PEFT adapter for a base.

  Ranks that differ by module are filled up with zeros, which stay zeros in training; scales that
  differ by module are put into B.

  Args:
    folder: holds adapter_config.json and adapter_model.safetensors.
    config: of the base.
    base: its parameters, a nested dict, of which some may be quantised.

  Raises:
    UserError: an option is not supported, a tensor is missing, unknown, damaged or of another base.
  """
  options = peft_config.read_config(folder)
  files = TensorFolder(folder, TENSORS)
  table = _by_module(config)
  modules, saved = _sort(folder, options, files, table)
  targets = options.targets(table)
  wanted = [m for m in targets if m not in modules]
  if wanted or not modules:
    raise UserError(f'{folder / TENSORS} lacks the adapter of {listed(wanted or ["any module"])}: '
                    'it is for another base, or cut off: name its own base, or fetch the whole '
                    'folder')
  if options.target_modules and (extra := sorted(set(modules) - set(targets))):
    raise UserError(f'{folder / TENSORS} holds the adapter of {listed(extra)}, which {CONFIG} '
                    'does not name: the two are of different adapters; fetch the whole folder')
  flat_base = trees.flatten(base, weights.is_structured)
  rank = max(options.rank_of(m) for m in modules)
  scale = options.scale_of('')
  lora_alpha = scale * (math.sqrt(rank) if options.rank_stabilized else rank)
  if not options.rank_pattern and not options.alpha_pattern:
    lora_alpha = options.alpha
  values: dict[str, np.ndarray] = {}
  ours: set[str] = set()
  for module, parts in modules.items():
    for tensor in table[module]:
      ours.add(tensor.ours)
      _place(folder, values, flat_base, tensor, module, parts, options, rank, scale)
  trained = set()
  for name, value in saved.items():
    for tensor in _tensors(config)[name]:
      path, kernel = _find(flat_base, tensor)
      shape = kernel.shape[1:] if tensor.ours in flat_base and tensor.layer is not None else (
          kernel.shape)
      if value.shape != tensor.their_shape(shape):
        raise _other_base(folder, name, value.shape, tensor.their_shape(shape))
      target = values.setdefault(path, np.array(weights.value(kernel), np.float32))
      part = target[tensor.layer] if shape != kernel.shape else target
      part[...] = tensor.to_ours(value, shape)
      trained.add(path)
  pattern = lambda path: '^' + re_escape(path).replace('/blocks/', r'/blocks/(\d+/)?') + '$'
  lora = Lora(targets=tuple(sorted(map(pattern, ours))), rank=rank, alpha=float(lora_alpha),
              dropout=options.dropout, rank_stabilized=options.rank_stabilized, dora=options.dora,
              trained='|'.join(f'^{re_escape(path)}$' for path in sorted(trained)) or None)
  return lora, values


def re_escape(path: str) -> str:
  """A path as a regular expression: its words and slashes stand for themselves."""
  return path.replace('.', r'\.')


def _tensors(config: ModelConfig) -> dict[str, list[Tensor]]:
  found = collections.defaultdict(list)
  for tensor in hf_tensors.table(hf_configs.model_type_of(config), config):
    found[tensor.theirs].append(tensor)
  return found


def _by_module(config: ModelConfig) -> dict[str, list[Tensor]]:
  """{module: tensors of its weight} of what may be adapted: linear layers and the embeddings."""
  return {name.removesuffix('.weight'): tensors for name, tensors in _tensors(config).items()
          if name.endswith('.weight') and (tensors[0].layout != 'same' or (
              tensors[0].ours == 'embedder/tokens'))}


def _sort(folder, options: PeftConfig, files: TensorFolder, table) -> tuple[dict, dict]:
  """({module: {'a', 'b', 'm'}}, {tensor of the base: value saved whole}) of an adapter's file."""
  modules: dict[str, dict[str, np.ndarray]] = collections.defaultdict(dict)
  saved, unknown = {}, []
  whole = {f'{m}.weight' for m in table} | {f'{m}.bias' for m in table}
  for name in files:
    short = name.removeprefix(PREFIX)
    end = next((end for end in _ENDS if short.endswith(end)), None)
    module = short[:-len(end)] if end else None
    if end and module in table:
      modules[module][_ENDS[end]] = files[name].astype(np.float32)
    elif short in whole and short.split('.')[-2] in options.modules_to_save:
      saved[short] = files[name].astype(np.float32)
    else:
      unknown.append(name)
  if unknown:
    raise UserError(f'{folder / TENSORS} has tensors that this base does not: {listed(unknown)}: '
                    'the adapter is for another base')
  for module, parts in modules.items():
    needed = {'a', 'b', 'm'} if options.dora else {'a', 'b'}
    if missing := sorted(needed - set(parts)):
      raise UserError(f'{folder / TENSORS} lacks {", ".join(map(_PARTS.get, missing))} of '
                      f'{module}: fetch the whole folder')
  for name in options.modules_to_save:
    if not any(name in tensor.split('.') for tensor in saved):
      raise UserError(f'{folder / TENSORS} lacks {name}, of modules_to_save, or this base has no '
                      'such module')
  return dict(modules), saved


def _find(flat: dict[str, Any], tensor: Tensor) -> tuple[str, Any]:
  """(path, value) of the parameter that a tensor is in: stacked, or of its own layer."""
  path = tensor.ours
  if path not in flat:
    path = path.replace('/blocks/', f'/blocks/{tensor.layer}/')
  return path, flat[path]


def _place(folder, values, flat_base, tensor: Tensor, module: str, parts, options: PeftConfig,
           rank: int, scale: float) -> None:
  """Writes a module's A, B and magnitudes into the arrays of one of our kernels."""
  path, kernel = _find(flat_base, tensor)
  if path == 'embedder/tokens' and 'embedder/output' not in flat_base:
    raise UserError(f'{folder}: {module} is adapted, and is the output layer of this base too, '
                    'which PEFT does not adapt with it: merge the adapter with peft')
  stacked = path == tensor.ours and tensor.layer is not None
  shape, n = kernel.shape[1:] if stacked else kernel.shape, tensor.num_inputs
  rows, columns = math.prod(shape[:n]), math.prod(shape[n:])
  part, number = tensor.part
  own, a, b = options.rank_of(module), parts['a'], parts['b']
  for name, x, want in (('A', a, (own, rows)), ('B', b, (columns * number, own)),
                        ('magnitude', parts.get('m'), (columns * number,))):
    if x is not None and x.shape != want:
      raise _other_base(folder, f'{name} of {module}', x.shape, want)
  outputs = slice(part * columns, (part + 1) * columns)
  new = {A: np.zeros((rows, rank), np.float32), B: np.zeros((rank, columns), np.float32)}
  new[A][:, :own] = a.T
  ratio = options.scale_of(module) / scale
  new[B][:own] = b[outputs].T * np.float32(ratio)
  ours = {A: (*shape[:n], rank), B: (rank, *shape[n:])}
  one = jax.tree.map(lambda x: x[tensor.layer], kernel) if stacked else kernel
  if 'base' in parts and not weights.is_structured(one) and not np.allclose(
      parts['base'].reshape(-1), tensor.to_theirs(np.asarray(one)).reshape(-1), atol=1e-6):
    raise UserError(f'{folder / TENSORS} holds the weights of {module}, and they are not those of '
                    'this base: the adapter is for another base')
  if options.dora:
    ours[NORM] = shape[n:]
    new[NORM] = parts['m'][outputs] - np.asarray(dora.norms(one, n)).reshape(-1)
  for end, value in new.items():
    value = value.reshape(ours[end])
    if stacked:
      whole = values.setdefault(path + end, np.zeros((kernel.shape[0], *value.shape), np.float32))
      whole[tensor.layer] = value
    else:
      values[path + end] = value


def _other_base(folder, name: str, got, want) -> UserError:
  return UserError(f'{folder}: {name} has the shape {tuple(got)} and not {tuple(want)}: the '
                   'adapter is for another base, or cut off')


def save_adapter(folder: pathlib.Path, config: ModelConfig, lora: Lora, params: dict[str, Any],
                 base: str, dtype: str = 'float32') -> str:
  """Writes an adapter as peft's from_pretrained reads it; returns the model_type of its base.

  Args:
    folder: exists, and is empty.
    config: of the base, a model that transformers has.
    lora: the adaptation.
    params: all parameters, those of the base, which may be quantised, and of the adapter.
    base: what adapter_config.json names as the base.
    dtype: of the tensors, float32 or bfloat16.

  Raises:
    UserError: the adapter is the base itself, or PEFT has no such adapter.
  """
  flat = trees.flatten(params, weights.is_structured)
  if lora.trained is not None:
    raise UserError('Lora.trained, and so whole parameters beside the adapter, is not exported: '
                    'merge the run (t5x-lite merge), and export that')
  if _is_base(flat):
    raise UserError('The adapter is 0, so that the model is its base: train it first, or name a '
                    'later step')
  tensors, ranks, alphas = {}, {}, {}
  rank = _rank(lora)
  alpha_of = lambda rank: lora.scale * (math.sqrt(rank) if lora.rank_stabilized else rank)
  table = _by_module(config)
  for module, parts in table.items():
    theirs = _their_parts(lora, flat, parts)
    if theirs is None:
      continue
    a, b, m = theirs
    if parts[0].ours == 'embedder/tokens' and config.tied_embeddings:
      raise UserError('embedder/tokens is adapted and is the output layer too, which PEFT has no '
                      'adapter for: merge the run (t5x-lite merge), and export that')
    embedding = parts[0].ours == 'embedder/tokens'
    names = ('lora_embedding_A', 'lora_embedding_B') if embedding else (
        'lora_A.weight', 'lora_B.weight')
    tensors |= {f'{PREFIX}{module}.{names[0]}': a, f'{PREFIX}{module}.{names[1]}': b}
    if m is not None:
      tensors[f'{PREFIX}{module}.lora_magnitude_vector'] = m
    if len(a) != rank:
      ranks[module], alphas[module] = len(a), alpha_of(len(a))
  adapted = {name.removeprefix(PREFIX).partition('.lora_')[0] for name in tensors}
  missing = [path for path in flat if path.endswith(A) and not any(
      _find_name(flat, t) + A == path for m in adapted for t in table[m])]
  if missing:
    raise UserError(f'{trees.summarize(missing)}: transformers has no such tensor to adapt')
  model_type = hf_configs.model_type_of(config)
  # With the task of a classifier peft would make a new head: without one it adapts the model.
  tasks = {'decoder_only': 'CAUSAL_LM', 'encoder_decoder': 'SEQ_2_SEQ_LM'}
  written = {
      'peft_type': 'LORA', 'task_type': tasks.get(config.family),
      'base_model_name_or_path': base, 'r': rank,
      'lora_alpha': lora.alpha if rank == lora.rank else alpha_of(rank),
      'lora_dropout': lora.dropout, 'use_rslora': lora.rank_stabilized, 'use_dora': lora.dora,
      'target_modules': _target_modules(adapted, table), 'rank_pattern': ranks,
      'alpha_pattern': alphas, 'bias': 'none', 'modules_to_save': None, 'inference_mode': True,
      'init_lora_weights': True,
      'fan_in_fan_out': any(t.layout == 'conv1d' for m in adapted for t in table[m])}
  save_file({n: np.ascontiguousarray(x.astype(jax.numpy.dtype(dtype))) for n, x in tensors.items()},
            folder / TENSORS, metadata={'format': 'pt'})
  (folder / CONFIG).write_text(json.dumps(written, indent=2) + '\n')
  return model_type


def _rank(lora: Lora) -> int:
  """Of the adapter on a base that is whole: what PiSSA takes off takes a rank of its own."""
  return lora.rank if lora.start == 'zero' else 2 * lora.rank


def _is_base(flat: dict[str, Any]) -> bool:
  """Whether an adapter changes nothing: its products are 0, or what is taken off the kernels."""
  for path in flat:
    if path.endswith(A):
      kernel = path.removesuffix(A)
      a, b, a0, b0, norm = (flat.get(kernel + end) for end in (A, B, A0, B0, NORM))
      zero = not np.any(a) or not np.any(b) if a0 is None else (
          np.array_equal(a, a0) and np.array_equal(b, b0))
      if not zero or norm is not None and np.any(norm):
        return False
  return True


def _find_name(flat, tensor: Tensor) -> str:
  return _find(flat, tensor)[0]


def _their_parts(lora: Lora, flat: dict[str, np.ndarray], parts: list[Tensor]
                 ) -> tuple[np.ndarray, np.ndarray, np.ndarray | None] | None:
  """(A [rank, in], B [out, rank], magnitudes [out] or None) of a module; None if not adapted."""
  ours = []
  for tensor in sorted(parts, key=lambda t: t.part):
    path, kernel = _find(flat, tensor)
    layer = tensor.layer if path == tensor.ours else None
    at = lambda x, layer=layer: x if layer is None else jax.tree.map(lambda x: x[layer], x)
    n = tensor.num_inputs
    kernel = at(kernel)
    rows, columns = math.prod(kernel.shape[:n]), math.prod(kernel.shape[n:])
    m = np.asarray(dora.norms(kernel, n)).reshape(-1) if lora.dora else None
    rank = _rank(lora)
    a, b = np.zeros((rows, rank), np.float32), np.zeros((rank, columns), np.float32)
    if path + A in flat:
      read = lambda end, *shape: np.asarray(at(flat[path + end])).reshape(shape)
      a, b = read(A, rows, -1), read(B, -1, columns)
      if lora.start == 'pissa':   # what was taken off the kernel, for one that is whole
        a, b = np.hstack([a, read(A0, rows, -1)]), np.vstack([b, -read(B0, -1, columns)])
      if lora.dora:
        m = m + np.asarray(at(flat[path + NORM])).reshape(-1)
    ours.append((path + A in flat, a.T, b.T, m))
  if not any(adapted for adapted, *_ in ours):
    return None
  m = np.concatenate([m for *_, m in ours]) if lora.dora else None
  first = next(a for adapted, a, *_ in ours if adapted)
  if all(not adapted or np.array_equal(a, first) for adapted, a, *_ in ours):
    return first, np.concatenate([b for _, _, b, _ in ours]), m
  return (np.concatenate([a for _, a, _, _ in ours]),
          np.asarray(jax.scipy.linalg.block_diag(*(b for _, _, b, _ in ours))), m)


def _target_modules(adapted: set[str], table) -> list[str]:
  """The shortest names for exactly these modules: what follows the layer's number, if enough."""
  ends = {}
  for module in adapted:
    parts = module.split('.')
    layer = next((i for i, part in enumerate(parts) if part.isdigit()), -1)
    ends.setdefault('.'.join(parts[layer + 1:]), set()).add(module)
  matched = {m for m in table if any(m == end or m.endswith(f'.{end}') for end in ends)}
  return sorted(ends if matched == adapted else adapted)

"""What a config builds: parameters by module, FLOPs a token, memory of a train step.

All of it is read off shapes and traces, and the mesh is an abstract one: nothing is compiled, no
array is allocated, and the devices of the mesh need not be there.
"""

import dataclasses
import math
from typing import Any

import jax
from jax.sharding import AbstractMesh

from scaling import accounting, memory
from t5x_lite import train_step
from t5x_lite.experiment import Experiment
from t5x_lite.partitioning import MESH_AXES, MeshConfig, Partitioner


def describe(experiment: Experiment) -> dict[str, Any]:
  """Parameters (by module, of embeddings, in all, active for a token), training FLOPs, and memory.

  `memory` is in bytes; see `_memory`. The FLOPs of a token are those of a row over its tokens: all
  of attention, and the part of it that its mask leaves (`_causal`); see scaling/accounting.py.
  """
  modules = {}
  for name, shape in accounting.shapes(experiment.model).items():
    modules[_module(name)] = modules.get(_module(name), 0) + math.prod(shape)
  parameters = accounting.parameters(experiment.model)
  return {
      'family': experiment.model.family, 'modules': modules, 'parameters': parameters.total,
      'embedding_parameters': parameters.embedding, 'active_parameters': parameters.active,
      **_flops(experiment), 'memory': _memory(experiment),
  }


def _module(name: str) -> str:
  """'decoder/blocks/0/mlp/up/kernel' -> 'decoder/blocks/mlp': the same for all layers."""
  parts = [part for part in name.split('/') if not part.isdigit()]
  return '/'.join(parts[:3 if 'blocks' in parts else 2])


def _mesh(config: MeshConfig) -> AbstractMesh:
  """The mesh without its devices; an axis that takes all devices left over (-1) has one."""
  return AbstractMesh(tuple(max(getattr(config, axis), 1) for axis in MESH_AXES), MESH_AXES)


def _flops(experiment: Experiment) -> dict[str, Any]:
  """FLOPs to train on a token, a step and the whole run, and how long and how many the rows are."""
  config, data = experiment.model, experiment.data
  inputs, targets = experiment.row_lengths
  tokens = inputs + targets
  row = accounting.train_flops(config, inputs, targets)
  causal_row = accounting.train_flops(config, inputs, targets, causal=True)
  return {
      'tokens_per_row': tokens, 'rows_per_batch': data.batch_size,
      'train_flops_per_token': row / tokens, 'train_flops_per_token_causal': causal_row / tokens,
      'train_flops_per_step': row * data.batch_size,
      'train_flops': row * data.batch_size * experiment.train.steps,
  }


def _memory(experiment: Experiment) -> dict[str, Any]:
  """Bytes of a train step and of the decoding cache.

  `total` and `per_device` of the mesh are the parameters, gradients (as large as the parameters,
  and they lie like them) and optimizer state, exact. `step` is what a device needs for a step: the
  fields of scaling.memory.Memory and their `total`, of which activations, logits, workspace and
  copy are estimates. They are those of an accelerator if activations are bfloat16, else of a CPU.
  `cache_per_row` is what decoding keeps of a row as long as those of the data.
  """
  config = experiment.model
  mesh = _mesh(experiment.mesh)
  state = train_step.abstract_state(config, experiment.optimizer.make(),
                                    Partitioner(mesh, experiment.mesh.rules))

  def held(shape_of):
    count = lambda tree: sum(math.prod(shape_of(x)) * x.dtype.itemsize
                             for x in jax.tree.leaves(tree))
    params = count(state['params'])
    optimizer = count(state['opt_state'])
    return {'parameters': params, 'gradients': params, 'optimizer': optimizer,
            'sum': 2 * params + optimizer}

  inputs, targets = experiment.row_lengths
  step = memory.per_device(
      config, mesh=mesh.shape, rows=experiment.data.batch_size, inputs_length=inputs,
      targets_length=targets, optimizer=experiment.optimizer,
      microbatches=experiment.train.microbatches,
      platform='cpu' if config.dtype == 'float32' else 'tpu')
  return {'mesh': dict(mesh.shape), 'total': held(lambda x: x.shape),
          'per_device': held(lambda x: x.sharding.shard_shape(x.shape)),
          'step': dataclasses.asdict(step) | {'total': step.total},
          'cache_per_row': memory.cache_bytes(config, 1, targets, inputs)}


def as_text(table: dict[str, Any]) -> str:
  """The table of `describe` for people."""
  total, embeddings = table['parameters'], table['embedding_parameters']
  counts = {**table['modules'], 'total': total, '  of them embeddings': embeddings,
            '  of them others': total - embeddings}
  if table['active_parameters'] != total:
    counts['  active for a token'] = table['active_parameters']
  lines = [f'{"module":<40}{"parameters":>16}']
  lines += [f'{name:<40}{size:>16,}' for name, size in counts.items()]
  rows = f'{table["rows_per_batch"]} row{"s" if table["rows_per_batch"] > 1 else ""}'
  lines += ['',
            f'A step: {rows} x {table["tokens_per_row"]} tokens, '
            f'{table["train_flops_per_step"]:.3e} FLOPs to train on',
            f'A token: {table["train_flops_per_token"]:.3e} FLOPs (all of attention), '
            f'{table["train_flops_per_token_causal"]:.3e} (what its mask leaves)']
  if table['train_flops'] > table['train_flops_per_step']:
    lines.append(f'The run: {table["train_flops"]:.3e} FLOPs')
  return '\n'.join([*lines, '', *_memory_lines(table['memory'])])


def _memory_lines(memory: dict[str, Any]) -> list[str]:
  axes = ' x '.join(f'{axis} {size}' for axis, size in memory['mesh'].items() if size > 1)
  columns = {'in all': memory['total']}
  if axes:
    columns['a device'] = memory['per_device']
  row = lambda name, *cells: f'{name:<40}' + ''.join(f'{cell:>16}' for cell in cells)
  lines = [row('memory', *columns)]
  lines += [row(name, *(_size(held[key]) for held in columns.values()))
            for key, name in (('parameters', 'parameters'), ('gradients', 'gradients'),
                              ('optimizer', 'optimizer state'), ('sum', 'total'))]
  if axes:
    lines.append(f'A device of the mesh {axes}.')
  step, width = memory['step'], len(columns) - 1
  lines += ['', row('a step, estimated', *[''] * width, _size(step['total']))]
  lines += [row(f'  {name}', *[''] * width, _size(step[key]))
            for key, name in (('activations', 'kept activations, and the most of:'),
                              ('logits', '  a chunk of the loss'),
                              ('workspace', '  the busiest layer'),
                              ('copy', '  parameters, copied'))]
  if memory['cache_per_row']:
    lines.append(row('cache of a decoded row', *[''] * width, _size(memory['cache_per_row'])))
  return lines


def _size(num_bytes: int) -> str:
  """Bytes for people: '5.20 GiB'."""
  power = min(max(num_bytes.bit_length() - 1, 0) // 10, 4)
  unit = ('B', 'KiB', 'MiB', 'GiB', 'TiB')[power]
  return f'{num_bytes / 1024 ** power:.{2 if power else 0}f} {unit}'

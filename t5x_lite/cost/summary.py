"""Summary of a config: parameters by module, FLOPs a token, memory of a train step.

Everything is derived from shapes and traces on an abstract mesh: nothing is compiled, no array is
allocated, and the devices of the mesh need not exist.
"""

import dataclasses
import functools
import math
from typing import Any

import jax

from t5x_lite.core import trees
from t5x_lite.cost import accounting, memory
from t5x_lite.models import Network
from t5x_lite.parallel.mesh import MeshConfig
from t5x_lite.parallel.partitioner import Partitioner
from t5x_lite.training.optimizers import Optimizer
from t5x_lite.training.state import abstract_state, all_params, on_device


def summarize(network: Network, *, optimizer: Optimizer, mesh: MeshConfig,
              row_lengths: tuple[int, int], batch_size: int, steps: int = 1,
              microbatches: int = 1) -> dict[str, Any]:
  """Parameters (by module, of embeddings, total, active for a token), training FLOPs, and memory.

  `memory` is in bytes; see `_memory`. The FLOPs of a token are those of a row over its tokens: all
  of attention, and unmasked attention only (`_causal`); see accounting.py.
  """
  config, modules = network.config, {}
  for name, shape in accounting.shapes(network).items():
    modules[_module(name)] = modules.get(_module(name), 0) + math.prod(shape)
  parameters = accounting.parameters(network)
  return {
      'family': config.family, 'modules': modules, 'parameters': parameters.total,
      'embedding_parameters': parameters.embedding, 'active_parameters': parameters.active,
      'trained_parameters': sum(math.prod(x.shape) for path, x in trees.flatten(
          network.shapes).items() if network.is_trained(path)),
      **_flops(network, row_lengths, batch_size, steps),
      'memory': _memory(network, optimizer, mesh, row_lengths, batch_size, microbatches),
  }


def _module(name: str) -> str:
  """'decoder/blocks/0/mlp/up/kernel' -> 'decoder/blocks/mlp': the same for all layers."""
  parts = [part for part in name.split('/') if not part.isdigit()]
  return '/'.join(parts[:3 if 'blocks' in parts else 2])


def _flops(network: Network, row_lengths: tuple[int, int], batch_size: int, steps: int
           ) -> dict[str, Any]:
  """Training FLOPs of a token, a step and the run, and the length and number of rows."""
  tokens = sum(row_lengths)
  row, causal_row = (accounting.train_flops(
      network.config, *row_lengths, causal=causal, network=network) for causal in (False, True))
  return {
      'tokens_per_row': tokens, 'rows_per_batch': batch_size,
      'train_flops_per_token': row / tokens, 'train_flops_per_token_causal': causal_row / tokens,
      'train_flops_per_step': row * batch_size, 'train_flops': row * batch_size * steps,
  }


def _memory(network: Network, optimizer: Optimizer, mesh: MeshConfig,
            row_lengths: tuple[int, int], batch_size: int, microbatches: int) -> dict[str, Any]:
  """Bytes of a train step and of the decoding cache.

  `total` and `per_device` of the mesh are the parameters, gradients (of the size and sharding of
  the trained parameters) and optimizer state, exact, and `host` what of it is in the host's memory,
  which the sum leaves out. `step` is the peak of a device in a step: the
  fields of memory.Memory and their `total`, of which activations, logits, workspace and copy are
  estimates, of an accelerator if activations are bfloat16, else of a CPU. `cache_per_row` is the
  decoding cache of a row of the data's length, `cache_per_row_int8` that in 8 bits.
  """
  config, (inputs, targets) = network.config, row_lengths
  sizes = mesh.abstract()
  state = abstract_state(network, optimizer.make(), Partitioner(sizes, mesh.rules))

  def held(shape_of):
    count = lambda tree: sum(math.prod(shape_of(x)) * x.dtype.itemsize
                             for x in jax.tree.leaves(tree))
    trained, whole = count(state['params']), count(all_params(state))
    moments = jax.tree.leaves(state['opt_state'])
    here = count([x for x in moments if on_device(x)])
    return {'parameters': whole, 'gradients': trained, 'optimizer': here,
            'sum': whole + trained + here, 'host': count(moments) - here}

  step = memory.per_device(
      config, mesh=sizes.shape, rules=mesh.rules, rows=batch_size, inputs_length=inputs,
      targets_length=targets, optimizer=optimizer, microbatches=microbatches,
      platform='cpu' if config.dtype == 'float32' else 'tpu', network=network)
  return {'mesh': dict(sizes.shape), 'total': held(lambda x: x.shape),
          'per_device': held(lambda x: x.sharding.shard_shape(x.shape)),
          'step': dataclasses.asdict(step) | {'total': step.total},
          'cache_per_row': memory.cache_bytes(config, 1, targets, inputs),
          'cache_per_row_int8': memory.cache_bytes(config, 1, targets, inputs, int8=True)}


def as_text(table: dict[str, Any]) -> str:
  """The table of `describe` as text."""
  total, embeddings = table['parameters'], table['embedding_parameters']
  counts = {**table['modules'], 'total': total, '  of which embeddings': embeddings,
            '  of which others': total - embeddings}
  if table['active_parameters'] != total:
    counts['  of which active for a token'] = table['active_parameters']
  if table['trained_parameters'] != total:
    counts['  of which trained'] = table['trained_parameters']
    counts['  of which frozen'] = total - table['trained_parameters']
  lines = [f'{"module":<40}{"parameters":>16}']
  lines += [f'{name:<40}{size:>16,}' for name, size in counts.items()]
  rows = f'{table["rows_per_batch"]} row{"s" if table["rows_per_batch"] > 1 else ""}'
  lines += ['',
            f'A step: {rows} x {table["tokens_per_row"]} tokens, '
            f'{table["train_flops_per_step"]:.3e} training FLOPs',
            f'A token: {table["train_flops_per_token"]:.3e} FLOPs (all of attention), '
            f'{table["train_flops_per_token_causal"]:.3e} (unmasked attention only)']
  if table['train_flops'] > table['train_flops_per_step']:
    lines.append(f'The run: {table["train_flops"]:.3e} FLOPs')
  tuned = ['', *tuning_lines(table['tuning'])] if 'tuning' in table else []
  return '\n'.join([*lines, '', *_memory_lines(table['memory']), *tuned])


def _memory_lines(memory: dict[str, Any]) -> list[str]:
  axes = ' x '.join(f'{axis} {size}' for axis, size in memory['mesh'].items() if size > 1)
  columns = {'in all': memory['total']}
  if axes:
    columns['a device'] = memory['per_device']
  step, cache = memory['step'], memory['cache_per_row']
  unit, power = _unit(max(memory['total']['sum'], step['total'], cache))
  size, row = functools.partial(_size, power=power), table_row
  lines = [row(f'memory, {unit}', *columns)]
  lines += [row(name, *(size(held[key]) for held in columns.values()))
            for key, name in (('parameters', 'parameters'), ('gradients', 'gradients'),
                              ('optimizer', 'optimizer state'), ('sum', 'total'),
                              ('host', "optimizer state in the host's memory"))
            if key != 'host' or memory['total']['host']]
  if axes:
    lines.append(f'A device of the mesh {axes}.')
  blank = [''] * (len(columns) - 1)
  lines += ['', row('a step, estimated', *blank, size(step['total'])),
            row('  of which kept activations', *blank, size(step['activations'])),
            '  and the largest of']
  lines += [row(f'    {name}', *blank, size(step[key])) for key, name in (
      ('logits', 'a chunk of the loss'), ('workspace', 'the busiest layer'),
      ('copy', 'parameters, copied'))]
  if cache:
    lines.append(row('cache of a decoded row', *blank, size(cache)))
    lines.append(row('  in 8 bits', *blank, size(memory['cache_per_row_int8'])))
  return lines


def tuning_lines(ways: dict[str, dict[str, Any]]) -> list[str]:
  """The ways of cost.tuning.compare_ways as columns."""
  unit, power = _unit(max(way.get('step', 0) for way in ways.values()))
  memory_of = functools.partial(_size, power=power)
  cells = (('trained parameters', 'trained_parameters', lambda n: f'{n:,}'),
           ('bits of a parameter of the base', 'bits', lambda x: f'{x:.3f}'),
           ('FLOPs of a token', 'train_flops_per_token', lambda x: f'{x:.3e}'),
           (f'state of a device, {unit}', 'state', memory_of),
           (f'a step of a device, {unit}, estimated', 'step', memory_of))
  lines = [table_row('to tune it', *ways)]
  lines += [table_row(name, *('-' if 'refused' in way else text(way[key]) for way in ways.values()))
            for name, key, text in cells]
  return lines + [f'{name}: {way["refused"]}' for name, way in ways.items() if 'refused' in way]


def table_row(name: str, *cells: str) -> str:
  """A line of a name and right-aligned columns."""
  return f'{name:<40}' + ''.join(f'{cell:>16}' for cell in cells)


def _size(num_bytes: int, power: int) -> str:
  value = num_bytes / 1024 ** power
  return '<0.01' if 0 < value < 0.01 else f'{value:,.{2 if power else 0}f}'


def _unit(num_bytes: int) -> tuple[str, int]:
  """(binary unit, its power of 1024) in which a number of bytes is at least 1."""
  power = min(max(num_bytes.bit_length() - 1, 0) // 10, 4)
  return ('B', 'KiB', 'MiB', 'GiB', 'TiB')[power], power

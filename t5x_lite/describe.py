"""What a config builds: parameters by module and FLOPs a token; no array is allocated."""

import math
from typing import Any

import jax

from scaling import accounting
from t5x_lite import models
from t5x_lite.checkpointing import flatten
from t5x_lite.experiment import Experiment


def describe(experiment: Experiment) -> dict[str, Any]:
  """Parameters (by module and in all, embeddings apart) and training FLOPs a token and a step."""
  config, data = experiment.model, experiment.data
  shapes = jax.eval_shape(lambda: models.init_params(config, jax.random.key(0)))
  sizes = {name: math.prod(x.shape) for name, x in flatten(shapes).items()}
  modules = {}
  for name, size in sizes.items():
    module = '/'.join(name.split('/')[:3 if '/blocks/' in name else 2])
    modules[module] = modules.get(module, 0) + size
  inputs = data.inputs_length or 0
  targets = data.targets_length
  if config.family == 'decoder_only':
    inputs, targets = 0, inputs + targets
  elif config.family == 'encoder_only':
    targets = 0
  flops = {name: accounting.train_flops(config, inputs, targets, causal=causal)
           for name, causal in (('full', False), ('causal', True))}
  tokens = inputs + targets
  return {
      'family': config.family, 'modules': modules, 'parameters': sum(sizes.values()),
      'embedding_parameters': sum(s for n, s in sizes.items() if n.startswith('embedder/')),
      'tokens_per_row': tokens, 'rows_per_batch': data.batch_size,
      'train_flops_per_token': flops['full'] / tokens,
      'train_flops_per_token_causal': flops['causal'] / tokens,
      'train_flops_per_step': flops['full'] * data.batch_size,
      'train_flops': flops['full'] * data.batch_size * experiment.train.steps,
  }


def as_text(table: dict[str, Any]) -> str:
  """The table of `describe` for people."""
  lines = [f'{"module":<40}{"parameters":>16}']
  lines += [f'{name:<40}{size:>16,}' for name, size in table['modules'].items()]
  lines += [f'{"total":<40}{table["parameters"]:>16,}',
            f'{"  of them embeddings":<40}{table["embedding_parameters"]:>16,}',
            '',
            f'A step: {table["rows_per_batch"]} rows x {table["tokens_per_row"]} tokens, '
            f'{table["train_flops_per_step"]:.3e} FLOPs to train on',
            f'A token: {table["train_flops_per_token"]:.3e} FLOPs (all of attention), '
            f'{table["train_flops_per_token_causal"]:.3e} (causal half)',
            f'The run: {table["train_flops"]:.3e} FLOPs']
  return '\n'.join(lines)

"""`t5x-lite import`: a run folder from a Hugging Face folder or a T5X checkpoint."""

import argparse
import contextlib
import dataclasses
import pathlib
from typing import Any

from t5x_lite.core.paths import local_path

EXAMPLE = 't5x-lite import --from=downloads/gpt2 --to=runs/gpt2'


def add_flags(parser: argparse.ArgumentParser) -> None:
  add = parser.add_argument
  add('--from', required=True, dest='source', metavar='FOLDER', type=local_path)
  add('--to', required=True, dest='target', metavar='MODEL_DIR', type=local_path,
      help='a folder to write; must not exist, or be empty')
  add('--activation', help='of a T5X checkpoint that is not T5 (UL2: silu)')


def run(args: argparse.Namespace) -> int:
  overrides = {'activation': args.activation} if args.activation else {}
  print(import_run(args.source, args.target, overrides))
  print(f'Look at it: t5x-lite describe --gin_file={args.target}/config.gin')
  return 0


def import_run(source: pathlib.Path, model_dir: pathlib.Path, overrides: dict[str, Any]) -> str:
  """Makes a run folder from a Hugging Face folder or a T5X checkpoint; returns a summary line.

  The run has step 0: its config.gin names the architecture, its checkpoint the parameters. The
  parameters are sharded over all devices of this process while they are read.

  Args:
    source: as huggingface.load_model or t5x.load_checkpoint.
    model_dir: must not exist, or be empty.
    overrides: fields of the ModelConfig.
  """
  import jax

  from t5x_lite.core.errors import UserError
  from t5x_lite.core.files import atomic_folder
  from t5x_lite.interop import huggingface, t5x, tokenizer_files
  from t5x_lite.parallel.mesh import MeshConfig
  from t5x_lite.parallel.partitioner import Partitioner
  from t5x_lite.training.checkpoints import Checkpoints
  from t5x_lite.training.run_folder import RunFolder
  if not source.exists():
    raise UserError(f'{source}: no such file or folder')
  with atomic_folder(model_dir) as folder:
    partitioner = Partitioner(MeshConfig(data=1, fsdp=jax.device_count()).make())
    load = huggingface.load_model if (source / 'config.json').exists() else t5x.load_checkpoint
    config, params = load(source, partitioner, **overrides)
    with contextlib.closing(Checkpoints(folder, keep=1)) as checkpoints:
      checkpoints.save_params(params, 0, {'imported_from': str(source)})
    kept = tokenizer_files.copy_files(
        source, RunFolder(folder).huggingface, ('config.json', *tokenizer_files.NAMES))
    readable = [name for name in tokenizer_files.READABLE if name in kept]
    final = RunFolder(model_dir.absolute()).huggingface
    vocabulary = str(final / readable[0]) if readable else None
    RunFolder(folder).config.write_text(_gin(config, source, vocabulary))
  size = sum(x.size for x in jax.tree.leaves(params))
  return f'{model_dir}: {config.family} of {size:,} parameters from {source}'


def _gin(config, source: pathlib.Path, vocabulary: str | None) -> str:
  """config.gin: the architecture alone, for a run that starts from it to include."""
  defaults = {f.name: f.default for f in dataclasses.fields(config)}
  derived = {'head_dim': config.embed_dim // config.num_heads, 'num_kv_heads': config.num_heads,
             'num_decoder_layers': config.num_layers, 'attention_scale': config.head_dim ** -0.5}
  fields = {name: getattr(config, name) for name in defaults}
  scaling = fields.pop('rope_scaling')
  lines = [f'  {name} = {value!r}' for name, value in fields.items()
           if value not in (defaults[name], derived.get(name, defaults[name]))]
  text = [f'# Imported from {source}.', 'from __gin__ import dynamic_registration',
          'from t5x_lite import models', 'from t5x_lite.models import positions', '']
  if vocabulary:
    text.append(f'VOCABULARY = {vocabulary!r}')
  text += ['', 'models.ModelConfig:', *lines]
  if scaling is not None:
    text.append('  rope_scaling = @positions.RopeScaling()')
    text += ['', 'positions.RopeScaling:', *(
        f'  {f.name} = {getattr(scaling, f.name)!r}' for f in dataclasses.fields(scaling))]
  return '\n'.join(text) + '\n'

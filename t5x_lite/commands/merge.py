"""`t5x-lite merge`: a plain run of one that was adapted, its adapters added to their kernels."""

import argparse
from collections.abc import Sequence
import contextlib
import dataclasses
import pathlib
import shutil

from t5x_lite.commands import gin_flags
from t5x_lite.core.errors import UserError
from t5x_lite.core.paths import local_path

EXAMPLE = 't5x-lite merge --from=runs/lora --to=runs/merged'
ROWS, LENGTH = 2, 32   # of the random tokens that logits are compared on


def add_flags(parser: argparse.ArgumentParser) -> None:
  add = parser.add_argument
  add('--from', required=True, dest='source', metavar='MODEL_DIR', type=local_path)
  add('--to', required=True, dest='target', metavar='MODEL_DIR', type=local_path,
      help='a folder to write; must not exist, or be empty')
  add('--step', type=int, help='of the checkpoint; default: the newest')
  gin_flags.add_trusted_modules(parser)


def run(args: argparse.Namespace) -> int:
  print(merge_run(args.source, args.target, args.step, args.trusted_modules))
  return 0


def merge_run(model_dir: pathlib.Path, target: pathlib.Path, step: int | None = None,
              trusted_modules: Sequence[str] = ()) -> str:
  """Writes a plain run, of step 0, of an adapted one; returns a summary line.

  Kernels are merged in float32; a quantised base is read as it was before. The line has the largest
  difference between logits of the two runs, in float32 on random tokens.

  Args:
    model_dir: the folder of the adapted run.
    target: must not exist, or be empty.
    step: of the checkpoint, newest if None.
    trusted_modules: modules outside this project that config.gin may import.

  Raises:
    UserError: the run is a plain one already, or its adaptation cannot be merged.
  """
  import jax

  from t5x_lite.adaptation.adaptation import Adapter, innermost
  from t5x_lite.core import trees
  from t5x_lite.core.files import atomic_folder
  from t5x_lite.experiment import gin_config
  from t5x_lite.parallel.mesh import MeshConfig
  from t5x_lite.training.checkpoints import Checkpoints, reader_of
  from t5x_lite.training.initial_params import load_params
  from t5x_lite.training.run_folder import RunFolder
  source = RunFolder(model_dir)
  files = [str(source.require_config())]
  experiment = gin_config.load_described(files, (), trusted_modules)
  adaptation = innermost(experiment.adaptation)
  quantized = adaptation is not experiment.adaptation
  merges = isinstance(adaptation, Adapter)
  # On a base of plain arrays: rounding to codes would round an adapter away.
  network, partitioner = dataclasses.replace(experiment, adaptation=adaptation).build_network(
      MeshConfig(data=1, fsdp=jax.device_count()).make())
  if not merges and any(map(network.is_added, trees.flatten(network.shapes))):
    raise UserError(f'{model_dir}: what {type(adaptation).__name__} adds cannot be merged into '
                    "kernels: answer with the run itself (infer, eval)")
  if not merges and not quantized:
    raise UserError(f'{model_dir} has no adapter: its Experiment.adaptation is {adaptation}, and '
                    'its parameters are those of a plain run')
  params, step = load_params(model_dir, network, partitioner, step)
  merged = jax.jit(lambda params: adaptation.merge(network, params))(params) if merges else params
  difference, largest = _difference(experiment, params, merged)
  with atomic_folder(target) as folder:
    text = gin_config.load_experiment(
        files, [f'MODEL_DIR={str(target.absolute())!r}', 'Experiment.adaptation=None',
                'Experiment.init_from=None'], trusted_modules, trains=False)[1]
    RunFolder(folder).config.write_text(text, encoding='utf-8')
    if source.chat_template.is_file():
      shutil.copyfile(source.chat_template, RunFolder(folder).chat_template)
    meta = {'merged_from': str(model_dir.absolute()),
            'vocabulary': reader_of(model_dir).read_meta(step).get('vocabulary')}
    with contextlib.closing(Checkpoints(folder, keep=1)) as checkpoints:
      checkpoints.save_params(merged, 0, meta)
  base = ' into the base as it was before it was quantised' if quantized else ''
  cause = ', by the quantisation,' if quantized else ''
  return (f'{target}: step {step} of {model_dir}, merged in float32{base}; the largest difference '
          f'of logits{cause} is {difference:.1e}, where they are up to {largest:.3g}')


def _difference(experiment, params, merged) -> tuple[float, float]:
  """(the largest difference of logits of adapted and merged, the largest logit), in float32.

  `params` are those on a base that is not quantised, and quantised here if the run's is.
  """
  import jax
  import jax.numpy as jnp

  from t5x_lite import models
  from t5x_lite.core import trees
  from t5x_lite.training.state import quantize_frozen
  config = dataclasses.replace(experiment.model, dtype='float32')
  plain = models.build_network(config)
  length = min(LENGTH, config.max_length or LENGTH)
  ids = jax.random.randint(jax.random.key(0), (ROWS, length), 1, config.vocab_size)
  names = [name for side, name in (
      ('encoder', 'encoder_input_tokens'), ('decoder', 'decoder_input_tokens'),
      ('decoder', 'decoder_target_tokens')) if side in config.family]
  batch = dict.fromkeys(names, ids)
  logits = lambda network, params: jax.jit(
      lambda params: network.bind(params)(batch))(params)
  adapted = experiment.adaptation.adapt(plain)
  trained, frozen = trees.partition(params, adapted.is_trained)
  held = jax.jit(lambda frozen: quantize_frozen(adapted, frozen))(frozen)
  want, got = logits(adapted, trees.combine(trained, held)), logits(plain, merged)
  return float(jnp.abs(want - got).max()), float(jnp.abs(want).max())

"""A run's model, with its adapters by name, behind an engine: for `serve` and `chat`."""

import argparse
from collections.abc import Sequence
import dataclasses
import pathlib
import time
from typing import Any

from t5x_lite.commands import gin_flags
from t5x_lite.core.dataclass_checks import FieldError
from t5x_lite.core.errors import UserError


def add_flags(parser: argparse.ArgumentParser) -> None:
  """Adds `run` and `context` to the flags of gin files."""
  parser.add_argument('run', metavar='RUN', help='the folder of a run')
  parser.add_argument('--context', type=int, metavar='N',
                      help='tokens of a prompt and what is written after it, of an encoder-decoder '
                      'those that are written (default: the longest that the model was made for)')
  gin_flags.add_flags(parser)


def load_experiment(args: argparse.Namespace):
  """The experiment of RUN's config.gin and the other flags."""
  from t5x_lite.core.paths import local_path
  from t5x_lite.training.run_folder import RunFolder
  config = RunFolder(local_path(args.run)).require_config()
  args.gin_file.insert(0, str(config))
  return gin_flags.load_experiment(args, trains=False)[0]


def load_served(experiment, *, slots: int, context: int | None, max_queue: int,
                trusted_modules: Sequence[str] = ()):
  """The Served of a run: its base by the name of its folder, its adapters by theirs.

  Raises UserError for a model that writes no text, and a context that it does not take.
  """
  from t5x_lite.commands import infer
  from t5x_lite.models.unstack import unstack
  from t5x_lite.serving.engine import Engine
  from t5x_lite.serving.served import Served
  from t5x_lite.serving.slots import Slots
  settings, data = experiment.infer, experiment.data
  if experiment.model.family == 'encoder_only' or experiment.model.has_classes:
    raise UserError('the model writes no text: ask it by t5x-lite infer')
  for name in ('constraint', 'draft'):
    if getattr(settings, name) is not None:
      raise FieldError(settings, name, 'is of t5x-lite infer alone: leave it out')
  network, partitioner = experiment.build_network(experiment.mesh.make())
  length = _length(experiment, context)
  params, step = _load_params(experiment, network, partitioner, trusted_modules)
  network, trees = unstack(network, [*params.values()], partitioner)
  params = dict(zip(params, trees))
  reader = infer.make_generator(experiment, network, partitioner, next(iter(params.values())), None)
  chats = {name: infer.load_chat(dataclasses.replace(
      experiment, adapter=name if name in (experiment.adapters or ()) else None))
           for name in params}
  ends = lambda chat: tuple(dict.fromkeys((*reader.end_ids, *(chat.end_ids if chat else ()))))
  engine = Engine(
      Slots(network, partitioner, slots=slots, length=length,
            num_ids=data.tokenizer('targets').vocab_size, int8_cache=settings.int8_cache),
      {name: (values, ends(chats[name])) for name, values in params.items()},
      decode=reader.targets.decode, max_queue=max_queue)
  return Served(engine, reader, chats, f'step-{step}', int(time.time()))


def _length(experiment, context: int | None) -> int:
  from t5x_lite.data.source import row_lengths
  model, data = experiment.model, experiment.data
  longest = model.max_length
  if context is None:
    context = longest or row_lengths(data.lengths, model)[1]
  if context < 2 or longest is not None and context > longest:
    raise UserError(f'--context={context}: give from 2 to ' + (
        f'{longest}, which the model has positions for' if longest else 'as many as fit memory'))
  return context


def _load_params(experiment, network, partitioner, trusted_modules) -> tuple[dict[str, Any], int]:
  """(parameters by name, step of the base)."""
  from t5x_lite.commands.adapters import load_adapters, load_chosen
  name = pathlib.Path(experiment.folder).resolve().name
  step, fingerprint = experiment.infer.step, experiment.data.fingerprint()
  if experiment.adapters is None:
    params, step = load_chosen(experiment, network, partitioner, step, fingerprint,
                               trusted_modules)
    return {name: params}, step
  if name in experiment.adapters:
    raise UserError(f'the adapter {name!r} has the name of the base: give it another in '
                    'Experiment.adapters')
  found, step = load_adapters(experiment, network, partitioner, step, fingerprint, trusted_modules)
  return {name: found.base, **found.adapted}, step

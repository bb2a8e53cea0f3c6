"""`t5x-lite infer`: the outputs of a trained model for a file or a split of its task."""

import argparse
import json
import pathlib
import re
from typing import Any

from t5x_lite.commands import gin_flags
from t5x_lite.core.dataclass_checks import FieldError, nearest
from t5x_lite.core.files import check_writable, write_text
from t5x_lite.core.paths import local_path

EXAMPLE = 't5x-lite infer --gin_file=runs/lm/config.gin --gin.InferConfig.input=prompts.txt'


def add_flags(parser: argparse.ArgumentParser) -> None:
  gin_flags.add_flags(parser)


def run(args: argparse.Namespace) -> int:
  path, records = infer(gin_flags.load_experiment(args, trains=False)[0])
  for record in records[:3]:
    print(json.dumps(record, ensure_ascii=False))
  print(f'{len(records)} lines: {path}')
  return 0


def read_texts(pattern: str, field: str) -> list[str]:
  """The texts of files of any format that a FileTask reads; blank lines are skipped.

  `field` is the name of a field, or a text with {names} of fields; a .txt file has a text on each
  line. Raises UserError naming file and line.
  """
  from t5x_lite.data.files import find, index
  kinds = {find.format_of(name)[0] for name in find.find_files(pattern, 'InferConfig.input')}
  if kinds == {'.txt'}:
    return [*index.read_texts(pattern, 'text', 'InferConfig.input')]
  return [*index.read_texts(pattern, field, f'InferConfig.input (InferConfig.field = {field!r})')]


def load_generator(experiment, params: Any = None) -> tuple[Any, int | None]:
  """(a Generator of the run's model, its step), from a checkpoint unless `params` are given."""
  from t5x_lite.inference.generator import Generator
  from t5x_lite.training.initial_params import load_params
  settings, data = experiment.infer, experiment.data
  network, partitioner = experiment.build_network(experiment.mesh.make())
  fingerprint = data.fingerprint()   # errors in the data come first
  partitioner.check_rows(settings)
  step = None
  if params is None:
    params, step = load_params(experiment.folder, network, partitioner, settings.step, fingerprint)
  return Generator(
      network, params, partitioner, data, batch_size=settings.batch_size,
      max_tokens=settings.max_tokens, temperature=settings.temperature,
      seed=experiment.seed), step


def infer(experiment) -> tuple[pathlib.Path, list[dict[str, Any]]]:
  """Writes the outputs of the run's model; returns the file and its records.

  A record has `inputs`, `output`, `score` and, if a task was read, `targets`. Raises UserError for
  a missing input or checkpoint; the file appears once it is complete.
  """
  from t5x_lite.training.run_folder import RunFolder
  settings, data = experiment.infer, experiment.data
  texts = read_texts(settings.input, settings.field) if settings.input else None
  generator, step = load_generator(experiment)
  name = f'{data.name}-{settings.split}' if texts is None else re.sub(
      r'[^\w.-]', '_', pathlib.PurePath(settings.input).stem)   # of a glob, too
  output = local_path(settings.output) if settings.output else (
      RunFolder(experiment.folder).inferences(name, step))
  check_writable(output)
  if texts is not None:
    records = generator(texts[:settings.num_examples])
  else:
    splits = data.splits()
    if splits and settings.split not in splits:
      raise FieldError(settings, 'split', f'{data.name}: {nearest(settings.split, splits)}')
    examples = list(data.examples(settings.split, settings.num_examples, experiment.seed))
    outputs = generator.from_ids([example['ids'] for example in examples])
    records = [{'inputs': example['inputs']} | got | {'targets': example['targets']}
               for example, got in zip(examples, outputs)]
  write_text(output, ''.join(json.dumps(r, ensure_ascii=False) + '\n' for r in records))
  return output, records

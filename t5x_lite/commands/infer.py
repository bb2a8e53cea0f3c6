"""`t5x-lite infer`: the outputs of a trained model for prompts, a file or a split of its task."""

import argparse
from collections.abc import Sequence
import functools
import json
import pathlib
import re
import sys
from typing import Any

from t5x_lite.commands import gin_flags
from t5x_lite.commands.adapters import load_chosen
from t5x_lite.core.dataclass_checks import FieldError, has_surrogate, nearest
from t5x_lite.core.errors import UserError
from t5x_lite.core.files import check_writable, write_text
from t5x_lite.core.paths import local_path

_NO_NAME = r'[^\w.-]'   # what names of files do not have
EXAMPLE = 't5x-lite infer --gin_file=runs/lm/config.gin --gin.InferConfig.input=prompts.txt'


def add_flags(parser: argparse.ArgumentParser) -> None:
  gin_flags.add_flags(parser)
  parser.add_argument('--prompt', action='append', default=[], metavar='TEXT',
                      help='print the output for this text, or all where there are several; may be '
                      'given again')


def run(args: argparse.Namespace) -> int:
  experiment = gin_flags.load_experiment(args, trains=False)[0]
  if args.prompt:
    for record in answer(experiment, args.prompt, args.trusted_modules):
      if 'outputs' not in record:
        print(record['output'])
      for n, one in enumerate(record.get('outputs', ()), 1):
        print(f'# output {n}, score {one["score"]:.2f}\n{one["output"]}')
    return 0
  path, records = infer(experiment, args.trusted_modules)
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


def load_generator(experiment, params: Any = None, trusted_modules: Sequence[str] = ()
                   ) -> tuple[Any, int | None]:
  """(a Generator of the run's model, its step), from a checkpoint unless `params` are given.

  `trusted_modules` are those outside this project that config.gin of adapters may import.
  """
  from t5x_lite.models.unstack import unstack
  settings, data = experiment.infer, experiment.data
  network, partitioner = experiment.build_network(experiment.mesh.make())
  fingerprint = data.fingerprint()   # errors in the data come first
  partitioner.check_rows(settings)
  step = None
  if params is None:
    params, step = load_chosen(
        experiment, network, partitioner, settings.step, fingerprint, trusted_modules)
    network, (params,) = unstack(network, [params], partitioner)
  chat = None if network.config.family == 'encoder_only' else load_chat(experiment)
  return make_generator(experiment, network, partitioner, params, chat), step


def make_generator(experiment, network, partitioner, params: Any, chat):
  """The Generator of a run's model; `chat` makes a message of each text, None reads it as it is."""
  from t5x_lite.inference.generator import Generator
  settings, data, config = experiment.infer, experiment.data, network.config
  if settings.constraint and (config.family == 'encoder_only' or config.has_classes):
    raise FieldError(settings, 'constraint', 'is of what is written, and the model writes nothing')
  return Generator(
      network, params, partitioner, data, batch_size=settings.batch_size,
      max_tokens=settings.max_tokens, decoding=settings.decoding, samples=settings.samples,
      int8_cache=settings.int8_cache,
      seed=experiment.seed, placeholders=settings.placeholders, frame=frame_of(settings, data),
      constraint=settings.constraint, draft=_load_draft(experiment, partitioner, config),
      end_ids=(*settings.end_ids, *(chat.end_ids if chat else ())), labels=settings.labels,
      prompt_ids=chat and functools.partial(_ask, chat, settings.system))


def _load_draft(experiment, partitioner, config):
  """(what makes the Draft of its parameters, these) of InferConfig.draft, or None."""
  from t5x_lite.experiment import gin_config
  from t5x_lite.inference.speculative import DraftRun, ModelDraft
  from t5x_lite.models.unstack import unstack
  from t5x_lite.training.initial_params import load_params
  from t5x_lite.training.run_folder import RunFolder
  draft = experiment.infer.draft
  if not isinstance(draft, DraftRun):
    return draft and (lambda _: draft, None)
  file = RunFolder(local_path(draft.model_dir)).config
  if not file.is_file():
    raise FieldError(draft, 'model_dir', f'is no run: it has no {file.name}')
  other = gin_config.load_experiment([str(file)], [], trains=False)[0]
  own, theirs = experiment.data.fingerprint(), other.data.fingerprint()
  if other.model.family != config.family or own != theirs:
    raise FieldError(draft, 'model_dir', 'has another family or vocabulary: its drafts would be of '
                     'other tokens')
  network, partitioner = other.build_network(partitioner.mesh)
  params, _ = load_params(other.folder, network, partitioner, draft.step, theirs)
  network, (params,) = unstack(network, [params], partitioner)
  return (lambda values: ModelDraft(network.bind(values), size=draft.size)), params


def load_chat(experiment):
  """The Chat that texts are messages of; None: they are read as they are."""
  from t5x_lite.training.run_folder import RunFolder
  settings, data = experiment.infer, experiment.data
  template, folders = settings.chat_template, [experiment.folder]
  if experiment.adapter is not None:   # what it was trained on comes before its base's
    folders.insert(0, local_path(experiment.adapters[experiment.adapter]))
  kept = [file for folder in folders if (file := RunFolder(folder).chat_template).is_file()]
  if template is None and kept:
    template = str(kept[0])
  try:
    chat = None if template == '' else data.chat(template)
  except UserError as error:
    if settings.chat_template is None:
      raise
    raise FieldError(settings, 'chat_template', str(error)) from error
  if chat is None and settings.system is not None:
    raise FieldError(settings, 'system', 'is part of a conversation: set '
                     'InferConfig.chat_template, too')
  return chat


def _ask(chat, system: str | None, text: str) -> list[int]:
  """Ids of a text as the user's message."""
  head = [] if system is None else [{'role': 'system', 'content': system}]
  return chat.prompt([*head, {'role': 'user', 'content': text}])


def frame_of(settings, data) -> tuple[tuple[int, ...], tuple[int, ...]] | None:
  """Ids around a prompt: of an imported model its tokenizer's, until a task with inputs trains it
  to read another form."""
  if settings.prompt_prefix is None or data.name and 'inputs' in data.lengths:
    return None
  return settings.prompt_prefix, settings.prompt_suffix


def answer(experiment, prompts: Sequence[str], trusted_modules: Sequence[str] = ()
           ) -> list[dict[str, Any]]:
  """The records of prompts, as of `infer`; nothing is written."""
  for name in ('input', 'output'):
    if getattr(experiment.infer, name) is not None:
      raise FieldError(experiment.infer, name, 'there is --prompt, which is answered on the '
                       'terminal: leave one of them out')
  for prompt in prompts:
    if has_surrogate(prompt):   # how Python holds other bytes
      raise UserError(f'--prompt={prompt!r}: not UTF-8')
  return _records_of(load_generator(experiment, None, trusted_modules)[0], prompts)


def infer(experiment, trusted_modules: Sequence[str] = ()
          ) -> tuple[pathlib.Path, list[dict[str, Any]]]:
  """Writes the outputs of the run's model; returns the file and its records.

  A record has `inputs`, `output`, `score` and, if a task was read, `targets`; if inputs are longer
  than their length also `inputs_read`, what the model read of them, and `tokens_cut`. Raises
  UserError for a missing input or checkpoint, or an output that exists; the file appears once it is
  complete.
  """
  from t5x_lite.training.run_folder import RunFolder
  settings, data = experiment.infer, experiment.data
  output = local_path(settings.output) if settings.output else None
  if output is not None:
    if output.exists():
      raise FieldError(settings, 'output', 'exists and is not overwritten: name another file')
    check_writable(output)
  texts = read_texts(settings.input, settings.field) if settings.input else None
  generator, step = load_generator(experiment, None, trusted_modules)
  if output is None:
    name = f'{data.name}-{settings.split}' if texts is None else re.sub(
        _NO_NAME, '_', pathlib.PurePath(settings.input).stem)   # of a glob, too
    name += '' if experiment.adapter is None else f'-{re.sub(_NO_NAME, "_", experiment.adapter)}'
    output = RunFolder(experiment.folder).inferences(name, step)
    check_writable(output)
  if texts is not None:
    records = _records_of(generator, texts[:settings.num_examples])
  else:
    splits = data.splits()
    if splits and settings.split not in splits:
      raise FieldError(settings, 'split', f'{data.name}: {nearest(settings.split, splits)}')
    examples = list(data.examples(settings.split, settings.num_examples, experiment.seed))
    outputs = generator.from_ids([example['ids'] for example in examples])
    records = [{'inputs': example['inputs'],
                **generator.cut_fields(example['ids'], example.get('tokens_cut', 0)),
                **got, 'targets': example['targets']} for example, got in zip(examples, outputs)]
    _say_cut(records, 'end')
  write_text(output, ''.join(json.dumps(r, ensure_ascii=False) + '\n' for r in records))
  return output, records


def _records_of(generator, texts: Sequence[str]) -> list[dict[str, Any]]:
  """The records of texts; says how many were cut, or name no mask."""
  if generator.named == 'mask':
    unmasked = [text for text in texts if not generator.read(text).masks]
    if unmasked:
      _say(f'{len(unmasked)} of {len(texts)} texts have no {generator.mask} to fill in, such as '
           f'{unmasked[0][:60]!r}')
  records = generator(texts)
  _say_cut(records, 'beginning' if generator.continues else 'end')
  return records


def _say_cut(records: Sequence[dict[str, Any]], part: str) -> None:
  cut = [record['tokens_cut'] for record in records if 'tokens_cut' in record]
  if cut:
    _say(f'{len(cut)} of {len(records)} inputs are too long by up to {max(cut)} tokens: their '
         f'{part} was cut off, and inputs_read of their records is what was read')


def _say(text: str) -> None:
  print(f'warning: {text}', file=sys.stderr)

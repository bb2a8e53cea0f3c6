"""From a seqio task or mixture to batches: host numpy arrays named as seqio's converters name them.

seqio and TensorFlow are imported inside the functions that stream data, so that nothing else
pays for them. A run's place in its data is the number of batches it has seen: the stream of
global batches depends only on the task, the lengths, the batch size and the seed, and each process
takes its rows of every batch, so the number of processes may change between two parts of a run.
"""

from collections.abc import Iterator
import dataclasses
import functools
import importlib
import os
import re
import sys
from typing import Any

import numpy as np

from t5x_lite import quiet
from t5x_lite.errors import UserError
from t5x_lite.models.config import ModelConfig
from t5x_lite.validation import FieldError, check_positive, check_types, nearest

Batch = dict[str, np.ndarray]
PACKING = ('best_fit', 'greedy', 'none')   # greedy is seqio's own

# Features that no length is given for: as long as another one, or a single id.
_LENGTH_OF = {'token_types': 'inputs', 'next_sentence_label': None}


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataConfig:
  """Which task or mixture, at which lengths, how many rows a step."""
  task: Any                          # name of a seqio task or mixture; or a FileTask or Mixture
  targets_length: int                # longest targets, in tokens
  inputs_length: int | None = None   # longest inputs; None: the task has only targets
  batch_size: int                    # rows of a global batch
  task_module: str = 'tasks.stdlib'  # the Python module whose import registers `task`
  split: str = 'train'
  packing: str = 'best_fit'          # of several examples in a row: one of PACKING
  vocabulary: str | None = None      # a SentencePiece .model, tokenizer.json or rank file
  data_dir: str | None = None        # where TFDS keeps data; None: TFDS's own default
  cache_dir: str | None = None       # of t5x-lite data cache; None: tokenise while training

  def __post_init__(self):
    check_types(self)
    check_positive(self, 'targets_length', 'inputs_length', 'batch_size')
    if self.packing not in PACKING:
      raise FieldError(self, 'packing', f'{self.packing!r}; {nearest(self.packing, PACKING)}')
    if not isinstance(self.task, str) and not hasattr(self.task, 'register'):
      raise FieldError(self, 'task', 'expected the name of a seqio task or mixture, or a FileTask')

  @property
  def lengths(self) -> dict[str, int]:
    """Length of each task feature, as seqio takes them."""
    lengths = {'inputs': self.inputs_length, 'targets': self.targets_length}
    return {name: length for name, length in lengths.items() if length is not None}

  @property
  def name(self) -> str:
    """Name of the task or mixture, for people: a FileTask's own name is a hash of its content."""
    return self.task if isinstance(self.task, str) else self.task.label

  @property
  def phases(self) -> list[tuple[int, tuple[float, ...]]]:
    """Those of a tasks.mixtures.Mixture whose rates change; else none."""
    return getattr(self.task, 'phases', [])

  def shown(self, name: str) -> str:
    """A task's name, for people: less the hashes of files and of another vocabulary than its own,
    so that it is the same in every run."""
    if self.vocabulary is not None:
      name = name.rsplit('__', 1)[0]
    return re.sub(r'_[0-9a-f]{12}$', '', name)

  def check_model(self, model: ModelConfig) -> None:
    """Raises UserError if `model` takes shorter sequences than these."""
    lengths = [*self.lengths.values()]
    longest = sum(lengths) if model.family == 'decoder_only' else max(lengths)
    if model.max_length is not None and longest > model.max_length:
      what = 'inputs_length + targets_length' if model.family == 'decoder_only' else 'length'
      raise FieldError(model, 'max_length', f'the data has sequences of {longest} tokens '
                       f'(DataConfig {what}); raise max_length or shorten the data')


def import_seqio():
  """seqio, quietly: TensorFlow takes no accelerator and prints no start-up banner."""
  if 'seqio' not in sys.modules:
    quiet.quiet_logs()
    if os.environ.get('TF_CPP_MIN_LOG_LEVEL', '1') == '1':   # which JAX sets
      os.environ['TF_CPP_MIN_LOG_LEVEL'] = '2'   # no warnings of streams not read to their end
    with quiet.silent_stderr():
      import tensorflow as tf
      for kind in ('GPU', 'TPU'):
        tf.config.set_visible_devices([], kind)
      import seqio
    import sentencepiece
    sentencepiece.set_min_log_level(1)   # each model would say how it normalises
  import seqio
  return seqio


def get_task(data: DataConfig):
  """The seqio Task or Mixture of `data`, registered, with its vocabulary swapped if asked for.

  Raises UserError for a module that cannot be imported, an unknown name or missing lengths.
  """
  if data.vocabulary is not None and not os.path.isfile(os.path.expanduser(data.vocabulary)):
    raise FieldError(data, 'vocabulary', 'no such file: make one with t5x-lite train-vocab, or '
                     'name a tokenizer.json or a rank file of tiktoken')
  seqio = import_seqio()
  if data.data_dir is not None:
    seqio.set_tfds_data_dir_override(os.path.expanduser(data.data_dir))
  try:
    importlib.import_module(data.task_module)
  except ModuleNotFoundError as e:
    raise FieldError(data, 'task_module', f'cannot be imported: {e}') from e
  name = data.task if isinstance(data.task, str) else data.task.register()
  known = [*seqio.TaskRegistry.names(), *seqio.MixtureRegistry.names()]
  if name not in known:
    raise FieldError(data, 'task', f'{data.task_module} registers no such task or mixture; '
                     + nearest(name, known))
  if data.vocabulary is not None:
    vocabularies = importlib.import_module('tasks.vocabularies')
    name = vocabularies.with_vocabulary(name, vocabularies.load_vocabulary(data.vocabulary))
  task = seqio.get_mixture_or_task(name)
  given = [feature for feature in task.output_features if feature not in _LENGTH_OF]
  if set(given) != set(data.lengths):
    needs = ' and '.join(f'{feature}_length' for feature in given)
    raise UserError(f'Task {name!r} has the features {", ".join(given)}: set '
                    f'DataConfig.{needs}, and no other length')
  return task


def feature_lengths(task, data: DataConfig) -> dict[str, int]:
  """Length of each feature of the task, those that follow from other lengths included."""
  lengths = data.lengths
  derived = {name: of for name, of in _LENGTH_OF.items() if name in task.output_features}
  return lengths | {name: lengths[of] if of else 1 for name, of in derived.items()}


def start_id(vocabulary) -> int:
  """What the decoder reads before the first token: the vocabulary's BOS, else its padding."""
  try:
    bos = vocabulary.bos_id
  except NotImplementedError:
    bos = None
  return vocabulary.pad_id if bos is None or bos < 0 else bos


def text_vocabulary(task):
  """The vocabulary of a task's text: of its inputs, if it has them; targets may be labels."""
  return task.output_features.get('inputs', task.output_features['targets']).vocabulary


def fingerprint(task) -> str:
  """What tells the vocabulary of a task from others; it goes with every checkpoint."""
  return importlib.import_module('tasks.vocabularies').fingerprint(text_vocabulary(task))


def check_vocabulary(task, model: ModelConfig) -> None:
  """Raises UserError if the task's ids do not fit the model's embedding table or classes."""
  for feature, spec in task.output_features.items():
    classes = model.num_classes is not None and feature == 'targets'
    rows, field = model.vocab_size, 'vocab_size'
    if classes:
      rows, field = model.num_classes, 'num_classes'
    if spec.vocabulary.vocab_size > rows:
      raise FieldError(model, field, f'the {feature} of task {task.name!r} have '
                       f'{spec.vocabulary.vocab_size} ids; raise {field} to at least that')


def feature_converter(task, model: ModelConfig, packing: str):
  """The seqio FeatureConverter that turns the task's features into what `model` reads.

  Raises UserError for a head that no task trains, or if just one of the two is of sentence pairs.
  """
  seqio = import_seqio()
  if model.head in ('pooler', 'tagger'):
    raise FieldError(model, 'head', 'no task trains it: set head to mlm, mlm_nsp or classifier')
  pairs = 'next_sentence_label' in task.output_features
  if pairs and model.head != 'mlm_nsp':
    raise FieldError(model, 'head', f'task {task.name!r} has sentence pairs: set head to mlm_nsp')
  if model.head == 'mlm_nsp' and not pairs:
    raise FieldError(model, 'head', f'task {task.name!r} has no sentence pairs: set head to mlm, '
                     'or choose a task of the objective mlm_nsp')
  if model.family == 'encoder_only':
    converters = importlib.import_module('tasks.feature_converters')
    if model.head == 'mlm_nsp':      # one label a row, as of a classification
      return converters.NextSentenceFeatureConverter(pack=False)
    if model.head == 'classifier':
      return converters.ClassificationFeatureConverter(pack=False)
    kind, options = converters.MaskedLMFeatureConverter, {}
  else:
    options = {'bos_id': start_id(task.output_features['targets'].vocabulary)}
    kind = seqio.LMFeatureConverter
    if model.family == 'encoder_decoder':
      kind = seqio.EncDecFeatureConverter
    elif 'inputs' in task.output_features:
      kind = seqio.PrefixLMFeatureConverter
  if packing == 'best_fit':
    kind = importlib.import_module('tasks.packing').best_fit(kind)
  return kind(pack=packing != 'none', **options)


def for_model(batch: Batch, vocabulary: Any) -> Batch:
  """`batch` as models read it: with segments, and the ids of the vocabulary's own.

  Segment ids of unpacked rows are 1 for tokens and 0 for padding.
  """
  batch = dict(batch)
  for side, tokens in (('encoder', 'encoder_input_tokens'), ('decoder', 'decoder_target_tokens')):
    if tokens in batch and f'{side}_segment_ids' not in batch:
      batch[f'{side}_segment_ids'] = (batch[tokens] != vocabulary.pad_id).astype(np.int32)
  own_ids = importlib.import_module('tasks.vocabularies').own_ids
  return {name: own_ids(vocabulary, x) if name.endswith('_tokens') else x
          for name, x in batch.items()}


def train_batches(data: DataConfig, model: ModelConfig, *, seed: int, start: int = 0,
                  process_index: int = 0, process_count: int = 1) -> Iterator[Batch]:
  """This process's rows of the endless stream of global batches, from batch number `start` on.

  Raises UserError if the task is unknown, does not fit the model, or is empty.
  """
  task = get_task(data)
  check_vocabulary(task, model)
  importlib.import_module('tasks.caching').use(task, data)
  parts = [task]
  if data.phases:
    parts = [import_seqio().get_mixture_or_task(name) for name in task.rate_per_task_name]
  for part in parts:
    check_split(part, data)
    # Repeating nothing for ever would never come back, so one pass is asked for an example first.
    if start == 0 and not list(_rows(part, data, model, shuffle=False, num_epochs=1).take(1)):
      raise UserError(f'Task {part.name!r}, split {data.split!r} is empty: no example is left '
                      'after its preprocessing')
  endless = functools.partial(_rows, data=data, model=model, seed=seed, shuffle=True,
                              num_epochs=None)
  if data.phases:
    schedules = importlib.import_module('tasks.schedules')
    ds = schedules.scheduled([*map(endless, parts)], data.phases, data.batch_size, seed)
  else:
    ds = endless(task)
  ds = ds.batch(data.batch_size, drop_remainder=True).skip(start).prefetch(2)
  vocabulary = text_vocabulary(task)
  rows = slice(process_index, None, process_count)
  for batch in ds.as_numpy_iterator():
    yield for_model({name: x[rows] for name, x in batch.items()}, vocabulary)


def check_split(task, data: DataConfig) -> None:
  """Raises UserError if the task has no split `data.split`."""
  if data.split not in task.splits:
    raise FieldError(data, 'split', f'task {task.name!r}: {nearest(data.split, task.splits)}')


def _rows(task, data: DataConfig, model: ModelConfig, **options):
  """The tf.data.Dataset of a task's rows, as its feature converter makes them."""
  return import_seqio().get_dataset(
      task.name, feature_lengths(task, data), feature_converter(task, model, data.packing),
      dataset_split=data.split, use_cached=data.cache_dir is not None, verbose=False, **options)

"""The seqio task or mixture of a DataConfig (`data`), and whether it fits a model."""

import os
from typing import Any

import seqio

from t5x_lite.core.dataclass_checks import FieldError, nearest
from t5x_lite.core.errors import UserError
from t5x_lite.models import ModelConfig
from tasks import vocabularies
from tasks.pipeline import registry
from tasks.pipeline.imports import import_task_module
from tasks.vocabularies.seqio_tokenizer import SeqioTokenizer

# Features that no length is given for: as long as another one, or a single id.
_LENGTH_OF = {'token_types': 'inputs', 'targets_loss_weights': 'targets',
              'next_sentence_label': None, 'response_lengths': None, 'response_scores': None}


def get_task(data: Any) -> seqio.Task | seqio.Mixture:
  """The task of `data`, as `registered`; raises UserError for missing lengths too."""
  task = registered(data)
  given = [feature for feature in task.output_features if feature not in _LENGTH_OF]
  if set(given) != set(data.lengths):
    needs = ' and '.join(f'{feature}_length' for feature in given)
    pairs = ", or ConversationTask.objective to 'text_to_text', which has inputs" if (
        'targets_loss_weights' in task.output_features and 'inputs' in data.lengths) else ''
    raise UserError(f'Task {task.name!r} has the features {", ".join(given)}: set '
                    f'{type(data).__name__}.{needs}, and no other length{pairs}')
  return task


def registered(data: Any) -> seqio.Task | seqio.Mixture:
  """The seqio Task or Mixture of `data`, registered, with its vocabulary swapped if asked for.

  Raises UserError for no task, an unknown one, a module that cannot be imported, or a vocabulary in
  which seqio takes a token for padding.
  """
  if not data.task:
    raise UserError('TASK is required to read data: pass --gin.TASK=VALUE, and its lengths')
  if data.vocabulary not in (None, 'byte', 'none') and not os.path.isfile(
      os.path.expanduser(data.vocabulary)):
    raise FieldError(data, 'vocabulary', 'no such file: make one with t5x-lite train-vocab, or '
                     'name a tokenizer.json or a rank file of tiktoken')
  if data.data_dir is not None:
    seqio.set_tfds_data_dir_override(os.path.expanduser(data.data_dir))
  try:
    import_task_module(data.task_module)
  except ModuleNotFoundError as e:
    raise FieldError(data, 'task_module', f'cannot be imported: {e}') from e
  name = data.task if isinstance(data.task, str) else data.task.register()
  known = [*seqio.TaskRegistry.names(), *seqio.MixtureRegistry.names()]
  if name not in known:
    raise FieldError(data, 'task', f'{data.task_module} registers no such task or mixture; '
                     + nearest(name, known))
  if data.vocabulary is not None:
    name = registry.with_vocabulary(name, vocabularies.load_vocabulary(data.vocabulary))
  task = seqio.get_mixture_or_task(name)
  for feature in task.output_features.values():
    plain = type(feature.vocabulary) is seqio.SentencePieceVocabulary
    if plain and feature.vocabulary.tokenizer.pad_id() != 0:
      raise FieldError(data, 'vocabulary', f'task {name!r} reads a SentencePiece model whose id 0 '
                       'is a token, not padding: set DataConfig.vocabulary to '
                       f'{feature.vocabulary.sentencepiece_model_file!r}')
  return task


def feature_lengths(task, data: Any) -> dict[str, int]:
  """Length of each feature of the task, those that follow from other lengths included."""
  lengths = data.lengths
  derived = {name: of for name, of in _LENGTH_OF.items() if name in task.output_features}
  return lengths | {name: lengths[of] if of else 1 for name, of in derived.items()}


def text_tokenizer(task) -> SeqioTokenizer:
  """That of a task's text: of its inputs, if it has them; targets may be labels."""
  return SeqioTokenizer(task.output_features.get('inputs', task.output_features['targets']))


def check_vocabulary(task, model: ModelConfig) -> None:
  """Raises UserError if the task's ids do not fit the model's embedding table or classes."""
  for feature, spec in task.output_features.items():
    if feature == 'targets' and model.head == 'choice':   # as many classes as texts
      continue
    classes = model.num_classes is not None and feature == 'targets'
    rows, field = model.vocab_size, 'vocab_size'
    if classes:
      rows, field = model.num_classes, 'num_classes'
    if spec.vocabulary.vocab_size > rows:
      raise FieldError(model, field, f'the {feature} of task {task.name!r} have '
                       f'{spec.vocabulary.vocab_size} ids; raise {field} to at least that')


def check_split(task, data: Any) -> None:
  """Raises UserError if the task has no split `data.split`."""
  if data.split not in task.splits:
    raise FieldError(data, 'split', f'task {task.name!r}: {nearest(data.split, task.splits)}')

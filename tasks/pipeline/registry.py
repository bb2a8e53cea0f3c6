"""Copies of registered tasks and mixtures with another vocabulary, and a task's raw text."""

from collections.abc import Iterator
import dataclasses
import functools
import hashlib
import os
import re

import seqio
import tensorflow as tf

from t5x_lite.core.dataclass_checks import nearest
from t5x_lite.core.errors import UserError
from tasks.pipeline import one_line
from tasks.vocabularies.tokenizer_vocabulary import TokenizerVocabulary

_TOKENIZERS = frozenset({'tokenize', 'tokenize_and_append_eos', 'tokenize_text'})


def lookup(name: str) -> seqio.Task | seqio.Mixture:
  """Returns a registered task or mixture.

  Raises:
    UserError: there is none of that name.
  """
  known = {*seqio.TaskRegistry.names(), *seqio.MixtureRegistry.names()}
  if name not in known:
    raise UserError(f'no task or mixture {name!r} is registered; {nearest(name, known)}')
  return seqio.get_mixture_or_task(name)


def with_vocabulary(name: str, vocabulary: seqio.Vocabulary) -> str:
  """Registers a copy of a task or mixture that uses `vocabulary`, and returns its name.

  A copy is registered once. Features that are not text (PassThroughVocabulary) stay as they are;
  a mixture is made of copies of its parts at the same rates. A provider that has this vocabulary
  already needs no copy: its own name is returned.

  Raises:
    UserError: no such task or mixture is registered.
  """
  provider = lookup(name)
  parts = [provider] if isinstance(provider, seqio.Task) else provider.tasks
  if all(_features_with(part, vocabulary) == dict(part.output_features) for part in parts):
    return name
  new_name = f'{name}__{_label(vocabulary)}'
  if new_name in seqio.TaskRegistry.names() or new_name in seqio.MixtureRegistry.names():
    return new_name
  if isinstance(provider, seqio.Task):
    task = provider.replace(name=new_name, output_features=_features_with(provider, vocabulary))
    seqio.TaskRegistry.add_provider(new_name, task)
  else:
    seqio.MixtureRegistry.add(
        new_name,
        [(with_vocabulary(n, vocabulary), r) for n, r in provider.rate_per_task_name.items()],
        sample_fn=provider._sample_fn,  # seqio has no public name for it.
    )
  return new_name


def raw_texts(name: str, split: str) -> Iterator[str]:
  """The texts that a task or mixture tokenises, in order, as they are before that.

  These are the string features among its output features, as they stand where its first
  tokenising preprocessor would begin.

  Raises:
    UserError: no such task or split, or a task that does not tokenise text.
  """
  found = []
  for task in seqio.get_subtasks(lookup(name)):
    if split not in task.splits:
      raise UserError(f'{task.name} has no split {split!r}; it has {", ".join(task.splits)}')
    dataset = task.source.get_dataset(split=split, shuffle=False)
    steps = _before_tokenizing(task)
    dataset = task.replace(preprocessors=steps).preprocess_postcache(dataset, None)
    fields = [
        k for k, spec in dataset.element_spec.items()
        if k in task.output_features and spec.dtype == tf.string
    ]
    if not fields:
      raise UserError(f'task {task.name!r} has no text among {", ".join(task.output_features)}')
    found.append((dataset, fields))
  return _texts(found)


def _texts(found: list[tuple[tf.data.Dataset, list[str]]]) -> Iterator[str]:
  with one_line.user_errors():
    for dataset, fields in found:
      for example in dataset.as_numpy_iterator():
        yield from (example[field].decode() for field in fields)


def _features_with(task: seqio.Task, vocabulary: seqio.Vocabulary) -> dict[str, seqio.Feature]:
  return {
      name: feature
      if isinstance(feature.vocabulary, seqio.PassThroughVocabulary)
      else dataclasses.replace(feature, vocabulary=vocabulary)
      for name, feature in task.output_features.items()
  }


def _label(vocabulary: seqio.Vocabulary) -> str:
  """Returns a short name, unique to the content of the vocabulary and fit for a task's name."""
  if isinstance(vocabulary, seqio.ByteVocabulary):
    return f'byte{vocabulary.extra_ids}'
  if isinstance(vocabulary, seqio.SentencePieceVocabulary):
    stem = os.path.splitext(os.path.basename(vocabulary.sentencepiece_model_file))[0]
    digest = hashlib.sha256(vocabulary.sp_model).hexdigest()[:8]
    return re.sub(r'\W', '_', f'{stem}_{digest}')
  if isinstance(vocabulary, TokenizerVocabulary):
    return re.sub(r'\W', '_', f'{vocabulary.path.parent.name}_{vocabulary.digest[:8]}')
  raise UserError(
      f'with_vocabulary: a {type(vocabulary).__name__} does not encode text; use a '
      'ByteVocabulary, a SentencePieceVocabulary or a TokenizerVocabulary'
  )


def _before_tokenizing(task: seqio.Task):
  names = []
  for index, step in enumerate(task.preprocessors):
    while isinstance(step, functools.partial):
      step = step.func
    names.append(getattr(step, '__name__', ''))
    if names[-1] in _TOKENIZERS:
      return task.preprocessors[:index]
  raise UserError(
      f'task {task.name!r} has no tokenising step ({", ".join(sorted(_TOKENIZERS))}) among its '
      f'preprocessors {", ".join(names)}: choose a task of plain text, such as stdlib_lm'
  )

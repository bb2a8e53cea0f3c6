"""From the fields of a data set to the texts of T5: templates, and what some data sets need first.

All are functions from data set to data set. The texts are those of Raffel et al. (2020),
https://arxiv.org/abs/1910.10683, appendix D, and of the code published with it.
"""

from collections.abc import Mapping, Sequence
import string

import tensorflow as tf

from t5x_lite.core.dataclass_checks import nearest
from t5x_lite.core.errors import UserError

UNKNOWN = '<unk>'  # Targets of test examples, whose labels nobody outside has.


def to_text(
    dataset: tf.data.Dataset,
    *,
    inputs: str,
    targets: str,
    labels: Sequence[str] = (),
    keep: Sequence[str] = (),
) -> tf.data.Dataset:
  """Makes the texts `inputs` and `targets`, and drops every other feature that is not kept.

  Args:
    dataset: of the fields that the templates name.
    inputs: a template, such as 'question: {question} context: {context}'.
    targets: a template; not used if there are labels.
    labels: names of the classes. Targets are then the name of feature `label`, which is a class
      number, or '<unk>' where that is -1.
    keep: features that the scoring needs.

  Raises:
    UserError: a template names a field that the data set does not have, or that is not one text.
  """
  spec = dataset.element_spec
  for template in (inputs,) if labels else (inputs, targets):
    _check(template, spec)

  def convert(example):
    label = tf.gather([UNKNOWN, *labels], example['label'] + 1) if labels else None
    return {name: example[name] for name in keep} | {
        'inputs': _fill(inputs, example),
        'targets': label if labels else _fill(targets, example),
    }

  return dataset.map(convert, num_parallel_calls=tf.data.AUTOTUNE)


def to_texts(dataset: tf.data.Dataset, *, templates: Mapping[str, str], keep: Sequence[str] = ()
             ) -> tf.data.Dataset:
  """Makes the texts of `templates`, by name, and drops every other feature that is not kept.

  Raises UserError as `to_text`.
  """
  for template in templates.values():
    _check(template, dataset.element_spec)

  def convert(example):
    texts = {name: _fill(template, example) for name, template in templates.items()}
    return {name: example[name] for name in keep} | texts

  return dataset.map(convert, num_parallel_calls=tf.data.AUTOTUNE)


def labelled(dataset: tf.data.Dataset) -> tf.data.Dataset:
  """Keeps the examples whose `label` is known."""
  return dataset.filter(lambda example: example['label'] >= 0)


def rounded_score(dataset: tf.data.Dataset) -> tf.data.Dataset:
  """STS-B: makes `score`, the label rounded to the nearest 0.2 and written with one decimal."""

  def convert(example):
    score = tf.round(example['label'] * 5) / 5
    return example | {'score': tf.strings.as_string(score, precision=1)}

  return dataset.map(convert, num_parallel_calls=tf.data.AUTOTUNE)


def multirc(dataset: tf.data.Dataset) -> tf.data.Dataset:
  """MultiRC: takes the HTML out, and makes `group`, which is one for the answers of a question."""

  def clean(text):
    return tf.strings.regex_replace(tf.strings.regex_replace(text, '<br>', ' '), '</?b>', '')

  def convert(example):
    return {name: clean(example[name]) for name in ('question', 'answer', 'paragraph')} | {
        'group': tf.stack([example['idx']['paragraph'], example['idx']['question']]),
        'label': example['label'],
    }

  return dataset.map(convert, num_parallel_calls=tf.data.AUTOTUNE)


def record(dataset: tf.data.Dataset) -> tf.data.Dataset:
  """ReCoRD: an example for each right answer, the passage's highlights made into sentences.

  `group` is one for the examples of a query, `answers` are all that are right. Without any, as in
  the test split, the only `answer` is '<unk>'.
  """

  def expand(example):
    passage = tf.strings.regex_replace(
        example['passage'], r'''([.?!"'])\n@highlight\n''', r'\1 '
    )
    shared = {
        'query': example['query'],
        'entities': tf.strings.reduce_join(example['entities'], separator=', '),
        'passage': tf.strings.regex_replace(passage, r'\n@highlight\n', '. '),
        'answers': example['answers'],
        'group': tf.stack([example['idx']['passage'], example['idx']['query']]),
    }
    answers = example['answers']
    each = tf.cond(tf.size(answers) > 0, lambda: answers, lambda: tf.constant([UNKNOWN]))
    return tf.data.Dataset.from_tensor_slices(each).map(lambda answer: shared | {'answer': answer})

  return dataset.flat_map(expand)


def squad(dataset: tf.data.Dataset) -> tf.data.Dataset:
  """SQuAD: spaces around punctuation, single spaces; the target is the first of the `answers`."""

  def pad(text):
    return _single_spaces(tf.strings.regex_replace(text, r'([[:punct:]])', r' \1 '))

  def convert(example):
    answers = pad(example['answers']['text'])
    texts = ['question:', pad(example['question']), 'context:', pad(example['context'])]
    return {
        'inputs': _single_spaces(tf.strings.join(texts, separator=' ')),
        'targets': answers[0],
        'answers': answers,
    }

  return dataset.map(convert, num_parallel_calls=tf.data.AUTOTUNE)


def _single_spaces(text: tf.Tensor) -> tf.Tensor:
  return tf.strings.regex_replace(text, r'\s+', ' ')


def _fields(template: str) -> list[tuple[str, str | None]]:
  """Returns the literal texts of a template, each with the field that follows it, if any."""
  return [(text, field) for text, field, _, _ in string.Formatter().parse(template)]


def _fill(template: str, example) -> tf.Tensor:
  parts = []
  for text, field in _fields(template):
    parts.append(text)
    if field is not None:
      parts.append(example[field])
  return tf.strings.join(parts)


def _check(template: str, spec) -> None:
  for _, field in _fields(template):
    if field is not None and field not in spec:
      raise UserError(
          f'the template {template!r} names {field!r}, which the data set does not have: '
          f'{nearest(field, spec)}'
      )
    if field is not None and getattr(spec[field], 'dtype', None) != tf.string:
      raise UserError(
          f'the template {template!r} names {field!r}, which is not text: make it text in `prepare`'
      )

"""One declaration of a supervised data set, and the seqio tasks that follow from it.

docs/data.md shows step by step how to add a data set.
"""

from collections.abc import Callable
import dataclasses
import functools
from typing import Any

import seqio

from t5x_lite.core.dataclass_checks import FieldError, check_types
from tasks import vocabularies
from tasks.datasets.prepared import PreparedSource
from tasks.metrics import postprocessors
from tasks.preprocessors import classification, pretraining, prompts

VOCABULARY = vocabularies.BYTE_VOCABULARY
SPLITS = ('train', 'validation', 'test')


@dataclasses.dataclass(frozen=True, kw_only=True)
class Supervised:
  """A data set of inputs and targets.

  `register` makes the text-to-text task `name`. A data set with labels and without a
  postprocessing of its own is also `<name>_classification`, for encoder-only models: the same
  text, the class number as target; and `<name>_decoder_classification`, for decoder-only models
  with a head: the texts that it reads, the class number as target. All have the byte vocabulary
  until a run sets another.
  """

  name: str                                  # of the text-to-text task
  source: str | seqio.DataSource             # a TFDS name with config and version, or any source
  metrics: tuple[Callable[..., Any], ...]    # functions of (targets, predictions)
  inputs: str = '{inputs}'                   # template over the fields
  targets: str = '{targets}'                 # template over the fields, if there are no labels
  labels: tuple[str, ...] = ()               # names of the class numbers in field `label`
  # Templates of what a decoder's head reads: one; a pair in both orders; or with `choice` one for
  # each label. (): the inputs.
  texts: tuple[str, ...] = ()
  choice: bool = False                       # whether the label says which text is right
  splits: dict[str, str] | tuple[str, ...] = SPLITS  # of a TFDS data set; see PreparedSource
  prepare: Callable[..., Any] | None = None  # data set -> data set, before the templates
  keep: tuple[str, ...] = ()                 # fields that `postprocess` reads
  postprocess: Callable[..., Any] | None = None  # None: text -> class number, or text as it is

  def __post_init__(self):
    check_types(self)
    if len(self.labels) == 1 or len(set(self.labels)) < len(self.labels):
      raise FieldError(self, 'labels', 'expected two names or more, all different')
    if self.labels and self.targets != '{targets}':
      raise FieldError(self, 'targets', 'the labels are the targets: leave one of the two out')
    if self.texts and not self.classification_name:
      raise FieldError(self, 'texts', 'is for data with labels and without postprocess')
    if self.choice and len(self.texts) != len(self.labels):
      raise FieldError(self, 'texts', f'a choice has a text a label, {len(self.labels)}')

  @property
  def classification_name(self) -> str | None:
    """Name of the task for encoder-only models, None if there is none."""
    return f'{self.name}_classification' if self.labels and not self.postprocess else None

  def register(self) -> None:
    """Registers the tasks. Nothing is read."""
    source = self.source
    if isinstance(source, str):
      source = PreparedSource(source, self.splits)
    shared = dict(source=source, shuffle_buffer_size=pretraining.SHUFFLE_BUFFER_SIZE)
    postprocess = self.postprocess
    if self.labels and not postprocess:
      postprocess = functools.partial(postprocessors.label_id, labels=self.labels)
    seqio.TaskRegistry.add(
        self.name,
        postprocess_fn=postprocess,
        **(pretraining.task_parts('text_to_text', VOCABULARY, before=self._texts(self.keep))
           | {'metric_fns': self.metrics} | shared),
    )
    if self.classification_name:
      parts = classification.task_parts(
          VOCABULARY, len(self.labels), text='inputs', label='label', labels=self.labels,
          before=(*self._texts(('label',)), prompts.labelled),
      )
      seqio.TaskRegistry.add(
          self.classification_name, **(parts | {'metric_fns': self.metrics} | shared)
      )
      texts = self.texts or (self.inputs,)
      names = tuple(f'text_{i}' for i in range(len(texts)))
      to_texts = functools.partial(prompts.to_texts, templates=dict(zip(names, texts)),
                                   keep=('label',))
      parts = classification.text_task_parts(
          VOCABULARY, len(self.labels), texts=names, label='label', choice=self.choice,
          labels=self.labels, before=(*self._prepared(to_texts), prompts.labelled),
      )
      seqio.TaskRegistry.add(
          f'{self.name}_decoder_classification',
          **(parts | {'metric_fns': self.metrics} | shared)
      )

  def _texts(self, keep: tuple[str, ...]) -> tuple[Callable[..., Any], ...]:
    """Returns the preprocessors that make the texts."""
    to_text = functools.partial(
        prompts.to_text, inputs=self.inputs, targets=self.targets, labels=self.labels, keep=keep
    )
    return self._prepared(to_text)

  def _prepared(self, to_text: Callable[..., Any]) -> tuple[Callable[..., Any], ...]:
    return (self.prepare, to_text) if self.prepare else (to_text,)

"""What every task of one label a text has, for encoder-only models."""

from collections.abc import Sequence
import functools
from typing import Any

import seqio

from tasks import metrics
from tasks.preprocessors.text import classify


class LabelVocabulary(seqio.PassThroughVocabulary):
  """Class numbers, and the names of the classes, empty if they have none."""

  def __init__(self, num_classes: int, labels: Sequence[str] = ()):
    super().__init__(num_classes)
    self.labels = tuple(labels)

  def __eq__(self, other) -> bool:
    return super().__eq__(other) and self.labels == getattr(other, 'labels', ())


def task_parts(vocabulary: seqio.Vocabulary, num_classes: int, *, text: str, label: str,
               labels: Sequence[str] = (), before: tuple = ()) -> dict[str, Any]:
  """The arguments of TaskRegistry.add that make a classification, scored by accuracy and macro-F1.

  Args:
    vocabulary: of the text.
    num_classes: labels are 0 … num_classes - 1.
    text, label: features of the source, or of what the preprocessors `before` make of it.
    labels: names of the classes.
    before: preprocessors that come first.
  """
  to_classes = functools.partial(classify, text=text, label=label)
  return dict(
      preprocessors=(*before, to_classes, seqio.CacheDatasetPlaceholder()),
      output_features={
          'inputs': seqio.Feature(vocabulary, add_eos=False),
          'targets': seqio.Feature(LabelVocabulary(num_classes, labels), add_eos=False),
      },
      postprocess_fn=label_of,
      metric_fns=(metrics.accuracy, metrics.macro_f1),
  )


def label_of(decoded, **unused_kwargs) -> int:
  """Returns the label of a target or prediction: a sequence of one id."""
  return int(decoded[0])

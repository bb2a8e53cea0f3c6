"""What every task of one label an example has, for encoders and for decoders with a head."""

from collections.abc import Sequence
import functools
from typing import Any

import seqio

from tasks import metrics
from tasks.preprocessors.text import classify, join_texts, trim_texts


class LabelVocabulary(seqio.PassThroughVocabulary):
  """Class numbers, the names of the classes, and which models read what they are of.

  Attributes:
    labels: names of the classes; empty if they have none.
    family: of the models.
    head: of the models.
    num_texts: texts of an example.
  """

  def __init__(self, num_classes: int, labels: Sequence[str] = (), *,
               family: str = 'encoder_only', head: str = 'classifier', num_texts: int = 1):
    super().__init__(num_classes)
    self.labels, self.family, self.head, self.num_texts = tuple(labels), family, head, num_texts

  def _facts(self):
    return self.vocab_size, self.labels, self.family, self.head, self.num_texts

  def __eq__(self, other) -> bool:
    return isinstance(other, LabelVocabulary) and self._facts() == other._facts()


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
  return _parts(vocabulary, LabelVocabulary(num_classes, labels), add_eos=False,
                preprocessors=(*before, to_classes, seqio.CacheDatasetPlaceholder()))


def text_task_parts(vocabulary: seqio.Vocabulary, num_classes: int, *, texts: Sequence[str],
                    label: str, choice: bool = False, labels: Sequence[str] = (),
                    before: tuple = ()) -> dict[str, Any]:
  """The same of a classification by a decoder, which reads one text or several of an example.

  Args:
    texts: features of the source, or of what `before` makes of it.
    choice: whether the label says which of the texts is right, and not the class of all of them.
    vocabulary, num_classes, label, labels, before: as `task_parts` has them.
  """
  to_texts = functools.partial(join_texts, texts=tuple(texts), label=label)
  names = LabelVocabulary(num_classes, labels, family='decoder_only',
                          head='choice' if choice else 'classifier', num_texts=len(texts))
  trim = functools.partial(trim_texts, num_texts=len(texts))
  return _parts(vocabulary, names, add_eos=True,
                preprocessors=(*before, to_texts, seqio.CacheDatasetPlaceholder(), trim))


def _parts(vocabulary, labels: LabelVocabulary, *, add_eos: bool, preprocessors: tuple
           ) -> dict[str, Any]:
  return dict(
      preprocessors=preprocessors,
      output_features={
          'inputs': seqio.Feature(vocabulary, add_eos=add_eos),
          'targets': seqio.Feature(labels, add_eos=False),
      },
      postprocess_fn=label_of,
      metric_fns=(metrics.accuracy, metrics.macro_f1),
  )


def label_of(decoded, **unused_kwargs) -> int:
  """Returns the label of a target or prediction: a sequence of one id."""
  return int(decoded[0])

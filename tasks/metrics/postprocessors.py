"""From decoded text to what the metrics compare.

seqio calls each with the text of a target (`is_target`) and of a prediction, and the whole example.
"""

from collections.abc import Sequence

INVALID = -1


def label_id(text: str, *, labels: Sequence[str], **unused_kwargs) -> int:
  """Returns the class number of a label, -1 for a text that is none of them."""
  return labels.index(text) if text in labels else INVALID


def number(text: str, **unused_kwargs) -> float:
  """Returns the number that a text is, -1 if it is none."""
  try:
    return float(text)
  except ValueError:
    return float(INVALID)


def grouped_label(text: str, *, labels: Sequence[str], example, is_target: bool):
  """MultiRC: returns (group, class number) of a target, the class number of a prediction."""
  label = label_id(text, labels=labels)
  return (_group(example), label) if is_target else label


def all_answers(text: str, *, example, is_target: bool):
  """SQuAD: returns every right answer for a target, the text of a prediction."""
  return _answers(example) if is_target else text


def grouped_answers(text: str, *, example, is_target: bool):
  """ReCoRD: returns (group, every right answer) for a target, the text of a prediction."""
  return (_group(example), _answers(example)) if is_target else text


def _group(example) -> tuple[int, ...]:
  return tuple(int(part) for part in example['group'])


def _answers(example) -> list[str]:
  return [a.decode() if isinstance(a, bytes) else str(a) for a in example['answers']]

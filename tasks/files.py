"""Tasks over a user's own .jsonl and .txt files, made from gin without any Python.

Only `FileTask.register` loads TensorFlow, so that gin can read this file anywhere.
"""

import dataclasses
import hashlib

from t5x_lite.errors import UserError
from tasks import file_index

_OBJECTIVES = ('lm', 'span_corruption', 'mlm', 'text_to_text')


@dataclasses.dataclass(frozen=True, kw_only=True)
class FileTask:
  """A seqio task over files: .jsonl, an object a line, or .txt, an example a line.

  Blank lines are skipped. `text_to_text` is scored by exact match and ROUGE-L, the other
  objectives as language models.

  Attributes:
    train: glob of the training files; `**` stands for any folders.
    validation: glob of the validation files, or None.
    objective: lm, span_corruption, mlm or text_to_text.
    inputs: field of the inputs in .jsonl; for text_to_text only, which needs it.
    targets: field of the text, or for text_to_text of the targets, in .jsonl; a line of a .txt
      file is the text itself.
  """

  train: str
  validation: str | None = None
  objective: str = 'lm'
  inputs: str | None = None
  targets: str = 'text'

  def __post_init__(self):
    for field in ('train', 'objective', 'targets'):
      self._check_text(field)
    for field in ('validation', 'inputs'):
      if getattr(self, field) is not None:
        self._check_text(field)
    if self.objective not in _OBJECTIVES:
      raise UserError(
          f'FileTask.objective must be one of {", ".join(_OBJECTIVES)}, got {self.objective!r}'
      )
    if self.objective == 'text_to_text' and self.inputs is None:
      raise UserError(
          "FileTask.inputs must name the JSONL field of the inputs when objective is "
          "'text_to_text', got None"
      )
    if self.objective != 'text_to_text' and self.inputs is not None:
      raise UserError(
          f"FileTask.inputs is for objective 'text_to_text' only, got {self.inputs!r} with "
          f'objective {self.objective!r}: leave it out'
      )
    if self.inputs == self.targets:
      raise UserError(f'FileTask.inputs and FileTask.targets are both {self.inputs!r}')

  def register(self) -> str:
    """Checks every line, registers the seqio task and returns its name.

    The name follows from the fields, paths and content of the files: the same data registers
    once, and changed data gets another name.

    Raises:
      UserError: a file or line is not as it should be; the message names both.
    """
    fields = {'targets': self.targets}
    if self.inputs is not None:
      fields['inputs'] = self.inputs
    digest = hashlib.sha256(repr((self.objective, fields)).encode())
    splits = {'train': self.train}
    if self.validation is not None:
      splits['validation'] = self.validation
    indices = {}
    for split, pattern in splits.items():
      indices[split] = file_index.index_files(pattern, fields, where=f'FileTask.{split}')
      digest.update(indices[split].digest)
    name = f'files_{self.objective}_{digest.hexdigest()[:12]}'

    from tasks import file_source

    file_source.register(name, self.objective, indices)
    return name

  def _check_text(self, field: str) -> None:
    value = getattr(self, field)
    if not isinstance(value, str) or not value:
      raise UserError(f'FileTask.{field} must be a non-empty string, got {value!r}')

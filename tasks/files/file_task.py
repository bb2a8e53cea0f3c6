"""Tasks over a user's own files, made from gin without any Python.

Only `FileTask.register` loads TensorFlow, so that gin can read this file anywhere.
"""

from collections.abc import Sequence
import dataclasses
import re
import sys

from t5x_lite.core.dataclass_checks import FieldError, nearest
from t5x_lite.data.files import index, records
from t5x_lite.data.files.templates import Template
from tasks.files import splits

_TEXTS = ('decoder_classification', 'decoder_choice')   # whose inputs may be several texts
_CLASSES = ('classification', *_TEXTS)
_PAIRS = ('text_to_text', 'tlm', *_CLASSES)
_OBJECTIVES = ('lm', 'prefix_lm', 'fim', 'span_corruption', 'iid_denoising', 'ul2', 'mlm',
               'mlm_nsp', *_PAIRS)
_SHORT = 100   # characters of a line, in the mean: less is more often a cut line than a whole text
_MANY = 50     # lines: of fewer nobody needs to be told what an example is


@dataclasses.dataclass(frozen=True, kw_only=True)
class FileTask:
  """A seqio task over files of any format that t5x_lite/data/files/plain.py names.

  An example is a line of text, a JSON object, or a row of a table. Blank lines are skipped. A
  feature is the name of a field, or a text with {names} of fields, such as
  'premise: {premise} hypothesis: {hypothesis}'; the field of a line of text is `text`.
  `text_to_text` is scored by exact match and ROUGE-L, classifications by accuracy and macro-F1,
  the other objectives as language models.

  Attributes:
    train: path, URL or glob of the training files; `**` stands for any folders.
    validation: the same of the validation files; or a share of the training examples, chosen by a
      hash of their features, so that equal examples are on one side; or None.
    objective: one of tasks/preprocessors/pretraining.py; classification, by an encoder; or by a
      decoder decoder_classification, or decoder_choice, which says which of several texts is right.
    inputs: the inputs of text_to_text, tlm and classifications; of a decoder's there may be several
      in brackets, which are a pair in both orders, or the choices.
    targets: the text, the targets of text_to_text and tlm, or the label.
    labels: what targets may be; of a classification, which needs them, the first is class 0, and of
      a choice the first text.
    columns: the names of the columns of .csv and .tsv files that have no line of names.
    sample_by: what is an example of a .txt file: a 'line'; a 'paragraph', which blank lines part;
      or a 'document', which is the whole file.
    skip_bad: leave out examples that are not as they should be, and report how many, instead of
      refusing the files.
    name: what it is called in tables and metrics, followed by the objective.
  """

  train: str
  validation: str | float | None = None
  objective: str = 'lm'
  inputs: str | Sequence[str] | None = None
  targets: str = 'text'
  labels: Sequence[str] = ()
  columns: Sequence[str] | None = None
  sample_by: str = 'line'
  skip_bad: bool = False
  name: str = 'files'

  def __post_init__(self):
    for field in ('train', 'objective', 'targets'):
      self._check_text(field)
    if isinstance(self.validation, float):
      if not 0 < self.validation < 1:
        raise FieldError(self, 'validation', 'a share must be between 0 and 1')
    elif self.validation is not None:
      self._check_text('validation')
    if self.objective not in _OBJECTIVES:
      raise FieldError(self, 'objective', nearest(self.objective, _OBJECTIVES))
    pairs = self.objective in _PAIRS
    if pairs and self.inputs is None:
      raise FieldError(self, 'inputs', 'must name the field of the inputs when objective is '
                       f'{self.objective!r}')
    if not pairs and self.inputs is not None:
      raise FieldError(self, 'inputs', f'is for objectives {", ".join(_PAIRS)} only, and objective '
                       f'is {self.objective!r}: leave it out')
    if not isinstance(self.inputs, str | None):
      self._check_names('inputs')
      if self.objective not in _TEXTS or not self.inputs:
        raise FieldError(self, 'inputs', f'must be one text; several are for objectives '
                         f'{" and ".join(_TEXTS)}')
    if self.targets in (self.inputs, *self._inputs.values()):
      raise FieldError(self, 'inputs', 'targets are the same')
    for field in ('labels', 'columns'):
      self._check_names(field)
    if self.objective in _CLASSES and not self.labels:
      raise FieldError(self, 'labels', f'must list the labels when objective is '
                       f"{self.objective!r}, such as ('0', '1')")
    if self.objective == 'decoder_choice' and len(self._inputs) != len(self.labels):
      raise FieldError(self, 'inputs', f'a choice has a text for each of {len(self.labels)} labels')
    if self.labels and not pairs:
      raise FieldError(self, 'labels', 'is for targets that are labels, and objective is '
                       f'{self.objective!r}: leave it out')
    if len(self.labels) == 1:
      raise FieldError(self, 'labels', 'needs two labels or more')
    if self.sample_by not in records.SAMPLE_BY:
      raise FieldError(self, 'sample_by', nearest(str(self.sample_by), records.SAMPLE_BY))
    if not isinstance(self.skip_bad, bool):
      raise FieldError(self, 'skip_bad', 'must be True or False')
    if not isinstance(self.name, str) or not re.fullmatch(r'[A-Za-z]\w*', self.name):
      raise FieldError(self, 'name', 'must be letters, digits and _, with a letter first')
    for field, text in (*(('inputs', text) for text in self._inputs.values()),
                        ('targets', self.targets)):
      try:
        Template(text).pieces   # noqa: B018 which reads it
      except ValueError as error:
        raise FieldError(self, field, f'is not a template: {error}; write {{{{ and }}}} for braces '
                         'that stand for themselves') from error

  @property
  def label(self) -> str:
    """Its name for people, which does not change with the files."""
    return f'{self.name}_{self.objective}'

  def register(self) -> str:
    """Checks every example, registers the seqio task and returns its name.

    The name follows from the fields, paths and content of the files: the same data registers
    once, and changed data gets another name.

    Raises:
      UserError: a file or example is not as it should be; the message names file and line.
    """
    indices = self._indices()
    facts = (self.objective, self._templates(), splits.share_of(self), self.columns, self.sample_by,
             self.skip_bad)

    def add(name):
      from tasks.files import source
      self._report(indices)
      source.register(name, self.objective, indices, texts=(*self._inputs,), labels=self.labels)

    return splits.register(self.label, facts, indices, add)

  def _report(self, indices: dict[str, index.FileIndex]) -> None:
    """Says what was left out, and what looks cut."""
    for split, examples in indices.items():
      if split != 'train' and splits.share_of(self):   # of the same files
        continue
      splits.report_skipped(self, split, examples, 'example')
      lines = len(examples) >= _MANY and self.sample_by == 'line' and all(
          file.kind == '.txt' for file in examples.files)
      if lines and self.objective not in _PAIRS and examples.mean_size < _SHORT:
        print(f'FileTask.{split}: each line of a .txt file is an example, which has '
              f"{examples.mean_size:.0f} characters in the mean: if lines are cut, set "
              "FileTask.sample_by to 'paragraph' or 'document'", file=sys.stderr)

  def data_digest(self, split: str) -> str | None:
    """Identifies the content of the files of a split, in their order; None if it has none.

    Raises:
      UserError: as register.
    """
    index = self._indices().get(split)
    return None if index is None else index.digest.hex()[:24]

  @property
  def _inputs(self) -> dict[str, str]:
    """The inputs by the name of their feature; none for a task without."""
    if self.inputs is None or isinstance(self.inputs, str):
      return {} if self.inputs is None else {'inputs': self.inputs}
    return {f'inputs_{i}': text for i, text in enumerate(self.inputs)}

  def _templates(self) -> dict[str, Template]:
    targets = Template(self.targets, tuple(self.labels), number=self.objective in _CLASSES)
    return {'targets': targets} | {name: Template(text) for name, text in self._inputs.items()}

  def _indices(self) -> dict[str, index.FileIndex]:
    """The checked examples of each split."""
    templates = self._templates()
    read = lambda pattern, split: index.index_files(
        pattern, templates, splits.where(self, split), columns=self.columns,
        sample_by=self.sample_by, skip_bad=self.skip_bad, held_out=splits.share_of(self))
    indices = splits.read_splits(self, read, 'example')
    kinds = {file.kind for part in indices.values() for file in part.files}
    if self.sample_by != 'line' and '.txt' not in kinds:
      raise FieldError(self, 'sample_by', f'is for .txt files, and these are {", ".join(kinds)}: '
                       'leave it out')
    if self.columns and not kinds & {*records.TABLES}:
      raise FieldError(self, 'columns', f'is for {" and ".join(records.TABLES)} files, and these '
                       f'are {", ".join(kinds)}: leave it out')
    return indices

  def _check_text(self, field: str) -> None:
    value = getattr(self, field)
    if not isinstance(value, str) or not value:
      raise FieldError(self, field, 'must be a non-empty string')

  def _check_names(self, field: str) -> None:
    value = getattr(self, field)
    good = value is None or isinstance(value, list | tuple) and all(
        isinstance(x, str) for x in value) and len(set(value)) == len(value)
    if not good:
      raise FieldError(self, field, 'must be strings in brackets, all distinct')

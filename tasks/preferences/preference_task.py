"""Tasks over a user's own comparisons of responses, made from gin without any Python.

Only `PreferenceTask.register` loads TensorFlow, so that gin can read this file anywhere.
"""

from collections.abc import Sequence
import dataclasses
import hashlib
import re

from t5x_lite.core.dataclass_checks import FieldError, check_types, nearest
from t5x_lite.core.errors import UserError
from t5x_lite.data.files import index
from tasks.files import splits
from tasks.instruction import chat_template
from tasks.instruction.message_trees import MessageTrees
from tasks.instruction.named_templates import load_template
from tasks.preferences import schemas
from tasks.preferences.comparison import OBJECTIVES, TIES
from tasks.preferences.row_reader import ComparisonReader

_TOO_LONG = ('refuse', 'drop')


@dataclasses.dataclass(frozen=True, kw_only=True)
class PreferenceTask:
  """A seqio task over files of responses that are compared, of any format that FileTask reads.

  A PreferenceData reads it. Each row is checked before training starts.
  """

  train: str                             # path, URL or glob of the training files
  validation: str | float | None = None  # of the held-out files; a share of the rows; or none
  template: str | None = None            # as of a ConversationTask; None: texts as they are
  schema: str | None = None              # such as 'hh_rlhf'; None: by each row's keys
  objective: str = 'pairs'               # each two responses; 'ranking': all of a row; or 'thumbs'
  ties: str = 'refuse'                   # responses that are equal, or of equal scores; or 'drop'
  too_long: str = 'refuse'               # what does not fit; or 'drop' it
  add_eos: bool = False                  # end prompts without a template, as text_to_text does
  # paths of OpenAssistant's that are read
  trees: MessageTrees = dataclasses.field(default_factory=lambda: MessageTrees(paths='all'))
  columns: Sequence[str] | None = None   # of .csv and .tsv files without a line of names
  skip_bad: bool = False                 # leave out bad rows, and report how many
  name: str = 'preferences'              # in tables and metrics, followed by the objective

  def __post_init__(self):
    check_types(self)
    for field, choices in (('objective', OBJECTIVES), ('ties', TIES), ('too_long', _TOO_LONG)):
      if getattr(self, field) not in choices:
        raise FieldError(self, field, nearest(getattr(self, field), choices))
    if self.schema is not None and self.schema not in schemas.SCHEMAS:
      raise FieldError(self, 'schema', nearest(self.schema, schemas.SCHEMAS))
    splits.check_files(self, 'train', 'validation', 'template')
    if self.add_eos and self.template is not None:
      raise FieldError(self, 'add_eos', 'is for prompts that are texts, and a template writes its '
                       'own end tokens: leave it out')
    if not re.fullmatch(r'[A-Za-z]\w*', self.name):
      raise FieldError(self, 'name', 'must be letters, digits and _, with a letter first')

  @property
  def label(self) -> str:
    """Its name for people, which does not change with the files."""
    return f'{self.name}_{self.objective}'

  def register(self) -> str:
    """Checks every row, registers the seqio task and returns its name.

    The name follows from the fields, the template and the content of the files.

    Raises:
      UserError: a file, row or template is not as it should be; the message names file and line.
    """
    indices, template = self._indices(), self._template()
    share = splits.share_of(self)
    facts = (self._reader(), self.too_long, self.add_eos, share, self.columns, self.skip_bad,
             template and template.source)

    def add(name):
      from tasks.preferences import encoding, source
      for split, found in indices.items():
        if split == 'train' or not share:   # else of the same files
          splits.report_skipped(self, split, found, 'row')
      source.register(name, indices, encoding.ComparisonEncoding(
          template=template, add_eos=self.add_eos, too_long=self.too_long, skip_bad=self.skip_bad))

    return splits.register(self.label, facts, indices, add)

  def data_digest(self, split: str) -> str | None:
    """Identifies the content of the files of a split and the template; None if it has none.

    Raises:
      UserError: as register.
    """
    found, template = self._indices().get(split), self._template()
    if found is None:
      return None
    source = b'' if template is None else template.source.encode()
    return hashlib.sha256(found.digest + source).hexdigest()[:24]

  def _template(self) -> chat_template.ChatTemplate | None:
    try:
      return None if self.template is None else load_template(self.template)
    except UserError as error:
      raise FieldError(self, 'template', str(error)) from error

  def _reader(self) -> ComparisonReader:
    return ComparisonReader(self.objective, self.ties, self.template is not None, self.schema,
                            self.trees)

  def _indices(self) -> dict[str, index.FileIndex]:
    """The checked rows of each split."""
    read = lambda pattern, split: index.index_files(
        pattern, {'conversations': self._reader()}, splits.where(self, split),
        columns=self.columns, skip_bad=self.skip_bad, held_out=splits.share_of(self))
    return splits.read_splits(self, read, 'row')

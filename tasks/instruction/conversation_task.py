"""Tasks over a user's own conversations, made from gin without any Python.

Only `ConversationTask.register` loads TensorFlow, so that gin can read this file anywhere.
"""

from collections.abc import Sequence
import dataclasses
import hashlib
import re

from t5x_lite.core.dataclass_checks import FieldError, check_types, nearest
from t5x_lite.core.errors import UserError
from t5x_lite.data.files import index
from tasks.files import splits
from tasks.instruction import chat_template, examples, schemas
from tasks.instruction.labeler_prompts import LabelerPrompts
from tasks.instruction.message_trees import MessageTrees
from tasks.instruction.named_templates import load_template
from tasks.instruction.row_reader import RowReader

OBJECTIVES = ('lm', 'text_to_text')


@dataclasses.dataclass(frozen=True, kw_only=True)
class ConversationTask:
  """A seqio task over files of conversations, of any format that FileTask reads.

  Answers are trained on, with their end token, and nothing else. Each row is checked and rendered
  before training starts.
  """

  train: str                             # path, URL or glob of the training files
  validation: str | float | None = None  # of the held-out files; a share of the rows; or none
  template: str                          # a name, .jinja, tokenizer_config.json, or its folder
  schema: str | None = None              # such as 'openai'; None: by each row's keys
  objective: str = 'lm'                  # or 'text_to_text': all before the last answer -> that
  turns: str = 'every'                   # answers that 'lm' trains on: 'every' one, or the 'last'
  too_long: str = 'refuse'               # what does not fit; or 'cut_turns', 'cut_answers'
  trees: MessageTrees = dataclasses.field(default_factory=MessageTrees)   # paths of OpenAssistant's
  # of instructions with instances
  prompts: LabelerPrompts = dataclasses.field(default_factory=LabelerPrompts)
  columns: Sequence[str] | None = None   # of .csv and .tsv files without a line of names
  skip_bad: bool = False                 # leave out bad rows, and report how many
  name: str = 'chat'                     # in tables and metrics, followed by the objective

  def __post_init__(self):
    check_types(self)
    for field, choices in (('objective', OBJECTIVES), ('turns', chat_template.TURNS),
                           ('too_long', examples.TOO_LONG)):
      if getattr(self, field) not in choices:
        raise FieldError(self, field, nearest(getattr(self, field), choices))
    if self.schema is not None and self.schema not in schemas.SCHEMAS:
      raise FieldError(self, 'schema', nearest(self.schema, schemas.SCHEMAS))
    splits.check_files(self, 'train', 'validation', 'template')
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
    indices = self._indices()
    template = self._template()
    share = splits.share_of(self)
    facts = (self.objective, self._turns, self.too_long, share, self.columns, self.skip_bad,
             self.schema, self.trees, self.prompts, template.source)

    def add(name):
      from tasks.instruction import encoding, source
      for split, found in indices.items():
        if split == 'train' or not share:   # else of the same files
          splits.report_skipped(self, split, found, 'row')
      source.register(name, self.objective, indices, encoding.Encoding(
          template=template, turns=self._turns, too_long=self.too_long, skip_bad=self.skip_bad))

    return splits.register(self.label, facts, indices, add)

  def data_digest(self, split: str) -> str | None:
    """Identifies the content of the files of a split and the template; None if it has none.

    Raises:
      UserError: as register.
    """
    found = self._indices().get(split)
    if found is None:
      return None
    return hashlib.sha256(found.digest + self._template().source.encode()).hexdigest()[:24]

  @property
  def _turns(self) -> str:
    return 'last' if self.objective == 'text_to_text' else self.turns

  def _template(self) -> chat_template.ChatTemplate:
    try:
      return load_template(self.template)
    except UserError as error:
      raise FieldError(self, 'template', str(error)) from error

  def _indices(self) -> dict[str, index.FileIndex]:
    """The checked rows of each split."""
    template = self._template()
    reader = RowReader(template.source, template.name, self._turns, self.schema, self.trees,
                       self.prompts)
    checked = {'conversations': dataclasses.replace(reader, checks=False)}
    read = lambda pattern, split: dataclasses.replace(index.index_files(
        pattern, {'conversations': reader}, splits.where(self, split), columns=self.columns,
        skip_bad=self.skip_bad, held_out=splits.share_of(self)), templates=checked)
    return splits.read_splits(self, read, 'row')

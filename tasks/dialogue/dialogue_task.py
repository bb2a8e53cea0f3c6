"""Tasks over files of dialogues, made from gin without any Python.

Only `DialogueTask.register` loads TensorFlow, so that gin can read this file anywhere.
"""

import dataclasses
import hashlib
import re

from t5x_lite.core.dataclass_checks import FieldError, check_types, nearest
from t5x_lite.core.errors import UserError
from t5x_lite.core.files import write_text
from t5x_lite.core.paths import local_path
from t5x_lite.data.files import index
from t5x_lite.data.files.plain import cache_folder
from t5x_lite.dialogue.asking import TARGETS, Form
from t5x_lite.dialogue.schema import json_lines
from tasks.dialogue.reading import FORMS, read_dialogues
from tasks.dialogue.rows import ROWS, DialogueReader
from tasks.files import splits
from tasks.instruction.examples import TOO_LONG
from tasks.instruction.named_templates import load_template

OBJECTIVES = ('lm', 'text_to_text')


@dataclasses.dataclass(frozen=True, kw_only=True)
class DialogueTask:
  """A seqio task over dialogues: responses, states or both of the turns so far.

  Answers are trained on, with their end token, and nothing else. Of a folder as a corpus is
  published the splits train and validation are read.
  """

  train: str                             # of dialogue convert; or of `form`, a folder, too
  validation: str | float | None = None  # the same; a share of the dialogues; or none
  form: str = 'dialogues'                # one of FORMS, such as 'multiwoz21'
  target: str = 'response'               # one of TARGETS
  delexicalised: bool = True             # whether responses have tags for values
  rows: str = 'turns'                    # one of ROWS; 'dialogue' learns all answers of one row
  template: str = 'zephyr'               # of a chat: as of a ConversationTask
  objective: str = 'lm'                  # or 'text_to_text': all before the answer -> that
  too_long: str = 'cut_turns'            # what does not fit, as of a ConversationTask
  skip_bad: bool = False                 # leave out bad dialogues, and report how many
  name: str = 'dialogues'                # in tables and metrics, followed by the target

  def __post_init__(self):
    check_types(self)
    for field, choices in (('form', FORMS), ('target', TARGETS), ('rows', ROWS),
                           ('objective', OBJECTIVES), ('too_long', TOO_LONG)):
      if getattr(self, field) not in choices:
        raise FieldError(self, field, nearest(getattr(self, field), choices))
    if self.rows == 'dialogue' and (self.target == 'state' or self.objective == 'text_to_text'):
      raise FieldError(self, 'rows', "'dialogue' is for the objective lm and for responses, which "
                       "the user's turns follow: set it to 'turns'")
    splits.check_files(self, 'train', 'validation')
    if not re.fullmatch(r'[A-Za-z]\w*', self.name):
      raise FieldError(self, 'name', 'must be letters, digits and _, with a letter first')

  @property
  def label(self) -> str:
    """Its name for people, which does not change with the files."""
    return f'{self.name}_{self.target}'

  @property
  def asked(self) -> Form:
    """How a model that was trained on it is asked."""
    return Form(self.target, self.rows == 'instruction', self.delexicalised)

  def register(self) -> str:
    """Checks every dialogue, registers the seqio task and returns its name.

    The name follows from the fields, the template and the content of the files.

    Raises:
      UserError: a file, dialogue or template is not as it should be; the message names the file.
    """
    indices, template = self._indices(), self._template()
    facts = (self._reader(), self.objective, self.too_long, splits.share_of(self), self.skip_bad,
             template.source)

    def add(name):
      from tasks.dialogue import encoding, source
      for split, found in indices.items():
        if split == 'train' or not splits.share_of(self):   # else of the same files
          splits.report_skipped(self, split, found, 'dialogue')
      whole = self.rows == 'dialogue'
      make = encoding.Encoding if whole else encoding.TurnEncoding
      source.register(name, self.objective, indices, make(
          template=template, turns='every' if whole else 'last', too_long=self.too_long,
          skip_bad=self.skip_bad))

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

  def _reader(self) -> DialogueReader:
    return DialogueReader(self.target, self.rows, self.delexicalised)

  def _template(self):
    try:
      return load_template(self.template)
    except UserError as error:
      raise FieldError(self, 'template', str(error)) from error

  def _indices(self) -> dict[str, index.FileIndex]:
    """The checked dialogues of each split."""
    read = lambda pattern, split: index.index_files(
        self._converted(pattern, split), {'conversations': self._reader()},
        splits.where(self, split), skip_bad=self.skip_bad, held_out=splits.share_of(self))
    return splits.read_splits(self, read, 'dialogue')

  def _converted(self, pattern: str, split: str) -> str:
    """A file of dialogues as it is; else one of the cache, made once for the state of its own."""
    if self.form == 'dialogues':
      return pattern
    source = local_path(pattern)
    of_folder = split if source.is_dir() else None
    files = sorted(source.rglob('*')) if of_folder else [source]
    facts = [(str(path.resolve()), path.stat().st_size, path.stat().st_mtime_ns)
             for path in files if path.is_file()]
    digest = hashlib.sha256(repr((self.form, of_folder, facts)).encode()).hexdigest()[:24]
    target = cache_folder() / f'dialogues_{digest}.jsonl'
    if not target.exists():
      write_text(target, json_lines(read_dialogues(source, self.form, of_folder)))
    return str(target)

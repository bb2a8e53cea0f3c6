"""Dialogues of a file or folder in any form in which one of the corpora is published."""

from collections.abc import Callable, Iterator, Mapping
import dataclasses
import pathlib
from typing import Any

from t5x_lite.core.errors import UserError
from t5x_lite.dialogue.domains import Schema
from t5x_lite.dialogue.schema import Dialogue, from_json
from tasks.dialogue import camrest, multiwoz21, multiwoz22, multiwoz_names, sgd
from tasks.dialogue.records import SPLITS, files_of, read_records


@dataclasses.dataclass(frozen=True)
class Form:
  """Attributes:
    read: a record as a dialogue.
    files: how the names of files of dialogues begin; other files of a folder are skipped.
    schema: of all dialogues of the form; None: a file has it, or there is none.
    beside: what files beside the source add to a dialogue.
  """
  read: Callable[[Mapping[str, Any]], Dialogue]
  files: tuple[str, ...] = ('dialogues',)
  schema: Schema | None = None
  beside: Callable[[pathlib.Path], Callable[[Dialogue], Dialogue]] = (
      lambda source: lambda dialogue: dialogue)


_SPLIT_NAMES = tuple(name for names in SPLITS.values() for name in names)
FORMS = {
    'dialogues': Form(from_json, ('',)),
    'multiwoz21': Form(multiwoz21.read_dialogue, ('data', *_SPLIT_NAMES), multiwoz_names.SCHEMA),
    'multiwoz22': Form(multiwoz22.read_dialogue, ('dialogues', *_SPLIT_NAMES),
                       multiwoz_names.SCHEMA, multiwoz22.with_acts),
    'sgd': Form(sgd.read_dialogue, ('dialogues', *_SPLIT_NAMES)),
    'camrest': Form(camrest.read_dialogue, ('camrest', 'CamRest'), camrest.SCHEMA),
}


def read_dialogues(source: pathlib.Path, form: str, split: str | None = None
                   ) -> Iterator[Dialogue]:
  """The dialogues of a file, or of the files of a folder as a corpus is published.

  Args:
    source: the file or folder.
    form: one of FORMS.
    split: one of SPLITS, of a folder: files or folders are named after it, or lists beside
      MultiWOZ's data.json name its dialogues; None: all of them.

  Raises UserError for what is not there, or not in the form.
  """
  kind, ids = FORMS[form], None
  whole = source / 'data.json'
  if split is not None and whole.is_file():
    source, ids = whole, _listed(source, split)
  files = files_of(source, split, lambda name: name.startswith(kind.files))
  complete = kind.beside(source)
  for path in files:
    for record in read_records(path):
      name = record.get('id', record.get('dialogue_id', '?'))
      try:
        dialogue = complete(kind.read(record))
      except (KeyError, TypeError, AttributeError, ValueError, IndexError) as error:
        raise UserError(f'{path}: dialogue {name!r} is not in the form {form}, '
                        f'{type(error).__name__}: {error}: name another form, one of '
                        f'{", ".join(FORMS)}') from error
      if ids is None or ids(dialogue.id):
        yield dialogue


def _listed(folder: pathlib.Path, split: str) -> Callable[[str], bool]:
  """Whether an id is of a split, by the lists of validation and test that MultiWOZ has."""
  lists = {}
  for name in ('test', 'validation'):
    paths = [path for stem in SPLITS[name] for path in sorted(folder.glob(f'{stem}ListFile*'))]
    if not paths:
      raise UserError(f'{folder}: data.json has all dialogues, and there is no '
                      f'{SPLITS[name][0]}ListFile to tell the splits apart: add it, or leave the '
                      'split out')
    lists[name] = {line.strip().removesuffix('.json')
                   for line in paths[0].read_text(encoding='utf-8').splitlines()}
  held_out = lists['test'] | lists['validation']
  return (lambda name: name not in held_out) if split == 'train' else lists[split].__contains__

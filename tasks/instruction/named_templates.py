"""Chat templates by name, and out of the files that tokenizers carry."""

import pathlib
from typing import Any

from t5x_lite.core.dataclass_checks import nearest
from t5x_lite.core.errors import UserError
from t5x_lite.core.paths import local_path
from t5x_lite.interop.json_files import read_object
from tasks.instruction.chat_template import ChatTemplate

_FOLDER = pathlib.Path(__file__).with_name('templates')
NAMES = tuple(sorted(path.stem for path in _FOLDER.glob('*.jinja')))


def load_template(name: str) -> ChatTemplate:
  """The chat template of a name or file.

  Args:
    name: one of NAMES; a .jinja file; a tokenizer_config.json; or a folder with one of these, of
      which chat_template.jinja comes first, as in transformers.

  Raises:
    UserError: there is none, or it does not compile.
  """
  if name in NAMES:
    return ChatTemplate(_read(_FOLDER / f'{name}.jinja'), name)
  path = local_path(name)
  if path.is_dir():
    files = [path / 'chat_template.jinja', path / 'tokenizer_config.json']
    found = [file for file in files if file.is_file()]
    if not found:
      raise UserError(f'{path} has neither chat_template.jinja nor tokenizer_config.json: name a '
                      f'template, one of {", ".join(NAMES)}')
    path = found[0]
  if not path.is_file():
    raise UserError(f'{name!r} is no template and no file; {nearest(name, NAMES)}')
  if path.suffix == '.json':
    return ChatTemplate(_of_config(path, read_object(path).get('chat_template')), str(path))
  return ChatTemplate(_read(path), str(path))


def _of_config(path: pathlib.Path, found: Any) -> str:
  if isinstance(found, list):   # several, by name
    named = {t.get('name'): t.get('template') for t in found if isinstance(t, dict)}
    found = named.get('default')
    if found is None:
      raise UserError(f'{path} has the chat templates {", ".join(map(str, named))}, and no '
                      'default: write the one that you want to a .jinja file and name that')
  if not isinstance(found, str):
    raise UserError(f'{path} has no chat_template: name one of {", ".join(NAMES)}')
  return found


def _read(path: pathlib.Path) -> str:
  try:
    return path.read_text(encoding='utf-8')
  except (OSError, UnicodeDecodeError) as error:
    raise UserError(f'cannot read the chat template {path}: {error}') from error

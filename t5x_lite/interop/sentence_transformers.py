"""How a folder of sentence-transformers makes a vector of a text: modules.json and its folders."""

import json
import pathlib
from typing import Any, NamedTuple

from t5x_lite.core.errors import UserError
from t5x_lite.interop.json_files import read_object

MODULES = 'modules.json'
_POOLING = {'pooling_mode_cls_token': 'first', 'pooling_mode_mean_tokens': 'mean'}
_TANH = 'torch.nn.modules.activation.Tanh'
# Their names of the pooler's parameters, which lie in the folder of a Dense module.
DENSE = {'bert.pooler.dense.weight': 'linear.weight', 'bert.pooler.dense.bias': 'linear.bias'}


class SentencePooling(NamedTuple):
  """Fields of the ModelConfig, and the folder of the linear layer after the pooling, if any."""
  fields: dict[str, Any]
  dense: pathlib.Path | None


def read_pooling(folder: pathlib.Path) -> SentencePooling | None:
  """What modules.json says, or None if there is none.

  Vectors are of length 1 here whether or not it ends with Normalize, which no cosine depends on.
  Raises UserError for other modules, or modes of pooling, than LaBSE's and MiniLM's.
  """
  path = folder / MODULES
  if not path.is_file():
    return None
  try:
    modules = [(one['type'].rpartition('.')[2], folder / one['path'])
               for one in json.loads(path.read_text(encoding='utf-8'))]
  except (ValueError, TypeError, KeyError, AttributeError) as e:
    raise UserError(f'{path} is no list of modules ({e!r}): fetch it again') from e
  kinds = [kind for kind, _ in modules if kind != 'Normalize']
  if kinds not in (['Transformer', 'Pooling'], ['Transformer', 'Pooling', 'Dense']):
    raise UserError(f'{path} has {", ".join(kinds)}: Transformer, Pooling and, after them, one '
                    'Dense and Normalize are read')
  places = dict(modules)
  return SentencePooling(
      {'head': 'pooler', 'pooling': _mode(places['Pooling'] / 'config.json'),
       'pooler_transform': 'Dense' in places}, _checked_dense(places.get('Dense')))


def _mode(path: pathlib.Path) -> str:
  modes = [name for name, value in read_object(path).items()
           if name.startswith('pooling_mode') and value is True]
  if len(modes) != 1 or modes[0] not in _POOLING:
    raise UserError(f'{path}: the mode {" and ".join(modes) or "of pooling"} is not read; one of '
                    f'{", ".join(_POOLING)} is')
  return _POOLING[modes[0]]


def _checked_dense(folder: pathlib.Path | None) -> pathlib.Path | None:
  if folder is None:
    return None
  config = read_object(folder / 'config.json')
  square = config.get('in_features') == config.get('out_features')
  if not square or not config.get('bias', True) or config.get('activation_function') != _TANH:
    raise UserError(f'{folder}: a Dense of as many outputs as inputs, with a bias and Tanh is '
                    'read, and no other')
  return folder

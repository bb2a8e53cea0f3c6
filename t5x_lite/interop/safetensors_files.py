"""Reading and writing folders of safetensors, one tensor at a time. Pickles are never opened."""

import json
import pathlib

import numpy as np
from safetensors import safe_open
from safetensors.numpy import save_file

from t5x_lite.core.errors import UserError
from t5x_lite.interop.json_files import listed, read_object

SINGLE, INDEX = 'model.safetensors', 'model.safetensors.index.json'


_FLOATS = ('F64', 'F32', 'F16', 'BF16')


class TensorFolder:
  """The tensors of a Hugging Face checkpoint, by name; each is read when it is asked for."""

  def __init__(self, folder: pathlib.Path, single: str = SINGLE):
    """Reads the files' headers; UserError if one is missing, damaged or has a tensor twice.

    `single` is the name of the file, if it is of no model but an adapter.
    """
    self.files: dict[str, pathlib.Path] = {}
    self._headers: dict[str, tuple[tuple[int, ...], str]] = {}   # shape, dtype
    for file in _files(folder, single):
      try:
        with safe_open(file, 'np') as f:
          names = list(f.keys())
          headers = {n: f.get_slice(n) for n in names}
          self._headers |= {n: (tuple(s.get_shape()), s.get_dtype()) for n, s in headers.items()}
      except Exception as e:  # safetensors raises a type of its own, SafetensorError
        raise UserError(f'{file} is not a complete safetensors file ({e}): fetch it again') from e
      for name in names:
        if name in self.files:
          raise UserError(f'{folder}: {name} is both in {self.files[name].name} and in '
                          f'{file.name}: remove the file that is of another model')
      self.files |= dict.fromkeys(names, file)

  def __iter__(self):
    return iter(self.files)

  def __getitem__(self, name: str) -> np.ndarray:
    self.check_dtype(name)
    with safe_open(self.files[name], 'np') as f:
      return f.get_tensor(name)

  def shape(self, name: str) -> tuple[int, ...]:
    """As the file's header has it."""
    return self._headers[name][0]

  def check_dtype(self, name: str) -> None:
    """Raises UserError for a tensor that is not of plain floating-point numbers."""
    if (dtype := self._headers[name][1]) not in _FLOATS:
      raise UserError(f'{self.files[name]}: {name} has the dtype {dtype}: quantised weights are '
                      'not read; load it with transformers, dequantise, and save_pretrained in '
                      'bfloat16 or float32')


def _files(folder: pathlib.Path, single_name: str) -> list[pathlib.Path]:
  single, index = folder / single_name, folder / INDEX
  if single_name != SINGLE:
    if not single.is_file():
      pickles = sorted(f.name for f in folder.glob('*.bin'))
      raise UserError(f'{folder} holds no {single_name}: fetch the whole folder' if not pickles else
                      f'{folder} holds {pickles[0]}, a pickle, which can run any code and is never '
                      'opened here: load it with peft, whose save_pretrained writes safetensors')
    return [single]
  if index.is_file():
    names = read_object(index).get('weight_map')
    names = set(names.values()) if isinstance(names, dict) else {None}
    if not all(isinstance(n, str) and n == pathlib.PurePath(n).name for n in names):
      raise UserError(f'{index} is damaged: fetch it again')
    if single.is_file() and names != {SINGLE}:
      raise UserError(f'{folder} holds both {SINGLE} and {INDEX}, and one may be older: remove the '
                      'one that is not meant')
    missing = sorted(name for name in names if not (folder / name).is_file())
    if missing:
      raise UserError(f'{folder} lacks {listed(missing)}, which its index names')
    return sorted(folder / name for name in names)
  if single.is_file():
    return [single]
  shards = sorted(f.name for f in folder.glob('*.safetensors'))
  if shards:
    raise UserError(f'{folder} holds {listed(shards, 2)}, but neither {SINGLE} nor {INDEX}, which '
                    'says what belongs together: fetch the whole folder')
  pickles = sorted(f.name for f in folder.glob('*.bin'))
  if pickles:
    raise UserError(f'{folder} holds {pickles[0]}, a pickle, which can run any code and is never '
                    'opened here: convert it with transformers, whose save_pretrained writes '
                    'safetensors')
  raise UserError(f'{folder} holds no {SINGLE}')


class ShardWriter:
  """Writes tensors given one after the other into files of at most `shard_bytes`."""

  def __init__(self, folder: pathlib.Path, shard_bytes: int = 5 * 10 ** 9):
    self.folder, self.shard_bytes = folder, shard_bytes
    self.pending: dict[str, np.ndarray] = {}
    self.written: list[list[str]] = []
    self.total = 0

  def add(self, name: str, tensor: np.ndarray) -> None:
    """Takes one tensor; writes a file when it would grow too large."""
    if self.pending and self._pending_bytes() + tensor.nbytes > self.shard_bytes:
      self._write()
    self.pending[name] = np.ascontiguousarray(tensor)
    self.total += tensor.nbytes

  def close(self) -> None:
    """Writes what is left, names the files and, if there are several, writes their index."""
    self._write()
    number = len(self.written)
    name = lambda i: SINGLE if number == 1 else f'model-{i + 1:05}-of-{number:05}.safetensors'
    for i in range(number):
      self._part(i).rename(self.folder / name(i))
    if number > 1:
      weight_map = {tensor: name(i) for i, names in enumerate(self.written) for tensor in names}
      (self.folder / INDEX).write_text(json.dumps(
          {'metadata': {'total_size': self.total}, 'weight_map': weight_map}, indent=2))

  def _pending_bytes(self) -> int:
    return sum(x.nbytes for x in self.pending.values())

  def _part(self, i: int) -> pathlib.Path:
    return self.folder / f'part{i}.safetensors'

  def _write(self) -> None:
    # transformers refuses files that do not state their library's layout.
    save_file(self.pending, self._part(len(self.written)), metadata={'format': 'pt'})
    self.written.append(list(self.pending))
    self.pending = {}

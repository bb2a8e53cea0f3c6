"""Reading and writing folders of safetensors, one tensor at a time. Pickles are never opened."""

import json
import pathlib

import numpy as np
from safetensors import safe_open
from safetensors.numpy import save_file

from t5x_lite.core.errors import UserError

SINGLE, INDEX = 'model.safetensors', 'model.safetensors.index.json'


class TensorFolder:
  """The tensors of a Hugging Face checkpoint, by name; each is read when it is asked for."""

  def __init__(self, folder: pathlib.Path):
    self.files: dict[str, pathlib.Path] = {}
    for file in _files(folder):
      try:
        with safe_open(file, 'np') as f:
          self.files |= dict.fromkeys(f.keys(), file)
      except Exception as e:  # safetensors raises a type of its own, SafetensorError
        raise UserError(f'{file} is not a complete safetensors file ({e}): fetch it again') from e

  def __getitem__(self, name: str) -> np.ndarray:
    with safe_open(self.files[name], 'np') as f:
      return f.get_tensor(name)

  def shape(self, name: str) -> tuple[int, ...]:
    """Read from the file's header alone."""
    with safe_open(self.files[name], 'np') as f:
      return tuple(f.get_slice(name).get_shape())


def _files(folder: pathlib.Path) -> list[pathlib.Path]:
  if (folder / INDEX).exists():
    try:
      names = set(json.loads((folder / INDEX).read_text())['weight_map'].values())
    except (ValueError, KeyError) as e:
      raise UserError(f'{folder / INDEX} is damaged: fetch it again') from e
    missing = sorted(name for name in names if not (folder / name).exists())
    if missing:
      raise UserError(f'{folder} lacks {", ".join(missing)}, which its index names')
    return sorted(folder / name for name in names)
  if (folder / SINGLE).exists():
    return [folder / SINGLE]
  pickles = sorted(f.name for f in folder.glob('*.bin')) if folder.is_dir() else []
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

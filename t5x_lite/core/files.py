"""Atomic files and folders: complete or absent."""

from collections.abc import Iterator
import contextlib
import os
import pathlib
import shutil
from typing import BinaryIO

from t5x_lite.core.errors import UserError


@contextlib.contextmanager
def atomic_file(path: pathlib.Path) -> Iterator[BinaryIO]:
  """A file to write that gets its name once complete; several processes may write the same."""
  path.parent.mkdir(parents=True, exist_ok=True)
  partial = path.with_name(f'{path.name}.{os.getpid()}.partial')
  try:
    with open(partial, 'wb') as file:
      yield file
    partial.replace(path)
  finally:
    partial.unlink(missing_ok=True)


def write_text(path: pathlib.Path, text: str) -> None:
  """Writes a text file atomically, replacing an existing one."""
  with atomic_file(path) as file:
    file.write(text.encode('utf-8'))


def write_new(path: pathlib.Path, content: bytes) -> None:
  """Writes a file atomically; FileExistsError, also if another process was faster."""
  path.parent.mkdir(parents=True, exist_ok=True)
  temporary = path.with_name(f'{path.name}.{os.getpid()}.partial')
  try:
    temporary.write_bytes(content)
    os.link(temporary, path)   # unlike a rename, refuses to replace
  finally:
    temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def atomic_folder(folder: pathlib.Path) -> Iterator[pathlib.Path]:
  """A folder that is filled under another name and renamed once complete.

  Raises UserError if it exists and is not empty, or another process fills it.
  """
  if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
    raise UserError(f'{folder} exists and is not empty: name another folder')
  partial = folder.with_name(f'{folder.name}.partial')
  if partial.exists():
    raise UserError(f'{partial} exists, left by a run that was interrupted or still runs: remove '
                    'it if nothing writes there')
  partial.mkdir(parents=True)
  try:
    yield partial
    if folder.exists():
      folder.rmdir()
    partial.rename(folder)
  except BaseException:
    shutil.rmtree(partial, ignore_errors=True)
    raise

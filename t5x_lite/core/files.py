"""Files: complete or absent, mended where one was cut off, and named in errors."""

from collections.abc import Iterable, Iterator
import contextlib
import errno
import os
import pathlib
import shutil
from typing import Any, BinaryIO

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
  """Writes a text file atomically, replacing an existing one, also if the machine goes down."""
  with atomic_file(path) as file:
    file.write(text.encode('utf-8'))
    file.flush()
    os.fsync(file.fileno())


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


def whole_lines(path: pathlib.Path, mend: bool = True) -> tuple[list[bytes], bool]:
  """(the lines of a file that only grows, whether its last one was half written).

  A half-written line is left out, and with `mend` cut off, so that the next one begins anew.
  """
  content = path.read_bytes()
  size = content.rfind(b'\n') + 1
  if mend and size < len(content):
    with open(path, 'r+b') as file:
      file.truncate(size)
  return content[:size].splitlines(), size < len(content)


def check_writable(path: pathlib.Path, reads: Iterable[pathlib.Path | None] = ()) -> None:
  """Raises OSError now if a file could not be written there later; leaves nothing behind.

  Raises UserError for one of `reads`, which would be lost.
  """
  if any(one is not None and path.exists() and one.exists() and path.samefile(one)
         for one in reads):
    raise UserError(f'{path}: is read, and would be written over: name another file')
  if path.is_dir():
    raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
  made = [folder for folder in path.parents if not folder.exists()]
  path.parent.mkdir(parents=True, exist_ok=True)
  try:
    trial = path.with_name(f'{path.name}.{os.getpid()}.partial')
    trial.touch()
    trial.unlink()
  finally:
    for folder in made:
      folder.rmdir()


# What a user can do about an error of the file system. Others are bugs, or look like some.
_CURES = {
    errno.ENOSPC: 'free some space, or name a place on another disk',
    errno.EDQUOT: 'free some space, or name a place elsewhere',
    errno.EROFS: 'name a place that can be written to',
    errno.EACCES: 'name a place that you have the rights for, or change them',
    errno.EPERM: 'name a place that you have the rights for, or change them',
    errno.ENOTDIR: 'a part of this path is a file: name another, or move the file away',
    errno.EISDIR: 'this is a folder: name a file',
    errno.EEXIST: 'this exists: name another, or move it away',
    errno.ENOTEMPTY: 'this is not empty: name another, or move it away',
    errno.ENAMETOOLONG: 'name a shorter one',
    errno.ELOOP: 'links lead in a circle: name another',
    errno.ENOENT: 'name one that exists',
    errno.EIO: 'the disk fails: name a place on another',
    errno.ESTALE: 'the server of this folder has changed it: run the command again',
    errno.EXDEV: 'name a place on the same disk',
    errno.EMFILE: 'close other programs, or raise `ulimit -n`',
    errno.ENXIO: 'name a file',
    errno.EFBIG: 'the file system takes no file of this size: name a place on another',
}

_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS, errno.EFBIG)   # of any path on it


@contextlib.contextmanager
def naming(path: pathlib.Path) -> Iterator[None]:
  """Adds a path to an error of a disk that names none, as those of writing do."""
  try:
    yield
  except OSError as e:
    if e.errno not in _DISK or e.filename is not None:
      raise
    raise OSError(e.errno, os.strerror(e.errno), str(path)) from e


def save_figure(figure: Any, path: pathlib.Path, dpi: int = 150) -> pathlib.Path:
  """Writes a matplotlib Figure in the format of the suffix; returns the path.

  Raises UserError for a format that matplotlib does not know.
  """
  path.parent.mkdir(parents=True, exist_ok=True)
  try:
    with naming(path):
      figure.savefig(path, dpi=dpi)
  except ValueError as e:   # it lists the formats it knows
    raise UserError(f'{path}: {e}') from e
  return path


def explain(error: OSError) -> str | None:
  """'path: what is wrong; the cure' of an error of a user's path; None for any other."""
  cure = _CURES.get(error.errno)
  path = error.filename if error.filename2 is None else error.filename2
  if cure is None or (path is None and error.errno not in _DISK):
    return None
  where = '' if path is None or isinstance(path, int) else f'{os.fsdecode(path)}: '
  return f'{where}{os.strerror(error.errno)}; {cure}'

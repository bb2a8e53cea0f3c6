"""Checkpoints of a run: written asynchronously by Orbax, kept by count, restored onto any mesh.

A checkpoint is `MODEL_DIR/checkpoints/<step>/` with the items `params` (the trained and the kept
ones), `opt_state` (the optimizer state and the step) and `meta`: JSON of what the run was (its
seed, data, vocabulary, and the source of its frozen parameters), of a digest of every array, and of
its own.
What is read is compared with them, as Orbax itself does not notice a changed bit.
"""

from collections.abc import Callable, Iterator
import contextlib
import errno
import hashlib
import json
import os
import pathlib
import re
from typing import Any, TypeVar

import jax
from jax.experimental import multihost_utils
import numpy as np
import orbax.checkpoint as ocp

from t5x_lite.core import trees
from t5x_lite.core.console import note
from t5x_lite.core.errors import UserError
from t5x_lite.core.files import naming
from t5x_lite.core.quiet import drop_failed_coroutines, quiet_logs
from t5x_lite.training.digests import digest_arrays, format_types, parse_type
from t5x_lite.training.run_folder import RunFolder
from t5x_lite.training.state import TrainState, saved_params

T = TypeVar('T')
_ADDED = {'arrays', 'digest'}   # keys of the JSON beside those of the run
# The fingerprint of a run that was imported without a tokenizer.
UNKNOWN_VOCABULARY = 'unknown'
_NO_SPACE = re.compile('No space left|Disk quota exceeded|ENOSPC|EDQUOT')


class DamagedCheckpoint(UserError):
  """A checkpoint that cannot be read, or does not hold what was written."""


class Checkpoints:
  """The checkpoints of one run."""

  def __init__(self, model_dir: pathlib.Path, keep: int | None = None):
    """To write `keep` of the newest, or to read alone."""
    quiet_logs()
    self.folder = RunFolder(model_dir.absolute()).checkpoints
    self._keep, self._manager, self._started = keep, None, None

  def steps(self) -> list[int]:
    """Steps of the finished checkpoints, in order."""
    if not self.folder.exists():
      return []
    names = (path.name for path in self.folder.iterdir())
    return sorted(int(name) for name in names if re.fullmatch('0|[1-9][0-9]*', name))

  def finished_steps(self) -> list[int]:
    """As `steps`, when what is being written is finished."""
    if self._manager is not None:
      with self._disk_errors():
        self._manager.wait_until_finished()
    return self.steps()

  def latest_step(self) -> int | None:
    """The newest finished checkpoint."""
    return max(self.steps(), default=None)

  def save(self, state: TrainState, step: int, meta: dict[str, Any]) -> None:
    """Starts writing `state`; returns when it is copied off the device. Saved steps stay."""
    rest = {'opt_state': state['opt_state'], 'step': state['step']}
    self._save(step, {'params': saved_params(state), 'opt_state': rest}, meta)

  def save_params(self, params: Any, step: int, meta: dict[str, Any]) -> None:
    """Writes parameters alone, for other runs to start from."""
    self._save(step, {'params': params}, meta)

  def _save(self, step: int, items: dict[str, Any], meta: dict[str, Any]) -> None:
    if step == self._started or step in self.steps():
      return
    digests, not_finite = digest_arrays(items)
    if bad := [name for name in not_finite if name.startswith('params/')]:
      newest = self.finished_steps()[-1:]
      kept = f'step {newest[0]} is the newest checkpoint' if newest else 'there is no checkpoint'
      what, cure = (f'The update of step {step} left values', '; lower the learning rate') if (
          'opt_state' in items) else ('There are values', '')
      raise UserError(f'{what} that are not finite in {trees.summarize(bad)}: they are not saved, '
                      f'{kept}{cure}')
    record = meta | {'arrays': digests}
    record['digest'] = _digest_record(step, record)
    with self._disk_errors():
      if self._manager is None:
        self._manager = ocp.CheckpointManager(
            self.folder, options=ocp.CheckpointManagerOptions(max_to_keep=self._keep))
      begun = self._manager.save(step, args=ocp.args.Composite(
          meta=ocp.args.JsonSave(record),
          **{name: ocp.args.StandardSave(item) for name, item in items.items()}))
    if not begun:
      raise UserError(f'Step {step} was not saved: {self.folder} holds newer steps '
                      f'({self.latest_step()}); use another MODEL_DIR, or move these away')
    self._started = step

  def restore(self, abstract: TrainState, step: int) -> tuple[TrainState, dict[str, Any]]:
    """(state of `step`, meta): what is saved, sharded as the ShapeDtypeStructs of `abstract`."""
    rest = {'opt_state': abstract['opt_state'], 'step': abstract['step']}
    got, meta = self._restore(step, {'params': saved_params(abstract), 'opt_state': rest})
    state = {'step': got['opt_state']['step'], 'params': got['params'],
             'opt_state': got['opt_state']['opt_state']}
    if names := set(trees.flatten(abstract.get('kept', {}))):
      state['kept'], state['params'] = trees.partition(got['params'], names.__contains__)
    return state, meta

  def restore_params(self, abstract: Any, step: int) -> tuple[Any, dict[str, Any]]:
    """(parameters sharded as the ShapeDtypeStructs of `abstract`, meta) of `step`."""
    got, meta = self._restore(step, {'params': abstract})
    return got['params'], meta

  def restore_each(self, abstract: dict[str, jax.ShapeDtypeStruct], step: int
                   ) -> Iterator[tuple[str, jax.Array]]:
    """(path, parameter) of `step`, one after another, as the ShapeDtypeStructs of {path: struct}.

    What the caller keeps of one is all that is held of it when the next is read.
    """
    for name, x in abstract.items():
      got, _ = self._restore(step, {'params': trees.unflatten({name: x})}, partial=True)
      yield name, trees.flatten(got['params'])[name]

  def read_newest(self, step: int | None, read: Callable[[int], T]) -> T:
    """`read(step)`; for None, of the newest checkpoint that is not damaged.

    Those that are damaged are named, and set aside if this run writes checkpoints. Raises
    UserError if there is no good one, or `step` is not good.
    """
    if self.find_step(step) == step:
      try:
        return read(step)
      except DamagedCheckpoint as e:
        others = [other for other in self.steps() if other != step]
        raise UserError(f'{e}; other checkpoints: {others or "none"}') from e
    damaged = {}
    for step in reversed(self.steps()):
      try:
        got = read(step)
      except DamagedCheckpoint as e:
        damaged[step] = e
        continue
      for bad, error in damaged.items():
        note(f'{error}; step {step} is read instead{self._set_aside(bad)}')
      return got
    newest = max(damaged)
    raise UserError(f'{damaged[newest]}; no checkpoint of this run is good: put one back from a '
                    'copy, or train again in another MODEL_DIR')

  def read_meta(self, step: int) -> dict[str, Any]:
    """The meta of `step`: the run that wrote it."""
    return self._read_record(step)[0]

  def fingerprint(self, step: int) -> str | None:
    """Of the values of all parameters in `step`; None if an older version wrote no digests."""
    arrays = self._read_record(step)[1]
    if arrays is None:
      return None
    text = json.dumps({n: x for n, x in arrays.items() if n.startswith('params/')}, sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()

  def param_shapes(self, step: int) -> dict[str, Any]:
    """Nested dict of the parameters in `step`, each with `shape` and `dtype`."""
    arrays = self._read_record(step)[1]
    if arrays is not None:
      return trees.unflatten({name.removeprefix('params/'): parse_type(text.split()[0])
                              for name, text in arrays.items() if name.startswith('params/')})
    path = self.folder / str(step) / 'params'
    tree = self._read(step, lambda: ocp.StandardCheckpointHandler().metadata(path))
    return dict(getattr(tree, 'tree', tree))

  def find_step(self, step: int | None) -> int:
    """`step`, or the newest; UserError if there is no such checkpoint."""
    steps = self.steps()
    if not steps:
      raise UserError(f'No checkpoint in {self.folder}: train first, or name another MODEL_DIR')
    if step is not None and step not in steps:
      raise UserError(f'No checkpoint of step {step} in {self.folder}: there are {steps}')
    return steps[-1] if step is None else step

  def close(self) -> None:
    """Waits for pending writes, then releases the folder."""
    if self._manager is not None:
      manager, self._manager = self._manager, None
      with self._disk_errors():
        manager.wait_until_finished()
        manager.close()

  def _read_record(self, step: int) -> tuple[dict[str, Any], dict[str, str] | None]:
    """(meta, digests of the arrays) of `step`; None if an older version wrote no digests."""
    def read():
      record = json.loads((self.folder / str(step) / 'meta' / 'metadata').read_text('utf-8'))
      meta = {name: value for name, value in record.items() if name not in _ADDED}
      if not _ADDED & set(record):
        return meta, None
      if record['digest'] != _digest_record(step, record):
        raise ValueError('meta is not what was written')
      return meta, record['arrays']

    return self._read(step, read)

  def _restore(self, step: int, items: dict[str, Any], partial: bool = False
               ) -> tuple[dict[str, Any], dict[str, Any]]:
    """(arrays of these items as of the ShapeDtypeStructs in them, meta), which are as written.

    If `partial`, other arrays of the items are not read.
    """
    meta, arrays = self._read_record(step)
    if arrays is None:
      note(f'{self.folder / str(step)} was written by an older version, without digests: damage '
           'would not be noticed')
    else:
      wanted = trees.flatten(items)
      self._check_types(step, items, arrays if not partial else {
          name: text for name, text in arrays.items() if name in wanted})

    def restore(name, abstract):
      path = self.folder / str(step) / name
      if not partial:
        return ocp.StandardCheckpointHandler().restore(
            path, args=ocp.args.StandardRestore(abstract))
      return ocp.PyTreeCheckpointHandler().restore(path, args=ocp.args.PyTreeRestore(
          abstract, partial_restore=True,
          restore_args=ocp.checkpoint_utils.construct_restore_args(abstract)))

    got, failed = None, None
    try:
      got = self._read(step, lambda: {name: restore(name, x) for name, x in items.items()})
    except DamagedCheckpoint as e:
      failed = e
    # Another process may have failed to read a part of its own; digests take all of them.
    if jax.process_count() > 1 and not np.all(multihost_utils.process_allgather(failed is None)):
      failed = failed or self._damaged(step, 'another process cannot read its part')
    if failed is not None:
      raise failed
    if arrays is not None:
      changed = [name for name, text in digest_arrays(got)[0].items() if arrays[name] != text]
      if changed:
        raise self._damaged(step, f'{trees.summarize(changed)} not as written')
    return got, meta

  def _check_types(self, step: int, items: dict[str, Any], arrays: dict[str, str]) -> None:
    """Raises UserError if the checkpoint is of other arrays than these items."""
    have = {name: text.split()[0] for name, text in arrays.items() if name.split('/')[0] in items}
    want = format_types(items)
    where = f'{self.folder / str(step)} is of another model config'
    for first, second, verb in ((have, want, 'has'), (want, have, 'lacks')):
      if extra := [name for name in first if name not in second]:
        raise UserError(f'{where}: it {verb} {trees.summarize(extra)}')
    for name in sorted(want, key=lambda name: name.startswith('opt_state')):
      if have[name] != want[name]:
        raise UserError(f'{where}: {name} is {have[name]} there, {want[name]} here')

  def _damaged(self, step: int, reason: str) -> DamagedCheckpoint:
    return DamagedCheckpoint(f'The checkpoint {self.folder / str(step)} is damaged ({reason})')

  def _read(self, step: int, read: Callable[[], T]) -> T:
    """`read()`; what Orbax, tensorstore and JSON raise for damaged files becomes one line."""
    try:
      return read()
    except (MemoryError, PermissionError, jax.errors.JaxRuntimeError, UserError):
      raise
    except Exception as e:   # of any kind: the files hold anything
      reason = re.sub(r'\s+', ' ', f'{type(e).__name__}: {e}')[:200].strip()
    drop_failed_coroutines()
    raise self._damaged(step, reason)

  @contextlib.contextmanager
  def _disk_errors(self) -> Iterator[None]:
    """Turns what tensorstore raises for a full disk into the OSError that it is."""
    try:
      with naming(self.folder):
        yield
    except Exception as e:
      if isinstance(e, OSError) or not _NO_SPACE.search(str(e)):
        raise
      raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.folder)) from e

  def _set_aside(self, step: int) -> str:
    """Renames a damaged checkpoint if this run writes; returns what to say about it."""
    if self._keep is None:
      return ''
    path = self.folder / str(step)
    names = (self.folder / f'{step}.damaged{n}' for n in ('', *(f'-{n}' for n in range(2, 1000))))
    target = next(name for name in names if not name.exists())
    if jax.process_index() == 0:
      path.rename(target)
    if jax.process_count() > 1:
      multihost_utils.sync_global_devices('a damaged checkpoint is set aside')
    return f', and the damaged one is kept as {target.name}'


def _digest_record(step: int, record: dict[str, Any]) -> str:
  """Of all in `record` but this digest, and of the step that the folder is named after."""
  text = json.dumps([step, {k: v for k, v in record.items() if k != 'digest'}], sort_keys=True)
  return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def reader_of(model_dir: pathlib.Path) -> Checkpoints:
  """The checkpoints of a run, to read; UserError if there is no folder of them."""
  folder = RunFolder(model_dir).checkpoints
  if not folder.is_dir():
    raise UserError(f'No checkpoint in {folder}: train that run first, or name another folder')
  return Checkpoints(model_dir)


def check_vocabulary(meta: dict[str, Any], vocabulary: str | None, where: str) -> None:
  """Raises UserError if a checkpoint's meta names another vocabulary; None is not compared.

  One that was imported without a tokenizer takes any file, and no bytes, which are what a task
  reads that is given none.
  """
  trained = meta.get('vocabulary')
  if trained == UNKNOWN_VOCABULARY:
    if vocabulary is not None and vocabulary.startswith('bytes'):
      raise UserError(f'{where}, was imported without a tokenizer: pass --gin.VOCABULARY=FILE, or '
                      'import it again with --vocabulary=byte if it does read bytes')
    return
  if None not in (trained, vocabulary) and trained != vocabulary:
    raise UserError(f'{where}, was trained with the vocabulary {trained!r}, and this run has '
                    f'{vocabulary!r}: the same ids would stand for other words; set VOCABULARY to '
                    'the file it was trained with')

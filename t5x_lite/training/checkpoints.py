"""Checkpoints of a run: written asynchronously by Orbax, kept by count, restored onto any mesh.

A checkpoint is `MODEL_DIR/checkpoints/<step>/` with the items `params` (the trained ones alone),
`opt_state` (the optimizer state and the step) and `meta` (JSON: the run's seed, batch size and
vocabulary, and the source of its frozen parameters).
"""

from collections.abc import Iterator
import contextlib
import pathlib
import re
from typing import Any

import orbax.checkpoint as ocp

from t5x_lite.core.errors import UserError
from t5x_lite.core.quiet import quiet_logs
from t5x_lite.training.run_folder import RunFolder
from t5x_lite.training.state import TrainState


class Checkpoints:
  """The checkpoints of one run."""

  def __init__(self, model_dir: pathlib.Path, keep: int | None = None):
    quiet_logs()
    self.folder = RunFolder(model_dir.absolute()).checkpoints
    options = ocp.CheckpointManagerOptions(max_to_keep=keep, create=keep is not None,
                                           read_only=keep is None)
    handlers = {'params': ocp.StandardCheckpointHandler(),
                'opt_state': ocp.StandardCheckpointHandler(), 'meta': ocp.JsonCheckpointHandler()}
    self._manager = ocp.CheckpointManager(self.folder, options=options, item_handlers=handlers)

  def latest_step(self) -> int | None:
    """The newest finished checkpoint."""
    return self._manager.latest_step()

  def save(self, state: TrainState, step: int, meta: dict[str, Any]) -> None:
    """Starts writing `state`; returns when it is copied off the device. Saved steps stay."""
    if step in self._manager.all_steps():
      return
    rest = {'opt_state': state['opt_state'], 'step': state['step']}
    self._manager.save(step, args=ocp.args.Composite(
        params=ocp.args.StandardSave(state['params']), opt_state=ocp.args.StandardSave(rest),
        meta=ocp.args.JsonSave(meta)))

  def save_params(self, params: Any, step: int, meta: dict[str, Any]) -> None:
    """Writes parameters alone, for other runs to start from."""
    self._manager.save(step, args=ocp.args.Composite(
        params=ocp.args.StandardSave(params), meta=ocp.args.JsonSave(meta)))

  def restore(self, abstract: TrainState, step: int) -> tuple[TrainState, dict[str, Any]]:
    """(state of `step`, meta): its trained part, sharded as the ShapeDtypeStructs of `abstract`."""
    rest = {'opt_state': abstract['opt_state'], 'step': abstract['step']}
    with self._one_line(step):
      got = self._manager.restore(step, args=ocp.args.Composite(
          params=ocp.args.StandardRestore(abstract['params']),
          opt_state=ocp.args.StandardRestore(rest), meta=ocp.args.JsonRestore()))
    return {'step': got.opt_state['step'], 'params': got.params,
            'opt_state': got.opt_state['opt_state']}, got.meta

  def restore_params(self, abstract: Any, step: int) -> tuple[Any, dict[str, Any]]:
    """(parameters sharded as the ShapeDtypeStructs of `abstract`, meta) of `step`."""
    with self._one_line(step):
      got = self._manager.restore(step, args=ocp.args.Composite(
          params=ocp.args.StandardRestore(abstract), meta=ocp.args.JsonRestore()))
    return got.params, got.meta

  def read_meta(self, step: int) -> dict[str, Any]:
    """The meta of `step`: the run that wrote it."""
    with self._one_line(step):
      return self._manager.restore(step, args=ocp.args.Composite(meta=ocp.args.JsonRestore())).meta

  def param_shapes(self, step: int) -> dict[str, Any]:
    """Nested dict of the parameters in `step`, each with `shape` and `dtype`."""
    with self._one_line(step):
      tree = self._manager.item_metadata(step)['params']
      return dict(getattr(tree, 'tree', tree))

  def find_step(self, step: int | None) -> int:
    """`step`, or the newest; UserError if there is no such checkpoint."""
    steps = sorted(self._manager.all_steps())
    if not steps:
      raise UserError(f'No checkpoint in {self.folder}: train first, or name another MODEL_DIR')
    if step is not None and step not in steps:
      raise UserError(f'No checkpoint of step {step} in {self.folder}: there are {steps}')
    return steps[-1] if step is None else step

  def close(self) -> None:
    """Waits for pending writes, then releases the folder."""
    self._manager.wait_until_finished()
    self._manager.close()

  @contextlib.contextmanager
  def _one_line(self, step):
    """Turns errors of Orbax and tensorstore on a damaged checkpoint into one line with the cure."""
    try:
      yield
    except (ValueError, KeyError, FileNotFoundError, OSError, TypeError) as e:
      reason = re.sub(r'\s+', ' ', str(e)).strip()[:200]
      others = [s for s in sorted(self._manager.all_steps()) if s != step]
      cure = f'the one of step {others[-1]} may be intact: move this one away to use it' if (
          others) else 'there is no other: train again in another MODEL_DIR'
      raise UserError(f'The checkpoint {self.folder / str(step)} is damaged or of another model '
                      f'config ({reason}); {cure}') from e


@contextlib.contextmanager
def open_checkpoints(model_dir: pathlib.Path, step: int | None
                     ) -> Iterator[tuple[Checkpoints, int]]:
  """(the checkpoints of a run, the step to read, newest if None); UserError if there is none."""
  folder = RunFolder(model_dir).checkpoints
  if not folder.is_dir():
    raise UserError(f'No checkpoint in {folder}: train that run first, or name another folder')
  with contextlib.closing(Checkpoints(model_dir)) as source:
    yield source, source.find_step(step)


def check_vocabulary(meta: dict[str, Any], vocabulary: str | None, where: str) -> None:
  """Raises UserError if a checkpoint's meta names another vocabulary; None is not compared."""
  trained = meta.get('vocabulary')
  if None not in (trained, vocabulary) and trained != vocabulary:
    raise UserError(f'{where}, was trained with the vocabulary {trained!r}, and this run has '
                    f'{vocabulary!r}: the same ids would stand for other words; set VOCABULARY to '
                    'the file it was trained with')


def restore_full_state(abstract: TrainState, model_dir: pathlib.Path, step: int,
                       meta: dict[str, Any]) -> TrainState:
  """The trained state of another run's checkpoint, for a run whose meta is `meta` to continue.

  Raises UserError if the seed, the batch size or the vocabulary differ: this run would not
  continue the same stream of data.
  """
  with open_checkpoints(model_dir, step) as (source, step):
    state, saved = source.restore(abstract, step)
  check_vocabulary(saved, meta['vocabulary'], f'{model_dir}, step {step}')
  for name in ('seed', 'batch_size'):
    if saved.get(name) != meta[name]:
      raise UserError(f'{model_dir}, step {step}, has {name} {saved.get(name)} and this run '
                      f'{meta[name]}: a branch reads the same data, so set the same value')
  return state

"""Where a run goes on from: its own newest good checkpoint, or that of the run it branches off."""

import dataclasses
import pathlib
from typing import Any

from t5x_lite.core.console import note
from t5x_lite.core.errors import UserError
from t5x_lite.models import Network
from t5x_lite.training import initial_params
from t5x_lite.training.checkpoints import Checkpoints, check_vocabulary, reader_of
from t5x_lite.training.run_folder import RunFolder
from t5x_lite.training.state import TrainState

BRANCH = ('branch off it: the same command with another MODEL_DIR and '
          '--gin_file=runs/branch.gin --gin.INIT_FROM={folder}')


@dataclasses.dataclass(frozen=True)
class Origin:
  """What a run goes on from.

  Attributes:
    state: after `step` steps, its frozen parameters among it.
    examples: of the data that were read: the position of the next one.
    line: what to say.
  """
  state: TrainState
  step: int
  examples: int
  line: str


def check_folder(folder: RunFolder) -> bool:
  """Whether a run of this folder is to go on: it has a checkpoint, or has logged a step.

  Raises UserError for one without its settings.
  """
  steps = Checkpoints(folder.path).steps()
  has_config = folder.config.is_file() and folder.config.read_bytes().strip()
  if steps and not has_config:
    raise UserError(
        f'{folder.path} has checkpoints (the newest of step {steps[-1]}) and no config.gin, which '
        'says of what run: put it back from a copy, or ' + BRANCH.format(folder=folder.path))
  goes_on = bool(has_config and (steps or folder.read_metrics()))
  if not goes_on and folder.path.is_dir():
    others = {path.name for path in folder.path.iterdir()} - {folder.lock.name}
    if others and not has_config:
      note(f'{folder.path} is not empty, and becomes the folder of this run beside '
           f'{", ".join(sorted(others)[:3])}')
  return goes_on


def resume(saved: Checkpoints, network: Network, abstract: TrainState, meta: dict[str, Any]
           ) -> Origin:
  """The newest good checkpoint of a run itself; adds the source of frozen parameters to `meta`."""
  state, written, step = saved.read_newest(
      None, lambda step: (*saved.restore(abstract, step), step))
  folder = saved.folder.parent
  check_vocabulary(written, meta['vocabulary'], f'{folder}, step {step}')
  _check_data(written, meta, f'{folder}, step {step}')
  return _origin(state, written, step, network, abstract, meta, f'Resumed {folder} at step {step}')


def branch(model_dir: pathlib.Path, step: int | None, network: Network, abstract: TrainState,
           meta: dict[str, Any]) -> Origin:
  """A checkpoint of another run, newest if `step` is None, that a run continues.

  Raises UserError if the seed, the data or the vocabulary differ: it would not continue the same
  stream. The batch size may, as the position in the data is counted in examples.
  """
  source = reader_of(model_dir)
  state, written, step = source.read_newest(
      step, lambda step: (*source.restore(abstract, step), step))
  where = f'{model_dir}, step {step}'
  check_vocabulary(written, meta['vocabulary'], where)
  if written.get('seed') != meta['seed']:
    raise UserError(f'{where}, has seed {written.get("seed")} and this run {meta["seed"]}: a '
                    'branch reads the same data, so set the same value')
  _check_data(written, meta, where)
  return _origin(state, written, step, network, abstract, meta,
                 f'Branched off {model_dir} at step {step}')


def _origin(state, written, step, network, abstract, meta, line) -> Origin:
  if abstract['frozen']:
    frozen = initial_params.load_frozen(network, abstract['frozen'], written)
    meta[initial_params.FROZEN_FROM] = written[initial_params.FROZEN_FROM]
  else:
    frozen = {}
  examples = written.get('examples', step * written.get('batch_size', 0))
  return Origin(state | {'frozen': frozen}, step, examples, line)


def _check_data(written: dict[str, Any], meta: dict[str, Any], where: str) -> None:
  """Raises UserError if the data are not those that a checkpoint's run read."""
  before, now = written.get('data'), meta['data']
  if None not in (before, now) and before != now:
    raise UserError(
        f'{where}, has read other data than there are now (their content, or their order, has '
        'changed): put them back as they were, or start a run of its own from its parameters '
        '(another MODEL_DIR, and InitFrom without restore_state)')

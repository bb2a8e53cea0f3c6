"""Where metrics go beside metrics.jsonl; bound in gin as Experiment.writers.

A writer of your own is a frozen dataclass with `open`, in a file of yours.
"""

import dataclasses
import hashlib
import importlib.util
import math
from typing import Literal, Protocol, runtime_checkable

from t5x_lite.core.dataclass_checks import FieldError, check_types
from t5x_lite.training.run_folder import RunFolder


class Writer(Protocol):
  """An open log."""

  def write(self, step: int, kind: str, values: dict[str, float]) -> None:
    """Writes the values of a step; `kind` is 'train' or 'eval'."""

  def close(self) -> None:
    """Flushes what is written."""


@runtime_checkable
class WriterConfig(Protocol):
  """Settings of a writer."""

  def open(self, folder: RunFolder, resumed_step: int) -> Writer:
    """The log of the run of this folder, which goes on after `resumed_step`."""


@dataclasses.dataclass(frozen=True)
class TensorBoard:
  """Event files in MODEL_DIR/tensorboard."""

  def open(self, folder: RunFolder, resumed_step: int) -> Writer:
    """See WriterConfig."""
    return _Events(folder, resumed_step)


class _Events:
  def __init__(self, folder, resumed_step):
    from tensorboardX import SummaryWriter  # 0.5 s, and only a run that writes needs it
    self._events = SummaryWriter(str(folder.tensorboard), purge_step=resumed_step + 1)

  def write(self, step, kind, values):
    for name, value in values.items():
      if math.isfinite(value):
        self._events.add_scalar(f'{kind}/{name}', value, step)

  def close(self):
    self._events.close()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Tracker:
  """Weights & Biases, or trackio, which is local and has its interface."""
  module: Literal['wandb', 'trackio']
  project: str = 't5x_lite'
  name: str | None = None   # of the run; None: that of its folder

  def __post_init__(self):
    check_types(self)
    if importlib.util.find_spec(self.module) is None:
      raise FieldError(self, 'module', f"is not installed: pip install -e '.[{self.module}]'")

  def open(self, folder: RunFolder, resumed_step: int) -> Writer:
    """See WriterConfig."""
    settings = {'project': self.project, 'name': self.name or folder.path.name, 'resume': 'allow'}
    if self.module == 'trackio':   # which finds a resumed run by its name
      import trackio
      return _Tracked(trackio, settings)
    import wandb
    path = str(folder.path.absolute()).encode()
    return _Tracked(wandb, settings | {'id': hashlib.blake2b(path, digest_size=8).hexdigest()})


class _Tracked:
  def __init__(self, module, settings):
    self._module = module
    module.init(**settings)

  def write(self, step, kind, values):
    self._module.log({f'{kind}/{name}': value for name, value in values.items()}, step=step)

  def close(self):
    self._module.finish()

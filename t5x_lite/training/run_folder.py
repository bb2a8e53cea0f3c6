"""Every name in MODEL_DIR, and its readers: a run is its folder."""

import dataclasses
import json
import pathlib
from typing import Any


@dataclasses.dataclass(frozen=True)
class RunFolder:
  """The folder of a run; nothing is read or made before it is used."""
  path: pathlib.Path

  @property
  def config(self) -> pathlib.Path:
    """Every setting of the run, as gin."""
    return self.path / 'config.gin'

  @property
  def metrics(self) -> pathlib.Path:
    """A JSON record for each logged step and each evaluation."""
    return self.path / 'metrics.jsonl'

  @property
  def tensorboard(self) -> pathlib.Path:
    """The same as TensorBoard events."""
    return self.path / 'tensorboard'

  @property
  def checkpoints(self) -> pathlib.Path:
    """A folder for each step that was saved."""
    return self.path / 'checkpoints'

  @property
  def lock(self) -> pathlib.Path:
    """Who trains the run, while it is trained."""
    return self.path / 'lock'

  @property
  def profile(self) -> pathlib.Path:
    """Traces of jax.profiler."""
    return self.path / 'profile'

  @property
  def loss_curve(self) -> pathlib.Path:
    """The picture of training/plots.py."""
    return self.path / 'loss.png'

  @property
  def huggingface(self) -> pathlib.Path:
    """Files of an imported run besides parameters and architecture."""
    return self.path / 'huggingface'

  def inferences(self, name: str, step: int) -> pathlib.Path:
    """The outputs of the checkpoint of `step` for a file or split of this name."""
    return self.path / f'inferences-{name}-{step}.jsonl'

  def read_metrics(self) -> list[dict[str, Any]]:
    """The records of `metrics`, none if there is no such file yet."""
    return read_metrics(self.metrics) if self.metrics.exists() else []

  def evaluation_at(self, step: int) -> dict[str, float]:
    """The metrics of the last evaluation at `step`, {} without one."""
    records = [r for r in self.read_metrics() if r['kind'] == 'eval' and r['step'] == step]
    values = records[-1] if records else {}
    return {name: value for name, value in values.items() if name not in ('kind', 'step')}


def read_metrics(path: pathlib.Path | str) -> list[dict[str, Any]]:
  """The records of a metrics.jsonl; a last line truncated by a crash is skipped."""
  records = []
  for line in pathlib.Path(path).read_text().splitlines():
    try:
      records.append(json.loads(line))
    except json.JSONDecodeError:
      continue
  return records

"""Every name in MODEL_DIR, and its readers: a run is its folder."""

import dataclasses
import json
import pathlib
from typing import Any

from t5x_lite.core.console import note_once
from t5x_lite.core.errors import UserError


@dataclasses.dataclass(frozen=True)
class RunFolder:
  """The folder of a run; nothing is read or made before it is used."""
  path: pathlib.Path

  @property
  def config(self) -> pathlib.Path:
    """Every setting of the run, as gin."""
    return self.path / 'config.gin'

  def require_config(self) -> pathlib.Path:
    """`config`; raises UserError if there is none."""
    if not self.config.is_file():
      raise UserError(f'{self.path} is no run: it has no {self.config.name}; name the folder of a '
                      'run, such as t5x-lite import makes of a model of Hugging Face')
    return self.config

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

  @property
  def chat_template(self) -> pathlib.Path:
    """The chat template of a run that was trained on conversations."""
    return self.path / 'chat_template.jinja'

  @property
  def reference(self) -> pathlib.Path:
    """The parameters at step 0 of a run that is held close to them."""
    return self.path / 'reference'

  @property
  def reference_logprobs(self) -> pathlib.Path:
    """Log-probabilities of the responses of the data under the policy at step 0."""
    return self.path / 'reference_logprobs.npz'

  @property
  def rollouts(self) -> pathlib.Path:
    """What the policy of a run wrote, a record a line."""
    return self.path / 'rollouts.jsonl'

  @property
  def rollout_tensors(self) -> pathlib.Path:
    """The rollouts that a run may resume from."""
    return self.path / 'rollouts'

  @property
  def evaluations(self) -> pathlib.Path:
    """Results on suites, their items, and the answers that they are made of."""
    return self.path / 'evaluations'

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
  """The records of a metrics.jsonl; bad lines are left out, and counted in a note.

  A last line without an end, which is being written or was when the run was killed, is left out
  without one.
  """
  records, bad = [], []
  lines = pathlib.Path(path).read_bytes().split(b'\n')
  for number, line in enumerate(lines, 1):
    record = _parse_record(line)
    if record is not None:
      records.append(record)
    elif line.strip() and number < len(lines):
      bad.append(number)
  if bad:
    note_once(f'{path}: {len(bad)} line(s) that are no records of metrics are left out; the first '
              f'is line {bad[0]}')
  return records


def _parse_record(line: bytes) -> dict[str, Any] | None:
  """The record {'step': int, 'kind': str, name: number or None, …} of a line, if it is one."""
  try:
    record = json.loads(line, parse_constant=lambda name: None)   # NaN and Infinity
  except (ValueError, RecursionError):
    return None
  if not isinstance(record, dict) or type(record.get('step')) is not int or record['step'] < 0 or (
      not isinstance(record.get('kind'), str)):
    return None
  values = {name: value for name, value in record.items() if name not in ('step', 'kind')}
  if not all(value is None or type(value) in (int, float) for value in values.values()):
    return None
  finite = lambda value: value is not None and abs(value) < float('inf')   # 1e999 is parsed as inf
  return {'step': record['step'], 'kind': record['kind']} | {
      name: value if finite(value) else None for name, value in values.items()}

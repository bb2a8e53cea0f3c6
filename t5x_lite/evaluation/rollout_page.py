"""One HTML file of what a policy wrote while it was trained: curves, and completions."""

from collections.abc import Iterable, Mapping
import json
import pathlib
from typing import Any

import numpy as np

from t5x_lite.core import html_page
from t5x_lite.core.errors import UserError
from t5x_lite.core.files import whole_lines

_TEMPLATE = pathlib.Path(__file__).with_suffix('.html')
_CURVES = ('reward', 'kl', 'tokens', 'ended', 'faults')


def read_rollouts(path: pathlib.Path) -> list[dict[str, Any]]:
  """The records of a rollouts.jsonl, in order; UserError if there are none, or one is no record."""
  if not path.parent.is_dir():
    raise UserError(f'{path.parent} is no folder of a run')
  if not path.is_file():
    raise UserError(f'{path.parent} has no {path.name}: name a run that was trained on rollouts')
  records = []
  for number, line in enumerate(whole_lines(path, mend=False)[0], 1):
    try:
      record = json.loads(line)
      record['rollout'], record['prompt'], record['completion'], record['reward']
    except (ValueError, TypeError, KeyError) as error:
      raise UserError(f'{path}:{number} is no record of a completion: cut the file before it'
                      ) from error
    records.append(record)
  if not records:
    raise UserError(f'{path} is empty: the run has drawn nothing yet')
  return records


def summarize(records: Iterable[Mapping[str, Any]]) -> list[dict[str, float]]:
  """Means of each rollout, in order: `rollout`, `number` of completions, _CURVES where there are
  such, of which `faults` is a count, and `reward_stderr`."""
  rollouts: dict[int, list[Mapping[str, Any]]] = {}
  for record in records:
    rollouts.setdefault(record['rollout'], []).append(record)
  found = []
  for number, own in sorted(rollouts.items()):
    rewards = np.asarray([r['reward'] for r in own], np.float64)
    row = {'rollout': number, 'number': len(own), 'reward': rewards.mean(),
           'faults': sum('fault' in r for r in own)}
    if len(own) > 1:
      row['reward_stderr'] = rewards.std(ddof=1) / len(own) ** 0.5
    row |= {name: np.mean([r[name] for r in own]) for name in ('kl', 'tokens', 'ended')
            if all(name in r for r in own)}
    found.append({name: float(x) if name != 'rollout' else x for name, x in row.items()})
  return found


def render_page(name: str, records: list[dict[str, Any]], rollouts: int = 40, samples: int = 24
                ) -> str:
  """The page of a run of this name.

  Args:
    name: of the run.
    records: of read_rollouts.
    rollouts: whose completions are shown, spread evenly over all.
    samples: completions of each of them.
  """
  rows = summarize(records)
  chosen = {rows[i]['rollout'] for i in np.unique(np.linspace(
      0, len(rows) - 1, min(rollouts, len(rows))).round().astype(int))}
  shown: dict[int, list[dict[str, Any]]] = {}
  for record in records:
    if record['rollout'] in chosen:
      shown.setdefault(record['rollout'], []).append(record)
  data = {'curves': [curve for curve in _CURVES if any(row.get(curve) for row in rows)],
          'rows': rows, 'shown': [{'rollout': number, 'records': own[:samples]}
                                  for number, own in sorted(shown.items())]}
  return html_page.render_page(_TEMPLATE, f'Rollouts of {name}', data)

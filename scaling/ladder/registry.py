"""The predictions made with a folder: registered before their targets run, and scored after.

`predictions.jsonl` has a line for each, with its date and a hash of everything in it. Lines are
added and never changed.
"""

from collections.abc import Mapping
import datetime
import hashlib
import json
import math
import pathlib
from typing import Any

import numpy as np

from t5x_lite.core.errors import UserError
from t5x_lite.core.files import write_text
from t5x_lite.core.strict_json import format_json

PREDICTIONS = 'predictions.jsonl'


def register_prediction(folder: pathlib.Path, prediction: Mapping[str, Any]) -> dict[str, Any]:
  """Adds a prediction with its date and hash, and returns what a reader will read."""
  made = datetime.datetime.now(datetime.UTC).isoformat(timespec='seconds')
  values = json.loads(format_json({'made': made, **prediction}))
  values['sha256'] = hash_prediction(values)
  path = folder / PREDICTIONS
  before = path.read_text() if path.exists() else ''
  write_text(path, before + json.dumps(values) + '\n')
  return values


def hash_prediction(prediction: Mapping[str, Any]) -> str:
  """SHA-256 of all that it holds but the hash, as JSON with sorted keys."""
  values = {name: value for name, value in prediction.items() if name != 'sha256'}
  return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def read_predictions(folder: pathlib.Path) -> list[dict[str, Any]]:
  """All predictions of a folder, oldest first; UserError for one that was changed afterwards."""
  path = folder / PREDICTIONS
  if not path.exists():
    return []
  found = []
  for number, line in enumerate(path.read_text().splitlines(), 1):
    try:
      prediction = json.loads(line)
      sound = prediction['sha256'] == hash_prediction(prediction)
    except (ValueError, KeyError, TypeError):
      sound = False
    if not sound:
      raise UserError(f'{path}, line {number} is not what was registered (its hash differs): put '
                      'it back from a copy')
    found.append(prediction)
  return found


def judge_prediction(prediction: Mapping[str, Any], measured: float) -> dict[str, Any]:
  """The verdict on a measured loss."""
  low, high, level = (prediction[name] for name in ('low', 'high', 'level'))
  inside = low <= measured <= high
  error = measured - prediction['loss']
  return {
      'measured': measured, 'predicted': prediction['loss'], 'low': low, 'high': high,
      'level': level, 'inside': inside, 'error': error, 'relative_error': error / measured,
      'sentence': f'{"Inside" if inside else "OUTSIDE"} the {level:.0%} interval: '
                  f'measured {measured:.4f}, predicted {prediction["loss"]:.4f} '
                  f'({low:.4f} to {high:.4f}), off by {error / measured:+.2%}'}


def score_predictions(judged: list[Mapping[str, Any]], unmeasured: int = 0) -> dict[str, Any]:
  """The calibration of verdicts: how many are inside, of how many that their levels promise.

  `probability` is that of so few inside, or fewer, if the intervals are right; `errors` are in half
  widths of their intervals (root mean square: about 0.5 at a level of 95 %); `bias` is the mean
  relative error.
  """
  inside = sum(verdict['inside'] for verdict in judged)
  promised = [verdict['level'] for verdict in judged]
  halves = [(v['high'] - v['low']) / 2 for v in judged]
  errors = [v['error'] / half for v, half in zip(judged, halves) if half > 0]
  return {
      'predictions': len(judged), 'unmeasured': unmeasured, 'inside': inside,
      'promised': sum(promised),
      'probability': _probability(inside, promised),
      'errors': math.sqrt(sum(e * e for e in errors) / len(errors)) if errors else None,
      'bias': sum(v['relative_error'] for v in judged) / len(judged)}


def _probability(inside: int, promised: list[float]) -> float:
  """Of at most so many successes, where each has its own probability."""
  counts = np.ones(1)
  for level in promised:
    counts = np.convolve(counts, [1 - level, level])
  return float(counts[:inside + 1].sum())


def format_score(score: Mapping[str, Any]) -> str:
  """The calibration as text."""
  few = ('' if score['probability'] > 0.05 else
         f': so few have a probability of {score["probability"]:.2g}, the intervals are too narrow')
  more = (f'; {score["unmeasured"]} more of targets that were not trained'
          if score['unmeasured'] else '')
  return (f'Calibration: {score["inside"]} of {score["predictions"]} predictions made with this '
          f'folder are inside their intervals, {score["promised"]:.3g} promised{few}; mean error '
          f'{score["bias"]:+.2%}{more}')

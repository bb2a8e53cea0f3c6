"""Scores of a system with intervals, and of two on the same dialogues.

A figure is made of sums over dialogues, so that its interval is that of dialogues drawn again:
by the same draws for all figures, and for both systems of a comparison.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
import dataclasses
import math

import numpy as np
from sacrebleu.metrics import BLEU

from t5x_lite.dialogue.scoring.predictions import Reference
from t5x_lite.dialogue.scoring.richness import Richness, richness, words_of
from t5x_lite.dialogue.scoring.states import match_state
from t5x_lite.dialogue.scoring.success import PredictedTurn, inform_and_success
from t5x_lite.evaluation.proportions import Interval

Predictions = Mapping[str, Sequence[PredictedTurn]]
PARTS = [f'bleu {part} {n}' for part in ('counts', 'totals') for n in range(4)]


@dataclasses.dataclass(frozen=True)
class Figure:
  """A score, in percent but for lengths, and its 95 % percentile interval."""
  value: float
  interval: Interval


@dataclasses.dataclass(frozen=True)
class Report:
  """Of a system.

  Attributes:
    figures: {name: Figure}; those of one domain are named 'inform hotel'.
    dialogues: how many have each domain, and 'total'.
    missing: dialogues with gold states, or else references, that were not predicted.
    richness: of all responses.
  """
  figures: Mapping[str, Figure]
  dialogues: Mapping[str, int]
  missing: Sequence[str]
  richness: Richness


def score(predictions: Predictions, reference: Reference, samples: int = 1000, seed: int = 0
          ) -> Report:
  """All scores that the reference allows."""
  sums = dialogue_sums(predictions, reference)
  names, matrix = _matrix(sums)
  figures = {name: Figure(float(value), interval_of(draws)) for name, (value, draws) in
             _drawn(names, matrix, _draws(len(sums), samples, seed)).items()}
  number = dict(zip(names, matrix.sum(0)))
  known = reference.states or reference.responses or {}
  return Report(figures, {name.removeprefix('number '): int(count) for name, count in number.items()
                          if name.startswith('number ')},
                sorted(known.keys() - predictions.keys()),
                richness(words_of(turn.response) for turns in predictions.values()
                         for turn in turns))


def differences(a: Mapping[str, Counter], b: Mapping[str, Counter], samples: int = 1000,
                seed: int = 0) -> dict[str, Figure]:
  """{name: the figure of `a` less that of `b`} of sums of the same dialogues."""
  draws = _draws(len(a), samples, seed)
  figures = [_drawn(*_matrix({name: sums[name] for name in a}), draws) for sums in (a, b)]
  return {name: Figure(float(value - figures[1][name][0]), interval_of(drawn - figures[1][name][1]))
          for name, (value, drawn) in figures[0].items() if name in figures[1]}


def dialogue_sums(predictions: Predictions, reference: Reference) -> dict[str, Counter]:
  """{dialogue: what figures are made of}."""
  found, bleu = {}, BLEU(effective_order=True)   # only its counts are used
  for name, turns in predictions.items():
    sums = found[name] = Counter(turns=len(turns))
    inform, success = inform_and_success(
        turns, reference.goals[name], reference.booked[name], reference.database)
    for domain, met in inform.items():
      sums.update({f'number {domain}': 1, f'inform {domain}': int(met),
                   f'success {domain}': int(success.get(domain, False))})
    sums['words'] = sum(len(words_of(turn.response)) for turn in turns)
    for turn, state in zip(turns, reference.states[name] if reference.states else ()):
      sums.update(match_state(turn.state, state)._asdict())
    for turn, text in zip(turns, reference.responses[name] if reference.responses else ()):
      part = bleu.sentence_score(turn.response, [text])
      sums.update(dict(zip(PARTS, (*part.counts, *part.totals))))
      sums.update({'bleu length': part.sys_len, 'bleu reference': part.ref_len})
  return found


def interval_of(draws: np.ndarray) -> Interval:
  """Of 95 %; draws that have no value, such as those without a domain, are left out."""
  draws = draws[np.isfinite(draws)]
  return Interval(*map(float, np.percentile(draws, (2.5, 97.5)))) if len(draws) else Interval(
      math.nan, math.nan)


def _draws(number: int, samples: int, seed: int) -> np.ndarray:
  """How often each sample has each dialogue, [samples, number]."""
  return np.random.default_rng(seed).multinomial(number, np.full(number, 1 / number), samples)


def _matrix(sums: Mapping[str, Counter]) -> tuple[list[str], np.ndarray]:
  """Names of the sums, and [dialogue, sum]."""
  names = list(dict.fromkeys(key for one in sums.values() for key in one))
  return names, np.array([[one[key] for key in names] for one in sums.values()], float)


def _drawn(names: Sequence[str], matrix: np.ndarray, draws: np.ndarray
           ) -> dict[str, tuple[np.ndarray, np.ndarray]]:
  """{figure: (its value on all dialogues, those of the samples)}."""
  totals = np.concatenate([matrix.sum(0, keepdims=True), draws @ matrix])
  return {name: (values[0], values[1:])
          for name, values in _figures(dict(zip(names, totals.T))).items()}


def _figures(sums: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
  """Of sums that are arrays over samples."""
  def share(part, whole):
    return np.divide(100 * part, whole, out=np.full(len(whole), np.nan), where=whole > 0)
  domains = sorted((name.removeprefix('number ') for name in sums if name.startswith('number ')),
                   key=lambda domain: (domain != 'total', domain))
  label = lambda kind, domain: kind if domain == 'total' else f'{kind} {domain}'
  found = {label(kind, domain): share(sums[f'{kind} {domain}'], sums[f'number {domain}'])
           for domain in domains for kind in ('inform', 'success')}
  if 'bleu length' in sums:
    found['bleu'] = np.array([
        BLEU.compute_bleu(correct=list(row[:4]), total=list(row[4:8]), sys_len=int(row[8]),
                          ref_len=int(row[9]), smooth_method='exp').score for row in np.stack(
            [sums[name] for name in (*PARTS, 'bleu length', 'bleu reference')], axis=1)])
    found['combined'] = (found['inform'] + found['success']) / 2 + found['bleu']
  if 'gold' in sums:
    found |= {'joint goal accuracy': share(sums['joint'], sums['turns']),
              'joint goal accuracy, strict': share(sums['strict'], sums['turns']),
              'slot precision': share(sums['right'], sums['predicted']),
              'slot recall': share(sums['right'], sums['gold']),
              'slot F1': share(2 * sums['right'], sums['predicted'] + sums['gold'])}
  return found | {'length': sums['words'] / sums['turns']}

"""Logs of pairwise comparisons: win rates, Elo and Bradley-Terry ratings, position bias.

A line of a log is JSON: {"a": name, "b": name, "winner": "a", "b" or "tie"}, and may have "prompt",
what both answered, and "swapped", true where the judge saw b first.
"""
# K names of sides

from collections.abc import Sequence
import dataclasses
import json
import math
import pathlib
from typing import Any, NamedTuple

import numpy as np
from scipy import optimize, special
from scipy.sparse import csgraph

from t5x_lite.core.console import note
from t5x_lite.core.errors import UserError
from t5x_lite.core.strict_json import parse_lines
from t5x_lite.evaluation.proportions import Interval

SCORES = {'a': 1.0, 'b': 0.0, 'tie': 0.5}   # of side a
ELO_BASE, ELO_SCALE, ELO_INITIAL = 10.0, 400.0, 1000.0   # 400 points more win 10 of 11


class Comparison(NamedTuple):
  """One judgement; `score` is 1 where a wins, 0 where b does, a half for a tie."""
  a: str
  b: str
  score: float
  prompt: Any = None
  swapped: bool | None = None


def read_comparisons(path: pathlib.Path) -> list[Comparison]:
  """The comparisons of a JSONL file, in its order; blank lines are skipped.

  Verdicts that `t5x-lite judge` could not parse are left out, and counted in a note.

  Raises UserError with the line of what is no comparison, and for a file without any.
  """
  try:
    text = path.read_text(encoding='utf-8')
  except UnicodeDecodeError as e:
    raise UserError(f'{path} is not UTF-8: write JSON lines') from e
  rows = [_comparison(row, where) for where, row in parse_lines(text, path)]
  found = [row for row in rows if row is not None]
  if len(found) < len(rows):
    note(f'{path}: {len(rows) - len(found)} verdicts of a judge are unparsed, and left out')
  if not found:
    raise UserError(f'{path} has no comparisons: a line is {{"a": NAME, "b": NAME, "winner": '
                    '"a", "b" or "tie"}')
  return found


def _comparison(row: Any, where: str) -> Comparison | None:
  """Of a line's value; None for a verdict that was not parsed."""
  if not isinstance(row, dict):
    raise UserError(f'{where}: {json.dumps(row)[:40]!r} is no object with "a", "b" and "winner"')
  for side in ('a', 'b'):
    if not isinstance(row.get(side), str) or not row[side]:
      raise UserError(f'{where}: {side!r} is {row.get(side)!r}; it is the name of a side')
  if row['a'] == row['b']:
    raise UserError(f'{where}: {row["a"]!r} is compared with itself; remove the line')
  winner = row.get('winner')
  if winner == 'unparsed':
    return None
  if not isinstance(winner, str) or winner not in SCORES:
    raise UserError(f'{where}: winner is {winner!r}; write "a", "b" or "tie"')
  swapped = row.get('swapped')
  if swapped is not None and not isinstance(swapped, bool):
    raise UserError(f'{where}: swapped is {swapped!r}; write true where b was shown first, else '
                    'false')
  prompt = row.get('prompt')
  if not isinstance(prompt, (str, int, type(None))):
    raise UserError(f'{where}: prompt is {prompt!r}; write its text or its number')
  return Comparison(row['a'], row['b'], SCORES[winner], prompt, swapped)


def names_of(comparisons: Sequence[Comparison]) -> list[str]:
  """All sides, sorted."""
  return sorted({name for row in comparisons for name in (row.a, row.b)})


def win_matrix(comparisons: Sequence[Comparison], names: Sequence[str]) -> np.ndarray:
  """wins_KK[i, j]: wins of i over j, a tie half a win of each."""
  return _count_wins(*_columns(comparisons, names), np.ones(len(comparisons)), len(names))


def _columns(comparisons: Sequence[Comparison], names: Sequence[str]) -> tuple[np.ndarray, ...]:
  """(index of a, index of b, score) of each line."""
  index = {name: i for i, name in enumerate(names)}
  return (np.array([index[row.a] for row in comparisons]),
          np.array([index[row.b] for row in comparisons]),
          np.array([row.score for row in comparisons]))


def _count_wins(a: np.ndarray, b: np.ndarray, score: np.ndarray, weights: np.ndarray, size: int
                ) -> np.ndarray:
  count = lambda i, j, x: np.bincount(i * size + j, weights=x, minlength=size * size)
  return (count(a, b, weights * score) + count(b, a, weights * (1 - score))).reshape(size, size)


def win_rates(wins_KK: np.ndarray) -> np.ndarray:
  """Share of the comparisons of i and j that i wins, ties half; nan where there are none."""
  with np.errstate(invalid='ignore'):
    return wins_KK / (wins_KK + wins_KK.T)


def elo(comparisons: Sequence[Comparison], k: float = 4.0, initial: float = ELO_INITIAL,
        base: float = ELO_BASE, scale: float = ELO_SCALE) -> dict[str, float]:
  """Elo ratings after the comparisons, one by one: they depend on the order, most on the last.

  a is expected to score 1 / (1 + base^((R_b - R_a) / scale)); each line moves a by k times what it
  scores above that, and b by as much the other way. Bradley-Terry ratings have no order.
  """
  ratings = dict.fromkeys(names_of(comparisons), initial)
  for row in comparisons:
    expected = 1 / (1 + base ** ((ratings[row.b] - ratings[row.a]) / scale))
    ratings[row.a] += k * (row.score - expected)
    ratings[row.b] -= k * (row.score - expected)
  return ratings


def check_ratable(wins_KK: np.ndarray, names: Sequence[str]) -> None:
  """Raises UserError if Bradley-Terry ratings of these wins are not unique, or not finite.

  They are both where every split of the sides has wins across it in both ways (Ford 1957).
  """
  groups, group_K = csgraph.connected_components(wins_KK > 0, directed=True, connection='weak')
  members = lambda which: ', '.join(name for name, x in zip(names, which) if x)
  if groups > 1:
    raise UserError(f'{members(group_K == 0)} and {members(group_K != 0)} were never compared: '
                    'their ratings have no common scale; compare some of both, or pass --prior=0.5')
  groups, group_K = csgraph.connected_components(wins_KK > 0, directed=True, connection='strong')
  if groups > 1:
    # Of the condensed graph, a group that nobody outside beats.
    beaten = {group_K[j] for i, j in zip(*np.nonzero(wins_KK)) if group_K[i] != group_K[j]}
    best = group_K == next(g for g in range(groups) if g not in beaten)
    raise UserError(f'{members(best)} won every comparison with the others: no finite '
                    'Bradley-Terry rating; compare more, or pass --prior=0.5, that many wins added '
                    'to each side of each pair')


def bradley_terry(wins_KK: np.ndarray, prior: float = 0.0) -> np.ndarray:
  """Log-strengths of maximum likelihood, with mean 0: P(i beats j) = sigmoid(s_i - s_j).

  `prior` wins are added to each side of each pair. The matrix must be one that `check_ratable`
  lets pass, or `prior` above 0.
  """
  wins_KK = wins_KK + prior * (1 - np.eye(len(wins_KK)))
  games_KK = wins_KK + wins_KK.T

  def loss(s_K):   # and its gradient: games expected to be won, less those won
    gap_KK = s_K[:, None] - s_K[None, :]
    value = -np.sum(wins_KK * special.log_expit(gap_KK))
    return value, np.sum(games_KK * special.expit(gap_KK) - wins_KK, axis=1)

  def hessian(s_K):
    p_KK = special.expit(s_K[:, None] - s_K[None, :])
    weight_KK = games_KK * p_KK * (1 - p_KK)
    # Adding a constant to all changes nothing: the ones fix it, as the gradient sums to 0.
    return np.diag(weight_KK.sum(axis=1)) - weight_KK + 1 / len(s_K)

  found = optimize.minimize(loss, np.zeros(len(wins_KK)), jac=True, hess=hessian,
                            method='trust-exact', options={'gtol': 1e-8})
  return found.x - found.x.mean()


def to_points(s_K: np.ndarray) -> np.ndarray:
  """Log-strengths on Elo's scale: 400 points are odds of 10, the mean is 1000."""
  return ELO_INITIAL + ELO_SCALE / math.log(ELO_BASE) * s_K


@dataclasses.dataclass(frozen=True, kw_only=True)
class Ratings:
  """Bradley-Terry ratings on Elo's scale, best first.

  Attributes:
    points: {name: rating}.
    intervals: {name: percentile interval of 95 %} over bootstrap samples.
    samples: how many samples had ratings; others had none that are finite, and are left out.
    unit: what was drawn: 'comparisons', or 'prompts' where each line has one.
  """
  points: dict[str, float]
  intervals: dict[str, Interval]
  samples: int
  unit: str


def rate(comparisons: Sequence[Comparison], prior: float = 0.0, samples: int = 500, seed: int = 0
         ) -> Ratings:
  """Ratings with intervals: the comparisons are drawn again with replacement, and rated.

  Where every line has a prompt, prompts are drawn with all their lines: both orders of one are no
  two independent judgements. Raises UserError as `check_ratable`, without a prior.
  """
  if prior < 0:
    raise UserError(f'a prior of {prior:g} wins: it is 0 or more')
  names = names_of(comparisons)
  wins_KK = win_matrix(comparisons, names)
  if not prior:
    check_ratable(wins_KK, names)
  prompts = [row.prompt for row in comparisons]
  by_prompt = None not in prompts
  index = {prompt: i for i, prompt in enumerate(dict.fromkeys(prompts))} if by_prompt else {}
  units = np.array([index[p] for p in prompts]) if by_prompt else np.arange(len(prompts))
  number = int(units.max()) + 1
  rng, drawn, columns = np.random.default_rng(seed), [], _columns(comparisons, names)
  for _ in range(samples):
    weights = np.bincount(rng.integers(number, size=number), minlength=number)[units]
    sample_KK = _count_wins(*columns, weights.astype(float), len(names))
    if prior or _is_ratable(sample_KK):
      drawn.append(to_points(bradley_terry(sample_KK, prior)))
  points = to_points(bradley_terry(wins_KK, prior))
  low, high = np.quantile(drawn, [0.025, 0.975], axis=0) if drawn else np.full((2, len(names)),
                                                                               math.nan)
  order = np.argsort(-points, kind='stable')
  return Ratings(points={names[i]: float(points[i]) for i in order}, samples=len(drawn),
                 intervals={names[i]: Interval(float(low[i]), float(high[i])) for i in order},
                 unit='prompts' if by_prompt else 'comparisons')


def _is_ratable(wins_KK: np.ndarray) -> bool:
  return csgraph.connected_components(wins_KK > 0, directed=True, connection='strong')[0] == 1


class PositionBias(NamedTuple):
  """What a judge prefers of the order; nan where nothing says.

  Attributes:
    number: of comparisons that say which side was shown first.
    first: share that the side shown first wins, ties half; 0.5 without bias if orders balance.
    pairs: prompts and sides that were judged in both orders.
    consistent: share of those with the same verdict in both.
  """
  number: int
  first: float
  pairs: int
  consistent: float


def position_bias(comparisons: Sequence[Comparison]) -> PositionBias:
  """From lines with "swapped"; pairs are those of one prompt and the same two sides."""
  told = [row for row in comparisons if row.swapped is not None]
  first = [1 - row.score if row.swapped else row.score for row in told]
  verdicts: dict[Any, dict[bool, set[float]]] = {}
  for row in told:
    if row.prompt is not None:
      flip = row.a > row.b   # so that (x, y) and (y, x) are one pair
      key = (row.prompt, min(row.a, row.b), max(row.a, row.b))
      score = 1 - row.score if flip else row.score
      verdicts.setdefault(key, {}).setdefault(row.swapped != flip, set()).add(score)
  both = [orders for orders in verdicts.values() if len(orders) == 2]
  same = [len(orders[True] | orders[False]) == 1 for orders in both]
  return PositionBias(len(told), float(np.mean(first)) if told else math.nan,
                      len(both), float(np.mean(same)) if both else math.nan)

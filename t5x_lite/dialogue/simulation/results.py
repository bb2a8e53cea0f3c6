"""What simulated dialogues come to: rates with intervals, pass^k, why goals fail, and bias."""

import collections
from collections.abc import Sequence
import dataclasses
import math
from typing import Any

import numpy as np

from t5x_lite.dialogue.simulation.database import Database
from t5x_lite.dialogue.simulation.goals import Wish
from t5x_lite.dialogue.simulation.simulate import Outcome, SimulationConfig, simulate
from t5x_lite.dialogue.simulation.systems import Faults, RuleSystem
from t5x_lite.evaluation.proportions import wilson_interval


def summarize(outcomes: Sequence[Outcome]) -> dict[str, Any]:
  """Figures of outcomes, as JSON has them.

  success, inform: shares, with Wilson's intervals of 95 %, and, where goals have several trials,
  the standard error over goals; turns: the mean, of the user; pass: {k: pass^k}; failures: how many
  dialogues have each.
  """
  number = len(outcomes)
  found: dict[str, Any] = {'dialogues': number}
  for name in ('success', 'inform'):
    count = sum(getattr(one, name) for one in outcomes)
    found[name] = count / number
    found[f'{name}_interval'] = [*wilson_interval(count, number)]
  found['turns'] = sum(one.turns for one in outcomes) / number
  trials = min(collections.Counter(one.goal for one in outcomes).values())
  found['pass'] = {k: pass_power(outcomes, k) for k in range(1, trials + 1)}
  if trials > 1:
    means = [np.mean(successes) for successes in _by_goal(outcomes).values()]
    found['success_stderr'] = float(np.std(means, ddof=1) / math.sqrt(len(means)))
  found['failures'] = dict(collections.Counter(
      reason for one in outcomes for reason in one.failures).most_common())
  return found


def pass_power(outcomes: Sequence[Outcome], k: int) -> float:
  """pass^k, the chance that k dialogues of a goal all succeed: the mean of C(c, k) / C(n, k).

  Of c successes among n trials (Yao et al. 2024, tau-bench, section 4).
  """
  return float(np.mean([math.comb(sum(successes), k) / math.comb(len(successes), k)
                        for successes in _by_goal(outcomes).values()]))


@dataclasses.dataclass(frozen=True)
class Bias:
  """What a simulator says of a system whose success is known.

  Attributes:
    name: of the system.
    known: the success that its planted faults leave.
    measured: that of simulated dialogues, with its standard error.
  """
  name: str
  known: float
  measured: float
  stderr: float


def measure_bias(goals: Sequence[Sequence[Wish]], database: Database,
                 config: SimulationConfig) -> list[Bias]:
  """Known and measured success of the rule system with faults of several kinds and sizes."""
  slots = sorted({slot for domain in database.values() for slot in domain.requestable})
  faults = {'no fault': Faults()} | {
      f'never gives the {slot}': Faults(never_gives=(slot,)) for slot in slots} | {
          f'{share:.0%} of answers wrong': Faults(wrong=share) for share in (0.05, 0.1, 0.2, 0.4)}
  found = []
  for name, fault in faults.items():
    system = RuleSystem(database, fault, config.seed)
    successes = [one.success for one in simulate(goals, database, system, config)]
    found.append(Bias(name, known_success(goals, database, fault), float(np.mean(successes)),
                      float(np.std(successes, ddof=1) / math.sqrt(len(successes)))))
  return found


def known_success(goals: Sequence[Sequence[Wish]], database: Database, faults: Faults) -> float:
  """The success of the rule system with faults, by what each goal asks for.

  Of solvable goals, which each answer of another entity fails: a drawn entity is the right one once
  in as many as there are.
  """
  def chance(wish: Wish) -> float:
    if {*wish.final.request} & {*faults.never_gives}:
      return 0.0
    wrong = faults.wrong * (1 - 1 / len(database[wish.domain].entities))
    return (1 - wrong) ** len(wish.final.request)

  return float(np.mean([math.prod(map(chance, wishes)) for wishes in goals]))


def _by_goal(outcomes: Sequence[Outcome]) -> dict[int, list[bool]]:
  found = collections.defaultdict(list)
  for one in outcomes:
    found[one.goal].append(one.success)
  return found

"""The interface of a form: a law of more than N and D, which `fit_form` fits to runs."""

from collections.abc import Callable, Mapping
import dataclasses
import math
from typing import Any

import numpy as np
from scipy import optimize

from scaling.fitting.runs import Runs


@dataclasses.dataclass(frozen=True)
class Form:
  """A law to be fitted. theta [K] has the values of `names`, or their logarithms.

  Attributes:
    formula: of the loss, for the report.
    source: the paper.
    names: of the parameters, those of the terms of N, of D and of the asymptote first.
    logs: the names whose logarithm is fitted, because they are positive.
    build: the values by name -> the law, a frozen dataclass.
    loss: (law, runs) -> predicted losses [P].
    starts: runs -> mappings from names to values.
    bounds: name -> (low, high) of its value.
    exponents: names that must exceed their standard errors, or the law is refused.
    doubtful: names whose interval is that of the profile: they may be bounded on one side only.
    settings, optional: columns beside N, D and loss that the form needs, and that it reads if they
      are there (`Runs.settings`).
    unique: whether it reads unique tokens; if not, runs that repeat tokens are refused.
    check: raises UserError for runs that cannot tell the form's own parameters.
    at: (law, runs) -> the law of N and D for the report's budgets, which has `optimum` and `loss`,
      and what it holds for, in words.
    extra: (law, runs) -> quantities of its own: {name: value}.
    doubts: (law, runs) -> a line for each reason to doubt them.
    derived: runs -> what it makes of the settings: {name: values [P]}.
  """
  formula: str
  source: str
  names: tuple[str, ...]
  logs: frozenset[str]
  build: Callable[..., Any]
  loss: Callable[[Any, Runs], np.ndarray]
  starts: Callable[[Runs], list[Mapping[str, float]]]
  bounds: Mapping[str, tuple[float, float]]
  exponents: tuple[str, ...]
  doubtful: tuple[str, ...] = ()
  settings: tuple[str, ...] = ()
  optional: tuple[str, ...] = ()
  unique: bool = False
  check: Callable[[Runs], None] = lambda runs: None
  at: Callable[[Any, Runs], tuple[Any, str]] = lambda law, runs: (law, '')
  extra: Callable[[Any, Runs], dict[str, float]] = lambda law, runs: {}
  doubts: Callable[[Any, Runs], list[str]] = lambda law, runs: []
  derived: Callable[[Runs], dict[str, np.ndarray]] = lambda runs: {}

  def pack(self, values: Mapping[str, float]) -> np.ndarray:
    """theta of values."""
    return np.array([math.log(values[name]) if name in self.logs else values[name]
                     for name in self.names])

  def unpack(self, theta: np.ndarray) -> dict[str, float]:
    """Values of theta."""
    return {name: float(np.exp(x)) if name in self.logs else float(x)
            for name, x in zip(self.names, theta)}

  def law(self, theta: np.ndarray) -> Any:
    """The law of theta."""
    return self.build(**self.unpack(theta))

  def predict(self, runs: Runs) -> Callable[[np.ndarray], np.ndarray]:
    """theta -> log losses of the runs [P]."""
    return lambda theta: np.log(self.loss(self.law(theta), runs))

  def box(self) -> tuple[np.ndarray, np.ndarray]:
    """Bounds of theta: (low [K], high [K])."""
    ends = np.array([self.bounds[name] for name in self.names], float)
    logs = np.array([name in self.logs for name in self.names])
    ends[logs] = np.log(ends[logs])
    return ends[:, 0], ends[:, 1]


def start_constants(loss: np.ndarray, of_n: np.ndarray, of_d: np.ndarray) -> dict[str, float]:
  """E, A and B of the least squares of E + A of_n + B of_d, relative to the loss, all above 0.

  For given exponents a law is linear in them: a start near the optimum (Golub & Pereyra 1973).
  """
  columns = np.stack([np.ones_like(loss), of_n, of_d], 1)
  found, _ = optimize.nnls(columns / loss[:, None], np.ones_like(loss))
  least = 0.02 * loss.min() / columns.mean(0)
  e, a, b = np.maximum(found, least)
  return {'e': float(e), 'a': float(a), 'b': float(b)}

"""Precision: bits of weights, activations and cached keys and values act on N (Kumar et al. 2024).

Only the parts whose bits vary among the runs are fitted.
"""

import functools
import itertools

import numpy as np

from scaling.fitting.runs import Runs
from scaling.forms.form import Form, start_constants
from scaling.laws.precision import FULL_BITS, PARTS, PrecisionLaw
from t5x_lite.core.errors import UserError

MIN_BITS = 3   # different bits of a part, whose gamma and offset are fitted


def _bits(runs: Runs, parts) -> dict[str, np.ndarray]:
  return {part: runs.settings[f'{part}_bits'] for part in parts}


def _starts(parts, runs: Runs):
  for alpha, beta, gamma in itertools.product((0.2, 0.4), (0.2, 0.4), (0.8, 2.0, 4.0)):
    shape = {name: value for part in parts
             for name, value in ((f'{part}_gamma', gamma), (f'{part}_offset', 0.0))}
    law = PrecisionLaw(1.0, 1.0, alpha, 1.0, beta, **shape)
    effective = runs.parameters * law.fraction(**_bits(runs, parts))
    yield {'alpha': alpha, 'beta': beta, **shape, **start_constants(
        runs.loss, effective ** -alpha, runs.tokens ** -beta)}


def form_of(runs: Runs) -> Form:
  """The form of the parts whose bits vary; UserError if none does, or in too few steps."""
  varied = [part for part in PARTS if np.ptp(runs.settings.get(f'{part}_bits', [0.0])) > 0]
  if not varied:
    raise UserError('no column of weight_bits, activation_bits or kv_bits varies among the runs: '
                    'pass --columns weight_bits=NAME, or fit without --form')
  for part in varied:
    values = np.unique(runs.settings[f'{part}_bits'])
    if len(values) < MIN_BITS:
      raise UserError(f'{part}_bits of the runs are {" and ".join(f"{x:g}" for x in values)}: the '
                      f'form needs {MIN_BITS} different ones; add runs of others')
  for one, other in itertools.combinations(varied, 2):
    if (runs.settings[f'{one}_bits'] == runs.settings[f'{other}_bits']).all():
      raise UserError(f'{one}_bits and {other}_bits are the same in all runs, which cannot tell '
                      'their effects apart: leave one of the columns out, and the other stands for '
                      'both')
  parts = tuple(varied)
  shape = [f'{part}_{name}' for part in parts for name in ('gamma', 'offset')]
  return Form(
      formula='L = E + A / N_eff^alpha + B / D^beta, N_eff = N prod (1 - exp(offset - P / gamma))',
      source='Kumar et al. 2024, arXiv 2411.04330, equations 3 and 4',
      names=('a', 'b', 'e', 'alpha', 'beta', *shape),
      logs=frozenset({'a', 'b', 'e', *(name for name in shape if name.endswith('gamma'))}),
      build=PrecisionLaw,
      loss=lambda law, of: law.loss(of.parameters, of.tokens, **_bits(of, parts)),
      starts=lambda of: list(_starts(parts, of)),
      bounds={'a': (1e-6, 1e15), 'b': (1e-6, 1e15), 'e': (1e-4, 20.0), 'alpha': (0.01, 5.0),
              'beta': (0.01, 5.0), **{name: (0.05, 50.0) if name.endswith('gamma') else (-6.0, 6.0)
                                      for name in shape}},
      exponents=('alpha', 'beta'), doubtful=tuple(shape[::2]),
      settings=tuple(f'{part}_bits' for part in parts), at=_at,
      extra=_extra, doubts=functools.partial(_doubts, parts))


def _at(law: PrecisionLaw, runs: Runs):
  return law.at(FULL_BITS), f'in {FULL_BITS:g} bits'


def _extra(law: PrecisionLaw, runs: Runs) -> dict[str, float]:
  """Bits with the lowest loss at the largest budget, of the parts that vary."""
  return {'optimal bits': law.optimal_bits(float(runs.flops.max()))}


def _doubts(parts, law: PrecisionLaw, runs: Runs) -> list[str]:
  found = _extra(law, runs)['optimal bits']
  low = max(runs.settings[f'{part}_bits'].min() for part in parts)
  high = min(runs.settings[f'{part}_bits'].max() for part in parts)
  lines = [] if low <= found <= high else [
      f'{found:.3g} optimal bits are outside those of the runs ({low:g} to {high:g})']
  if high < FULL_BITS:
    lines.append(f'no run has {FULL_BITS:g} bits, for which the optimum of budgets is extrapolated')
  if len(parts) < len(PARTS):
    rest = ' and '.join(part for part in PARTS if part not in parts)
    lines.append(f'optimal bits take the cost of a FLOP as P / {FULL_BITS:g}, which it is where '
                 f'{rest}, too, have P bits')
  return lines

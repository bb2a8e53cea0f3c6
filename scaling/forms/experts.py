"""Models with experts: the joint law of active N, D and the number of experts, fitted to runs.

N of the runs is that of active parameters, and C = 6 N D. The transformation of the number of
experts keeps its published constants, which runs of few numbers of experts cannot tell.
"""

import itertools

import numpy as np

from scaling.fitting.runs import Runs
from scaling.forms.form import Form, start_constants
from scaling.laws.experts import JOINT, ExpertsLaw
from t5x_lite.core.errors import UserError

MIN_OF_EACH = 3   # runs of an expansion, for it to count


def expansions(runs: Runs) -> np.ndarray:
  """Experts over active experts [runs]; 1 without."""
  return runs.settings['experts'] / runs.settings.get('top_k', np.ones(len(runs)))


def _check(runs: Runs) -> None:
  found = expansions(runs)
  for i in np.flatnonzero(found < 1)[:1]:
    raise UserError(f'{runs.names[i]}: {runs.settings["experts"][i]:g} experts with '
                    f'{runs.settings["top_k"][i]:g} active: correct the columns experts and top_k')
  values, counts = np.unique(np.round(found, 6), return_counts=True)
  if (counts >= MIN_OF_EACH).sum() < 2:
    raise UserError(f'the runs have experts over active experts of {_list(values)}: the form needs '
                    f'{MIN_OF_EACH} runs of each of two; add some, or fit without --form')


def _list(values) -> str:
  return ', '.join(f'{x:g}' for x in values[:6]) + (' …' if len(values) > 6 else '')


def _loss(law: ExpertsLaw, runs: Runs) -> np.ndarray:
  found = expansions(runs)
  losses = np.empty(len(runs))
  for value in np.unique(found):
    of = found == value
    losses[of] = law.at(float(value)).loss(runs.parameters[of], runs.tokens[of])
  return losses


def _starts(runs: Runs):
  for alpha, beta, like in itertools.product((0.12, 0.2, 0.35), (0.15, 0.25, 0.4), (0.0, 1.0)):
    yield {'alpha': -alpha, 'beta': -beta,
           **{name: like * getattr(JOINT, name) for name in ('delta', 'gamma', 'omega', 'zeta')},
           **start_constants(runs.loss, runs.parameters ** -alpha, runs.tokens ** -beta)}


def _at(law: ExpertsLaw, runs: Runs):
  most = float(expansions(runs).max())
  return law.at(most), f'with {most:g} times as many experts as are active'


def _extra(law: ExpertsLaw, runs: Runs) -> dict[str, float]:
  """The FLOPs without experts for the loss that the most experts reach with those of the runs."""
  form, flops = _at(law, runs)[0], float(runs.flops.max())
  return {'compute gain': law.at(1.0).flops_for(form.loss(*form.optimum(flops))) / flops}


FORM = Form(
    formula='L = E + a X^delta N^(alpha + gamma ln X) + b X^omega D^(beta + zeta ln X)',
    source='Ludziejewski et al. 2025, arXiv 2502.05172, equation 6; X as there',
    names=('a', 'b', 'e', 'alpha', 'beta', 'delta', 'gamma', 'omega', 'zeta'),
    logs=frozenset({'a', 'b', 'e'}), build=ExpertsLaw, loss=_loss,
    starts=lambda runs: list(_starts(runs)),
    bounds={'a': (1e-6, 1e12), 'b': (1e-6, 1e12), 'e': (1e-4, 20.0), 'alpha': (-3.0, -0.01),
            'beta': (-3.0, -0.01), **{name: (-5.0, 5.0) for name in (
                'delta', 'gamma', 'omega', 'zeta')}},
    exponents=('alpha', 'beta'), settings=('experts',), optional=('top_k',), check=_check, at=_at,
    extra=_extra, derived=lambda runs: {'expansion': expansions(runs)})

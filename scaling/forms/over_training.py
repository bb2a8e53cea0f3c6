"""Over-training: a law with tied exponents, which few runs identify (Gadre et al. 2024)."""

import numpy as np

from scaling.fitting.runs import Runs
from scaling.forms.form import Form, start_constants
from scaling.laws.laws import over_training


def _starts(runs: Runs):
  m, c = runs.tokens / runs.parameters, 6 * runs.parameters * runs.tokens
  return [{'eta': float(eta), **start_constants(runs.loss, (m / c) ** eta, (m * c) ** -eta)}
          for eta in np.geomspace(0.03, 0.4, 10)]


FORM = Form(
    formula='L = E + (a M^eta + b M^-eta) C^-eta, M = D / N',
    source='Gadre et al. 2024, arXiv 2403.08540, equation 4',
    names=('a', 'b', 'e', 'eta'), logs=frozenset({'a', 'b', 'e'}),
    build=over_training, loss=lambda law, runs: law.loss(runs.parameters, runs.tokens),
    starts=_starts,
    bounds={'a': (1e-6, 1e12), 'b': (1e-6, 1e12), 'e': (1e-4, 20.0), 'eta': (5e-3, 2.5)},
    exponents=('eta',))

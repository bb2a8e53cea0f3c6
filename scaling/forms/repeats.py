"""Data that is repeated: repeats of a token have diminishing value (Muennighoff et al. 2023).

Their exponents are tied, alpha = beta, and so are these. The constants of repetition are told by
runs of many epochs alone, and by these poorly: R_D* and R_N* have intervals by profile.
"""

import itertools

from scaling.fitting.runs import Runs
from scaling.forms.form import Form, start_constants
from scaling.laws.laws import DataConstrainedLaw
from t5x_lite.core.errors import UserError

MIN_EPOCHS = 2.0   # of some runs, below which repeats are nearly as good as new tokens


def _build(a, b, e, alpha, r_tokens, r_parameters):
  return DataConstrainedLaw(e, a, alpha, b, alpha, r_tokens, r_parameters)


def _check(runs: Runs) -> None:
  repeated = int((runs.epochs > MIN_EPOCHS).sum())
  if repeated < 3:
    raise UserError(f'{repeated} of {len(runs)} runs have more than {MIN_EPOCHS:g} epochs: what '
                    'repeats are worth takes at least 3; add such runs (columns unique_tokens or '
                    'epochs), or fit without --form')
  if int((runs.epochs < MIN_EPOCHS).sum()) < 3:
    raise UserError('fewer than 3 runs have new tokens alone, with which repeats are compared: add '
                    'such runs')


def _starts(runs: Runs):
  for alpha, r_d, r_n in itertools.product((0.2, 0.35, 0.5), (3.0, 15.0, 100.0), (1.0, 100.0)):
    law = _build(1.0, 1.0, 1.0, alpha, r_d, r_n)
    effective = law.effective_tokens(runs.tokens, runs.unique_tokens)
    yield {'alpha': alpha, 'r_tokens': r_d, 'r_parameters': r_n, **start_constants(
        runs.loss, runs.parameters ** -alpha, effective ** -alpha)}


FORM = Form(
    formula="L = E + A / N'^alpha + B / D'^alpha; N', D' effective, with R_N*, R_D*",
    source='Muennighoff et al. 2023, arXiv 2305.16264, equations 5 and 6',
    names=('a', 'b', 'e', 'alpha', 'r_tokens', 'r_parameters'),
    logs=frozenset({'a', 'b', 'e', 'r_tokens', 'r_parameters'}), build=_build,
    loss=lambda law, runs: law.data_constrained_loss(runs.parameters, runs.tokens,
                                                     runs.unique_tokens),
    starts=lambda runs: list(_starts(runs)),
    bounds={'a': (1e-6, 1e15), 'b': (1e-6, 1e15), 'e': (1e-4, 20.0), 'alpha': (0.01, 5.0),
            'r_tokens': (0.05, 1e4), 'r_parameters': (0.05, 1e4)},
    exponents=('alpha',), doubtful=('r_tokens', 'r_parameters'), unique=True, check=_check)

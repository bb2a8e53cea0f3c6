"""The law of a fit.json, of approaches 1 to 3 or of a form, for `plan --fit` and its kin."""

import json
import math
import pathlib

from scaling.fitting import parametric
from scaling.laws.experts import ExpertsLaw, Mixture
from scaling.laws.laws import DataConstrainedLaw, Law, ParametricLaw
from scaling.laws.precision import FULL_BITS, PrecisionLaw
from t5x_lite.core.errors import UserError, why
from t5x_lite.core.paths import local_path

KINDS = {kind.__name__: kind for kind in (
    ParametricLaw, DataConstrainedLaw, ExpertsLaw, PrecisionLaw)}


def load_law(path: pathlib.Path | str, mixture: Mixture | None = None) -> Law:
  """The law of a fit.json of `t5x-lite scaling fit --output`, or of its folder.

  Args:
    mixture: experts of the models that it is for; None: one MLP.

  Raises UserError if it is missing or invalid, or of other models.
  """
  file = local_path(path)
  file = file / 'fit.json' if file.is_dir() else file
  try:
    saved = json.loads(file.read_text())
    if mixture is not None and saved.get('kind') != ExpertsLaw.__name__:
      raise UserError(f'{file} is of models without experts: fit runs with columns experts and '
                      'top_k by --form=experts')
    if 'form' not in saved:
      return parametric.load_law(path)
    kind, samples = KINDS[saved['kind']], saved['bootstrap_samples']
    rows = zip(*(samples[name] for name in saved['law']))
    number = lambda value: math.nan if value is None else value
    laws = tuple(kind(**dict(zip(saved['law'], map(number, row)))) for row in rows)
    law, warnings = kind(**saved['law']), list(saved['warnings'])
    if kind is ExpertsLaw:
      expansion, known = mixture.expansion if mixture else 1.0, saved['settings']['expansion']
      if not min(known) <= expansion <= max(known):
        warnings.append(f'{expansion:.3g} times as many experts as are active are outside its runs '
                        f'({min(known):.3g} to {max(known):.3g})')
      law, laws = law.at(expansion), tuple(other.at(expansion) for other in laws)
    if kind is PrecisionLaw:
      law, laws = law.at(FULL_BITS), tuple(other.at(FULL_BITS) for other in laws)
    return Law(law, source=f'fitted: {file}',
               counts='N and C as in the runs; D = C / 6 N',
               text=f'the user\'s own, {saved["runs"]} runs', fitted=tuple(saved['fitted']),
               warnings=tuple(warnings), bootstrap_samples=laws,
               interval=saved['resampling'])
  except OSError as e:
    raise UserError(f'{file}: {why(e)}: write a fit with t5x-lite scaling fit RUNS '
                    '--output=FOLDER') from e
  except (ValueError, KeyError, TypeError, AttributeError) as e:
    raise UserError(f'{file} is not a fit ({type(e).__name__}: {e}): write one with t5x-lite '
                    'scaling fit RUNS --output=FOLDER') from e

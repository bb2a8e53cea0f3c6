"""Writes oracles.json: what other packages say of the cases that the tests here compute.

Run once, in an environment of its own:

    pip install statsmodels netcal choix evalica scikit-learn
    python tests/evaluation/make_oracles.py
"""

from importlib.metadata import version
import json
import pathlib

import choix
import evalica
from netcal.metrics import ECE, MCE
import numpy as np
from sklearn.calibration import calibration_curve
from sklearn.metrics import brier_score_loss, log_loss
import statsmodels.api as sm
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.proportion import proportion_confint, proportions_ztest

PACKAGES = ('statsmodels', 'netcal', 'choix', 'evalica', 'scikit-learn', 'numpy', 'scipy')
COUNTS = [(0, 10), (10, 10), (1, 20), (7, 20), (516, 627), (391, 627), (999, 1000)]


def proportions() -> dict:
  methods = {'wald': 'normal', 'wilson': 'wilson', 'exact': 'beta'}
  return {'counts': COUNTS, 'levels': [0.9, 0.95], **{
      name: [[proportion_confint(x, n, alpha=1 - level, method=method) for x, n in COUNTS]
             for level in (0.9, 0.95)] for name, method in methods.items()},
      'ztest': [[a, b, proportions_ztest([a[0], b[0]], [a[1], b[1]])[1]] for a, b in (
          ((516, 627), (484, 573)), ((7, 20), (12, 18)), ((527, 588), (516, 627)))]}


def paired(rng) -> dict:
  """Differences of 60 items in 12 clusters of unlike size: errors by OLS on a constant."""
  clusters = np.sort(rng.integers(0, 12, 60))
  a = rng.normal(size=12)[clusters] + rng.normal(size=60)
  b = a + 0.3 * rng.normal(size=12)[clusters] + 0.5 * rng.normal(size=60) - 0.1
  fit = sm.OLS(a - b, np.ones(60))
  plain = fit.fit()
  clustered = fit.fit(cov_type='cluster', cov_kwds={'groups': clusters, 'use_correction': False})
  tables = [(3, 1), (10, 2), (30, 21), (0, 6)]
  return {'a': a.tolist(), 'b': b.tolist(), 'clusters': clusters.tolist(),
          'error': plain.bse[0], 'interval': plain.conf_int()[0].tolist(),
          'p_value': plain.pvalues[0], 'clustered_error': clustered.bse[0],
          'mcnemar': [[w, n, mcnemar([[5, w], [n, 5]], exact=True).pvalue] for w, n in tables]}


def calibration(rng) -> dict:
  """400 items of four choices, overconfident; figures of the confidence and of all choices."""
  logprobs = np.round(rng.normal(size=(400, 4)) * 2.5, 6)
  probs = np.exp(0.4 * logprobs)
  gold = np.array([rng.choice(4, p=p / p.sum()) for p in probs])
  p = np.exp(logprobs) / np.exp(logprobs).sum(axis=1, keepdims=True)
  confidence, correct = p.max(axis=1), (p.argmax(axis=1) == gold).astype(int)
  curve = lambda how: [x.tolist() for x in calibration_curve(
      correct, confidence, n_bins=15, strategy=how)]
  return {'logprobs': logprobs.tolist(), 'gold': gold.tolist(),
          'ece': float(ECE(15).measure(confidence, correct)),
          'mce': float(MCE(15).measure(confidence, correct)),
          'brier_binary': brier_score_loss(correct, confidence), 'nll': log_loss(gold, p),
          'curve': {'equal_width': curve('uniform'), 'equal_mass': curve('quantile')}}


def arena(rng) -> dict:
  names = ['ash', 'beech', 'cedar', 'elm', 'fir']
  strength = np.array([1.0, 0.4, 0.0, -0.3, -1.1])
  rows = []
  for _ in range(300):
    i, j = rng.choice(5, 2, replace=False)
    p = 1 / (1 + np.exp(strength[j] - strength[i]))
    rows.append([names[i], names[j], 'tie' if rng.random() < 0.15 else 'ab'[int(rng.random() > p)]])
  xs, ys, winners = zip(*rows)
  winners = [{'a': evalica.Winner.X, 'b': evalica.Winner.Y, 'tie': evalica.Winner.Draw}[w]
             for w in winners]
  elo = {k: evalica.elo(xs, ys, winners, k=k).scores.to_dict() for k in (4.0, 32.0)}
  bt = evalica.bradley_terry(xs, ys, winners, tolerance=1e-14, limit=100_000).scores
  # choix has no ties: each comparison twice, a tie once for each side.
  index = {name: i for i, name in enumerate(names)}
  wins = [pair for a, b, w in rows for pair in {
      'a': [(a, b)] * 2, 'b': [(b, a)] * 2, 'tie': [(a, b), (b, a)]}[w]]
  strengths = choix.opt_pairwise(5, [(index[x], index[y]) for x, y in wins], alpha=0, tol=1e-12)
  return {'rows': rows, 'elo': {str(k): v for k, v in elo.items()},
          'bradley_terry_evalica': bt.to_dict(), 'names': names,
          'bradley_terry_choix': strengths.tolist()}


def main() -> None:
  rng = np.random.default_rng(18)
  found = {'versions': {name: version(name) for name in PACKAGES}, 'proportions': proportions(),
           'paired': paired(rng), 'calibration': calibration(rng), 'arena': arena(rng)}
  path = pathlib.Path(__file__).with_name('oracles.json')
  path.write_text(json.dumps(found, separators=(',', ':')) + '\n', encoding='utf-8')


if __name__ == '__main__':
  main()

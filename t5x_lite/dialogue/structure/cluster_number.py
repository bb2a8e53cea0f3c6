"""How many clusters: by silhouette, or by the likelihood of held-out points."""

from collections.abc import Sequence
import dataclasses
from typing import Literal

import numpy as np

from t5x_lite.core.errors import UserError
from t5x_lite.dialogue.structure.kmeans import Clusters, kmeans, squared_distances

Criterion = Literal['silhouette', 'likelihood']


@dataclasses.dataclass(frozen=True)
class Choice:
  """Attributes: k, and the score of each k that was tried, higher is better."""
  k: int
  scores: dict[int, float]


def choose_k(points: np.ndarray, ks: Sequence[int], by: Criterion,
             folds: np.ndarray | None = None, starts: int = 20, seed: int = 0) -> Choice:
  """The k of the highest score; of equal ones the smallest.

  Args:
    points: [n, d].
    folds: for the likelihood, True for each point that is held out, [n]: by dialogue, as
      utterances of one dialogue are alike.
  """
  if by == 'likelihood' and folds is None:
    raise UserError('the likelihood needs points that are held out: say which')
  train = points if by == 'silhouette' else points[~folds]
  scores = {}
  for k in ks:
    clusters = kmeans(train, k, starts=starts, seed=seed, room=min(max(ks), len(train)))
    scores[k] = silhouette(points, clusters.labels, seed) if by == 'silhouette' else (
        mixture_log_likelihood(train, clusters, points[folds]))
  return Choice(k=max(scores, key=scores.get), scores=scores)


def silhouette(points: np.ndarray, labels: np.ndarray, seed: int = 0, most: int = 5_000) -> float:
  """Mean silhouette, of a sample where there are more points than `most`."""
  from sklearn.metrics import silhouette_score
  return float(silhouette_score(points, labels, random_state=seed,
                                sample_size=most if len(points) > most else None))


def mixture_log_likelihood(points: np.ndarray, clusters: Clusters, held_out: np.ndarray) -> float:
  """Mean log-density, in nats, of held-out points under the spherical Gaussian mixture of clusters.

  Weights are the shares of the clusters, means their centres; the one variance of all clusters and
  dimensions is inertia / (d (n - k)), as k centres were fitted. k-means is the limit of this
  mixture's EM for a small variance.
  """
  from scipy.special import logsumexp
  n, d = points.shape
  k = len(clusters.centers)
  variance = clusters.inertia / (d * max(n - k, 1))
  if variance == 0:
    raise UserError(f'k = {k} clusters hold all {n} points without a spread: choose k lower')
  weights_K = np.bincount(clusters.labels, minlength=k) / n
  with np.errstate(divide='ignore'):   # of an empty cluster
    logs_NK = np.log(weights_K)[None, :] - squared_distances(held_out, clusters.centers) / (
        2 * variance)
  return float(logsumexp(logs_NK, axis=1).mean() - d / 2 * np.log(2 * np.pi * variance))

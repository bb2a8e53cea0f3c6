"""k-means against scikit-learn's from the same starts, and how many clusters there are."""

import numpy as np
import pytest
from sklearn.cluster import KMeans
from sklearn.datasets import make_blobs
from sklearn.mixture import GaussianMixture

from t5x_lite.core.errors import UserError
from t5x_lite.dialogue.structure import cluster_number
from t5x_lite.dialogue.structure.kmeans import Clusters, from_starts, kmeans, nearest


def reference(points, centers):
  return KMeans(len(centers), init=centers, n_init=1, max_iter=300, tol=0, algorithm='lloyd').fit(
      points)


@pytest.mark.parametrize('shape, k', [((300, 2), 7), ((500, 40), 12), ((200, 100), 3)])
def test_inertia_is_that_of_scikit_learn_from_the_same_starts(shape, k):
  rng = np.random.default_rng(k)
  points = rng.normal(size=shape) + 50    # far from 0, where float32 would be coarse
  starts = np.stack([points[rng.choice(len(points), k, replace=False)] for _ in range(6)])
  ours = from_starts(points, starts)
  theirs = [reference(points, start) for start in starts]
  np.testing.assert_allclose(ours.inertias, [one.inertia_ for one in theirs], rtol=1e-4)
  best = min(theirs, key=lambda one: one.inertia_)
  np.testing.assert_array_equal(ours.labels, best.labels_)
  np.testing.assert_allclose(ours.centers, best.cluster_centers_, atol=1e-4)
  assert ours.inertia == ours.inertias.min()


def test_an_empty_cluster_gets_the_point_farthest_from_its_centre_as_in_scikit_learn():
  points = np.array([[0.], [1.], [2.5], [10.], [11.], [30.]])
  starts = np.array([[[1.], [10.], [500.], [900.]]])     # two that no point is near to
  ours, theirs = from_starts(points, starts), reference(points, starts[0])
  assert ours.inertia == pytest.approx(theirs.inertia_, rel=1e-6)
  assert sorted(np.bincount(ours.labels)) == sorted(np.bincount(theirs.labels_))
  assert len(set(ours.labels)) == 4


def test_room_for_more_clusters_changes_no_iteration():
  points = np.random.default_rng(0).normal(size=(60, 4))
  starts = points[None, :9]
  narrow, wide = from_starts(points, starts[:, :5]), from_starts(points, starts, k=5)
  np.testing.assert_array_equal(narrow.labels, wide.labels)
  np.testing.assert_allclose(narrow.centers, wide.centers, atol=1e-6)
  assert kmeans(points, 5, room=9).centers.shape == (5, 4)


def test_restarts_find_well_separated_blobs_and_are_of_their_seed():
  points, truth = make_blobs(400, 5, centers=8, cluster_std=0.3, random_state=1)
  found = kmeans(points, 8, starts=8, seed=3)
  assert len(set(zip(found.labels, truth))) == 8
  np.testing.assert_array_equal(nearest(points, found.centers), found.labels)
  np.testing.assert_array_equal(kmeans(points, 8, starts=8, seed=3).inertias, found.inertias)
  greedy = KMeans(8, n_init=8, random_state=0).fit(points)
  assert found.inertia == pytest.approx(greedy.inertia_, rel=1e-4)


def test_fewer_different_points_than_clusters_are_refused():
  points = np.repeat(np.eye(3), 4, axis=0)
  assert kmeans(points, 3).inertia == pytest.approx(0, abs=1e-10)
  with pytest.raises(UserError, match='k = 4 clusters of 3 different points: choose k at most 3'):
    kmeans(points, 4)


@pytest.mark.parametrize('by', ['silhouette', 'likelihood'])
def test_k_is_the_number_of_blobs(by):
  points, _ = make_blobs(200, 3, centers=4, cluster_std=0.5, center_box=(-20, 20), random_state=2)
  folds = np.arange(len(points)) % 5 == 4
  found = cluster_number.choose_k(points, range(2, 7), by, folds, starts=8)
  assert set(found.scores) == {2, 3, 4, 5, 6}
  # The mixture has one variance for all: it may spend a cluster more, not one less.
  assert found.k == 4 if by == 'silhouette' else found.k in (4, 5, 6)
  if by == 'likelihood':
    assert found.scores[4] > found.scores[3] + 0.5


def test_the_likelihood_is_that_of_a_mixture_of_spherical_gaussians():
  rng = np.random.default_rng(0)
  points, held_out = rng.normal(size=(50, 3)), rng.normal(size=(9, 3))
  clusters = kmeans(points, 4)
  variance = clusters.inertia / (3 * (50 - 4))
  mixture = GaussianMixture(4, covariance_type='spherical')
  mixture.weights_ = np.bincount(clusters.labels) / 50
  mixture.means_ = clusters.centers
  mixture.precisions_cholesky_ = np.full(4, variance ** -0.5)
  assert cluster_number.mixture_log_likelihood(points, clusters, held_out) == pytest.approx(
      mixture.score(held_out), rel=1e-6)
  exact = Clusters(points, np.arange(50), 0.0, np.zeros(1))
  with pytest.raises(UserError, match='without a spread'):
    cluster_number.mixture_log_likelihood(points, exact, held_out)

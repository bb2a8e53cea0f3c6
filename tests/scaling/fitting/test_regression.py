"""The generic robust fit against closed forms, and its refits against known noise."""

import numpy as np
import pytest

from scaling.fitting import regression

X = np.linspace(0, 3, 30)


def curve(theta):
  return theta[0] + np.exp(theta[1]) * np.exp(-X)


def test_least_squares_equal_the_closed_form():
  y = 2 + 0.5 * X + np.sin(17 * X)
  found = regression.fit(lambda t: t[0] + t[1] * X, [[0, 0], [50, -9]], y, loss='linear')
  np.testing.assert_allclose(found.theta, np.polyfit(X, y, 1)[::-1], atol=1e-7)
  np.testing.assert_allclose(found.jacobian, np.stack([np.ones_like(X), X], 1), atol=1e-8)


def test_huber_ignores_an_outlier_that_least_squares_follow():
  y = curve([1.0, 0.5]) + 1e-4 * np.cos(9 * X)
  y[4] += 1
  huber = regression.fit(curve, [[0, 0]], y)
  linear = regression.fit(curve, [[0, 0]], y, loss='linear')
  assert abs(huber.theta - [1, 0.5]).max() < 1e-3 < 0.05 < abs(linear.theta - [1, 0.5]).max()
  r = np.abs(huber.residuals) / 1e-3
  assert huber.objective == pytest.approx(np.where(r < 1, r * r / 2, r - 0.5).sum())


def test_an_analytic_jacobian_gives_the_same_fit():
  y = curve([1.0, 0.5]) + 1e-3 * np.cos(9 * X)
  exact = lambda t: np.stack([np.ones_like(X), np.exp(t[1] - X)], 1)
  two, one = (regression.fit(curve, [[0, 0]], y, jacobian=j) for j in ('2-point', exact))
  np.testing.assert_allclose(two.theta, one.theta, atol=1e-5)
  np.testing.assert_allclose(two.jacobian, one.jacobian, atol=1e-7)


def test_of_several_minima_the_lowest_is_kept_and_all_are_told():
  double = lambda t: (t[0] ** 2 - 1) ** 2 + 0.1 * t[0] + 0 * X
  found = regression.fit(double, [[2.0], [-2.0]], np.full(30, -0.2), loss='linear')
  assert found.theta[0] < 0 and len(found.minima) == 2
  assert found.minima[0, 0] == found.objective < found.minima[1, 0]


def test_bounds_are_kept_and_starts_without_finite_values_are_left_out():
  found = regression.fit(curve, [[0, 1e4], [5, 5]], curve([1, 0.5]), bounds=([1.2, -9], [9, 9]))
  assert found.theta[0] == pytest.approx(1.2)
  with pytest.raises(ValueError, match='no start'):
    regression.fit(curve, [[0, 1e4]], X)


def test_refits_spread_as_the_noise_that_clusters_share():
  """Ten clusters of three, whose noise is all shared, tell the mean as ten observations do."""
  clusters = np.repeat(np.arange(10), 3)
  rng = np.random.default_rng(1)
  covered = 0
  for _ in range(20):
    y = 1.0 + 0.01 * rng.standard_normal(10)[clusters]
    found = regression.fit(lambda t: t[0] + 0 * X, [[0.0]], y, loss='linear')
    samples = regression.refit(found, clusters, 60, restarts=0)
    low, high = np.quantile(samples.theta[:, 0], [0.025, 0.975])
    covered += low <= 1.0 <= high
  assert covered >= 17


def test_holding_a_parameter_raises_the_objective():
  y = curve([1.0, 0.5]) + 1e-3 * np.cos(9 * X)
  found = regression.fit(curve, [[0, 0]], y)
  assert regression.fix(found, 0, found.theta[0]) == pytest.approx(found.objective, rel=1e-6)
  assert regression.fix(found, 0, 1.5) > 10 * found.objective

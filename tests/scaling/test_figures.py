"""Figures: what they draw is what the laws and the runs say."""

import numpy as np
import pytest

from scaling import figures
from scaling.fitting.isoflop import Curve
from scaling.fitting.runs import Runs
from scaling.laws.laws import LAWS, ParametricLaw
from scaling.laws.parabolas import fit_budgets

LAW = LAWS['besiroglu'].form


@pytest.fixture(scope='module')
def runs():
  """Three budgets of five sizes on the law itself, and a lone run of a fourth."""
  flops = np.append(np.repeat([1e18, 1e19, 1e20], 5), 5e20)
  best = np.array([LAW.optimum(c)[0] for c in flops])
  n = best * np.append(np.tile([0.25, 0.5, 1, 2, 4], 3), 1)
  return Runs(n, flops / 6 / n, LAW.loss(n, flops / 6 / n), flops, tuple(map(str, range(16))))


class Fitted:
  """What figures ask of a fit."""
  law = LAW

  def __init__(self, runs):
    self.runs = runs

  def optimum(self, flops, level):
    n, d = self.law.optimum(flops)
    return {'parameters': (n, n / 2, n * 2), 'tokens': (d, d, d)}


def lines(axes, style):
  return [line for line in axes.get_lines() if line.get_linestyle() == style]


def test_isoflop_curves_pass_through_the_runs_and_star_the_optimum(runs):
  axes = figures.isoflop(runs, LAW).axes[0]
  stars = [line for line in axes.get_lines() if line.get_marker() == '*']
  assert len(stars) == 3   # the lone run is no curve
  for star, flops in zip(stars, (1e18, 1e19, 1e20)):
    n, d = LAW.optimum(flops)
    np.testing.assert_allclose(star.get_data(), ([n], [LAW.loss(n, d)]), rtol=1e-6)
  for parabola, flops in zip(lines(axes, '-'), (1e18, 1e19, 1e20)):
    n, loss = parabola.get_data()
    assert n[np.argmin(loss)] == pytest.approx(LAW.optimum(flops)[0], rel=0.35)


def test_the_picture_has_the_parabolas_of_the_fit_and_none_without_a_minimum(runs):
  bent = np.where(runs.flops == 1e19, 6 - runs.loss, runs.loss)   # concave
  shown = Runs(runs.parameters, runs.tokens, bent, runs.flops, runs.names)
  found = fit_budgets(shown.parameters, shown.flops, shown.loss)
  assert [bool(budget.reason) for budget in found] == [False, True, False, True]
  drawn = lines(figures.isoflop(shown).axes[0], '-')
  assert len(drawn) == 2
  for line, budget in zip(drawn, (found[0], found[2])):
    n, loss = line.get_data()
    np.testing.assert_allclose(loss, budget(n))


def test_the_surface_holds_the_runs_and_the_frontier(runs):
  axes = figures.surface(Fitted(runs)).axes[0]
  (points,) = [c for c in axes.collections if len(c.get_offsets()) == len(runs)]
  np.testing.assert_allclose(points.get_offsets(), np.stack([runs.flops, runs.parameters], 1))
  flops, sizes = axes.get_lines()[0].get_data()
  np.testing.assert_allclose(sizes, [LAW.optimum(c)[0] for c in flops])


def test_the_envelope_is_the_lowest_curve_at_each_budget():
  flops = np.geomspace(1, 100, 50)
  curves = [Curve(1e6, flops, 10 / flops ** 0.5), Curve(2e6, flops[::-1], 4 / flops[::-1] ** 0.25)]
  *_, lowest = figures.envelope(curves).axes[0].get_lines()
  x, y = lowest.get_data()
  np.testing.assert_allclose(y, np.minimum(10 / x ** 0.5, 4 / x ** 0.25), rtol=0.01)


def test_the_envelope_ends_where_no_curve_is():
  curves = [Curve(1e6, np.array([1.0, 10]), np.array([3.0, 2])),
            Curve(2e6, np.array([5.0, 100]), np.array([4.0, 1]))]
  *_, lowest = figures.envelope(curves).axes[0].get_lines()
  x, y = lowest.get_data()
  assert y[0] == 3 and y[-1] == 1 and np.isfinite(y).all() and x[-1] == pytest.approx(100)


def test_the_frontier_is_the_optimum_of_each_budget_in_its_band(runs):
  fit = Fitted(runs)
  axes = figures.frontier(fit).axes[0]
  (line,) = lines(axes, '-')
  flops, sizes = line.get_data()
  np.testing.assert_allclose(sizes, [fit.optimum(c, 0.95)['parameters'][0] for c in flops])
  (band,) = [c for c in axes.collections if c.get_paths() and len(c.get_offsets()) <= 1]
  assert band.get_paths()[0].get_extents().y0 < sizes[0]


def test_the_compute_overhead_is_one_at_the_optimum_and_rises_to_both_sides():
  axes = figures.compute_overhead({'besiroglu': LAW}, 1e21).axes[0]
  factors, overheads = axes.get_lines()[0].get_data()
  middle = len(factors) // 2
  assert factors[middle] == pytest.approx(1) and overheads[middle] == pytest.approx(1)
  assert (np.diff(overheads[:middle + 1]) < 0).all() and (np.diff(overheads[middle:]) > 0).all()
  assert overheads[-1] == pytest.approx(LAW.compute_overhead(1e21, 4))


def test_a_size_that_never_reaches_the_loss_has_no_overhead():
  steep = ParametricLaw(1.7, 400.0, 1.5, 400.0, 0.3)   # a quarter of N can never reach that loss
  axes = figures.compute_overhead({'steep': steep}, 1e18).axes[0]
  assert np.isnan(axes.get_lines()[0].get_ydata()[0])


@pytest.mark.parametrize('ending, head', [('png', b'\x89PNG'), ('pdf', b'%PDF'), ('svg', b'<?xml')])
def test_a_figure_is_saved_by_its_ending(ending, head, tmp_path, runs):
  path = figures.save_figure(figures.isoflop(runs), tmp_path / 'new' / f'figure.{ending}')
  assert path.read_bytes().startswith(head)


def test_every_figure_has_a_title_and_a_legend_of_what_is_drawn(runs):
  fit = Fitted(runs)
  law = {'one': LAW}
  curves = [Curve(1e6, np.geomspace(1, 100, 9), 1 / np.arange(1.0, 10))]
  for figure, want in (
      (figures.isoflop(runs, LAW), {'parabola', 'fitted law', 'optimal N of the law'}),
      (figures.surface(fit), {'runs', 'optimal N'}),
      (figures.envelope(curves), {'runs', 'envelope'}),
      (figures.frontier(fit), {'runs', 'this fit, 95%'}),
      (figures.compute_overhead(law, 1e20), {'one'})):
    axes = figure.axes[0]
    legends = [*figure.legends, *([axes.get_legend()] if axes.get_legend() else [])]
    labels = {text.get_text() for legend in legends for text in legend.get_texts()}
    assert axes.get_title() and want <= labels, (axes.get_title(), labels)


def test_no_run_is_on_the_edge_of_the_frontier(runs):
  left, right = figures.frontier(Fitted(runs)).axes[0].get_xlim()
  assert left < 0.9 * runs.flops.min() and right > 1.1 * runs.flops.max()

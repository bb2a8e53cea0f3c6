"""Laws of models with experts against the tables of their papers."""

import math

import numpy as np
import pytest
from scipy import optimize

from scaling.laws.experts import FINE_GRAINED, JOINT, Mixture, dense_flops, expert_laws
from scaling.laws.laws import ParametricLaw

# Ludziejewski et al. 2025: table 4, E -> (m, mu, n, nu), and table 1, budget -> E -> (N, D).
TABLE_4 = {1: (30.3640, -0.1817, 53.9838, -0.1965), 2: (27.7982, -0.1780, 66.8401, -0.2065),
           4: (24.8462, -0.1731, 87.7022, -0.2192), 8: (21.8330, -0.1676, 119.9126, -0.2338),
           16: (19.0159, -0.1617, 167.5073, -0.2494), 32: (16.5424, -0.1557, 234.6726, -0.2652)}
TABLE_1 = {1e20: {1: (1.7e9, 9.7e9), 2: (1.5e9, 11.4e9), 4: (1.2e9, 13.9e9), 8: (990e6, 17e9),
                  16: (810e6, 20.7e9), 32: (669e6, 24.9e9)},
           1e21: {1: (5.7e9, 29.3e9), 2: (5e9, 33e9), 4: (4.4e9, 38e9), 8: (3.8e9, 44.3e9),
                  16: (3.3e9, 51.2e9), 32: (2.85e9, 58.4e9)},
           1e22: {1: (18.8e9, 88.6e9), 2: (17.4e9, 96e9), 4: (15.8e9, 105.4e9),
                  8: (14.4e9, 115.8e9), 16: (13.2e9, 126.5e9), 32: (12.2e9, 136.9e9)}}
# Krajewski et al. 2024, table 2: active N, D, G, FLOPs, loss, with 64 times as many parameters.
TABLE_2 = [(1e8, 4.37e9, 8, 2.95e18, 3.133), (1e9, 28.94e9, 16, 1.93e20, 2.491),
           (3e9, 72.90e9, 16, 1.41e21, 2.245), (7e9, 137.60e9, 32, 6.46e21, 2.076),
           (7e10, 941.07e9, 32, 4.16e23, 1.694), (3e11, 2.96e12, 64, 5.69e24, 1.503),
           (1e12, 7.94e12, 64, 4.97e25, 1.367)]


@pytest.mark.parametrize('expansion', TABLE_4)
def test_the_joint_law_reduces_to_the_printed_ones(expansion):
  """Exponents to the last digit but one unit, coefficients to 0.3 %: its constants are rounded."""
  form, (m, mu, n, nu) = JOINT.at(expansion), TABLE_4[expansion]
  assert -form.alpha == pytest.approx(mu, abs=1.1e-4)
  assert -form.beta == pytest.approx(nu, abs=1.5e-4)
  assert form.a == pytest.approx(m, rel=1.5e-3) and form.b == pytest.approx(n, rel=3e-3)


def test_the_printed_reductions_give_the_printed_optima():
  for flops, row in TABLE_1.items():
    for expansion, want in row.items():
      m, mu, n, nu = TABLE_4[expansion]
      assert ParametricLaw(1.3637, m, -mu, n, -nu).optimum(flops) == pytest.approx(want, rel=0.04)
      # From the constants of the joint law, to what their rounding leaves.
      assert JOINT.at(expansion).optimum(flops)[1] == pytest.approx(want[1], rel=0.013)


def test_more_experts_are_never_worse_at_the_optimum_and_a_dense_model_is_the_start():
  losses = [form.loss(*form.optimum(1e22)) for form in map(JOINT.at, TABLE_4)]
  assert sorted(losses, reverse=True) == losses
  assert JOINT.transformed(1) == pytest.approx(JOINT.start)
  assert JOINT.transformed(1e9) == pytest.approx(JOINT.most, rel=1e-6)
  form = JOINT.at(8)
  assert dense_flops(form.loss(*form.optimum(1e22))) > 2e22


def flops_of(active, tokens, granularity):
  """Equation 10 with c_f 6, c_r 14, E 64, and d = 64 blocks."""
  blocks = (active / 12 / 64 ** 2) ** (1 / 3)
  width = 64 * blocks
  return (12 * width ** 2 * 6 + width * 64 * granularity * 14) * tokens * blocks


@pytest.mark.parametrize('active, tokens, granularity, flops, loss', TABLE_2)
def test_fine_grained_table_2(active, tokens, granularity, flops, loss):
  """Its FLOPs, optimal N, D and G follow from the constants; its losses are 0.7 to 0.9 % higher,
  which the digits of alpha, beta and c that are not printed explain.
  """
  assert flops_of(active, tokens, granularity) == pytest.approx(flops, rel=5e-3)

  def best(g):
    spent = lambda n: FINE_GRAINED.at(g).loss(n, flops / flops_of(n, 1.0, g))
    found = optimize.minimize_scalar(lambda x: spent(math.exp(x)), bounds=(
        math.log(active) - 3, math.log(active) + 3), method='bounded', options={'xatol': 1e-9})
    return found.fun, g, math.exp(found.x)

  lowest, g, n = min(best(2 ** k) for k in range(8))
  assert g == granularity and n == pytest.approx(active, rel=0.03)
  assert 1.006 < loss / FINE_GRAINED.at(granularity).loss(active, tokens) < 1.0095
  a, alpha, b, beta = 18.1, 0.115 - 5e-4, 30.8, 0.147 - 5e-4
  high = (0.475 + (2.1 / granularity ** 0.58 + a) / (43 * active) ** alpha + b / tokens ** beta)
  assert loss < high and lowest < loss


def test_laws_of_a_mixture_say_what_they_extrapolate():
  laws = expert_laws(Mixture(8, 1))
  assert list(laws) == ['joint_experts'] and not laws['joint_experts'].warnings
  assert 'one active expert' in expert_laws(Mixture(8, 2))['joint_experts'].warnings[0]
  assert expert_laws(Mixture(8, 2))['joint_experts'].form == JOINT.at(4)
  wide = expert_laws(Mixture(128, 2))
  assert 'runs have 1 to 32' in wide['joint_experts'].warnings[0]
  assert wide['fine_grained'].form == FINE_GRAINED.at(2) and not wide['fine_grained'].warnings
  assert 'outside' in expert_laws(Mixture(64 * 32, 32))['fine_grained'].warnings[0]
  np.testing.assert_allclose(FINE_GRAINED.total, 43)

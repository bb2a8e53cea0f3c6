"""The law of precision against what its paper says of it."""

import math

import numpy as np
import pytest

from scaling.laws.precision import FULL_BITS, KUMAR, PARTS, PrecisionLaw


def test_seven_bits_are_optimal_at_any_budget():
  """Finding 3: 7 to 8 bits, independent of compute, for its integer formats."""
  found = [KUMAR.optimal_bits(flops) for flops in (1e18, 1e21, 1e25)]
  assert all(7.0 <= round(x, 1) <= 8.0 for x in found) and np.ptp(found) < 1e-3
  # By the formula of the text, without the offsets of table 2, it would be 3.5.
  plain = PrecisionLaw(KUMAR.e, KUMAR.a, KUMAR.alpha, KUMAR.b, KUMAR.beta, weight_gamma=2.6745,
                       activation_gamma=2.2102, kv_gamma=0.9578)
  assert plain.optimal_bits(1e21) == pytest.approx(3.47, abs=0.01)


def test_with_tied_exponents_the_optimum_is_that_of_the_fraction_over_the_bits():
  bits = np.linspace(3, 16, 13_001)
  fraction = KUMAR.fraction(**dict.fromkeys(PARTS, bits))
  assert KUMAR.optimal_bits(1e22) == pytest.approx(bits[np.argmax(fraction / bits)], abs=2e-3)


def test_the_fraction_of_each_part():
  want = (1 - math.exp(0.3037 - 6 / 2.6745)) * (1 - math.exp(1.4072 - 8 / 2.2102))
  assert KUMAR.fraction(weight=6, activation=8) == pytest.approx(want)
  assert KUMAR.fraction() == 1 and KUMAR.at(FULL_BITS).a == pytest.approx(KUMAR.a, rel=4e-3)
  # Activations of 3 bits diverge (appendix L): nothing is left of N. Keys and values need 4 to 5.
  assert KUMAR.fraction(activation=3) < 1e-5
  assert KUMAR.fraction(kv=3) < 0.55 < 0.8 < KUMAR.fraction(kv=4) < 0.95 < KUMAR.fraction(kv=6)


def test_losses_of_bits_are_those_of_the_law_at_them():
  n, d = 1e8, 1e10
  assert KUMAR.loss(n, d, **dict.fromkeys(PARTS, 8)) == pytest.approx(KUMAR.at(8).loss(n, d))
  # Four bits take more than four times the parameters for the loss of 16 (figure 1).
  assert KUMAR.fraction(**dict.fromkeys(PARTS, 4)) < 1 / 4


def test_rounding_after_training_costs_more_the_longer_the_training_and_the_smaller_the_model():
  losses = [KUMAR.rounding_loss(n, d, 4) for n, d in ((1e8, 1e10), (1e8, 4e10), (4e8, 1e10))]
  assert losses[1] / losses[0] == pytest.approx(4 ** 0.5068)
  assert losses[2] / losses[0] == pytest.approx(4 ** -0.3439)
  assert KUMAR.rounding_loss(1e8, 1e10, 3) / losses[0] == pytest.approx(math.exp(1 / 0.5907))
  # More data is harmful from some D on: the loss after rounding has a minimum.
  tokens = np.geomspace(1e9, 1e13, 200)
  after = [KUMAR.loss(3e7, d) + KUMAR.rounding_loss(3e7, d, 3) for d in tokens]
  assert 0 < int(np.argmin(after)) < 199

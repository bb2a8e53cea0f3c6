"""Training and serving in few bits: Kumar et al. 2024, "Scaling Laws for Precision", 2411.04330.

Weights, activations and the cache of keys and values that are computed in P bits act as fewer
parameters. A model trained in 16 bits whose weights are rounded afterwards loses more the longer it
was trained.
"""

import dataclasses
import math

import numpy as np
from scipy import optimize

from scaling.laws.laws import ParametricLaw

FULL_BITS = 16.0
PARTS = 'weight', 'activation', 'kv'
_LEAST = 1e-6   # fraction of the parameters that is left at too few bits


@dataclasses.dataclass(frozen=True)
class PrecisionLaw:
  """L = E + A / N_eff^alpha + B / D^beta; N_eff = N prod (1 - exp(n_x - P_x / gamma_x)).

  Of the three parts x, one whose gamma is 0 is not affected.

  Attributes:
    loss_scale, loss_tokens, loss_parameters, loss_gamma, loss_offset: C_T, gamma_D, gamma_N,
      gamma_post and its offset of the loss by rounding weights after training; 0 if not known.
  """
  e: float
  a: float
  alpha: float
  b: float
  beta: float
  weight_gamma: float = 0.0
  weight_offset: float = 0.0
  activation_gamma: float = 0.0
  activation_offset: float = 0.0
  kv_gamma: float = 0.0
  kv_offset: float = 0.0
  loss_scale: float = 0.0
  loss_tokens: float = 0.0
  loss_parameters: float = 0.0
  loss_gamma: float = 1.0
  loss_offset: float = 0.0

  def fraction(self, **bits):
    """N_eff / N for bits of 'weight', 'activation' and 'kv'; those left out are not rounded."""
    found = 1.0
    for part, width in bits.items():
      gamma = getattr(self, f'{part}_gamma')
      if gamma > 0:
        exponent = np.minimum(getattr(self, f'{part}_offset') - np.asarray(width) / gamma, 0.0)
        found = found * np.maximum(-np.expm1(exponent), _LEAST)
    return found

  def loss(self, parameters, tokens, **bits):
    """L of N parameters trained in these bits on D tokens."""
    effective = parameters * self.fraction(**bits)
    return self.e + self.a * effective ** -self.alpha + self.b * tokens ** -self.beta

  def rounding_loss(self, parameters: float, tokens: float, bits: float) -> float:
    """What rounding the weights to so many bits adds to L, after training in 16 bits (eq. 2)."""
    return (self.loss_scale * tokens ** self.loss_tokens / parameters ** self.loss_parameters
            * math.exp(self.loss_offset - bits / self.loss_gamma))

  def at(self, bits: float) -> ParametricLaw:
    """The law of N and D with all parts in so many bits."""
    fraction = float(self.fraction(**dict.fromkeys(PARTS, bits)))
    return ParametricLaw(self.e, self.a * fraction ** -self.alpha, self.alpha, self.b, self.beta)

  def optimal_bits(self, flops: float) -> float:
    """The bits of all parts with the lowest loss, where a FLOP costs P / 16: C = 6 N D P / 16."""
    def lowest(bits):
      form, budget = self.at(bits), flops * FULL_BITS / bits
      return form.loss(*form.optimum(budget))

    grid = np.linspace(1.0, 2 * FULL_BITS, 63)
    best = grid[int(np.argmin([lowest(bits) for bits in grid]))]
    found = optimize.minimize_scalar(lowest, bounds=(max(best - 0.5, 0.5), best + 0.5),
                                     method='bounded', options={'xatol': 1e-6})
    return float(found.x)


# Appendix K, table 2, with the offsets that the formulas of the text leave out; alpha and beta are
# tied. Its integer formats; N without embeddings; Dolma. The authors expect the trends to carry
# over, not the constants.
KUMAR = PrecisionLaw(
    2.7648, 4.299e3, 0.4965, 1.806e4, 0.4965, weight_gamma=2.6745, weight_offset=0.3037,
    activation_gamma=2.2102, activation_offset=1.4072, kv_gamma=0.9578, kv_offset=2.4185,
    loss_scale=0.0598, loss_tokens=0.5068, loss_parameters=0.3439, loss_gamma=0.5907,
    loss_offset=1.1277)

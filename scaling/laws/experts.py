"""Laws of models with experts, of which a token uses some: a ParametricLaw for each choice of them.

N is of the parameters that are active for a token. The expansion is the ratio of all experts' width
to that which is active: experts / top_k. Experts are granular where a token uses several narrow
ones in place of a wide one.
"""

import dataclasses
import math

from scaling.laws.laws import Law, ParametricLaw


@dataclasses.dataclass(frozen=True)
class Mixture:
  """Experts of a model.

  Attributes:
    experts: of a layer.
    top_k: of these, active for a token.
    granularity: width of the family's MLP over that of an expert.
  """
  experts: int = 1
  top_k: int = 1
  granularity: int = 1

  @property
  def expansion(self) -> float:
    """All experts over the active ones."""
    return self.experts / self.top_k


@dataclasses.dataclass(frozen=True)
class ExpertsLaw:
  """L = a X^delta N^(alpha + gamma ln X) + b X^omega D^(beta + zeta ln X) + e, C = 6 N D.

  Ludziejewski et al. 2025 ("Joint MoE Scaling Laws", arXiv 2502.05172), equations 4 and 6. X is
  the expansion E transformed as in Clark et al. 2022 (arXiv 2202.01169): from `start` for a dense
  model to `most` for any number of experts. alpha and beta are negative, as printed.
  """
  e: float
  a: float
  alpha: float
  b: float
  beta: float
  delta: float
  gamma: float
  omega: float
  zeta: float
  start: float = 2.0732
  most: float = 290.4521

  def transformed(self, expansion: float) -> float:
    """X of an expansion E >= 1."""
    least = 1 / (1 / self.start - 1 / self.most)
    return 1 / (1 / (expansion - 1 + least) + 1 / self.most)

  def at(self, expansion: float) -> ParametricLaw:
    """The law of N and D of this expansion."""
    x = math.log(self.transformed(expansion))
    return ParametricLaw(self.e, self.a * math.exp(self.delta * x), -(self.alpha + self.gamma * x),
                         self.b * math.exp(self.omega * x), -(self.beta + self.zeta * x))


@dataclasses.dataclass(frozen=True)
class FineGrainedLaw:
  """L = c + (g / G^gamma + a) / N^alpha + b / D^beta (Krajewski et al. 2024, equation 9).

  N is of all parameters without embeddings and routers, of an `expansion` that is fixed; G is the
  granularity: narrow experts that are active for a token, as wide as one MLP together.
  """
  a: float
  alpha: float
  b: float
  beta: float
  g: float
  gamma: float
  c: float
  expansion: float

  @property
  def total(self) -> float:
    """All parameters over the active ones: of a block, 8 d^2 are in its MLP and 4 d^2 are not."""
    return (8 * self.expansion + 4) / 12

  def at(self, granularity: float) -> ParametricLaw:
    """The law of active N and D."""
    a = self.a + self.g * granularity ** -self.gamma
    return ParametricLaw(self.c, a * self.total ** -self.alpha, self.alpha, self.b, self.beta)


JOINT = ExpertsLaw(1.3637, 35.91, -0.1889, 35.98, -0.1775, -0.2285, 0.0098, 0.5529, -0.0259)
FINE_GRAINED = FineGrainedLaw(18.1, 0.115, 30.8, 0.147, 2.1, 0.58, 0.47, expansion=64)
EXPERT_LAWS = 'joint_experts', 'fine_grained'   # the names of `expert_laws`
_JOINT_EXPANSIONS = 1, 32
_GRANULARITIES = 1, 16


def dense_flops(loss: float) -> float:
  """The minimum FLOPs that reach a loss of the law of `JOINT` without experts."""
  return JOINT.at(1.0).flops_for(loss)


def expert_laws(mixture: Mixture) -> dict[str, Law]:
  """The published laws of models with these experts; `fine_grained` is of an expansion of 64."""
  expansion, warnings = mixture.expansion, []
  low, high = _JOINT_EXPANSIONS
  if not low <= expansion <= high:
    warnings.append(f'{mixture.experts} experts of which {mixture.top_k} are active are an '
                    f'expansion of {expansion:.3g}, and its runs have {low} to {high}')
  if mixture.top_k > 1:
    warnings.append(f'its runs have one active expert: {mixture.experts} with {mixture.top_k} '
                    f'active count as {expansion:.3g} with one, and what finer experts gain is '
                    'left out')
  found = {'joint_experts': Law(
      JOINT.at(expansion), 'Ludziejewski et al. 2025, arXiv 2502.05172, equation 6 and table 3',
      f'N: active parameters, of {expansion:.3g} times as many in experts; C = 6 N D',
      'FineWeb-Edu, GPT-2 pieces', (2.4e17, 5.3e20),
      'rounded constants: table 1 follows from them to 1.3 %, table 4 to 0.3 %', vocabulary=50_257,
      warnings=tuple(warnings))}
  if expansion == FINE_GRAINED.expansion:
    low, high = _GRANULARITIES
    outside = () if low <= mixture.top_k <= high else (
        f'{mixture.top_k} active experts are a granularity outside its runs, {low} to {high}',)
    found['fine_grained'] = Law(
        FINE_GRAINED.at(mixture.top_k), 'Krajewski et al. 2024, arXiv 2402.07871, table 1',
        'N: active parameters without embeddings; C = 6 N D', 'C4, GPT-2 pieces', (2.9e17, 6.7e19),
        'rounded constants: the losses of table 2 are 0.7 to 0.9 % higher', counted='no_embedding',
        vocabulary=50_257, warnings=outside)
  return found

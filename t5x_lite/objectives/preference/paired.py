"""Losses of pairs of responses to a prompt, one chosen over the other: DPO and its kin.

All are functions of the log-probabilities of responses under the policy and under a frozen
reference. With L the `log ratio` log pi(y|x) - log ref(y|x) of the chosen (w) and the rejected (l)
response, DPO is -log sigmoid(beta * (L_w - L_l)), which is log 2 where policy and reference agree.
trl is its release 1.16.

Shape letters: B pairs.
"""

from collections.abc import Callable
import math
from typing import Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp

from t5x_lite.core.dataclass_checks import nearest
from t5x_lite.core.errors import UserError

Divergence = Literal['reverse_kl', 'forward_kl', 'js', 'alpha']
_MAX_EXPONENT = 80.0   # e^80 is near the largest float32
_DISCOPOP_TAU = 0.05   # of Lu et al. 2024, found by search


class Pairs(NamedTuple):
  """Pairs of responses; arrays [batch] of floats, sums over the tokens of a completion."""
  chosen: jax.Array               # log pi
  rejected: jax.Array
  chosen_reference: jax.Array     # log ref
  rejected_reference: jax.Array
  chosen_length: jax.Array        # tokens of the completion, the end token included
  rejected_length: jax.Array
  valid: jax.Array                # 1, or 0 for padding

  @property
  def chosen_ratio(self) -> jax.Array:
    return self.chosen - self.chosen_reference

  @property
  def rejected_ratio(self) -> jax.Array:
    return self.rejected - self.rejected_reference


class Terms(NamedTuple):
  """What a loss is made of; arrays [batch] and numbers."""
  pairs: Pairs
  beta: float
  smoothing: float
  chosen_score: jax.Array         # the log ratio, or what another divergence makes of it
  rejected_score: jax.Array

  @property
  def logit(self) -> jax.Array:
    """log of the odds, under the policy, that the chosen response is the better one."""
    return self.beta * (self.chosen_score - self.rejected_score)

  def mean_score_difference(self) -> jax.Array:
    """The difference of the scores a token."""
    return (self.chosen_score / jnp.maximum(self.pairs.chosen_length, 1)
            - self.rejected_score / jnp.maximum(self.pairs.rejected_length, 1))


def divergence_score(log_ratio: jax.Array, divergence: Divergence, alpha: float) -> jax.Array:
  """f'(pi / ref) of a log ratio, of which DPO's logit is the difference (Wang et al. 2024, f-DPO).

  Args:
    log_ratio: any shape.
    divergence: f; `reverse_kl` is DPO's own. Constants that cancel in the difference are kept or
      left out as in trl.
    alpha: of `alpha` alone, whose f' is (t^(alpha - 1) - 1) / (alpha - 1), as in trl; 1 is the
      reverse KL divergence, 0 the forward one.
  """
  if divergence == 'forward_kl':
    return 1 - jnp.exp(jnp.minimum(-log_ratio, _MAX_EXPONENT))
  if divergence == 'js':
    return math.log(2) + jax.nn.log_sigmoid(log_ratio)
  if divergence == 'alpha' and abs(alpha - 1) > 1e-6:
    return jnp.expm1(jnp.minimum((alpha - 1) * log_ratio, _MAX_EXPONENT)) / (alpha - 1)
  return log_ratio


def smoothed_log_loss(logit: jax.Array, smoothing: float = 0.0) -> jax.Array:
  """-log sigmoid(logit) if the labels are right, where a share `smoothing` of them is not."""
  right = -jax.nn.log_sigmoid(logit)
  if not smoothing:
    return right
  return (1 - smoothing) * right - smoothing * jax.nn.log_sigmoid(-logit)


def hinge_loss(logit: jax.Array) -> jax.Array:
  """max(0, 1 - logit)."""
  return jax.nn.relu(1 - logit)


def _sigmoid(t: Terms) -> jax.Array:
  """DPO (Rafailov et al. 2023, equation 7)."""
  return smoothed_log_loss(t.logit)


def _sigmoid_norm(t: Terms) -> jax.Array:
  """DPO of log ratios a token, as Tulu 3 (Lambert et al. 2024)."""
  return smoothed_log_loss(t.beta * t.mean_score_difference())


def _cdpo(t: Terms) -> jax.Array:
  """Conservative DPO (Mitchell 2023): labels are wrong at a rate; `sigmoid` of trl until 0.19."""
  return smoothed_log_loss(t.logit, t.smoothing)


def _robust(t: Terms) -> jax.Array:
  """An unbiased estimate of DPO on labels that are wrong at a rate (Chowdhury et al. 2024)."""
  right, wrong = -jax.nn.log_sigmoid(t.logit), -jax.nn.log_sigmoid(-t.logit)
  return ((1 - t.smoothing) * right - t.smoothing * wrong) / (1 - 2 * t.smoothing)


def _hinge(t: Terms) -> jax.Array:
  """SLiC's hinge (Zhao et al. 2023) on DPO's logit, as Liu et al. 2024 (RSO)."""
  return hinge_loss(t.logit)


def _ipo(t: Terms) -> jax.Array:
  """IPO of log ratios a token: trl's, which its authors say their figures are of."""
  return jnp.square(t.mean_score_difference() - 1 / (2 * t.beta))


def _ipo_sum(t: Terms) -> jax.Array:
  """IPO as in the paper (Azar et al. 2023, equation 17): of log ratios of whole responses."""
  return jnp.square(t.chosen_score - t.rejected_score - 1 / (2 * t.beta))


def _exo_pair(t: Terms) -> jax.Array:
  """EXO (Ji et al. 2024, equation 16): reverse KL divergence to the smoothed labels."""
  log_w, log_l = jax.nn.log_sigmoid(t.logit), jax.nn.log_sigmoid(-t.logit)
  return (jnp.exp(log_w) * (log_w - jnp.log1p(-t.smoothing))
          + jnp.exp(log_l) * (log_l - jnp.log(t.smoothing)))


def _nca_pair(t: Terms) -> jax.Array:
  """NCA (Chen et al. 2024): raises the likelihood of the chosen itself, not of the difference."""
  chosen, rejected = t.beta * t.pairs.chosen_ratio, t.beta * t.pairs.rejected_ratio
  log_sigmoid = jax.nn.log_sigmoid
  return -log_sigmoid(chosen) - 0.5 * log_sigmoid(-chosen) - 0.5 * log_sigmoid(-rejected)


def _bco_pair(t: Terms) -> jax.Array:
  """BCO (Jung et al. 2024) of pairs, as trl's: without the shift by the mean reward."""
  chosen, rejected = t.beta * t.pairs.chosen_ratio, t.beta * t.pairs.rejected_ratio
  return -jax.nn.log_sigmoid(chosen) - jax.nn.log_sigmoid(-rejected)


def _sppo_hard(t: Terms) -> jax.Array:
  """SPPO (Wu et al. 2024, equation 4.7), where the chosen wins with probability 1."""
  half = 0.5 / t.beta
  return jnp.square(t.pairs.chosen_ratio - half) + jnp.square(t.pairs.rejected_ratio + half)


def _apo_zero(t: Terms) -> jax.Array:
  """APO (D'Oosterlinck et al. 2024, equation 7): the chosen beats what the model writes."""
  return (jax.nn.sigmoid(-t.beta * t.pairs.chosen_ratio)
          + jax.nn.sigmoid(t.beta * t.pairs.rejected_ratio))


def _apo_down(t: Terms) -> jax.Array:
  """APO (equation 8): the chosen is worse than what the model writes; both become less likely."""
  chosen, rejected = t.pairs.chosen_ratio, t.pairs.rejected_ratio
  return jax.nn.sigmoid(t.beta * chosen) + jax.nn.sigmoid(-t.beta * (chosen - rejected))


def _aot(t: Terms) -> jax.Array:
  """AOT of pairs (Melnyk et al. 2024): the margins of the policy, in order of size, against those
  of the reference, so that the one distribution dominates the other.

  The order is that of the pairs of a microbatch, as in trl.
  """
  policy_B = t.pairs.chosen - t.pairs.rejected
  reference_B = t.pairs.chosen_reference - t.pairs.rejected_reference
  last = lambda x_B: jnp.where(t.pairs.valid > 0, x_B, jnp.inf)   # padding, in both orders
  rank_B = jnp.argsort(jnp.argsort(last(policy_B)))
  matched_B = jnp.sort(last(reference_B))[rank_B]
  margin_B = policy_B - jnp.where(t.pairs.valid > 0, matched_B, 0)
  return smoothed_log_loss(t.beta * margin_B, t.smoothing)


def _discopop(t: Terms) -> jax.Array:
  """DiscoPOP (Lu et al. 2024, equation 5): logistic where the logit is low, else exponential."""
  share = jax.nn.sigmoid(t.logit / _DISCOPOP_TAU)
  return (1 - share) * smoothed_log_loss(t.logit) + share * jnp.exp(
      jnp.minimum(-t.logit, _MAX_EXPONENT))


LOSSES: dict[str, Callable[[Terms], jax.Array]] = {
    'sigmoid': _sigmoid, 'sigmoid_norm': _sigmoid_norm, 'cdpo': _cdpo, 'robust': _robust,
    'hinge': _hinge, 'ipo': _ipo, 'ipo_sum': _ipo_sum, 'exo_pair': _exo_pair,
    'nca_pair': _nca_pair, 'bco_pair': _bco_pair, 'sppo_hard': _sppo_hard,
    'apo_zero': _apo_zero, 'apo_down': _apo_down, 'aot': _aot, 'discopop': _discopop}
# Which read the label smoothing, and which nothing but log ratios: for these f is the reverse KL.
SMOOTHED = ('cdpo', 'robust', 'exo_pair', 'aot')
OF_RATIOS = ('nca_pair', 'bco_pair', 'sppo_hard', 'apo_zero', 'apo_down', 'aot')


def paired_loss(name: str, pairs: Pairs, *, beta: float, smoothing: float = 0.0,
                divergence: Divergence = 'reverse_kl', alpha: float = 0.5) -> jax.Array:
  """A loss of LOSSES a pair, [batch], of the dtype of the pairs; the mean over pairs is minimised.

  Args:
    name: of LOSSES, whose docstrings say who defines it.
    pairs: those of padding have a loss too, of no meaning.
    beta: strength of the pull to the reference; of `ipo`, `ipo_sum` and `sppo_hard` the inverse of
      the margin that is aimed at.
    smoothing: share of wrong labels, of SMOOTHED alone.
    divergence, alpha: see divergence_score.
  """
  if name not in LOSSES:
    raise UserError(f'no loss of pairs is named {name!r}: {nearest(name, LOSSES)}')
  if divergence not in get_args(Divergence):
    raise UserError(f'no divergence is named {divergence!r}: '
                    f'{nearest(divergence, get_args(Divergence))}')
  score = lambda ratio: divergence_score(ratio, divergence, alpha)
  return LOSSES[name](Terms(pairs, beta, smoothing, score(pairs.chosen_ratio),
                            score(pairs.rejected_ratio)))

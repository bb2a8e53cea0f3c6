"""How well the states that were found agree with annotated dialogue acts."""

from collections.abc import Sequence

from t5x_lite.dialogue.schema import Turn


def act_label(turn: Turn) -> str:
  """The intents of a turn with their domains, without slots: 'hotel-inform+hotel-request'.

  '' where nothing is annotated, which is a label too.
  """
  return '+'.join(sorted({f'{act.domain}-{act.intent}' for act in turn.acts}))


def agreement(acts: Sequence[str], states: Sequence[int]) -> dict[str, float]:
  """Normalised mutual information (by the arithmetic mean), adjusted Rand index, and the rest."""
  from sklearn import metrics
  homogeneity, completeness, nmi = metrics.homogeneity_completeness_v_measure(acts, states)
  return {'nmi': float(nmi), 'ari': float(metrics.adjusted_rand_score(acts, states)),
          'homogeneity': float(homogeneity), 'completeness': float(completeness)}

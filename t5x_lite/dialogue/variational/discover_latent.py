"""The structure of dialogues whose states are the latents of a variational RNN."""

from collections import Counter
from collections.abc import Sequence
import dataclasses
import re

import numpy as np

from t5x_lite.core.errors import UserError
from t5x_lite.dialogue.schema import Dialogue
from t5x_lite.dialogue.structure.discover import (
  Side,
  Structure,
  StructureConfig,
  speaker_utterances,
  to_structure,
)
from t5x_lite.dialogue.structure.features import TOKEN, Utterance, annotation_names
from t5x_lite.dialogue.variational.vrnn import VrnnConfig, bag_turns, fit_vrnn

SPEAKERS = 'user', 'system'
WORDS = 1000   # most frequent ones, that bags are made of


def discover_latent(dialogues: Sequence[Dialogue], config: StructureConfig,
                    held_out: Sequence[Dialogue] = (), vrnn: VrnnConfig | None = None
                    ) -> Structure:
  """As `discover`; a turn's state is that of the highest posterior probability.

  Of `k` a side has the most, and those that are the state of no turn are left out. What is
  annotated is in the bag of words. The structure's `prior` is the model's, between the states left.
  """
  if (config.speaker, config.context, config.choose_by) != ('both', 1, 'silhouette'):
    raise UserError('a variational RNN has states of both sides, reads what was said before and '
                    'leaves out states itself: leave out speaker, context and choose_by, or '
                    "cluster by 'kmeans'")
  said = [speaker_utterances(dialogues, speaker, config) for speaker in SPEAKERS]
  if not all(said):
    raise UserError(f'{len(dialogues)} dialogues have no utterance of one side: give some')
  for dialogue in (*dialogues, *held_out):
    if any(turn.speaker != SPEAKERS[n % 2] for n, turn in enumerate(dialogue.turns)):
      raise UserError(f"dialogue {dialogue.id}: turns do not alternate, the user's first: leave it "
                      'out, as `dialogue convert --policy=skip` does')
  k = config.k if isinstance(config.k, int) else config.k[1]
  vrnn = dataclasses.replace(vrnn or VrnnConfig(), user_states=k, system_states=k, seed=config.seed)
  counts = Counter(word for turns in _turns(dialogues, config) for turn in turns for word in turn)
  ids = {word: n for n, (word, _) in enumerate(counts.most_common(WORDS))}
  bag = lambda some: bag_turns([[[ids[word] for word in turn if word in ids] for turn in turns]
                                for turns in _turns(some, config)], len(ids))
  bags, lengths = bag(dialogues)
  model = fit_vrnn(bags, lengths, vrnn)
  posteriors = model.posteriors(bags)
  sides, left = [], []
  for s, speaker in enumerate(SPEAKERS):
    posterior = _of_utterances(posteriors[s], said[s])
    used = np.unique(posterior.argmax(-1))

    def assign(others: Sequence[Dialogue], s=s, speaker=speaker, used=used) -> np.ndarray:
      found = _of_utterances(model.posteriors(bag(others)[0])[s],
                             speaker_utterances(others, speaker, config))
      return found[:, used].argmax(-1)

    sides.append(Side(speaker, said[s], len(used), posterior[:, used].argmax(-1),
                      1 - posterior.max(-1), assign))
    left += [*(used + s * k)]
  prior = model.prior_transitions()[np.ix_([*left, 2 * k], left)]
  return to_structure(sides, dialogues, config, held_out, prior / prior.sum(1, keepdims=True))


def _turns(dialogues: Sequence[Dialogue], config: StructureConfig) -> list[list[list[str]]]:
  """The words of each turn of each dialogue, and what is annotated of it."""
  turns = [[] for _ in dialogues]
  said = [u for speaker in SPEAKERS for u in speaker_utterances(dialogues, speaker, config)]
  for u in sorted(said, key=lambda u: (u.dialogue, u.index)):
    turns[u.dialogue].append(re.findall(TOKEN, u.context.lower())
                             + annotation_names(u.turn, config.annotations))
  return turns


def _of_utterances(p_BEK: np.ndarray, said: Sequence[Utterance]) -> np.ndarray:
  return p_BEK[[u.dialogue for u in said], [u.index // 2 for u in said]]

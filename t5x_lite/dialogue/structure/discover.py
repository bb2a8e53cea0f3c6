"""From dialogues to their structure: cluster utterances into states, and follow the states."""

from collections.abc import Callable, Sequence
import dataclasses
from typing import Any, Literal

import numpy as np

from t5x_lite.core.dataclass_checks import Count, FieldError, Fraction, Positive, Seed, check_types
from t5x_lite.core.errors import UserError
from t5x_lite.dialogue.schema import Dialogue, Speaker
from t5x_lite.dialogue.structure import automaton as automata
from t5x_lite.dialogue.structure import features
from t5x_lite.dialogue.structure.agreement import act_label, agreement
from t5x_lite.dialogue.structure.cluster_number import Criterion, choose_k
from t5x_lite.dialogue.structure.features import Annotation, Encoder, Utterance
from t5x_lite.dialogue.structure.graph import Graph, State, to_graph
from t5x_lite.dialogue.structure.held_out import coverage, perplexities
from t5x_lite.dialogue.structure.kmeans import kmeans, nearest, squared_distances
from t5x_lite.dialogue.structure.labels import class_tfidf, frequent_texts

EXAMPLES = 100   # utterances that are kept of each state


@dataclasses.dataclass(frozen=True)
class StructureConfig:
  """How structure is looked for.

  Attributes:
    speaker: whose utterances are states; of 'both', each side has states of its own.
    context: utterances that the text of one is made of, with those before it.
    k: states of a side, or (least, most) to choose from.
    choose_by: 'silhouette', or 'likelihood' of the utterances of every fifth dialogue.
    annotations: what is added to the text: 'intents', 'entities', 'calls'.
    length: turns after which a dialogue is cut off.
    mask: whether numbers and codes are masked in the texts.
    delexicalise: whether values that are annotated are tags in the texts.
    min_probability, min_count: a transition below either is pruned.
    smoothing: added to each count for perplexity.
    starts: of k-means.
  """
  speaker: Literal['user', 'system', 'both'] = 'both'
  context: Count = 1
  k: Count | tuple[Count, Count] = (5, 20)
  choose_by: Criterion = 'silhouette'
  annotations: tuple[Annotation, ...] = ()
  length: Count | None = None
  mask: bool = True
  delexicalise: bool = False
  min_probability: Fraction = 0.05
  min_count: Count = 2
  smoothing: Positive[float] = 0.1
  starts: Count = 20
  seed: Seed = 0

  def __post_init__(self):
    check_types(self)
    if not isinstance(self.k, int) and not 2 <= self.k[0] <= self.k[1]:
      raise FieldError(self, 'k', 'must be one number, or the least, 2 at least, and the most')


@dataclasses.dataclass(frozen=True)
class Structure:
  """What was found.

  Attributes:
    states: all sides'; paths name them by index.
    paths: the states of each dialogue.
    counts: of transitions, as automaton.py has them.
    automaton, graph: pruned and minimised.
    scores: {speaker: {k: score}} where k was chosen.
    agreement: {speaker: {'nmi': …}} of the states with the annotated acts; empty where there are
      none. 'nodes_nmi' is that of the nodes of the graph, where paraphrases may have come together;
      a state that was pruned counts as it is.
    entropy: bits: 'transition', of what follows a state, and 'marginal', of a state alone.
    held_out: 'coverage' and 'perplexity' of dialogues that were held out; empty without.
    prior: a model's own probabilities of what follows, as `counts` are laid out; None without.
  """
  states: tuple[State, ...]
  paths: tuple[tuple[int, ...], ...]
  counts: np.ndarray
  automaton: automata.Automaton
  graph: Graph
  scores: dict[str, dict[int, float]]
  agreement: dict[str, dict[str, float]]
  entropy: dict[str, float]
  held_out: dict[str, Any]
  prior: np.ndarray | None = None


@dataclasses.dataclass(frozen=True)
class Side:
  """One speaker's utterances in states, however these were found.

  Attributes:
    k: states of the side.
    labels: the state of each utterance, [n].
    distances: how far each is from what is typical of its state, [n].
    assign: dialogues -> the states of the speaker's utterances in them, in order.
    scores: {k: score} where k was chosen.
  """
  speaker: Speaker
  utterances: Sequence[Utterance]
  k: int
  labels: np.ndarray
  distances: np.ndarray
  assign: Callable[[Sequence[Dialogue]], Sequence[int]]
  scores: dict[int, float] = dataclasses.field(default_factory=dict)


def discover(dialogues: Sequence[Dialogue], config: StructureConfig = StructureConfig(),
             held_out: Sequence[Dialogue] = (), encoder: Encoder | None = None) -> Structure:
  """Finds the states of dialogues and the automaton they follow.

  Args:
    held_out: dialogues to measure the automaton on.
    encoder: of texts; TF-IDF and SVD of each side's if None.
  """
  speakers = ('user', 'system') if config.speaker == 'both' else (config.speaker,)
  sides = [_fit_side(dialogues, speaker, config, encoder) for speaker in speakers]
  return to_structure(sides, dialogues, config, held_out)


def to_structure(sides: Sequence[Side], dialogues: Sequence[Dialogue], config: StructureConfig,
                 held_out: Sequence[Dialogue] = (), prior: np.ndarray | None = None) -> Structure:
  """The states of all sides, and the automaton they follow.

  `prior` is a model's own, of the state that follows each and START, [K + 1, K].
  """
  states, places, held_places = [], [], []
  for side in sides:
    first = len(states)
    states += _states(side, dialogues, config)
    places += [(u.dialogue, u.index, first + s) for u, s in zip(side.utterances, side.labels)]
    if held_out:
      found = speaker_utterances(held_out, side.speaker, config)
      held_places += [(u.dialogue, u.index, first + s)
                      for u, s in zip(found, side.assign(held_out), strict=True)]
  paths, held_paths = _paths(places, len(dialogues)), _paths(held_places, len(held_out))
  counts = automata.count_transitions(paths, len(states))
  if prior is not None:
    prior = automata.with_end(prior, counts, config.smoothing)
  found = automata.find_automaton(counts, config.min_probability, config.min_count,
                                  [state.speaker for state in states])
  return Structure(
      states=tuple(states), paths=paths, counts=counts, automaton=found,
      graph=to_graph(found, states),
      scores={side.speaker: side.scores for side in sides if side.scores},
      agreement={side.speaker: scores for side in sides if (
          scores := _agreement(side, found.blocks[[s.speaker == side.speaker for s in states]]))},
      entropy={'transition': automata.transition_entropy(counts),
               'marginal': automata.marginal_entropy(counts)},
      held_out={'coverage': coverage(found, held_paths), 'perplexity': perplexities(
          counts, found, held_paths, config.smoothing, prior)} if held_out else {},
      prior=prior)


def speaker_utterances(dialogues: Sequence[Dialogue], speaker: Speaker, config: StructureConfig
                       ) -> list[Utterance]:
  """What one side says, as the config has it."""
  return features.utterances(dialogues, speaker, config.context, config.mask, config.length,
                             config.delexicalise)


def _fit_side(dialogues: Sequence[Dialogue], speaker: Speaker, config: StructureConfig,
              encoder: Encoder | None) -> Side:
  said = speaker_utterances(dialogues, speaker, config)
  if not said:
    raise UserError(f'{len(dialogues)} dialogues have no utterance of the {speaker}: give some')
  encode = encoder or features.fit_tfidf([u.context for u in said], seed=config.seed)
  annotate = config.annotations and features.fit_annotations(
      [u.turn for u in said], config.annotations)

  def embed(some: Sequence[Utterance]) -> np.ndarray:
    text = np.asarray(encode([u.context for u in some]), float)
    return np.hstack([text, annotate([u.turn for u in some])]) if annotate else text

  points = embed(said)
  k, room, choice = config.k, None, None
  if not isinstance(k, int):
    most = min(k[1], len(np.unique(points, axis=0)) - 1)
    if most < k[0]:
      raise UserError(f'the {speaker} says only {most + 1} different things: choose k below')
    folds = np.array([u.dialogue % 5 == 4 for u in said])
    if config.choose_by == 'likelihood' and not folds.any():
      raise UserError(f'{len(dialogues)} dialogues are too few to hold out every fifth: give '
                      'more, or choose k by silhouette')
    choice = choose_k(points, range(k[0], most + 1), config.choose_by, folds, config.starts,
                      config.seed)
    k, room = choice.k, most
  clusters = kmeans(points, k, starts=config.starts, seed=config.seed, room=room)
  labels, centers = clusters.labels, clusters.centers

  def assign(others: Sequence[Dialogue]) -> Sequence[int]:
    found = speaker_utterances(others, speaker, config)
    return nearest(embed(found), centers) if found else []

  return Side(speaker, said, k, labels, squared_distances(points, centers)[
      np.arange(len(labels)), labels], assign, choice.scores if choice else {})


def _states(side: Side, dialogues: Sequence[Dialogue], config: StructureConfig) -> list[State]:
  labels, distances = side.labels, side.distances
  # Of the utterance alone, also where a context was clustered.
  alone = [u.context for u in speaker_utterances(
      dialogues, side.speaker, dataclasses.replace(config, context=1))]
  texts = frequent_texts(alone, distances, labels, side.k)
  words = class_tfidf(alone, labels, side.k)
  place = np.array([u.index / max(len(dialogues[u.dialogue].turns[:config.length]) - 1, 1)
                    for u in side.utterances])
  found = []
  for state, text in enumerate(texts):
    members = np.flatnonzero(labels == state)
    members = members[np.argsort(distances[members], kind='stable')]
    found.append(State(
        name=f'{side.speaker[0]}{state}', speaker=side.speaker, text=text,
        words=tuple(words[state])[:5], size=len(members), position=float(place[members].mean()),
        examples=tuple(side.utterances[i].turn.text for i in members[:EXAMPLES])))
  return found


def _paths(places: Sequence[tuple[int, int, int]], number: int) -> tuple[tuple[int, ...], ...]:
  """The states of each dialogue, of (dialogue, turn, state)."""
  paths = [[] for _ in range(number)]
  for dialogue, _, state in sorted(places):
    paths[dialogue].append(int(state))
  return tuple(map(tuple, paths))


def _agreement(side: Side, blocks: np.ndarray) -> dict[str, float]:
  """Of the side's states, and of the blocks that they are in, with the acts."""
  acts = [act_label(u.turn) for u in side.utterances]
  if not any(acts):
    return {}
  nodes = np.where(blocks >= 0, blocks, -1 - np.arange(len(blocks)))
  return agreement(acts, side.labels) | {'nodes_nmi': agreement(acts, nodes[side.labels])['nmi']}

"""A comparison: one prompt, responses to it, and how good each is."""

from collections.abc import Sequence
import dataclasses
import itertools
import json
import math
from typing import Any

from t5x_lite.data.files.templates import BadExample, shorten
from tasks.instruction.conversation import Conversation, Message, bad_row, check_text

OBJECTIVES = ('pairs', 'ranking', 'thumbs')
TIES = ('refuse', 'drop')


@dataclasses.dataclass(frozen=True)
class Comparison:
  """Responses to one prompt; raises BadExample for what nothing can be learned from.

  Attributes:
    prompt: a text that the responses continue; or messages, which end where the assistant answers.
    responses: texts, none of them empty.
    scores: of each response, finite; larger is better. (1, 0) of a chosen and a rejected one, and
      1 or 0 of a single one with its thumb up or down.
    tools: that the assistant may call, as Conversation has them.
  """

  prompt: str | tuple[Message, ...]
  responses: tuple[str, ...]
  scores: tuple[float, ...]
  tools: tuple[Any, ...] = ()

  def __post_init__(self):
    if not self.responses:
      raise bad_row('there is no response')
    if len(self.responses) != len(self.scores):
      raise bad_row(f'{len(self.responses)} response(s) have {len(self.scores)} score(s)')
    for number, (response, score) in enumerate(zip(self.responses, self.scores), 1):
      if not response.strip():
        raise bad_row(f'response {number} of {len(self.responses)} is empty')
      if not math.isfinite(score):
        raise bad_row(f'response {number} has the score {score}, which is no finite number')
    if isinstance(self.prompt, str):
      if not self.prompt.strip():
        raise bad_row('the prompt is empty')
      for text in (self.prompt, *self.responses):
        check_text(text)
    else:
      self.conversations()

  def conversations(self) -> list[Conversation]:
    """The prompt and each response to it, where the prompt is messages."""
    return [Conversation((*self.prompt, Message('assistant', response)), self.tools)
            for response in self.responses]

  def select(self, numbers: Sequence[int]) -> 'Comparison':
    """The same prompt with some of the responses, in that order."""
    return dataclasses.replace(self, responses=tuple(self.responses[i] for i in numbers),
                               scores=tuple(self.scores[i] for i in numbers))

  def to_json(self) -> str:
    """As `from_json` reads it."""
    prompt = self.prompt if isinstance(self.prompt, str) else [
        [m.role, m.content, m.tool_calls, dict(m.fields)] for m in self.prompt]
    return json.dumps([prompt, self.responses, self.scores, self.tools], ensure_ascii=False)

  @staticmethod
  def from_json(text: str) -> 'Comparison':
    """The comparison that `to_json` wrote."""
    prompt, responses, scores, tools = json.loads(text)
    if not isinstance(prompt, str):
      prompt = tuple(Message(role, content, tuple(calls), fields)
                     for role, content, calls, fields in prompt)
    return Comparison(prompt, tuple(responses), tuple(scores), tuple(tools))


def arrange(comparison: Comparison, objective: str, ties: str) -> list[Comparison]:
  """What an objective learns of a comparison, the best response first.

  Args:
    comparison: of any number of responses.
    objective: 'pairs': each two responses of different scores, the better one first; 'ranking': all
      distinct responses, the best first; 'thumbs': each response by itself, whose scores are 1 and
      0.
    ties: what is done where two responses are equal or of equal scores, of pairs, or all of a
      ranking: 'refuse' them, or 'drop' them.

  Raises:
    BadExample: a tie that is refused, or responses that do not fit the objective.
  """
  if objective == 'thumbs':
    if not {*comparison.scores} <= {0.0, 1.0}:
      raise bad_row(f'the scores {_shown(comparison.scores)} are no thumbs, which are 1 and 0: set '
                    "objective to 'ranking' or 'pairs'")
    return [comparison.select([i]) for i in range(len(comparison.scores))]
  number = len(comparison.responses)
  if number == 1:
    raise bad_row("there is one response only, and nothing to compare it with: set objective to "
                  "'thumbs' if its score is a thumb up or down")
  order = sorted(range(number), key=lambda i: -comparison.scores[i])
  if objective == 'pairs':
    pairs = [*itertools.combinations(order, 2)]
    return [comparison.select(pair) for pair in pairs if not _tied(comparison, *pair, ties)]
  distinct = []
  for i in order:
    if not any(comparison.responses[i] == comparison.responses[j] and _tied(
        comparison, j, i, ties) for j in distinct):
      distinct.append(i)
  best, worst = distinct[0], distinct[-1]
  if best == worst or comparison.scores[best] == comparison.scores[worst] and _tied(
      comparison, best, worst, ties):
    return []
  return [comparison.select(distinct)]


def _tied(comparison: Comparison, better: int, worse: int, ties: str) -> bool:
  """Whether nothing tells two responses apart. Raises BadExample if that is refused."""
  if comparison.responses[better] == comparison.responses[worse]:
    what = f'two responses are equal, {shorten(repr(comparison.responses[better]))}'
  elif comparison.scores[better] == comparison.scores[worse]:
    what = f'responses {better + 1} and {worse + 1} have the same score'
  else:
    return False
  if ties == 'refuse':
    raise BadExample(f"{what}, so that neither is preferred: mend the row, or set ties = 'drop' or "
                     'skip_bad = True')
  return True


def _shown(scores: Sequence[float]) -> str:
  return shorten(', '.join(f'{score:g}' for score in scores))

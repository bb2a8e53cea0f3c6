"""A task: what is asked of a model about each document, and how its answers are scored."""

from collections.abc import Callable, Iterator, Mapping, Sequence
import dataclasses
import pathlib
import random
from typing import Any, NamedTuple

import numpy as np

from t5x_lite.core.errors import UserError
from t5x_lite.evaluation.results import Metric
from t5x_lite.evaluation.suites.documents import DataSet, Row, read_rows

SHOTS_SEED = 1234   # lm-evaluation-harness's


class Question(NamedTuple):
  """A document, as a model is asked about it.

  Attributes:
    text: of the question, up to where its answer begins.
    choices: the answers to choose from, or the beginnings; where an answer is written, all that
      are right, if there are several.
    gold: the number of the right choice, or of several; None: the document has no label.
    answer: what follows the text in a solved example, with the blank that parts them.
    group: of the documents whose scores are averaged first, such as a subject; '' for none.
    target: the right answer where one is written; what follows the beginnings.
  """
  text: str
  choices: tuple[str, ...] = ()
  gold: int | tuple[int, ...] | None = None
  answer: str = ''
  group: str = ''
  target: str = ''


class Item(NamedTuple):
  """A question in its prompt.

  Attributes:
    id: the number of its document.
    shots: solved examples, each a pair of a question's text and its answer.
    description: stands before them.
  """
  id: int
  question: Question
  shots: tuple[tuple[str, str], ...] = ()
  description: str = ''

  @property
  def context(self) -> str:
    """Description, solved examples and question as one text."""
    solved = ''.join(f'{text}{answer}\n\n' for text, answer in self.shots)
    return f'{self.description}{solved}{self.question.text}'

  def messages(self, describes: str) -> list[dict[str, str]]:
    """The same as a conversation, each solved example a turn; the description is of the role
    `describes`: a message of the 'system', or the beginning of the first one of the 'user'."""
    turns = [(text, answer.strip()) for text, answer in self.shots] + [(self.question.text, None)]
    system, description = [], self.description
    if description and describes == 'system':
      system, description = [{'role': 'system', 'content': description}], ''
    turns[0] = description + turns[0][0], turns[0][1]
    return system + [{'role': role, 'content': text} for turn in turns
                     for role, text in zip(('user', 'assistant'), turn) if text is not None]

  @property
  def continuations(self) -> tuple[str, ...]:
    """What is scored after the context: a blank and a choice each."""
    return tuple(f' {choice}' for choice in self.question.choices)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Task:
  """What is asked of a model, and what for.

  Attributes:
    name: as it is chosen by.
    data: its rows.
    split: that is evaluated.
    ask: a row -> its Question. Raises KeyError, IndexError, TypeError, ValueError or
      AttributeError for a row of another layout.
    kind: what answers are: 'choices' are scored, or 'endings' of one text by what each has of its
      own, or one ending after several 'beginnings'; a 'word', or a 'continuation' of several, is
      scored and must be the likeliest; a whole 'text' is scored; or an answer is 'written'.
    score: (item, what the model gave) -> {metric: value}.
    headline: the metric of tables.
    shots: solved examples of the published convention.
    shots_split: where they are from; None: there are none.
    first_shots: whether they are the first of their split (and group), else drawn at random for
      each document.
    spare_shot: whether one example more is drawn than is shown, as lm-evaluation-harness does for
      a task without a test split.
    describe: (group) -> what stands before the examples.
    describes: whose message that is in a conversation, 'system' or 'user'.
    until: strings that end what is written.
    prompts: whose they are.
    of_corpus: the records of all items -> the metrics, where these are no means of items.
    conventions: of the metrics, such as the signature of BLEU.
  """
  name: str
  data: DataSet
  split: str
  ask: Callable[[Row], Question]
  kind: str = 'choices'
  score: Callable[[Item, Any], dict[str, float]]
  headline: str
  shots: int = 0
  shots_split: str | None = None
  first_shots: bool = False
  spare_shot: bool = False
  describe: Callable[[str], str] = lambda group: ''
  describes: str = 'system'
  until: tuple[str, ...] = ()
  prompts: str = 'lm-evaluation-harness 0.4.13'
  of_corpus: Callable[[Sequence[Mapping[str, Any]]], dict[str, Metric]] | None = None
  conventions: Callable[[], Mapping[str, Any]] = dict

  def read_items(self, folder: pathlib.Path | None, shots: int) -> list[Item]:
    """As `items`, of the rows that documents.read_rows finds."""
    rows = read_rows(self.data, self.split, folder)
    solved = read_rows(self.data, self.shots_split, folder) if shots else []
    return self.items(rows, solved, shots)

  def items(self, rows: Sequence[Row], shot_rows: Sequence[Row], shots: int) -> list[Item]:
    """All documents as items, with so many solved examples.

    Shots of a group are of that group, and each group draws them anew, as each of lm-eval's tasks
    does. Raises UserError for rows of another layout, or too few solved examples.
    """
    questions = self._ask_all(rows, self.split)
    solved: dict[str, list[Question]] = {}
    for question in self._ask_all(shot_rows, self.shots_split) if shots else ():
      solved.setdefault(question.group, []).append(question)
    draw: dict[str, Iterator] = {}
    items = []
    for i, question in enumerate(questions):
      group = question.group
      if group not in draw:
        draw[group] = self._draw_shots(solved.get(group, []), shots, group)
      items.append(Item(i, question, next(draw[group]), self.describe(group)))
    return items

  def _ask_all(self, rows: Sequence[Row], split: str | None) -> list[Question]:
    questions = []
    for number, row in enumerate(rows):
      try:
        question = self.ask(row)
      except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f'{self.name}: row {number} of {split} has another layout than '
                        f'{self.data.layout} ({error!r}); its fields are '
                        f'{", ".join(map(str, row))}') from error
      if self.kind in ('choices', 'endings', 'beginnings') and question.gold is None:
        raise UserError(f'{self.name}: row {number} of {split} has no label, as where a test split '
                        'keeps them secret: choose a split with labels')
      questions.append(question)
    return questions

  def _draw_shots(self, solved: Sequence[Question], shots: int, group: str
                  ) -> Iterator[tuple[tuple[str, str], ...]]:
    where = f' of {group}' if group else ''
    if shots > len(solved):
      raise UserError(f'{self.name}: {shots} solved examples are asked for, and '
                      f'{self.shots_split or "its data"} has {len(solved)}{where}')
    generator = random.Random(SHOTS_SEED)
    while True:
      chosen = solved if self.first_shots else generator.sample(
          solved, min(shots + self.spare_shot, len(solved)) if shots else 0)
      yield tuple((question.text, question.answer) for question in chosen[:shots])


def score_choices(item: Item, logprobs: Sequence[float]) -> dict[str, float]:
  """Whether the likeliest choice is right: `acc` by its log-likelihood, `acc_norm` by that over its
  characters, `acc_bytes` over its bytes of UTF-8; the first of equal ones is chosen."""
  choices, gold = item.question.choices, item.question.gold
  right = gold if isinstance(gold, tuple) else (gold,)
  hit = lambda sizes: float(int(np.argmax(np.asarray(logprobs) / sizes)) in right)
  return {'acc': hit(1.0), 'acc_norm': hit([max(len(c), 1) for c in choices]),
          'acc_bytes': hit([max(len(c.encode()), 1) for c in choices])}


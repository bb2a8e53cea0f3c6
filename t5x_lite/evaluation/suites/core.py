"""CORE: the mean over 22 tasks of accuracy, centred so that guessing has 0 and no error 1.

Li et al. 2024 (DataComp-LM): the tasks of low variance of MosaicML's Eval Gauntlet. Prompts, draws
of solved examples and scores are those of nanochat, whose folder `eval_bundle` has all the rows:
{query, choices, gold}, {context_options, continuation, gold} or {context, continuation}. Of some,
rows of the data sets of the hub become the same prompts.
"""

from collections.abc import Callable, Sequence
import dataclasses
import json
import pathlib
import random
from typing import Any, NamedTuple

import numpy as np

from t5x_lite.core.errors import UserError
from t5x_lite.core.files import write_text
from t5x_lite.evaluation.results import Metric, TaskResult, mean_of_metrics
from t5x_lite.evaluation.suites.documents import DataSet, Row, find_files, read_rows
from t5x_lite.evaluation.suites.questions import ask_arc, ask_hellaswag, ask_lambada
from t5x_lite.evaluation.suites.task import Item, Question, Task

ORDER_SEED, SHOTS_SEED = 1337, 1234
_ANSWER = '\nAnswer: '


@dataclasses.dataclass(frozen=True, kw_only=True)
class CoreTask(Task):
  """A task whose documents are in one shuffled order, and each other's solved examples."""

  def read_items(self, folder: pathlib.Path | None, shots: int) -> list[Item]:
    return self.items(read_rows(self.data, self.split, folder), (), shots)

  def items(self, rows: Sequence[Row], shot_rows: Sequence[Row], shots: int) -> list[Item]:
    """All documents as items in shuffled order, as of Task; `shot_rows` are not read."""
    questions = self._ask_all(rows, self.split)
    if shots >= len(questions):
      raise UserError(f'{self.name}: {shots} solved examples are asked for beside each document, '
                      f'and there are {len(questions)} documents')
    order = [*range(len(questions))]
    random.Random(ORDER_SEED).shuffle(order)
    items = []
    for place, number in enumerate(order):
      drawn = random.Random(SHOTS_SEED + place).sample(range(len(order) - 1), shots)
      shown = [questions[order[n + (n >= place)]] for n in drawn]   # all but the document's own
      items.append(Item(number, questions[number], tuple((q.text, q.answer) for q in shown)))
    return items

  def has_rows(self, folder: pathlib.Path | None) -> bool:
    """Whether a folder has its file, or the hub its data set."""
    return self.data.hub is not None if folder is None else bool(
        find_files(self.data, self.split, folder))


def _ask(kind: str, delimiter: str, convert: Callable[[Row], Row], row: Row) -> Question:
  """The Question of a row of the bundle, or of one that `convert` makes such a row of."""
  row = row if {'query', 'context_options', 'continuation'} & row.keys() else convert(row)
  if kind == 'endings':
    choices = tuple(row['choices'])
    gold = _label(row, choices)
    return Question(row['query'] + delimiter, choices, gold, choices[gold])
  if kind == 'beginnings':
    beginnings, ending = tuple(row['context_options']), delimiter + row['continuation']
    gold = _label(row, beginnings)
    return Question('', beginnings, gold, beginnings[gold] + ending, target=ending)
  continuation = row['continuation']
  return Question(row['context'].strip() + delimiter, answer=continuation, target=continuation)


def _label(row: Row, choices: Sequence[str]) -> int:
  gold = int(row['gold'])
  if not 0 <= gold < len(choices):
    raise ValueError(f'its label is {gold}')
  return gold


def _refuse(row: Row) -> Row:
  raise KeyError('query, context_options or continuation')


def _of_hellaswag(row: Row) -> Row:
  asked = ask_hellaswag(row)
  return {'query': asked.text, 'choices': asked.choices, 'gold': asked.gold}


def _of_arc(row: Row) -> Row:
  asked = ask_arc(row)
  return {'query': asked.text.removesuffix('\nAnswer:'), 'choices': asked.choices,
          'gold': asked.gold}


def _of_copa(row: Row) -> Row:
  word = {'cause': 'because', 'effect': 'therefore'}[row['question']]
  choices = [row[name][:1].lower() + row[name][1:] for name in ('choice1', 'choice2')]
  return {'query': f'{row["premise"].removesuffix(".")}, {word}', 'choices': choices,
          'gold': row['label']}


def _of_piqa(row: Row) -> Row:
  return {'query': f'Question: {row["goal"]}\n', 'choices': [row['sol1'], row['sol2']],
          'gold': row['label']}


def _of_openbook(row: Row) -> Row:
  return {'query': row['question_stem'], 'choices': row['choices']['text'],
          'gold': row['choices']['label'].index(row['answerKey'])}


def _of_boolq(row: Row) -> Row:
  return {'query': f'Passage: {row["passage"]}\nQuestion: {row["question"]}?',
          'choices': ['no', 'yes'], 'gold': row['answer']}


def _of_winogrande(row: Row) -> Row:
  before, after = row['sentence'].split('_')
  return {'context_options': [before + row['option1'], before + row['option2']],
          'continuation': after.strip(), 'gold': int(row['answer']) - 1}


def _of_lambada(row: Row) -> Row:
  asked = ask_lambada(row)
  return {'context': asked.text, 'continuation': asked.target.removeprefix(' ')}


def _score(baseline: float, item: Item, given: Any) -> dict[str, float]:
  """Whether the answer is right, also centred; `given` is of scoring.answer_items."""
  if hasattr(given, 'greedy'):
    hit = float(given.greedy)
  else:
    hit = float(int(np.argmax(given)) == item.question.gold)
  return {'acc': hit, 'centred': (hit - baseline) / (1 - baseline)}


def _task(label: str, kind: str, shots: int, percent: float, file: str, *, delimiter: str = ' ',
          convert: Callable[[Row], Row] = _refuse, names: tuple[str, ...] = (),
          hub: tuple[str, str | None] | None = None, split: str = 'validation') -> CoreTask:
  """A task by its label there; `percent` are right by chance."""
  return CoreTask(
      name=f'core_{label}', kind=kind, shots=shots, split=split, shots_split=split,
      data=DataSet(names, hub, f'eval_data/{file}'),
      ask=lambda row: _ask(kind, delimiter, convert, row),
      score=lambda item, given: _score(percent / 100, item, given),
      headline='centred', prompts="nanochat's CORE (DCLM), examples of the same file",
      conventions=lambda: {'accuracy of guessing': percent / 100})


_HELLASWAG = dict(file='language_understanding/hellaswag', convert=_of_hellaswag,
                  names=('hellaswag',), hub=('Rowan/hellaswag', None))
_ARC = dict(delimiter=_ANSWER, convert=_of_arc, split='test')
TASKS = {task.name: task for task in (
    _task('hellaswag_zeroshot', 'endings', 0, 25, **_HELLASWAG),
    _task('jeopardy', 'continuation', 10, 0, 'world_knowledge/jeopardy_all', delimiter=_ANSWER),
    _task('bigbench_qa_wikidata', 'continuation', 10, 0, 'world_knowledge/bigbench_qa_wikidata'),
    _task('arc_easy', 'endings', 10, 25, 'world_knowledge/arc_easy', **_ARC,
          names=('arc_easy', 'ARC-Easy'), hub=('allenai/ai2_arc', 'ARC-Easy')),
    _task('arc_challenge', 'endings', 10, 25, 'world_knowledge/arc_challenge', **_ARC,
          names=('arc_challenge', 'ARC-Challenge'), hub=('allenai/ai2_arc', 'ARC-Challenge')),
    _task('copa', 'endings', 0, 50, 'commonsense_reasoning/copa', convert=_of_copa,
          names=('copa',), hub=('aps/super_glue', 'copa')),
    _task('commonsense_qa', 'endings', 10, 20, 'commonsense_reasoning/commonsense_qa'),
    _task('piqa', 'endings', 10, 50, 'commonsense_reasoning/piqa', delimiter=_ANSWER,
          convert=_of_piqa, names=('piqa',), hub=('baber/piqa', None)),
    _task('openbook_qa', 'endings', 0, 25, 'commonsense_reasoning/openbook_qa',
          convert=_of_openbook, names=('openbookqa',), hub=('allenai/openbookqa', 'main')),
    _task('lambada_openai', 'continuation', 0, 0, 'language_understanding/lambada_openai',
          convert=_of_lambada, names=('lambada_openai', 'lambada'), split='test',
          hub=('EleutherAI/lambada_openai', 'default')),
    _task('hellaswag', 'endings', 10, 25, **_HELLASWAG),
    _task('winograd', 'beginnings', 0, 50, 'language_understanding/winograd_wsc'),
    _task('winogrande', 'beginnings', 0, 50, 'language_understanding/winogrande',
          convert=_of_winogrande, names=('winogrande_xl', 'winogrande'),
          hub=('allenai/winogrande', 'winogrande_xl')),
    _task('bigbench_dyck_languages', 'continuation', 10, 0,
          'symbolic_problem_solving/bigbench_dyck_languages'),
    _task('agi_eval_lsat_ar', 'endings', 3, 20, 'symbolic_problem_solving/agi_eval_lsat_ar'),
    _task('bigbench_cs_algorithms', 'continuation', 10, 0,
          'symbolic_problem_solving/bigbench_cs_algorithms'),
    _task('bigbench_operators', 'continuation', 10, 0,
          'symbolic_problem_solving/bigbench_operators'),
    _task('bigbench_repeat_copy_logic', 'continuation', 10, 0,
          'symbolic_problem_solving/bigbench_repeat_copy_logic'),
    _task('squad', 'continuation', 10, 0, 'reading_comprehension/squad'),
    _task('coqa', 'continuation', 0, 0, 'reading_comprehension/coqa'),
    _task('boolq', 'endings', 10, 62, 'reading_comprehension/boolq', delimiter=_ANSWER,
          convert=_of_boolq, names=('boolq',), hub=('google/boolq', None)),
    _task('bigbench_language_identification', 'endings', 10, 9.1,
          'language_understanding/bigbench_language_identification'),
)}


def keep_present(tasks: Sequence[Task], folder: pathlib.Path | None) -> list[Task]:
  """The tasks without those of CORE that have no rows; raises UserError where it has none at all.

  Args:
    tasks: of which CORE as a whole was asked for.
    folder: of files; None: the hub.
  """
  if folder is not None and not folder.is_dir():
    raise UserError(f'--data={folder} is no folder')
  kept = [task for task in tasks if not isinstance(task, CoreTask) or task.has_rows(folder)]
  if not any(isinstance(task, CoreTask) for task in kept):
    raise UserError(f'--data={folder} has none of the files of CORE: name the folder eval_bundle, '
                    'or one with files as hellaswag_validation.jsonl')
  return kept


class Average(NamedTuple):
  """Of the centred accuracies of tasks of CORE.

  Attributes:
    whole: whether it is CORE: of all tasks and documents, with the published shots.
    value: the mean, with its error, tasks being independent.
    missing: names of the tasks that it lacks.
    changed: names of those with other shots or fewer documents.
  """
  whole: bool
  value: Metric
  missing: tuple[str, ...]
  changed: tuple[str, ...]

  def __str__(self) -> str:
    error = '' if self.value.error is None else f' +- {self.value.error:.4f}'
    if self.whole:
      return f'CORE {self.value.value:.4f}{error}, the mean of {len(TASKS)} centred accuracies'
    text = (f'partial: {self.value.value:.4f}{error} is the mean of the centred accuracies of '
            f'{len(TASKS) - len(self.missing)} of the {len(TASKS)} tasks of CORE, which it is not')
    if self.missing:
      text += f'; missing: {", ".join(self.missing)}'
    if self.changed:
      text += f'; with other shots or fewer documents: {", ".join(self.changed)}'
    return text


def write_average(folder: pathlib.Path, found: Average, step: int | None) -> pathlib.Path:
  """Writes `core-STEP.json`, in place of an older one; returns its path."""
  path = folder / ('core.json' if step is None else f'core-{step}.json')
  write_text(path, json.dumps(found._asdict(), indent=1) + '\n')
  return path


def average(results: Sequence[TaskResult]) -> Average | None:
  """Of the results that are CORE's; None where none is."""
  found = {result.task: result for result in results if result.task in TASKS}
  if not found:
    return None
  centred = [result.metrics['centred'] for result in found.values()]
  missing = tuple(name for name in TASKS if name not in found)
  changed = tuple(name for name, result in found.items()
                  if result.shots != TASKS[name].shots or 'limit' in result.conventions)
  return Average(not missing and not changed, mean_of_metrics(centred), missing, changed)

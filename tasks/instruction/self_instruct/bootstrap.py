"""Rounds of instructions, whether each is a classification, and instances (Wang et al. 2022)."""

from collections.abc import Callable, Iterator, Sequence
import dataclasses
import functools
import random
from typing import Annotated, Protocol

from t5x_lite.core.dataclass_checks import Count, Range, Seed, check_types
from t5x_lite.core.errors import UserError
from tasks.instruction.self_instruct import filters, prompts
from tasks.instruction.self_instruct.results import Results, Row
from tasks.instruction.self_instruct.seed_tasks import Task

PATIENCE = 20   # rounds without a new task
INSTRUCTIONS, INSTANCES = 'instructions', 'instances'   # stages
_TOO_LONG = 'the prompt is longer than the model reads'
_SHORTEN = ('lower --human, --generated, --classifications and --generations, or raise '
            'TARGETS_LENGTH (INPUTS_LENGTH of an encoder-decoder)')
_CUT_OFF = 'cut off at the limit of tokens'
_CURES = {   # where most are refused for this
    _TOO_LONG: _SHORTEN,
    _CUT_OFF: 'raise InferConfig.max_tokens, or try a model that was trained on instructions'}


class Model(Protocol):
  """What is asked. An answer is its text, and whether the model ended it itself."""

  def fits(self, prompt: str) -> bool:
    """Whether the model reads all of it."""

  def sample(self, prompts: Sequence[str]) -> list[tuple[str, bool]]:
    """Answers that are drawn."""

  def answer(self, prompts: Sequence[str]) -> list[tuple[str, bool]]:
    """The most likely answers."""

  def word(self, prompts: Sequence[str]) -> list[tuple[str, bool]]:
    """As `answer`, of a word."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
  """Of the paper, but for `batch_size`."""
  human: Count = 6          # instructions of people in a prompt for more
  generated: Annotated[int, Range(min=0)] = 2   # of the model; where there are too few, of people
  classifications: Annotated[int, Range(min=0)] = 12   # tasks of people shown for the others
  generations: Annotated[int, Range(min=0)] = 19       # as those, of tasks without classes
  instances: Count = 5      # of a task, at most
  similarity: Annotated[float, Range(above=0, max=1)] = 0.7   # the lowest ROUGE-L that is refused
  batch_size: Count = 16    # prompts of a round
  seed: Seed = 0

  def __post_init__(self):
    check_types(self)


class Bootstrap:
  """Rounds, each of which depends on the seed, its number and the tasks of those before."""

  def __init__(self, seeds: Sequence[Task], model: Model, settings: Settings, results: Results):
    self._seeds, self._model, self._settings, self._results = seeds, model, settings, results
    self._kinds = {kind: [task for task in seeds if task.is_classification == kind]
                   for kind in (True, False)}
    # An instruction without instances is one of the pool, too.
    self._generated = [row['instruction'] for row in results.tasks] + [
        row['text'] for row in results.refused if row['stage'] == INSTANCES]
    self._pool = filters.Pool(settings.similarity, [
        *(task.instruction for task in seeds), *self._generated])

  def run(self, number: int) -> Iterator[Results]:
    """Rounds until there are so many tasks; yields after each.

    Raises UserError if the model reads no prompt of a round, or PATIENCE rounds give no task.
    """
    idle = 0
    while len(self._results.tasks) < number:
      before = len(self._results.tasks)
      self._results.add_round(*self._round(random.Random(
          f'{self._settings.seed} {self._results.rounds}')))
      idle = 0 if len(self._results.tasks) > before else idle + 1
      yield self._results
      if idle == PATIENCE:
        counts = self._results.counts()
        reasons = '; '.join(f'{why}: {count}' for why, count in counts.items())
        cure = _CURES.get(next(iter(counts), None), 'try a larger model, one that was trained on '
                          'instructions, or another temperature')
        raise UserError(f'{PATIENCE} rounds in a row gave no new task ({reasons}; all are in '
                        f'{self._results.folder}): {cure}')

  def _round(self, rng: random.Random) -> tuple[list[Row], list[Row]]:
    """(tasks, what was refused)."""
    refused: list[Row] = []
    refuse = lambda stage, text, why, **more: refused.append(
        {'stage': stage, 'text': text, 'why': why, **more})
    of_class = self._classify(self._new_instructions(rng, refuse), rng, refuse)
    found = self._ask(self._model.answer, [*of_class], lambda text: prompts.ask_instances(
        self._shown(rng, of_class[text]), text, of_class[text]),
                      functools.partial(refuse, INSTANCES))
    tasks = []
    for text, (answer, ended) in found.items():
      instances, why = filters.keep_instances(
          prompts.read_instances(answer, ended, of_class[text]), self._settings.instances)
      if why:
        refuse(INSTANCES, text, why, answer=answer)
        continue
      number = len(self._results.tasks) + len(tasks)
      tasks.append({'id': f'generated_task_{number}', 'instruction': text, 'instances': [
          {'input': given, 'output': output} for given, output in instances],
          'is_classification': of_class[text]})
    return tasks, refused

  def _new_instructions(self, rng: random.Random, refuse: Callable) -> list[str]:
    """The instructions of a round that are refused by nothing; they are in the pool from now on."""
    asked, generated = {}, sorted(self._generated)   # in an order that a resumed run has, too
    for _ in range(self._settings.batch_size):
      shown = rng.sample(generated, min(self._settings.generated, len(generated)))
      wanted = self._settings.human + self._settings.generated - len(shown)
      shown += rng.sample([task.instruction for task in self._seeds],
                          min(wanted, len(self._seeds)))
      rng.shuffle(shown)
      asked[prompts.ask_instructions(shown)] = len(shown)
    answers = self._ask(self._model.sample, [*asked], lambda prompt: prompt,
                        functools.partial(refuse, INSTRUCTIONS))
    if not answers:
      raise UserError(f'the model does not read the whole of a prompt: {_SHORTEN}')
    kept = []
    for prompt, (answer, ended) in answers.items():
      for text, whole in prompts.read_instructions(answer, ended, asked[prompt]):
        why = filters.refuse_instruction(text) if whole else _CUT_OFF
        similar = None if why else self._pool.similar(text)
        if similar:
          score, other = similar
          why = f'has a ROUGE-L of {self._settings.similarity:g} or more with another'
          refuse(INSTRUCTIONS, text, why, rouge_l=round(score, 3), similar_to=other)
        elif why:
          refuse(INSTRUCTIONS, text, why)
        else:
          self._pool.add(text)
          kept.append(text)
    self._generated += kept
    return kept

  def _classify(self, instructions: Sequence[str], rng: random.Random, refuse: Callable
                ) -> dict[str, bool]:
    """{instruction: whether it is a classification}; as in the paper's code, if the model says yes.

    Where tasks of one kind alone are shown, all are of that kind.
    """
    if not (self._shown(rng, True) and self._shown(rng, False)):
      return dict.fromkeys(instructions, bool(self._shown(rng, True)))
    found = self._ask(self._model.word, instructions, lambda text: prompts.ask_class(
        self._shown(rng, True) + self._shown(rng, False), text),
                      functools.partial(refuse, INSTANCES))
    return {text: prompts.read_class(answer) is True for text, (answer, _) in found.items()}

  def _ask(self, ask: Callable, texts: Sequence[str], prompt_of: Callable[[str], str],
           refuse: Callable) -> dict[str, tuple[str, bool]]:
    """{text: answer to its prompt} where the model reads all of the prompt; others are refused."""
    asked = {text: prompt_of(text) for text in texts}
    fitting = {text: prompt for text, prompt in asked.items() if self._model.fits(prompt)}
    for text in asked:
      if text not in fitting:
        refuse(text, _TOO_LONG)
    answers = ask([*fitting.values()]) if fitting else []
    return dict(zip(fitting, answers, strict=True))

  def _shown(self, rng: random.Random, is_classification: bool) -> list[Task]:
    """Seed tasks of a kind, drawn."""
    tasks = self._kinds[is_classification]
    number = self._settings.classifications if is_classification else self._settings.generations
    return rng.sample(tasks, min(number, len(tasks)))

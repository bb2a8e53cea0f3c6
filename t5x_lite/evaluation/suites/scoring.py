"""Answers of a model to the items of a task, and the metrics of them."""

from collections.abc import Mapping, Sequence
import math
from typing import Any

import numpy as np

from t5x_lite.core.errors import UserError
from t5x_lite.data.source import Chat
from t5x_lite.evaluation.likelihood import Request, Scored
from t5x_lite.evaluation.results import Metric, mean_of, mean_of_metrics
from t5x_lite.evaluation.suites import parted
from t5x_lite.evaluation.suites.task import Item, Task
from t5x_lite.evaluation.text_model import TextModel


def answer_items(task: Task, items: Sequence[Item], model: TextModel, chat: Chat | None = None
                 ) -> list[dict[str, Any]]:
  """A record of each item under a model, as of results.write_result.

  `chat` asks in conversations, in which solved examples are turns; None: in a plain text. Raises
  UserError for a task that asks nothing.
  """
  if chat and task.kind not in ('choices', 'word', 'written'):
    raise UserError(f'{task.name} is a text and no question to a chat template: leave --chat out')
  if task.kind == 'written':
    read = (lambda item: _ask(item, task, model, chat)) if chat else (
        lambda item: model.reader.read(item.context))
    outputs = model.write_after([read(item) for item in items], task.until)
    return [_record(task, item, output, {'output': output, 'target': item.question.target})
            for item, output in zip(items, outputs)]
  requests = [_chat_requests(task, item, model, chat) if chat else _requests(task, item, model)
              for item in items]
  flat = model.score([request for own in requests for request in own])
  records, start = [], 0
  for item, own in zip(items, requests):
    scored = flat[start:start + len(own)]
    start += len(own)
    records.append(_of_scores(task, item, scored))
  return records


def _ask(item: Item, task: Task, model: TextModel, chat: Chat) -> list[int]:
  """Ids of the conversation up to where the model answers."""
  return model.reader.framed(chat.prompt(item.messages(task.describes)))


def _chat_requests(task: Task, item: Item, model: TextModel, chat: Chat) -> list[Request]:
  """What is scored of an item; the template, not a blank, parts an answer from its question."""
  context = _ask(item, task, model, chat)
  answers = item.question.choices if task.kind == 'choices' else (item.question.target,)
  return [Request(context, model.reader.plain(answer)) for answer in answers]


def _requests(task: Task, item: Item, model: TextModel) -> list[Request]:
  """What is scored of an item."""
  reader = model.reader
  if task.kind == 'choices':
    return [reader.pair(item.context, text) for text in item.continuations]
  if task.kind == 'endings':
    return parted.part_endings(reader, item.context, item.question.choices)
  if task.kind == 'beginnings':
    return parted.part_beginnings(
        reader, [item.context + text for text in item.question.choices], item.question.target)
  if task.kind == 'continuation':
    return [parted.part_ending(reader, item.context, item.question.target)]
  if task.kind == 'word':
    return [reader.pair(item.context, item.question.target)]
  return [*reader.windows(item.question.target, model.max_length)]


def _of_scores(task: Task, item: Item, scored: Sequence[Scored]) -> dict[str, Any]:
  if task.kind == 'choices':
    logprobs = [s.total for s in scored]
    return _record(task, item, logprobs, {
        'choices': [*item.question.choices], 'gold': item.question.gold, 'logprobs': logprobs})
  if task.kind in ('endings', 'beginnings'):
    target = {'target': item.question.target} if item.question.target else {}
    return _record(task, item, [s.total / len(s.logprobs) for s in scored], {
        'choices': [*item.question.choices], **target, 'gold': item.question.gold,
        'logprobs': [s.total for s in scored], 'tokens': [len(s.logprobs) for s in scored]})
  if task.kind in ('word', 'continuation'):
    return _record(task, item, scored[0], {'target': item.question.target,
                                           'logprobs': [scored[0].total]})
  text = item.question.text
  return _record(task, item, -sum(s.total for s in scored), {
      'tokens': sum(len(s.logprobs) for s in scored), 'words': len(text.split()),
      'bytes': len(text.encode())})


def _record(task: Task, item: Item, given: Any, fields: Mapping[str, Any]) -> dict[str, Any]:
  group = {'group': item.question.group} if item.question.group else {}
  return {'id': item.id, **group, 'question': item.question.text, **fields,
          'metrics': task.score(item, given)}


def summarize(task: Task, records: Sequence[Mapping[str, Any]]
              ) -> tuple[dict[str, Metric], dict[str, float]]:
  """(metrics of all records, the mean of the first metric of each group).

  Errors are the sample's deviation over the square root of the number of items; of the mean of
  groups they are those of the groups' own means.
  """
  if task.kind == 'text':
    return perplexities(records), {}
  if task.of_corpus:
    return task.of_corpus(records), {}
  names = list(records[0]['metrics'])
  values = {name: np.asarray([r['metrics'][name] for r in records]) for name in names}
  found = {name: mean_of(x) for name, x in values.items()}
  if 'nats' in found:
    nats = found.pop('nats')
    error = None if nats.error is None else math.exp(nats.value) * nats.error
    found['perplexity'] = Metric(_exp(nats.value), error)
  groups = [r.get('group', '') for r in records]
  if not any(groups):
    return found, {}
  own = {group: mean_of(values[names[0]][[g == group for g in groups]])
         for group in sorted(set(groups))}
  means = {group: metric.value for group, metric in own.items()}
  return found | {f'{names[0]}_of_groups': mean_of_metrics([*own.values()])}, means


def perplexities(records: Sequence[Mapping[str, Any]]) -> dict[str, Metric]:
  """Of a corpus: nats of all texts over all their words, bytes and tokens."""
  nats = sum(r['metrics']['nats'] for r in records)
  words, size, tokens = (sum(r[name] for r in records) for name in ('words', 'bytes', 'tokens'))
  return {'word_perplexity': Metric(_exp(nats / words), None),
          'byte_perplexity': Metric(_exp(nats / size), None),
          'bits_per_byte': Metric(nats / size / math.log(2), None),
          'token_perplexity': Metric(_exp(nats / tokens), None)}


def _exp(x: float) -> float:
  return math.exp(x) if x < 700 else math.inf

"""Answers of a model to the items of a task, and the metrics of them."""

from collections.abc import Callable, Mapping, Sequence
import math
from typing import Any, Protocol

import numpy as np

from t5x_lite.evaluation.likelihood import Request, Scored
from t5x_lite.evaluation.reader import TextReader
from t5x_lite.evaluation.results import Metric
from t5x_lite.evaluation.suites.task import Item, Task


class Scorer(Protocol):
  """Scores requests, in their order, and tells how many are done."""

  def __call__(self, requests: Sequence[Request]) -> list[Scored]: ...


def answer_items(task: Task, items: Sequence[Item], reader: TextReader, score: Scorer,
                 max_length: int, write: Callable[[Sequence[str], Sequence[str]], list[str]]
                 ) -> list[dict[str, Any]]:
  """A record of each item, as of results.write_result.

  Args:
    task, items: what is asked.
    reader: makes ids of texts.
    score: gives log-likelihoods.
    max_length: tokens that the model reads, which texts are cut into windows of.
    write: (contexts, strings that end an answer) -> what the model writes.
  """
  if task.kind == 'written':
    outputs = write([item.context for item in items], task.until)
    return [_record(task, item, output, {'output': output, 'target': item.question.target})
            for item, output in zip(items, outputs)]
  requests = [_requests(task, item, reader, max_length) for item in items]
  flat = score([request for own in requests for request in own])
  records, start = [], 0
  for item, own in zip(items, requests):
    scored = flat[start:start + len(own)]
    start += len(own)
    records.append(_of_scores(task, item, scored))
  return records


def _requests(task: Task, item: Item, reader: TextReader, max_length: int) -> list[Request]:
  """What is scored of an item."""
  if task.kind == 'choices':
    return [reader.pair(item.context, text) for text in item.continuations]
  if task.kind == 'word':
    return [reader.pair(item.context, item.question.target)]
  return [*reader.windows(item.question.target, max_length)]


def _of_scores(task: Task, item: Item, scored: Sequence[Scored]) -> dict[str, Any]:
  if task.kind == 'choices':
    logprobs = [s.total for s in scored]
    return _record(task, item, logprobs, {
        'choices': [*item.question.choices], 'gold': item.question.gold, 'logprobs': logprobs})
  if task.kind == 'word':
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
    return _perplexities(records), {}
  names = list(records[0]['metrics'])
  values = {name: np.asarray([r['metrics'][name] for r in records]) for name in names}
  found = {name: Metric(float(x.mean()), _error(x)) for name, x in values.items()}
  if task.kind == 'word':
    nats = found.pop('nats')
    error = None if nats.error is None else math.exp(nats.value) * nats.error
    found['perplexity'] = Metric(_exp(nats.value), error)
  groups = [r.get('group', '') for r in records]
  if not any(groups):
    return found, {}
  own = {group: values[names[0]][[g == group for g in groups]] for group in sorted(set(groups))}
  means = {group: float(x.mean()) for group, x in own.items()}
  errors = [_error(x) for x in own.values()]
  spread = None if None in errors else math.sqrt(sum(e * e for e in errors)) / len(own)
  return found | {f'{names[0]}_of_groups': Metric(float(np.mean([*means.values()])), spread)}, means


def _perplexities(records: Sequence[Mapping[str, Any]]) -> dict[str, Metric]:
  """Of a corpus: nats of all texts over all their words, bytes and tokens."""
  nats = sum(r['metrics']['nats'] for r in records)
  words, size, tokens = (sum(r[name] for r in records) for name in ('words', 'bytes', 'tokens'))
  return {'word_perplexity': Metric(_exp(nats / words), None),
          'byte_perplexity': Metric(_exp(nats / size), None),
          'bits_per_byte': Metric(nats / size / math.log(2), None),
          'token_perplexity': Metric(_exp(nats / tokens), None)}


def _error(x: np.ndarray) -> float | None:
  return float(x.std(ddof=1) / math.sqrt(len(x))) if len(x) > 1 else None


def _exp(x: float) -> float:
  return math.exp(x) if x < 700 else math.inf

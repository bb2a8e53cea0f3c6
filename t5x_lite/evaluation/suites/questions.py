"""Rows of data sets that several suites ask, as questions."""

import re

from t5x_lite.evaluation.suites.documents import Row
from t5x_lite.evaluation.suites.task import Question


def ask_arc(row: Row) -> Question:
  """Of ARC; `choices` may also be a list, with `gold`, the index of the right one."""
  choices, gold = row['choices'], row.get('gold')
  if not isinstance(choices, list):
    choices, gold = choices['text'], choices['label'].index(row['answerKey'])
  return Question(f'Question: {row["question"]}\nAnswer:', tuple(choices), gold,
                  f' {choices[gold]}')


def ask_hellaswag(row: Row) -> Question:
  """Of HellaSwag; rows may also have `query` and `choices` as they are asked, with `gold`."""
  if 'query' in row:
    query, choices, gold = row['query'], row['choices'], row['gold']
  else:
    context = f'{row["activity_label"]}: {row["ctx_a"]} {row["ctx_b"].capitalize()}'
    query, choices = _of_wikihow(context), [_of_wikihow(x) for x in row['endings']]
    gold = None if row['label'] == '' else int(row['label'])
  return Question(query, tuple(choices), gold, '' if gold is None else f' {choices[gold]}')


def _of_wikihow(text: str) -> str:
  """Without the marks of WikiHow's texts."""
  text = re.sub(r'\[.*?\]', '', text.strip().replace(' [title]', '. '))
  return text.replace('  ', ' ')


def ask_lambada(row: Row) -> Question:
  """Of LAMBADA: the last word of a passage; rows may also have it apart, as `continuation`."""
  text = row['text'] if 'text' in row else f'{row["context"]} {row["continuation"]}'
  context, _, word = text.rpartition(' ')
  return Question(context, answer=f' {word}', target=f' {word}')

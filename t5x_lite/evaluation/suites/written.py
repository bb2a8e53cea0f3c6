"""Tasks whose answers are texts: questions about a passage, summaries, translations.

Prompts are those of lm-evaluation-harness 0.4.13 (squadv2, cnn_dailymail_abisee, wmt16-en-de …);
scores are those by which the data sets are published. In solved examples two blanks stand before
an answer, as there: the harness adds one to the answer's own.
"""

import collections
from collections.abc import Mapping, Sequence
import re
import string
from typing import Any

from t5x_lite.evaluation.results import Metric
from t5x_lite.evaluation.suites.documents import DataSet, Row
from t5x_lite.evaluation.suites.task import Item, Question, Task


def ask_squad(row: Row) -> Question:
  """Of SQuAD 1.1: a passage, a question about it, and its right answers, spans of the passage."""
  answers = tuple(row['answers']['text'])
  return Question(f'Title: {row["title"]}\n\nBackground: {row["context"]}\n\n'
                  f'Question: {row["question"]}\n\nAnswer:', answers, answer=f'  {answers[0]}',
                  target=answers[0])


def score_squad(item: Item, output: str) -> dict[str, float]:
  """`f1` of words and `exact_match` (Rajpurkar et al. 2016), with the best of the right answers.

  Case, punctuation, the words a, an and the, and spacing do not count.
  """
  answers, output = map(_plain, item.question.choices), _plain(output)
  pairs = [(_word_f1(answer, output), float(answer == output)) for answer in answers]
  return {'f1': max(f1 for f1, _ in pairs), 'exact_match': max(exact for _, exact in pairs)}


def _plain(text: str) -> str:
  text = ''.join(c for c in text.lower() if c not in string.punctuation)
  return ' '.join(re.sub(r'\b(a|an|the)\b', ' ', text).split())


def _word_f1(answer: str, output: str) -> float:
  right, given = answer.split(), output.split()
  shared = (collections.Counter(right) & collections.Counter(given)).total()
  return 2 * shared / (len(right) + len(given)) if shared else 0.0


def ask_summary(row: Row) -> Question:
  """Of CNN/DailyMail: an article and its highlights, one a line."""
  return Question(f'Summarize the following article:\n\n{row["article"]}\n\nSummary:',
                  target=row['highlights'])


def score_summary(item: Item, output: str) -> dict[str, float]:
  """F1 of ROUGE-1, ROUGE-2 and ROUGE-Lsum (Lin 2004) as T5 has them: unstemmed, sentences being
  lines, or parted by ' . '."""
  from rouge_score import rouge_scorer  # slow to import: it loads nltk
  target, output = (text.replace(' . ', ' .\n') for text in (item.question.target, output))
  kinds = ('rouge1', 'rouge2', 'rougeLsum')
  found = rouge_scorer.RougeScorer(kinds).score(target, output)
  return {kind: found[kind].fmeasure for kind in kinds}


def _describe_summaries() -> dict[str, str]:
  return {'rouge': 'F1 of rouge-score, unstemmed, mean over summaries'}


def ask_translation(source: str, target: str, row: Row) -> Question:
  """Of WMT, whose rows have `translation`, a text by the code of each language."""
  pair = row['translation']
  return Question(f'{_LANGUAGES[source]} phrase: {pair[source]}\n{_LANGUAGES[target]} phrase:',
                  answer=f'  {pair[target]}', target=pair[target])


def score_translation(item: Item, output: str) -> dict[str, float]:
  """BLEU of one sentence, to compare models by; BLEU of a corpus is no mean of these."""
  import sacrebleu
  return {'sentence_bleu': sacrebleu.sentence_bleu(output, [item.question.target]).score}


def score_corpus(records: Sequence[Mapping[str, Any]]) -> dict[str, Metric]:
  """`bleu` (Papineni et al. 2002) and `chrf` (Popović 2015) of all translations, 0 to 100."""
  outputs, targets = ([record[name] for record in records] for name in ('output', 'target'))
  return {name: Metric(metric.corpus_score(outputs, [targets]).score, None)
          for name, metric in _corpus_metrics().items()}


def describe_corpus() -> dict[str, str]:
  """sacreBLEU's signatures of the metrics of `score_corpus`."""
  found = {}
  for name, metric in _corpus_metrics().items():
    metric.corpus_score(['a'], [['a']])   # how many references there are is part of a signature
    found[name] = str(metric.get_signature())
  return found


def _corpus_metrics() -> dict[str, Any]:
  from sacrebleu import metrics
  return {'bleu': metrics.BLEU(), 'chrf': metrics.CHRF()}


_LANGUAGES = {'de': 'German', 'en': 'English', 'fr': 'French', 'ro': 'Romanian'}


def _translation(data: str, languages: str, source: str, target: str) -> Task:
  """Of a WMT data set and one of its pairs of languages, such as 'de-en'."""
  return Task(
      name=f'{data}-{source}-{target}', kind='written', split='test', headline='bleu',
      ask=lambda row: ask_translation(source, target, row), score=score_translation,
      of_corpus=score_corpus, conventions=describe_corpus, until=('\n',), shots_split='validation',
      data=DataSet((f'{data}_{languages}', f'{data}/{languages}', languages),
                   (f'wmt/{data}', languages)))


TASKS = {task.name: task for task in (
    Task(name='squad', kind='written', ask=ask_squad, split='validation', score=score_squad,
         headline='f1', shots_split='train', spare_shot=True, until=('\n',),
         data=DataSet(('squad', 'plain_text'), ('rajpurkar/squad', None))),
    Task(name='cnn_dailymail', kind='written', ask=ask_summary, split='test', score=score_summary,
         headline='rougeLsum', until=('\n\n',), conventions=_describe_summaries,
         data=DataSet(('cnn_dailymail', '3.0.0'), ('abisee/cnn_dailymail', '3.0.0'))),
    *(_translation(data, f'{other}-en', *pair) for data, other in (
        ('wmt14', 'fr'), ('wmt16', 'de'), ('wmt16', 'ro'))
      for pair in (('en', other), (other, 'en'))),
)}

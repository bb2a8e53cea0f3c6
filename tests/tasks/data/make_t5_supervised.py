"""Writes t5_supervised.json: what T5's published code makes of the rows below, and how it scores.

The tests read the rows from this file, which needs no more than TensorFlow until it is run. Run it
in an environment of its own with the packages t5 (0.9.4) and babel beside this project's; install
t5 with --no-deps, or it replaces seqio:

  T5X_LITE_TEST_DATA=... python tests/tasks/data/make_t5_supervised.py
"""

import csv
import hashlib
import json
import os
import pathlib

FIXTURES = pathlib.Path(__file__).with_name('t5_supervised.json')
NUM_ROWS = 24
NUM_REAL = 40

# Quotes, brackets, tags, escapes, other scripts, odd spacing, and words of the formats themselves.
TEXTS = (
    'The sailors rode the breeze clear of the rocks.',
    "it 's a charming and often affecting journey . ",
    '"Quoted," she said; (really?)',
    'He paid $4.50 - no, 10% more!',
    'Straße, naïve café, 東京 and 🙂.',
    'a {sentence} with {0} and {{braces}}',
    '  leading and  double  spaces ',
    'question: is this a context: of sorts?',
    r'back\slash \1 and \n in letters',
    'One line.<br>Next line<br><b>bold</b> and <B>not</B>.',
    'tab\tand\nnew line',
    'U.S. troops left on Jan. 3, 2011.',
    'A',
    "Don't you think they're well-known?",
    'sentence1: of sentence2: word: label',
    '<unk> tokens and <extra_id_0>',
    'The penguin & the pigeon / a potato',
    'MIXED Case TEXT with the an a articles',
    'ends without a stop',
    '...',
    'What is 2+2=4?',
    "l'été à Genève coûte cher",
    'x_y-z * # @placeholder',
    'Wolfgang Amadeus Mozart was born in Salzburg.',
    '_underscore_ “curly quotes” — dash',
)

LABELS = {
    'glue_cola': ('unacceptable', 'acceptable'),
    'glue_sst2': ('negative', 'positive'),
    'glue_mrpc': ('not_equivalent', 'equivalent'),
    'glue_qqp': ('not_duplicate', 'duplicate'),
    'glue_mnli': ('entailment', 'neutral', 'contradiction'),
    'glue_mnli_matched': ('entailment', 'neutral', 'contradiction'),
    'glue_mnli_mismatched': ('entailment', 'neutral', 'contradiction'),
    'glue_qnli': ('entailment', 'not_entailment'),
    'glue_rte': ('entailment', 'not_entailment'),
    'glue_wnli': ('not_entailment', 'entailment'),
    'super_glue_boolq': ('False', 'True'),
    'super_glue_cb': ('entailment', 'contradiction', 'neutral'),
    'super_glue_copa': ('choice1', 'choice2'),
    'super_glue_multirc': ('False', 'True'),
    'super_glue_rte': ('entailment', 'not_entailment'),
    'super_glue_wic': ('False', 'True'),
}
TEXT_FIELDS = {
    'glue_cola': ('sentence',),
    'glue_sst2': ('sentence',),
    'glue_mrpc': ('sentence1', 'sentence2'),
    'glue_stsb': ('sentence1', 'sentence2'),
    'glue_qqp': ('question1', 'question2'),
    'glue_mnli': ('premise', 'hypothesis'),
    'glue_mnli_matched': ('premise', 'hypothesis'),
    'glue_mnli_mismatched': ('premise', 'hypothesis'),
    'glue_qnli': ('question', 'sentence'),
    'glue_rte': ('sentence1', 'sentence2'),
    'glue_wnli': ('sentence1', 'sentence2'),
    'super_glue_boolq': ('question', 'passage'),
    'super_glue_cb': ('premise', 'hypothesis'),
    'super_glue_copa': ('premise', 'choice1', 'choice2', 'question'),
    'super_glue_multirc': ('paragraph', 'question', 'answer'),
    'super_glue_record': ('passage', 'query'),
    'super_glue_rte': ('premise', 'hypothesis'),
    'super_glue_wic': ('word', 'sentence1', 'sentence2'),
    'squad': ('title', 'context', 'question'),
    'cnn_dailymail': ('article', 'highlights'),
    'wmt_en_de': ('de', 'en'),
    'wmt_en_fr': ('fr', 'en'),
    'wmt_en_ro': ('ro', 'en'),
}
REAL = {  # task: folder, the columns of its text fields and of its label
    'glue_cola': ('CoLA', (3,), 1),
    'glue_sst2': ('SST-2', ('sentence',), 'label'),
    'glue_mrpc': ('MRPC', ('#1 String', '#2 String'), 'Quality'),
    'glue_stsb': ('STS-B', ('sentence1', 'sentence2'), 'score'),
    'glue_qnli': ('QNLI', ('question', 'sentence'), 'label'),
    'glue_rte': ('RTE', ('sentence1', 'sentence2'), 'label'),
    'glue_wnli': ('WNLI', ('sentence1', 'sentence2'), 'label'),
}


def rows(name: str) -> list[dict]:
  """Returns NUM_ROWS made-up rows of a task, as TFDS has them."""
  return [_row(name, i) for i in range(NUM_ROWS)]


def _row(name: str, i: int) -> dict:
  text = lambda k: TEXTS[(i + 7 * k) % len(TEXTS)]
  row = {field: text(k) for k, field in enumerate(TEXT_FIELDS[name])}
  if name in LABELS:
    # The last row has no label, as in test splits.
    row['label'] = -1 if i == NUM_ROWS - 1 else (i * i + i // 3) % len(LABELS[name])
  if 'glue' in name:
    row['idx'] = i
  if name == 'glue_stsb':
    row['label'] = -1.0 if i == NUM_ROWS - 1 else i * 5 / (NUM_ROWS - 2)
  elif name == 'super_glue_multirc':
    row['idx'] = {'paragraph': i // 6, 'question': i // 3, 'answer': i % 3}
  elif name == 'super_glue_wic':
    row.update(start1=0, end1=1, start2=2, end2=3)
  elif name == 'super_glue_record':
    ends = ('.', '!', '?', '"', "'", '', ' and')
    row['passage'] = '\n@highlight\n'.join(text(k) + ends[(i + k) % 7] for k in range(3))
    row['entities'] = [text(k) for k in range(1 + i % 4)]
    row['answers'] = row['entities'][:i % 4]
    row['idx'] = {'passage': i // 2, 'query': i}
  elif name == 'squad':
    row['id'] = f'id{i}'
    row['answers'] = {'text': [text(k) for k in range(3, 4 + i % 3)],
                      'answer_start': list(range(1 + i % 3))}
  return row


def real_rows(name: str, folder: str | os.PathLike) -> list[dict]:
  """Returns the first NUM_REAL rows of GLUE's own dev.tsv."""
  directory, columns, label = REAL[name]
  with open(pathlib.Path(folder, directory, 'dev.tsv'), encoding='utf-8-sig') as file:
    if name == 'glue_cola':
      found = list(csv.reader(file, delimiter='\t', quoting=csv.QUOTE_NONE))
    else:
      found = list(csv.DictReader(file, delimiter='\t', quoting=csv.QUOTE_NONE))
  result = []
  for i, line in enumerate(found[:NUM_REAL]):
    row = dict(zip(TEXT_FIELDS[name], (line[c] for c in columns)), idx=i)
    value = line[label]
    if name == 'glue_stsb':
      row['label'] = float(value)
    else:
      row['label'] = LABELS[name].index(value) if value in LABELS[name] else int(value)
    result.append(row)
  return result


def dataset(examples: list[dict]):
  """Returns a tf.data.Dataset of the rows, with the types of TFDS."""
  import tensorflow as tf

  def spec(value):
    if isinstance(value, dict):
      return {name: spec(v) for name, v in value.items()}
    if isinstance(value, list):
      return tf.TensorSpec((None,), tf.string if isinstance(value[0], str) else tf.int32)
    kinds = {str: tf.string, int: tf.int64, float: tf.float32}
    return tf.TensorSpec((), kinds[type(value)])

  longest = {name: max((e[name] for e in examples), key=lambda v: len(v) if isinstance(v, list)
                       else 0) for name in examples[0]}
  return tf.data.Dataset.from_generator(lambda: examples, output_signature=spec(longest))


def digest(texts: list[str]) -> str:
  """Returns a fingerprint of texts that are not ours to publish."""
  return hashlib.sha256('\0'.join(texts).encode()).hexdigest()[:16]


def guesses(name: str, targets: list[str]) -> list[str]:
  """Returns what a poor model might answer: right, or another example's answer, or junk."""
  junk = {4: '', 9: 'true', 15: targets[15] + ' '}
  return [junk[i] if i in junk and name != 'cnn_dailymail' else t if i % 3 else targets[i - 1]
          for i, t in enumerate(targets)]


class _T5:
  """Preprocessing, postprocessing and metrics of one task, from the packages t5 and TFDS."""

  def __init__(self, name: str):
    import functools

    from t5.data import glue_utils, postprocessors, preprocessors
    from t5.evaluation import metrics
    import tensorflow_datasets as tfds

    self.postprocess = lambda text, **unused: text
    if name == 'squad':
      self.preprocess, self.postprocess = preprocessors.squad, postprocessors.qa
      self.metrics = [metrics.squad]
    elif name == 'cnn_dailymail':
      self.preprocess = functools.partial(
          preprocessors.summarize, article_key='article', summary_key='highlights')
      self.metrics = [metrics.rouge]
    elif name.startswith('wmt'):
      self.preprocess = functools.partial(
          preprocessors.translate, source_language='en', target_language=name[-2:])
      self.metrics = [metrics.bleu]
    else:
      builder = (tfds.text.super_glue.SuperGlue if name.startswith('super') else
                 tfds.text.glue.Glue)
      short = name.removeprefix('super_').removeprefix('glue_')
      config = builder.builder_configs[short]
      self.preprocess = glue_utils.get_glue_text_preprocessor(config)
      self.postprocess = glue_utils.get_glue_postprocess_fn(config)
      of = (glue_utils.get_super_glue_metric if name.startswith('super') else
            glue_utils.get_glue_metric)
      self.metrics = of(short)

  def examples(self, source: list[dict]) -> list[dict]:
    found = list(self.preprocess(dataset(source)).as_numpy_iterator())
    return [ex | {'inputs': ex['inputs'].decode(), 'targets': ex['targets'].decode()}
            for ex in found]

  def scores(self, name: str, examples: list[dict], predictions: list[str]) -> dict:
    strings = [{k: [a.decode() for a in v] if k == 'answers' else v for k, v in ex.items()}
               for ex in examples]
    targets = [self.postprocess(ex['targets'], example=ex, is_target=True) for ex in strings]
    predictions = [self.postprocess(p, example=ex, is_target=False)
                   for p, ex in zip(predictions, strings)]
    result = {}
    for metric in self.metrics:
      result |= {k: float(v) for k, v in metric(targets, predictions).items()}
    return result


def main() -> None:
  import numpy as np

  np.random.seed(0)  # rouge_score's bootstrap draws from it.
  made, real = {}, {}
  folder = pathlib.Path(os.environ['T5X_LITE_TEST_DATA']) / 'glue'
  for name in TEXT_FIELDS:
    task = _T5(name)
    examples = task.examples(rows(name))
    # Examples without a label are not scored.
    known = [ex for ex in examples if ex['targets'] not in ('<unk>', '-1.0')]
    targets = [ex['targets'] for ex in known]
    made[name] = {
        'texts': [[ex['inputs'], ex['targets']] for ex in examples],
        'scores': task.scores(name, known, guesses(name, targets)),
    }
    if name in LABELS:
      words = (*LABELS[name], 'junk', '', ' ' + LABELS[name][0], LABELS[name][1].upper(), '<unk>')
      ids = [task.postprocess(w, example=examples[0], is_target=False) for w in words]
      ids = [i['value'] if isinstance(i, dict) else i for i in ids]
      made[name]['ids'] = dict(zip(words, ids))
    if name in REAL:
      examples = task.examples(real_rows(name, folder))
      targets = [ex['targets'] for ex in examples]
      real[name] = {
          'inputs': digest([ex['inputs'] for ex in examples]),
          'targets': digest(targets),
          'scores': task.scores(name, examples, guesses(name, targets)),
      }
  text = json.dumps({'made': made, 'real': real}, indent=1, ensure_ascii=False)
  FIXTURES.write_text(text + '\n', encoding='utf-8')


if __name__ == '__main__':
  main()

"""Written answers, summaries, translations: prompts of lm-evaluation-harness, published scores."""

import gzip
import json
import os
import pathlib

import pytest

from t5x_lite.core.errors import UserError
from t5x_lite.evaluation.suites.scoring import summarize
from t5x_lite.evaluation.suites.tasks import TASKS

PEER = pathlib.Path(os.environ.get('T5X_LITE_TEST_DATA', '/nonexistent')) / (
    'peers/metrics/metrics.json.gz')
PASSAGE = {'title': 'Rain', 'context': 'Rain fell.', 'question': 'What fell?',
           'answers': {'text': ['The rain', 'rain, of course'], 'answer_start': [0, 0]}}
PAIRS = [{'translation': {'de': f'{n} Äpfel.', 'en': f'{n} apples.'}} for n in range(4)]


def scored(name: str, row: dict, output: str) -> dict[str, float]:
  task = TASKS[name]
  return task.score(task.items([row], [], 0)[0], output)


def test_prompts():
  item, = TASKS['squad'].items([PASSAGE], [PASSAGE | {'question': 'Why?'}] * 2, 1)
  assert item.context == (
      'Title: Rain\n\nBackground: Rain fell.\n\nQuestion: Why?\n\nAnswer:  The rain\n\n'
      'Title: Rain\n\nBackground: Rain fell.\n\nQuestion: What fell?\n\nAnswer:')
  item, = TASKS['cnn_dailymail'].items([{'article': 'It rained.', 'highlights': 'Rain .'}], [], 0)
  assert item.context == 'Summarize the following article:\n\nIt rained.\n\nSummary:'
  item = TASKS['wmt16-en-de'].items(PAIRS, [], 0)[1]
  assert item.context == 'English phrase: 1 apples.\nGerman phrase:'
  assert item.question.target == '1 Äpfel.'
  assert TASKS['wmt16-de-en'].items(PAIRS, [], 0)[1].context == (
      'German phrase: 1 Äpfel.\nEnglish phrase:')


def test_prompts_are_those_of_the_harness(tmp_path):
  lm_eval = pytest.importorskip('lm_eval')
  from lm_eval.tasks import TaskManager, get_task_dict
  from lm_eval.tasks.squadv2.task import SQuAD2
  item, = TASKS['squad'].items([PASSAGE], [], 0)
  assert item.context == SQuAD2.doc_to_text(None, PASSAGE)
  article = {'article': 'It rained.\nStill.', 'highlights': 'Rain .\nMore .'}
  library = pathlib.Path(lm_eval.__file__).parent / 'tasks'
  for name, path, rows, shots in [
      ('wmt16-en-de', 'translation/wmt16_en-de.yaml', PAIRS, 2),
      ('wmt16-ro-en', 'translation/wmt16_ro-en.yaml',
       [{'translation': {'ro': 'Da.', 'en': 'Yes.'}}] * 3, 1),
      ('cnn_dailymail', 'cnn_dailymail/cnn_dailymail.yaml', [article], 0)]:
    file = tmp_path / f'{name}.jsonl'
    file.write_text(''.join(json.dumps(row) + '\n' for row in rows))
    splits = ''.join(f'    {split}: {file}\n' for split in ('train', 'validation', 'test'))
    (tmp_path / f'{name}.yaml').write_text(
        f'include: {library / path}\ntask: t_{name}\ndataset_path: json\ndataset_name: null\n'
        f'num_fewshot: {shots}\ndataset_kwargs:\n  data_files:\n{splits}')
    manager = TaskManager(include_path=str(tmp_path), include_defaults=False)
    theirs = get_task_dict([f't_{name}'], manager)[f't_{name}']
    theirs.set_fewshot_seed(1234)
    theirs.build_all_requests(rank=0, world_size=1)
    items = TASKS[name].items(rows, rows, shots)
    assert len(items) == len(theirs.instances)
    for item, want in zip(items, theirs.instances):
      assert item.context == want.args[0]
      assert list(TASKS[name].until) == want.args[1]['until']


@pytest.mark.parametrize('output, f1, exact', [
    (' the RAIN!', 1, 1), ('Rain of course', 1, 1), ('rain of a kind', 2 * 2 / (3 + 3), 0),
    ('rain rain', 2 / 3, 0), ('snow', 0, 0), ('', 0, 0), ('an', 0, 0)])
def test_answers_are_scored_as_squad_does(output, f1, exact):
  assert scored('squad', PASSAGE, output) == {'f1': pytest.approx(f1), 'exact_match': exact}
  from tasks.metrics import question_answering  # of seqio's task, written apart from it
  theirs = question_answering.squad([PASSAGE['answers']['text']], [output])
  assert theirs == {'f1': pytest.approx(100 * f1), 'em': 100 * exact}


def test_summaries_are_scored_as_t5_does():
  row = {'article': '', 'highlights': 'Rain fell in York .\nMost of it on Monday .'}
  output = 'Fell rain on Monday . It was in York .'
  # Words: 9 and 8, of which rain, fell, in, york, it, on, monday are shared; pairs: in york, on
  # monday. The longest subsequences, a sentence at a time, cover one of rain and fell, and in york,
  # of the first line; it, and on monday, of the second: 6.
  ratio = lambda shared, a=9, b=8: 2 * shared / (a + b)
  assert scored('cnn_dailymail', row, output) == {
      'rouge1': pytest.approx(ratio(7)), 'rouge2': pytest.approx(ratio(2, 8, 7)),
      'rougeLsum': pytest.approx(ratio(6))}
  from tasks import metrics
  theirs = metrics.rouge([row['highlights']], [output])
  assert {k: 100 * v for k, v in scored('cnn_dailymail', row, output).items()} == pytest.approx(
      theirs)


@pytest.mark.skipif(not PEER.exists(), reason='T5X_LITE_TEST_DATA is not set')
def test_a_corpus_of_translations_is_scored_as_a_whole():
  peer = json.loads(gzip.decompress(PEER.read_bytes()))
  task = TASKS['wmt16-de-en']
  rows = [{'translation': {'de': '', 'en': text}} for text in peer['references']]
  records = [{'output': output, 'target': item.question.target,
              'metrics': task.score(item, output)}
             for item, output in zip(task.items(rows, [], 0), peer['hypotheses'], strict=True)]
  metrics, groups = summarize(task, records)
  assert list(metrics) == ['bleu', 'chrf'] and not groups
  assert metrics['bleu'].value == pytest.approx(peer['golden']['bleu/13a/lc0']['score'], abs=1e-9)
  assert metrics['bleu'].error is None
  mean = sum(record['metrics']['sentence_bleu'] for record in records) / len(records)
  assert abs(metrics['bleu'].value - mean) > 0.5   # which is another figure
  import sacrebleu
  version = sacrebleu.__version__
  assert task.conventions() == {
      'bleu': f'nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp|version:{version}',
      'chrf': f'nrefs:1|case:mixed|eff:yes|nc:6|nw:0|space:no|version:{version}'}


def test_rows_of_another_layout():
  for name, row, field in [('squad', {'question': 'Why?'}, 'answers'),
                           ('squad', PASSAGE | {'answers': {'text': []}}, 'IndexError'),
                           ('cnn_dailymail', {'text': ''}, 'article'),
                           ('wmt16-en-de', {'translation': {'fr': ''}}, "KeyError.'en'")]:
    with pytest.raises(UserError, match=f'row 0 of .* has another layout than .*{field}'):
      TASKS[name].items([row], [], 0)

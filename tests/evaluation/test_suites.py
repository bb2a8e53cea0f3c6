"""Prompts and scores of the suites against lm-evaluation-harness 0.4.13 (the fixtures)."""

import collections
import gzip
import json
import math
import os
import pathlib

import numpy as np
import pytest

from t5x_lite import cli
from t5x_lite.commands import evaluate
from t5x_lite.core.errors import UserError
from t5x_lite.evaluation.suites import documents
from t5x_lite.evaluation.suites.tasks import SUITES, TASKS
from t5x_lite.experiment import gin_config

DATA = pathlib.Path(os.environ.get('T5X_LITE_TEST_DATA', '/nonexistent'))
PEER = DATA / 'peers/lmeval'
needs_data = pytest.mark.skipif(not PEER.exists(), reason='T5X_LITE_TEST_DATA is not set')
OURS = {'arc': 'arc_challenge', 'lambada': 'lambada_openai'}   # the others have their names


def read(name: str) -> list[dict]:
  with gzip.open(PEER / name, 'rt', encoding='utf-8') as file:
    return [json.loads(line) for line in file]


def items_of(name: str, folder: str, shots: int) -> tuple:
  """(task, its items) of a folder of documents; a subject of MMLU is a name of its own there."""
  task = TASKS['mmlu' if name.startswith('mmlu') else OURS.get(name, name)]
  stem = 'truthfulqa' if name.startswith('truthfulqa') else name
  rows = read(f'{folder}/{stem}_{task.split}.jsonl.gz')
  solved = read(f'{folder}/{stem}_{task.shots_split}.jsonl.gz') if shots else []
  return task, task.items(rows, solved, shots)


def cases(rows: list[dict]) -> dict[tuple[str, int], list[dict]]:
  found = collections.defaultdict(list)
  for row in rows:
    found[row['task'], row['num_fewshot']].append(row)
  return found


@needs_data
def test_prompts_are_those_of_the_harness_byte_by_byte():
  given = cases(read('rendered.jsonl.gz'))
  assert len(given) == 19
  for (name, shots), rows in given.items():
    task, items = items_of(name, 'docs5', shots)
    for row in rows:
      item, asked = items[row['doc_id']], row['args']
      if task.kind == 'choices':
        assert [item.context, item.continuations[row['choice']]] == asked, (name, shots)
      elif task.kind == 'word':
        assert [item.context, item.question.target] == asked
      elif task.kind == 'text':
        assert [item.question.target] == asked
      else:
        assert item.context == asked[0] and list(task.until) == asked[1]['until']


@pytest.fixture(scope='module')
def model(tmp_path_factory):
  """The TextModel of the fixtures' checkpoint, of 1,024 tokens."""
  run = tmp_path_factory.mktemp('lmeval') / 'run'
  assert cli.main(['import', f'--from={PEER / "checkpoint"}', f'--to={run}']) == 0
  experiment = gin_config.load_experiment([str(run / 'config.gin')], [], trains=False)[0]
  return evaluate.load_text_model(experiment, batch_size=32, max_length=None)[0]


@needs_data
@pytest.mark.parametrize('name, shots, documents', [
    ('arc', 0, 50), ('arc', 5, 12), ('hellaswag', 3, 12), ('mmlu_conceptual_physics', 5, 25),
    ('truthfulqa_mc1', 0, 50), ('truthfulqa_mc2', 0, 50), ('lambada', 0, 50)])
def test_scores_are_those_of_the_harness(model, name, shots, documents):
  assert model.max_length == 1024
  task, items = items_of(name, 'docs50', shots)
  result, records = evaluate.evaluate(task, items[:documents], shots, model)
  wanted = cases(read('samples.jsonl.gz'))[name, shots][:documents]
  assert len(records) == len(wanted) == min(documents, len(items))
  for got, want in zip(records, wanted):
    np.testing.assert_allclose(got['logprobs'], [r[0] for r in want['resps']], atol=1e-3)
    if 'acc_norm' in want:
      assert (got['metrics']['acc'], got['metrics']['acc_norm']) == (want['acc'], want['acc_norm'])
    elif name == 'truthfulqa_mc2':
      assert got['metrics']['mc2'] == pytest.approx(want['acc'], abs=1e-5)
    else:
      assert got['metrics'].get('acc', got['metrics'].get('mc1')) == want['acc']
  totals = json.loads((PEER / 'manifest.json').read_text())['scores'][f'{name}/{shots}']
  if totals['sample_len'] == documents:
    found = result.metrics.get('acc') or result.metrics.get('mc1') or result.metrics['mc2']
    assert found.value == pytest.approx(totals['acc,none'], abs=1e-6)


@needs_data
def test_perplexities_of_pages_are_those_of_the_harness(model):
  task, items = items_of('wikitext', 'docs50', 0)
  result, _ = evaluate.evaluate(task, items, 0, model)
  totals = json.loads((PEER / 'manifest.json').read_text())['scores']['wikitext/0']
  for name in ('word_perplexity', 'byte_perplexity', 'bits_per_byte'):
    assert result.metrics[name].value == pytest.approx(totals[f'{name},none'], rel=1e-5), name
  # Bits a byte by hand: nats over all bytes, the bytes of the page as it was.
  size = sum(len(row['page'].encode()) for row in read('docs50/wikitext_test.jsonl.gz'))
  nats = sum(row['resps'][0][0] if isinstance(row['resps'][0], list) else row['resps'][0]
             for row in cases(read('samples.jsonl.gz'))['wikitext', 0])
  assert result.metrics['bits_per_byte'].value == pytest.approx(
      -nats / size / math.log(2), rel=1e-5)


@needs_data
def test_answers_that_are_written_are_those_of_the_harness(model):
  task, items = items_of('gsm8k', 'docs50', 2)
  _, (got,) = evaluate.evaluate(task, items[:1], 2, model)
  want = cases(read('samples.jsonl.gz'))['gsm8k', 2][0]['resps'][0]
  want = want[0] if isinstance(want, list) else want   # of fewer new tokens
  assert len(want) > 30 and got['output'].startswith(want)
  assert got['metrics'] == {'exact_match_strict': 0, 'exact_match_flexible': 0}


@pytest.mark.parametrize('output, strict, flexible', [
    ('So 3 * 4 = 12.\n#### 12', 1, 1), ('The answer is $12.', 0, 1), ('#### 1,200', 0, 0),
    ('#### 12\n#### 13', 1, 0), ('', 0, 0), ('twelve', 0, 0)])
def test_numbers_are_found_in_answers(output, strict, flexible):
  task = TASKS['gsm8k']
  item, = task.items([{'question': 'How many?', 'answer': 'Four by three.\n#### 12'}], [], 0)
  assert task.score(item, output) == {'exact_match_strict': strict,
                                      'exact_match_flexible': flexible}


def arc(**more) -> dict:
  return {'question': 'Why?', 'choices': {'text': ['x', 'yy'], 'label': ['A', 'B']},
          'answerKey': 'B'} | more


def test_layouts_of_rows():
  task = TASKS['arc_easy']
  flat = {'question': 'Why?', 'choices': ['x', 'yy'], 'gold': 1}
  official, own = task.items([arc(), flat], [], 0)
  assert official.question == own.question
  assert official.continuations == (' x', ' yy')
  assert task.score(official, [-1.0, -1.0]) == {'acc': 0, 'acc_norm': 1, 'acc_bytes': 1}
  with pytest.raises(UserError, match=r'row 0 of test has another layout .*its fields are text'):
    task.items([{'text': 'no choices'}], [], 0)
  with pytest.raises(UserError, match='row 1 of validation has no label'):
    hellaswag = {'activity_label': 'a', 'ctx_a': 'b', 'ctx_b': '', 'endings': ['c', 'd']}
    TASKS['hellaswag'].items([hellaswag | {'label': '1'}, hellaswag | {'label': ''}], [], 0)
  with pytest.raises(UserError, match='3 solved examples are asked for, and train has 1'):
    task.items([arc()], [arc()], 3)


def test_groups_count_alike():
  task = TASKS['mmlu']
  row = {'question': 'Q', 'choices': list('wxyz'), 'answer': 0}
  subjects = ['law'] * 3 + ['art']
  records = [{'group': g, 'metrics': {'acc': a}} for g, a in zip(subjects, (1, 0, 0, 1))]
  from t5x_lite.evaluation.suites.scoring import summarize
  metrics, groups = summarize(task, records)
  assert groups == {'art': 1, 'law': pytest.approx(1 / 3)}
  assert metrics['acc'].value == 0.5 and metrics['acc_of_groups'].value == pytest.approx(2 / 3)
  assert metrics['acc'].error == pytest.approx(np.std([1, 0, 0, 1], ddof=1) / 2)
  described = task.items([row | {'subject': 'abstract_algebra'}], [], 0)[0].context
  assert described.startswith('The following are multiple choice questions (with answers) about '
                              'abstract algebra.\n\nQ\nA. w\nB. x')


def test_suites_are_made_of_tasks():
  assert {name for names in SUITES.values() for name in names} <= TASKS.keys()
  shots = [TASKS[name].shots for name in SUITES['open_llm_v1']]
  assert shots == [25, 10, 5, 0]


@pytest.mark.parametrize('name', [
    'arc_easy_test.jsonl', 'arc_easy_test.jsonl.gz', 'arc_easy_test.json', 'ARC-Easy_test.json.gz',
    'ARC-Easy/test-00000-of-00001.parquet', 'arc_easy_test500.jsonl'])
def test_rows_are_found_under_the_names_of_data_sets(tmp_path, name):
  path, rows = tmp_path / name, [arc(), arc(question='How?')]
  path.parent.mkdir(exist_ok=True)
  if name.endswith('.parquet'):
    import pyarrow as pa
    import pyarrow.parquet
    pyarrow.parquet.write_table(pa.Table.from_pylist(rows), path)
  else:
    text = json.dumps(rows) if '.json' in name and '.jsonl' not in name else ''.join(
        json.dumps(row) + '\n' for row in rows)
    path.write_bytes(gzip.compress(text.encode()) if name.endswith('.gz') else text.encode())
  (tmp_path / 'arc_easy_test_official.jsonl').write_text('{}')   # another file
  got = documents.read_rows(TASKS['arc_easy'].data, 'test', tmp_path)
  assert [row['question'] for row in got] == ['Why?', 'How?']


@pytest.mark.parametrize('content, message', [
    (b'', 'is empty'), (b'{"question": ', ':1 is no JSON'), (b'[1]', ':1 is no JSON object'),
    (b'\xff\n', 'cannot be read')])
def test_bad_files_of_rows(tmp_path, content, message):
  (tmp_path / 'arc_easy_test.jsonl').write_bytes(content)
  with pytest.raises(UserError, match=message):
    documents.read_rows(TASKS['arc_easy'].data, 'test', tmp_path)


def test_missing_rows(tmp_path):
  with pytest.raises(UserError, match='has no arc_easy_test.jsonl'):
    documents.read_rows(TASKS['arc_easy'].data, 'test', tmp_path)
  with pytest.raises(UserError, match='is no folder'):
    documents.read_rows(TASKS['arc_easy'].data, 'test', tmp_path / 'none')

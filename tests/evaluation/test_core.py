"""CORE: prompts of the published rows, what of them is scored, centred means, missing files."""

import json
import math
import os
import pathlib
import random
import re
import types

import numpy as np
import pytest

from t5x_lite import cli
from t5x_lite.core.errors import UserError
from t5x_lite.evaluation.likelihood import Scored
from t5x_lite.evaluation.results import Metric, TaskResult
from t5x_lite.evaluation.suites import core, parted
from t5x_lite.evaluation.suites.scoring import answer_items, summarize
from t5x_lite.evaluation.suites.tasks import SUITES, TASKS

PEER = pathlib.Path(os.environ.get('T5X_LITE_TEST_DATA', '/nonexistent')) / 'peers/lmeval'
needs_data = pytest.mark.skipif(not PEER.exists(), reason='T5X_LITE_TEST_DATA is not set')
ENDINGS = [{'query': f'Q{n}', 'choices': ['no', 'yes'], 'gold': n % 2} for n in range(12)]


def item_of(name: str, row: dict, shots: int = 0, others=()):
  return core.TASKS[f'core_{name}'].items([row, *others], (), shots)


# (task, a row of the data set of the hub, that of the bundle, the prompts with each answer)
ROWS = [
    ('arc_easy', {'question': 'Where do plants get most of the energy they need to live and grow?',
                  'choices': {'text': ['water', 'sunlight'], 'label': ['A', 'B']},
                  'answerKey': 'B'},
     {'query': 'Question: Where do plants get most of the energy they need to live and grow?',
      'choices': ['water', 'sunlight'], 'gold': 1},
     ['Question: Where do plants get most of the energy they need to live and grow?\n'
      f'Answer: {answer}' for answer in ('water', 'sunlight')]),
    ('piqa', {'goal': 'ice box', 'sol1': 'will cool water', 'sol2': 'will cool soda', 'label': 0},
     {'query': 'Question: ice box\n', 'choices': ['will cool water', 'will cool soda'], 'gold': 0},
     [f'Question: ice box\n\nAnswer: will cool {drink}' for drink in ('water', 'soda')]),
    ('copa', {'premise': 'I coughed.', 'choice1': 'I inhaled smoke.', 'question': 'cause',
              'choice2': 'I lowered my voice.', 'label': 0},
     {'query': 'I coughed, because', 'choices': ['i inhaled smoke.', 'i lowered my voice.'],
      'gold': 0},
     ['I coughed, because i inhaled smoke.', 'I coughed, because i lowered my voice.']),
    ('openbook_qa', {'question_stem': 'Predators eat', 'answerKey': 'C', 'choices': {
        'text': ['lions', 'humans', 'bunnies', 'grass'], 'label': [*'ABCD']}},
     {'query': 'Predators eat', 'choices': ['lions', 'humans', 'bunnies', 'grass'], 'gold': 2},
     [f'Predators eat {food}' for food in ('lions', 'humans', 'bunnies', 'grass')]),
    ('boolq', {'passage': 'Many are.', 'question': 'is it one', 'answer': True},
     {'query': 'Passage: Many are.\nQuestion: is it one?', 'choices': ['no', 'yes'], 'gold': 1},
     [f'Passage: Many are.\nQuestion: is it one?\nAnswer: {word}' for word in ('no', 'yes')]),
    ('hellaswag', {'activity_label': 'Youth', 'ctx_a': '[header] How to ask [title] Be kind.',
                   'ctx_b': '', 'endings': ['Try.', '[step] Do not.'], 'label': '1'},
     {'query': 'Youth: How to ask. Be kind.', 'choices': ['Try.', ' Do not.'], 'gold': 1},
     ['Youth: How to ask. Be kind. Try.', 'Youth: How to ask. Be kind.  Do not.']),
    ('winogrande', {'sentence': 'Sarah was a better surgeon than Maria so _ got the easier cases.',
                    'option1': 'Sarah', 'option2': 'Maria', 'answer': '2'},
     {'context_options': [f'Sarah was a better surgeon than Maria so {name}'
                          for name in ('Sarah', 'Maria')],
      'continuation': 'got the easier cases.', 'gold': 1},
     [f'Sarah was a better surgeon than Maria so {name} got the easier cases.'
      for name in ('Sarah', 'Maria')]),
    ('lambada_openai', {'text': 'Now drive us to the\nold Fez'},
     {'context': 'Now drive us to the\nold', 'continuation': 'Fez'},
     ['Now drive us to the\nold Fez']),
    ('jeopardy', None, {'context': 'WORLD HISTORY: A complex in 1621 ',
                        'continuation': 'Tower of London'},
     ['WORLD HISTORY: A complex in 1621\nAnswer: Tower of London']),
    ('commonsense_qa', None, {'query': 'Question: Why?\nChoices:\nA. x\nB. y\nAnswer:',
                              'choices': ['A', 'B'], 'gold': 0},
     [f'Question: Why?\nChoices:\nA. x\nB. y\nAnswer: {letter}' for letter in 'AB']),
    ('bigbench_language_identification', None,
     {'query': 'Sentence: Ta.\nA. Bunama\nB. Azeri\nAnswer: ', 'choices': ['A', 'B'], 'gold': 0},
     [f'Sentence: Ta.\nA. Bunama\nB. Azeri\nAnswer:  {letter}' for letter in 'AB']),
]


@pytest.mark.parametrize('name, hub, bundled, texts', ROWS, ids=[row[0] for row in ROWS])
def test_prompts(name, hub, bundled, texts):
  task, (item,) = core.TASKS[f'core_{name}'], item_of(name, bundled)
  question = item.question
  assert texts == [{'endings': lambda x: item.context + x,
                    'beginnings': lambda x: item.context + x + question.target,
                    'continuation': lambda x: item.context + question.target}[task.kind](choice)
                   for choice in question.choices or ['']]
  right = texts[question.gold or 0]
  assert question.text + question.answer == right
  if hub is not None:
    assert item_of(name, hub)[0].question == question
  else:
    with pytest.raises(UserError, match='row 0 .* has another layout than eval_data/'):
      item_of(name, {'question': 'Why?'})


def test_solved_examples_are_other_documents_in_nanochats_draw():
  """Its loop, written out: shuffle, then for each place a generator of its own."""
  data = [row | {'number': n} for n, row in enumerate(ENDINGS)]
  random.Random(1337).shuffle(data)
  items = item_of('arc_easy', ENDINGS[0], 3, ENDINGS[1:])
  assert [item.id for item in items] == [row['number'] for row in data] != [*range(12)]
  for place, (row, item) in enumerate(zip(data, items)):
    others = [n for n in range(len(data)) if n != place]
    shown = [data[n] for n in random.Random(1234 + place).sample(others, 3)]
    assert item.context == ''.join(
        f'{other["query"]}\nAnswer: {other["choices"][other["gold"]]}\n\n' for other in shown
    ) + f'{row["query"]}\nAnswer: '
    assert row['number'] not in [other['number'] for other in shown]
  with pytest.raises(UserError, match='12 solved examples are asked for beside each document, and '
                                      'there are 12 documents'):
    item_of('arc_easy', ENDINGS[0], 12, ENDINGS[1:])


class Words:
  """A TextReader of a decoder whose tokens are words with their blanks, or marks."""
  family, start_id = 'decoder_only', '<s>'

  def __init__(self, before=('<s>',)):
    self.before = [*before]

  def read(self, text):
    return self.before + re.findall(r" ?\w+|'s|\s|[^\w\s]", text)

  def pair(self, context, continuation):
    return context, continuation


def own(requests) -> list[str]:
  return [''.join(request.continuation) for request in requests]


@pytest.mark.parametrize('before', [('<s>',), ()])
def test_what_a_choice_has_of_its_own(before):
  reader = Words(before)
  given = parted.part_endings(reader, 'You can ', ['buy a ball', 'buy a red ball', 'buy a net'])
  assert own(given) == [' ball', ' red ball', ' net']
  assert {tuple(request.context) for request in given} == {('<s>', 'You', ' can', ' buy', ' a')}
  # One that begins all the others: the token before is scored, too.
  assert own(parted.part_endings(reader, 'To', [' run', ' run fast'])) == [' run', ' run fast']
  assert own(parted.part_endings(reader, 'To', [' run', ' run'])) == [' run', ' run']
  given = parted.part_beginnings(
      reader, ["She could not stand Madonna's", "She could not stand the trainer's"], ' boyfriend.')
  assert own(given) == ["'s boyfriend."] * 2
  assert given[1].context == ['<s>', 'She', ' could', ' not', ' stand', ' the', ' trainer']
  assert own(parted.part_beginnings(reader, ['A', 'A'], ' b')) == ['A b'] * 2
  request = parted.part_ending(reader, 'What?\nAnswer: ', 'Tower of London')
  assert own([request]) == [' Tower of London']
  assert request.context == ['<s>', 'What', '?', '\n', 'Answer', ':']


def test_an_encoder_decoder_has_choices_in_its_decoder():
  reader = Words()
  reader.family = 'encoder_decoder'
  assert parted.part_endings(reader, 'Q ', ['buy a', 'buy b']) == [('Q ', 'buy a'), ('Q ', 'buy b')]
  assert parted.part_beginnings(reader, ['a', 'b'], ' c') == [('a', ' c'), ('b', ' c')]
  assert parted.part_ending(reader, 'a ', 'b') == ('a ', 'b')


def model_of(logprobs: dict[str, float], greedy: str = ''):
  """A model that gives each token what the table has of it, and writes `greedy`."""
  return types.SimpleNamespace(reader=Words(), max_length=64, score=lambda requests: [
      Scored(np.asarray([logprobs[token.strip()] for token in request.continuation]),
             ''.join(request.continuation).strip() == greedy) for request in requests])


def test_the_choice_of_the_best_token_mean_is_right_and_chance_is_zero():
  task = core.TASKS['core_hellaswag_zeroshot']
  row = {'query': 'It', 'choices': ['is new', 'is very old', 'is hot'], 'gold': 1}
  table = {'new': -1.5, 'very': -2.0, 'old': -0.5, 'hot': -1.5}
  (record,) = answer_items(task, task.items([row], (), 0), model_of(table))
  assert record['logprobs'] == [-1.5, -2.5, -1.5] and record['tokens'] == [1, 2, 1]
  assert record['metrics'] == {'acc': 1, 'centred': 1}   # -1.25 a token; by sums it is the worst
  wrong = answer_items(task, task.items([row | {'gold': 0}], (), 0), model_of(table))
  assert wrong[0]['metrics'] == {'acc': 0, 'centred': pytest.approx(-1 / 3)}
  metrics, _ = summarize(task, [record, *wrong, *wrong, *wrong])
  assert metrics['acc'].value == 0.25
  assert metrics['centred'].value == pytest.approx((0.25 - 0.25) / (1 - 0.25))
  assert metrics['centred'].error == pytest.approx(metrics['acc'].error / 0.75)


def test_beginnings_are_scored_by_what_follows_and_continuations_by_each_token():
  task = core.TASKS['core_winograd']
  row = {'context_options': ['Pete', 'Martin'], 'continuation': 'is rich.', 'gold': 0}
  table = {'is': -1.0, 'rich': -1.0, '.': -1.0}
  (record,) = answer_items(task, task.items([row], (), 0), model_of(table))
  assert record['metrics'] == {'acc': 1, 'centred': 1}   # the first of equals
  assert record['target'] == ' is rich.' and record['tokens'] == [3, 3]
  task = core.TASKS['core_coqa']
  items = task.items([{'context': 'Who?', 'continuation': 'Sir Nigel'}], (), 0)
  table = {'Sir': -0.1, 'Nigel': -0.1}
  for written, hit in (('Sir Nigel', 1), ('Sir', 0)):
    (record,) = answer_items(task, items, model_of(table, written))
    assert record['metrics'] == {'acc': hit, 'centred': hit}
  assert list(summarize(task, [record])[0]) == ['acc', 'centred']


def result_of(name: str, value: float, **more) -> TaskResult:
  task = core.TASKS[name]
  return TaskResult(**{'task': name, 'shots': task.shots, 'number': 9, 'headline': task.headline,
                       'metrics': {'centred': Metric(value, 0.1)}} | more)


def test_core_is_the_mean_of_all_22_and_anything_else_is_said_to_be_partial():
  assert SUITES['core'] == tuple(core.TASKS) and len(core.TASKS) == 22
  assert core.TASKS.keys() <= TASKS.keys()
  results = [result_of(name, n / 100) for n, name in enumerate(core.TASKS)]
  whole = core.average([*results, result_of('core_copa', 5, task='arc_easy')])
  assert whole.whole and whole.value.value == pytest.approx(sum(range(22)) / 22 / 100)
  assert whole.value.error == pytest.approx(0.1 / math.sqrt(22))
  assert str(whole) == 'CORE 0.1050 +- 0.0213, the mean of 22 centred accuracies'
  part = core.average(results[:20])
  assert part.missing == ('core_boolq', 'core_bigbench_language_identification')
  assert str(part) == (
      'partial: 0.0950 +- 0.0224 is the mean of the centred accuracies of 20 of the 22 tasks of '
      'CORE, which it is not; missing: core_boolq, core_bigbench_language_identification')
  for change in ({'shots': 1}, {'conventions': {'limit': 'the first 9 documents of each task'}}):
    changed = core.average([result_of('core_copa', 0.1, **change), *results[:5], *results[6:]])
    assert not changed.whole and not changed.missing and changed.changed == ('core_copa',)
    assert str(changed).endswith('; with other shots or fewer documents: core_copa')
  assert core.average([]) is None


def test_chance_and_shots_are_as_published():
  shots = {name.removeprefix('core_'): task.shots for name, task in core.TASKS.items()}
  assert [name for name, n in shots.items() if n == 0] == [
      'hellaswag_zeroshot', 'copa', 'openbook_qa', 'lambada_openai', 'winograd', 'winogrande',
      'coqa']
  assert shots['agi_eval_lsat_ar'] == 3 and sorted({*shots.values()}) == [0, 3, 10]
  chance = {name: task.conventions()['accuracy of guessing'] for name, task in core.TASKS.items()}
  assert sum(chance.values()) == pytest.approx(
      5 * 0.25 + 4 * 0.5 + 2 * 0.2 + 0.62 + 0.091)   # the others have no choices


def bundle(folder: pathlib.Path, **rows) -> pathlib.Path:
  for name, own_rows in rows.items():
    path = folder / f'{core.TASKS[f"core_{name}"].data.bundle}.jsonl'
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(''.join(json.dumps(row) + '\n' for row in own_rows))
  return folder


def test_tasks_without_files_are_left_out_of_the_suite_alone(tmp_path):
  bundle(tmp_path, hellaswag=ENDINGS)
  (tmp_path / 'copa_validation.jsonl').write_text('{}')
  tasks = [TASKS[name] for name in (*SUITES['core'], 'arc_easy')]
  assert [task.name for task in core.keep_present(tasks, tmp_path)] == [
      'core_hellaswag_zeroshot', 'core_copa', 'core_hellaswag', 'arc_easy']
  assert len(core.keep_present(tasks, None)) == 10 + 1   # those of the hub
  items = TASKS['core_hellaswag_zeroshot'].read_items(tmp_path, 0)
  assert len(items) == 12 and {item.question.text for item in items} == {
      f'Q{n} ' for n in range(12)}
  with pytest.raises(UserError, match='has no eval_data/reading_comprehension/coqa.jsonl: name the '
                                      'folder eval_bundle'):
    TASKS['core_coqa'].read_items(tmp_path, 0)
  with pytest.raises(UserError, match='coqa is in no data set of the hub: name the folder'):
    TASKS['core_coqa'].read_items(None, 0)
  (tmp_path / 'none').mkdir()
  with pytest.raises(UserError, match='has none of the files of CORE: name the folder eval_bundle'):
    core.keep_present(tasks, tmp_path / 'none')
  with pytest.raises(UserError, match='is no folder'):
    core.keep_present(tasks, tmp_path / 'else')


@pytest.mark.parametrize('name, row, why', [
    ('copa', {'query': 'Q', 'choices': ['a', 'b'], 'gold': 2}, 'its label is 2'),
    ('piqa', {'goal': 'x', 'sol1': 'a', 'sol2': 'b', 'label': -1}, 'its label is -1'),
    ('winogrande', {'sentence': 'no gap', 'option1': 'a', 'option2': 'b', 'answer': '1'}, 'unpack'),
    ('coqa', {'context': 'x'}, 'query, context_options or continuation'),
    ('winograd', {'context_options': ['a', 'b'], 'gold': 0}, 'continuation'),
    ('copa', {'premise': 'x', 'choice1': 'a', 'choice2': 'b', 'question': 'why', 'label': 0},
     "'why'")])
def test_rows_of_another_layout(name, row, why):
  with pytest.raises(UserError, match=f'core_{name}: row 0 of .* has another layout than .*{why}'):
    item_of(name, row)


def theirs(logits_of, encode, start: int, kind: str, prompts: list[str], limit: int):
  """nanochat's scores of whole prompts: (mean loss of the own part of each, all are likeliest)."""
  ids = [([start] + encode(text)) for text in prompts]
  if kind == 'endings':
    same = next(i for i in range(99999) if len({x[i] for x in ids}) > 1)
    starts = [same] * len(ids)
  elif kind == 'beginnings':
    same = next(i for i in range(1, 99999) if len({x[-i] for x in ids}) > 1) - 1
    starts = [len(x) - same for x in ids]
  else:
    without, with_all = ids
    assert with_all[:len(without)] == without
    ids, starts = [with_all], [len(without)]
  losses, best = [], True
  for x, begin in zip(ids, starts):
    cut = max(0, len(x) - limit)
    x, begin = np.asarray(x[cut:]), begin - cut
    logits = logits_of(x)[begin - 1:-1]
    log_p = logits - np.log(np.exp(logits - logits.max(-1, keepdims=True)).sum(
        -1, keepdims=True)) - logits.max(-1, keepdims=True)
    losses.append(-log_p[np.arange(len(x) - begin), x[begin:]].mean())
    best = best and bool((logits.argmax(-1) == x[begin:]).all())
  return losses, best


@needs_data
@pytest.mark.slow
def test_a_run_is_scored_as_nanochat_would(tmp_path, capsys):
  torch, transformers = map(pytest.importorskip, ('torch', 'transformers'))
  torch.set_num_threads(1)
  network = transformers.AutoModelForCausalLM.from_pretrained(PEER / 'checkpoint')
  tokenizer = transformers.AutoTokenizer.from_pretrained(PEER / 'checkpoint')

  def logits_of(ids):
    with torch.no_grad():
      return network(torch.tensor(ids)[None]).logits[0].double().numpy()

  words = 'red blue green old new big small cold warm fast slow kind'.split()
  rows = {
      'arc_challenge': [{'query': f'Question: What is {word}?', 'gold': n % 3, 'choices': [
          f'the {other} one', f'the {word} thing of all', 'the sun']}
                        for n, (word, other) in enumerate(zip(words, words[1:] + words[:1]))],
      'winograd': [{'context_options': [f'The {word} cat saw the dog as the {animal}'
                                        for animal in ('cat', 'dog')],
                    'continuation': f'was {word}.', 'gold': n % 2}
                   for n, word in enumerate(words)],
      'jeopardy': [{'context': f'COLOURS: Not {word} ', 'continuation': f'{other} one'}
                   for word, other in zip(words, reversed(words))]}
  run, data = tmp_path / 'run', bundle(tmp_path / 'eval_bundle', **rows)
  assert cli.main(['import', f'--from={PEER / "checkpoint"}', f'--to={run}']) == 0
  capsys.readouterr()
  asked = ['evaluate', str(run), '--tasks=core', f'--data={data}', '--max_length=256']
  assert cli.main(asked) == 0
  printed = capsys.readouterr().out
  assert 'of 3 of the 22 tasks of CORE, which it is not; missing: core_hellaswag_zero' in printed
  centred = []
  for name, own_rows in rows.items():
    task = core.TASKS[f'core_{name}']
    path = run / f'evaluations/core_{name}-{task.shots}shot-0'
    records = [json.loads(line) for line in path.with_suffix('.jsonl').read_text().splitlines()]
    items = task.items(own_rows, (), task.shots)
    hits = []
    for record, item in zip(records, items, strict=True):
      assert record['id'] == item.id
      row, shots = own_rows[item.id], ''.join(f'{q}{a}\n\n' for q, a in item.shots)
      if task.kind == 'endings':
        prompts = [f'{shots}{row["query"]}\nAnswer: {choice}' for choice in row['choices']]
      elif task.kind == 'beginnings':
        prompts = [f'{shots}{option} {row["continuation"]}' for option in row['context_options']]
      else:
        text = f'{shots}{row["context"].strip()}\nAnswer: '
        prompts = [text.strip(), text + row['continuation']]
      # One token more is read here of what is cut: the last one of a text is never read.
      losses, best = theirs(logits_of, lambda text: tokenizer.encode(
          text, add_special_tokens=False), tokenizer.bos_token_id, task.kind, prompts, 257)
      counts = record.get('tokens') or [1]
      if task.kind == 'continuation':
        hits.append(float(best))
        assert -record['logprobs'][0] / losses[0] == pytest.approx(
            round(-record['logprobs'][0] / losses[0]), abs=1e-4)
      else:
        np.testing.assert_allclose(-np.divide(record['logprobs'], counts), losses, atol=1e-4)
        hits.append(float(losses.index(min(losses)) == row['gold']))
      assert record['metrics']['acc'] == hits[-1]
    chance = task.conventions()['accuracy of guessing']
    centred.append((np.mean(hits) - chance) / (1 - chance))
  found = json.loads((run / 'evaluations/core-0.json').read_text())
  assert found['value'][0] == pytest.approx(np.mean(centred)) and not found['whole']
  assert len(found['missing']) == 19
  # Results of parts are no result of a suite: other commands read the tasks alone.
  assert cli.main(['leaderboard', str(run)]) == 0
  assert 'core_winograd (0-shot centred)' in capsys.readouterr().out

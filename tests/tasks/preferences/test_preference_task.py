"""Files of comparisons as a seqio task: what is read, encoded, refused and left out."""

import gzip
import json
import os
import pathlib
import subprocess
import sys

import pytest

from t5x_lite.core.errors import UserError
from tasks.preferences import PreferenceTask

_ROOT = os.environ.get('T5X_LITE_TEST_DATA')
_CHAT = pathlib.Path(_ROOT or '/', 'peers/chat')
needs_data = pytest.mark.skipif(not _ROOT, reason='T5X_LITE_TEST_DATA is not set')


def test_importing_and_checking_rows_load_neither_tensorflow_nor_seqio(tmp_path):
  path = write(tmp_path, {'prompt': 'Q', 'chosen': 'A', 'rejected': 'B'})
  code = (
      'import sys\n'
      'from tasks import preferences\n'
      f'task = preferences.PreferenceTask(train={path!r}, template="zephyr")\n'
      'preferences.PreferenceData(task=task, inputs_length=8, targets_length=8, batch_size=2)\n'
      'assert task.data_digest("train") and task.data_digest("validation") is None\n'
      "assert not {'tensorflow', 'seqio', 'tensorflow_datasets'} & set(sys.modules)"
  )
  subprocess.run([sys.executable, '-c', code], check=True)


def write(folder: pathlib.Path, *rows, name: str = 'rows.jsonl') -> str:
  path = folder / name
  path.write_text(''.join(json.dumps(row) + '\n' for row in rows))
  return str(path)


def pair(prompt='Q', chosen='A', rejected='B') -> dict:
  return {'prompt': prompt, 'chosen': chosen, 'rejected': rejected}


def load(task: PreferenceTask, vocabulary: str | None = None):
  import seqio

  from tasks import vocabularies
  from tasks.pipeline import registry
  name = task.register()
  if vocabulary:
    name = registry.with_vocabulary(name, vocabularies.load_vocabulary(vocabulary))
  return seqio.TaskRegistry.get(name)


def read(task, split='train', checks=True, **lengths) -> list[dict]:
  """The examples of a seqio task, after its rows are checked, as a run does."""
  from tasks.pipeline import one_line
  lengths = {'inputs': 64, 'targets': 64} | lengths
  if checks:
    task.source.check(split, lengths, task.output_features)
  with one_line.user_errors():
    return [{name: x.tolist() for name, x in example.items()} for example in task.get_dataset(
        lengths, split=split, shuffle=False, trim_output_features=False).as_numpy_iterator()]


def ids(text: str) -> list[int]:
  """Of bytes, with $ for the end of text."""
  return [1 if c == '$' else ord(c) + 3 for c in text]


def test_features_of_texts(tmp_path):
  rows = pair(), {'prompt': 'P', 'responses': ['x', 'yes', 'no'], 'scores': [0, 2, 1.5]}
  task = PreferenceTask(train=write(tmp_path, *rows), objective='ranking')
  assert read(load(task)) == [
      {'inputs': ids('Q'), 'targets': ids('A$B$'), 'response_lengths': [2, 2],
       'response_scores': [1, 0]},
      {'inputs': ids('P'), 'targets': ids('yes$no$x$'), 'response_lengths': [4, 3, 2],
       'response_scores': [2, 1.5, 0]}]
  pairs = PreferenceTask(train=task.train)
  assert [(x['targets'], x['response_scores']) for x in read(load(pairs))] == [
      (ids('A$B$'), [1, 0]), (ids('yes$no$'), [2, 1.5]), (ids('yes$x$'), [2, 0]),
      (ids('no$x$'), [1.5, 0])]
  ended = PreferenceTask(train=task.train, objective='ranking', add_eos=True)
  assert [x['inputs'] for x in read(load(ended))] == [ids('Q$'), ids('P$')]
  assert load(ended).output_features['inputs'].add_eos
  assert not load(task).output_features['inputs'].add_eos


def test_features_of_a_chat_and_of_thumbs(tmp_path):
  messages = [{'role': 'user', 'content': 'Q'}, {'role': 'assistant', 'content': 'A'}]
  path = write(tmp_path, {'messages': messages, 'label': False}, pair('P', 'C', 'D'))
  task = load(PreferenceTask(train=path, template='zephyr', objective='thumbs'))
  before = {q: ids(f'<|user|>\n{q}$\n<|assistant|>\n') for q in 'QP'}
  assert [(x['inputs'], x['targets'], x['response_scores']) for x in read(task)] == [
      (before['Q'], ids('A$'), [0]), (before['P'], ids('C$'), [1]), (before['P'], ids('D$'), [0])]


@needs_data
@pytest.mark.parametrize('name', ['chatml', 'llama3', 'zephyr', 'mistral', 'gemma'])
def test_prompt_and_response_are_what_transformers_makes_of_the_conversation(name, tmp_path):
  """As far as the end token: what a template writes after it is no part of a response."""
  cases = json.loads((_CHAT / 'cases.json').read_text())
  template = tmp_path / 'chat.jinja'
  template.write_text(cases['templates'][name])
  with gzip.open(_CHAT / 'rendered.jsonl.gz', 'rt') as file:
    rendered = [json.loads(line) for line in file]
  rendered = [r for r in rendered if r['template'] == name and 'error' not in r
              and r.get('add_generation_prompt') is False]
  talks = [cases['conversations'][r['conversation']] for r in rendered]
  chosen = [i for i, talk in enumerate(talks)
            if talk[-1]['role'] == 'assistant' and talk[-1]['content'].strip()
            # transformers makes control tokens of what a text spells, and here text is text
            and not any('<|im_end|>' in message['content'] for message in talk)]
  assert len(chosen) >= 4
  rows = [{'prompt': talks[i][:-1], 'chosen': talks[i][-1:],
           'rejected': [{'role': 'assistant', 'content': 'Something else.'}]} for i in chosen]
  task = load(PreferenceTask(train=write(tmp_path, *rows), template=str(template)),
              str(_CHAT / 'tokenizer/tokenizer.json'))
  examples = read(task, inputs=5000, targets=5000)
  from tasks.vocabularies import model_ids
  vocabulary = task.output_features['targets'].vocabulary
  end = {'chatml': '<|im_end|>', 'llama3': '<|eot_id|>', 'gemma': '<end_of_turn>'}.get(name, '</s>')
  (end_id,) = [i for i, spelling in vocabulary.file.control.items() if spelling == end]
  for example, i in zip(examples, chosen, strict=True):
    first = example['response_lengths'][0]
    prompt, response = example['inputs'], example['targets'][:first]
    whole = rendered[i]['input_ids']
    found = model_ids(vocabulary, prompt + response).tolist()
    # A decoder reads the beginning of a text before the first token.
    begins = whole[0] in vocabulary.file.control and whole[0] != found[0]
    assert found == whole[begins:begins + len(found)] and response[-1] == end_id
    assert not set(whole[begins + len(found):]) & {*vocabulary.file.control}
    rest = model_ids(vocabulary, example['targets'][first:]).tolist()
    assert vocabulary.decode(rest[:-1]).strip() == 'Something else.' and rest[-1] == end_id


def test_a_template_whose_prompt_does_not_begin_the_conversation_is_refused(tmp_path):
  path = tmp_path / 'think.jinja'
  path.write_text(
      "{% for m in messages %}{% if m.role == 'assistant' %}{% generation %}{{ m.content }}</s>"
      "{% endgeneration %}{% else %}{{ m.content }}{% endif %}{% endfor %}"
      "{% if add_generation_prompt %}<think></think>{% endif %}")
  task = load(PreferenceTask(train=write(tmp_path, pair()), template=str(path)))
  with pytest.raises(UserError, match=r'rows.jsonl:1: \S+think.jinja writes a conversation in anoth'
                     'er way than its prompt for an answer, which has 16 tokens, of which 1 begin'):
    read(task)


BAD = [
    ({'text': 'x'}, r'PreferenceTask.train: \S+rows.jsonl:2: fits none of the schemas'),
    (pair(chosen='B'), 'rows.jsonl:2: two responses are equal, '
     "'B', so that neither is preferred"),
    (pair(rejected=' '), 'rows.jsonl:2: response 2 of 2 is empty'),
    ({'prompt': 'Q', 'responses': ['a'], 'scores': [1]},
     'rows.jsonl:2: there is one response only'),
    ({'prompt': 'Q', 'completion': 'a', 'label': True}, "2: .*only.*set objective to 'thumbs'"),
    ({'prompt': [{'role': 'user', 'content': 'Q'}], 'chosen': 'A', 'rejected': 'B'},
     r"rows.jsonl:2: is a row of the schema 'pair' whose prompt is messages: set template"),
]


@pytest.mark.parametrize('bad, message', BAD)
def test_a_bad_row_is_refused_before_training(tmp_path, bad, message):
  path = write(tmp_path, pair(), bad)
  with pytest.raises(UserError, match=message):
    PreferenceTask(train=path).register()


def test_bad_rows_are_left_out_and_counted(tmp_path, capfd):
  path = write(tmp_path, pair('0'), *(bad for bad, _ in BAD), pair('1'))
  found = read(load(PreferenceTask(train=path, skip_bad=True)))
  assert [x['inputs'] for x in found] == [ids('0'), ids('1')]
  assert ('PreferenceTask.train: left out 6 bad row(s) beside 2 good ones; the first: '
          f'PreferenceTask.train: {path}:2: fits none') in capfd.readouterr().err


def test_ties_are_dropped_and_counted(tmp_path, capfd):
  tied = {'prompt': 'T', 'responses': ['a', 'b', 'c'], 'scores': [1, 1, 0]}
  level = {'prompt': 'L', 'responses': ['a', 'b'], 'scores': [3, 3]}
  path = write(tmp_path, tied, level, pair(chosen='B'), pair())
  with pytest.raises(UserError, match="jsonl:1: responses 1 and 2 have the same score.*'drop'"):
    PreferenceTask(train=path).register()
  found = read(load(PreferenceTask(train=path, ties='drop')))
  assert [x['targets'] for x in found] == [ids('a$c$'), ids('b$c$'), ids('A$B$')]
  assert (f'comparisons without two responses of which one is better: 1 so far, the last {path}:2'
          in capfd.readouterr().err)
  path = write(tmp_path, level, name='level.jsonl')
  with pytest.raises(UserError, match=r'level.jsonl: none of 1 row\(s\) of train has two resp'):
    read(load(PreferenceTask(train=path, ties='drop')))


def test_what_is_too_long_is_refused_or_dropped(tmp_path, capfd):
  path = write(tmp_path, pair(), pair('Q' * 5), pair(rejected='B' * 4))
  task = PreferenceTask(train=path)
  fits = dict(inputs=5, targets=5)
  assert len(read(load(task), **fits)) == 3
  with pytest.raises(UserError, match=r'rows.jsonl:2: 5 tokens of a prompt, and the model has 4: ra'
                     "ise inputs_length, or set PreferenceTask.too_long to 'drop'"):
    read(load(task), **fits | {'inputs': 4})
  with pytest.raises(UserError, match='rows.jsonl:3: 5 tokens of a response, and the model has 4'):
    read(load(task), checks=False, **fits | {'targets': 4})
  dropped = load(PreferenceTask(train=path, too_long='drop'))
  assert [x['inputs'] for x in read(dropped, inputs=4, targets=4)] == [ids('Q')]
  said = capfd.readouterr().err
  assert said.count(f'comparisons left out as too long: 1 so far, the last {path}:2') == 1


def test_rows_that_a_template_refuses_are_left_out_and_counted(tmp_path, capfd):
  rows = pair(), {'prompt': [{'role': 'system', 'content': 'S'}, {'role': 'user', 'content': 'R'}],
                  'chosen': 'A', 'rejected': 'B'}
  template = tmp_path / 'users.jinja'
  template.write_text("{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no "
                      "system') }}{% endif %}{{ m.content }}{% if m.role == 'assistant' %}</s>"
                      '{% endif %}{% endfor %}')
  options = dict(train=write(tmp_path, *rows), template=str(template))
  with pytest.raises(UserError, match='rows.jsonl:2: .*users.jinja does not render it: no system'):
    read(load(PreferenceTask(**options)))
  assert len(read(load(PreferenceTask(**options, skip_bad=True)))) == 1
  assert 'comparisons left out: 1 so far, the last' in capfd.readouterr().err


def test_a_share_is_held_out_with_all_pairs_of_a_row(tmp_path):
  rows = [{'prompt': f'Q{i}', 'responses': ['a', 'b', 'c'], 'scores': [0, 1, 2]}
          for i in range(40)]
  task = load(PreferenceTask(train=write(tmp_path, *rows), validation=0.3))
  prompts = [[tuple(x['inputs']) for x in read(task, split)] for split in ('train', 'validation')]
  assert len(prompts[0] + prompts[1]) == 120 and 6 < len(prompts[1]) < 75
  assert not {*prompts[0]} & {*prompts[1]} and len({*prompts[0]} | {*prompts[1]}) == 40


def test_registers_once_and_anew_when_data_or_template_change(tmp_path):
  path = write(tmp_path, pair())
  task = PreferenceTask(train=path)
  name = task.register()
  assert task.register() == name and name.startswith('preferences_pairs_')
  for options in (dict(template='zephyr'), dict(objective='ranking'), dict(ties='drop'),
                  dict(too_long='drop'), dict(add_eos=True)):
    assert PreferenceTask(train=path, **options).register() != name
  digest = task.data_digest('train')
  assert task.data_digest('validation') is None
  assert digest != PreferenceTask(train=path, template='zephyr').data_digest('train')
  write(tmp_path, pair('R'))
  assert task.register() != name and task.data_digest('train') != digest


@pytest.mark.parametrize('fields, message', [
    ({'objective': 'pair'}, "PreferenceTask.objective = 'pair': did you mean 'pairs'"),
    ({'ties': 'keep'}, "ties = 'keep': choose from drop, refuse"),
    ({'too_long': 'cut'}, "too_long = 'cut': choose from drop, refuse"),
    ({'schema': 'hh'}, "schema = 'hh': .*hh_rlhf"),
    ({'validation': 1.5}, 'validation = 1.5: a share must be between 0 and 1'),
    ({'train': ''}, "train = '': must be a non-empty"), ({'train': 3}, 'train = 3: expected str'),
    ({'template': 'chatml', 'add_eos': True}, 'add_eos = True: is for prompts that are texts'),
    ({'name': 'a b'}, 'name = .a b.: must be letters'),
    ({'trees': 3}, 'trees = 3: expected MessageTrees'),
])
def test_wrong_fields(fields, message):
  with pytest.raises(UserError, match=message):
    PreferenceTask(**{'train': 'x'} | fields)


def test_a_template_that_is_none_is_refused(tmp_path):
  with pytest.raises(UserError, match="PreferenceTask.template = 'chatm'.*did you mean 'chatml'"):
    PreferenceTask(train=write(tmp_path, pair()), template='chatm').register()


@needs_data
@pytest.mark.parametrize('name, options, found', [
    ('hh_harmless_base_test.jsonl.gz', {'skip_bad': True}, 2303),
    ('dpo_en_demo.json', {'template': 'zephyr'}, 300),
    ('kto_en_demo.json', {'template': 'zephyr', 'objective': 'thumbs'}, 300),
    ('oasst_en_100_trees.jsonl.gz', {'template': 'zephyr'}, 754),
    ('oasst_en_100_trees.jsonl.gz', {'template': 'zephyr', 'objective': 'ranking'}, 212),
])
def test_real_files(name, options, found):
  task = load(PreferenceTask(train=str(pathlib.Path(_ROOT, 'instruct', name)), **options))
  examples = read(task, checks=False, inputs=10 ** 6, targets=10 ** 6)
  assert len(examples) == found
  for example in examples:
    targets, lengths = example['targets'], example['response_lengths']
    ends = [sum(lengths[:k + 1]) for k in range(len(lengths))]
    assert [i + 1 for i, token in enumerate(targets) if token == 1] == ends
    assert example['response_scores'] == sorted(example['response_scores'], reverse=True)

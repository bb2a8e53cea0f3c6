"""Conversations as a run reads them, from gin and files to batches."""

import dataclasses
import json
import os
import pathlib
import re
import subprocess
import sys

import numpy as np
import pytest

from t5x_lite import cli
from t5x_lite.core.errors import UserError
from t5x_lite.experiment import gin_config
from tasks.instruction import ConversationTask, MessageTrees
from tasks.pipeline import description

_ROOT = os.environ.get('T5X_LITE_TEST_DATA')


def test_importing_and_rendering_load_neither_tensorflow_nor_seqio(tmp_path):
  code = (
      'import sys\n'
      'from tasks import instruction\n'
      'from tasks.instruction import chat_template, conversation, named_templates\n'
      "instruction.ConversationTask(train='x', template='chatml')\n"
      "named_templates.load_template('chatml').render([conversation.Message('user', 'q')], {})\n"
      "assert not {'tensorflow', 'seqio', 'tensorflow_datasets', 'jax'} & set(sys.modules)"
  )
  subprocess.run([sys.executable, '-c', code], check=True)


def row(*texts: str, **more) -> dict:
  """A row of messages, of user and assistant in turn."""
  return {'messages': [{'role': ('user', 'assistant')[i % 2], 'content': text}
                       for i, text in enumerate(texts)], **more}


def write(path: pathlib.Path, *rows) -> str:
  path.write_text(''.join((r if isinstance(r, str) else json.dumps(r)) + '\n' for r in rows))
  return str(path)


@pytest.fixture
def make(tmp_path):
  """(rows, options of the task and of the DataConfig) -> an experiment on bytes."""
  def experiment(*rows, gin='tiny_lm', length=128, inputs=None, packing='none', vocabulary=None,
                 template='plain', **options):
    base = gin_config.load_described([f'experiments/{gin}.gin'])
    task = ConversationTask(train=write(tmp_path / 'rows.jsonl', *rows), template=template,
                            **options)
    data = dataclasses.replace(
        base.data, task=task, targets_length=length, inputs_length=inputs, batch_size=1,
        packing=packing, vocabulary=vocabulary)
    return dataclasses.replace(base, data=data)
  return experiment


def texts(batch, name='decoder_target_tokens', where=None) -> str:
  """Bytes of one row as text; ids of the end as |."""
  ids = batch[name][0] if where is None else batch[name][0][where[0] > 0]
  return ''.join('|' if i == 1 else chr(i - 3) for i in ids if i)


def rows_of(experiment, number: int) -> list[dict]:
  batches = experiment.data.batches(experiment.model, seed=0)
  return [next(batches) for _ in range(number)]


def test_answers_and_their_ends_have_the_weights(make):
  experiment = make(row('Q', 'A', 'q', 'a'))
  (batch,) = rows_of(experiment, 1)
  assert texts(batch) == 'QA|qa|'
  weights = batch['decoder_loss_weights']
  assert weights[0, :7].tolist() == [0, 1, 1, 0, 1, 1, 0] and not weights[0, 7:].any()
  # Inputs are the targets, one later, from the start id on.
  np.testing.assert_array_equal(batch['decoder_input_tokens'][0, 1:7],
                                batch['decoder_target_tokens'][0, :6])
  (last,) = rows_of(make(row('Q', 'A', 'q', 'a'), turns='last'), 1)
  assert texts(last) == 'QA|qa|'
  assert texts(last, where=last['decoder_loss_weights']) == 'a|'


def test_packed_rows_hold_the_same_answers_in_segments(make):
  rows = [row(f'Q{i}' * (i % 3 + 1), f'A{i}') for i in range(8)]
  found = set()
  for batch in rows_of(make(*rows, packing='best_fit', length=200), 40):   # of a window of passes
    segments, weights = batch['decoder_segment_ids'][0], batch['decoder_loss_weights'][0]
    assert segments.max() > 1 and not weights[segments == 0].any()
    for k in range(1, segments.max() + 1):
      own = segments == k
      ids, mask = batch['decoder_target_tokens'][0][own], weights[own]
      assert batch['decoder_positions'][0][own].tolist() == list(range(own.sum()))
      assert batch['decoder_input_tokens'][0][own][0] == 0
      found.add((texts({'x': ids[None]}, 'x'), texts({'x': ids[mask > 0][None]}, 'x')))
  assert found == {(f'Q{i}' * (i % 3 + 1) + f'A{i}|', f'A{i}|') for i in range(8)}


@pytest.mark.parametrize('gin', ['tiny_lm', 'tiny_span_corruption'])
def test_pairs_of_all_before_the_last_answer_and_that(make, gin):
  experiment = make(row('Q', 'A', 'q', 'a', 'bye'), row('P', 'R'), gin=gin, inputs=64, length=64,
                    objective='text_to_text')
  batches = rows_of(experiment, 2)
  side = 'encoder_input_tokens' if gin != 'tiny_lm' else None
  if side:
    assert {(texts(b, side), texts(b)) for b in batches} == {('QA|q', 'a|'), ('P', 'R|')}
  else:
    weights = 'decoder_loss_weights'
    assert {(texts(b), texts(b, where=b[weights])) for b in batches} == {
        ('QA|qa|', 'a|'), ('PR|', 'R|')}


def test_an_encoder_decoder_needs_pairs(make):
  options = dict(gin='tiny_span_corruption')
  with pytest.raises(UserError, match="family 'encoder_decoder' reads inputs.*: set INPUTS_LENGTH"):
    rows_of(make(row('Q', 'A'), **options), 1)
  with pytest.raises(UserError, match="or ConversationTask.objective to 'text_to_text', which has"):
    rows_of(make(row('Q', 'A'), inputs=64, **options), 1)


LONG = row('Q1', 'A1', 'Q2', 'A2', 'Q3', 'A3')   # 5 ids an exchange


@pytest.mark.parametrize('length, too_long, found', [
    (15, 'refuse', {'Q1A1|Q2A2|Q3A3|'}),
    (14, 'cut_turns', {'Q1A1|Q2A2|', 'Q3A3|'}),
    (3, 'cut_answers', {'Q1A', 'Q2A', 'Q3A'}),
])
def test_long_conversations_are_cut_between_turns(make, length, too_long, found, capfd):
  # Passes are shuffled into each other, so that the first rows need not be one pass.
  batches = rows_of(make(LONG, length=length, too_long=too_long), 12 * len(found))
  assert {texts(batch) for batch in batches} == found
  said = capfd.readouterr().err
  # Once, however many passes are read.
  assert said.count('cut between turns: ') == said.count('between turns: 1 so far')
  assert said.count('cut between turns: ') == (len(found) > 1)
  assert said.count('cut in an answer: ') == (too_long == 'cut_answers')
  assert too_long == 'refuse' or 'rows.jsonl:1' in said


def test_the_system_message_begins_each_piece(make):
  long = row('Q1', 'A1', 'Q2', 'A2')
  long['messages'].insert(0, {'role': 'system', 'content': 'S'})
  batches = rows_of(make(long, length=6, too_long='cut_turns'), 20)
  assert {texts(batch) for batch in batches} == {'SQ1A1|', 'SQ2A2|'}


def test_what_does_not_fit_is_left_out_or_refused(make, capfd):
  short = row('q', 'a')
  with pytest.raises(UserError, match=r'rows.jsonl:51: 15 tokens of targets, and the model has 9: '
                     "raise targets_length, or set ConversationTask.too_long to 'cut_turns'"):
    rows_of(make(*[short] * 50, LONG, length=9), 1)   # before the first batch
  batches = rows_of(make(short, row('Q' * 20, 'A'), length=9, too_long='cut_turns'), 3)
  assert {texts(batch) for batch in batches} == {'qa|'}
  assert 'conversations left out: 1 so far, the last' in capfd.readouterr().err
  options = dict(inputs=4, length=9, objective='text_to_text', gin='tiny_span_corruption')
  with pytest.raises(UserError, match='10 tokens of inputs, and the model has 4: raise inputs_len'):
    rows_of(make(row('123', '456', '789', 'a'), **options), 1)
  (batch,) = rows_of(make(row('123', '456', '789', 'a'), too_long='cut_turns', **options), 1)
  assert (texts(batch, 'encoder_input_tokens'), texts(batch)) == ('789', 'a|')


BAD = [
    ({'text': 'x'}, r'ConversationTask.train: \S+rows.jsonl:2: fits none of the schemas'),
    (row('Q'), 'rows.jsonl:2: no assistant turn among 1 message'),
    (row('Q', 'A') | {'messages': row('Q', 'A')['messages'][::-1]}, '2: roles out of order'),
    ('{"messages": [', 'rows.jsonl:2: not JSON'),
    (row('', 'A'), 'rows.jsonl:2: the whole of the rendered text is an answer'),
]


@pytest.mark.parametrize('bad, message', BAD)
def test_a_bad_row_is_refused(make, bad, message):
  with pytest.raises(UserError, match=message):
    rows_of(make(row('Q', 'A'), bad, row('P', 'R')), 1)


def test_bad_rows_are_left_out(make, capfd):
  rows = [row('Q', 'A'), *(bad for bad, _ in BAD), row('P', 'R')]
  batches = rows_of(make(*rows, skip_bad=True), 4)
  assert {texts(batch) for batch in batches} == {'QA|', 'PR|'}
  assert 'left out' in capfd.readouterr().err


def test_trees_without_an_answer_are_counted_and_nothing_but_such_is_an_error(make, capfd):
  reply = lambda text, **more: {'text': text, 'role': 'assistant', 'replies': [], **more}
  tree = lambda *replies: {'prompt': {'text': 'Q', 'role': 'prompter', 'replies': [*replies]}}
  rows = [tree(), tree(reply('A', deleted=True)), tree(reply('A')), tree(reply('B'))]
  assert {texts(batch) for batch in rows_of(make(*rows), 4)} == {'QA|', 'QB|'}
  said = capfd.readouterr().err
  assert 'conversations without an answer that MessageTrees keeps: 1 so far, the last' in said
  with pytest.raises(UserError, match=r'none of 2 row\(s\) of train has an answer that MessageTr'):
    rows_of(make(*rows[:2]), 1)
  assert 'rows.jsonl:1' in capfd.readouterr().err
  for left_out in (rows[:2], [row('q' * 99, 'a')]):
    with pytest.raises(UserError, match='chat_lm: none of the . examples .* reaches the model: ra'):
      description.describe(make(*left_out, length=9, too_long='cut_turns'))


def test_a_template_that_refuses_rows_says_where(make, tmp_path):
  mine = tmp_path / 'mine.jinja'
  mine.write_text('{% for m in messages %}{{ m.contnt }}{% endfor %}')
  with pytest.raises(UserError, match=r"rows.jsonl:1: \S+mine.jinja names a missing field: .*cont"):
    make(row('Q', 'A'), template=str(mine)).data.task.register()
  mine.write_text('{% for m in messages %}')
  with pytest.raises(UserError, match=r'ConversationTask.template = .*mine.jinja:1: is no chat te'):
    make(row('Q', 'A'), template=str(mine)).data.task.register()
  with pytest.raises(UserError, match='no special token of the tokenizer ends the answer'):
    rows_of(make(row('Q', 'A'), template='chatml'), 1)


@pytest.mark.parametrize('fields, message', [
    ({'objective': 'ml'}, "ConversationTask.objective = 'ml': did you mean 'lm'"),
    ({'turns': 'first'}, "turns = 'first': choose from every, last"),
    ({'too_long': 'cut'}, "too_long = 'cut': did you mean 'cut_turns'"),
    ({'schema': 'alpaka'}, "schema = 'alpaka': did you mean 'alpaca'"),
    ({'validation': 1.5}, 'validation = 1.5: a share must be between 0 and 1'),
    ({'train': ''}, "train = '': must be a non-empty"), ({'train': 3}, 'train = 3: expected str'),
    ({'name': 'a b'}, 'name = .a b.: must be letters'),
    ({'trees': 3}, 'trees = 3: expected MessageTrees'),
])
def test_wrong_fields(fields, message):
  with pytest.raises(UserError, match=message):
    ConversationTask(**{'train': 'x', 'template': 'chatml'} | fields)
  with pytest.raises(UserError, match="MessageTrees.paths = 'bets': did you mean 'best'"):
    MessageTrees(paths='bets')


def test_registers_once_and_anew_when_data_or_template_change(tmp_path):
  path = write(tmp_path / 'a.jsonl', row('Q', 'A'))
  task = ConversationTask(train=path, template='plain')
  name = task.register()
  assert task.register() == name
  assert ConversationTask(train=path, template='zephyr').register() != name
  digest = task.data_digest('train')
  assert task.data_digest('validation') is None
  write(tmp_path / 'a.jsonl', row('Q', 'B'))
  assert task.register() != name and task.data_digest('train') != digest


def test_a_share_is_held_out(tmp_path):
  path = write(tmp_path / 'a.jsonl', *[row(f'Q{i}', 'A') for i in range(40)])
  import seqio
  task = seqio.TaskRegistry.get(
      ConversationTask(train=path, template='plain', validation=0.3).register())
  sizes = {split: task.num_input_examples(split) for split in task.splits}
  assert sum(sizes.values()) == 40 and 2 < sizes['validation'] < 25


def test_shards_partition_one_order(tmp_path):
  import seqio
  path = write(tmp_path / 'a.jsonl', *[row(f'Q{i}', 'A') for i in range(20)])
  source = seqio.TaskRegistry.get(
      ConversationTask(train=path, template='plain').register()).source
  read = lambda **k: [x['conversation'] for x in source.get_dataset(**k).as_numpy_iterator()]
  whole = read(seed=3)
  assert len({*whole}) == 20 and whole == read(seed=3) != read(seed=4)
  assert [read(seed=3, shard_info=seqio.ShardInfo(i, 2)) for i in range(2)] == [
      whole[0::2], whole[1::2]]


def test_describe_shows_what_is_learned(tmp_path, capsys):
  path = write(tmp_path / 'a.jsonl', row('Q </s>', 'A'))
  gin = tmp_path / 'x.gin'
  gin.write_text('from __gin__ import dynamic_registration\nfrom tasks import instruction\n'
                 "include 'experiments/tiny_lm.gin'\nTASK = @instruction.ConversationTask()\n"
                 f"instruction.ConversationTask.train = '{path}'\n"
                 "instruction.ConversationTask.template = 'zephyr'\n")
  assert cli.main(['data', 'describe', f'--gin_file={gin}']) == 0
  shown = capsys.readouterr().out
  assert '(⟦…⟧: what is to be learned)' in shown
  assert '<|user|>\nQ </s></s>\n<|assistant|>\n⟦A</s>⟧\n' in shown


def test_the_docs_experiment_reads_what_it_says(tmp_path, monkeypatch, capsys):
  text = (pathlib.Path(__file__).parents[3] / 'docs/instruction.md').read_text()
  for name, content in re.findall(r'^```\w+ (\S+)\n(.*?)^```$', text, re.M | re.S):
    (tmp_path / name).write_text(content)
  monkeypatch.chdir(tmp_path)
  assert cli.main(['data', 'describe', '--gin_file=chat.gin']) == 0
  assert '<|user|>\nAdd 2 and 2.</s>\n<|assistant|>\n⟦4</s>⟧\n' in capsys.readouterr().out


@pytest.mark.skipif(not _ROOT, reason='T5X_LITE_TEST_DATA is not set')
def test_a_tokenizers_own_tokens_and_an_id_0_that_is_no_padding(make):
  folder = pathlib.Path(_ROOT, 'peers/chat/tokenizer')
  experiment = make(row('Hi </s>', 'Yes <|im_end|>'), template='chatml',
                    vocabulary=str(folder / 'tokenizer.json'))
  model = dataclasses.replace(experiment.model, vocab_size=512)
  from tasks.pipeline import description
  (member,) = description.describe(dataclasses.replace(experiment, model=model))
  (shown,) = member.rendered
  assert shown.startswith('\033[90m<|im_start|>user\nHi </s><|im_end|>\n<|im_start|>assistant\n')
  assert '\033[32mYes <|im_end|><|im_end|>\033[0m' in shown
  (batch,) = rows_of(dataclasses.replace(experiment, model=model), 1)
  ids = batch['decoder_target_tokens'][0]
  assert (ids == 4).sum() == 2 and (ids == 3).sum() == 2 and (ids == 2).sum() == 0
  trained = ids[batch['decoder_loss_weights'][0] > 0]
  assert trained[-1] == 4 and (trained == 4).sum() == 1


@pytest.mark.skipif(not _ROOT, reason='T5X_LITE_TEST_DATA is not set')
@pytest.mark.parametrize('name, template, number', [
    ('alpaca_en_demo.json', 'alpaca', 999), ('fastchat_dummy_conversation.json', 'vicuna', 500),
    ('dolly_hhrlhf_train_small.jsonl', 'plain', 1000),
    ('oasst_en_100_trees.jsonl.gz', 'llama2', 100),
    pytest.param('t0_train_55k.jsonl.xz', 'plain', 55185, marks=pytest.mark.slow),
])
def test_real_files(make, name, template, number):
  import seqio
  task = ConversationTask(train=str(pathlib.Path(_ROOT, 'instruct', name)), template=template)
  registered = seqio.TaskRegistry.get(task.register())
  assert registered.num_input_examples('train') == number
  examples = registered.get_dataset(None, 'train', shuffle=False).take(20).as_numpy_iterator()
  for example in examples:
    ids, weights = example['targets'], example['targets_loss_weights']
    assert ids.shape == weights.shape and 0 < weights.sum() < len(ids)
    assert ids[weights > 0][-1] == 1

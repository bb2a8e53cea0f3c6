"""Dialogues as conversations, and as a run reads them: from files, published folders, generated."""

import dataclasses
import json
import os
import pathlib
import subprocess
import sys

import pytest

from t5x_lite.core.errors import UserError
from t5x_lite.data.files.templates import BadExample
from t5x_lite.dialogue import texts
from t5x_lite.dialogue.asking import TARGETS
from t5x_lite.dialogue.schema import Dialogue, Span, Turn, json_lines
from t5x_lite.experiment import gin_config
from tasks.dialogue import DialogueTask
from tasks.dialogue.generated import DOMAIN, generate
from tasks.dialogue.rows import conversations

DATA = pathlib.Path(os.environ.get('T5X_LITE_TEST_DATA', '/nonexistent'))
DIALOGUE = Dialogue('d', (
    Turn('user', 'An inn?', state={'inn': {}}),
    Turn('system', 'Try The Swan.', spans=(Span(4, 12, 'inn', 'name'),), results={'inn': 2}),
    Turn('user', 'For  9.', state={'inn': {'time': ('9',)}}),
    Turn('system', 'Done.'),
    Turn('user', 'Bye.')))


def _shown(target, rows='turns', delexicalised=True):
  return [[f'{m.role[0]}: {m.content}' for m in one.messages]
          for one in conversations(DIALOGUE, target, rows, delexicalised)]


def test_responses_and_states_follow_the_turns_before():
  assert _shown('response') == [
      ['u: An inn?', 'a: Try [value_name].'],
      ['u: An inn?', 'a: Try [value_name].', 'u: For 9.', 'a: Done.']]
  assert _shown('response', delexicalised=False)[0][1] == 'a: Try The Swan.'
  assert _shown('state') == [   # before a state values stand as they were said
      ['u: An inn?', 'a: none'],
      ['u: An inn?', 'a: Try The Swan.', 'u: For 9.', 'a: inn time = 9']]


def test_end_to_end_answers_have_state_results_and_response():
  first, second = _shown('end_to_end')
  assert first[1] == 'a: state: none\nresults: inn 2\nresponse: Try [value_name].'
  assert second[1] == 'a: Try [value_name].'   # as a dialogue goes on without what was thought
  assert second[-1] == 'a: state: inn time = 9\nresults: none\nresponse: Done.'
  assert texts.parse_end_to_end(first[1].removeprefix('a: ')) == (
      {}, {'inn': 2}, 'Try [value_name].')
  assert texts.parse_end_to_end(second[-1].removeprefix('a: ')) == (
      {'inn': {'time': ('9',)}}, {}, 'Done.')
  assert texts.parse_end_to_end('nothing') == ({}, {}, '')
  (whole,) = _shown('end_to_end', 'dialogue')
  assert whole == ['u: An inn?', first[1], 'u: For 9.', second[-1]]


def test_instructions_have_the_turns_as_input():
  _, second = conversations(DIALOGUE, 'response', 'instruction', True)
  asked, answer = second.messages
  assert asked.fields == {'instruction': TARGETS['response'],
                          'input': 'user: An inn?\nsystem: Try [value_name].\nuser: For 9.'}
  assert asked.content == '\n\n'.join(asked.fields.values()) and answer.content == 'Done.'


@pytest.mark.parametrize('rows', ['turns', 'instruction', 'dialogue'])
def test_turns_that_do_not_alternate_are_refused(rows):
  broken = dataclasses.replace(DIALOGUE, turns=DIALOGUE.turns[1:])
  with pytest.raises(BadExample, match="dialogue 'd' has turns that do not alternate"):
    conversations(broken, 'response', rows, True)


def test_importing_loads_neither_tensorflow_nor_seqio():
  code = ('import sys; from tasks import dialogue; from tasks.dialogue import generated, reading\n'
          "dialogue.DialogueTask(train='x'); generated.generate(1)\n"
          "assert not {'tensorflow', 'seqio', 'jax'} & set(sys.modules)")
  subprocess.run([sys.executable, '-c', code], check=True)


@pytest.mark.parametrize('fields, message', [
    ({'target': 'answer'}, 'target.*choose from|target.*did you mean'),
    ({'form': 'multiwoz'}, 'form.*multiwoz22'),
    ({'rows': 'dialogue', 'target': 'state'}, "rows.*'dialogue' is for the objective lm"),
    ({'validation': 1.5}, 'validation.*share'), ({'train': ''}, 'train.*non-empty'),
    ({'name': '1x'}, 'name.*letters'),
])
def test_fields_that_are_wrong(fields, message):
  with pytest.raises(UserError, match=message):
    DialogueTask(**{'train': 'x.jsonl'} | fields)


def _examples(name, split='train', length=2048):
  """(ids, those that are trained on) of a task's examples."""
  import seqio
  task = seqio.get_mixture_or_task(name)
  for one in task.get_dataset({name: length for name in task.output_features}, split,
                              shuffle=False).as_numpy_iterator():
    ids = one['targets']
    yield ids.tolist(), ids[one.get('targets_loss_weights', ids > -1) > 0].tolist()


def _answers(name, split='train'):
  import seqio
  vocabulary = seqio.get_mixture_or_task(name).output_features['targets'].vocabulary
  return [vocabulary.decode(answer) for _, answer in _examples(name, split)]


def test_a_file_of_dialogues_is_a_task(tmp_path):
  path = tmp_path / 'dialogues.jsonl'
  path.write_text(json_lines([DIALOGUE, *generate(9)]))
  name = DialogueTask(train=str(path)).register()
  assert name.startswith('dialogues_response_')
  answers = _answers(name)
  assert len(answers) == 2 + sum(len(one.turns) // 2 for one in generate(9))
  assert answers[0] == 'Try [value_name].'
  whole = DialogueTask(train=str(path), rows='dialogue', target='end_to_end', validation=0.3)
  name = whole.register()
  sizes = [len(_answers(name, split)) for split in ('train', 'validation')]
  assert sum(sizes) == 10 and min(sizes) > 0
  assert whole.data_digest('train') != DialogueTask(
      train=str(path), template='chatml').data_digest('train')
  path.write_text(json.dumps({'id': 'x'}) + '\n')
  with pytest.raises(UserError, match="dialogues.jsonl:1.*dialogue 'x' is not in the schema"):
    DialogueTask(train=str(path)).register()


@pytest.mark.skipif(not DATA.exists(), reason='T5X_LITE_TEST_DATA is not set')
def test_a_published_file_is_a_task(tmp_path, monkeypatch):
  monkeypatch.setenv('T5X_LITE_CACHE', str(tmp_path))
  task = DialogueTask(train=str(DATA / 'multiwoz21/v21_original_examples.json'),
                      form='multiwoz21', target='state')
  answers = _answers(task.register())
  assert len(answers) == 31   # of 62 turns those of users
  assert any(answer.startswith('taxi departure = ') for answer in answers)
  assert len([*(tmp_path / 'files').glob('dialogues_*.jsonl')]) == 1


def test_generated_dialogues_are_tasks(monkeypatch):
  from tasks.datasets import dialogues
  monkeypatch.setitem(dialogues.DIALOGUES, 'test', 3)
  third = generate(3, seed=2)
  turns = [turn for one in third for turn in one.turns]
  answers = _answers('generated_response', 'test')
  assert len(answers) == len(turns) // 2
  states = [turn.state for turn in turns if turn.state is not None]
  for name in ('generated_state', 'generated_state_instruct', 'generated_state_pairs'):
    found = [texts.parse_state(answer) for answer in _answers(name, 'test')]
    assert [{**one[DOMAIN]} for one in found] == [{**one[DOMAIN]} for one in states], name
  ends = [texts.parse_end_to_end(answer)
          for answer in _answers('generated_end_to_end_instruct', 'test')]
  assert [{**state[DOMAIN]} for state, *_ in ends] == [{**one[DOMAIN]} for one in states]


def test_the_oldest_turns_are_left_out_of_what_is_too_long(monkeypatch):
  from tasks.datasets import dialogues
  monkeypatch.setitem(dialogues.DIALOGUES, 'test', 3)
  whole, short = ([*_examples('generated_state', 'test', length)] for length in (2048, 250))
  assert len(whole) == len(short) and max(len(ids) for ids, _ in whole) > 300
  for (ids, answer), (cut, same) in zip(whole, short):
    assert answer == same == cut[-len(same):] and ids[-len(cut):] == cut and len(cut) <= 250
    assert (len(ids) > 250) == (len(cut) < len(ids))


def test_a_run_reads_batches_of_generated_dialogues():
  base = gin_config.load_described(['experiments/tiny_lm.gin'])
  data = dataclasses.replace(base.data, task='generated_response', targets_length=256,
                             task_module='tasks.datasets.dialogues', batch_size=2,
                             packing='none')
  batch = next(data.batches(base.model, seed=0))
  assert batch['decoder_target_tokens'].shape == (2, 256)
  assert 0 < batch['decoder_loss_weights'].sum() < (batch['decoder_target_tokens'] > 0).sum()

"""The public corpora in the one schema: whole ones by their published counts, and small files."""

import collections
import functools
import gzip
import json
import lzma
import os
import pathlib
import zipfile

import pytest

from t5x_lite.core.errors import UserError
from t5x_lite.dialogue.faults import FaultReport, check_dialogues
from t5x_lite.dialogue.schema import Act, Goal, Span, from_json, to_json
from tasks.dialogue import multiwoz_names, sgd
from tasks.dialogue.reading import FORMS, read_dialogues

DATA = pathlib.Path(os.environ.get('T5X_LITE_TEST_DATA', '/nonexistent'))
needs_data = pytest.mark.skipif(not DATA.exists(), reason='T5X_LITE_TEST_DATA is not set')

MULTIWOZ21 = {'MUL1.json': {
    'goal': {'hotel': {'info': {'area': 'north'}, 'reqt': ['phone'], 'fail_info': {},
                       'book': {'stay': '2', 'invalid': False}}, 'taxi': {}, 'topic': {'taxi': 1},
             'message': ['A <span class="emphasis">hotel</span>.', 'Book it.']},
    'log': [
        {'text': "A hotel at saint john 's, leaving by 9.", 'metadata': {},
         'dialog_act': {'Hotel-Inform': [['Depart', "saint john 's"], ['Type', 'hotel']],
                        'general-greet': [['none', 'none']]},
         'span_info': [['Hotel-Inform', 'Depart', "saint john 's", 3, 5],
                       ['Hotel-Inform', 'Leave', '9', 8, 8], ['Hotel-Inform', 'Type', 'x', 9, 9]]},
        {'text': 'Which area?', 'dialog_act': {'Hotel-Request': [['Addr', '?']]}, 'span_info': [],
         'metadata': {'hotel': {'semi': {'area': 'not mentioned', 'type': 'hotel|guesthouse',
                                         'stars': '', 'name': "do n't care"},
                                'book': {'booked': [], 'stay': ''}},
                      'train': {'semi': {'leaveAt': '9:00<10:00', 'day': ''}, 'book': {}}}},
        {'text': 'bye', 'metadata': {}}]}}

SERVICES = {'dialogue_id': 'S1', 'services': ['hotel', 'taxi'], 'turns': [
    {'speaker': 'USER', 'utterance': 'in the north', 'frames': [
        {'service': 'hotel', 'actions': [{'act': 'INFORM', 'slot': 'hotel-area',
                                          'values': ['north', 'up north']}],
         'slots': [{'slot': 'hotel-area', 'start': 7, 'exclusive_end': 12},
                   {'slot': 'hotel-name', 'copy_from': 'x'}],
         'state': {'slot_values': {'hotel-area': ['north'], 'hotel-bookday': []}}}]},
    {'speaker': 'SYSTEM', 'utterance': 'Which?', 'frames': [
        {'service': 'hotel', 'actions': [{'act': 'REQ_MORE', 'slot': '', 'values': []}],
         'slots': [], 'service_results': [{}, {}]}]},
    {'speaker': 'USER', 'utterance': 'a taxi at 9', 'frames': [
        {'service': 'taxi', 'slots': [],
         'state': {'slot_values': {'taxi-leaveat': ['9', '9:00']}}}]}]}


def test_multiwoz21_has_states_of_the_users_turns_spans_in_characters_and_goals(tmp_path):
  path = tmp_path / 'data.json'
  path.write_text(json.dumps(MULTIWOZ21))
  (one,) = read_dialogues(path, 'multiwoz21')
  assert one.id == 'MUL1' and one.domains == ('hotel',) and one.message == 'A hotel. Book it.'
  assert one.goals == {'hotel': Goal({'area': 'north'}, ('phone',), {'stay': '2'})}
  assert [turn.speaker for turn in one.turns] == ['user', 'system', 'user']
  user, system, last = one.turns
  assert user.state == {'hotel': {'type': ('hotel', 'guesthouse'), 'name': ('dontcare',)},
                        'train': {'leave': ('9:00', '10:00')}}
  assert system.state is None and last.state is None   # the last has no system's turn behind it
  assert user.acts == (Act('inform', 'hotel', 'departure', "saint john 's"),
                       Act('inform', 'hotel', 'type', 'hotel'), Act('greet'))
  assert system.acts == (Act('request', 'hotel', 'address'),)
  assert [user.text[span.start:span.end] for span in user.spans] == ["saint john 's", '9', '']
  assert user.spans[2] == Span(39, 40, 'hotel', 'type')   # of a token that there is not
  assert from_json(to_json(one)) == one


def test_frames_have_states_that_stay_and_counts_of_results(tmp_path):
  path = tmp_path / 'dialogues_001.json'
  path.write_text(json.dumps([SERVICES]))
  (one,) = read_dialogues(path, 'multiwoz22')
  assert [turn.state for turn in one.turns] == [
      {'hotel': {'area': ('north',)}}, None,
      {'hotel': {'area': ('north',)}, 'taxi': {'leave': ('9', '9:00')}}]
  assert one.turns[0].spans == (Span(7, 12, 'hotel', 'area'),)
  assert one.turns[0].acts == (Act('inform', 'hotel', 'area', 'north'),
                               Act('inform', 'hotel', 'area', 'up north'))
  assert one.turns[1].acts == (Act('req_more', 'hotel'),) and one.turns[1].results == {'hotel': 2}
  (other,) = read_dialogues(path, 'sgd')
  assert other.turns[2].state['taxi'] == {'taxi-leaveat': ('9', '9:00')}


def test_acts_of_both_sides_are_in_a_file_apart(tmp_path):
  folder = tmp_path / 'release/test'
  folder.mkdir(parents=True)
  (folder / 'dialogues_001.json').write_text(json.dumps([SERVICES]))
  acts = {'S1': {
      '0': {'dialog_act': {'Hotel-Inform': [['area', 'north']]},
            'span_info': [['Hotel-Inform', 'area', 'north', 7, 12]]},
      '1': {'dialog_act': {'Hotel-Request': [['name', '?']], 'general-reqmore': [['none', 'none']]},
            'span_info': []}}}
  path = tmp_path / 'release/dialog_acts.json'
  path.write_text(json.dumps(acts))
  for source in (tmp_path / 'release', folder / 'dialogues_001.json'):
    (one,) = read_dialogues(source, 'multiwoz22')
    assert [turn.acts for turn in one.turns] == [
        (Act('inform', 'hotel', 'area', 'north'),),
        (Act('request', 'hotel', 'name'), Act('reqmore')), ()]
    assert one.turns[0].spans == (Span(7, 12, 'hotel', 'area'),)
    assert one.turns[1].results == {'hotel': 2}
  for broken in ({'S2': acts['S1']}, {'S1': {'0': {'span_info': [['Hotel-Inform', 'area']]}}}):
    path.write_text(json.dumps(broken))
    with pytest.raises(UserError, match="dialog_acts.json: dialogue 'S1' has no acts in the form"):
      list(read_dialogues(folder, 'multiwoz22'))


@pytest.mark.parametrize('name', ['dialogues.json', 'dialogues.jsonl', 'dialogues.json.gz',
                                  'dialogues.jsonl.xz', 'dialogues.json.zip'])
def test_packed_files_are_read(tmp_path, name):
  path, text = tmp_path / name, json.dumps(SERVICES)
  text = text + '\n\n' + text if '.jsonl' in name else f'# head\n[{text},\n {text}]'
  if name.endswith('.zip'):
    with zipfile.ZipFile(path, 'w') as archive:
      archive.writestr('dialogues.json', text)
      archive.writestr('__MACOSX/dialogues.json', 'x')
  else:
    opener = {'.gz': gzip.open, '.xz': lzma.open}.get(path.suffix, open)
    with opener(path, 'wt') as file:
      file.write(text)
  assert [one.id for one in read_dialogues(path, 'sgd')] == ['S1', 'S1']


def test_folders_are_read_as_they_are_published(tmp_path):
  for split, names in {'train': 'ab', 'dev': 'c', 'test': 'd'}.items():
    for number, name in enumerate(names):
      path = tmp_path / split / f'dialogues_00{number}.json'
      path.parent.mkdir(exist_ok=True)
      path.write_text(json.dumps([SERVICES | {'dialogue_id': name}]))
    (tmp_path / split / 'schema.json').write_text('[]')
  ids = lambda form, split=None: ''.join(one.id for one in read_dialogues(tmp_path, form, split))
  assert [ids('sgd', split) for split in ('train', 'validation', 'test')] == ['ab', 'c', 'd']
  assert ids('sgd') == 'cdab'
  (record,) = MULTIWOZ21.values()
  (tmp_path / 'data.json').write_text(json.dumps({f'{x}.json': record for x in 'xyz'}))
  (tmp_path / 'testListFile.txt').write_text('y.json\n')
  with pytest.raises(UserError, match='no valListFile to tell the splits apart'):
    ids('multiwoz21', 'test')
  (tmp_path / 'valListFile.txt').write_text('z.json\n')
  assert [ids('multiwoz21', split) for split in ('train', 'validation', 'test')] == ['x', 'z', 'y']


@pytest.mark.parametrize('name, content, message', [
    ('none.json', None, 'no such file'), ('a.csv', 'x', 'must end in .json or .jsonl'),
    ('a.json', '{', 'is not JSON'), ('a.json', '[1]', 'holds no dialogues'),
    ('a.json', '3', 'holds no dialogues'), ('a.json.zip', 'x', 'cannot be read: File is not a zip'),
    ('a.json.gz', 'x', 'cannot be read'),
    ('a.json', '[{"id": "q"}]', "dialogue 'q' is not in the form multiwoz21, KeyError: 'log'"),
])
def test_files_that_are_wrong_are_named(tmp_path, name, content, message):
  if content is not None:
    (tmp_path / name).write_text(content)
  with pytest.raises(UserError, match=message) as error:
    list(read_dialogues(tmp_path / name, 'multiwoz21'))
  assert name in str(error.value) and '\n' not in str(error.value)


def test_an_empty_folder_is_named(tmp_path):
  with pytest.raises(UserError, match='no file of dialogues of the split test'):
    list(read_dialogues(tmp_path, 'sgd', 'test'))


def test_slots_have_one_name():
  pairs = {('train', 'Time'): 'duration', ('restaurant', 'Time'): 'time', ('train', 'Ticket'):
           'price', ('hotel', 'Price'): 'pricerange', ('taxi', 'Car'): 'type', ('taxi', 'car type'):
           'type', ('train', 'leaveAt'): 'leave', ('hotel', 'hotel-bookstay'): 'stay',
           ('attraction', 'entrance fee'): 'entrancefee', ('general', 'none'): ''}
  assert {pair: multiwoz_names.slot_name(*pair) for pair in pairs} == pairs


@needs_data
def test_the_schema_of_2_2_is_in_that_of_all_releases():
  services = json.loads((DATA / 'multiwoz21/v22/schema.json').read_text())
  found = sgd.read_schema(services, multiwoz_names.slot_name)
  assert {*found} == {*multiwoz_names.SCHEMA} - {'booking'}
  for domain, published in found.items():
    assert {*published.slots} <= {*multiwoz_names.SCHEMA[domain].slots}, domain
  assert found['hotel'].slots['stars'].values == ('0', '1', '2', '3', '4', '5')


# (file, form, dialogues, turns), by the README of each; CamRest's exchanges are two turns each.
CORPORA = [('multiwoz21/test.json.zip', 'multiwoz21', 1000, 14_744),
           ('multiwoz21/v21_original_examples.json', 'multiwoz21', 5, 62),
           ('multiwoz21/v22/original_examples.json', 'multiwoz22', 5, 46),
           ('camrest/camrest676.jsonl.gz', 'camrest', 676, 2 * 2744),
           pytest.param('multiwoz21/val.json.zip', 'multiwoz21', 999, 14_730,
                        marks=pytest.mark.slow),
           pytest.param('sgd/dev.jsonl.xz', 'sgd', 2098, 38_768, marks=pytest.mark.slow)]
# Of multiwoz21/test.json.zip, as they were counted when the checks were written.
FAULTS = {'span outside': 2, 'span without value': 104, 'missing span': 17, 'state shrinks': 109}


@functools.cache
def corpus(name: str, form: str) -> list:
  return [*read_dialogues(DATA / name, form)]


@needs_data
@pytest.mark.parametrize('name, form, number, turns', CORPORA)
def test_published_corpora_are_whole_and_in_their_schema(name, form, number, turns):
  schema = FORMS[form].schema
  if form == 'sgd':
    split = name.split('/')[1].split('.')[0]
    schema = sgd.read_schema(json.loads((DATA / f'sgd/schema_{split}.json').read_text()))
  report = FaultReport()
  dialogues = [*check_dialogues(corpus(name, form), schema, 'keep', report)]
  assert (len(dialogues), sum(len(one.turns) for one in dialogues)) == (number, turns)
  assert not {'unknown domain', 'unknown slot', 'speakers', 'no turns', 'empty turn'} & {
      *report.faulty}
  if name == 'multiwoz21/test.json.zip':
    assert {kind: len(names) for kind, names in report.faulty.items()} == FAULTS


@needs_data
def test_states_of_multiwoz21_are_those_of_the_public_evaluation():
  """Its gold states take the first alternative and leave out dontcare."""
  with gzip.open(DATA / 'mwz_eval/gold_states21.json.gz') as file:
    gold = json.load(file)
  checked = collections.Counter()
  for one in corpus('multiwoz21/test.json.zip', 'multiwoz21'):
    turns = [turn for turn in one.turns if turn.speaker == 'user' and turn.state is not None]
    for turn, want in zip(turns, gold[one.id.lower()], strict=True):
      state = {(domain, slot, values[0]) for domain, slots in turn.state.items()
               for slot, values in slots.items() if values[0] != 'dontcare'}
      checked[state == {(domain, multiwoz_names.slot_name(domain, slot), value)
                        for domain, slots in want.items() for slot, value in slots.items()}] += 1
  assert checked == {True: 7372}

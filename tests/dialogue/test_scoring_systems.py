"""Six public systems against what the public evaluator says of them; the command and bad input."""

import gzip
import json
import os
import pathlib

import pytest
import sacrebleu

from t5x_lite import cli
from t5x_lite.core.errors import UserError
from t5x_lite.dialogue.scoring.predictions import read_predictions, read_reference
from t5x_lite.dialogue.scoring.report import score
from t5x_lite.dialogue.scoring.success import inform_and_success

pytest.importorskip('sacremoses')
ROOT = os.environ.get('T5X_LITE_TEST_DATA')
SYSTEMS = ['labes', 'damd', *(pytest.param(name, marks=pytest.mark.slow)
                              for name in ('ubar', 'augpt', 'soloist', 'dots'))]
TURN = {'response': 'try [hotel_name] , [value_phone] , [value_reference]',
        'state': {'hotel': {'stars': '4'}}}


def folder_of_data():
  if not ROOT:
    pytest.skip('public predictions are read from T5X_LITE_TEST_DATA')
  return pathlib.Path(ROOT) / 'mwz_eval'


@pytest.fixture(scope='module')
def reference():
  return read_reference(folder_of_data())


@pytest.mark.parametrize('name', SYSTEMS)
def test_figures_of_a_public_system(name, reference):
  folder = folder_of_data()
  upstream = json.loads(gzip.decompress((folder / f'upstream_results/{name}.json.gz').read_bytes()))
  predictions = read_predictions(folder / f'predictions/{name}.json.gz', reference)
  for dialogue, turns in predictions.items():
    inform, success = inform_and_success(
        turns, reference.goals[dialogue], reference.booked[dialogue], reference.database)
    assert {'inform': inform, 'success': success} == upstream['per_dialogue'][dialogue], dialogue
  report = score(predictions, reference, samples=10)
  value = lambda figure: report.figures[figure].value
  for kind in ('inform', 'success'):
    for domain, percent in upstream[kind].items():
      assert round(value(kind if domain == 'total' else f'{kind} {domain}'), 1) == percent
  found, states = report.richness, upstream['dst_vs_gold_states21']
  assert [found.length, found.words, found.bigrams, found.trigrams, found.entropy,
          found.conditional_entropy] == pytest.approx([upstream['richness'][key] for key in (
              'avg_lengths', 'num_unigrams', 'num_bigrams', 'num_trigrams', 'entropy',
              'cond_entropy')], rel=1e-12)
  # The public evaluator adds 1e-10 to every denominator.
  assert [value('joint goal accuracy'), value('slot F1'), value('slot precision'),
          value('slot recall')] == pytest.approx(
              [states['joint_accuracy'], states['slot_f1'], 100 * states['slot_precision'],
               100 * states['slot_recall']], abs=1e-7)
  assert len(report.missing) == 1000 - len(predictions)
  published = json.loads((folder / 'published.json').read_text())[name]
  assert (round(found.length, 2), round(found.conditional_entropy, 2), found.words, found.trigrams
          ) == tuple(published[key] for key in ('avg_len', 'cbe', 'uniq_words', 'uniq_3grams'))
  if name not in ('soloist', 'dots'):   # whose published figures are of other goals
    assert (round(value('inform'), 1), round(value('success'), 1)) == (
        published['inform'], published['success'])


@pytest.fixture
def data(tmp_path):
  """Two dialogues of one turn about one hotel, with gold states and references."""
  goal = {'hotel': {'informable': {'stars': '4'}, 'requestable': ['PHONE', 'REFERENCE']}}
  texts = {'d1': ['try the [hotel_name] , [value_phone] , [value_reference]'],
           'd2': ['i recommend the [hotel_name] .']}
  files = {'goals': dict.fromkeys(texts, goal), 'booked_domains': dict.fromkeys(texts, [['hotel']]),
           'gold_states': dict.fromkeys(texts, [{'hotel': {'stars': '4'}}]), 'references': texts}
  for name, value in files.items():
    (tmp_path / f'{name}.json').write_text(json.dumps(value))
  (tmp_path / 'database').mkdir()
  for domain in ('restaurant', 'hotel', 'attraction', 'train'):
    (tmp_path / f'database/{domain}_db.json').write_text(json.dumps(
        [{'id': '1', 'trainID': 'TR1', 'name': 'alpha', 'stars': '4'}]))
  return tmp_path


def write(path, value):
  path.write_text(value if isinstance(value, str) else json.dumps(value))
  return path


def test_gold_states_and_responses_score_full_marks(data):
  gold = {name: [{'response': json.loads((data / 'references.json').read_text())[name][0],
                  'state': {'hotel': {'stars': '4'}}}] for name in ('d1', 'd2')}
  reference = read_reference(data)
  report = score(read_predictions(write(data / 'p.json', gold), reference), reference)
  for figure in ('joint goal accuracy', 'joint goal accuracy, strict', 'slot F1', 'inform', 'bleu'):
    assert report.figures[figure].value == pytest.approx(100)
  assert report.figures['success'].value == 50


def test_bleu_is_that_of_sacrebleu(data):
  reference = read_reference(data)
  predictions = read_predictions(write(data / 'p.json', {'d1': [TURN], 'd2': [
      {'response': 'i like [hotel_name] and the others', 'state': {}}]}), reference)
  report = score(predictions, reference)
  expected = sacrebleu.corpus_bleu([turns[0].response for turns in predictions.values()],
                                   [[turns[0] for turns in reference.responses.values()]]).score
  value = lambda name: report.figures[name].value
  assert 0 < expected < 100 and value('bleu') == pytest.approx(expected, abs=1e-9)
  assert value('combined') == pytest.approx((value('inform') + value('success')) / 2 + expected)


def test_the_command_scores_compares_and_writes(data, capsys):
  ours = write(data / 'ours.json', {'d1': [TURN], 'd2': [TURN]})
  other = write(data / 'other.json', {name: [{'response': 'hello', 'state': {}}]
                                      for name in ('d1', 'd2')})
  assert cli.main(['dialogue', 'score', str(ours), f'--data={data}', f'--against={other}',
                   f'--output={data / "out.json"}']) == 0
  shown = capsys.readouterr().out
  assert 'success hotel' in shown and 'on 2 dialogues of both' in shown
  found = json.loads((data / 'out.json').read_text())
  assert found['report']['figures']['success'] == {'value': 100, 'interval': [100, 100]}
  assert found['against']['figures']['inform']['value'] == 100


def test_a_missing_dialogue_is_said(data, capsys):
  assert cli.main(['dialogue', 'score', str(write(data / 'p.json', {'d1': [TURN]})),
                   f'--data={data}']) == 0
  assert '1 were not predicted, such as d2' in capsys.readouterr().out


@pytest.mark.parametrize('predictions, cure', [
    ('no json', 'is no JSON'), ([], 'is not one JSON object'), ({}, 'is not {dialogue:'),
    ({'D1.json': [TURN]}, 'is no dialogue of the goals: names are as d1'),
    ({'d1': [TURN, TURN]}, 'has 2 turns, the dialogue 1 of the system'),
    ({'d1': [{'state': {}}]}, 'turn 1: has no text "response"'),
    ({'d1': [{**TURN, 'state': {'hotel': {'stars': 4}}}]}, '"state" is not'),
    ({'d1': [{**TURN, 'active_domains': 'hotel'}]}, '"active_domains" is no list'),
    ({'d1': [{**TURN, 'active_domains': ['hotel']}], 'd2': [TURN]},
     '1 of 2 turns have "active_domains": predict them in every turn, or in none'),
    ({'d1': [TURN], 'd2': [{'response': 'hello'}]}, '1 of 2 turns have no "state"')])
def test_bad_predictions_are_one_line(data, predictions, cure):
  with pytest.raises(UserError) as error:
    read_predictions(write(data / 'p.json', predictions), read_reference(data))
  assert cure in str(error.value) and '\n' not in str(error.value)


def test_predictions_are_read_compressed_whatever_their_name(data):
  path = write(data / 'p.json', {'d1': [TURN]})
  plain = read_predictions(path, read_reference(data))
  path.write_bytes(gzip.compress(path.read_bytes()))
  assert read_predictions(path, read_reference(data)) == plain


def test_states_that_are_not_predicted_are_the_gold_ones(data):
  reference = read_reference(data)
  found = read_predictions(write(data / 'p.json', {'d1': [{'response': 'hello'}]}), reference)
  assert found['d1'][0].state == {'hotel': {'stars': '4'}}


def test_states_of_the_corpus_are_not_scored_and_predictions_not_written_over(data, capsys):
  path = write(data / 'p.json', {'d1': [{'response': 'hello'}], 'd2': [{'response': 'hello'}]})
  score = ['dialogue', 'score', str(path), f'--data={data}']
  assert cli.main(score) == 0
  shown = capsys.readouterr().out
  assert 'No states are predicted' in shown and 'joint goal accuracy' not in shown
  before = path.read_bytes()
  for read in (score, [*score[:2], str(write(data / 'o.json', {'d1': [TURN]})), score[3],
                       f'--against={path}']):
    assert cli.main([*read, f'--output={path}']) == 1
    assert 'is read, and would be written over' in capsys.readouterr().err
  assert path.read_bytes() == before


def test_a_folder_without_goals_is_one_line(tmp_path):
  with pytest.raises(UserError, match='has no goals.json: name the folder of'):
    read_reference(tmp_path)


def test_a_goal_without_requestables_is_one_line(data):
  write(data / 'goals.json', {'d1': {'hotel': {'informable': {}}}})
  with pytest.raises(UserError, match='the goal of d1 is not {domain: '):
    read_reference(data)

"""Models, and simple answers, respond to dialogues, and are scored side by side."""

import dataclasses
import json

import pytest

from t5x_lite import cli
from t5x_lite.core.errors import UserError
from t5x_lite.dialogue.asking import Form
from t5x_lite.dialogue.baselines import asked_and_answered, fit_most_frequent, fit_nearest
from t5x_lite.dialogue.schema import Turn, json_lines
from tasks.dialogue.generated import DATABASE, DOMAIN, generate

DIALOGUES = generate(30)
TEXT = Form('response', True, True).text
ENTRIES = {DOMAIN: [{'id': str(i), **row} for i, row in enumerate(DATABASE)]}


def test_the_most_frequent_response_is_that_of_most_turns():
  turns = [Turn('system', text) for text in ('Yes.', 'No.', 'Yes.')]
  dialogue = dataclasses.replace(DIALOGUES[0], turns=tuple(turns))
  assert fit_most_frequent([dialogue], TEXT)([(), ()]) == ['Yes.', 'Yes.']
  with pytest.raises(UserError, match='have no turn of a system'):
    fit_most_frequent([dataclasses.replace(dialogue, turns=())], TEXT)


def test_the_nearest_response_to_known_turns_is_their_own():
  asked, answers = zip(*asked_and_answered(DIALOGUES))
  own = [TEXT(turn) for turn in answers]
  said = fit_nearest(DIALOGUES, TEXT)(asked)
  # Turns that differ in their values alone have several answers, such as bookings that fail.
  assert sum(a == b for a, b in zip(said, own)) / len(own) > 0.9


def test_the_nearest_turns_share_the_rarest_words():
  dialogues = [dataclasses.replace(DIALOGUES[0], turns=(Turn('user', asked), Turn('system', said)))
               for asked, said in (('the phone number please', 'It is 1.'),
                                   ('the train please', 'Which day?'), ('bye now', 'Bye.'))]
  assert fit_nearest(dialogues, TEXT)(
      [[Turn('user', 'please find the train for me')], [Turn('user', 'oh a phone')]]) == [
          'Which day?', 'It is 1.']


@pytest.fixture
def folder(tmp_path):
  """A reference of made-up dialogues, and the corpus's own responses."""
  pytest.importorskip('sacremoses')
  from t5x_lite.dialogue.scoring.references import responses_of, write_reference
  write_reference(tmp_path / 'reference', DIALOGUES, ENTRIES)
  (tmp_path / 'corpus.json').write_text(json.dumps(
      {name: [{'response': text} for text in texts]
       for name, texts in responses_of(DIALOGUES).items()}))
  return tmp_path


def test_made_up_dialogues_are_scored_by_files_of_their_own(folder):
  from t5x_lite.dialogue.scoring.predictions import read_predictions, read_reference
  from t5x_lite.dialogue.scoring.report import score
  reference = read_reference(folder / 'reference')
  corpus = read_predictions(folder / 'corpus.json', reference)
  value = {name: one.value for name, one in score(corpus, reference, samples=10).figures.items()}
  assert value['bleu'] == pytest.approx(100)
  assert value['joint goal accuracy, strict'] == 100
  # What is offered fits the goal where no constraint comes after the last offer, which is always.
  assert value['inform'] == 100
  # All that is asked for is told, and every booking comes to its end.
  assert value['success'] == 100
  silent = {name: [dataclasses.replace(turn, response='') for turn in turns]
            for name, turns in corpus.items()}
  assert score(silent, reference, samples=10).figures['inform'].value == 0


def test_systems_are_compared_in_a_table(folder):
  from t5x_lite.dialogue.scoring import comparison
  from t5x_lite.dialogue.scoring.predictions import read_predictions, read_reference
  reference = read_reference(folder / 'reference')
  corpus = read_predictions(folder / 'corpus.json', reference)
  silent = {name: [dataclasses.replace(turn, response='yes') for turn in turns]
            for name, turns in corpus.items()}
  found = comparison.compare_systems({'silent': silent, 'corpus': corpus}, reference, 'silent')
  table = comparison.as_markdown(found, {'silent': 3.14159}).splitlines()
  assert table[0] == '| system | Inform | Success | BLEU | Combined | words | perplexity |'
  assert table[2].startswith('| silent | 0.0 (0.0 to 0.0) | 0.0 (0.0 to 0.0) | 0.0 ')
  assert table[2].endswith('| 1.0 | 3.14 |')
  assert '| corpus | +100.0 (+100.0 to +100.0) |' in table[9]
  assert any('corpus' in line and 'success' in line for line in table[10:])
  comparison.plot(found, folder / 'table.png')
  assert (folder / 'table.png').stat().st_size > 5000


@pytest.mark.parametrize('flags, message', [
    (['--train=a.jsonl'], '--train is given: give --test and --data, too'),
    (['--test=a.jsonl'], '--test and --data are of dialogues of your own'),
    (['--scratch', '--adapted'], 'the models are none'),
    (['--scratch', 'experiments/dialogue_lora.gin'], 'the models are lora, lora, qlora'),
    (['--start=nowhere'], 'nowhere is no run: it has no config.gin')])
def test_a_plan_that_cannot_be_is_refused(flags, message, tmp_path, capsys):
  assert cli.main(['dialogue', 'respond', str(tmp_path / 'runs'), '--plan', *flags]) == 1
  assert message in capsys.readouterr().err
  assert not (tmp_path / 'runs').exists()


def test_files_of_ones_own_are_checked_before_anything_is_made(folder, tmp_path, capsys):
  for name, dialogues in (('train', generate(3, seed=5)), ('test', DIALOGUES[:2]),
                          ('other', [dataclasses.replace(DIALOGUES[0], id='nobody')])):
    (tmp_path / f'{name}.jsonl').write_text(json_lines(dialogues))
  respond = lambda train, test: cli.main([
      'dialogue', 'respond', str(tmp_path / 'runs'), '--plan', f'--train={tmp_path}/{train}.jsonl',
      f'--test={tmp_path}/{test}.jsonl', f'--data={folder}/reference'])
  assert respond('train', 'test') == 0
  for files, message in ((('train', 'none'), 'none.jsonl: there is no such file'),
                         (('test', 'test'), 'is --test, too'),
                         (('train', 'other'), '1 of 1 dialogues, such as nobody, have no goal')):
    assert respond(*files) == 1
    assert message in capsys.readouterr().err
  assert not (tmp_path / 'runs').exists()


@pytest.mark.slow
def test_one_command_trains_responds_and_compares(tmp_path, monkeypatch, capsys):
  pytest.importorskip('sacremoses')
  from tasks.commands import dialogue_respond
  monkeypatch.setattr(dialogue_respond, 'NUMBERS', {'train': 20, 'test': 4})
  monkeypatch.setattr(dialogue_respond, 'OTHERS', 40)
  recipes = {}
  for name in ('base', 'scratch', 'qlora'):
    recipes[name] = tmp_path / f'{name}.gin'
    recipes[name].write_text(
        f"include 'experiments/dialogue_{name}.gin'\nSTEPS = 2\nWARMUP_STEPS = 1\n"
        'ModelConfig.num_layers = 1\nInferConfig.max_tokens = 4\n')
  folder = tmp_path / 'runs'
  command = ['dialogue', 'respond', str(folder), '--pieces=350', f'--base={recipes["base"]}',
             '--scratch', str(recipes['scratch']), '--adapted', str(recipes['qlora'])]
  assert cli.main([*command, '--pieces=9']) == 1
  assert 'error: --pieces=9: must be at least 260' in capsys.readouterr().err
  assert cli.main(command) == 0
  table = (folder / 'comparison.md').read_text()
  assert table in capsys.readouterr().out
  rows = [line.split(' | ')[0].removeprefix('| ') for line in table.splitlines()[2:7]]
  assert rows == ['most_frequent', 'nearest', 'scratch', 'qlora', 'corpus']
  assert (folder / 'comparison.png').exists()
  predictions = json.loads((folder / 'predictions/qlora.json').read_text())
  corpus = json.loads((folder / 'predictions/corpus.json').read_text())
  assert {k: len(v) for k, v in predictions.items()} == {k: len(v) for k, v in corpus.items()}
  # What is there is taken up; the public form is scored by the command for it.
  assert cli.main(command) == 0
  assert ' (done)' in capsys.readouterr().out
  assert cli.main(['dialogue', 'score', str(folder / 'predictions/corpus.json'),
                   f'--data={folder}/data/reference']) == 0
  _asks_as_it_was_trained(folder)


def _asks_as_it_was_trained(folder):
  """The prompts of a run's Responder are the ids of its task before the answer."""
  from t5x_lite.commands.dialogue_model import load_responder
  from t5x_lite.experiment import gin_config
  responder = load_responder(folder / 'scratch')
  asked = [turns for turns, _ in asked_and_answered(generate(4, seed=1))]
  ids = [responder._ids(turns) for turns in asked]
  data = gin_config.load_experiment([str(folder / 'scratch/config.gin')], [], trains=False)[0].data
  trained = [list(one['ids']) for one in data.examples('validation')]
  assert len(trained) > 10 and all(one in ids for one in trained)   # the longest are left out
  for n in (1, 3):   # one at a time or many, in any order
    assert responder(asked[:n]) == responder(asked[:8])[:n]


def test_a_run_of_another_task_is_no_responder(tmp_path, capsys):
  assert cli.main(['dialogue', 'simulate', f'--system={tmp_path}']) == 1
  assert 'is no run: it has no config.gin' in capsys.readouterr().err
  (tmp_path / 'dialogues.jsonl').write_text(json_lines(DIALOGUES[:1]))
  assert cli.main(['dialogue', 'simulate', '--system=oracle']) == 1
  assert 'oracle is no system: choose rules, no_phone, mistaken, random' in capsys.readouterr().err

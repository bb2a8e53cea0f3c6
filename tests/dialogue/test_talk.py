"""People talk to systems on a page: what they see, what is written, and the table of it."""

import contextlib
import json
import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import sys

import pytest

from t5x_lite import cli
from t5x_lite.commands import dialogue_talk
from t5x_lite.core.errors import UserError
from t5x_lite.dialogue.schema import read_dialogues
from t5x_lite.dialogue.talk.study import MAX_TEXT, OBJECTIVE, QUESTIONS
from t5x_lite.evaluation.questionnaires import compare_systems, read_answers, tabulate

YES = dict.fromkeys(QUESTIONS, True)
ROOT = pathlib.Path(__file__).parents[2]


def make_study(folder, *systems, goals=2):
  import argparse
  return dialogue_talk.make_study(argparse.Namespace(
      systems=systems, goals=goals, seed=0, output=folder, trusted_modules=()))


def talk(study, success=True):
  """Holds the next dialogue as a careful person would; returns what the system said."""
  begun = study.start()
  said = []
  for domain, first, changed, wanted, booking in re.findall(
      r'looking for a (\w+)(?:: ([^.]*))?\.(?: If [^.]*want (\w+ \w+) instead\.)? Ask for the '
      r'([^.]*)\.(?: Then book it: ([^.]*)\.)?', begun['goal']):
    parts = {'area': 'in the {}', 'food': 'with {} food', 'pricerange': 'with {} prices',
             'stars': 'with {} stars', 'people': 'for {} people', 'day': 'on {}', 'time': 'at {}',
             'stay': 'for {} nights'}
    word = lambda slot, value: {'yes': 'with parking', 'no': 'without parking'}[
        value] if slot == 'parking' else parts[slot].format(value)
    tell = lambda text: ' '.join(word(*one.split()) for one in re.split(', | and ', text) if one)
    say = lambda text: said.append(study.say(begun['session'], text))
    say(f'I want a {domain} {tell(first)}.')
    if changed:
      say(f'I want a {domain} {tell(changed)}.')
    while not said[-1].startswith(('How about', 'I recommend', 'There is')):   # a question
      slot = next(slot for slot in ('food', 'area', 'pricerange', 'stars', 'parking')
                  if slot in said[-1].lower())
      say(f'For the {domain} any {slot} will do.')
    say(f'What is the {wanted.replace(", ", " and the ")} of the {domain}?')
    if booking:
      say(f'Please book the {domain} {tell(booking)}.')
  study.rate(begun['session'], YES | {'success': success})
  return said


def test_answers_and_dialogues_are_written_and_make_the_table(tmp_path, capsys):
  study = make_study(tmp_path, 'rules', 'no_phone', goals=8)
  for _ in range(16):
    talk(study)
  answers = read_answers(tmp_path / 'answers.jsonl')
  cells = {(cell.question, cell.system): cell for cell in tabulate(answers)}
  assert cells[OBJECTIVE, 'rules'].successes == cells[OBJECTIVE, 'rules'].number == 8
  assert cells[OBJECTIVE, 'no_phone'].successes < 8
  assert cells['success', 'no_phone'].successes == 8   # what people say is as they say
  tests = {test.question: test for test in compare_systems(answers)}
  assert tests[OBJECTIVE].paired and tests[OBJECTIVE].number == 8
  dialogues = [*read_dialogues(tmp_path / 'dialogues.jsonl')]
  assert {one.id for one in dialogues} == {
      f'{name}-{goal}' for name in ('rules', 'no_phone') for goal in range(8)}
  with pytest.raises(UserError, match='have been held'):
    study.start()
  assert cli.main(['questionnaire', str(tmp_path / 'answers.jsonl')]) == 0
  assert 'McNemar, 8 items' in capsys.readouterr().out


def test_a_study_goes_on_where_it_was(tmp_path):
  talk(make_study(tmp_path, 'rules'))
  again = make_study(tmp_path, 'rules')
  assert again.done == 1
  talk(again)
  with pytest.raises(UserError, match='have been held'):
    again.start()


def test_what_is_wrong_is_said_and_writes_nothing(tmp_path):
  study = make_study(tmp_path, 'rules')
  session = study.start()['session']
  for text in ('', '  ', 'x' * (MAX_TEXT + 1)):
    with pytest.raises(UserError, match='Say something'):
      study.say(session, text)
  with pytest.raises(UserError, match='Talk to the system first'):
    study.rate(session, YES)
  study.say(session, 'blah <b>blah</b>')
  with pytest.raises(UserError, match='Please answer: Was it quick'):
    study.rate(session, {name: True for name in [*QUESTIONS][:-1]})
  with pytest.raises(UserError, match='is over'):
    study.say('nobody', 'hello')
  assert not (tmp_path / 'answers.jsonl').exists()
  study.rate(session, YES)
  with pytest.raises(UserError, match='is over'):
    study.rate(session, YES)


def test_flags_that_are_wrong(tmp_path, capsys):
  with socket.socket() as taken:
    taken.bind(('127.0.0.1', 0))
    taken.listen()
    for flag, message in (('--goals=0', 'from 1'), ('--port=70000', 'to 65535'),
                          (f'--port={taken.getsockname()[1]}', 'give another port')):
      assert cli.main(['dialogue', 'talk', f'--output={tmp_path}', flag]) == 1
      assert message in capsys.readouterr().err


@pytest.fixture
def browser(tmp_path):
  webdriver = pytest.importorskip('selenium.webdriver')
  chromium, driver = shutil.which('chromium'), shutil.which('chromedriver')
  if not (chromium and driver):
    pytest.skip('there is no chromium with chromedriver on this machine')
  options = webdriver.ChromeOptions()
  options.binary_location = chromium
  for flag in ('--headless=new', '--no-sandbox', '--disable-gpu', '--disable-quic',
               '--disable-background-networking', f'--user-data-dir={tmp_path / "browser"}',
               '--window-size=900,1100'):
    options.add_argument(flag)
  found = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
  yield found
  found.quit()


@contextlib.contextmanager
def served(folder):
  """The address of the command, which ends with success when it is interrupted."""
  with subprocess.Popen(
      [sys.executable, '-m', 't5x_lite', 'dialogue', 'talk', '--port=0', '--goals=2',
       f'--output={folder}'], stdout=subprocess.PIPE, text=True,
      env=os.environ | {'PYTHONPATH': str(ROOT)}) as process:
    try:
      yield re.search(r'http://[\d.:]+', process.stdout.readline())[0]
    finally:
      process.send_signal(signal.SIGINT)
      process.wait(30)


def test_a_person_talks_to_a_system_in_a_browser(tmp_path, browser):
  from selenium.webdriver.support.ui import WebDriverWait
  find = lambda css: browser.find_element('css selector', css)
  wait = lambda condition: WebDriverWait(browser, 30).until(lambda _: condition())
  with served(tmp_path / 'study') as address:
    browser.get(address)
    assert not find('#talk').is_displayed()
    find('#start').click()
    wait(lambda: find('#talk').is_displayed())
    assert 'You are looking for a' in find('#goal').text
    domain = re.search(r'looking for a (\w+)', find('#goal').text)[1]
    find('#text').send_keys(f'I want a {domain} <b>in</b> the north.\n')
    wait(lambda: browser.find_elements('css selector', '#turns .system'))
    assert find('#turns .user').text == f'I want a {domain} <b>in</b> the north.'
    assert find('#turns .system').text
    find('#rate button').click()
    wait(lambda: 'Please answer: Did you get all' in find('#status').text)
    for name in QUESTIONS:
      find(f'input[name="{name}"][value="0"]').click()
    find('#rate button').click()
    wait(lambda: 'Thank you' in find('#goal').text)
    rows = [json.loads(line) for line in
            (tmp_path / 'study/answers.jsonl').read_text().splitlines()]
    assert [row['question'] for row in rows] == [*QUESTIONS, OBJECTIVE]
    assert {row['success'] for row in rows} == {0}
    find('#start').click()
    wait(lambda: find('#talk').is_displayed())
    assert not browser.find_elements('css selector', '#turns div')
    assert find('#status').text == ''


def test_dialogues_that_nobody_rated_are_kept_apart(tmp_path):
  study = make_study(tmp_path, 'rules')
  session, silent = study.start()['session'], study.start()['session']
  study.say(session, 'I want a hotel.')
  assert study.close() == 1 and study.close() == 0
  (one,) = read_dialogues(tmp_path / 'unrated.jsonl')
  assert [turn.speaker for turn in one.turns] == ['user', 'system'] and one.message
  assert not (tmp_path / 'dialogues.jsonl').exists()
  for ended in (session, silent):
    with pytest.raises(UserError, match='is over'):
      study.say(ended, 'hello')
  assert make_study(tmp_path, 'rules').done == 0   # it is handed out again

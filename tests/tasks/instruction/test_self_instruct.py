"""Tasks that a model writes: prompts and their answers, what is refused, rounds, and resuming."""

import json
import os
import pathlib
import random

import pytest
from rouge_score import rouge_scorer

from t5x_lite.core.errors import UserError
from tasks.files import FileTask
from tasks.instruction import ConversationTask
from tasks.instruction.self_instruct import bootstrap, filters, prompts
from tasks.instruction.self_instruct.bootstrap import Bootstrap, Settings
from tasks.instruction.self_instruct.results import Results
from tasks.instruction.self_instruct.seed_tasks import Task, read_seed_tasks

_ROOT = os.environ.get('T5X_LITE_TEST_DATA')
_WORDS = [f'word{i}' for i in range(400)]
SEEDS = [Task(f'Say number {i} in the words of {_WORDS[i]}.', ((f'in {i}', f'out {i}'),),
              i % 3 == 0) for i in range(12)]


def seed_rows(seeds=SEEDS) -> str:
  return ''.join(json.dumps({
      'id': f'seed_task_{i}', 'name': f'n{i}', 'instruction': task.instruction, 'instances': [
          {'input': a, 'output': b} for a, b in task.instances],
      'is_classification': task.is_classification}) + '\n' for i, task in enumerate(seeds))


# Prompts and answers.
def test_a_prompt_for_instructions_is_a_list_to_be_continued():
  prompt = prompts.ask_instructions(['Name a\n color:', 'Add two numbers.'])
  assert prompt == 'Come up with a series of tasks:\n1. Name a color\n2. Add two numbers.\n3.'
  answer = ' write a  poem.\n4. Sum up:\n the text\n5 . Tell JSON from XML\n\nMore text.\n6. No.'
  assert prompts.read_instructions(answer, False, 8) == [
      ('Write a poem.', True), ('Sum up: the text', True), ('Tell JSON from XML', True)]
  assert prompts.read_instructions('3. Again.\n4. Cut', False, 8) == [
      ('Again.', True), ('Cut', False)]
  assert prompts.read_instructions('One.\n4. Two.\n5. Three.', True, 2) == [
      ('One.', True), ('Two.', True)]
  assert prompts.read_instructions(' \n', True, 8) == []


def test_whether_it_is_a_classification():
  shown = [Task('Is it spam?', (('x', 'yes'),), True), Task('Write\na poem.', (('', 'p'),), False)]
  assert prompts.ask_class(shown, 'Tell the sentiment.').endswith(
      '\n\nTask: Is it spam?\nIs it classification? Yes\n\nTask: Write a poem.\n'
      'Is it classification? No\n\nTask: Tell the sentiment.\nIs it classification?')
  assert [prompts.read_class(text) for text in (' Yes\n\nTask', 'NO.', '"yes"', 'maybe', '')] == [
      True, False, True, None, None]


def test_instances_of_a_task_are_input_first_and_read_back():
  two = Task('Add.', (('1 + 1', '2'), ('2 + 2', '4')), False)
  alone = Task('Write a poem.', (('', 'a rose'),), False)
  prompt = prompts.ask_instances([two, alone], 'Sort a list.', False)
  assert prompt.endswith(
      '\n\nTask: Add.\nExample 1\nInput: 1 + 1\nOutput: 2\nExample 2\nInput: 2 + 2\nOutput: 4\n\n'
      'Task: Write a poem.\nOutput: a rose\n\nTask: Sort a list.\n')
  for task in (two, alone):   # what is shown is what is read
    written = '\n'.join(prompts._input_first(task)[1:])
    assert prompts.read_instances(written, True, False) == list(task.instances)
  answer = 'Example 1\nInput: a\nb\nOutput:\nc\nd\n\nExample 2\nInput: e\nOutput: f'
  whole = [('a\nb', 'c\nd'), ('e', 'f')]
  assert prompts.read_instances(answer, True, False) == whole
  assert prompts.read_instances(answer + '\n\nTask: Next', False, False) == whole
  assert prompts.read_instances(answer, False, False) == whole[:1]
  assert prompts.read_instances('Input: a\nOutput: b\nInput: c\nOutput: d', True, False)[0] == (
      'a', 'b')
  assert prompts.read_instances('Example 1\nInput: no output', True, False) == []
  assert prompts.read_instances('nothing of the form', True, False) == []


def test_instances_of_a_classification_are_label_first_and_read_back():
  task = Task('Sentiment?', (('I like it.', 'good'), ('Bad\nday', 'bad'), ('', 'none')), True)
  prompt = prompts.ask_instances([task], 'Spam?', True)
  assert prompt.endswith(
      '\n\nTask: Sentiment?\nClass label: good\nInput: I like it.\nClass label: bad\nInput: '
      'Bad\nday\nClass label: none\n\nTask: Spam?\n')
  written = '\n'.join(prompts._label_first(task)[1:])
  assert prompts.read_instances(written, True, True) == list(task.instances)
  assert prompts.read_instances('Class label: spam\nBuy now\nClass label: ham\nSentence: hi',
                                True, True) == [('Buy now', 'spam'), ('Sentence: hi', 'ham')]
  assert prompts.read_instances('Output: x', True, True) == []


# What is refused.
@pytest.mark.parametrize('text, why', [
    ('Write a short poem.', None), ('Only three words', 'fewer'), (' '.join(_WORDS[:151]), 'more'),
    (' '.join(_WORDS[:150]), None), ('Describe the Image in words.', 'of images'),
    ('Imagine a bitmap of paragraphs here.', None), ('Tell me where to go to now.', 'of images'),
    ('Write a program that adds numbers.', 'asks for a program'),
    ('Help me write a program quickly.', None), ('"Quote" this text for me.', 'punctuation'),
    ('Élargis cette phrase pour moi.', 'not ASCII'), ('3 words are here now.', None)])
def test_instructions_that_a_model_of_text_cannot_follow_are_refused(text, why):
  found = filters.refuse_instruction(text)
  assert found is None if why is None else why in found


@pytest.mark.parametrize('found, kept, why', [
    ([('a', 'b'), ('a', 'b'), ('c', 'd'), ('e', 'f')], [('a', 'b'), ('c', 'd')], None),
    ([('', 'x'), ('', 'y')], [('', 'x'), ('', 'y')], None),
    ([('a', 'b'), ('a', 'c')], [], 'several outputs'), ([], [], 'could be read'),
    ([('a', 'a'), ('b', ''), ('c:', 'd'), ('e', 'f:')], [], 'no instance is whole')])
def test_instances_that_teach_nothing_are_refused(found, kept, why):
  got, reason = filters.keep_instances(found, 2)
  assert got == kept and (reason is None if why is None else why in reason)


def test_similar_instructions_are_those_of_rouge_score_and_at_least_the_threshold():
  """The bound by common words leaves out no pair that the library would call similar."""
  rng, scorer = random.Random(0), rouge_scorer.RougeScorer(['rougeL'])
  texts = []
  for _ in range(60):
    text = rng.sample(_WORDS[:14], rng.randrange(4, 12))
    texts.append(' '.join(text))
  pool = filters.Pool(0.7, texts[:40])
  refused = 0
  for text in texts[40:] + texts[:3]:
    best = max(scorer.score(other, text)['rougeL'].fmeasure for other in texts[:40])
    found = pool.similar(text)
    assert (found is not None) == (best >= 0.7 - 1e-9)
    if found:
      refused += 1
      assert found[0] == pytest.approx(best)
  assert 3 <= refused < 23
  exact = filters.Pool(0.7, ['a b c d e f g h i j'])
  assert exact.similar('a b c d e f g x y z')[0] == pytest.approx(0.7)   # at 0.7 it is refused
  assert exact.similar('a b c d e f v x y z') is None


# Rounds, of a model by rule.
class Scripted:
  """Writes two instructions a prompt, one of them again and again, and instances of each."""

  def __init__(self, longest=10 ** 6, instances=True):
    self.longest, self.instances, self.asked = longest, instances, []

  def fits(self, prompt):
    return len(prompt) <= self.longest

  def sample(self, asked):
    self.asked += asked
    draw = lambda prompt: ' '.join(random.Random(prompt).sample(_WORDS, 6))
    return [(f' Explain {draw(prompt)}.\n99. Repeat after me this sentence.\n100. Short one.', True)
            for prompt in asked]

  def word(self, asked):
    return [(' Yes' if 'word1' in prompt.split('Task:')[-1] else ' No', False) for prompt in asked]

  def answer(self, asked):
    found = []
    for prompt in asked:
      if not self.instances:
        found.append(('none', True))
      elif 'Class label' in prompt:
        found.append(('Class label: a\nInput: x\nClass label: b\nInput: y', True))
      else:
        found.append((f'Example 1\nInput: {len(prompt)}\nOutput: z\n\nTask:', False))
    return found


SETTINGS = Settings(human=3, generated=2, classifications=2, generations=3, batch_size=3, seed=5)


def run(folder, number, model=None, settings=SETTINGS, more=()):
  results = Results(folder, {'seed': settings.seed, **dict(more)})
  for _ in Bootstrap(SEEDS, model or Scripted(), settings, results).run(number):
    pass
  return results


def test_rounds_give_tasks_that_a_run_reads_and_say_what_was_refused(tmp_path):
  model = Scripted()
  results = run(tmp_path / 'out', 8, model)
  assert len(results.tasks) >= 8
  rows = [json.loads(line) for line in results.tasks_file.read_text().splitlines()]
  assert rows == results.tasks and len({row['instruction'] for row in rows}) == len(rows)
  assert {row['is_classification'] for row in rows} == {True, False}
  for row in rows:
    assert row['instances'] == (
        [{'input': 'x', 'output': 'a'}, {'input': 'y', 'output': 'b'}] if row['is_classification']
        else [{'input': row['instances'][0]['input'], 'output': 'z'}])
  repeated = [row for row in rows if 'Repeat after me' in row['instruction']]
  assert len(repeated) == 1
  counts = results.counts()
  asked = len(model.asked)
  assert counts == {'fewer than 4 words': asked, 'has a ROUGE-L of 0.7 or more with another':
                    asked - 1}
  progress = json.loads((tmp_path / 'out/progress.json').read_text())
  assert progress['refused'] == counts and progress['tasks'] == len(rows)
  instances = str(tmp_path / 'out/instances.jsonl')
  for file in (str(results.tasks_file), instances):
    assert ConversationTask(train=file, template='alpaca')._indices()['train']
  flat = FileTask(train=instances, objective='text_to_text', inputs='{instruction} {input}',
                  targets='output')._indices()['train']
  assert len(flat) == sum(len(row['instances']) for row in rows)
  assert flat[0]['inputs'].startswith(rows[0]['instruction'])


def test_prompts_show_instructions_of_people_and_of_the_model(tmp_path):
  model = Scripted()
  run(tmp_path / 'out', 8, model)
  own = lambda prompt: sum('Explain' in line or 'Repeat' in line for line in prompt.splitlines())
  assert [own(prompt) for prompt in model.asked[:3]] == [0, 0, 0]
  assert {own(prompt) for prompt in model.asked[3:]} == {2}
  assert {len(prompt.splitlines()) for prompt in model.asked} == {1 + 5 + 1}
  assert len(set(model.asked)) == len(model.asked)


def test_a_run_that_was_stopped_in_a_round_ends_as_an_unbroken_one(tmp_path):
  whole = run(tmp_path / 'whole', 12)
  part = run(tmp_path / 'part', 5)
  assert 0 < part.rounds < whole.rounds
  tasks = part.tasks_file
  cut = {'id': 'x', 'instruction': 'of a round that was cut', 'instances': [], 'round': part.rounds}
  tasks.write_text(tasks.read_text() + json.dumps(cut) + '\n')
  run(tmp_path / 'part', 12)
  for name in ('tasks.jsonl', 'instances.jsonl', 'refused.jsonl', 'progress.json'):
    assert (tmp_path / 'part' / name).read_text() == (tmp_path / 'whole' / name).read_text()
  asked = Scripted()
  run(tmp_path / 'part', 3, asked)   # there are as many
  assert not asked.asked


def test_a_folder_of_other_settings_or_damaged_is_refused(tmp_path):
  folder = tmp_path / 'out'
  run(folder, 3, more={'model': 'a'})
  with pytest.raises(UserError, match="begun with model 'a', and now it is 'b': name another"):
    run(folder, 4, more={'model': 'b'})
  (folder / 'tasks.jsonl').write_text('{"round": 0}\n{"rou')
  with pytest.raises(UserError, match='tasks.jsonl:2: is damaged'):
    run(folder, 4, more={'model': 'a'})
  (folder / 'progress.json').unlink()
  with pytest.raises(UserError, match='has tasks.jsonl and no progress.json'):
    run(folder, 4)


def test_a_model_that_writes_no_task_is_given_up_with_the_reasons(tmp_path, monkeypatch):
  monkeypatch.setattr(bootstrap, 'PATIENCE', 3)
  with pytest.raises(UserError, match=r'3 rounds in a row gave no new task \(.*no instance could '
                                      r'be read.*\): try a larger model'):
    run(tmp_path / 'out', 1, Scripted(instances=False))
  assert (tmp_path / 'out/refused.jsonl').read_text().count('"answer": "none"') > 3


def test_prompts_that_the_model_does_not_read_are_refused_and_all_of_them_an_error(
    tmp_path, monkeypatch):
  monkeypatch.setattr(bootstrap, 'PATIENCE', 3)
  with pytest.raises(UserError, match='does not read the whole of a prompt: lower --human'):
    run(tmp_path / 'none', 1, Scripted(longest=100))
  with pytest.raises(UserError, match='the prompt is longer than the model reads.*: lower --human'):
    run(tmp_path / 'some', 1, Scripted(longest=330))
  only = Settings(human=3, classifications=0, generations=1, batch_size=3)
  results = run(tmp_path / 'out', 3, Scripted(longest=450), only)
  assert not any(task['is_classification'] for task in results.tasks)


# Seed tasks, and the command.
@pytest.mark.parametrize('row, message', [
    ({'instruction': 'i', 'instances': []}, 'is_classification is missing'),
    ({'instruction': ' ', 'instances': [], 'is_classification': True}, "'instruction' must be"),
    ({'instruction': 'i', 'instances': [], 'is_classification': True}, "'instances' must be a"),
    ({'instruction': 'i', 'instances': [{'input': 'x'}], 'is_classification': True}, 'instance 1'),
    ({'instruction': 'i', 'instances': ['x'], 'is_classification': True}, 'instance 1'),
    ({'instruction': 'i', 'instances': [{'output': 'x'}], 'is_classification': 'no'}, 'true or'),
])
def test_rows_that_are_no_seed_tasks_are_refused_with_their_line(row, message, tmp_path):
  path = tmp_path / 'seeds.jsonl'
  path.write_text(seed_rows(SEEDS[:2]) + json.dumps(row))
  with pytest.raises(UserError, match=f'--seed_tasks: {path}:3: .*{message}'):
    read_seed_tasks(str(path))


def test_seed_tasks_are_read(tmp_path):
  (tmp_path / 'seeds.jsonl').write_text(seed_rows())
  assert read_seed_tasks(str(tmp_path / 'seeds.jsonl')) == SEEDS


@pytest.mark.skipif(not _ROOT, reason='T5X_LITE_TEST_DATA is not set')
def test_the_public_seed_tasks_are_no_two_alike():
  seeds = read_seed_tasks(str(pathlib.Path(_ROOT) / 'instruct/seed_tasks.jsonl'))
  assert len(seeds) == 175 and sum(seed.is_classification for seed in seeds) == 26
  pool, alike = filters.Pool(0.7), 0
  for seed in seeds:
    alike += pool.similar(seed.instruction) is not None
    pool.add(seed.instruction)
  assert alike == 2
  assert sum(filters.refuse_instruction(seed.instruction) is None for seed in seeds) > 140

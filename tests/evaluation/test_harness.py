"""lm-evaluation-harness scores a run as it scores the same model that was exported."""

import gzip
import json
import os
import pathlib
import random

import numpy as np
import pytest

torch = pytest.importorskip('torch')
transformers = pytest.importorskip('transformers')
lm_eval = pytest.importorskip('lm_eval')
pytest.importorskip('accelerate')

from lm_eval.api.model import LM  # noqa: E402

from t5x_lite import cli  # noqa: E402
from t5x_lite.commands import evaluate_harness  # noqa: E402
from t5x_lite.core.errors import UserError  # noqa: E402
from t5x_lite.evaluation.likelihood import Request  # noqa: E402
from t5x_lite.evaluation.suites.tasks import TASKS as TASKS_OF_OURS  # noqa: E402

PEER = pathlib.Path(os.environ.get('T5X_LITE_TEST_DATA', '/nonexistent')) / 'peers/lmeval'
pytestmark = pytest.mark.skipif(not PEER.exists(), reason='T5X_LITE_TEST_DATA is not set')
# Of the harness's own files: (path, files of our folder, more settings).
TASKS = {
    'arc': ('arc/arc_easy.yaml', {'train': 'arc_train', 'test': 'arc_test'}, 'num_fewshot: 3'),
    'hellaswag': ('hellaswag/hellaswag.yaml', {'train': 'hellaswag_train',
                                               'validation': 'hellaswag_validation'}, ''),
    'mmlu': ('mmlu/default/mmlu_conceptual_physics.yaml', {
        'test': 'mmlu_conceptual_physics_test', 'dev': 'mmlu_conceptual_physics_dev'},
             'num_fewshot: 5'),
    'mc1': ('truthfulqa/truthfulqa_mc1.yaml', {'validation': 'truthfulqa_validation'}, ''),
    'mc2': ('truthfulqa/truthfulqa_mc2.yaml', {'validation': 'truthfulqa_validation'}, ''),
    'wikitext': ('wikitext/wikitext.yaml', {'test': 'wikitext_test'},
                 'training_split: null\nvalidation_split: null'),
    'gsm8k': ('gsm8k/gsm8k.yaml', {'train': 'gsm8k_train', 'test': 'gsm8k_test'},
              'num_fewshot: 1\ngeneration_kwargs:\n  until: ["Question:"]\n  max_gen_toks: 24\n'
              '  do_sample: false'),
}
LIMIT = 6


@pytest.fixture(scope='module')
def tasks(tmp_path_factory):
  """A TaskManager of the harness's tasks, on files."""
  folder = tmp_path_factory.mktemp('tasks')
  library = pathlib.Path(lm_eval.__file__).parent / 'tasks'
  for name, (path, files, more) in TASKS.items():
    lines = [f'include: {library / path}', f'task: {name}', 'dataset_path: json',
             'dataset_name: null', more, 'dataset_kwargs:', '  data_files:']
    for split, file in files.items():
      rows = gzip.decompress((PEER / f'docs50/{file}.jsonl.gz').read_bytes())
      if file == 'wikitext_test':   # short enough for three windows
        rows = rows.splitlines(keepends=True)[0]
      (folder / f'{file}.jsonl').write_bytes(rows)
      lines.append(f'    {split}: {folder / file}.jsonl')
    (folder / f'{name}.yaml').write_text('\n'.join(lines) + '\n')
  from lm_eval.tasks import TaskManager
  return TaskManager(include_path=str(folder), include_defaults=False)


@pytest.fixture(scope='module')
def runs(tmp_path_factory):
  """(a run, the same in Hugging Face's files)."""
  folder = tmp_path_factory.mktemp('runs')
  assert cli.main(['import', f'--from={PEER / "checkpoint"}', f'--to={folder / "run"}']) == 0
  assert cli.main(['export', f'--from={folder / "run"}', f'--to={folder / "exported"}']) == 0
  return folder / 'run', folder / 'exported'


def evaluate(model, tasks):
  """{task: samples in order} by the harness, of all tasks."""
  random.seed(0)
  found = lm_eval.simple_evaluate(model=model, tasks=[*TASKS], task_manager=tasks, limit=LIMIT,
                                  bootstrap_iters=0, log_samples=True)
  return found['results'], {name: sorted(rows, key=lambda row: row['doc_id'])
                            for name, rows in found['samples'].items()}


@pytest.mark.slow
def test_a_run_scores_as_its_export_does(runs, tasks, monkeypatch):
  from lm_eval.models.huggingface import HFLM
  monkeypatch.setenv('HF_HUB_OFFLINE', '1')
  monkeypatch.setenv('HF_DATASETS_OFFLINE', '1')
  run, exported = runs
  model = transformers.AutoModelForCausalLM.from_pretrained(exported)
  tokenizer = transformers.AutoTokenizer.from_pretrained(exported)
  theirs = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=8)
  from t5x_lite.evaluation.harness import HarnessModel
  ours = HarnessModel(*evaluate_harness.load_run(str(run), 8))
  assert ours.max_length == theirs.max_length == 1024
  wanted, samples = evaluate(theirs, tasks)
  results, own = evaluate(ours, tasks)
  assert own.keys() == samples.keys() == TASKS.keys()
  for name, rows in samples.items():
    assert len(rows) == len(own[name]) > 0
    for a, b in zip(own[name], rows):
      assert a['arguments'] == b['arguments'], name   # prompts, byte by byte
      if name == 'gsm8k':
        assert a['resps'] == b['resps']
      else:
        numbers = lambda row: np.asarray([r[0] if isinstance(r[0], float) else r[0][0]
                                          for r in row['resps']], float)
        np.testing.assert_allclose(numbers(a), numbers(b), atol=1e-3)
    for metric, value in wanted[name].items():
      if isinstance(value, float):
        assert results[name][metric] == pytest.approx(value, rel=1e-5, abs=1e-6), (name, metric)


class Recorder(LM):
  """A model of no answers, whose chat template writes a conversation as it was given."""

  tokenizer_name = 'recorder'

  def loglikelihood(self, requests, **unused):
    return [(0.0, False)] * len(requests)

  def loglikelihood_rolling(self, requests, **unused):
    return [0.0] * len(requests)

  def generate_until(self, requests, **unused):
    return [''] * len(requests)

  def apply_chat_template(self, chat_history, add_generation_prompt=True):
    return json.dumps(chat_history)

  def chat_template(self, chat_template=False):
    return 'json'


def test_conversations_are_those_of_the_harness(tasks):
  """Solved examples as turns, what describes a task, and answers without the blank before them."""
  named = {'arc': ('arc_challenge', 3), 'mmlu': ('mmlu', 5), 'mc1': ('truthfulqa_mc1', 0),
           'gsm8k': ('gsm8k', 1)}
  random.seed(0)
  found = lm_eval.simple_evaluate(
      model=Recorder(), tasks=[*named], task_manager=tasks, limit=LIMIT, bootstrap_iters=0,
      log_samples=True, apply_chat_template=True, fewshot_as_multiturn=True)['samples']
  for name, (own, shots) in named.items():
    task, files = TASKS_OF_OURS[own], TASKS[name][1]
    rows = {split: [json.loads(line) for line in gzip.decompress(
        (PEER / f'docs50/{file}.jsonl.gz').read_bytes()).splitlines()]
            for split, file in files.items()}
    items = task.items(rows[task.split], rows[task.shots_split] if shots else [], shots)
    for sample in found[name]:
      item = items[sample['doc_id']]
      conversation = json.dumps(item.messages(task.describes))
      if name == 'gsm8k':
        (asked, _), = sample['arguments']
        assert asked == conversation
      else:
        assert [tuple(x) for x in sample['arguments']] == [
            (conversation, choice) for choice in item.question.choices], name


def test_a_chat_template_asks(runs, tmp_path, capsys):
  """What is scored are the ids of the rendered conversation, and of the answers alone."""
  (tmp_path / 'good.jinja').write_text('{% for m in messages %}{{ m.role }}: {{ m.content }}\n'
                                       '{% endfor %}assistant:')
  (tmp_path / 'eats.jinja').write_text('assistant:')
  with gzip.open(PEER / 'docs50/arc_test.jsonl.gz', 'rt') as file:
    rows = [json.loads(line) for line in file][:2]
  (tmp_path / 'arc_easy_test.jsonl').write_text(''.join(json.dumps(row) + '\n' for row in rows))
  command = ['evaluate', str(runs[0]), '--tasks=arc_easy', f'--data={tmp_path}', '--chat',
             '--max_length=256', '--json', '--fresh']
  template = '--gin.InferConfig.chat_template='
  assert cli.main([*command, f'{template}{tmp_path / "good.jinja"}']) == 0
  result, = json.loads(capsys.readouterr().out)
  assert result['task'] == 'arc_easy+chat' and 'are turns' in result['conventions']['chat']
  model = evaluate_harness.load_run(str(runs[0]), 8, 256)[0]
  kept = (runs[0] / 'evaluations/arc_easy+chat-0shot-0.jsonl').read_text().splitlines()
  for row, line in zip(rows, map(json.loads, kept), strict=True):
    text = f'user: Question: {row["question"]}\nAnswer:\nassistant:'
    scored = model.score([Request(model.reader.read(text), model.reader.plain(choice))
                          for choice in row['choices']['text']])
    np.testing.assert_allclose(line['logprobs'], [s.total for s in scored], atol=1e-4)
  for flags, message in (
      ([f'{template}{tmp_path / "eats.jinja"}'], 'the chat template leaves out the question'),
      ([], '--chat: the run was trained on no conversations')):
    assert cli.main([*command, *flags]) == 1
    assert message in capsys.readouterr().err


def test_settings_of_what_is_written():
  from t5x_lite.evaluation import harness
  until, new, sampling = harness._settings({'until': 'Q:', 'max_gen_toks': 9, 'do_sample': False,
                                            'temperature': 0.0, 'top_p': 0.9})
  assert (until, new, sampling.temperature, sampling.top_p) == (['Q:'], 9, 0, 1)
  _, new, sampling = harness._settings({'do_sample': True, 'top_k': 3})
  assert (new, sampling.temperature, sampling.top_k) == (256, 1, 3)
  with pytest.raises(UserError, match='num_beams is no setting of Sampling'):
    harness._settings({'num_beams': 4})


@pytest.mark.slow
def test_the_command_runs_the_harness_on_a_run(runs, tmp_path, capsys):
  (tmp_path / 'rows.jsonl').write_text('{"q": "1 + 1 =", "a": "2"}\n' * 3)
  (tmp_path / 'sums.yaml').write_text(f'''
task: sums
dataset_path: json
dataset_kwargs:
  data_files:
    test: {tmp_path / "rows.jsonl"}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{q}}}}"
doc_to_choice: ["2", "3"]
doc_to_target: 0
metric_list:
  - metric: acc
''')
  assert cli.main(['evaluate', 'harness', 'run', '--model', 't5x_lite', '--model_args',
                   f'run={runs[0]},max_length=64', '--tasks', 'sums', '--include_path',
                   str(tmp_path), '--batch_size', '8']) == 0
  assert '|sums ' in capsys.readouterr().out

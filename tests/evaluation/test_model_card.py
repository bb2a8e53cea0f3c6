"""The card's front matter as a YAML reader and the hub's own library read it."""

import math

import pytest

from t5x_lite import cli
from t5x_lite.core.errors import UserError
from t5x_lite.evaluation import model_card, results


def make_result(**fields):
  return results.TaskResult(**dict(
      task='arc_challenge', shots=25, number=1172, headline='acc_norm', step=1000,
      metrics={'acc': results.Metric(0.25, 0.0127), 'acc_norm': results.Metric(0.3125, None)},
      conventions={'split': 'test', 'prompt': 'Question: {q}\nAnswer: | `x`', 'bos': False,
                   'versions': {'lm_eval': '0.4.13'}}) | fields)


RESULTS = [make_result(), make_result(
    task='yes: no # "x"', shots=0, number=3, headline='ppl', step=None, conventions={},
    metrics={'ppl': results.Metric(1e22, 1e-7), 'odd': results.Metric(math.nan, None)})]


def front_of(card: str) -> str:
  start, front, _ = card.split('---\n', 2)
  assert start == ''
  return front


def test_front_matter_is_the_hubs():
  yaml = pytest.importorskip('yaml')
  card = model_card.render_card('my: model', RESULTS)
  front = yaml.safe_load(front_of(card))
  (model,) = front['model-index']
  assert front['library_name'] == 't5x_lite' and model['name'] == 'my: model'
  first, second = model['results']
  assert first == {
      'task': {'type': 'text-generation', 'name': 'Text generation'},
      'dataset': {'type': 'arc_challenge', 'name': 'arc_challenge (25-shot)', 'split': 'test',
                  'args': {'num_few_shot': 25, 'num_items': 1172, 'step': 1000}},
      'metrics': [{'type': 'acc_norm', 'name': 'acc_norm', 'value': 0.3125},
                  {'type': 'acc', 'name': 'acc ± 0.0127', 'value': 0.25}]}
  assert second['dataset']['type'] == 'yes: no # "x"' and 'split' not in second['dataset']
  assert second['metrics'][0]['value'] == 1e22 and math.isnan(second['metrics'][1]['value'])


def test_the_hubs_library_reads_it():
  hub = pytest.importorskip('huggingface_hub')
  data = hub.ModelCard(model_card.render_card('lm', RESULTS[:1])).data
  assert data.model_name == 'lm'
  assert [(r.task_type, r.dataset_type, r.dataset_split, r.metric_type, r.metric_value)
          for r in data.eval_results] == [
              ('text-generation', 'arc_challenge', 'test', 'acc_norm', 0.3125),
              ('text-generation', 'arc_challenge', 'test', 'acc', 0.25)]


def test_tables_have_each_metric_and_convention():
  lines = model_card.render_card('lm', RESULTS).splitlines()
  assert '| arc\\_challenge | 25 | 1,172 | **acc\\_norm** | 0.3125 |  |' in lines
  assert '| arc\\_challenge | 25 | 1,172 | acc | 0.2500 | 0.0127 |' in lines
  assert ('| arc\\_challenge, 25-shot | prompt | Question: {q} Answer: \\| \\`x\\` |') in lines
  assert '| arc\\_challenge, 25-shot | bos | false |' in lines
  assert '| arc\\_challenge, 25-shot | step | 1000 |' in lines


def test_the_command_writes_the_results_of_a_run(tmp_path, capsys):
  run = tmp_path / 'lm'
  assert cli.main(['evaluate', 'card', str(run)]) == 1
  assert 'no such folder' in capsys.readouterr().err
  run.mkdir()
  assert cli.main(['evaluate', 'card', str(run)]) == 1
  assert capsys.readouterr().err == (
      'error: lm has no results: evaluate it first, by t5x-lite evaluate\n')
  results.write_result(run / 'evaluations', RESULTS[0], [])
  assert cli.main(['evaluate', 'card', str(run)]) == 0
  assert capsys.readouterr().out == f'1 results: {run}/README.md\n'
  card = (run / 'README.md').read_text()
  assert card == model_card.render_card('lm', RESULTS[:1])
  assert cli.main(['evaluate', 'card', str(run), '--name=Other']) == 0   # its own, written anew
  assert '# Other' in (run / 'README.md').read_text()
  (run / 'README.md').write_text('# Mine\n')
  assert cli.main(['evaluate', 'card', str(run)]) == 1
  assert 'is not from t5x-lite evaluate card: name another --output' in capsys.readouterr().err
  assert (run / 'README.md').read_text() == '# Mine\n'
  with pytest.raises(UserError):
    model_card.render_card('lm', [])

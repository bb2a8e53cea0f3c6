"""`infer` of prompts, of long texts, and of a classification."""

import json

import pytest

from t5x_lite import cli
from t5x_lite.commands import infer, train
from t5x_lite.experiment import gin_config

TINY = ['ModelConfig.embed_dim=32', 'ModelConfig.num_layers=1', 'ModelConfig.num_heads=2',
        'ModelConfig.mlp_dim=32', 'BATCH_SIZE=8', 'STEPS=2', 'WARMUP_STEPS=1',
        'InferConfig.batch_size=8', 'InferConfig.max_tokens=20']


def trained(folder, base, *bindings, fields=''):
  """The config.gin of a run of two steps on rows of a question and an answer."""
  rows = [{'question': f'É{i}  + 1?', 'answer': ('odd', 'even')[i % 2]} for i in range(16)]
  (folder / 'rows.jsonl').write_text('\n'.join(map(json.dumps, rows)))
  (folder / 'run.gin').write_text(f"""
from __gin__ import dynamic_registration
from tasks import files
include 'experiments/{base}.gin'
TASK = @files.FileTask()
files.FileTask.train = '{folder}/rows.jsonl'
files.FileTask.validation = '{folder}/rows.jsonl'
files.FileTask.targets = 'answer'
{fields}
""")
  experiment, text = gin_config.load_experiment(
      [str(folder / 'run.gin')], [*TINY, f"MODEL_DIR='{folder}/run'", 'Experiment.eval=None',
                                  *bindings])
  train.train(experiment, text)
  return f'{folder}/run/config.gin'


@pytest.fixture(scope='module')
def lm(tmp_path_factory):
  return trained(tmp_path_factory.mktemp('lm'), 'tiny_lm', 'TARGETS_LENGTH=8')


def test_prompts_are_answered_in_order_and_nothing_is_written(lm, capsys, tmp_path):
  command = ['infer', f'--gin_file={lm}']
  assert cli.main([*command, '--prompt=odd', '--prompt= a=b']) == 0
  out, err = capsys.readouterr()
  experiment, _ = gin_config.load_experiment([lm])
  generator, _ = infer.load_generator(experiment)
  assert out == ''.join(record['output'] + '\n' for record in generator(['odd', ' a=b']))
  assert not err and not list(experiment.folder.glob('inferences*'))
  for flag in ('--gin.InferConfig.input="x.txt"', '--gin.InferConfig.output="x.jsonl"'):
    assert cli.main([*command, '--prompt=0123456789', flag]) == 1
    assert 'there is --prompt, which is answered' in capsys.readouterr().err
  assert cli.main([*command, '--prompt=caf\udce9']) == 1
  assert capsys.readouterr().err == "error: --prompt='caf\\udce9': not UTF-8\n"


def test_no_file_is_overwritten(lm, tmp_path, capsys):
  path = tmp_path / 'p.txt'
  path.write_text('keep me\n')
  assert cli.main(['infer', f'--gin_file={lm}', f'--gin.InferConfig.input={path}',
                   f'--gin.InferConfig.output={path}']) == 1
  assert 'InferConfig.output' in (error := capsys.readouterr().err) and 'not overwritten' in error
  assert path.read_text() == 'keep me\n'


def test_a_long_prompt_is_reported_in_its_record_and_on_stderr(lm, capsys, tmp_path):
  (tmp_path / 'p.txt').write_text('short\n0123456789\n')
  assert cli.main(['infer', f'--gin_file={lm}', f'--gin.InferConfig.input="{tmp_path}/p.txt"',
                   f'--gin.InferConfig.output="{tmp_path}/o.jsonl"']) == 0
  short, long = map(json.loads, (tmp_path / 'o.jsonl').read_text().splitlines())
  assert long['inputs'] == '0123456789' and long['inputs_read'] == '23456789'
  assert long['tokens_cut'] == 2 and 'tokens_cut' not in short
  (line,) = [x for x in capsys.readouterr().err.splitlines() if 'too long' in x]
  assert '1 of 2 inputs are too long by up to 2 tokens: their beginning was cut off' in line


def test_a_classification_writes_labels_and_inputs_as_given(tmp_path, capsys):
  config = trained(
      tmp_path, 'tiny_mlm', "ModelConfig.head='classifier'", 'ModelConfig.num_classes=2',
      'INPUTS_LENGTH=8', 'TARGETS_LENGTH=1', "DataConfig.packing='none'", fields="""
files.FileTask.objective = 'classification'
files.FileTask.inputs = 'question'
files.FileTask.labels = ('odd', 'even')
""")
  path, records = infer.infer(gin_config.load_experiment([config])[0])
  assert [r['inputs'] for r in records] == [f'É{i}  + 1?' for i in range(16)]
  assert [r['targets'] for r in records] == ['odd', 'even'] * 8
  assert {r['output'] for r in records} <= {'odd', 'even'}
  assert [r['tokens_cut'] for r in records] == [2] * 10 + [3] * 6   # with CLS, 10 bytes of 8
  assert '16 of 16 inputs are too long' in capsys.readouterr().err


def test_outputs_are_held_to_a_constraint(lm, tmp_path, capsys):
  pytest.importorskip('outlines_core', reason="pip install -e '.[constrain]'")
  schema = {'type': 'array', 'items': {'enum': ['x', 'yy']}, 'minItems': 2, 'maxItems': 2}
  (tmp_path / 'schema.json').write_text(json.dumps(schema))

  def held(*flags):
    status = cli.main(['infer', f'--gin_file={lm}', '--prompt=odd', '--prompt= a=b', *(
        f'--gin.{flag}' for flag in flags)])
    out, err = capsys.readouterr()
    return status, out.splitlines() if not status else err

  drawn = 'Sampling.temperature=1.0'
  regex = 'InferConfig.constraint=@constrained.Regex()'
  # All of the three outputs of both prompts, each below its number and score.
  lines = held(regex, "Regex.pattern='[ab]{3}c'", drawn, 'InferConfig.samples=3')[1]
  assert [line.rpartition(' ')[0] for line in lines[::2]] == [
      f'# output {n}, score' for n in (1, 2, 3)] * 2
  for text in lines[1::2]:
    assert len(text) == 4 and set(text[:3]) <= {'a', 'b'} and text[3] == 'c'
  _, texts = held('InferConfig.constraint=@constrained.Choice()', "Choice.texts=('left', 'right')")
  assert set(texts) <= {'left', 'right'} and len(texts) == 2
  _, texts = held('InferConfig.constraint=@constrained.JsonSchema()',
                  f"JsonSchema.file='{tmp_path}/schema.json'", drawn)
  assert all(set(json.loads(text)) <= {'x', 'yy'} and len(json.loads(text)) == 2 for text in texts)
  for flags, words in (
      ([regex, "Regex.pattern='('"], 'Regex.pattern = '),
      ([regex, "Regex.pattern='ab'", 'Sampling.forced=(90,)'], 'begins no output that'),
      (['InferConfig.constraint=@constrained.JsonSchema()', "JsonSchema.file='none.json'"],
       'No such file'),
      ([regex, "Regex.pattern='ab'", 'InferConfig.draft=@speculative.NgramDraft()'],
       'that nothing constrains')):
    status, err = held(*flags)
    assert status == 1 and err.startswith('error: ') and err.count('\n') == 1 and words in err


def test_drafts_change_no_output(lm, tmp_path, capsys):
  def outputs(*flags):
    status = cli.main(['infer', f'--gin_file={lm}', '--prompt=abcabcabcabc', '--prompt=odd', *(
        f'--gin.{flag}' for flag in flags)])
    out, err = capsys.readouterr()
    return out if not status else err

  plain = outputs()
  assert outputs('InferConfig.draft=@speculative.NgramDraft()', 'NgramDraft.shortest=1') == plain
  folder = lm.removesuffix('/config.gin')
  run = 'InferConfig.draft=@speculative.DraftRun()'
  assert outputs(run, f"DraftRun.model_dir='{folder}'", 'DraftRun.size=2') == plain
  assert 'is no run: it has no config.gin' in outputs(run, f"DraftRun.model_dir='{tmp_path}'")

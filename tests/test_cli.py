"""The command line: arguments, exit status, one line for a mistake."""

import importlib
import json
import re
import subprocess
import sys

import pytest

from t5x_lite import cli

LM = '--gin_file=experiments/tiny_lm.gin'


def run(capsys, *argv):
  status = cli.main(list(argv))
  captured = capsys.readouterr()
  return status, captured.out, captured.err


@pytest.mark.parametrize('command', list(cli.COMMANDS))
def test_help_of_each_command_shows_its_example(command, capsys):
  with pytest.raises(SystemExit) as stop:
    cli.main([*command.split(), '--help'])
  assert stop.value.code == 0
  shown = ' '.join(capsys.readouterr().out.split())
  assert importlib.import_module(cli.COMMANDS[command][0]).EXAMPLE in shown


@pytest.mark.parametrize('group', ['', *cli.GROUPS])
def test_help_lists_the_commands_of_a_group_with_their_summaries(group, capsys):
  with pytest.raises(SystemExit) as stop:
    cli.main([*group.split(), '--help'])
  assert stop.value.code == 0
  shown = ' '.join(capsys.readouterr().out.split())
  for name, (_, summary) in cli.COMMANDS.items():
    first, _, rest = name.rpartition(' ')
    if first == group:
      assert f'{rest} {summary}' in shown


@pytest.mark.parametrize('argv, message', [
    (['train'], 'No gin file: pass --gin_file=FILE'),
    (['train', LM], 'MODEL_DIR is required'),
    (['train', LM, '--gin.MODEL_DIR=x', '--steps=3'], '--steps=3: not an option'),
    (['train', LM, 'extra'], 'extra: not an option'),
    (['train', '--gin_file'], '--gin_file: expected one argument; see t5x-lite train --help'),
    (['eval', LM, '--gin.MODEL_DIR=/nowhere/at/all'], 'No checkpoint in /nowhere/at/all'),
    (['infer', LM, '--gin.MODEL_DIR=/nowhere', '--gin.InferConfig.input=/no/file.txt'],
     "InferConfig.input: no file matches '/no/file.txt'"),
    (['train', LM, '--gin.MODEL_DIR='], 'MODEL_DIR is not set'),
])
def test_a_mistake_is_one_line_on_stderr_and_status_1(argv, message, capsys, tmp_path,
                                                      monkeypatch):
  monkeypatch.chdir(tmp_path)
  status, out, err = run(capsys, *argv)
  assert status == 1
  assert err.startswith('error: ') and err.count('\n') == 1
  assert message in err and not out
  assert not list(tmp_path.iterdir())


@pytest.mark.parametrize('argv, message', [
    ([], 't5x-lite needs a command; see t5x-lite --help'),
    (['trian'], "there is no command 'trian'; did you mean t5x-lite train?"),
    (['trian', '--help'], 'did you mean t5x-lite train?'),
    (['scaling'], 't5x-lite scaling needs a command; see t5x-lite scaling --help'),
    (['scaling', 'plam'], 'did you mean t5x-lite scaling plan?'),
    (['plan', '--flops=1e21'], 'did you mean t5x-lite scaling plan?'),
    (['data', 'x'], "there is no command 'data x'"),
    (['qqqqqq'], 'see t5x-lite --help'),
    (['--nothing'], "there is no command '--nothing'"),
])
def test_an_unknown_command_is_one_line_with_the_nearest(argv, message, capsys):
  status, out, err = run(capsys, *argv)
  assert status == 1 and message in err and err.count('\n') == 1 and not out


def test_files_and_bindings_come_in_any_order_and_number():
  args = cli._parse('train', importlib.import_module(cli.COMMANDS['train'][0]), '?', [
      '--gin.A=1', '--gin_file', 'a.gin', '--gin_file=b.gin', '--gin.B.c=x=y'])
  assert args.gin_file == ['a.gin', 'b.gin']
  assert args.bindings == ['A=1', 'B.c=x=y']


def test_describe_counts_parameters_and_flops(capsys):
  # Each layer: 4 d^2 of attention and 3 d f of MLP and two norms; the embedding; the last norm.
  d, f, layers, vocab, length, rows = 128, 384, 4, 384, 256, 16
  weights = layers * (4 * d * d + 3 * d * f)
  status, out, _ = run(capsys, 'describe', LM, '--json')
  table = json.loads(out)
  assert status == 0
  assert table['parameters'] == weights + layers * 2 * d + d + vocab * d
  assert table['embedding_parameters'] == vocab * d
  # 6 N + 12 L D S a token, with N the weights that multiply and the output layer.
  per_token = 6 * (weights + vocab * d) + 12 * layers * d * length
  assert table['train_flops_per_token'] == per_token
  assert table['train_flops_per_token_causal'] == per_token - 6 * layers * d * length
  assert table['train_flops_per_step'] == per_token * length * rows
  status, text, _ = run(capsys, 'describe', LM)
  assert f'{table["parameters"]:,}' in text
  assert 'The run:' in text


def test_describe_takes_a_model_alone_and_a_mesh_of_devices_that_are_not_there(capsys):
  model = '--gin_file=models/llama_65b.gin'
  status, out, _ = run(capsys, 'describe', model, '--json')
  table = json.loads(out)
  assert status == 0
  assert (table['parameters'], table['tokens_per_row']) == (65_285_660_672, 2048)
  status, text, _ = run(capsys, 'describe', model, '--gin_file=hardware/accelerator.gin',
                        '--gin.FSDP=1024')
  assert status == 0
  assert 'A device of the mesh fsdp 1024.' in text
  assert re.search(r'^memory, GiB .*^total .* 972\.83\b', text, re.MULTILINE | re.DOTALL)
  assert 'The run:' not in text   # there is none
  status, out, err = run(capsys, 'describe', '--gin_file=runs/pretrain.gin')
  assert status == 1 and not out and err.count('\n') == 1


def test_a_reader_that_goes_away_is_no_error():
  command = (f'{sys.executable} -m t5x_lite describe --gin_file=models/gpt2_small.gin --json '
             '| head -1')
  done = subprocess.run(['bash', '-c', f'set -o pipefail; {command}; echo ${{PIPESTATUS[0]}}'],
                        capture_output=True, text=True, timeout=120)
  assert done.stdout.startswith('{') and 'Traceback' not in done.stderr

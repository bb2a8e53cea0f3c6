"""Perplexity of documents against transformers, and by hand; the loss by position."""

import json
import math
import os
import pathlib
import re
import types

import jax
import numpy as np
import pytest

from t5x_lite import cli
from t5x_lite.commands import evaluate
from t5x_lite.core.errors import UserError
from t5x_lite.evaluation import language_modelling
from t5x_lite.evaluation.language_modelling import Document
from t5x_lite.evaluation.likelihood import Request, Scored
from t5x_lite.evaluation.reader import TextReader
from t5x_lite.evaluation.suites.scoring import perplexities
from t5x_lite.experiment import gin_config
from t5x_lite.models import build_network
from tests.commands.test_infer import trained

DATA = pathlib.Path(os.environ.get('T5X_LITE_TEST_DATA', '/nonexistent'))
needs_data = pytest.mark.skipif(not DATA.exists(), reason='T5X_LITE_TEST_DATA is not set')
LENGTH, STRIDE = 128, 48
FIVE = ['One line.\n', 'Two words', 'a' * 70, 'Ünïcödé – 日本語', '\n \n']


@pytest.fixture(scope='module')
def run(tmp_path_factory):
  """The folder of a GPT-2 of the peers, whose tokenizer begins no text."""
  folder = tmp_path_factory.mktemp('perplexity') / 'run'
  assert cli.main(['import', f'--from={DATA / "peers/lmeval/checkpoint"}', f'--to={folder}']) == 0
  return folder


@pytest.fixture(scope='module')
def model(run):
  experiment = gin_config.load_experiment([str(run / 'config.gin')], [], trains=False)[0]
  return evaluate.load_text_model(experiment, batch_size=16, max_length=LENGTH)[0]


@pytest.fixture(scope='module')
def peer():
  """(the model, its tokenizer) as transformers reads them."""
  transformers = pytest.importorskip('transformers')
  folder = DATA / 'peers/lmeval/checkpoint'
  return (transformers.AutoModelForCausalLM.from_pretrained(folder).eval(),
          transformers.AutoTokenizer.from_pretrained(folder))


@needs_data
def test_wikitext_2_by_strides_is_that_of_transformers(run, peer, tmp_path, capsys):
  """The loop of its guide to the perplexity of fixed-length models, on the start of the text."""
  torch = pytest.importorskip('torch')
  network, tokenizer = peer
  text = (DATA / 'text/wikitext2_test.txt').read_text(encoding='utf-8')[:6000]
  ids = torch.tensor([tokenizer(text)['input_ids']])
  nats, count, before = 0.0, 0, 0
  for begin in range(0, ids.shape[1], STRIDE):
    end = min(begin + LENGTH, ids.shape[1])
    labels = ids[:, begin:end].clone()
    labels[:, :before - end] = -100
    with torch.no_grad():
      mean = network(ids[:, begin:end], labels=labels).loss.item()
    scored = int((labels[:, 1:] != -100).sum())   # the first has nothing before it
    nats, count, before = nats + mean * scored, count + scored, end
    if end == ids.shape[1]:
      break
  (tmp_path / 'wiki.txt').write_text(text, encoding='utf-8')
  assert cli.main(['perplexity', str(run), f'--text={tmp_path / "wiki.txt"}', '--json',
                   f'--max_length={LENGTH}', f'--stride={STRIDE}']) == 0
  found = json.loads(capsys.readouterr().out)
  assert found['conventions']['tokens'] == count == ids.shape[1] - 1
  assert found['metrics']['token_perplexity'][0] == pytest.approx(
      math.exp(nats / count), rel=1e-5)


@needs_data
def test_bits_a_byte_of_five_documents_by_hand(model, peer):
  """Each token by a forward pass of torch's from the start, of texts that fit a window."""
  torch = pytest.importorskip('torch')
  network, tokenizer = peer
  nats = []
  for text in FIVE:
    ids = [model.reader.start_id, *tokenizer(text)['input_ids']]
    with torch.no_grad():
      log_p = network(torch.tensor([ids])).logits[0].double().log_softmax(-1)
    nats.append(-sum(log_p[i, token].item() for i, token in enumerate(ids[1:])))
  records, bands = language_modelling.score_documents(
      [Document(str(i), text) for i, text in enumerate([*FIVE, ''])], model)
  assert [record['id'] for record in records] == [0, 1, 2, 3, 4]   # nothing of an empty text
  np.testing.assert_allclose([record['metrics']['nats'] for record in records], nats, rtol=1e-5)
  assert [record['bytes'] for record in records] == [10, 9, 70, 25, 3]
  assert [record['words'] for record in records] == [2, 2, 1, 3, 0]
  metrics = perplexities(records)
  assert metrics['bits_per_byte'].value == pytest.approx(sum(nats) / math.log(2) / 117, rel=1e-5)
  assert metrics['word_perplexity'].value == pytest.approx(math.exp(sum(nats) / 8), rel=1e-4)
  tokens = sum(len(tokenizer(text)['input_ids']) for text in FIVE)
  assert sum(band.tokens for band in bands) == tokens == sum(r['tokens'] for r in records)
  assert sum(band.tokens * band.loss for band in bands) == pytest.approx(sum(nats), rel=1e-5)
  with pytest.raises(UserError, match='no token to predict'):
    language_modelling.score_documents([Document('', '')], model)


def reader_of(configs, name='decoder', frame=None):
  """A TextReader whose ids are the letters' codes."""
  tokenizer = types.SimpleNamespace(
      start_id=0, eos_id=1, add_eos=True, cls_id=2, mask_id=3,
      encode=lambda text: [*map(ord, text)])
  return TextReader(configs[name], tokenizer, tokenizer, frame)


@pytest.mark.parametrize('frame, size, length, stride', [
    (((), ()), 20, 8, 3), (((), ()), 8, 8, 3), (((), ()), 9, 8, 7), (((0,), ()), 20, 8, 1),
    (((0, 5), ()), 3, 8, 2), (((), ()), 1, 8, 2)])
def test_sliding_windows_have_every_token_once_in_the_first_that_holds_it(
    configs, frame, size, length, stride):
  text = ''.join(map(chr, range(60, 60 + size)))
  reader = reader_of(configs, frame=frame)
  ids, skip = [*frame[0], *map(ord, text)], max(len(frame[0]), 1)
  windows = [*reader.sliding_windows(text, length, stride)]
  assert [i for window in windows for i in window.continuation] == ids[skip:]
  for window in windows:
    held = [*window.context, *window.continuation]
    start = ids.index(held[0])
    assert held == ids[start:start + len(held)] and len(held) <= length
    assert start % stride == 0 and window.context
  with pytest.raises(UserError, match='--stride=8: give 1 to 7, less than the 8 tokens'):
    next(reader.sliding_windows(text, 8, 8))


def test_windows_after_inputs(configs):
  context, text = [7] * 5, 'abcdefghijklmnopqrstuvwxyz'
  first, *others = reader_of(configs).windows_after(context, text, 10)
  assert (first.context, bytes(first.continuation)) == ([0, *context], b'abcde')
  assert [bytes(w.continuation) for w in others] == [b'fghij', b'klmno', b'pqrst', b'uvwxy', b'z']
  assert [w.context for w in others] == [
      [0, *context, *map(ord, text[:n])] for n in (5, 10, 15, 20, 25)]
  one, = reader_of(configs, 'encoder_decoder').windows_after(context, text, 10)
  assert one == Request(context, [*map(ord, text)])
  assert reader_of(configs).windows_after(context, '', 10) == []


def test_losses_by_position():
  rng = np.random.default_rng(0)
  requests = [Request([1] * n, [1] * m) for n, m in ((1, 9), (3, 1), (30, 2), (1, 1))]
  scores = [Scored(rng.normal(size=len(r.continuation)).astype(np.float32), False)
            for r in requests]
  wanted: dict[int, list[float]] = {}
  for (context, _), scored in zip(requests, scores):
    start = len(context) if len(context) < 20 else 15   # 16 tokens are read, two of them predicted
    for n, logprob in enumerate(scored.logprobs):
      wanted.setdefault((start + n).bit_length() - 1, []).append(-float(logprob))
  bands = language_modelling.by_position(requests, scores, 16)
  assert [(band.low, band.high, band.tokens) for band in bands] == [
      (1, 1, 2), (2, 3, 3), (4, 7, 4), (8, 15, 3), (16, 16, 1)]
  for band in bands:
    assert band.loss == pytest.approx(np.mean(wanted[band.low.bit_length() - 1]), rel=1e-5)


@pytest.fixture(scope='module')
def lm(tmp_path_factory):
  """The config.gin of a run of bytes, whose task has targets alone."""
  return trained(tmp_path_factory.mktemp('lm'), 'tiny_lm', 'TARGETS_LENGTH=8',
                 "files.FileTask.targets='{question} {answer}'")


def test_the_documents_of_a_task(lm, tmp_path, capsys):
  """Against a forward pass of each; a picture, a table, and documents read as one."""
  folder = pathlib.Path(lm).parent
  picture = tmp_path / 'positions.png'
  command = ['perplexity', str(folder), '--split=validation', '--json']
  assert cli.main([*command, f'--output={picture}', '--limit=3']) == 0
  found = json.loads(capsys.readouterr().out)
  assert picture.stat().st_size > 5000
  experiment = gin_config.load_experiment([lm], [], trains=False)[0]
  model, _ = evaluate.load_text_model(experiment, batch_size=8, max_length=None)
  network = build_network(experiment.model)
  texts = [f'É{i}  + 1? {"odd" if i % 2 == 0 else "even"}' for i in range(3)]
  nats = 0.0
  for text in texts:
    ids = experiment.data.tokenizer('targets').encode(text)
    # Windows of 8: each but the first reads the token before it, and the last as many as fit.
    for done in range(0, len(ids), 8):
      end = min(done + 8, len(ids))
      read = [0, *ids][max(end - 8, 0):end] if done else [0, *ids[:end - 1]]
      logits = network.bind(model._params)({'decoder_input_tokens': np.asarray([read])})
      log_p = jax.nn.log_softmax(np.asarray(logits[0] if isinstance(logits, tuple) else logits)[0])
      nats -= sum(float(log_p[i - end, ids[i]]) for i in range(done, end))
  size = sum(len(text.encode()) for text in texts)
  assert found['conventions']['bytes'] == size and found['number'] == 3
  assert found['metrics']['bits_per_byte'][0] == pytest.approx(
      nats / size / math.log(2), rel=1e-4)
  stem = folder / 'evaluations' / f'{found["task"]}-0shot-2'
  table = stem.with_suffix('.positions.csv').read_text().splitlines()
  assert table[0] == 'low,high,tokens,loss' and len(table) == 5
  assert len(stem.with_suffix('.jsonl').read_text().splitlines()) == 3
  assert cli.main([*command, '--join=\\n']) == 0
  joined = json.loads(capsys.readouterr().out)
  whole = '\n'.join(f'É{i}  + 1? {"odd" if i % 2 == 0 else "even"}' for i in range(16))
  assert joined['number'] == 1 and joined['conventions']['bytes'] == len(whole.encode())


@pytest.mark.parametrize('flags, message', [
    ([], 'name what is read: files by --text, or a split of a task by --split'),
    (['--text=a.txt', '--split=train'], 'name what is read'),
    (['--split=test'], '--split: choose from train, validation'),
    (['--text={folder}/none.txt'], 'none.txt'),
    (['--text={folder}/latin.txt'], r'latin.txt: not UTF-8 \(byte 1\)'),
    (['--text={folder}/empty.txt'], 'no token to predict: give more text'),
    (['--text={folder}/rows.jsonl', '--field=body'], 'rows.jsonl:1.*body'),
    (['--split=validation', '--stride=8'], '--stride=8: give 1 to 7'),
    (['--split=validation', '--stride=0'], '--stride=0: give 1 or more')])
def test_what_cannot_be_measured_is_one_line(lm, tmp_path, capsys, flags, message):
  (tmp_path / 'latin.txt').write_bytes(b'a\xff')
  (tmp_path / 'empty.txt').write_bytes(b'')
  (tmp_path / 'rows.jsonl').write_text('{"text": "a"}\n')
  run = pathlib.Path(lm).parent
  assert cli.main(['perplexity', str(run), *(f.format(folder=tmp_path) for f in flags)]) == 1
  err = [line for line in capsys.readouterr().err.splitlines() if line.startswith('error')]
  assert len(err) == 1
  assert re.search(message, err[0]), err

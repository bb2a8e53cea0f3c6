"""Requests that come and go against the same ones generated alone."""

import dataclasses
import queue
import threading

import jax
import numpy as np
import pytest

from t5x_lite.core.errors import UserError
from t5x_lite.inference.generate import left_pad, make_generate
from t5x_lite.inference.sampling import Sampling, row_keys, sampling_rows
from t5x_lite.models import build_network
from t5x_lite.parallel.mesh import MeshConfig
from t5x_lite.parallel.partitioner import Partitioner
from t5x_lite.serving.engine import Closed, Engine, QueueFull, Request
from t5x_lite.serving.slots import Slots

NUM_IDS, END, NEW, LENGTH = 60, 1, 12, 96   # ids 60 to 63 of the table are beyond the vocabulary
ONE = Partitioner(MeshConfig(data=1).make(jax.devices()[:1]))
FAMILIES = ['decoder', 'prefix_lm', 'encoder_decoder']


def decode(ids):
  return ''.join(chr(97 + i) for i in ids)


@pytest.fixture(scope='module', params=FAMILIES)
def served(request, configs):
  config = dataclasses.replace(configs[request.param], dtype='float32')
  network = build_network(config)
  params = network.init(jax.random.key(0))
  models = {'base': params, 'other': jax.tree.map(lambda x: x * 1.1, params)}
  engine = Engine(Slots(network, ONE, slots=3, length=LENGTH, num_ids=NUM_IDS),
                  {name: (params, (END,)) for name, params in models.items()}, decode=decode,
                  max_queue=40)
  yield network, engine, models
  engine.close()


def requests(network):
  """Prompts of 1 to 70 tokens with unlike settings, some of several samples."""
  rng = np.random.default_rng(0)
  settings = [dict(), dict(temperature=1.0), dict(temperature=0.8, top_k=20, seed=3),
              dict(temperature=1.0, top_p=0.8, repetition_penalty=1.3, seed=4),
              dict(logit_bias={5: 3.0}, min_new_tokens=4), dict(max_new_tokens=3),
              dict(temperature=1.0, min_p=0.05, frequency_penalty=0.5, seed=9)]
  for n in range(14):
    fields = {'max_new_tokens': NEW} | settings[n % len(settings)]
    size = int(rng.integers(1, 70))
    ids = [int(i) for i in rng.integers(2, NUM_IDS, size)]
    batch, prompt = {'decoder_input_tokens': np.zeros((1, 1), np.int32)}, [0, *ids]
    if network.config.family == 'encoder_decoder':
      tokens = np.zeros((1, 80), np.int32)
      tokens[0, :size] = ids
      batch = {'encoder_input_tokens': tokens, 'encoder_segment_ids': np.int32(tokens > 0)}
      prompt = [0]
    yield Request(model=('base', 'base', 'other')[n % 3], ids=prompt, batch=batch,
                  sampling=Sampling(**fields), samples=2 if n % 5 == 1 else 1, alternatives=2)


def answer(engine, request):
  """A function that waits for the text, tokens, end and count of each sample."""
  pieces = queue.Queue()
  engine.submit(request, pieces.put)

  def wait():
    found, ended = [['', [], None, 0] for _ in range(request.samples)], 0
    while ended < request.samples:
      piece = pieces.get(timeout=120)
      one = found[piece.sample]
      assert one[2] is None
      one[0] += piece.text
      one[1] += piece.tokens
      one[2:] = piece.finish, piece.count
      ended += piece.finish is not None
    return found

  return wait


@pytest.fixture(scope='module')
def together(served):
  network, engine, _ = served
  waits = [answer(engine, request) for request in requests(network)]
  return [wait() for wait in waits]


def test_answers_are_those_of_generate(served, together):
  network, _, params = served
  program = make_generate(network, ONE, max_tokens=NEW, pad_id=0, num_ids=NUM_IDS)
  for request, samples in zip(requests(network), together):
    prompt, valid = left_pad([np.asarray(request.ids)], 0, multiple=96)
    rows = sampling_rows([request.sampling], num_ids=NUM_IDS, end_ids=(END,), max_tokens=NEW)
    for n, (text, tokens, finish, count) in enumerate(samples):
      got = jax.device_get(program(
          params[request.model], request.batch, prompt, valid, rows,
          row_keys(rows.seed, np.array([n]))))
      (ids,), (logprobs,) = got.tokens, got.logprobs
      ids = ids[:request.sampling.max_new_tokens].tolist()
      ended = END in ids
      ids = ids[:ids.index(END)] if ended else ids
      assert text == decode(ids) and finish == ('stop' if ended else 'length')
      assert [token.id for token in tokens] == ids and count == len(ids) + ended
      np.testing.assert_allclose([t.logprob for t in tokens], logprobs[:len(ids)], atol=2e-5)
      assert [token.start for token in tokens] == list(range(len(ids)))
      for token in tokens:   # greedy ones are the likeliest, but for a bias
        assert len(token.top) == 2 and token.top[0][1] >= token.top[1][1]
        assert token.top[0][1] >= token.logprob - 1e-6


def test_each_answer_is_the_same_alone_to_the_bit(served, together):
  network, engine, _ = served
  alone = [answer(engine, request)() for request in requests(network)]
  assert alone == together


def test_cancelled_requests_leave_no_slot_taken(served):
  network, engine, _ = served
  request = next(requests(network))
  request = dataclasses.replace(request, ids=request.ids[:8], sampling=Sampling(
      max_new_tokens=80, forbidden=(END,)))
  pieces = queue.Queue()
  tickets = [engine.submit(request, pieces.put) for _ in range(9)]
  pieces.get(timeout=60)
  for ticket in tickets:
    ticket.cancel()
    ticket.cancel()
  ends = []
  while len(ends) < 9:
    piece = pieces.get(timeout=60)
    ends += [piece.finish] * (piece.finish is not None)
  assert set(ends) == {'cancelled'}
  assert engine.running == engine.queued == 0
  assert answer(engine, next(requests(network)))()[0][2] in ('stop', 'length')


def test_what_cannot_be_taken_is_refused(served):
  network, engine, _ = served
  request = next(requests(network))
  replace = lambda **fields: dataclasses.replace(request, **fields)
  refused = lambda request, words: pytest.raises(UserError, match=words)
  for wrong, words in (
      (replace(samples=4), '4 samples are more than the 3 slots'),
      (replace(ids=[2] * (LENGTH - NEW + 1)), f'are {LENGTH + 1}, and the context has {LENGTH}'),
      (replace(sampling=Sampling(max_new_tokens=2, logit_bias={60: 1.0})), 'has ids below 60'),
      (replace(sampling=Sampling(max_new_tokens=2, logit_bias={i: 1.0 for i in range(60)},
                                 forbidden=tuple(range(60)))), 'leaves no id')):
    with refused(wrong, words):
      engine.submit(wrong, print)


def test_a_queue_has_an_end_and_closing_waits_for_what_was_taken(configs):
  network = build_network(configs['decoder'])
  engine = Engine(Slots(network, ONE, slots=2, length=LENGTH, num_ids=NUM_IDS),
                  {'base': (network.init(jax.random.key(0)), (END,))}, decode=decode,
                  max_queue=3)
  request = Request(model='base', ids=[0, 5], batch={
      'decoder_input_tokens': np.zeros((1, 1), np.int32)},
                    sampling=Sampling(max_new_tokens=40, forbidden=(END,)))
  taken, pieces = 0, queue.Queue()
  with pytest.raises(QueueFull, match='3 requests wait already'):
    for _ in range(200):
      engine.submit(request, pieces.put)
      taken += 1
  closing = threading.Thread(target=engine.close)
  closing.start()
  ends = []
  while len(ends) < taken:
    piece = pieces.get(timeout=120)
    ends += [piece.count] * (piece.finish == 'length')
  closing.join(60)
  assert ends == [40] * taken and 3 <= taken < 200
  with pytest.raises(Closed, match='shutting down'):
    engine.submit(request, pieces.put)


def test_a_failure_of_the_device_reaches_everyone(configs, monkeypatch, capfd):
  network = build_network(configs['decoder'])
  slots = Slots(network, ONE, slots=2, length=LENGTH, num_ids=NUM_IDS)
  engine = Engine(slots, {'base': (network.init(jax.random.key(0)), (END,))}, decode=decode,
                  max_queue=3)
  gate = threading.Event()

  def write(*args):
    gate.wait(60)
    raise RuntimeError('out of memory')

  monkeypatch.setattr(slots, 'write', write)
  pieces = queue.Queue()
  request = Request(model='base', ids=[0, 5], sampling=Sampling(max_new_tokens=4), batch={
      'decoder_input_tokens': np.zeros((1, 1), np.int32)})
  for _ in range(3):
    engine.submit(request, pieces.put)
  gate.set()
  for _ in range(3):
    piece = pieces.get(timeout=60)
    assert piece.finish == 'failed' and 'out of memory' in piece.text
  with pytest.raises(Closed, match='the engine has failed: RuntimeError: out of memory'):
    engine.submit(request, pieces.put)
  engine.close()

"""Log-likelihoods against whole forward passes, whatever the batches, the order and the mesh."""

import dataclasses

import jax
import numpy as np
import pytest

from t5x_lite.core.errors import UserError
from t5x_lite.evaluation.branches import can_branch, lay_out
from t5x_lite.evaluation.likelihood import Likelihood, Request, in_order
from t5x_lite.evaluation.prefixes import share_prefixes
from t5x_lite.evaluation.pseudo_likelihood import PseudoLikelihood
from t5x_lite.models import build_network
from t5x_lite.parallel.mesh import MeshConfig
from t5x_lite.parallel.partitioner import Partitioner

LENGTH = 160


def partitioner_of(**axes: int) -> Partitioner:
  mesh = MeshConfig(**axes) if axes else MeshConfig(data=1)
  return Partitioner(mesh.make(jax.devices()[:int(np.prod([*axes.values()] or [1]))]), mesh.rules)


def requests_of(vocab: int, seed: int = 0) -> list[Request]:
  """Contexts that share beginnings, or not; one to nine tokens after each, some asked twice."""
  rng = np.random.default_rng(seed)
  ids = lambda n: rng.integers(2, vocab, n).tolist()
  shared, requests = ids(70), []
  contexts = [shared + ids(n) for n in (1, 5, 33, 8)] + [ids(n) for n in (1, 3, 40, 100)]
  contexts.append(contexts[0] + ids(7))   # which begins with another one
  for context in contexts:
    requests += [Request(context, ids(n)) for n in rng.integers(1, 10, 3)]
    requests.append(Request(context, ids(1)))
  return requests + requests[:2]


def whole(forward, config, params, request: Request, start: int = 0):
  """(log p of each token, whether each is the likeliest) by one forward pass."""
  if config.family == 'encoder_decoder':
    batch = {'encoder_input_tokens': np.asarray([request.context]),
             'decoder_input_tokens': np.asarray([[start, *request.continuation[:-1]]])}
  else:
    batch = {'decoder_input_tokens': np.asarray([[*request.context, *request.continuation][:-1]])}
  batch = {name: np.pad(x, ((0, 0), (0, LENGTH - x.shape[1]))) for name, x in batch.items()}
  if config.family == 'encoder_decoder':
    batch['encoder_segment_ids'] = (np.arange(LENGTH) < len(request.context))[None].astype(int)
  begin = 0 if config.family == 'encoder_decoder' else len(request.context) - 1
  logits = np.asarray(forward(config)(params, {k: v.astype(np.int32) for k, v in batch.items()}))
  log_p = jax.nn.log_softmax(logits[0, begin:begin + len(request.continuation)])
  chosen = np.asarray(request.continuation)
  return np.asarray(log_p)[np.arange(len(chosen)), chosen], bool(
      (log_p.argmax(-1) == chosen).all())


@pytest.fixture(scope='module')
def family(configs, random_params):
  """name -> (config, params): learned positions for all tokens, a window, and the families."""
  def make(name):
    config = configs['decoder' if name == 'window' else name]
    if config.max_length:
      config = dataclasses.replace(config, max_length=LENGTH)
    if name == 'window':
      config = dataclasses.replace(config, sliding_window=24)
    return config, random_params(config)
  return make


def scores(config, params, requests, partitioner=None, **options):
  partitioner = partitioner or partitioner_of()
  network = build_network(config, partitioner)
  params = jax.device_put(params, partitioner.param_shardings(network))
  likelihood = Likelihood(network, params, partitioner, max_length=LENGTH, **options)
  return in_order(likelihood(requests), len(requests))


@pytest.mark.parametrize('name', ['decoder', 'gpt', 'window', 'encoder_decoder'])
def test_scores_are_those_of_whole_forward_passes(name, family, forward):
  config, params = family(name)
  requests = requests_of(config.vocab_size)
  got = scores(config, params, requests)
  for request, found in zip(requests, got):
    want, greedy = whole(forward, config, params, request)
    np.testing.assert_allclose(found.logprobs, want, atol=1e-4)
    assert found.greedy == greedy and found.total == pytest.approx(want.sum(), abs=1e-3)


@pytest.mark.parametrize('options', [
    {'batch_size': 1}, {'batch_size': 8}, {'share': False}, {'mesh': {'data': 4, 'tensor': 2}}])
def test_nothing_depends_on_batches_order_sharing_or_mesh(options, family):
  config, params = family('decoder')
  requests = requests_of(config.vocab_size)[:14] + requests_of(config.vocab_size)[-6:]
  want = scores(config, params, requests)
  mesh = options.get('mesh', {})
  got = scores(config, params, requests[::-1], partitioner_of(**mesh),
               **{name: value for name, value in options.items() if name != 'mesh'})[::-1]
  for a, b in zip(got, want):
    np.testing.assert_allclose(a.logprobs, b.logprobs, atol=1e-4)
    assert a.greedy == b.greedy


def test_branches_are_of_models_that_know_tokens_by_their_positions_alone(configs):
  decoder = configs['decoder']
  assert can_branch(decoder, 'cpu') and can_branch(configs['gpt'], 'cpu')
  assert not can_branch(decoder, 'tpu') and not can_branch(configs['encoder_decoder'], 'cpu')
  for change in ({'sliding_window': 24}, {'position_embedding': 'alibi'}, {'num_experts': 4},
                 {'prefix_lm': True}):
    assert not can_branch(dataclasses.replace(decoder, **change), 'cpu')


def test_a_row_has_a_context_and_its_continuations_but_for_their_last_tokens():
  batch = lay_out([np.asarray([7, 8, 9]), np.asarray([5])], [[1, 2, 3], [4], [6, 6]],
                  np.asarray([0, 1, 0, 0], np.int32))
  tokens, segments, positions = (batch[f'decoder_{name}'] for name in (
      'input_tokens', 'segment_ids', 'positions'))
  assert tokens.shape == (2, 32) and not segments[:, :-6].any()
  np.testing.assert_array_equal(tokens[:, -6:], [[7, 8, 9, 1, 2, 6], [0, 0, 5, 0, 0, 0]])
  np.testing.assert_array_equal(segments[:, -6:], [[1, 1, 1, 2, 2, 3], [0, 0, 1, 0, 0, 0]])
  np.testing.assert_array_equal(positions[0, -6:], [0, 1, 2, 3, 4, 3])
  np.testing.assert_array_equal(batch['place'][:, :3], [[28, 29, 30]] + [[28] * 3] + [
      [28, 31, 28]] + [[28] * 3])
  np.testing.assert_array_equal(batch['targets'][:3, :3], [[1, 2, 3], [4, 0, 0], [6, 6, 0]])


def test_a_greedy_continuation_is_known(family, forward):
  config, params = family('decoder')
  context = [5, 9, 11]
  for _ in range(3):
    batch = {'decoder_input_tokens': np.pad([context], ((0, 0), (0, LENGTH - len(context)))
                                            ).astype(np.int32)}
    context.append(int(forward(config)(params, batch)[0, len(context) - 1].argmax()))
  likeliest = Request(context[:3], context[3:])
  other = likeliest._replace(continuation=[*context[3:5], (context[5] + 1) % config.vocab_size])
  assert [s.greedy for s in scores(config, params, [likeliest, other])] == [True, False]


def test_a_long_context_loses_its_first_tokens(family, forward):
  config, params = family('gpt')
  request = requests_of(config.vocab_size)[0]
  long = Request([3] * 200 + request.context, request.continuation)
  cut = ([3] * 200 + request.context)[-(LENGTH + 1 - len(request.continuation)):]
  got, = scores(config, params, [long])
  want, _ = whole(forward, config, params, Request(cut, request.continuation))
  np.testing.assert_allclose(got.logprobs, want, atol=1e-4)
  with pytest.raises(UserError, match='A continuation of 161 tokens is longer than the 160'):
    scores(config, params, [Request([3], [4] * 161)])
  assert scores(config, params, []) == []


def test_an_encoder_guesses_each_token_from_all_others(family, forward):
  config, params = family('encoder')
  partitioner, mask, after = partitioner_of(), 1, [2]
  network = build_network(config, partitioner)
  requests = [Request([3, *r.context[:20]], r.continuation) for r in requests_of(config.vocab_size)]
  likelihood = PseudoLikelihood(network, params, partitioner, max_length=LENGTH, mask_id=mask,
                                after=after, batch_size=16)
  for request, got in zip(requests, in_order(likelihood(requests), len(requests))):
    text = [*request.context, *request.continuation, *after]
    for n, token in enumerate(request.continuation):
      row = np.pad(text, (0, LENGTH - len(text)))
      row[len(request.context) + n] = mask
      valid = (np.arange(LENGTH) < len(text)).astype(np.int32)
      logits = forward(config)(params, {'encoder_input_tokens': row[None].astype(np.int32),
                                        'encoder_segment_ids': valid[None]})
      want = jax.nn.log_softmax(logits[0, len(request.context) + n])[token]
      assert got.logprobs[n] == pytest.approx(float(want), abs=1e-4)
  with pytest.raises(UserError, match='longer than the encoder reads'):
    list(likelihood([Request([3], [4] * LENGTH)]))


def test_beginnings_are_shared_where_it_saves_most():
  shots, subject = list(range(100)), list(range(200, 260))
  contexts = [np.asarray(x) for x in (
      [*shots, *subject, 1], [*shots, *subject, 2, 3], [*shots, 7, 8], [9, 9], [*shots, 7, 9])]
  groups = share_prefixes(contexts)
  assert sorted(i for group in groups for i in group.members) == [0, 1, 2, 3, 4]
  shared = {tuple(sorted(group.members)): group.prefix for group in groups}
  # All four by 100 saves 300 tokens; two by 160 and two by 101 would save 261.
  assert shared == {(0, 1, 2, 4): 100, (3,): 0}
  assert share_prefixes([]) == []
  # Of 33 tokens that two share of 400 the batches of their own would cost more than they save.
  far = [np.asarray([*range(33), *[i] * 400]) for i in (98, 99)]
  assert share_prefixes(far) == [(0, [0, 1])]
  same = [np.arange(50)] * 2   # of which each keeps a token
  assert share_prefixes(same) == [(49, [0, 1])]

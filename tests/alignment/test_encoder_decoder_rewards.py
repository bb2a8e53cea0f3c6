"""Reward models that are encoder-decoders: their loss, what they rate, and T5 as a policy."""

import dataclasses
import functools
import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from t5x_lite import cli, models
from t5x_lite.alignment.reward_run import RewardRun
from t5x_lite.experiment import gin_config
from t5x_lite.objectives.objective import SharedForward, normalizers
from t5x_lite.objectives.preference.reward_model import RewardModel
from t5x_lite.rewards.reward import Completion, rate
from t5x_lite.training.initial_params import load_params
from t5x_lite.training.run_folder import RunFolder
from tests.conftest import CONFIGS, VOCAB

CONFIG = dataclasses.replace(CONFIGS['encoder_decoder'], num_layers=1, head='value')
TINY = ['--gin_file=models/tiny_encoder_decoder.gin', '--gin.ModelConfig.embed_dim=32',
        '--gin.ModelConfig.num_layers=1', '--gin.ModelConfig.num_decoder_layers=1',
        '--gin.ModelConfig.mlp_dim=32', '--gin.WARMUP_STEPS=1', '--gin.TrainConfig.log_every=1']


def value_at_the_end(values_of, params, prompt, response, start=0):
  """The value after the last token of one response to one prompt, alone and without padding.

  `values_of` is what `values` gives of a network.
  """
  row = lambda ids: jnp.asarray([ids], jnp.int32)
  ones = lambda ids: jnp.ones((1, len(ids)), jnp.int32)
  return float(values_of(params, {
      'encoder_input_tokens': row(prompt), 'encoder_segment_ids': ones(prompt),
      'decoder_input_tokens': row([start, *response[:-1]]), 'decoder_target_tokens': row(response),
      'decoder_segment_ids': ones(response), 'decoder_positions': row(range(len(response))),
      'decoder_loss_weights': ones(response)})[0, -1])


def values(network):
  """Jitted (params, batch) -> the values of all positions."""
  return jax.jit(lambda params, batch: network.bind(params).outputs(batch).values_BL)


def test_the_loss_is_that_of_responses_read_one_by_one():
  """A group reads its prompt once, for responses of unlike lengths, one of which is missing."""
  rng = np.random.default_rng(0)
  ids = lambda n: rng.integers(2, VOCAB, n).tolist()
  prompts = [ids(5), ids(2), ids(4)]
  responses = [[ids(3), ids(7), ids(1)], [ids(6), ids(2)], [ids(4), ids(4), ids(5)]]
  scores = [[2, 0, 1], [0, 1], [1, 1, 0]]   # two of the last are equal: no pair
  network = models.build_network(CONFIG)
  params = network.init(jax.random.key(0))

  batch = {f'decoder_{name}': np.zeros((3, 3, 7), np.int32) for name in (
      'input_tokens', 'target_tokens', 'segment_ids', 'positions', 'loss_weights')}
  batch |= {f'encoder_{name}': np.zeros((3, 5), np.int32) for name in (
      'input_tokens', 'segment_ids')}
  batch['response_scores'] = np.full((3, 3), np.nan, np.float32)
  for b, prompt in enumerate(prompts):
    batch['encoder_input_tokens'][b, :len(prompt)] = prompt
    batch['encoder_segment_ids'][b, :len(prompt)] = 1
    for k, response in enumerate(responses[b]):
      n = len(response)
      batch['decoder_input_tokens'][b, k, 1:n] = response[:-1]
      batch['decoder_target_tokens'][b, k, :n] = response
      batch['decoder_positions'][b, k, :n] = range(n)
      for name in ('segment_ids', 'loss_weights'):
        batch[f'decoder_{name}'][b, k, :n] = 1
      batch['response_scores'][b, k] = scores[b][k]

  losses, right, values_of = [], [], values(network)
  for prompt, given, rated in zip(prompts, responses, scores, strict=True):
    found = [value_at_the_end(values_of, params, prompt, response) for response in given]
    gaps = [found[i] - found[j] for i in range(len(given)) for j in range(len(given))
            if rated[i] > rated[j]]
    losses.append([math.log(1 + math.exp(-gap)) for gap in gaps])
    right += [gap > 0 for gap in gaps]
  assert [len(x) for x in losses] == [3, 1, 2]

  @functools.partial(jax.jit, static_argnums=0)
  def mean_of(average):
    sums = RewardModel(average=average)(
        SharedForward(network.bind(params)), batch, None, normalizers(batch))
    return sums.total / sums.weight, sums.metrics

  batch = jax.tree.map(jnp.asarray, batch)
  of_prompts = [np.mean(x) for x in losses]
  assert float(mean_of('prompt')[0]) == pytest.approx(np.mean(of_prompts), rel=1e-5)
  got, metrics = mean_of('pair')
  assert float(got) == pytest.approx(np.mean(sum(losses, [])), rel=1e-5)
  assert [float(x) for x in metrics['rewards/accuracies']] == [sum(right), 6]


def train(recipe, folder, *flags):
  return cli.main(['train', f'--gin_file=experiments/{recipe}.gin', f'--gin.MODEL_DIR={folder}',
                   *TINY, *flags])


@pytest.fixture(scope='module')
def start(tmp_path_factory):
  folder = tmp_path_factory.mktemp('runs') / 'start'
  assert train('addition', folder, '--gin.STEPS=1', '--gin.BATCH_SIZE=4',
               '--gin.EvalConfig.num_examples=8') == 0
  return folder


@pytest.mark.slow
def test_a_reward_model_rates_what_a_t5_policy_writes(start, tmp_path):
  pairs = tmp_path / 'pairs.jsonl'
  sums = [(a, b) for a in range(11, 91, 10) for b in (12, 34, 56)]
  pairs.write_text(''.join(json.dumps(
      {'prompt': f'{a}+{b}=', 'chosen': f'{a + b}', 'rejected': '7'}) + '\n' for a, b in sums))
  model, policy = tmp_path / 'reward_model', tmp_path / 'policy'
  assert train('reward_addition', model, f'--gin.PREFERENCES={pairs}', f'--gin.INIT_FROM={start}',
               '--gin.BATCH_SIZE=4', '--gin.STEPS=40', '--gin.LEARNING_RATE=1e-2') == 0
  steps = [r for r in RunFolder(model).read_metrics() if r['kind'] == 'train']
  assert steps[0]['loss'] > 0.3 and steps[-1]['loss'] < 0.1
  assert steps[-1]['rewards/accuracies'] == 1

  assert train('ppo_reward_addition', policy, f'--gin.INIT_FROM={start}',
               f'--gin.REWARD_MODEL={model}', '--gin.BATCH_SIZE=8', '--gin.STEPS=2',
               '--gin.RewardEval.num_examples=8', '--gin.RewardEval.batch_size=8') == 0
  records = [r for r in RunFolder(policy).read_metrics() if r['kind'] == 'train']
  assert records[0]['rollout/kl'] == 0 and records[0]['ratio'] == pytest.approx(1, abs=1e-6)
  written = [json.loads(line) for line in (policy / 'rollouts.jsonl').read_text().splitlines()]

  run = gin_config.load_experiment([str(model / 'config.gin')], [], trains=False)[0]
  data = gin_config.load_experiment([str(policy / 'config.gin')], [], trains=False)[0].data
  network, partitioner = run.build_network(run.mesh.make())
  params, _ = load_params(run.folder, network, partitioner, None, run.data.fingerprint())
  values_of = values(network)
  tokens = data.tokenizer('targets')
  prompts = {one['inputs']: list(one['ids']) for one in data.examples('train')}
  reward = RewardRun(model_dir=str(model), batch_size=3)
  ids_of = lambda text: [*tokens.encode(text), tokens.eos_id]
  right = [Completion(prompt, text, '', True, prompts[prompt], ids_of(text))
           for prompt in [f'{a}+{b}=' for a, b in sums if f'{a}+{b}=' in prompts]
           for text in (str(eval(prompt[:-1])), '7')]
  ratings = [one.reward for one in rate(reward.make(data), right)]
  assert all(good > bad + 1 for good, bad in zip(ratings[::2], ratings[1::2], strict=True))
  for one, rating in zip(right[:4], ratings):
    assert rating == pytest.approx(value_at_the_end(
        values_of, params, one.prompt_ids, one.ids, tokens.start_id), abs=1e-4)
  # an untrained policy hardly ever ends, and bytes of what it writes may be no text
  assert len(written) == 8 and all(np.isfinite(one['reward']) for one in written)

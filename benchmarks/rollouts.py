"""Policies on rollouts: where the time goes, generation beside `infer`, and what LoRA holds.

    python benchmarks/rollouts.py --output benchmarks/results/rollouts.json

An untrained policy, which hardly ever ends, writes 8 completions of 64 tokens to each of 8 prompts
and takes one step of GRPO on them. Shares are of the seconds of a step. Then the policy's generator
and that of `t5x-lite infer` answer the same prompts in turns, in one process; a ratio is the time
of `infer` over the policy's. Memory is that of live buffers while a rollout is rated: parameters,
the optimizer's moments and the reference, in sizes of the base.
"""

import argparse
from collections.abc import Sequence
import dataclasses
import json
import pathlib
import statistics
import tempfile
import time

from speed import machine

STEPS = 12
NEW_TOKENS, PROMPTS, SAMPLES = 64, 8, 8
CASES = {   # flags of gin
    'tiny': (),
    'scanned': ('ModelConfig.scan_layers=True',),
}


@dataclasses.dataclass(frozen=True)
class Watch:
  """A reward that tells completions apart, and notes the bytes of all live arrays."""
  name: str = 'watch'
  live: list = dataclasses.field(default_factory=list)

  def make(self, data):
    import jax

    from t5x_lite.rewards.reward import Rating

    def rater(completions):
      self.live.append(sum(x.nbytes for x in jax.live_arrays()))
      return [Rating(float(one.ids[0] % 2 == 0)) for one in completions]   # the end is odd

    return rater


def load(folder: pathlib.Path, name: str, flags: Sequence[str]):
  """(the experiment, its gin) of a run of GRPO or, as `start`, of what it begins with."""
  from t5x_lite.experiment import gin_config
  file = 'addition' if name == 'start' else 'grpo_addition'
  own = ['STEPS=1'] if name == 'start' else [
      f'STEPS={STEPS}', f"INIT_FROM='{folder / 'start'}'", f'BATCH_SIZE={PROMPTS * SAMPLES}',
      f'Rollouts.group_size={SAMPLES}', 'Rollouts.epochs=1', 'TrainConfig.log_every=1',
      'WARMUP_STEPS=1', 'RewardEval.num_examples=8', 'RewardEval.batch_size=8',
      f'TARGETS_LENGTH={NEW_TOKENS}']
  adapter = ['runs/lora.gin'] if name == 'lora' else []
  return gin_config.load_experiment([f'experiments/{file}.gin', *adapter], [
      f"MODEL_DIR='{folder / name}'", *flags, *own], ())


def trained(folder: pathlib.Path, name: str, flags: Sequence[str]) -> tuple:
  """(experiment, metrics of its steps, bytes of live arrays at each rollout) of a run of GRPO."""
  from t5x_lite.commands.train import train
  from t5x_lite.training.run_folder import RunFolder
  experiment, gin = load(folder, name, flags)
  watch = Watch()
  experiment = dataclasses.replace(experiment, data=dataclasses.replace(
      experiment.data, rewards=(watch,)))
  train(experiment, gin)
  steps = [one for one in RunFolder(folder / name).read_metrics() if one['kind'] == 'train']
  return experiment, steps, watch.live


def shares(steps: list[dict]) -> dict[str, float]:
  """Medians of the parts of a step, after those that compile."""
  part = lambda one, name: one[f'rollout/seconds/{name}']
  warm = steps[3:]
  total = statistics.median(one['seconds_per_step'] for one in warm)
  found = {name: statistics.median(part(one, name) / one['seconds_per_step'] for one in warm)
           for name in ('generating', 'scoring', 'rating')}
  tokens = statistics.median(one['rollout/completion_tokens'] for one in warm)
  return {'seconds': round(total, 4), 'tokens': tokens,
          **{name: round(x, 3) for name, x in found.items()},
          'update': round(1 - sum(found.values()), 3)}


def beside_infer(experiment, folder: pathlib.Path, rounds: int) -> list[float]:
  """Quartiles of the time of `infer` over that of the policy's generator."""
  from t5x_lite.inference.generator import Generator
  from t5x_lite.inference.rollouts import draw
  from t5x_lite.inference.sampling import Sampling
  from t5x_lite.models.unstack import unstack
  from t5x_lite.training.initial_params import load_params
  network, partitioner = experiment.build_network(experiment.mesh.make())
  data = experiment.data
  read = lambda: load_params(folder, network, partitioner, None, data.fingerprint())[0]
  inputs = [one['ids'] for one in data.examples('train', PROMPTS, 0)]
  policy = draw.make_writer(network, partitioner, data.prompts, batch_size=PROMPTS,
                            temperature=1.0, samples=SAMPLES).with_params(read())
  length = policy.max_tokens + max(map(len, inputs)) + 1
  flat, (flat_params,) = unstack(network, [read()], partitioner)   # frees what it reads
  infer = Generator(flat, flat_params, partitioner, data.prompts, batch_size=PROMPTS,
                    samples=SAMPLES, decoding=Sampling(temperature=1.0))
  keys = draw.row_keys(0, range(PROMPTS), SAMPLES, 0)

  def seconds(call) -> float:
    begin = time.perf_counter()
    call()   # what it returns is on the host
    return time.perf_counter() - begin

  sides = (lambda: draw.draw(policy, inputs, keys, length), lambda: list(infer.from_ids(inputs)))
  for side in sides:
    side()
  ratios = []
  for turn in range(rounds):
    times = {side: seconds(side) for side in sides[::1 if turn % 2 else -1]}
    ratios.append(times[sides[1]] / times[sides[0]])
  return [round(q, 2) for q in statistics.quantiles(ratios, n=4)]


def num_bytes(experiment) -> int:
  """Of the parameters of the base."""
  import jax
  network, _ = experiment.build_network(experiment.mesh.make())
  return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(network.shapes))


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--rounds', type=int, default=12)
  parser.add_argument('--output', type=pathlib.Path)
  args = parser.parse_args()
  results = {'machine': machine(), 'cases': {}}
  for name, flags in CASES.items():
    with tempfile.TemporaryDirectory() as temporary:
      folder = pathlib.Path(temporary)
      from t5x_lite.commands.train import train
      train(*load(folder, 'start', flags))
      experiment, steps, live = trained(folder, 'full', flags)
      row = {'step': shares(steps), 'infer_to_policy': beside_infer(
          experiment, folder / 'full', args.rounds)}
      _, lora_steps, lora_live = trained(folder, 'lora', flags)
      base = num_bytes(experiment)
      row |= {'lora_step': shares(lora_steps), 'live_in_bases': round(max(live) / base, 2),
              'lora_live_in_bases': round(max(lora_live) / base, 2)}
    results['cases'][name] = row
    print(name, json.dumps(row), flush=True)
  if args.output:
    args.output.write_text(json.dumps(results, indent=1) + '\n')


if __name__ == '__main__':
  main()

"""Evaluation of a policy by rewards: what it writes after held-out prompts, rated."""

from collections.abc import Callable, Sequence
import dataclasses
from typing import Any

import numpy as np

from t5x_lite.core.dataclass_checks import Count, FieldError, NonNegative, Step, check_types
from t5x_lite.data.source import Source, row_lengths
from t5x_lite.inference.rollouts.draw import draw, make_writer, row_keys
from t5x_lite.models import Network
from t5x_lite.parallel.partitioner import Partitioner
from t5x_lite.rewards.reward import Completion, Reward, rate


@dataclasses.dataclass(frozen=True, kw_only=True)
class RewardEval:
  """The mean reward of completions of held-out prompts, with its standard error, each time of the
  same prompts, drawn by the same random numbers."""
  rewards: Sequence[Reward]              # each a metric of its own
  split: str = 'validation'              # of the data
  num_examples: Count | None = 256       # the first so many; None: all
  batch_size: Count = 64                 # prompts at a time
  temperature: NonNegative[float] = 0.0   # 0: the likeliest tokens
  step: Step | None = None               # the checkpoint `t5x-lite eval` reads; None: the newest

  def __post_init__(self):
    check_types(self)
    if not self.rewards:
      raise FieldError(self, 'rewards', 'there is nothing to evaluate')

  def make(self, network: Network, partitioner: Partitioner, data: Source, seed: int, *,
           required: bool = False) -> Callable[[Any, int], dict[str, float]]:
    """See Evaluation: `reward/NAME`, `reward/NAME_stderr`, `tokens` of a completion, `ended`."""
    partitioner.check_rows(self)
    if self.split not in data.splits():
      raise FieldError(self, 'split', f'{data.name} has {", ".join(data.splits())}')
    examples = list(data.examples(self.split, self.num_examples, seed))
    raters = [(reward.name, reward.make(data)) for reward in self.rewards]
    generator = make_writer(network, partitioner, data, batch_size=self.batch_size, seed=seed,
                            temperature=self.temperature)
    length = row_lengths(data.lengths, network.config)[1]

    def evaluate(params: Any, step: int) -> dict[str, float]:
      writer, completions = generator.with_params(params), []
      for start in range(0, len(examples), self.batch_size):
        part = examples[start:start + self.batch_size]
        numbers = np.minimum(start + np.arange(self.batch_size), len(examples) - 1)
        drawn = draw(writer, [examples[i]['ids'] for i in numbers],
                     row_keys(seed, numbers.tolist(), 1, 0), length)
        completions += [
            Completion(one['inputs'], text, one['targets'], bool(ended), one['ids'], ids)
            for one, text, ended, ids in zip(part, drawn.texts, drawn.ended, drawn.ids)]
      metrics = {'completion_tokens': np.mean([len(one.ids) for one in completions]),
                 'ended': np.mean([one.ended for one in completions])}
      for name, rater in raters:
        rewards = np.asarray([rating.reward for rating in rate(rater, completions, name)])
        metrics |= {f'reward/{name}': rewards.mean(),
                    f'reward/{name}_stderr': rewards.std(ddof=1) / len(rewards) ** 0.5}
      return {name: float(x) for name, x in metrics.items()}

    return evaluate

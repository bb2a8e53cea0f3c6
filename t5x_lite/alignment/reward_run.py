"""A reward that a model gives: a run that was trained to rate responses."""

from collections.abc import Callable, Sequence
import dataclasses
from typing import Annotated, Any, ClassVar

import jax
import numpy as np

from t5x_lite.core.dataclass_checks import Count, FieldError, Path, Range, Step, check_types
from t5x_lite.data.features import Batch, decoder_rows
from t5x_lite.data.source import Source, row_lengths
from t5x_lite.models import ModelConfig, Network
from t5x_lite.objectives.preference.reward_model import response_rewards
from t5x_lite.parallel.partitioner import Partitioner
from t5x_lite.rewards.reward import Completion, Rater, Rating

_Number = Annotated[float, Range(min=-1e6, max=1e6)]


@dataclasses.dataclass(frozen=True, kw_only=True)
class RewardRun:
  """The value that the model of a run gives at the last token of a completion.

  The model reads the ids that the policy read and wrote, so it has the policy's vocabulary.
  """
  name: ClassVar[str] = 'reward_model'
  model_dir: Path            # the folder of a run with ModelConfig.head = 'value'
  step: Step | None = None   # its checkpoint; None: the newest
  batch_size: Count = 32     # completions at a time
  shift: _Number = 0.0       # taken off, such as the mean reward of demonstrations (InstructGPT)
  scale: _Number = 1.0       # multiplies what is left

  def __post_init__(self):
    check_types(self)

  def make(self, data: Source) -> Rater:
    """See Reward."""
    from t5x_lite.experiment import gin_config
    from t5x_lite.training.initial_params import load_params
    run = gin_config.load_run(self.model_dir)
    if run.model.head != 'value':
      raise FieldError(self, 'model_dir', f'{self.model_dir} gives no values: it is to be a run '
                       "with ModelConfig.head = 'value', as runs/reward_model.gin trains")
    own, theirs = data.fingerprint(), run.data.fingerprint()
    if own != theirs:
      raise FieldError(self, 'model_dir', f'{self.model_dir} has the vocabulary {theirs}, and the '
                       f'policy {own}: train a reward model on the vocabulary of the policy')
    inputs, length = lengths = row_lengths(data.lengths, run.model)
    longest = run.model.max_length
    if longest is not None and max(lengths) > longest:
      raise FieldError(self, 'model_dir', f'{self.model_dir} has positions for {longest} tokens, '
                       f'and rows have {max(lengths)}: lower the lengths of the rollouts')
    network, partitioner = run.build_network(run.mesh.make())
    partitioner.check_rows(self)
    params, _ = load_params(run.folder, network, partitioner, self.step, theirs)
    rewards_of = make_rewards(network, partitioner)
    start = data.tokenizer('targets').start_id

    def rater(completions: Sequence[Completion]) -> list[Rating]:
      found = []
      for begin in range(0, len(completions), self.batch_size):
        part = completions[begin:begin + self.batch_size]
        filled = [*part, *[part[-1]] * (self.batch_size - len(part))]
        batch = _batch(filled, run.model, start, inputs, length)
        rewards = jax.device_get(rewards_of(params, partitioner.put_whole(batch)))
        found += rewards[:len(part)].tolist()
      return [Rating((reward - self.shift) * self.scale) for reward in found]

    return rater


def make_rewards(network: Network, partitioner: Partitioner) -> Callable[[Any, Batch], jax.Array]:
  """Jitted (params, rows) -> float32 reward of each, the value at its last token with a weight."""

  def rewards(params, batch):
    values_BL = network.bind(params).outputs(batch).values_BL
    return response_rewards(values_BL, batch['decoder_loss_weights'])

  return jax.jit(rewards, out_shardings=partitioner.replicated)


def _batch(completions: Sequence[Completion], model: ModelConfig, start: int, inputs: int,
           length: int) -> Batch:
  """What the reward model reads of completions."""
  first = [start]
  if model.family == 'decoder_only':
    return decoder_rows([[*first, *one.prompt_ids] for one in completions],
                        [one.ids for one in completions], length)
  encoder = np.zeros((2, len(completions), inputs), np.int32)
  for r, one in enumerate(completions):
    encoder[:, r, :len(one.prompt_ids)] = one.prompt_ids, np.ones(len(one.prompt_ids))
  return decoder_rows([first] * len(completions), [one.ids for one in completions], length) | {
      'encoder_input_tokens': encoder[0], 'encoder_segment_ids': encoder[1]}

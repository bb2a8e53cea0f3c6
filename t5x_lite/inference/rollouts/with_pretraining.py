"""PPO-ptx's source: text of pretraining beside what a policy writes (Ouyang et al. 2022)."""

from collections.abc import Iterator
import dataclasses
import itertools

from t5x_lite.core.dataclass_checks import FieldError, check_types
from t5x_lite.data.features import Batch
from t5x_lite.data.source import Source
from t5x_lite.data.wrapped import WrappedSource
from t5x_lite.objectives.policy.pretraining_mix import PREFIX
from t5x_lite.training.live_source import LiveBatches, LiveSource, RunContext
from t5x_lite.training.state import TrainState


@dataclasses.dataclass(frozen=True, kw_only=True)
class WithPretraining(WrappedSource):
  """A source of rollouts whose batches have the features of a batch of `text` too.

  Their names begin with `pretraining_`: PretrainingMix reads them. A step reads as many rows of
  text as of rollouts, of a length of their own. All else, prompts and lengths, is of `source`.
  """
  source: Source   # of rollouts
  text: Source     # of a language model, on the vocabulary of the policy

  def __post_init__(self):
    check_types(self)
    if not isinstance(self.source, LiveSource):
      raise FieldError(self, 'source', f'{type(self.source).__name__} has no rollouts: give it '
                       '@source.Rollouts()')
    if isinstance(self.text, LiveSource):
      raise FieldError(self, 'text', f'{type(self.text).__name__} follows from the policy: give it '
                       'a source of text, such as @seqio_data.DataConfig()')
    if self.text.batch_size != self.source.batch_size:
      raise FieldError(self, 'text', f'has batches of {self.text.batch_size} rows, and rollouts '
                       f'have {self.source.batch_size}: set the same batch size')

  @property
  def wrapped(self) -> Source:
    """See WrappedSource."""
    return self.source

  def data_digest(self) -> str | None:
    """See Source: of prompts and text; None where neither is known."""
    digests = self.source.data_digest(), self.text.data_digest()
    return None if digests == (None, None) else '+'.join(map(str, digests))

  def check_model(self, model) -> None:
    """See Source: the model reads both."""
    self.source.check_model(model)
    self.text.check_model(model)

  def open(self, run: RunContext) -> 'MixedBatches':
    """See LiveSource."""
    own, theirs = self.source.fingerprint(), self.text.fingerprint()
    if own != theirs:
      raise FieldError(self, 'text', f'{self.text.name} has the vocabulary {theirs}, and the '
                       f'policy {own}: give both the same')
    text = self.text.batches(run.network.config, seed=run.seed, start=run.start, shard=run.shard)
    return MixedBatches(self.source.open(run), text)


class MixedBatches:
  """The batches of rollouts, each with the next one of text; see LiveBatches."""

  def __init__(self, live: LiveBatches, text: Iterator[Batch]):
    first = next(text)   # what is wrong with the text is said now
    self._live, self._text = live, itertools.chain([first], text)

  def __call__(self, state: TrainState) -> Batch:
    """See LiveBatches."""
    text = next(self._text)
    return self._live(state) | {PREFIX + name: x for name, x in text.items()}

  def metrics(self, batch: Batch) -> dict[str, float]:
    """See LiveBatches: those of the rollouts."""
    return self._live.metrics(batch)

"""A source that makes batches of what another one has."""

from collections.abc import Iterator
from typing import Any

from t5x_lite.core.errors import UserError
from t5x_lite.data.source import Chat, Source, Tokenizer


class WrappedSource(Source):
  """All of another source but its batches; a subclass has that as `wrapped`, and batches of its
  own, which follow from the parameters that are trained (training/live_source.py)."""

  wrapped: Source

  @property
  def name(self) -> str:
    return self.wrapped.name

  @property
  def lengths(self) -> dict[str, int]:
    return self.wrapped.lengths

  @property
  def batch_size(self) -> int:
    return self.wrapped.batch_size

  @property
  def vocabulary(self) -> str | None:
    return self.wrapped.vocabulary

  def batches(self, model, *, seed, start=0, shard=(0, 1)):
    """See Source; raises UserError."""
    raise UserError(f'{type(self).__name__} has batches of a run alone: they follow from the '
                    'parameters that it trains')

  def splits(self) -> list[str]:
    return self.wrapped.splits()

  def examples(self, split: str, limit: int | None = None, seed: int = 0
               ) -> Iterator[dict[str, Any]]:
    return self.wrapped.examples(split, limit, seed)

  def tokenizer(self, feature: str = 'inputs') -> Tokenizer:
    return self.wrapped.tokenizer(feature)

  def chat(self, template: str | None = None) -> Chat | None:
    return self.wrapped.chat(template)

  def fingerprint(self) -> str | None:
    return self.wrapped.fingerprint()

  def data_digest(self) -> str | None:
    return self.wrapped.data_digest()

  def check_model(self, model: Any) -> None:
    self.wrapped.check_model(model)

from collections.abc import Mapping
import dataclasses


@dataclasses.dataclass(frozen=True)
class PredictedTurn:
  """What a system answers, normalised.

  Attributes:
    response: delexicalised.
    state: {domain: {slot: value}} that it believes in.
    active: the domains that it talks about.
  """
  response: str
  state: Mapping[str, Mapping[str, str]]
  active: tuple[str, ...]

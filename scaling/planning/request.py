"""The request of a plan: a budget, a law, a kind of model, constraints. Imports no JAX."""

import dataclasses
import math

from scaling.laws.experts import Mixture
from scaling.laws.hyperparameters import RECIPES
from scaling.planning.budget import CARBON, PUE
from t5x_lite.core.errors import UserError

LAW = 'besiroglu'
EXPERTS_LAW = 'joint_experts'   # of a model with experts
HARDWARE = 'h100'


@dataclasses.dataclass(frozen=True)
class Preset:
  """A base config; `lengths` are (inputs, targets) of a row."""
  config: str
  lengths: tuple[int, int]
  bindings: tuple[str, ...] = ()


PRESETS = {
    'llama': Preset('models/llama_7b.gin', (0, 2048)),
    'gpt2': Preset('models/gpt2_small.gin', (0, 1024),
                   ('ModelConfig.dropout_rate=0.0',)),
    't5': Preset('models/t5_1_1_base.gin', (512, 114)),
    'bert': Preset('models/bert_base.gin', (512, 0), ("ModelConfig.head='mlm'",)),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Request:
  """The flags of `t5x-lite scaling plan`; see its --help.

  Attributes:
    price: dollars an hour of a chip; None: that of the catalogue.
    mfu: measured; None: MFU, or less if blocks are recomputed.
    runs: folders and files of one's own runs, whose utilisation stands in for MFU.
    law: None: 'fit' if there is a fit, else LAW, or EXPERTS_LAW with experts.
    unique_tokens, max_parameters, served_tokens: see `scaling.planning.constraints.Constraints`.
    carbon: kg of CO2 equivalents a kWh.
    prompt, generated: tokens of a request that is served; None: half a row each.
    vocab_size: None: the family's.
    task: None: to be filled in.
    length: tokens of a row, or of its inputs if it has inputs. None: the family's.
    multiple: of which widths are multiples.
    experts: MLPs of a layer, `top_k` of them active for a token, each of the family's width over
      `granularity`. None: one MLP.
  """
  flops: float | None = None
  loss: float | None = None
  dollars: float | None = None
  kwh: float | None = None
  chips: int | None = None
  hours: float | None = None
  deadline: float | None = None
  hardware: str = HARDWARE
  prices: str | None = None
  price: float | None = None
  mfu: float | None = None
  runs: tuple[str, ...] = ()
  pue: float = PUE
  carbon: float = CARBON
  law: str | None = None
  fit: str | None = None
  unique_tokens: float | None = None
  max_parameters: float | None = None
  served_tokens: float | None = None
  prompt: int | None = None
  generated: int | None = None
  family: str = 'llama'
  vocab_size: int | None = None
  length: int | None = None
  task: str | None = None
  multiple: int = 128
  recipe: str = 'step_law'
  experts: int | None = None
  top_k: int | None = None
  granularity: int | None = None

  def __post_init__(self):
    object.__setattr__(self, 'runs', tuple(self.runs))
    if self.runs and self.mfu is not None:
      raise UserError(f'--mfu={self.mfu:g} and --runs both set the MFU: give one of them')
    for name, known in (('family', PRESETS), ('recipe', RECIPES)):
      if getattr(self, name) not in known:
        raise UserError(f'--{name}={getattr(self, name)}: choose from {", ".join(known)}')
    for name, low, high in (('vocab_size', 128, 2 ** 24), ('length', 8, 2 ** 20),
                            ('multiple', 1, 2 ** 13), ('prompt', 1, 2 ** 20),
                            ('generated', 1, 2 ** 20), ('experts', 2, 4096),
                            ('top_k', 1, 4096), ('granularity', 1, 256)):
      value = getattr(self, name)
      if value is not None and not low <= value <= high:
        raise UserError(f'--{name}={value}: give {low} to {high:,}')
    self._check_experts()
    if not 0 <= self.carbon < 10:
      raise UserError(f'--carbon={self.carbon:g}: give 0 to 10 kg of CO2 a kWh')
    for name in ('unique_tokens', 'max_parameters', 'served_tokens', 'price'):
      value = getattr(self, name)
      if value is not None and not 0 < value < math.inf:
        raise UserError(f'--{name}={value:g}: give a number above 0')

  def _check_experts(self):
    if self.experts is None:
      for name in ('top_k', 'granularity'):
        if getattr(self, name) is not None:
          raise UserError(f'--{name}={getattr(self, name)} is of experts: give --experts, too')
      return
    if self.mixture.top_k >= self.experts:
      raise UserError(f'--top_k={self.mixture.top_k} of --experts={self.experts}: give fewer than '
                      'all experts')
    if self.family != 'llama':
      raise UserError(f'--family={self.family} has no models with experts: give --family=llama')
    if self.max_parameters is not None:
      raise UserError('--max_parameters is of all parameters, and the laws of experts count the '
                      'active ones: leave it out, or give fewer --experts')

  @property
  def mixture(self) -> Mixture | None:
    """Its experts; None for one MLP."""
    if self.experts is None:
      return None
    return Mixture(self.experts, self.top_k or min(2, self.experts - 1), self.granularity or 1)

  @property
  def law_name(self) -> str:
    """The law that the plan follows."""
    return self.law or ('fit' if self.fit else LAW if self.experts is None else EXPERTS_LAW)

  @property
  def constraints(self):
    """Its `scaling.planning.constraints.Constraints`."""
    from scaling.planning.constraints import Constraints  # imports SciPy

    return Constraints(unique_tokens=self.unique_tokens, max_parameters=self.max_parameters,
                       served_tokens=self.served_tokens)

  @property
  def lengths(self) -> tuple[int, int]:
    """(inputs, targets) of a row, as in `t5x_lite.cost.accounting`."""
    inputs, targets = PRESETS[self.family].lengths
    if self.length is None:
      return inputs, targets
    # Span corruption leaves T5 114 targets of 512 inputs.
    return (0, self.length) if not inputs else (
        self.length, round(self.length * targets / inputs))

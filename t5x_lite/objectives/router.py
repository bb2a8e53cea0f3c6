"""The losses of a mixture of experts' routers, which keep the load of the experts even."""

import dataclasses

import jax
import jax.numpy as jnp

from t5x_lite.core.dataclass_checks import NonNegative, check_types
from t5x_lite.data.features import Batch, num_tokens
from t5x_lite.models import Model
from t5x_lite.objectives.objective import LossSums


@dataclasses.dataclass(frozen=True, kw_only=True)
class RouterLoss:
  """Balance and z-loss of all routers, a mean over tokens, summed over layers.

  Metrics: `load_balance` and `router_z`; see models/moe.py. None without experts.
  """
  load_balance: NonNegative[float] = 0.01   # of Switch Transformer's balance loss (equation 4)
  router_z: NonNegative[float] = 0.001      # factor of log(Z)^2 of the router (ST-MoE, equation 5)

  def __post_init__(self):
    check_types(self)

  def __call__(self, model: Model, batch: Batch, key: jax.Array | None,
               normalizers: dict[str, jax.Array]) -> LossSums | None:
    losses = model.outputs(batch, key).router_losses
    if losses is None:
      return None
    router = self.load_balance * losses['load_balance'] + self.router_z * losses['router_z']
    tokens = jnp.float32(num_tokens(batch))
    return LossSums(normalizers['token'] * router, jnp.float32(0),
                    {name: (x, tokens) for name, x in losses.items()})

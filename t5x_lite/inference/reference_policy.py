"""The reference policy: the one that a run began with, in the same compiled functions."""

from typing import Any

import jax
import jax.numpy as jnp

from t5x_lite.core.errors import UserError
from t5x_lite.training.checkpoints import Checkpoints
from t5x_lite.training.live_source import RunContext
from t5x_lite.training.state import TrainState, all_params


class ReferencePolicy:
  """A copy of the trained parameters at step 0; frozen ones are those of the state, shared.

  Of an adapter that is the adapter alone. The copy is in MODEL_DIR/reference, from which a run that
  resumes reads it.
  """

  def __init__(self, run: RunContext):
    self._run, self._params = run, None

  def begin(self, state: TrainState, new: bool) -> None:
    """Copies the parameters of the first state, or reads those of the run that goes on."""
    saved = Checkpoints(self._run.folder.reference)
    if new:
      self._params = jax.tree.map(jnp.copy, state['params'])
      saved.save_params(self._params, 0, {})
      saved.close()
      return
    if 0 not in saved.steps():
      raise UserError(f'{saved.folder} lacks the reference policy of the run: put it back, or '
                      'start a new run from the checkpoint with InitFrom')
    abstract = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state['params'])
    self._params, _ = saved.restore_params(abstract, 0)

  def params(self, state: TrainState) -> Any:
    """All parameters of the reference, given a state whose frozen ones it shares."""
    return all_params(state | {'params': self._params})

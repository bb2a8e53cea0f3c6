"""Groups of responses with their log-probabilities under the policy that a run began with."""

from collections.abc import Callable, Iterator
import dataclasses
import hashlib
import pathlib
from typing import Any

import jax
import numpy as np

from t5x_lite.core.dataclass_checks import FieldError, Path, check_types
from t5x_lite.core.errors import UserError
from t5x_lite.core.files import atomic_file
from t5x_lite.core.paths import local_path
from t5x_lite.data.features import Batch
from t5x_lite.data.source import Source
from t5x_lite.data.wrapped import WrappedSource
from t5x_lite.inference.reference_policy import ReferencePolicy
from t5x_lite.objectives.logprobs import token_logprobs
from t5x_lite.objectives.objective import SharedForward
from t5x_lite.training.digests import digest_arrays
from t5x_lite.training.live_source import RunContext
from t5x_lite.training.state import TrainState, all_params

_READ = ('decoder_input_tokens', 'decoder_target_tokens', 'decoder_loss_weights')


@dataclasses.dataclass(frozen=True, kw_only=True)
class WithReference(WrappedSource):
  """A source of groups whose batches have `reference_logprobs` [batch, responses] float32 too.

  They are sums over the tokens with a loss weight. The reference is the policy at step 0. With
  `cached` they are computed once for all of the split, before the first step, and kept in a file,
  so that no second policy is in memory while the first is trained; another run that begins with the
  same parameters may read the same file. Without, the reference is kept and reads each batch: for
  groups that are put together of a batch, as KTO's, and for adapters, which share their base.
  """
  data: Source               # of groups, with `groups(model, split)`, as PreferenceData has it
  cached: bool = True        # computed once, before the first step; False: of each batch
  cache: Path | None = None   # the file; None: MODEL_DIR/reference_logprobs.npz

  def __post_init__(self):
    check_types(self)
    if self.cached and not hasattr(self.data, 'groups'):
      raise FieldError(self, 'data', f'{type(self.data).__name__} has no groups: give it a '
                       'PreferenceData')
    if self.cache is not None and not self.cached:
      raise FieldError(self, 'cache', 'is of log-probabilities that are cached: leave it out, or '
                       'set cached = True')

  @property
  def wrapped(self) -> Source:
    """See WrappedSource."""
    return self.data

  def groups(self, model: Any, split: str) -> Iterator[Batch]:
    """All groups of a split once; they have no reference."""
    return self.data.groups(model, split)

  def open(self, run: RunContext) -> 'ReferenceBatches':
    """See LiveSource."""
    return ReferenceBatches(self, run)


class ReferenceBatches:
  """The batches of a run, with the log-probabilities of its reference; see LiveBatches."""

  def __init__(self, settings: WithReference, run: RunContext):
    self._settings, self._run, self._data = settings, run, settings.data
    self._score = make_score_groups(run)
    self._read = self._data.batches(run.network.config, seed=run.seed, start=run.start,
                                    shard=run.shard)
    self._next = next(self._read)   # what is wrong with the data is said now
    there_BK = (self._next['decoder_loss_weights'] > 0).any(-1)
    if settings.cached and np.isnan(self._next['response_scores'][there_BK]).any():
      raise FieldError(settings, 'cached', 'must be False for thumbs, whose prompts have the '
                       'response of another in each batch anew')
    self._logprobs_of: Callable[[TrainState, Batch], np.ndarray] | None = None

  def __call__(self, state: TrainState) -> Batch:
    """See LiveBatches."""
    if self._logprobs_of is None:
      self._logprobs_of = self._begin(state)
    batch = self._next if self._next is not None else next(self._read)
    self._next = None
    return batch | {'reference_logprobs': self._logprobs_of(state, batch)}

  def metrics(self, batch: Batch) -> dict[str, float]:
    """See LiveBatches: none."""
    return {}

  def _begin(self, state: TrainState) -> Callable[[TrainState, Batch], np.ndarray]:
    new = not self._run.start
    if not self._settings.cached:
      if jax.process_count() > 1:
        raise FieldError(self._settings, 'cached', 'must be True on several hosts')
      reference, put = ReferencePolicy(self._run), self._run.partitioner.put_batch
      reference.begin(state, new)
      return lambda state, batch: np.asarray(self._score(reference.params(state), put(batch)))
    file = self._run.folder.reference_logprobs if self._settings.cache is None else (
        local_path(self._settings.cache))
    table = self._load(file, state, new)
    return lambda state, batch: self._look_up(table, batch, file)

  def _load(self, file: pathlib.Path, state: TrainState, new: bool) -> dict[bytes, float]:
    """{digest of a response: its log-probability}, computed if there is no file yet."""
    name = _fingerprint(state) if new else None
    if not file.exists():
      if not new:
        raise UserError(f'{file} is missing, and the policy that it was made with has been trained '
                        'since: put it back, or start a new run')
      return self._compute(file, state, name)
    try:
      with np.load(file, allow_pickle=False) as arrays:
        digests, logprobs, made_with = (arrays[key] for key in ('digests', 'logprobs', 'policy'))
    except (OSError, ValueError, KeyError, EOFError) as error:
      raise UserError(f'{file} is damaged ({error}): put back a good copy, or remove it and start '
                      'a new run') from error
    if new and str(made_with) != name:
      raise UserError(f'{file} has log-probabilities of another policy than this run begins with: '
                      'name another file with WithReference.cache')
    return dict(zip([row.tobytes() for row in digests], logprobs.tolist()))

  def _compute(self, file: pathlib.Path, state: TrainState, name: str) -> dict[bytes, float]:
    params, table = all_params(state), {}
    self._run.say(f'Computing what the reference says of {self._data.name}, once')
    for batch in self._data.groups(self._run.network.config, self._data.split):
      put = self._run.partitioner.put_whole(batch)
      found_BK = np.asarray(jax.device_get(self._score(params, put)))
      table |= {digest: float(found_BK[b, k]) for (b, k), digest in response_digests(batch)}
    if jax.process_index() == 0:
      with atomic_file(file) as opened:
        np.savez(opened, policy=name, logprobs=np.asarray([*table.values()], np.float32),
                 digests=np.frombuffer(b''.join(table), np.uint8).reshape(len(table), -1))
    return table

  def _look_up(self, table: dict[bytes, float], batch: Batch, file: pathlib.Path) -> np.ndarray:
    found_BK = np.zeros(batch['response_scores'].shape, np.float32)
    for (b, k), digest in response_digests(batch):
      if digest not in table:
        raise UserError(f'{file} lacks a response of the data, which has changed since: remove the '
                        'file and start a new run, or set WithReference.cached = False')
      found_BK[b, k] = table[digest]
    return found_BK


def make_score_groups(run: RunContext) -> Callable[[Any, Batch], jax.Array]:
  """Jitted (params, batch of groups) -> log-probabilities of their responses [batch, responses]."""

  def score(params, batch):
    model = SharedForward(run.network.bind(params))
    return (token_logprobs(model, batch) * (batch['decoder_loss_weights'] > 0)).sum(-1)

  return jax.jit(score, out_shardings=run.partitioner.replicated)


def response_digests(batch: Batch):
  """((group, response), digest of its tokens, of its prompt, and of where its loss is)."""
  names = [*_READ, *(['encoder_input_tokens'] if 'encoder_input_tokens' in batch else [])]
  for b, k in np.argwhere((batch['decoder_loss_weights'] != 0).any(-1)):
    digest = hashlib.blake2b(digest_size=16)
    for name in names:
      row = batch[name][b] if name.startswith('encoder_') else batch[name][b, k]
      digest.update(np.ascontiguousarray(row, np.int32).tobytes())
    yield (int(b), int(k)), digest.digest()


def _fingerprint(state: TrainState) -> str:
  """Of all parameters of a policy."""
  digests, _ = digest_arrays(all_params(state))
  return hashlib.sha256(repr(sorted(digests.items())).encode()).hexdigest()[:32]

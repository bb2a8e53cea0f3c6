"""The engine: a thread that lets requests into slots, writes in all of them, hands out what comes.

Requests are let in as they came (continuous batching): a prompt is read while others write, at most
so many tokens of it between two calls that write. Each model by name, a base or one of its
adapters, has slots of its own, which are made when it is first asked.
"""

from collections import deque
from collections.abc import Callable, Mapping, Sequence
import dataclasses
import threading
from typing import Any

import jax
import numpy as np

from t5x_lite.core.errors import UserError
from t5x_lite.inference.constraints import Constraint, ConstraintRows, constraint_rows
from t5x_lite.inference.sampling import NO_ID, Sampling, SamplingRows, sampling_rows
from t5x_lite.serving.output import CANCELLED, FAILED, Output, Piece, Token
from t5x_lite.serving.slots import PARTS, Row, Slots

WIDTH = 512    # entries of logit_bias and of forced ids that a request may have
END_IDS = 16   # that a model may have


class QueueFull(UserError):
  """As many requests wait as may."""


class Closed(UserError):
  """The engine takes no requests any more."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Request:
  """A prompt and how its samples are written.

  Attributes:
    model: which of the engine's models writes.
    ids: the prompt, with the id that starts decoding.
    batch: what `model.start` reads, of one row: the encoder's features.
    sampling: its max_new_tokens is set.
    samples: outputs, each in a slot of its own.
    alternatives: likeliest tokens that are reported beside each; None: no log-probabilities.
    constraint: what may be written; None: anything.
  """
  model: str
  ids: Sequence[int]
  batch: Mapping[str, np.ndarray]
  sampling: Sampling
  samples: int = 1
  alternatives: int | None = None
  constraint: Constraint | None = None


class Ticket:
  """A request that was taken; `cancel` ends it, and its sink gets a Piece that says so."""

  def __init__(self, request: Request, rows: SamplingRows, sink: Callable[[Piece], None],
               wake: Callable[[], None]):
    """`rows` are the settings of the request as arrays of one row."""
    self.request, self.rows, self.sink, self._wake = request, rows, sink, wake
    self.cancelled = False

  def cancel(self) -> None:
    """May be called from any thread, and again."""
    self.cancelled = True
    self._wake()


@dataclasses.dataclass
class Counts:
  """What the engine did up to now."""
  prompt_tokens: int = 0
  written_tokens: int = 0
  calls: int = 0   # of the program that writes


class Engine:
  """Several models of one network; every method may be called from any thread."""

  def __init__(self, slots: Slots, models: Mapping[str, tuple[Any, Sequence[int]]], *,
               decode: Callable[[list[int]], str], max_queue: int):
    """Starts the thread.

    Args:
      models: by name the parameters, and the ids each of which ends an output.
      decode: ids to a text.
      max_queue: requests that may wait.
    """
    self.slots, self.counts = slots, Counts()
    self.end_ids = {name: tuple(end_ids) for name, (_, end_ids) in models.items()}
    self.failure: str | None = None
    self._max_queue, self._closed = max_queue, False
    self._pools = {name: _Pool(slots, params, self.end_ids[name], decode, self.counts)
                   for name, (params, _) in models.items()}
    self._changed = threading.Condition()
    self._thread = threading.Thread(target=self._run, name='engine', daemon=True)
    self._thread.start()

  @property
  def models(self) -> list[str]:
    """Names of the models, the base's first."""
    return list(self._pools)

  @property
  def queued(self) -> int:
    """Requests that wait for slots."""
    return sum(len(pool.queue) for pool in self._pools.values())

  @property
  def running(self) -> int:
    """Slots that are taken, of all models."""
    return sum(pool.running for pool in self._pools.values())

  def submit(self, request: Request, sink: Callable[[Piece], None]) -> Ticket:
    """Takes a request; `sink` is called from the engine's thread, and must not wait.

    Raises QueueFull, Closed, or UserError for more samples than there are slots, or a prompt with
    which max_new_tokens do not fit.
    """
    size = len(request.ids) + request.sampling.max_new_tokens
    if request.samples > self.slots.slots:
      raise UserError(f'{request.samples} samples are more than the {self.slots.slots} slots')
    if size > self.slots.length:
      raise UserError(f'{len(request.ids)} tokens of the prompt and '
                      f'{request.sampling.max_new_tokens} new ones are {size}, and the context has '
                      f'{self.slots.length}')
    rows = self._pools[request.model].settings(request.sampling)
    ticket = Ticket(request, rows, sink, self._wake)
    with self._changed:
      if self.failure or self._closed:
        raise Closed(self.failure or 'the server is shutting down')
      if self.queued >= self._max_queue:
        raise QueueFull(f'{self._max_queue} requests wait already')
      self._pools[request.model].queue.append(ticket)
      self._changed.notify()
    return ticket

  def close(self) -> None:
    """Takes no more requests, and returns once those that were taken have ended."""
    with self._changed:
      self._closed = True
      self._changed.notify()
    self._thread.join()

  def _wake(self) -> None:
    with self._changed:
      self._changed.notify()

  def _run(self) -> None:
    try:
      while True:
        with self._changed:
          while not any(pool.busy for pool in self._pools.values()):
            if self._closed:
              return
            self._changed.wait()
        for pool in self._pools.values():
          if pool.busy:
            pool.turn()
    except Exception as error:   # of the device, such as too little memory: nothing can go on
      import traceback
      traceback.print_exc()
      with self._changed:
        self.failure = f'the engine has failed: {type(error).__name__}: {error}'
        for pool in self._pools.values():
          pool.abandon(self.failure)


class _Pool:
  """The slots of one model, and the requests that wait for them."""

  def __init__(self, slots: Slots, params: Any, end_ids: tuple[int, ...],
               decode: Callable[[list[int]], str], counts: Counts):
    self._slots, self._params, self._end_ids = slots, params, end_ids
    self._decode, self._counts = decode, counts
    self.queue: deque[Ticket] = deque()
    self._writing = None
    self._reading: tuple[Ticket, Row, list[np.ndarray]] | None = None
    self._taken: list[tuple[Ticket, Output] | None] = [None] * slots.slots
    self._sample = np.zeros(slots.slots, np.int32)
    self._held: list[Constraint | None] = []   # those that `_constraints` is made of
    self._constraints: ConstraintRows | None = None
    self._rows = SamplingRows(*(np.repeat(x, slots.slots, axis=0)
                                for x in self.settings(Sampling(max_new_tokens=1))))

  @property
  def busy(self) -> bool:
    """Whether there is anything to do."""
    return bool(self.queue or self._reading or any(self._taken))

  @property
  def running(self) -> int:
    """Slots that are taken."""
    return len(self._taken) - self._taken.count(None)

  def settings(self, sampling: Sampling) -> SamplingRows:
    """Those of one row; raises UserError for what the engine does not take."""
    end_ids = self._end_ids + (NO_ID,) * (END_IDS - len(self._end_ids))
    rows = sampling_rows([sampling], num_ids=self._slots.num_ids, end_ids=end_ids,
                         max_tokens=self._slots.length, width=WIDTH)
    if rows.bias_ids.shape[1] > WIDTH or rows.forced.shape[1] > WIDTH:
      raise UserError(f'logit_bias has more than {WIDTH} entries')
    return rows

  def turn(self) -> None:
    """Reads of the prompts that wait, then writes in every slot."""
    self._drop_cancelled()
    room = PARTS[-1] if any(self._taken) else np.inf
    while room > 0 and self._begin():
      room -= self._read()
    if any(self._taken):
      self._write()

  def abandon(self, reason: str) -> None:
    """Tells every request that it has failed."""
    reading = [self._reading[0]] if self._reading else []
    for ticket in {id(t): t for t in [
        *self.queue, *reading, *(taken[0] for taken in self._taken if taken)]}.values():
      for sample in range(ticket.request.samples):
        ticket.sink(Piece(sample, reason, finish=FAILED))
    self.queue.clear()
    self._reading, self._taken = None, [None] * len(self._taken)

  def _drop_cancelled(self) -> None:
    for ticket in [ticket for ticket in self.queue if ticket.cancelled]:
      self.queue.remove(ticket)
      self._say_cancelled(ticket, range(ticket.request.samples))
    if self._reading and self._reading[0].cancelled:
      self._say_cancelled(self._reading[0], range(self._reading[0].request.samples))
      self._reading = None
    for slot, taken in enumerate(self._taken):
      if taken and taken[0].cancelled:
        self._taken[slot] = None
        self._say_cancelled(taken[0], [self._sample[slot]])

  def _say_cancelled(self, ticket: Ticket, samples: Sequence[int]) -> None:
    for sample in samples:
      ticket.sink(Piece(int(sample), '', finish=CANCELLED))

  def _begin(self) -> bool:
    """Whether a prompt is being read; the next one begins when it has its slots."""
    if self._reading is None and self.queue and (
        self.queue[0].request.samples <= self._taken.count(None)):
      ticket = self.queue.popleft()
      batch = dict(ticket.request.batch)
      if self._writing is None:
        self._writing = self._slots.empty(self._params, batch)
      row = self._slots.start(self._params, batch)
      self._reading = ticket, row, self._slots.parts(ticket.request.ids)
    return self._reading is not None

  def _read(self) -> int:
    """Reads one part of a prompt, and takes the slots after the last; the number of its tokens."""
    ticket, row, (part, *rest) = self._reading
    row = self._slots.read(self._params, row, part)
    self._reading = ticket, row, rest
    if not rest:
      self._reading = None
      self._take(ticket, row)
    return len(part)

  def _take(self, ticket: Ticket, row: Row) -> None:
    request = ticket.request
    free = [slot for slot, taken in enumerate(self._taken) if taken is None][:request.samples]
    self._writing = self._slots.put(self._writing, row, request.ids, free)
    for sample, slot in enumerate(free):
      output = Output(sample, self._decode, request.sampling.stop, self._end_ids,
                      request.sampling.max_new_tokens, request.alternatives is not None)
      self._taken[slot], self._sample[slot] = (ticket, output), sample
      for whole, own in zip(self._rows, ticket.rows):
        whole[slot] = own[0]
    self._counts.prompt_tokens += len(request.ids)

  def _write(self) -> None:
    active = np.asarray([taken is not None for taken in self._taken])
    top = any(taken and taken[0].request.alternatives for taken in self._taken)
    self._writing, written = self._slots.write(
        self._params, self._writing, self._rows, self._sample, active, top,
        self._constraint_rows())
    self._counts.calls += 1
    for slot, taken in enumerate(self._taken):
      if taken is not None:
        self._hand_out(slot, *taken, written)

  def _constraint_rows(self) -> ConstraintRows | None:
    """Those of the slots, which are on the device for as long as they are the same."""
    held = [taken and taken[0].request.constraint for taken in self._taken]
    if not any(held):
      return None
    if [*map(id, held)] != [*map(id, self._held)]:
      self._held = held
      self._constraints = jax.device_put(constraint_rows(
          held, self._slots.vocab_size, least=1 << len(held).bit_length()))
    return self._constraints

  def _hand_out(self, slot: int, ticket: Ticket, output: Output, written) -> None:
    alternatives = ticket.request.alternatives or 0
    steps = np.flatnonzero(written.written[:, slot])
    tokens = [Token(int(written.tokens[t, slot]), float(written.logprobs[t, slot]),
                    tuple(zip(written.top_ids[t, slot, :alternatives].tolist(),
                              written.top_logprobs[t, slot, :alternatives].tolist())))
              for t in steps]
    self._counts.written_tokens += len(tokens)
    piece = output.push(tokens)
    if piece.finish is not None:
      self._taken[slot] = None
    if piece.text or piece.tokens or piece.finish is not None:
      ticket.sink(piece)

"""What a traced program keeps and holds at once: bytes read off a jaxpr, without compiling it.

A compiler does not store every intermediate value, and a reshape is another name for the same
bytes. What XLA stores is taken to be:

* results of products, loops, gathers, scatters, sorts and reductions, and what those but the
  reductions read;
* of the rest, elementwise, what two of these need: it is computed once. What only one needs is
  computed where it is needed (fused into it).

Accelerators compute what is elementwise anew for all that need it, products among them.
"""

import collections
from collections.abc import Iterable, Iterator
import math

_RENAMES = ('reshape', 'squeeze', 'expand_dims', 'name', 'copy')
_STORED = ('dot_general', 'ragged_dot', 'ragged_dot_general', 'scan', 'while', 'cond', 'gather',
           'scatter', 'scatter-add', 'sort', 'top_k', 'cumsum', 'concatenate',
           'pallas_call', 'dynamic_update_slice')
_UPDATES = ('scatter', 'scatter-add', 'dynamic_update_slice')   # in the place of what they read
_REDUCES = ('reduce', 'arg')
_LOOPS = {'scan': 'jaxpr', 'while': 'body_jaxpr'}


class Value:
  """A value of a program with its size in bytes; other names of it are the same object."""

  def __init__(self, var):
    self.shape, self.dtype = var.aval.shape, var.aval.dtype
    self.bytes = math.prod(self.shape) * getattr(self.dtype, 'itemsize', 4)


class Step:
  """An operation of a program: the equation behind it, and what it reads and makes.

  Attributes:
    operands: what it reads, None for a constant; `reads` are those that are not.
    stores: what it makes is stored.
    needs_stored: what it reads is stored, too.
  """

  def __init__(self, eqn, operands: list[Value | None], makes: list[Value]):
    self.eqn, self.operands, self.makes = eqn, operands, makes
    self.reads = [value for value in operands if value is not None]
    self.needs_stored = eqn.primitive.name in _STORED
    self.stores = self.needs_stored or eqn.primitive.name.startswith(_REDUCES)


class Program:
  """A jaxpr with its calls inlined and its renamings resolved.

  Attributes:
    steps: the operations, in order.
    inputs: a Value of each argument.
    outputs: the Value of each result, None for a constant.
  """

  def __init__(self, jaxpr):
    self.steps: list[Step] = []
    values = {v: Value(v) for v in (*jaxpr.invars, *jaxpr.constvars)}
    self.inputs = [values[v] for v in jaxpr.invars]
    self._walk(jaxpr, values)
    self.outputs = [self._value(v, values) for v in jaxpr.outvars]

  @staticmethod
  def _value(var, values) -> Value | None:
    return None if hasattr(var, 'val') else values[var]

  def _walk(self, jaxpr, values) -> None:
    for eqn in jaxpr.eqns:
      reads = [self._value(v, values) for v in eqn.invars]
      inner = _called(eqn)
      if inner is not None:
        own = dict(zip(inner.invars, (r or Value(v) for r, v in zip(reads, eqn.invars))))
        own |= {v: Value(v) for v in inner.constvars}
        self._walk(inner, own)
        values |= {v: self._value(o, own) or Value(v) for v, o in zip(eqn.outvars, inner.outvars)}
      elif _renames(eqn) and reads[0] is not None:
        values[eqn.outvars[0]] = reads[0]
      else:
        makes = [Value(v) for v in eqn.outvars]
        if eqn.primitive.name in _UPDATES and reads[0] is not None:
          makes = reads[:1]
        values |= zip(eqn.outvars, makes)
        self.steps.append(Step(eqn, reads, makes))


def _called(eqn):
  """The jaxpr that an equation calls once, such as that of an inner jit, or None."""
  if eqn.primitive.name in _STORED or eqn.primitive.name.startswith(_REDUCES):
    return None
  inner = eqn.params.get('jaxpr', eqn.params.get('call_jaxpr'))
  return getattr(inner, 'jaxpr', inner)


def _renames(eqn) -> bool:
  """Whether the result has the bytes of the first argument."""
  if eqn.primitive.name in _RENAMES:
    return True
  if eqn.primitive.name not in ('convert_element_type', 'broadcast_in_dim'):
    return False
  old, new = eqn.invars[0].aval, eqn.outvars[0].aval
  return old.dtype == new.dtype and math.prod(old.shape) == math.prod(new.shape)


def loops(jaxpr) -> Iterator:
  """The equations of its loops (scan and while), those in inner calls among them, in order."""
  return (step.eqn for step in Program(jaxpr).steps if step.eqn.primitive.name in _LOOPS)


def kept(jaxpr, outputs: Iterable[int], parameters: int) -> tuple[int, int]:
  """Bytes of the outputs of these indices, each value once and arguments not at all.

  An output of a scan that stacks what another stacks, under whatever shape, is the same value.

  Args:
    jaxpr: of a network.
    outputs: indices.
    parameters: so many arguments, the first ones, are the network's parameters.

  Returns:
    (bytes of what depends on other arguments, bytes of what parameters alone make).
  """
  program = Program(jaxpr)
  moving = _depending(program, program.inputs[parameters:])
  scans = {}   # output of a scan -> what it stacks
  for step in program.steps:
    if step.eqn.primitive.name == 'scan':
      body = Program(step.eqn.params['jaxpr'].jaxpr)
      inner = _depending(body, [i for i, o in zip(body.inputs, step.operands) if o in moving])
      moving -= {made for made, value in zip(step.makes, body.outputs) if value not in inner}
      scans |= {made: value for made, value in zip(step.makes, body.outputs) if value is not None}
  found = {scans.get(value, value): value for value in (program.outputs[i] for i in outputs)
           if value is not None and value not in program.inputs}
  total = sum(value.bytes for value in found.values())
  fixed = sum(value.bytes for value in found.values() if value not in moving)
  return total - fixed, fixed


def _depending(program: Program, on: Iterable[Value]) -> set[Value]:
  """The values that depend on some of these."""
  found = set(on)
  for step in program.steps:
    if not found.isdisjoint(step.reads):
      found.update(step.makes)
  return found


def peak(jaxpr, accelerator: bool = False) -> int:
  """Most bytes that a program holds at once besides its arguments, taken in the order written.

  Results count where they are made, for whoever reads them has room for them. An argument that is
  stored counts while it is read: the body of a loop takes a slice of each stacked array.

  Args:
    jaxpr: such as the body of a loop.
    accelerator: fuses as accelerators do; inner loops stand for kernels that keep their blocks on
      the chip.
  """
  program = Program(jaxpr)
  changes = [0] * (len(program.steps) + 1)
  for value, (first, last) in _stored(program, accelerator).items():
    changes[first] += value.bytes
    changes[last + 1] -= value.bytes
  held = most = 0
  for step, change in zip(program.steps, changes):
    held += change
    body = None if accelerator else _LOOPS.get(step.eqn.primitive.name)
    inner = peak(step.eqn.params[body].jaxpr) if body else 0
    most = max(most, held + inner)
  return most


def _stored(program: Program, accelerator: bool) -> dict[Value, tuple[int, int]]:
  """The values that are stored: the steps at which they are made (or first read) and last read."""
  places = collections.defaultdict(set)   # of the steps that store what they make out of a value
  whole = {value for value in program.outputs if value is not None}
  often = math.inf if accelerator else 1
  spans = {}
  for n, step in reversed(list(enumerate(program.steps))):
    reading = set()
    for value in step.makes:
      if step.stores or value in whole or len(places[value]) > often:
        spans[value] = n, max(places[value], default=n)
        reading.add(n)
      else:
        reading |= places[value]
    for value in step.reads:
      places[value] |= reading
      if step.needs_stored and not (accelerator and step.eqn.primitive.name == 'dot_general'):
        whole.add(value)
  spans |= {value: (min(places[value]), max(places[value])) for value in program.inputs
            if len(places[value]) > often or places[value] and value in whole}
  return spans

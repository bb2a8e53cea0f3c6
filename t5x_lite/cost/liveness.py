"""Memory of a traced program: bytes kept and peak bytes, from a jaxpr, without compilation.

A compiler does not store every intermediate value, and a reshape is another name for the same
bytes. XLA is assumed to store:

* the results of products, loops, gathers, scatters, sorts and reductions, and the operands of all
  of these but reductions;
* of elementwise results, those that two of these read. Those that one reads are fused into it.

Accelerators recompute elementwise results for every reader, products included.
"""

import collections
from collections.abc import Iterable, Iterator
import math

_RENAMES = ('reshape', 'squeeze', 'expand_dims', 'name', 'copy')
_STORED = ('dot_general', 'ragged_dot', 'ragged_dot_general', 'scan', 'while', 'cond', 'gather',
           'scatter', 'scatter-add', 'sort', 'top_k', 'cumsum', 'concatenate',
           'pallas_call', 'dynamic_update_slice')
_UPDATES = ('scatter', 'scatter-add', 'dynamic_update_slice')   # in place of their first operand
_REDUCES = ('reduce', 'arg')
_LOOPS = {'scan': 'jaxpr', 'while': 'body_jaxpr'}


class Value:
  """A value of a program with its size in bytes; aliases are the same object."""

  def __init__(self, var):
    self.shape, self.dtype = var.aval.shape, var.aval.dtype
    self.bytes = math.prod(self.shape) * getattr(self.dtype, 'itemsize', 4)


class Step:
  """An operation of a program: its equation, operands and results.

  Attributes:
    operands: its operands, None for a constant; `reads` are the others.
    makes: its results.
    stores: its results are stored.
    needs_stored: its operands are stored, too.
  """

  def __init__(self, eqn, operands: list[Value | None], makes: list[Value]):
    self.eqn, self.operands, self.makes = eqn, operands, makes
    self.reads = [value for value in operands if value is not None]
    self.needs_stored = eqn.primitive.name in _STORED
    self.stores = self.needs_stored or eqn.primitive.name.startswith(_REDUCES)


class Program:
  """A jaxpr with its calls inlined and its aliases resolved.

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
  """Whether the result is an alias of the first argument."""
  if eqn.primitive.name in _RENAMES:
    return True
  if eqn.primitive.name not in ('convert_element_type', 'broadcast_in_dim'):
    return False
  old, new = eqn.invars[0].aval, eqn.outvars[0].aval
  return old.dtype == new.dtype and math.prod(old.shape) == math.prod(new.shape)


def find_loops(jaxpr) -> Iterator:
  """The equations of its loops (scan and while), inner calls included, in order."""
  return (step.eqn for step in Program(jaxpr).steps if step.eqn.primitive.name in _LOOPS)


def kept_bytes(jaxpr, outputs: Iterable[int], parameters: int) -> tuple[int, int]:
  """Bytes of the outputs of these indices, without duplicates and arguments.

  Outputs of a scan that stack the same value, in any shape, are duplicates.

  Args:
    jaxpr: of a network.
    outputs: indices.
    parameters: number of leading arguments that are the network's parameters.

  Returns:
    (bytes that depend on other arguments, bytes that depend on parameters alone).
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
  """The values that depend on any of these."""
  found = set(on)
  for step in program.steps:
    if not found.isdisjoint(step.reads):
      found.update(step.makes)
  return found


def peak_bytes(jaxpr, accelerator: bool = False) -> int:
  """Peak bytes of a program besides its arguments, in the order of its equations.

  Results count from the step that makes them. A stored argument counts while it is read: the body
  of a loop has a slice of each stacked array.

  Args:
    jaxpr: such as the body of a loop.
    accelerator: fuse as accelerators do; inner loops are kernels that keep their blocks on chip.
  """
  program = Program(jaxpr)
  changes = [0] * (len(program.steps) + 1)
  for value, (first, last) in _stored(program, accelerator).items():
    changes[first] += value.bytes
    changes[last + 1] -= value.bytes
  held = highest = 0
  for step, change in zip(program.steps, changes):
    held += change
    body = None if accelerator else _LOOPS.get(step.eqn.primitive.name)
    inner = peak_bytes(step.eqn.params[body].jaxpr) if body else 0
    highest = max(highest, held + inner)
  return highest


def _stored(program: Program, accelerator: bool) -> dict[Value, tuple[int, int]]:
  """Stored value -> the steps at which it is made (or first read) and last read."""
  readers = collections.defaultdict(set)   # value -> steps with stored results that depend on it
  whole = {value for value in program.outputs if value is not None}
  often = math.inf if accelerator else 1
  spans = {}
  for n, step in reversed(list(enumerate(program.steps))):
    reading = set()
    for value in step.makes:
      if step.stores or value in whole or len(readers[value]) > often:
        spans[value] = n, max(readers[value], default=n)
        reading.add(n)
      else:
        reading |= readers[value]
    for value in step.reads:
      readers[value] |= reading
      if step.needs_stored and not (accelerator and step.eqn.primitive.name == 'dot_general'):
        whole.add(value)
  spans |= {value: (min(readers[value]), max(readers[value])) for value in program.inputs
            if len(readers[value]) > often or readers[value] and value in whole}
  return spans

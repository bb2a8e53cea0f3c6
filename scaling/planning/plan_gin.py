"""A plan as a gin experiment for `t5x-lite train`."""

import pathlib

from scaling.planning.planner import Plan
from scaling.planning.request import PRESETS
from t5x_lite.core.errors import UserError
from t5x_lite.core.paths import local_path

BYTE_IDS = 384
# The fields that a plan sets, in the order of ModelConfig.
_SHAPE = ('vocab_size', 'embed_dim', 'num_layers', 'num_heads', 'mlp_dim', 'num_decoder_layers',
          'num_kv_heads', 'head_dim', 'max_length', 'num_experts')
_HEAD = """\
from __gin__ import dynamic_registration
from t5x_lite import experiment
from t5x_lite import models
from t5x_lite.parallel import mesh
from tasks.pipeline import evaluator
"""


def format_gin(plan: Plan) -> str:
  """The gin file of the plan; MODEL_DIR is set at launch, and what `to_fill_in` names."""
  preset = PRESETS[plan.request.family]
  placed, config = plan.layout, plan.config
  parts = placed.mesh['data'] * placed.mesh['fsdp']
  lines = [*_comments(plan), _HEAD, f"include '{preset.config}'", "include 'runs/pretrain.gin'",
           "include 'hardware/accelerator.gin'", '', 'models.ModelConfig:']
  shape = {name: getattr(config, name) for name in _SHAPE}
  lines += [f'  {name} = {value!r}' for name, value in shape.items() if value is not None]
  if config.num_experts is not None:
    lines.append(f'  experts_per_token = {config.experts_per_token}')
  lines += [f'  {name}' .replace('=', ' = ', 1)
            for name in (b.partition('.')[2] for b in preset.bindings)]
  if config.dtype != 'bfloat16':
    lines.append(f'  dtype = {config.dtype!r}   # {plan.budget.chip.title} has no bfloat16')
  if config.remat != 'none':
    lines.append(f'  remat = {config.remat!r}')
  if not config.scan_layers:
    lines.append('  scan_layers = False')
  missing = to_fill_in(plan)
  task = '%gin.REQUIRED' if 'TASK' in missing else repr(plan.request.task)
  lines += ['', f'TASK = {task}']
  if 'VOCABULARY' in missing:
    lines.append(f'VOCABULARY = %gin.REQUIRED   # of at most {config.vocab_size:,} ids')
  inputs, targets = plan.lengths
  if inputs:
    lines.append(f'INPUTS_LENGTH = {inputs}')
  lines += [f'TARGETS_LENGTH = {targets or inputs}', f'BATCH_SIZE = {placed.rows}',
            f'STEPS = {plan.steps}', f'LEARNING_RATE = {plan.learning_rate!r}',
            f'WARMUP_STEPS = {plan.warmup_steps}']
  if placed.microbatches > 1:
    lines.append(f'experiment.TrainConfig.microbatches = {placed.microbatches}')
  # In evaluation, too, every device needs a row.
  lines += [f'evaluator.EvalConfig.batch_size = {parts * -(-32 // parts)}',
            'evaluator.EvalConfig.num_examples = 1024', '', 'mesh.MeshConfig:']
  lines += [f'  {axis} = {size}' for axis, size in placed.mesh.items()]
  if missing:
    flags = ' '.join(f'--gin.{name}={value}' for name, value in missing.items())
    lines += ['', f'# Fill in {" and ".join(missing)}, or launch it with {flags}']
  return '\n'.join(lines) + '\n'


def to_fill_in(plan: Plan) -> dict[str, str]:
  """The macros that the plan leaves open, and what each is: the data, and its tokenizer.

  A vocabulary of BYTE_IDS is that of the tasks on bytes, which need no file.
  """
  missing = {} if plan.request.task else {'TASK': 'NAME'}
  if plan.config.vocab_size != BYTE_IDS:
    missing['VOCABULARY'] = 'TOKENIZER'
  return missing


def _comments(plan: Plan) -> list[str]:
  """Model, hardware, cost, and expected loss."""
  budget = plan.budget
  cost = '' if plan.dollars is None else f', ${plan.dollars:,.0f} at ${budget.chip.price:g} an hour'
  expected = '' if plan.loss is None else f', expected loss {plan.loss:.3f} on the law\'s corpus'
  return [f'# {plan.total_parameters:,} parameters on {plan.tokens:,} tokens: {plan.flops:.3g} '
          'FLOPs.',
          f'# {budget.chips} x {budget.chip.title}, {plan.chip_hours / budget.chips:.4g} hours at '
          f'an MFU of {budget.mfu:.3g}{cost}.',
          f'# Law: {plan.prediction.law}{expected}. Batch and rate: {plan.request.recipe}.']


def write_gin(plan: Plan, path: str) -> pathlib.Path:
  """Writes the gin file of the plan; UserError if it exists or cannot be written."""
  target = local_path(path)
  try:
    with target.open('x', encoding='utf-8') as file:
      file.write(format_gin(plan))
  except FileExistsError as e:
    raise UserError(f'--output={path} exists: choose another name, or remove it') from e
  except OSError as e:
    raise UserError(f'--output={path}: {e.strerror}') from e
  return target

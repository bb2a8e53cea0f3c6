"""`t5x-lite evaluate harness`: the command line of lm-evaluation-harness, which knows runs.

Every task of the harness, and all its options: `--model t5x_lite --model_args run=RUN`.
"""

import argparse
import sys

from t5x_lite.core.errors import UserError

EXAMPLE = ('t5x-lite evaluate harness run --model=t5x_lite --model_args=run=runs/lm '
           '--tasks=arc_easy')


def add_flags(parser: argparse.ArgumentParser) -> None:
  parser.add_argument('arguments', nargs=argparse.REMAINDER, metavar='ARGUMENT',
                      help='of lm_eval, which must come first: run, ls or validate, and its flags')


def run(args: argparse.Namespace) -> int:
  register()
  from lm_eval.__main__ import cli_evaluate
  before, sys.argv = sys.argv, ['lm_eval', *args.arguments]
  try:
    cli_evaluate()
  finally:
    sys.argv = before
  return 0


def register() -> None:
  """Makes runs known to the harness as the model `t5x_lite`; UserError where it is missing."""
  try:
    from lm_eval.api.registry import MODEL_REGISTRY, register_model
  except ModuleNotFoundError as error:
    raise UserError("lm-evaluation-harness is missing: pip install -e '.[eval]'") from error
  from t5x_lite.evaluation.harness import HarnessModel

  class RunModel(HarnessModel):
    """A run, by the options of --model_args."""

    def __init__(self, run: str, batch_size: int | str = 32, max_length: int | None = None,
                 chat_template: str | None = None, max_batch_size: int | None = None,
                 device: str | None = None):
      model, chat = load_run(run, batch_size, max_length, chat_template)
      super().__init__(model, chat, name=run)

  if 't5x_lite' not in MODEL_REGISTRY:
    register_model('t5x_lite')(RunModel)


def load_run(run: str, batch_size: int | str = 32, max_length: int | None = None,
             chat_template: str | None = None):
  """(TextModel, Chat or None) of the folder of a run; batches of 32 where the size is 'auto'."""
  import dataclasses

  from t5x_lite.commands import infer
  from t5x_lite.commands.evaluate import load_text_model
  from t5x_lite.experiment import gin_config
  experiment = gin_config.load_run(run)
  if chat_template is not None:
    experiment = dataclasses.replace(experiment, infer=dataclasses.replace(
        experiment.infer, chat_template=chat_template))
  size = 32 if str(batch_size).startswith('auto') else int(batch_size)
  model, _ = load_text_model(experiment, batch_size=size, max_length=max_length)
  encodes = experiment.model.family == 'encoder_only'
  return model, None if encodes else infer.load_chat(experiment)

"""The flags of every command that reads gin files."""

import argparse


def add_flags(parser: argparse.ArgumentParser) -> None:
  """Adds `gin_file` and `bindings` ('NAME=VALUE'), lists in the order given."""
  parser.add_argument('--gin_file', action='append', default=[], metavar='FILE',
                      help='a gin file; may be given again')
  # `t5x_lite.cli` passes --gin.STEPS=100 as --gin.NAME=STEPS=100.
  parser.add_argument(
      '--gin.NAME', action='append', default=[], metavar='VALUE', dest='bindings',
      help='sets a macro (--gin.STEPS=100) or a field (--gin.ModelConfig.num_layers=2)')
  add_trusted_modules(parser)


def add_trusted_modules(parser: argparse.ArgumentParser) -> None:
  """Adds `trusted_modules`, those outside this project that gin files may import."""
  parser.add_argument(
      '--trusted_modules', action='extend', default=[], metavar='MODULES', type=_names,
      help='modules of your own, such as a,b, that gin files may import, with all they contain')


def _names(text: str) -> list[str]:
  return [name.strip() for name in text.split(',')]


def load_experiment(args: argparse.Namespace, *, trains: bool = True):
  """(experiment, its config as gin) of the flags; see gin_config.load_experiment."""
  from t5x_lite.experiment import gin_config
  return gin_config.load_experiment(
      args.gin_file, args.bindings, args.trusted_modules, trains=trains)


def load_described(args: argparse.Namespace, *, trains: bool = False):
  """The experiment to describe; see gin_config.load_described."""
  from t5x_lite.experiment import gin_config
  return gin_config.load_described(
      args.gin_file, args.bindings, args.trusted_modules, trains=trains)

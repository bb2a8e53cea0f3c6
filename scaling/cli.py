"""`t5x-lite scaling COMMAND`: from a compute budget to a launched run and back."""

import argparse
import importlib
import pkgutil

from scaling import commands


def main(argv: list[str]) -> int:
  """Runs one command; returns the exit status. Raises UserError for a user's mistake."""
  args = parser().parse_args(argv)
  return args.run(args)


def parser() -> argparse.ArgumentParser:
  """The parser of all commands. Their modules import what is heavy when they run."""
  top = argparse.ArgumentParser(
      prog='t5x-lite scaling',
      description='Plan runs from a compute budget, and fit scaling laws to runs.',
      epilog='example: t5x-lite scaling plan --flops=1e21')
  subparsers = top.add_subparsers(dest='command', required=True, metavar='COMMAND')
  for _, name, _ in sorted(pkgutil.iter_modules(commands.__path__)):
    module = importlib.import_module(f'scaling.commands.{name}')
    command = subparsers.add_parser(
        name, help=module.SUMMARY, description=module.SUMMARY[0].upper() + module.SUMMARY[1:] + '.',
        epilog=f'example: {module.EXAMPLE}', allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    module.add_flags(command)
    command.set_defaults(run=module.run)
  return top

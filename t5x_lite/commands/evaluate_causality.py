"""`t5x-lite evaluate causality`: whether a decoder reads tokens that it is to predict."""

import argparse

from t5x_lite.commands import gin_flags

EXAMPLE = 't5x-lite evaluate causality --gin_file=models/llama3_8b.gin'
_SHOWN = 10   # leaks that are printed


def add_flags(parser: argparse.ArgumentParser) -> None:
  gin_flags.add_flags(parser)


def run(args: argparse.Namespace) -> int:
  from t5x_lite.evaluation import causality
  config = gin_flags.load_described(args).model
  found = causality.check_config(config)
  tokens = f'{found.num_changed} tokens were changed one by one'
  if found.holds:
    print(f'causal: {tokens}, and no log-probability of an earlier target, or of another example '
          f'of the row, changed by more than {causality.TOLERANCE:g} nats (the architecture at '
          'tiny sizes, random parameters)')
    return 0
  if not found.leaks:
    print(f'not tested: {tokens}, and no log-probability changed at all')
  for leak in found.leaks[:_SHOWN]:
    print(leak)
  if len(found.leaks) > _SHOWN:
    print(f'and {len(found.leaks) - _SHOWN} more')
  return 1

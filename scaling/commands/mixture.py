"""`t5x-lite scaling mixture`: the shares of data of the lowest loss, by a swarm of proxies."""

import argparse
import math

from t5x_lite.core.errors import UserError
from t5x_lite.core.paths import local_path

EXAMPLE = ('t5x-lite scaling mixture swarm.csv --sources=web,code,books --losses=val_loss '
           '--natural=web=0.7,code=0.2,books=0.1')


def add_flags(parser: argparse.ArgumentParser) -> None:
  from scaling.planning.amounts import parse_amount, parse_count
  add = parser.add_argument
  add('swarm', nargs='?', metavar='CSV', type=local_path,
      help='a proxy run on each line: the share of each source, and its losses')
  add('--sources', required=True, metavar='COLUMN,…', help='the columns of the shares')
  add('--losses', default='loss', metavar='COLUMN[=WEIGHT],…',
      help='the columns of validation losses, whose weighted mean is minimised; default: loss')
  add('--natural', metavar='SOURCE=AMOUNT,…',
      help='natural shares, or tokens: to compare with, or to draw a swarm about')
  add('--limits', metavar='SOURCE=SHARE,…', help='the highest share of a source')
  add('--unique_tokens', metavar='SOURCE=TOKENS,…',
      help='that a source has: limits its share to --max_epochs of them in --tokens')
  add('--tokens', type=parse_amount, metavar='D', help='of the run that the mixture is for')
  add('--max_epochs', type=float, default=4.0, metavar='EPOCHS',
      help='over the unique tokens of a source (default 4)')
  add('--form', choices=('exponential', 'linear', 'quadratic'),
      help='of the loss; default: that of the least error on held-out proxies')
  add('--design', type=parse_count, metavar='COUNT',
      help='without CSV: print the shares of so many proxies to train, as CSV')
  add('--seed', type=int, default=0, help='of --design, folds and resamples (default 0)')
  add('--level', type=float, default=0.95, help='level of the intervals (default 0.95)')
  add('--bootstrap', type=int, default=200, metavar='COUNT', help='refits (default 200)')
  add('--json', action='store_true', help='print JSON')
  add('--output', type=local_path, metavar='FILE', help='write a picture there: .png, .pdf or .svg')


def run(args: argparse.Namespace) -> int:
  from scaling.commands import output
  from scaling.planning.amounts import check_level, check_seed
  check_level(args.level)
  check_seed(args.seed)
  output.check_picture(args.output)
  sources = _names('sources', args.sources)
  if len(sources) < 2:
    raise UserError(f'--sources={args.sources}: name two or more')
  natural, limits = _natural(args, sources), _limits(args, sources)
  if (args.design is None) == (args.swarm is None):
    raise UserError('pass the CSV file of a swarm to fit, or --design=COUNT to draw one')
  if args.design is not None:
    return _design(args, sources, natural, limits)
  return _fit(args, sources, natural, limits)


def _fit(args, sources, natural, limits) -> int:
  from scaling import figures
  from scaling.commands import output
  from scaling.fitting import mixture, mixture_optimum, mixture_report
  if args.bootstrap < 20:
    raise UserError(f'--bootstrap={args.bootstrap}: give 20 or more')
  swarm = mixture.read_swarm(args.swarm, sources, _losses(args.losses, sources))
  fit, held = mixture.fit_mixture(swarm, args.form, args.bootstrap, args.seed)
  found = mixture_optimum.find_optimum(fit, limits, natural, args.level)
  report = mixture_report.report_mixture(fit, held, found, limits, natural, args.level)
  output.print_warnings(mixture_report.list_warnings(report))
  if args.json:
    output.print_json(report)
  else:
    print(mixture_report.format_mixture(report))
  if args.output is not None:
    figures.save_figure(mixture_report.draw_mixture(report), args.output)
  return 0


def _design(args, sources, natural, limits) -> int:
  import numpy as np

  from scaling.fitting import mixture
  if args.design < 1:
    raise UserError(f'--design={args.design}: give the number of proxies')
  if natural is None:
    natural = np.full(len(sources), 1 / len(sources))
  drawn = mixture.draw_design(natural, args.design, limits, args.seed)
  print(','.join(sources))
  for row in drawn:
    print(','.join(f'{share:.6g}' for share in row))
  return 0


def _names(flag: str, text: str) -> list[str]:
  names = [name.strip() for name in text.split(',') if name.strip()]
  twice = [name for name in names if names.count(name) > 1]
  if twice:
    raise UserError(f'--{flag}={text}: {twice[0]} is named twice')
  return names


def _pairs(flag: str, text: str, known: list[str] | None, default: float | None = None
           ) -> dict[str, float]:
  """{name: number above or equal to 0} of 'a=1,b=2'."""
  from scaling.planning.amounts import AmountError, parse_amount
  found = {}
  for item in _names(flag, text):
    name, equals, value = (part.strip() for part in item.rpartition('='))
    if not equals and default is not None:
      name, value = item, str(default)
    try:
      found[name] = parse_amount(value)
    except AmountError as e:
      raise UserError(f'--{flag}={text}: {e}; give NAME=NUMBER,…') from None
    if known is not None and name not in known:
      raise UserError(f'--{flag}={text}: {name!r} is none of --sources ({", ".join(known)})')
    if not 0 <= found[name] < math.inf:
      raise UserError(f'--{flag}={text}: {found[name]:g}, expected a number of 0 or more')
  return found


def _losses(text: str, sources: list[str]) -> dict[str, float]:
  found = _pairs('losses', text, None, 1.0)
  both = next((name for name in found if name in sources), None)
  if both or not found or not sum(found.values()):
    raise UserError(f'--losses={text}: ' + (f'{both} is one of --sources' if both else
                                            'name columns, with weights above 0'))
  return {name: weight for name, weight in found.items() if weight}


def _natural(args, sources):
  """Shares [J] that sum to 1; None if not given."""
  import numpy as np
  if args.natural is None:
    return None
  found = _pairs('natural', args.natural, sources)
  missing = [name for name in sources if name not in found]
  if missing or not sum(found.values()):
    raise UserError(f'--natural={args.natural}: ' + (f'{missing[0]} is missing' if missing else
                                                     'the amounts are 0'))
  shares = np.array([found[name] for name in sources])
  return shares / shares.sum()


def _limits(args, sources):
  """The highest share [J] of each source."""
  import numpy as np
  if (args.unique_tokens is None) != (args.tokens is None):
    raise UserError('--unique_tokens limit the shares of a run of --tokens: pass both')
  if not 0 < args.max_epochs < math.inf:
    raise UserError(f'--max_epochs={args.max_epochs:g}: give a number above 0')
  if args.tokens is not None and not 0 < args.tokens < math.inf:
    raise UserError(f'--tokens={args.tokens:g}: give a number above 0')
  limits = _pairs('limits', args.limits, sources) if args.limits else {}
  unique = _pairs('unique_tokens', args.unique_tokens, sources) if args.unique_tokens else {}
  high = np.array([min(limits.get(name, 1.0), args.max_epochs * unique.get(name, math.inf)
                       / (args.tokens or 1.0), 1.0) for name in sources])
  if high.sum() < 1:
    raise UserError(f'the limits allow shares of {high.sum():.3g} in all, below 1: raise them, '
                    'add sources, or take fewer --tokens')
  return high

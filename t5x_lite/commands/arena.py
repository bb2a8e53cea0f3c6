"""`t5x-lite arena`: ratings and win rates of a log of pairwise comparisons."""

import argparse
import math

from t5x_lite.core.errors import UserError
from t5x_lite.core.paths import local_path

EXAMPLE = 't5x-lite arena judgements.jsonl'


def add_flags(parser: argparse.ArgumentParser) -> None:
  add = parser.add_argument
  add('log', metavar='LOG', type=local_path,
      help='JSON lines {"a": NAME, "b": NAME, "winner": "a", "b" or "tie"}, with "prompt" and '
           '"swapped" (b was shown first) where known')
  add('--prior', type=float, default=0.0, metavar='WINS',
      help='wins added to each side of each pair, so that ratings are finite; default: 0')
  add('--samples', type=int, default=500, help='of the bootstrap; default: 500')
  add('--elo_k', type=float, default=4.0, help='step of Elo ratings; default: 4')
  add('--json', action='store_true', help='print JSON')


def run(args: argparse.Namespace) -> int:
  from t5x_lite.core.strict_json import format_json
  from t5x_lite.evaluation import arena
  if args.samples < 1:
    raise UserError(f'--samples={args.samples}: name one at least')
  if not args.elo_k > 0:
    raise UserError(f'--elo_k={args.elo_k:g}: name a step above 0')
  comparisons = arena.read_comparisons(args.log)
  ratings = arena.rate(comparisons, args.prior, args.samples)
  names = list(ratings.points)
  wins = arena.win_matrix(comparisons, names)
  elo = arena.elo(comparisons, args.elo_k)
  bias = arena.position_bias(comparisons)
  if args.json:
    print(format_json({'comparisons': len(comparisons), 'bradley_terry': ratings, 'elo': elo,
                       'names': names, 'win_rates': arena.win_rates(wins),
                       'position_bias': bias._asdict()}, indent=1))
    return 0
  ties = sum(row.score == 0.5 for row in comparisons)
  print(f'{len(comparisons):,} comparisons of {len(names)}, {ties:,} ties, each half a win of both')
  print(_ratings(ratings, elo, wins.sum(axis=1), (wins + wins.T).sum(axis=1), names))
  print(f'Bradley-Terry: maximum likelihood{_prior(args.prior)}, 400 points are odds of 10, mean '
        f'1000; intervals of 95 % over {ratings.samples:,} bootstrap samples of {ratings.unit}.')
  if ratings.samples < args.samples:
    print(f'{args.samples - ratings.samples:,} samples have no finite rating and are left out: '
          'pass --prior=0.5, or compare more')
  print(f'Elo: K {args.elo_k:g}, scale 400, base 10, from 1000, in the order of the lines.\n')
  print(_rates(arena.win_rates(wins), names))
  if bias.number:
    print(f'\nPosition: the side shown first scores {100 * bias.first:.1f} % of {bias.number:,} '
          'comparisons' + ('' if not bias.pairs else
                           f'; {100 * bias.consistent:.1f} % of {bias.pairs:,} pairs have the '
                           'same verdict in both orders'))
  return 0


def _prior(prior: float) -> str:
  return f' with {prior:g} wins added to each side of each pair' if prior else ''


def _ratings(ratings, elo, wins, games, names) -> str:
  width = max(5, *map(len, names))
  lines = [f'{"":<{width}}  {"BT":>6}  {"interval":>14}  {"Elo":>6}  {"wins":>7}  games']
  for i, name in enumerate(names):
    low, high = ratings.intervals[name]
    lines.append(f'{name:<{width}}  {ratings.points[name]:>6.0f}  {low:>6.0f} –{high:>6.0f}  '
                 f'{elo[name]:>6.0f}  {100 * wins[i] / games[i]:>5.1f} %  {games[i]:>5.0f}')
  return '\n'.join(lines)


def _rates(rates, names) -> str:
  """Percent that the name of a row wins against that of a column."""
  width = max(7, *map(len, names))
  show = lambda x: '-' if math.isnan(x) else f'{100 * x:.0f} %'
  lines = [f'{"wins of":<{width}}  ' + '  '.join(f'{name:>{width}}' for name in names)]
  lines += [f'{name:<{width}}  ' + '  '.join(f'{show(x):>{width}}' for x in row)
            for name, row in zip(names, rates)]
  return '\n'.join(lines)

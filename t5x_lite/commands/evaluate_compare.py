"""`t5x-lite evaluate compare`: are two models apart on the same items?"""

import argparse
import dataclasses
import pathlib

from t5x_lite.core.errors import UserError
from t5x_lite.core.paths import local_path

EXAMPLE = 't5x-lite evaluate compare runs/lm runs/tuned'


def add_flags(parser: argparse.ArgumentParser) -> None:
  add = parser.add_argument
  what = 'the JSON file of a result, or the folder of a run: all tasks that both have'
  add('a', metavar='A', type=local_path, help=what)
  add('b', metavar='B', type=local_path, help='the other, of the same kind')
  add('--metric', help="of the items; default: each task's headline metric")
  add('--seeds_a', nargs='+', metavar='RUN', type=local_path, default=[],
      help='more runs of A, with other seeds: the noise of seeds is shown beside the difference')
  add('--seeds_b', nargs='+', metavar='RUN', type=local_path, default=[], help='more runs of B')
  add('--items', action='store_true',
      help='take items as independent, those of one group too, such as a subject of MMLU')
  add('--json', action='store_true', help='print JSON')


def run(args: argparse.Namespace) -> int:
  from t5x_lite.core.strict_json import format_json
  from t5x_lite.evaluation.paired_items import matching_results
  names = names_of(args.a, args.b)
  found = [_compare(args, *paths, names) for paths in matching_results(args.a, args.b)]
  if args.json:
    print(format_json(found, indent=1))
  else:
    print('\n\n'.join(_text(report, names) for report in found))
  return 0


def names_of(*paths: pathlib.Path) -> list[str]:
  """Of the two runs; of two results of one run, of the files."""
  from t5x_lite.training.plots import display_names
  runs = [path.parents[1] if path.parent.name == 'evaluations' else path
          for path in (path.resolve() for path in paths)]
  return display_names(runs if runs[0] != runs[1] else [path.with_suffix('') for path in paths])


def _compare(args: argparse.Namespace, path_a: pathlib.Path, path_b: pathlib.Path,
             names: list[str]) -> dict:
  """The report of one task, as a dict of plain values."""
  from t5x_lite.evaluation.comparison import compare, seed_noise
  from t5x_lite.evaluation.leaderboard import is_fraction
  from t5x_lite.evaluation.paired_items import pair_items
  from t5x_lite.evaluation.results import read_result
  pairs = pair_items(path_a, path_b, args.metric)
  result = compare(pairs.a, pairs.b, None if args.items else pairs.groups)
  scale = 100.0 if is_fraction(pairs.metric) else 1.0
  task = read_result(path_a)
  report = {'task': task.task, 'shots': task.shots, 'metric': pairs.metric, 'scale': scale,
            'notes': pairs.notes, **dataclasses.asdict(result), 'difference': result.difference,
            'differ': result.differ, 'verdict': result.verdict(*names, scale)}
  if args.seeds_a or args.seeds_b:
    values = [[_value(path, pairs.metric)] + [
        _value(_same_task(run, path), pairs.metric) for run in more]
        for path, more in ((path_a, args.seeds_a), (path_b, args.seeds_b))]
    noise = seed_noise(*values)
    report['seeds'] = dataclasses.asdict(noise) | {'verdict': noise.verdict(*names, scale)}
  return report


def _same_task(run: pathlib.Path, path: pathlib.Path) -> pathlib.Path:
  """The result of a run, a folder or a file, of the task of another result."""
  from t5x_lite.evaluation.paired_items import newest_results
  from t5x_lite.evaluation.results import read_result
  result = read_result(path)
  if not run.is_dir():
    other = read_result(run)
    if (other.task, other.shots) != (result.task, result.shots):
      raise UserError(f'{run} is of {other.task} {other.shots}-shot, {path} of {result.task} '
                      f'{result.shots}-shot: name runs of one task')
    return run
  found = newest_results(run)
  if (result.task, result.shots) not in found:
    raise UserError(f'{run} has no result of {result.task} {result.shots}-shot: evaluate it')
  return found[result.task, result.shots]


def _value(path: pathlib.Path, metric: str) -> float:
  from t5x_lite.core.dataclass_checks import nearest
  from t5x_lite.evaluation.results import read_result
  metrics = read_result(path).metrics
  if metric not in metrics:
    raise UserError(f'{path} has no metric {metric!r}; {nearest(metric, metrics)}')
  return metrics[metric].value


def _text(report: dict, names: list[str]) -> str:
  scale, unit = report['scale'], ' %' if report['scale'] == 100 else ''
  ends = lambda interval: ' to '.join(f'{scale * end:+.2f}' for end in interval)
  clusters = ('items taken as independent' if report['clusters'] is None else
              f'clustered by {report["clusters"]} groups')
  lines = [f'{report["task"]}, {report["shots"]}-shot, {report["metric"]}, '
           f'{report["number"]:,} items']
  width = max(12, *map(len, names))
  rows = [(names[0], f'{scale * report["mean_a"]:.2f}{unit}'),
          (names[1], f'{scale * report["mean_b"]:.2f}{unit}'),
          ('difference', f'{scale * report["difference"]:+.2f} ± {scale * report["error"]:.2f}, '
           f'standard error, {clusters}'),
          ('95 % by t', f'{ends(report["interval"])}, p = {report["p_value"]:.2g}'),
          ('bootstrap', ends(report['bootstrap'])),
          ('items apart', f'{report["wins"]:,} higher for {names[0]}, {report["losses"]:,} for '
           f'{names[1]}')]
  if report['mcnemar'] is not None:
    rows.append(('McNemar', f'p = {report["mcnemar"]:.2g}, exact, of independent items'))
  lines += [f'  {name:<{width}}  {text}' for name, text in rows]
  lines += [report['verdict']] + ([report['seeds']['verdict']] if 'seeds' in report else [])
  return '\n'.join(lines + [f'note: {text}' for text in report['notes']])

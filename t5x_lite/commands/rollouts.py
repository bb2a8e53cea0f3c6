"""`t5x-lite rollouts`: what a policy wrote while it was trained, as a page."""

import argparse

from t5x_lite.core.files import check_writable, write_text
from t5x_lite.core.paths import local_path

EXAMPLE = 't5x-lite rollouts runs/grpo --output=rollouts.html'


def add_flags(parser: argparse.ArgumentParser) -> None:
  add = parser.add_argument
  add('run', metavar='RUN', type=local_path, help='the folder of a run on rollouts')
  add('--output', metavar='FILE', type=local_path,
      help='the page; default: rollouts.html in the run')


def run(args: argparse.Namespace) -> int:
  from t5x_lite.evaluation import rollout_page
  from t5x_lite.training.run_folder import RunFolder
  folder = RunFolder(args.run)
  records = rollout_page.read_rollouts(folder.rollouts)
  output = args.output or folder.path / 'rollouts.html'
  check_writable(output)
  write_text(output, rollout_page.render_page(folder.path.resolve().name, records))
  rows = rollout_page.summarize(records)
  for row in (rows[0], rows[-1]):
    values = '  '.join(f'{name} {row[name]:.4g}' for name in (
        'reward', 'kl', 'tokens', 'ended', 'faults') if name in row)
    print(f'rollout {row["rollout"]}  {values}')
  print(f'{len(records)} completions of {len(rows)} rollouts: {output}')
  return 0

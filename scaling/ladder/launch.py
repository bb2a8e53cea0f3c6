"""Launches the runs of a ladder, here or under SLURM, and reads their losses."""

from collections.abc import Callable, Iterable
import concurrent.futures
import csv
import json
import pathlib
import shlex
import subprocess
import sys

from scaling.ladder import design as ladders
from scaling.ladder.design import Ladder, Run
from t5x_lite.core.errors import UserError
from t5x_lite.core.files import write_text
from t5x_lite.training.run_folder import RunFolder

RESULTS = 'ladder.csv'
COLUMNS = ('name', 'parameters', 'tokens', 'flops', 'loss', 'exact_flops', 'learning_rate',
           'embed_dim', 'num_layers')


def train_command(folder: pathlib.Path, run: Run) -> list[str]:
  """The words of the command that trains or resumes a run."""
  return [sys.executable, '-m', 't5x_lite', 'train',
          f'--gin_file={ladders.gin_path(folder, run.name)}',
          f'--gin.MODEL_DIR={ladders.run_folder(folder, run.name)}']


def split_waves(runs: Iterable[Run]) -> tuple[list[Run], list[Run]]:
  """(runs that start from scratch, runs that branch off them)."""
  runs = list(runs)
  return [r for r in runs if r.branches_off is None], [r for r in runs if r.branches_off]


def train_runs(folder: pathlib.Path, runs: Iterable[Run], jobs: int = 1,
               log_line: Callable[[str], None] = print) -> None:
  """Trains the unfinished runs, `jobs` at a time; each logs to a file.

  Raises UserError with the names of failed runs, after all others have ended.
  """
  (folder / 'logs').mkdir(parents=True, exist_ok=True)
  failed = []

  def one(run: Run) -> None:
    log = folder / 'logs' / f'{run.name}.log'
    log_line(f'{run.name}: training, {log}')
    with open(log, 'a') as out:
      status = subprocess.run(train_command(folder, run), stdout=out, stderr=subprocess.STDOUT,
                              check=False).returncode
    loss = read_final_loss(folder, run)
    if status or loss is None:
      failed.append(run.name)
      last = (log.read_text().strip().splitlines() or ['no output'])[-1]
      log_line(f'{run.name}: failed with status {status}: {last}')
    else:
      log_line(f'{run.name}: loss {loss:.4f}')

  with concurrent.futures.ThreadPoolExecutor(jobs) as pool:
    for wave in split_waves(runs):
      wave = [run for run in wave if read_final_loss(folder, run) is None
              and (run.branches_off is None or run.branches_off[0] not in failed)]
      list(pool.map(one, wave))
  if failed:
    raise UserError(f'{len(failed)} of the runs failed ({", ".join(failed)}): see '
                    f'{folder / "logs"} and run the same command again, which resumes them')


def read_final_loss(folder: pathlib.Path, run: Run) -> float | None:
  """Validation loss after the run's last step, in nats a token; None if it is not finished.

  Raises UserError unless the run was evaluated on one task with a loss.
  """
  run_folder = RunFolder(ladders.run_folder(folder, run.name))
  evaluation = run_folder.evaluation_at(run.steps)
  if not evaluation:
    return None
  losses = {name: value for name, value in evaluation.items() if name.endswith('/loss')}
  if len(losses) != 1:
    raise UserError(f'{run_folder.metrics}: expected one validation loss at step {run.steps}, '
                    f'found {sorted(losses) or "none"}: use a task with the metrics of a language '
                    'model')
  return next(iter(losses.values()))


def write_results(ladder: Ladder, folder: pathlib.Path) -> pathlib.Path:
  """Writes ladder.csv; UserError if a run is not finished."""
  missing = [run.name for run in ladder.runs if read_final_loss(folder, run) is None]
  if missing:
    raise UserError(f'{len(missing)} of {len(ladder.runs)} runs are not finished ({missing[0]}, …)'
                    f': t5x-lite scaling ladder run --folder={folder}')
  path = folder / RESULTS
  with open(path, 'w', newline='') as out:
    writer = csv.DictWriter(out, COLUMNS)
    writer.writeheader()
    for run in ladder.runs:
      writer.writerow(_row(folder, run))
  return path


def _row(folder: pathlib.Path, run: Run) -> dict[str, object]:
  """The run's row of ladder.csv."""
  from t5x_lite.experiment import gin_config

  config = RunFolder(ladders.run_folder(folder, run.name)).config
  experiment, _ = gin_config.load_experiment([str(config)])
  values = {**vars(run), 'loss': round(read_final_loss(folder, run), 6),
            'embed_dim': experiment.model.embed_dim, 'num_layers': experiment.model.num_layers}
  return {name: values[name] for name in COLUMNS}


def write_slurm(ladder: Ladder, folder: pathlib.Path) -> pathlib.Path:
  """Writes a script that submits the runs as array jobs, one a wave; returns its path.

  All runs of a wave may run at once; the environment variable LIMIT is how many at most.
  """
  lines = ['#!/bin/bash', '# Submits the ladder to SLURM; arguments are options of sbatch.',
           '# LIMIT=8 in the environment runs at most 8 at a time.',
           'set -euo pipefail', f'cd {shlex.quote(str(pathlib.Path.cwd()))}', 'after=']
  for number, wave in enumerate(split_waves(ladder.runs)):
    if not wave:
      continue
    commands = folder / f'wave{number}.txt'
    commands.write_text(''.join(shlex.join(train_command(folder, run)) + '\n' for run in wave))
    task = f'eval "$(sed -n "$((SLURM_ARRAY_TASK_ID + 1))p" {shlex.quote(str(commands))})"'
    lines.append(f'job=$(sbatch --parsable $after "$@" '
                 f'--array=0-{len(wave) - 1}${{LIMIT:+%$LIMIT}} '
                 f'--output={shlex.quote(str(folder / "logs" / "%A_%a.log"))} '
                 f'--wrap={shlex.quote(task)})')
    lines += ['echo "submitted $job"', 'after=--dependency=afterok:$job']
  path = folder / 'slurm.sh'
  (folder / 'logs').mkdir(exist_ok=True)
  path.write_text('\n'.join(lines) + '\n')
  path.chmod(0o755)
  return path


def save_json(path: pathlib.Path, value: object) -> None:
  """Writes a JSON file atomically."""
  write_text(path, json.dumps(value, indent=1) + '\n')

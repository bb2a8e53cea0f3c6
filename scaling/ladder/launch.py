"""Launches the runs of a ladder, here or under SLURM, and reads their losses."""

from collections.abc import Callable, Collection, Iterable
import concurrent.futures
import csv
import dataclasses
import io
import pathlib
import shlex
import subprocess
import sys

from scaling.ladder import manifest
from scaling.ladder.manifest import Ladder, Run
from t5x_lite.core.errors import UserError
from t5x_lite.core.files import write_text
from t5x_lite.training.checkpoints import Checkpoints
from t5x_lite.training.run_folder import RunFolder

RESULTS = 'ladder.csv'
COLUMNS = ('name', 'parameters', 'tokens', 'flops', 'loss', 'exact_flops', 'learning_rate',
           'embed_dim', 'num_layers', 'trunk', 'seed')
_LEAVE_OUT = 'or leave it out of the fit with --leave_out={name}'


@dataclasses.dataclass(frozen=True)
class Outcome:
  """The loss of a run, or why it will have none, with the cure; neither while it is unfinished."""
  loss: float | None = None
  problem: str | None = None


def train_command(folder: pathlib.Path, run: Run) -> list[str]:
  """The words of the command that trains or resumes a run."""
  return [sys.executable, '-m', 't5x_lite', 'train',
          f'--gin_file={manifest.gin_path(folder, run.name)}',
          f'--gin.MODEL_DIR={manifest.run_folder(folder, run.name)}']


def split_waves(runs: Iterable[Run]) -> tuple[list[Run], list[Run]]:
  """(runs that start from scratch, runs that branch off them)."""
  runs = list(runs)
  return [r for r in runs if r.branches_off is None], [r for r in runs if r.branches_off]


def train_runs(ladder: Ladder, folder: pathlib.Path, runs: Iterable[Run], jobs: int = 1,
               log_line: Callable[[str], None] = print) -> None:
  """Trains the unfinished runs, `jobs` at a time; each logs to a file.

  A run that was killed is resumed, and evaluated if only that is missing. A branch whose trunk has
  lost the checkpoint is trained from step 0, to the same result.

  Raises UserError with the names of failed runs and the cure, after all others have ended.
  """
  (folder / 'logs').mkdir(parents=True, exist_ok=True)
  failed = {}

  def one(run: Run) -> None:
    outcome = read_outcome(folder, run)
    if outcome.loss is None and outcome.problem is None:
      outcome = _train(ladder, folder, run, log_line)
    if outcome.problem:
      failed[run.name] = outcome.problem
      log_line(f'{run.name}: failed: {outcome.problem}')

  with concurrent.futures.ThreadPoolExecutor(jobs) as pool:
    for wave in split_waves(runs):
      list(pool.map(one, wave))
  if failed:
    raise UserError(f'{len(failed)} of the runs failed: ' + '; '.join(
        f'{name}: {problem}' for name, problem in failed.items())
                    + f' (output in {folder / "logs"}). The same command resumes the others')


def _train(ladder: Ladder, folder: pathlib.Path, run: Run,
           log_line: Callable[[str], None]) -> Outcome:
  """Runs one training process; its outcome has a loss or a problem."""
  leave_out = _LEAVE_OUT.format(name=run.name)
  if run.branches_off and not (_has_checkpoint(folder, run.name)
                               or _has_checkpoint(folder, *run.branches_off)):
    trunk, step = run.branches_off
    if read_outcome(folder, _named(ladder, trunk)) == Outcome():
      return Outcome(problem=f'not started, as {trunk} has not reached step {step}, where it '
                     'branches off')
    log_line(f'{run.name}: {trunk} has no checkpoint of step {step} any more: trained from step 0, '
             'to the same result')
    run = dataclasses.replace(run, branches_off=None)
  manifest.write_gin_files(ladder, [run], folder)   # the folder may have been moved
  log = folder / 'logs' / f'{run.name}.log'
  log_line(f'{run.name}: training, {log}')
  with open(log, 'a') as out:
    status = subprocess.run(train_command(folder, run), stdout=out, stderr=subprocess.STDOUT,
                            check=False).returncode
  outcome = read_outcome(folder, run)
  if status or outcome == Outcome():
    last = (log.read_text(errors='replace').strip().splitlines() or ['no output'])[-1]
    return Outcome(problem=f'status {status}, {last.removeprefix("error: ")[:300]}; mend that and '
                   f'run the same command again, {leave_out}')
  if outcome.loss is not None:
    log_line(f'{run.name}: loss {outcome.loss:.4f}')
  return outcome


def _has_checkpoint(folder: pathlib.Path, name: str, step: int | None = None) -> bool:
  """Whether a run has the checkpoint of a step, or any."""
  steps = Checkpoints(manifest.run_folder(folder, name)).steps()
  return bool(steps) if step is None else step in steps


def _named(ladder: Ladder, name: str) -> Run:
  return next(run for run in ladder.runs if run.name == name)


def read_outcome(folder: pathlib.Path, run: Run) -> Outcome:
  """The validation loss after the run's last step, in nats a token, or why there is none."""
  run_folder = RunFolder(manifest.run_folder(folder, run.name))
  evaluation = run_folder.evaluation_at(run.steps)
  if not evaluation:
    return Outcome()
  losses = {name: value for name, value in evaluation.items() if name.endswith('/loss')}
  if len(losses) != 1:
    return Outcome(problem=f'{run_folder.metrics} has {len(losses)} validation losses at step '
                   f'{run.steps} ({", ".join(sorted(losses)) or "none"}), expected one: use a task '
                   'with the metrics of a language model')
  loss = next(iter(losses.values()))
  if loss is None or not loss > 0:
    return Outcome(problem=f'its final loss is {"not finite" if loss is None else loss}: remove '
                   f'{run_folder.path} to train it again (with a lower rate, in a ladder of its '
                   f'own), {_LEAVE_OUT.format(name=run.name)}')
  return Outcome(loss)


def kept_runs(ladder: Ladder, leave_out: Collection[str]) -> tuple[Run, ...]:
  """The runs but those named; UserError for a name that is none of them."""
  names = [run.name for run in ladder.runs]
  for name in leave_out:
    if name not in names:
      raise UserError(f'--leave_out={name}: not a run of this ladder; they are '
                      + ', '.join(names))
  return tuple(run for run in ladder.runs if run.name not in leave_out)


def write_results(ladder: Ladder, folder: pathlib.Path, leave_out: Collection[str] = ()
                  ) -> pathlib.Path:
  """Writes ladder.csv, without the runs to leave out; UserError if another is not finished."""
  runs = kept_runs(ladder, leave_out)
  outcomes = {run.name: read_outcome(folder, run) for run in runs}
  for name, outcome in outcomes.items():
    if outcome.problem:
      raise UserError(f'{name}: {outcome.problem}')
  missing = [name for name, outcome in outcomes.items() if outcome.loss is None]
  if missing:
    raise UserError(f'{len(missing)} of {len(runs)} runs are not finished '
                    f'({", ".join(missing[:4])}{", …" if len(missing) > 4 else ""}): t5x-lite '
                    f'scaling ladder run --folder={folder}, or pass --leave_out=NAME')
  text = io.StringIO()
  csv.writer(text, lineterminator='\n').writerows(
      [COLUMNS, *(_row(folder, run, outcomes[run.name].loss) for run in runs)])
  write_text(folder / RESULTS, text.getvalue())
  return folder / RESULTS


def _row(folder: pathlib.Path, run: Run, loss: float) -> list[object]:
  """The run's row of ladder.csv."""
  from t5x_lite.experiment import gin_config

  config = RunFolder(manifest.run_folder(folder, run.name)).config
  model = gin_config.load_experiment([str(config)])[0].model
  values = {**vars(run), 'loss': round(loss, 6), 'trunk': run.trunk,
            'embed_dim': model.embed_dim, 'num_layers': model.num_layers}
  return [values[name] for name in COLUMNS]


def write_slurm(ladder: Ladder, folder: pathlib.Path) -> pathlib.Path:
  """Writes a script that submits the runs as array jobs, one a wave; returns its path.

  All runs of a wave may run at once; the environment variable LIMIT is how many at most. The second
  wave starts when the first has ended, also where a run of it has failed.
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
    lines += ['echo "submitted $job"', 'after=--dependency=afterany:$job']
  path = folder / 'slurm.sh'
  (folder / 'logs').mkdir(exist_ok=True)
  path.write_text('\n'.join(lines) + '\n')
  path.chmod(0o755)
  return path

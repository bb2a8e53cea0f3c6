"""What a fine-tuning took: scores and calibration on the same items, before and after."""

from collections.abc import Sequence
import pathlib
from typing import NamedTuple

from t5x_lite.core.errors import UserError
from t5x_lite.evaluation.calibration import Calibration, choice_scores, measure
from t5x_lite.evaluation.comparison import PairedDifference, compare
from t5x_lite.evaluation.leaderboard import is_fraction
from t5x_lite.evaluation.paired_items import matching_results, pair_items
from t5x_lite.evaluation.results import read_result


class TaxRow(NamedTuple):
  """A task of both models.

  Attributes:
    task, shots, metric: what is compared.
    change: after less before, on the items that both have.
    calibrations: (before, after); None of a task that is no multiple choice with one right answer.
    notes: what a reader has to know, as of paired_items.PairedItems.
  """
  task: str
  shots: int
  metric: str
  change: PairedDifference
  calibrations: tuple[Calibration, Calibration] | None
  notes: tuple[str, ...] = ()

  @property
  def scale(self) -> float:
    """100 of a metric that is shown in percent."""
    return 100.0 if is_fraction(self.metric) else 1.0


def alignment_tax(before: pathlib.Path, after: pathlib.Path) -> list[TaxRow]:
  """A row of each task and number of shots that two folders of runs, or two results, share.

  Raises UserError as paired_items.matching_results and pair_items.
  """
  rows = []
  for path_before, path_after in matching_results(before, after):
    pairs = pair_items(path_after, path_before)
    result = read_result(path_after)
    rows.append(TaxRow(result.task, result.shots, pairs.metric,
                       compare(pairs.a, pairs.b, pairs.groups),
                       _calibrations(path_before, path_after), pairs.notes))
  return sorted(rows, key=lambda row: (row.task, row.shots))


def _calibrations(*paths: pathlib.Path) -> tuple[Calibration, Calibration] | None:
  try:
    return tuple(measure(choice_scores(path)) for path in paths)
  except UserError:   # of a task that is measured otherwise
    return None


def as_markdown(rows: Sequence[TaxRow], names: tuple[str, str]) -> str:
  """A table: score before, after and their difference with its 95 % interval; ECE (15 bins of equal
  width), Brier score and negative log-likelihood before → after."""
  before, after = names
  lines = [f'| task | shots | metric | {before} | {after} | change, 95 % | told apart '
           '| ECE | Brier | NLL |', '|---|--:|---|--:|--:|--:|---|--:|--:|--:|']
  for row in rows:
    change, scale = row.change, row.scale
    ends = ' to '.join(f'{scale * end:+.1f}' for end in change.interval)
    cells = [row.task, str(row.shots), row.metric, f'{scale * change.mean_b:.1f}',
             f'{scale * change.mean_a:.1f}', f'{scale * change.difference:+.1f} ({ends})',
             f'p = {change.decisive_p:.2g}' if change.differ else 'no']
    if row.calibrations:
      cells += [f'{getattr(row.calibrations[0], name):.3f} → '
                f'{getattr(row.calibrations[1], name):.3f}' for name in ('ece', 'brier', 'nll')]
    else:
      cells += ['', '', '']
    lines.append('| ' + ' | '.join(cells) + ' |')
  return '\n'.join(lines)

"""Several systems on the same dialogues: a table, who is apart from whom, and a picture."""

from collections.abc import Mapping
import dataclasses
import pathlib

from t5x_lite.core.files import save_figure
from t5x_lite.dialogue.scoring.predictions import Reference
from t5x_lite.dialogue.scoring.report import (
  Figure,
  Predictions,
  Report,
  dialogue_sums,
  differences,
  score,
)
from t5x_lite.evaluation.comparison import compare

COLUMNS = ('inform', 'success', 'bleu', 'combined')


@dataclasses.dataclass(frozen=True)
class Comparison:
  """Of systems.

  Attributes:
    reports: by system.
    differences: {system: {figure: of it less that of the one it is compared with}}.
    verdicts: {system: sentences on Inform and Success}.
    against: the system that the others are compared with.
  """
  reports: Mapping[str, Report]
  differences: Mapping[str, Mapping[str, Figure]]
  verdicts: Mapping[str, tuple[str, ...]]
  against: str


def compare_systems(predictions: Mapping[str, Predictions], reference: Reference, against: str
                    ) -> Comparison:
  """Scores systems on the same dialogues, and compares all with one of them."""
  reports = {name: score(found, reference) for name, found in predictions.items()}
  sums = {name: dialogue_sums(found, reference) for name, found in predictions.items()}
  others = [name for name in predictions if name != against]
  own = lambda name, kind: [one[f'{kind} total'] for one in sums[name].values()]
  return Comparison(
      reports, {name: differences(sums[name], sums[against]) for name in others},
      {name: tuple(f'{kind}: ' + compare(own(name, kind), own(against, kind)).verdict(name, against)
                   for kind in ('inform', 'success')) for name in others}, against)


def as_markdown(found: Comparison, perplexities: Mapping[str, float]) -> str:
  """A table of systems with 95 % intervals, and of their differences.

  Args:
    found: what is told.
    perplexities: of a token of the responses, of the systems that have one.
  """
  columns = [name for name in COLUMNS
             if all(name in report.figures for report in found.reports.values())]
  heads = [*map(_head, columns), 'words', 'perplexity']
  lines = [_row('system', *heads), _row(*['---'] * (len(heads) + 1))]
  for name, report in found.reports.items():
    perplexity = f'{perplexities[name]:.2f}' if name in perplexities else ''
    lines.append(_row(name, *(_cell(report.figures[key]) for key in columns),
                      f'{report.figures["length"].value:.1f}', perplexity))
  lines += ['', f'Less {found.against}, on the same dialogues (resampled; in the sentences below, '
            "intervals are by Student's t):", '',
            _row('system', *map(_head, columns)), _row(*['---'] * (len(columns) + 1))]
  lines += [_row(name, *(_cell(figures[key], '+') for key in columns))
            for name, figures in found.differences.items()]
  lines += ['', *(f'* {sentence}' for some in found.verdicts.values() for sentence in some)]
  return '\n'.join(lines) + '\n'


def plot(found: Comparison, path: pathlib.Path) -> None:
  """A panel for each score, a mark with its interval for each system."""
  from matplotlib.figure import Figure as Picture
  names = [*found.reports]
  columns = [key for key in COLUMNS if key in found.reports[names[0]].figures]
  picture = Picture((2 + 2.2 * len(columns), 1 + 0.32 * len(names)), layout='constrained')
  panels = picture.subplots(1, len(columns), sharey=True, squeeze=False)[0]
  for panel, key in zip(panels, columns):
    for place, name in enumerate(names):
      figure = found.reports[name].figures[key]
      low, high = figure.interval
      panel.plot([low, high], [place, place], color='0.55', linewidth=2.5, solid_capstyle='butt')
      panel.plot(figure.value, place, 'o', color='C0', markersize=6, clip_on=False)
    panel.set_title(_head(key), fontsize=10)
    panel.set_yticks(range(len(names)), names)
    panel.grid(axis='x', color='0.9')
    panel.set_xlim(left=0)
  panels[0].invert_yaxis()
  save_figure(picture, path)


def _head(name: str) -> str:
  return name.upper() if name == 'bleu' else name.capitalize()


def _cell(figure: Figure, sign: str = '') -> str:
  return (f'{figure.value:{sign}.1f} ({figure.interval.low:{sign}.1f} to '
          f'{figure.interval.high:{sign}.1f})')


def _row(*cells: str) -> str:
  return f'| {" | ".join(cells)} |'

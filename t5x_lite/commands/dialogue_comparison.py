"""Responses of runs and of simple answers to the same dialogues, and their comparison."""

from collections.abc import Sequence
import dataclasses
import json
import math
import pathlib

from t5x_lite.core.files import write_text
from t5x_lite.core.strict_json import format_json
from t5x_lite.dialogue.asking import Form
from t5x_lite.dialogue.schema import read_dialogues

BASELINES = ('most_frequent', 'nearest')


def compare(folder: pathlib.Path, names: Sequence[str], train: pathlib.Path, test: pathlib.Path,
            data: pathlib.Path, trusted_modules: Sequence[str] = ()) -> None:
  """Writes predictions/, and comparison.json, .md and .png of them.

  Args:
    folder: that of runs, by their names.
    names: of the runs; the others are compared with the first.
    train: the file of dialogues that they, and baselines, have learned from.
    test: dialogues that are responded to: of each turn, what was said before is the corpus's own.
    data: how responses are scored, as of `read_reference`, by gold states.
    trusted_modules: outside this project, that config.gin of runs may import.
  """
  from t5x_lite.commands.dialogue_model import load_responder
  from t5x_lite.dialogue import baselines
  from t5x_lite.dialogue.scoring import comparison, predictions
  from t5x_lite.dialogue.scoring.normalisation import normal_response
  from t5x_lite.dialogue.scoring.references import responses_of
  learned, dialogues = list(read_dialogues(train)), list(read_dialogues(test))
  text = Form('response', True, True).text
  responders = {
      'most_frequent': lambda: baselines.fit_most_frequent(learned, text),
      'nearest': lambda: baselines.fit_nearest(learned, text),
      **{name: lambda name=name: load_responder(folder / name, trusted_modules) for name in names}}
  own = responses_of(dialogues)
  asked = [turns for turns, _ in baselines.asked_and_answered(dialogues)]
  paths = {name: folder / 'predictions' / f'{name}.json' for name in (*responders, 'corpus')}
  _write(paths['corpus'], own)
  for name, make in responders.items():
    if not paths[name].exists():
      print(f'{name} responds to {len(asked):,} turns', flush=True)
      said = iter(make()(asked))
      _write(paths[name], {one: [next(said) for _ in texts] for one, texts in own.items()})
  reference = predictions.read_reference(data)
  if reference.responses is None:
    reference = dataclasses.replace(reference, responses={
        name: [normal_response(one) for one in texts] for name, texts in own.items()})
  found = comparison.compare_systems(
      {name: predictions.read_predictions(path, reference) for name, path in paths.items()},
      reference, against=names[0])
  perplexities = {name: perplexity for name in names
                  if (perplexity := _perplexity(folder / name)) is not None}
  told = comparison.as_markdown(found, perplexities)
  comparison.plot(found, folder / 'comparison.png')
  write_text(folder / 'comparison.json', format_json(
      {'comparison': found, 'perplexities': perplexities}, indent=1) + '\n')
  write_text(folder / 'comparison.md', told)
  print(f'\n{told}\n{folder}/comparison.md, .json and .png; responses are in '
        f'{folder / "predictions"}')


def _write(path: pathlib.Path, responses) -> None:
  write_text(path, json.dumps({name: [{'response': text} for text in texts]
                               for name, texts in responses.items()}, ensure_ascii=False, indent=1))


def _perplexity(run: pathlib.Path) -> float | None:
  """Of a token of the validation's answers, in the run's last evaluation."""
  from t5x_lite.training.run_folder import RunFolder
  records = [one for one in RunFolder(run).read_metrics() if one['kind'] == 'eval']
  losses = [value for name, value in (records[-1] if records else {}).items()
            if name.endswith('/loss')]
  return math.exp(losses[0]) if losses else None

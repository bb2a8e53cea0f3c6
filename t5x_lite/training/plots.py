"""Pictures of a run, from its metrics.jsonl."""

import pathlib

from t5x_lite.core.errors import UserError
from t5x_lite.training.run_folder import RunFolder


def loss_curve(model_dir: pathlib.Path | str, output: pathlib.Path | str | None = None
               ) -> pathlib.Path:
  """Draws the training loss over steps, and each evaluation's; returns the PNG written.

  Default output: MODEL_DIR/loss.png. Raises UserError if the run has logged nothing yet.
  """
  folder = RunFolder(pathlib.Path(model_dir))
  records = folder.read_metrics()
  loss_of = lambda record: record.get('loss', record.get('objective'))
  train = [r for r in records if r['kind'] == 'train' and loss_of(r) is not None]
  if not train:
    raise UserError(f'No training metrics in {folder.metrics}: train the run first')
  from matplotlib.figure import Figure  # not pyplot, which has a state of its own
  figure = Figure(figsize=(6.4, 4), layout='constrained')
  axes = figure.subplots()
  axes.plot([r['step'] for r in train], [loss_of(r) for r in train], color='tab:blue',
            label='training')
  evaluations = {}
  for record in records:
    if record['kind'] == 'eval':
      for name, value in record.items():
        if name.endswith('/loss') and value is not None:
          evaluations.setdefault(name.removesuffix('/loss'), []).append((record['step'], value))
  for name, points in evaluations.items():
    axes.plot(*zip(*points), 'o', color='tab:orange', label=f'validation, {name}')
  axes.set(xlabel='step', ylabel='loss (nats per token)', title=folder.path.name)
  axes.grid(alpha=0.3)
  axes.spines[['top', 'right']].set_visible(False)
  axes.legend(frameon=False)
  output = pathlib.Path(output) if output is not None else folder.loss_curve
  figure.savefig(output, dpi=150)
  return output

"""`t5x-lite quantize`: a run whose kernels are in codes, of one that is trained or imported."""

import argparse
from collections.abc import Callable, Sequence
import dataclasses
import pathlib
import shutil
from typing import Any, NamedTuple

from t5x_lite.commands import codes, gin_flags
from t5x_lite.core.errors import UserError
from t5x_lite.core.paths import local_path

EXAMPLE = 't5x-lite quantize --from=runs/lm --to=runs/lm_nf4 --format=nf4'
FLAG = '--format'
TEXT_LENGTH = 512   # tokens of a row of a text, at most, where no task says how many


def add_flags(parser: argparse.ArgumentParser) -> None:
  add = parser.add_argument
  add('--from', required=True, dest='source', metavar='MODEL_DIR', type=local_path)
  add('--to', required=True, dest='target', metavar='MODEL_DIR', type=local_path,
      help='a folder to write; must not exist, or be empty')
  codes.add_flags(parser, FLAG, required=True)
  add('--text', metavar='FILE', type=local_path,
      help='measure perplexity on this text, and not on the validation data of the run')
  add('--step', type=int, help='of the checkpoint; default: the newest')
  gin_flags.add_trusted_modules(parser)


def run(args: argparse.Namespace) -> int:
  fields = codes.read_flags(args, FLAG)
  for line in quantize_run(args.source, args.target, fields, args.text, args.step,
                           args.trusted_modules):
    print(line)
  return 0


class PlainRun(NamedTuple):
  """A run whose parameters are arrays, on one device, which cuts no block of theirs.

  Attributes:
    experiment: its config.
    network: without its adaptation.
    partitioner: of the device.
    params: all parameters.
    step: of the checkpoint.
  """
  experiment: Any
  network: Any
  partitioner: Any
  params: dict[str, Any]
  step: int


def read_plain(model_dir: pathlib.Path, step: int | None = None,
               trusted_modules: Sequence[str] = ()) -> PlainRun:
  """Reads a run; UserError if it is of an adapter, or in codes already."""
  import jax

  from t5x_lite.adaptation.adaptation import Adapter, innermost
  from t5x_lite.core import trees
  from t5x_lite.experiment import gin_config
  from t5x_lite.parallel.mesh import MeshConfig
  from t5x_lite.training.initial_params import load_params
  from t5x_lite.training.run_folder import RunFolder
  config = RunFolder(model_dir).require_config()
  experiment = gin_config.load_described([str(config)], (), trusted_modules)
  adaptation = innermost(experiment.adaptation)
  if isinstance(adaptation, Adapter):
    raise UserError(f'{model_dir} is a run of an adapter: merge it first (t5x-lite merge '
                    f'--from={model_dir} --to=FOLDER)')
  if adaptation is not experiment.adaptation:
    raise UserError(f'{model_dir} holds its kernels in codes already: start from the run that they '
                    'were made of')
  mesh = MeshConfig(data=1).make(jax.devices()[:1])
  adapted, _ = experiment.build_network(mesh)
  if any(map(adapted.is_added, trees.flatten(adapted.shapes))):
    raise UserError(f'{model_dir}: what {type(adaptation).__name__} adds has no place in a plain '
                    'run: quantise the run that it started from')
  network, partitioner = dataclasses.replace(experiment, adaptation=None).build_network(mesh)
  params, step = load_params(model_dir, adapted, partitioner, step)
  return PlainRun(experiment, network, partitioner, params, step)


def quantize_run(model_dir: pathlib.Path, target: pathlib.Path, fields: dict[str, Any],
                 text: pathlib.Path | None = None, step: int | None = None,
                 trusted_modules: Sequence[str] = ()) -> list[str]:
  """Writes a run, of step 0, whose kernels are the codes of another's; returns lines of summary.

  Its checkpoint is that of `import --quantize` of the same parameters, its config.gin says the
  format. The lines have the bytes before and after, and the perplexity where it can be measured.

  Args:
    model_dir: the folder of the run.
    target: must not exist, or be empty.
    fields: of the Quantized.
    text: a file to measure perplexity on; None: the validation data of the run.
    step: of the checkpoint, newest if None.
    trusted_modules: modules outside this project that config.gin may import.

  Raises:
    UserError: as `read_plain`; or the format does not fit a kernel.
  """
  from t5x_lite.adaptation.quantization.quantized import Quantized
  from t5x_lite.core.files import atomic_folder
  with codes.flag_errors(fields, FLAG):
    quantized = Quantized(**fields)
    plain = read_plain(model_dir, step, trusted_modules)
    adapted = quantized.adapt(plain.network)
  with atomic_folder(target) as folder:
    measured = make_losses(plain, text)
    before = None if measured is None else measured[0](plain.params)
    params = quantize_params(adapted, plain)
    _write(folder, target, plain, quantized, fields, params, trusted_modules)
    after = None if measured is None else measured[0](params)
  (number, old), (_, new) = codes.sizes(plain.params), codes.sizes(params)
  lines = [f'{target}: step {plain.step} of {model_dir} in {quantized.format}, {number:,} '
           f'parameters: {old:,} → {new:,} bytes, {8 * new / number:.3f} bits each']
  if before is None:
    return [*lines, 'Perplexity was not measured, as the run has no validation data: pass '
            '--text=FILE']
  lines.append(f'Perplexity of {before.weight:,.0f} {measured[1]}: {before.perplexity:.4f} → '
               f'{after.perplexity:.4f} ({after.perplexity / before.perplexity - 1:+.2%}); nats a '
               f'token {before.mean:.4f} → {after.mean:.4f}')
  return lines


def quantize_params(adapted, plain: PlainRun) -> dict[str, Any]:
  """All parameters of a run, with kernels as the adapted network holds them."""
  from t5x_lite.core import trees
  from t5x_lite.models import weights
  from t5x_lite.training.initial_params import quantize_each
  from t5x_lite.training.state import abstract_params
  flat = trees.flatten(plain.params)
  abstract = abstract_params(plain.network, plain.partitioner)
  held = quantize_each(adapted, trees.flatten(abstract), flat.items())
  return trees.fill(abstract, held, weights.is_structured)


def make_losses(plain: PlainRun, text: pathlib.Path | None
                ) -> tuple[Callable[[Any], Any], str] | None:
  """(all parameters -> Losses, what these are of) on a text or the run's validation data.

  None if there is neither. The function takes kernels in any form.
  """
  from t5x_lite.evaluation import perplexity
  from t5x_lite.evaluation.scoring import make_score
  experiment, network, partitioner, *_ = plain
  what = perplexity.what_is_predicted(network.config)
  if text is not None:
    batches = read_text(plain, text).batches()
    score = make_score(network, partitioner)
    return (lambda params: perplexity.sum_losses(score, params, partitioner, batches),
            f'{what} of {text}')
  if not experiment.data.name or experiment.eval is None:
    return None
  evaluator = experiment.eval.make(network, partitioner, experiment.data, experiment.seed)
  if not isinstance(evaluator, perplexity.LossEvaluator):
    return None
  split = getattr(experiment.eval, 'split', 'validation')
  return evaluator.losses, f'{what} of {experiment.data.name}, {split}'


def read_text(plain: PlainRun, path: pathlib.Path):
  """The perplexity.Text of a file, as the run's model reads it.

  Raises UserError for a file that is missing, empty or not UTF-8.
  """
  from t5x_lite.commands.infer import frame_of
  from t5x_lite.evaluation.perplexity import Text
  data, config = plain.experiment.data, plain.network.config
  try:
    text = path.read_text(encoding='utf-8')
  except UnicodeDecodeError as e:
    raise UserError(f'--text={path}: not UTF-8 (byte {e.start})') from e
  if not text.strip():
    raise UserError(f'--text={path}: is empty')
  lengths = plain.experiment.row_lengths
  if not data.name:
    longest = min(config.max_length or TEXT_LENGTH, TEXT_LENGTH)
    lengths = tuple(longest * (side in config.family) for side in ('encoder', 'decoder'))
  inputs, targets = data.tokenizer('inputs'), data.tokenizer('targets')
  return Text(config, targets.encode(text), lengths, inputs, targets,
              frame_of(plain.experiment.infer, data))


def _write(folder: pathlib.Path, target: pathlib.Path, plain: PlainRun, quantized,
           fields: dict[str, Any], params: dict[str, Any], trusted_modules: Sequence[str]) -> None:
  """Writes the run: config.gin, checkpoint, and the files that the source has beside them."""
  from t5x_lite.experiment import gin_config
  from t5x_lite.training.checkpoints import reader_of
  from t5x_lite.training.run_folder import RunFolder
  source, written, final = (RunFolder(path) for path in (
      plain.experiment.folder, folder, target.absolute()))
  bindings = [f'MODEL_DIR={str(target.absolute())!r}', 'Experiment.init_from=None',
              'Experiment.adaptation=@quantized.Quantized()',
              *(f'Quantized.{name}={value!r}' for name, value in fields.items())]
  if source.huggingface.is_dir():
    shutil.copytree(source.huggingface, written.huggingface)
    vocabulary = pathlib.Path(plain.experiment.data.vocabulary or '')
    if vocabulary.parent == source.huggingface.absolute():
      bindings.append(f'VOCABULARY={str(final.huggingface / vocabulary.name)!r}')
  text = gin_config.load_experiment([str(source.config)], bindings, trusted_modules,
                                    trains=False)[1]
  written.config.write_text(text, encoding='utf-8')
  if source.chat_template.is_file():
    shutil.copyfile(source.chat_template, written.chat_template)
  meta = reader_of(source.path).read_meta(plain.step)
  kept = {name: meta[name] for name in ('vocabulary', 'imported_from') if name in meta}
  codes.save(folder, plain.network.config, quantized, params,
             {'quantized_from': str(source.path.absolute()), **kept})

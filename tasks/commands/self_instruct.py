"""`t5x-lite self-instruct`: tasks that a run's model writes, like some that people wrote."""

import argparse
import dataclasses
import hashlib
import math

from t5x_lite.commands import gin_flags
from t5x_lite.core.dataclass_checks import FieldError
from t5x_lite.core.errors import UserError
from t5x_lite.core.paths import local_path
from t5x_lite.inference.sampling import Sampling
from tasks.instruction.self_instruct.bootstrap import Bootstrap, Settings
from tasks.instruction.self_instruct.results import Results
from tasks.instruction.self_instruct.seed_tasks import read_seed_tasks

EXAMPLE = ('t5x-lite self-instruct --gin_file=runs/chat/config.gin --seed_tasks=seed_tasks.jsonl '
           '--output=runs/tasks --number=100')
_FLAGS = {   # of fields of Settings
    'human': 'instructions of people in a prompt for more',
    'generated': 'instructions of the model in it, once there are some',
    'classifications': 'classifications that are shown for the other questions',
    'generations': 'tasks of other kinds that are shown for them',
    'instances': 'of a task, at most',
    'similarity': 'the lowest ROUGE-L with another instruction that is refused',
}
_WORD = 8   # tokens of a yes or no, in bytes, too


def add_flags(parser: argparse.ArgumentParser) -> None:
  gin_flags.add_flags(parser)
  add = parser.add_argument
  add('--seed_tasks', required=True, metavar='FILES',
      help='rows with instruction, instances and is_classification, of any format FileTask reads')
  add('--output', required=True, type=local_path, metavar='FOLDER',
      help='for tasks.jsonl, instances.jsonl, refused.jsonl, progress.json; a stopped one goes on')
  add('--number', required=True, type=int, help='of tasks, at least')
  add('--temperature', type=float, default=0.7, help='at which instructions are drawn (0.7)')
  defaults = {field.name: field.default for field in dataclasses.fields(Settings)}
  for name, text in _FLAGS.items():
    add(f'--{name}', type=type(defaults[name]), default=defaults[name],
        help=f'{text} ({defaults[name]})')


def run(args: argparse.Namespace) -> int:
  if args.number < 1:
    raise UserError(f'--number={args.number}: must be at least 1')
  if not (math.isfinite(args.temperature) and 0.01 <= args.temperature <= 100):
    raise UserError(f'--temperature={args.temperature:g}: must be 0.01 to 100')
  seeds = read_seed_tasks(args.seed_tasks)
  experiment = gin_flags.load_experiment(args, trains=False)[0]
  for name in ('input', 'output', 'num_examples'):
    if getattr(experiment.infer, name) is not None:
      raise FieldError(experiment.infer, name, 'has no use here: leave it out')
  if experiment.infer.decoding != Sampling():
    raise FieldError(experiment.infer, 'decoding', 'has no use here: set --temperature')
  try:
    settings = Settings(batch_size=experiment.infer.batch_size, seed=experiment.seed,
                        **{name: getattr(args, name) for name in _FLAGS})
  except FieldError as error:
    raise UserError(f'--{error.field}={getattr(args, error.field)}: {error.rule}') from error
  results = Results(args.output, {
      **dataclasses.asdict(settings), 'temperature': args.temperature,
      'max_tokens': experiment.infer.max_tokens, 'model_dir': str(experiment.folder),
      'seed_tasks': hashlib.sha256(repr(seeds).encode()).hexdigest()[:24]})
  if len(results.tasks) < args.number:
    model = RunModel(experiment, args.temperature)
    for done in Bootstrap(seeds, model, settings, results).run(args.number):
      print(f'round {done.rounds}: {len(done.tasks)} of {args.number} tasks, '
            f'{len(done.refused)} refused', flush=True)
  print(report(results))
  return 0


def report(results: Results) -> str:
  """What was made of how many rounds, and why the rest was refused."""
  lines = [f'{results.tasks_file}: {len(results.tasks)} tasks, '
           f'{sum(len(task["instances"]) for task in results.tasks)} instances, '
           f'{sum(task["is_classification"] for task in results.tasks)} classifications']
  for why, count in results.counts().items():
    lines.append(f'  refused {count:6,d}  {why}')
  return '\n'.join(lines)


class RunModel:
  """See bootstrap.Model; of a run's folder."""

  def __init__(self, experiment, temperature: float):
    """Loads the checkpoint. Raises UserError for a model that writes no text."""
    from t5x_lite.commands import infer
    if experiment.model.family == 'encoder_only' or experiment.model.has_classes:
      raise UserError(f'{experiment.folder}: its model writes no text')

    def make(params=None, **fields):
      changed = dataclasses.replace(experiment.infer, **fields)
      return infer.load_generator(dataclasses.replace(experiment, infer=changed), params)[0]

    self._sampler = make(decoding=Sampling(temperature=temperature))
    self._greedy = make(self._sampler.params)
    self._word = make(self._sampler.params, max_tokens=_WORD)

  def fits(self, prompt: str) -> bool:
    return self._sampler.fits(prompt)

  def sample(self, prompts):
    return self._ask(self._sampler, prompts)

  def answer(self, prompts):
    return self._ask(self._greedy, prompts)

  def word(self, prompts):
    return self._ask(self._word, prompts)

  def _ask(self, generator, prompts):
    return [(record['output'], record['ended']) for record in generator(prompts)]

"""`t5x-lite dialogue respond`: trains models to respond, and compares them with simple answers."""

import argparse
from collections.abc import Mapping, Sequence
import pathlib

from t5x_lite.commands import gin_flags
from t5x_lite.commands.dialogue_comparison import BASELINES, compare
from t5x_lite.commands.stages import Stage, run_stages, training
from t5x_lite.core.errors import UserError
from t5x_lite.core.files import write_text
from t5x_lite.core.paths import local_path
from t5x_lite.dialogue.schema import json_lines, read_dialogues

EXAMPLE = 't5x-lite dialogue respond runs/respond --plan'
RECIPE = 'experiments/dialogue_{}.gin'
NUMBERS = {'train': 400, 'test': 150}   # of made-up dialogues
OTHERS = 1500                           # simulated ones, of another town, from which a base learns


def add_flags(parser: argparse.ArgumentParser) -> None:
  add = parser.add_argument
  add('folder', metavar='FOLDER', type=local_path, help='of the runs, predictions and the table')
  add('--train', type=local_path, metavar='FILE',
      help='dialogues of convert or generate (default: made-up ones, for --test and --data too)')
  add('--test', type=local_path, metavar='FILE', help='the dialogues that are responded to')
  add('--data', type=local_path, metavar='FOLDER', help='of goals, bookings and the database by '
      'which responses are scored, as of dialogue score; gold states, too')
  add('--pretraining', type=local_path, metavar='FILE',
      help='other dialogues, from which a base learns first (default: simulated ones)')
  add('--start', type=local_path, metavar='RUN',
      help='a run to adapt, with its vocabulary, in place of a base that is trained here')
  add('--base', default=RECIPE.format('base'), metavar='GIN', help='of the base')
  add('--scratch', nargs='*', default=[RECIPE.format('scratch')], metavar='GIN',
      help='of models that are trained on the dialogues alone')
  add('--adapted', nargs='*', default=[RECIPE.format(name) for name in ('lora', 'qlora')],
      metavar='GIN', help='of models that begin from the base')
  add('--pieces', type=int, default=512, help='of the vocabulary that is made (default 512)')
  add('--plan', action='store_true', help='print the plan alone')
  gin_flags.add_trusted_modules(parser)


def run(args: argparse.Namespace) -> int:
  return run_stages(plan(args), args.plan)


def plan(args: argparse.Namespace) -> list[Stage]:
  """The stages: data, vocabulary, base, models, comparison."""
  made = args.train is None
  if not made and None in (args.test, args.data):
    raise UserError('--train is given: give --test and --data, too')
  if made and (args.test or args.data):
    raise UserError('--test and --data are of dialogues of your own: give --train, too')
  if not made:
    _check_own(args)
  names = [_name(file) for file in (*args.scratch, *args.adapted)]
  if not names or len({*names, *BASELINES, 'corpus'}) <= len(names) + len(BASELINES):
    raise UserError(f'the models are {", ".join(names) or "none"}: name files of --scratch and '
                    '--adapted, each of another name')
  data = args.folder / 'data'
  files = {'train': args.train, 'test': args.test} if not made else {
      name: data / f'{name}.jsonl' for name in NUMBERS}
  reference = args.data or data / 'reference'
  other = args.pretraining or data / 'pretraining.jsonl'
  begins = bool(args.adapted) and args.start is None
  stages = []
  if made or begins and args.pretraining is None:
    stages.append(_making(data, files if made else {}, reference, other))
  if args.start is None:
    vocabulary = args.folder / 'vocabulary.model'
    texts = [files['train'], *([other] if begins else [])]
    stages.append(Stage('vocabulary', vocabulary, [*map(str, texts)], f'{args.pieces} pieces',
                        vocabulary.exists, lambda: _vocabulary(texts, args.pieces, vocabulary)))
  else:
    vocabulary = _vocabulary_of(args.start, args.trusted_modules)
  macros = {'VOCABULARY': vocabulary}
  base = args.start or args.folder / 'base'
  train = lambda name, file, own: training(name, file, args.folder / name, macros | own,
                                           args.trusted_modules)
  if begins:
    stages.append(train('base', args.base, {'DIALOGUES': other}))
  own = {'DIALOGUES': files['train'], 'HELD_OUT': files['test']}
  stages += [train(_name(file), file, own) for file in args.scratch]
  stages += [train(_name(file), file, own | {'INIT_FROM': base}) for file in args.adapted]
  table = args.folder / 'comparison.md'
  return [*stages, Stage(
      'comparison', table, [str(args.folder / name) for name in names],
      f'responses to {files["test"]}, scored by {reference}', table.exists,
      lambda: compare(args.folder, names, *files.values(), reference, args.trusted_modules))]


def _check_own(args: argparse.Namespace) -> None:
  """Files that are there, a test that is not trained on, and of which the goals are known."""
  from t5x_lite.dialogue.scoring.predictions import read_reference
  from t5x_lite.dialogue.scoring.references import name_of
  for flag in ('train', 'test', 'pretraining'):
    path = getattr(args, flag)
    if path is not None and not path.is_file():
      raise UserError(f'--{flag}={path}: there is no such file')
  for flag in ('train', 'pretraining'):
    path = getattr(args, flag)
    if path is not None and path.samefile(args.test):
      raise UserError(f'--{flag}={path}: is --test, too, which is not to be learned from')
  goals = read_reference(args.data).goals
  names = [name_of(one) for one in read_dialogues(args.test)]
  if unknown := [name for name in names if name not in goals]:
    raise UserError(f'--test={args.test}: {len(unknown):,} of {len(names):,} dialogues, such as '
                    f'{unknown[0]}, have no goal in --data={args.data}: give those of one corpus')


def _name(file: str) -> str:
  return pathlib.PurePath(file).stem.removeprefix('dialogue_')


def _vocabulary_of(run: pathlib.Path, trusted_modules: Sequence[str]) -> str:
  from t5x_lite.experiment import gin_config
  found = gin_config.load_run(run, trusted_modules)
  if found.data.vocabulary is None:
    raise UserError(f'--start={run}: has the vocabulary of its task, and not of a file')
  return found.data.vocabulary


def _making(data: pathlib.Path, files: Mapping[str, pathlib.Path], reference: pathlib.Path,
            other: pathlib.Path) -> Stage:
  """Dialogues of the generator, how they are scored, and those of another town."""

  def make():
    from t5x_lite.dialogue.scoring.references import write_reference
    from tasks.dialogue.generated import DATABASE, DOMAIN, generate
    for seed, (name, path) in enumerate(files.items()):
      dialogues = generate(NUMBERS[name], seed)
      if name == 'test':
        write_reference(reference, dialogues, {DOMAIN: [
            {'id': str(i), **row} for i, row in enumerate(DATABASE)]})
      write_text(path, json_lines(dialogues))
    write_text(other, json_lines(_simulated()))   # the last, by which the stage is done

  numbers = [f'{NUMBERS[name]} for {name}' for name in files]
  return Stage('dialogues', data, [], ', '.join([*numbers, f'{OTHERS:,} of another town']),
               other.exists, make)


def _simulated():
  from t5x_lite.dialogue.simulation import goals, simulate, systems
  from t5x_lite.dialogue.simulation.database import made_up_town
  town = made_up_town()
  system = systems.RuleSystem(town, systems.Faults(), seed=0)
  wanted = goals.draw_goals(town, OTHERS, 0, goals.GoalConfig())
  return [one.dialogue for one in simulate.simulate(
      wanted, town, system, simulate.SimulationConfig())]


def _vocabulary(files: Sequence[pathlib.Path], pieces: int, output: pathlib.Path) -> None:
  from tasks.pipeline.imports import import_seqio
  import_seqio()   # before what loads TensorFlow, which would not be quiet
  from tasks.vocabularies import train_vocabulary
  texts = ['\n'.join(turn.text for turn in one.turns)
           for file in files for one in read_dialogues(file)]
  try:
    train_vocabulary.train_sentencepiece(texts, pieces, str(output.with_suffix('')),
                                         model_type='unigram', user_symbols=())
  except UserError as error:
    raise UserError(str(error).replace('--size', '--pieces')) from error

"""The command line: `t5x-lite COMMAND`, and the one place where packages import each other by name.

Nothing heavy is imported before a command is known to be well formed.
"""

import argparse
import difflib
import importlib
import os
import sys
from types import ModuleType

from t5x_lite import __version__
from t5x_lite.core.errors import UserError
from t5x_lite.core.files import explain
from t5x_lite.core.process import INTERRUPTED, set_up_process, was_interrupted

# Name: (module with EXAMPLE, add_flags and run, summary). Help imports none of them.
COMMANDS = {
    'train': (
        't5x_lite.commands.train',
        'train a model, or resume a stopped run'),
    'eval': (
        't5x_lite.commands.eval',
        'evaluate a checkpoint of a run on its task'),
    'evaluate': (
        't5x_lite.commands.evaluate',
        'score a run on the suites by which models are compared, such as ARC and MMLU'),
    'evaluate harness': (
        't5x_lite.commands.evaluate_harness',
        'run lm-evaluation-harness, all its tasks and options, on a run'),
    'evaluate compare': (
        't5x_lite.commands.evaluate_compare',
        'compare two models on the same items: difference, interval, p-value'),
    'perplexity': (
        'tasks.commands.perplexity',
        'measure perplexity and bits a byte of documents, and the loss by position'),
    'evaluate tax': (
        't5x_lite.commands.evaluate_tax',
        'tabulate scores and calibration before and after a fine-tuning'),
    'leaderboard': (
        't5x_lite.commands.leaderboard',
        'put the evaluations of runs in one table: Markdown, CSV or a page'),
    'calibration': (
        't5x_lite.commands.calibration',
        'measure calibration on multiple choice, and fit a temperature'),
    'arena': (
        't5x_lite.commands.arena',
        'rate sides of pairwise comparisons: win rates, Elo, Bradley-Terry'),
    'questionnaire': (
        't5x_lite.commands.questionnaire',
        'tabulate the answers of people on systems, with intervals and tests'),
    'dialogue discover': (
        't5x_lite.commands.dialogue_discover',
        'find the states of dialogues and the automaton they follow: figures, picture, page'),
    'dialogue embed': (
        't5x_lite.commands.dialogue_embed',
        'fit a variational autoencoder of utterances, and draw its latent space by act'),
    'dialogue score': (
        't5x_lite.commands.dialogue_score',
        'score predictions on MultiWOZ: Inform, Success, states, BLEU, richness'),
    'dialogue simulate': (
        't5x_lite.commands.dialogue_simulate',
        'let simulated users talk to a system: success, pass^k, why goals fail'),
    'dialogue talk': (
        't5x_lite.commands.dialogue_talk',
        'open a page on which people talk to systems and rate them'),
    'instruct-gpt': (
        't5x_lite.commands.instruct_gpt',
        'train on demonstrations, compare, train a reward model and a policy, with a plan'),
    'rate': (
        't5x_lite.commands.rate',
        'write several completions of each prompt, rated: comparison data'),
    'rollouts': (
        't5x_lite.commands.rollouts',
        'show what a policy wrote while it was trained on rewards: curves and completions'),
    'evaluate page': (
        't5x_lite.commands.evaluate_page',
        'show the items of a result, or of two: choices, probabilities, right and wrong'),
    'evaluate card': (
        't5x_lite.commands.evaluate_card',
        'write the model card of a run, with its results as the Hugging Face hub reads them'),
    'evaluate causality': (
        't5x_lite.commands.evaluate_causality',
        'test that a decoder reads no token that it is to predict'),
    'judge': (
        't5x_lite.commands.judge',
        'have a model of any OpenAI-compatible API compare the outputs of two others'),
    'contamination': (
        'tasks.commands.contamination',
        'find the items of an evaluation in training text, and the score without them'),
    'infer': (
        't5x_lite.commands.infer',
        'write the outputs of a trained model for a file or a task'),
    'chat': (
        't5x_lite.commands.chat',
        'talk with a model on the terminal'),
    'serve': (
        't5x_lite.commands.serve',
        'answer by OpenAI\'s API, and on a page to try prompts on'),
    'plot': (
        't5x_lite.commands.plot',
        'draw and tabulate the metrics of runs'),
    'describe': (
        't5x_lite.commands.describe',
        'print parameters, FLOPs and memory of a config, or of a model alone'),
    'settings': (
        't5x_lite.commands.settings',
        'print what gin files may set: fields, types, defaults and meaning'),
    'data describe': (
        'tasks.commands.describe',
        'print what a run will read: shares, tokens, epochs, waste, and examples'),
    'data cache': (
        'tasks.commands.cache',
        'tokenise what a run will read into the folder DataConfig.cache_dir'),
    'train-vocab': (
        'tasks.commands.train_vocabulary',
        'train a SentencePiece vocabulary on the text of a task, or of files'),
    'self-instruct': (
        'tasks.commands.self_instruct',
        'have a model write tasks like some that people wrote, to train on'),
    'import': (
        't5x_lite.commands.import_checkpoint',
        'make a run from a Hugging Face folder, a T5X checkpoint or a PEFT adapter'),
    'quantize': (
        't5x_lite.commands.quantize',
        'hold the kernels of a run in 4 or 8 bits, and say what that costs in perplexity'),
    'merge': (
        't5x_lite.commands.merge',
        'add the adapters of a LoRA run to its base: a run of its own'),
    'export': (
        't5x_lite.commands.export',
        'write a checkpoint for transformers, llama.cpp, vLLM or StableHLO, an adapter for peft'),
    'scaling plan': (
        'scaling.commands.plan',
        'plan a run from a budget: size, tokens, loss, architecture, mesh, time, cost, gin file'),
    'scaling budget': (
        'scaling.commands.budget',
        'count FLOPs, memory, time, money and energy of a model, and the loss that laws predict'),
    'scaling fit': (
        'scaling.commands.fit',
        'fit a scaling law to runs, with intervals and diagnostics'),
    'scaling ladder': (
        'scaling.commands.ladder',
        'design, run and fit a sweep of small runs, predict a large one, run it and check'),
    'scaling suggest': (
        'scaling.commands.suggest',
        'choose the next runs of a ladder: those that tell most of a target for their FLOPs'),
    'scaling compare': (
        'scaling.commands.compare',
        'compare two recipes beyond their runs: difference of loss, effective compute'),
    'scaling hyperparameters': (
        'scaling.commands.hyperparameters',
        'fit laws of learning rate and batch size to sweeps, beside the published ones'),
    'scaling downstream': (
        'scaling.commands.downstream',
        'predict an accuracy or error of a task from the loss, with its interval'),
    'scaling mixture': (
        'scaling.commands.mixture',
        'find the mixture of data of the lowest loss by a swarm of proxy runs'),
    'scaling curve': (
        'scaling.commands.curve',
        'predict the loss of a run through the decay of its learning rate, before it is trained'),
    'scaling kbit': (
        'scaling.commands.kbit',
        'find the bits a parameter that give the lowest loss for the bits of a model'),
    'scaling app': (
        'scaling.commands.app',
        'serve a local web page that plans runs from a budget and fits laws to a CSV file'),
    'dialogue convert': (
        'tasks.commands.dialogue_convert',
        'write dialogues of a public corpus in one schema, and name those with faults'),
    'dialogue generate': (
        'tasks.commands.dialogue_generate',
        'write made-up dialogues of a known automaton, in the same schema'),
    'dialogue respond': (
        'tasks.commands.dialogue_respond',
        'train models to respond, from scratch and by adapters, and compare them'),
    'quickstart': (
        't5x_lite.commands.quickstart',
        'train, evaluate and sample a small model of Python\'s own source'),
}
GROUPS = {'data': 'show or tokenise what a run reads',
          'dialogue': 'read, make, simulate, score and explore task-oriented dialogues',
          'scaling': 'plan runs from a compute budget, and fit scaling laws to runs'}


def main(argv: list[str] | None = None) -> int:
  """Runs one command; returns the exit status: 0, or 1 after an error line on stderr."""
  argv = sys.argv[1:] if argv is None else list(argv)
  try:
    name = next((n for n in (' '.join(argv[:2]), *argv[:1]) if n in COMMANDS), None)
    if name is None:
      return _show_overview(argv)
    module_name, summary = COMMANDS[name]
    module = importlib.import_module(module_name)
    args = _parse(name, module, summary, argv[len(name.split()):])
    set_up_process()
    return module.run(args)
  except UserError as e:
    print(f'error: {e}', file=sys.stderr)
    return 1
  except BrokenPipeError:   # such as `| head`, which reads no further
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 141
  except BaseException as e:
    if was_interrupted(e):
      print('error: interrupted', file=sys.stderr)
      return INTERRUPTED
    line = explain(e) if isinstance(e, OSError) else None
    if line is None:
      raise
    print(f'error: {line}', file=sys.stderr)
    return 1


class _Parser(argparse.ArgumentParser):
  """Reports an error in the flags of a command in one line."""

  def error(self, message: str):
    raise UserError(f'{message}; see {self.prog} --help')


def _parse(name: str, module: ModuleType, summary: str, words: list[str]) -> argparse.Namespace:
  parser = _Parser(
      prog=f't5x-lite {name}', description=summary[0].upper() + summary[1:] + '.',
      epilog=f'example: {module.EXAMPLE}', allow_abbrev=False,
      formatter_class=argparse.RawDescriptionHelpFormatter)
  module.add_flags(parser)
  # argparse does not support options with a name inside; see commands/gin_flags.py.
  words = [f'--gin.NAME={word.removeprefix("--gin.")}' if word.startswith('--gin.') else word
           for word in words]
  args, rest = parser.parse_known_args(words)
  if rest:
    wrong = rest[0].replace('--gin.NAME=', '--gin.')
    raise UserError(f'{wrong}: not an option of {name}; see t5x-lite {name} --help')
  return args


def _show_overview(argv: list[str]) -> int:
  """Prints help or the version, of `t5x-lite` or of a group of commands.

  Raises UserError for anything else, which is no command.
  """
  group = argv[0] if argv and argv[0] in GROUPS else ''
  words = argv[1:] if group else argv
  if words[:1] in (['-h'], ['--help'], ['--version']):
    _overview(group).parse_args(words[:1])   # which exits
  known = f't5x-lite {group}'.strip()
  if not words:
    raise UserError(f'{known} needs a command; see {known} --help')
  given = ' '.join([*[group] * bool(group), words[0]])
  near = difflib.get_close_matches(given, [*COMMANDS, *GROUPS], n=1, cutoff=0.5) or [
      name for name in COMMANDS if name.split()[-1] == words[0]]
  cure = f'did you mean t5x-lite {near[0]}?' if near else f'see {known} --help'
  raise UserError(f'there is no command {given!r}; {cure}')


def _overview(group: str) -> argparse.ArgumentParser:
  """The parser of `t5x-lite`, or of a group of commands, that shows help."""
  prefix = f'{group} ' if group else ''
  summaries = {name.removeprefix(prefix): summary
               for name, (_, summary) in COMMANDS.items() if name.startswith(prefix)}
  if not group:
    summaries = {n: s for n, s in summaries.items() if n.split()[0] not in GROUPS} | GROUPS
  parser = _Parser(
      prog=f't5x-lite {group}'.strip(),
      description=GROUPS[group][0].upper() + GROUPS[group][1:] + '.' if group else
      'Train and use text Transformers in JAX.',
      epilog=f't5x-lite {prefix}COMMAND --help shows an example of each.')
  parser.add_argument('--version', action='version', version=f't5x_lite {__version__}')
  commands = parser.add_subparsers(dest='command', required=True, metavar='COMMAND')
  for name, summary in summaries.items():
    commands.add_parser(name, help=summary, add_help=False)
  return parser

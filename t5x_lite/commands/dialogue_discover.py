"""`t5x-lite dialogue discover`: the states of dialogues, and the automaton they follow."""

import argparse
from collections.abc import Sequence
import functools
import pathlib
import sys

from t5x_lite.core.errors import UserError
from t5x_lite.core.paths import local_path
from t5x_lite.dialogue.schema import Dialogue

EXAMPLE = 't5x-lite dialogue discover dialogues.jsonl --held_out=more.jsonl --output=structure'
_BROKEN = ('no turns', 'speakers', 'empty turn')   # faults that states would show


def add_flags(parser: argparse.ArgumentParser) -> None:
  add = parser.add_argument
  add('dialogues', metavar='DIALOGUES.jsonl', type=local_path,
      help='dialogues, one a line, in the schema of t5x_lite/dialogue/schema.py')
  add('--output', metavar='FOLDER', type=local_path, required=True,
      help='gets structure.json, .dot, .png, .svg and .html')
  add('--held_out', metavar='FILE', type=local_path,
      help='other dialogues, to measure coverage and perplexity on')
  add('--model', choices=('kmeans', 'vrnn'), default='kmeans',
      help='states are clusters, the default, or the latents of a variational RNN')
  add('--speaker', choices=('user', 'system', 'both'), default='both', help='default: both')
  add('--k', metavar='K|LEAST-MOST', type=_range, default=(5, 20),
      help='states of a side, or a range to choose from; default: 5-20')
  add('--choose_by', choices=('silhouette', 'likelihood'), default='silhouette',
      help='of a range of k, the default: silhouette; or the likelihood of a part held out')
  add('--context', type=int, default=1, metavar='N',
      help='utterances that the text of one is made of, with those before it; default: 1')
  add('--encoder', metavar='MODEL_DIR', type=local_path,
      help='a run whose encoder makes vectors of texts; default: TF-IDF and SVD')
  add('--annotations', nargs='+', choices=('intents', 'entities', 'calls'), default=[],
      help='what is annotated to cluster by as well')
  add('--length', type=int, metavar='N', help='turns after which a dialogue is cut off')
  add('--min_probability', type=float, default=0.05, metavar='P',
      help='transitions below are pruned; default: 0.05')
  add('--min_count', type=int, default=2, metavar='N',
      help='transitions seen less often are pruned; default: 2')
  add('--delexicalise', action='store_true',
      help='values that are annotated become tags, such as [value_name]')
  add('--seed', type=int, default=0)
  add('--json', action='store_true', help='print the figures as JSON')


def run(args: argparse.Namespace) -> int:
  from t5x_lite.commands.text_encoders import load_encoder
  from t5x_lite.core.files import atomic_folder
  from t5x_lite.core.strict_json import format_json
  from t5x_lite.dialogue.schema import read_dialogues
  from t5x_lite.dialogue.structure.discover import StructureConfig, discover
  from t5x_lite.dialogue.structure.written import figures, write_structure
  from t5x_lite.dialogue.variational.discover_latent import discover_latent
  if args.encoder and args.model == 'vrnn':
    raise UserError('--encoder is of clusters, and a variational RNN reads bags of words: leave '
                    'one of them out')
  config = StructureConfig(
      speaker=args.speaker, context=args.context, k=args.k, choose_by=args.choose_by,
      annotations=tuple(args.annotations), length=args.length, seed=args.seed,
      delexicalise=args.delexicalise,
      min_probability=args.min_probability, min_count=args.min_count)
  dialogues = list(read_dialogues(args.dialogues))
  _report_broken(args.dialogues, dialogues)
  held_out = list(read_dialogues(args.held_out)) if args.held_out else []
  encoder = load_encoder(args.encoder) if args.encoder else None
  methods = {'kmeans': functools.partial(discover, encoder=encoder), 'vrnn': discover_latent}
  with atomic_folder(args.output) as folder:
    found = methods[args.model](dialogues, config, held_out)
    write_structure(folder, args.dialogues.stem, found, [one.id for one in dialogues])
  if args.json:
    print(format_json(figures(found), indent=1))
  else:
    print(_text(found, len(dialogues)))
    print(f'Page: {args.output / "structure.html"}')
  return 0


def _report_broken(path: pathlib.Path, dialogues: Sequence[Dialogue]) -> None:
  """Says on standard error which dialogues have faults that their structure would show."""
  from t5x_lite.dialogue.faults import FaultReport, check_dialogues
  report = FaultReport()
  list(check_dialogues(dialogues, {}, 'keep', report))   # of names, nothing is told
  for line in report.lines(_BROKEN):
    print(f'{path}: {line}: t5x-lite dialogue convert --policy=skip leaves them out',
          file=sys.stderr)


def _range(text: str) -> int | tuple[int, int]:
  try:
    numbers = tuple(map(int, text.split('-')))
  except ValueError:
    numbers = ()
  if len(numbers) not in (1, 2):
    raise UserError(f'--k={text}: write one number, or two as 5-20')
  return numbers[0] if len(numbers) == 1 else numbers


def _text(found, number: int) -> str:
  states, graph = found.states, found.graph
  lines = [f'{number:,} dialogues, {sum(map(len, found.paths)):,} utterances']
  for speaker in dict.fromkeys(state.speaker for state in states):
    line = f'  {speaker}: {sum(state.speaker == speaker for state in states)} states'
    if speaker in found.agreement:
      line += ''.join(f', {name} {value:.3f}' for name, value in found.agreement[speaker].items())
    lines.append(line)
  lines += [f'  entropy of what follows: {found.entropy["transition"]:.2f} bits where the state is '
            f'known, {found.entropy["marginal"]:.2f} where not',
            f'  automaton: {len(graph.nodes) - 2} states and {len(graph.edges)} edges after '
            f'pruning and minimisation']
  if found.held_out:
    lines += [f'  held out: {100 * found.held_out["coverage"]:.1f} % of transitions are edges',
              '  perplexity a state, held out: ' + ', '.join(
                  f'{name} {value:.2f}' for name, value in found.held_out['perplexity'].items())]
  return '\n'.join(lines)

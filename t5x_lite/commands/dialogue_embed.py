"""`t5x-lite dialogue embed`: a variational autoencoder of utterances, and its latent space."""

import argparse

from t5x_lite.core.errors import UserError
from t5x_lite.core.paths import local_path

EXAMPLE = 't5x-lite dialogue embed dialogues.jsonl --speaker=system --output=latents.png'
POINTS = 2_000   # utterances that are drawn, and measured, at most


def add_flags(parser: argparse.ArgumentParser) -> None:
  add = parser.add_argument
  add('dialogues', metavar='DIALOGUES.jsonl', type=local_path,
      help='dialogues, one a line, in the schema of t5x_lite/dialogue/schema.py')
  add('--output', metavar='FILE.png', type=local_path, required=True, help='the picture')
  add('--speaker', choices=('user', 'system'), default='system', help='default: system')
  add('--projection', choices=('pca', 'tsne'), default='pca',
      help='of the latents in two dimensions; default: pca')
  add('--latent', type=int, default=8, metavar='N', help='dimensions; default: 8')
  add('--free_bits', type=float, default=0.5, metavar='NATS',
      help="of each dimension's KL divergence, against collapse; default: 0.5")
  add('--word_dropout', type=float, default=0.3, metavar='SHARE',
      help='of the words before that the decoder does not see; default: 0.3')
  add('--annealing', type=int, default=300, metavar='STEPS',
      help="in which the KL divergence's weight rises from 0 to 1; default: 300")
  add('--steps', type=int, default=1000, help='default: 1000')
  add('--seed', type=int, default=0)
  add('--json', action='store_true', help='print the figures as JSON')


def run(args: argparse.Namespace) -> int:
  from t5x_lite.core.files import check_writable, save_figure
  from t5x_lite.core.strict_json import format_json
  from t5x_lite.dialogue.schema import read_dialogues
  from t5x_lite.dialogue.structure.agreement import act_label
  from t5x_lite.dialogue.structure.features import utterances
  from t5x_lite.dialogue.variational.picture import draw_latents, project
  from t5x_lite.dialogue.variational.text_vae import TextVaeConfig, fit_text_vae
  check_writable(args.output)
  config = TextVaeConfig(
      latent=args.latent, free_bits=args.free_bits, word_dropout=args.word_dropout,
      annealing=args.annealing, steps=args.steps, learning_rate=0.01, seed=args.seed)
  said = utterances(list(read_dialogues(args.dialogues)), args.speaker, delexicalised=True)
  if len(said) < 4:
    raise UserError(f'{args.dialogues} has {len(said)} utterances of the {args.speaker}: give 4 '
                    'or more')
  model = fit_text_vae([u.context for u in said], config)
  said = said[::-(-len(said) // POINTS)]
  texts = [u.context for u in said]
  found = {'utterances': len(texts), **model.summary(texts)}
  points = project(model.embed(texts), args.projection, args.seed)
  save_figure(draw_latents(points, [act_label(u.turn) for u in said],
                           f'Latent means of what the {args.speaker} says ({args.projection})'),
              args.output)
  if args.json:
    print(format_json(found, indent=1))
  else:
    print(f'{len(texts):,} utterances: ELBO {found["elbo"]:.3f}, IWAE {found["iwae"]:.3f} nats a '
          f'token\n  KL {found["kl"]:.2f} nats an utterance, information {found["information"]:.2f}'
          f', {found["active_units"]} of {args.latent} dimensions active\nPicture: {args.output}')
  return 0

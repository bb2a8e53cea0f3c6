"""`t5x-lite settings`: what gin files and --gin.CLASS.FIELD may set, with types and defaults."""

import argparse

EXAMPLE = 't5x-lite settings TrainConfig'


def add_flags(parser: argparse.ArgumentParser) -> None:
  parser.add_argument('classes', nargs='*', metavar='CLASS',
                      help='print the fields of these; default: the names of all classes')
  parser.add_argument('--markdown', action='store_true',
                      help='print all of them as docs/settings.md')


def run(args: argparse.Namespace) -> int:
  from t5x_lite.experiment import settings
  if args.markdown:
    print(settings.as_markdown(), end='')
  elif args.classes:
    print('\n\n'.join(settings.as_text(settings.find_class(name)) for name in args.classes))
  else:
    for name, cls in settings.settings_classes().items():
      print(f'{name:<18}{settings.summary(cls)}')
  return 0

"""GPT-1's fine-tuning with and without the language model's loss besides: L3 = L2 + lambda L1.

    python benchmarks/gpt1_finetuning.py --glue=GLUE --folder=runs/gpt1 --seeds=3

GLUE holds the folders SST-2 and RTE with train.tsv and dev.tsv. For each task a small decoder is
pre-trained on the text of its training examples, or taken from --init_from with its --vocabulary,
and fine-tuned with lambda 0.5 and 0. Prints the accuracy on dev.tsv, the mean and the range over
seeds. What is in --folder already is not trained again.
"""

import argparse
import pathlib

import trainings

TASKS = {   # inputs, text to pre-train on, labels, tokens of a row, steps of either training
    'SST-2': ('{sentence}', 'sentence', ('0', '1'), 64, 1500, 1500),
    'RTE': ('{sentence1} $ {sentence2}', '{sentence1} {sentence2}',
            ('entailment', 'not_entailment'), 192, 600, 400)}
LAMBDAS = (0.5, 0.0)

_MODEL = """
from __gin__ import dynamic_registration
from t5x_lite import experiment
from t5x_lite import models
from t5x_lite.objectives import classification
from tasks import files
from tasks.pipeline import evaluator

include 'models/tiny_decoder.gin'
include 'hardware/cpu.gin'
include 'runs/{recipe}.gin'

BATCH_SIZE = {rows}
STEPS = {steps}
VOCABULARY = {vocabulary!r}
SEED = {seed}
models.ModelConfig.vocab_size = {vocab_size}
files.FileTask.train = {train!r}
files.FileTask.validation = {validation!r}
TASK = @files.FileTask()
"""
_PRETRAIN = """
files.FileTask.targets = {text!r}
LEARNING_RATE = 3e-3
TARGETS_LENGTH = 128
evaluator.EvalConfig.num_examples = 256
"""
_FINETUNE = """
INIT_FROM = {base!r}
experiment.InitFrom.missing_ok = ('classifier',)
models.ModelConfig.num_classes = 2
classification.Classification.language_model = {factor}
files.FileTask.objective = 'decoder_classification'
files.FileTask.inputs = {inputs!r}
files.FileTask.targets = 'label'
files.FileTask.labels = {labels!r}
LEARNING_RATE = 5e-4
INPUTS_LENGTH = {length}
TARGETS_LENGTH = 1
"""


def train(folder: pathlib.Path, gin_text: str, **values) -> pathlib.Path:
  """Trains what a gin text describes; returns its folder."""
  gin = folder.with_suffix('.gin')
  gin.write_text((_MODEL + gin_text).format(**values))
  return trainings.train(folder, f'--gin_file={gin}')


def accuracy_of(folder: pathlib.Path) -> float:
  """The last accuracy of an evaluation of a run, in percent."""
  return next(value for name, value in trainings.last_metrics(folder).items()
              if name.endswith('classification/accuracy'))


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  add = parser.add_argument
  add('--glue', type=pathlib.Path, required=True)
  add('--folder', type=pathlib.Path, required=True)
  add('--seeds', type=int, default=1)
  add('--tasks', default=','.join(TASKS), help='names, with commas between them')
  add('--init_from', help='a run of models/tiny_decoder.gin, in place of pre-training')
  add('--vocabulary', help='of --init_from')
  add('--vocab_size', type=int, default=4096, help='pieces and extra ids, a multiple of 128')
  add('--scale', type=float, default=1.0, help='of all numbers of steps')
  args = parser.parse_args()
  steps = lambda number: max(1, int(number * args.scale))
  scores = {}
  for task in args.tasks.split(','):
    inputs, text, labels, length, pretraining, finetuning = TASKS[task]
    files = {split: str((args.glue / task / f'{name}.tsv').resolve())
             for split, name in (('train', 'train'), ('validation', 'dev'))}
    folder, base, vocabulary = (args.folder / task).resolve(), args.init_from, args.vocabulary
    folder.mkdir(parents=True, exist_ok=True)
    if base is None and not (folder / 'pieces.model').exists():
      trainings.run('train-vocab', f'--files={files["train"]}', f'--text={text}',
                    f'--size={args.vocab_size - 100}', f'--output={folder / "pieces"}')
    shared = dict(files, vocabulary=vocabulary or str(folder / 'pieces.model'),
                  vocab_size=args.vocab_size)
    if base is None:
      base = str(train(folder / 'base', _PRETRAIN, **shared, recipe='pretrain', text=text, rows=16,
                       seed=0, steps=steps(pretraining)))
    for factor in LAMBDAS:
      for seed in range(args.seeds):
        # No '.' in the name: files beside the folder have its name and a suffix.
        name = f'lambda_{round(100 * factor):03}_seed_{seed}'
        run_folder = train(folder / name, _FINETUNE, **shared, recipe='finetune', base=base,
                           inputs=inputs, labels=labels, length=length, rows=32, seed=seed,
                           factor=factor, steps=steps(finetuning))
        scores.setdefault((task, factor), []).append(accuracy_of(run_folder))
  print(f'{"task":<8}{"lambda":>8}{"accuracy, %":>26}')
  for (task, factor), values in scores.items():
    print(f'{task:<8}{factor:>8}{trainings.spread(values):>26}')


if __name__ == '__main__':
  main()

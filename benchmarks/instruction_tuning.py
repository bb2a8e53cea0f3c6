"""A small decoder before and after it learns to answer, by full fine-tuning and by adapters.

    python benchmarks/instruction_tuning.py --base=runs/pieces --vocabulary=runs/pieces.model
        --folder=runs/instruct --seeds=3

--base is a run of experiments/tiny_lm_pieces.gin. For each recipe and seed: the loss of the
answers about functions of held-out modules, how many of 200 of them come to their end within the
model's length at temperature 0, the share of exact answers and ROUGE-L; the mean and the range
over seeds. What is in --folder already is not trained again.
"""

import argparse
import json
import pathlib

import trainings

RECIPES = ('stdlib_instruct', 'lora_instruct', 'qlora_instruct')
ANSWERS = 200
COLUMNS = ('loss', 'ended', 'exact match', 'ROUGE-L')


def scores_of(output: pathlib.Path, loss: float, *args: str) -> tuple[float, ...]:
  """COLUMNS of a run, whose configuration `args` are; its answers are written to `output`."""
  from tasks import metrics
  if not output.exists():
    trainings.run('infer', *args, f'--gin.InferConfig.num_examples={ANSWERS}',
                  f'--gin.InferConfig.output={output}')
  records = [*map(json.loads, output.read_text().splitlines())]
  targets, answers = ([record[key] for record in records] for key in ('targets', 'output'))
  return (loss, sum(record['ended'] for record in records),
          metrics.exact_match(targets, answers)['exact_match'],
          metrics.rouge_l(targets, answers)['rouge_l'])


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  add = parser.add_argument
  add('--base', required=True)
  add('--vocabulary', required=True)
  add('--folder', type=pathlib.Path, required=True)
  add('--seeds', type=int, default=1)
  add('--recipes', default=','.join(RECIPES), help='names, with commas between them')
  args = parser.parse_args()
  folder = args.folder.resolve()
  folder.mkdir(parents=True, exist_ok=True)
  flags = [f'--gin.VOCABULARY={args.vocabulary}', f'--gin.INIT_FROM={args.base}']
  before = ['--gin_file=experiments/stdlib_instruct.gin', *flags, f'--gin.MODEL_DIR={args.base}']
  rows = {'before': [scores_of(folder / 'before.jsonl', trainings.loss_of(*before), *before)]}
  for recipe in args.recipes.split(','):
    for seed in range(args.seeds):
      name = f'{recipe}_{seed}'
      trained = trainings.train(folder / name, f'--gin_file=experiments/{recipe}.gin', *flags,
                                f'--gin.SEED={seed}')
      rows.setdefault(recipe, []).append(scores_of(
          folder / f'{name}.jsonl', trainings.last_metrics(trained)['stdlib_instruct/loss'],
          f'--gin_file={trained}/config.gin'))
  print(f'{"recipe":<24}' + ''.join(f'{column:>24}' for column in COLUMNS))
  for recipe, scores in rows.items():
    print(f'{recipe:<24}' + ''.join(f'{trainings.spread(x):>24}' for x in zip(*scores)))


if __name__ == '__main__':
  main()

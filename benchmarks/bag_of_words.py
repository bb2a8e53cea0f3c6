"""What a bag of words knows of a classification: logistic regression on words and pairs of words.

    python benchmarks/bag_of_words.py train.tsv dev.tsv --text=sentence --label=label

Prints its accuracy, and that of the commonest label, beside which experiments/classify_files.gin
is to be seen.
"""

import argparse
import collections

from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from t5x_lite.data.files.index import index_files
from t5x_lite.data.files.templates import Template


def read(pattern: str, text: str, label: str) -> tuple[list[str], list[str]]:
  """(texts, labels) of files, as a FileTask reads them."""
  examples = index_files(pattern, {'inputs': Template(text), 'targets': Template(label)}, pattern)
  features = [examples[i] for i in range(len(examples))]
  return [x['inputs'] for x in features], [x['targets'] for x in features]


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('train')
  parser.add_argument('validation')
  parser.add_argument('--text', default='text')
  parser.add_argument('--label', default='label')
  args = parser.parse_args()
  texts, labels = read(args.train, args.text, args.label)
  test_texts, test_labels = read(args.validation, args.text, args.label)
  commonest = collections.Counter(labels).most_common(1)[0][0]
  print(f'commonest label: {100 * test_labels.count(commonest) / len(test_labels):.1f} %')
  for name, span in (('words', (1, 1)), ('words and pairs', (1, 2))):
    model = make_pipeline(CountVectorizer(ngram_range=span), LogisticRegression(max_iter=2000))
    model.fit(texts, labels)
    print(f'{name}: {100 * model.score(test_texts, test_labels):.1f} %')


if __name__ == '__main__':
  main()

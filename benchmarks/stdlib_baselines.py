"""What trivial models reach on the stdlib tasks: the figures that a trained one must beat.

    python benchmarks/stdlib_baselines.py

Models are fitted on the training split and measured on the validation split. The text is that of
the running Python, so the figures differ a little between versions.
"""

import argparse
from collections.abc import Callable
import re

import numpy as np
import seqio
from sklearn.feature_extraction import FeatureHasher
from sklearn.linear_model import LogisticRegression

from tasks import metrics
from tasks.datasets import python_stdlib, stdlib, stdlib_sources

_EM_STEPS = 30
_MLM_LENGTH = 512


def ngram_counts(texts: list[bytes]) -> list[np.ndarray]:
  """Returns counts of a byte, of a byte after one, and of a byte after two.

  Their shapes are [256], [256, 256] and [256, 256, 256], the byte itself on the last axis. Two
  zero bytes stand before each text.
  """
  ids = np.concatenate([_trigrams(text) for text in texts])
  counts = np.bincount(ids, minlength=256 ** 3)
  trigram = counts.reshape(256, 256, 256)
  bigram = trigram.sum(0)
  return [bigram.sum(0), bigram, trigram]


def order_probabilities(counts: list[np.ndarray], texts: list[bytes]) -> np.ndarray:
  """Returns [n, 4]: each byte's probability by the uniform, uni-, bi- and trigram estimates.

  An estimate is 0 where its context never occurred.
  """
  ids = np.concatenate([_trigrams(text) for text in texts])
  columns = [np.full(ids.size, 1 / 256)]
  for count in counts:
    flat = count.reshape(-1)
    totals = count.sum(-1).reshape(-1)
    index = ids % flat.size
    columns.append(flat[index] / np.maximum(totals[index // 256], 1))
  return np.stack(columns, axis=1)


def fit_weights(probabilities: np.ndarray) -> np.ndarray:
  """Returns the mixture weights [orders] of highest likelihood, by expectation maximisation."""
  weights = np.full(probabilities.shape[1], 1 / probabilities.shape[1])
  for _ in range(_EM_STEPS):
    shares = probabilities * weights
    weights = (shares / shares.sum(1, keepdims=True)).mean(0)
  return weights


def ngram_bits_per_byte(train: list[bytes], validation: list[bytes]) -> dict[str, float]:
  """Returns bits per byte of a unigram and of an interpolated trigram model.

  The weights are fitted on every twentieth training text, with counts of the others.
  """
  held_out = train[::20]
  counts = ngram_counts([t for i, t in enumerate(train) if i % 20])
  probabilities = order_probabilities(counts, held_out)
  weights = {n: fit_weights(probabilities[:, :n]) for n in (2, 4)}
  probabilities = order_probabilities(ngram_counts(train), validation)
  bits = {n: -np.log2(probabilities[:, :n] @ w).mean() for n, w in weights.items()}
  return {'unigram': float(bits[2]), 'trigram': float(bits[4])}


def majority_package_accuracy(train, validation) -> dict[str, float]:
  """Returns accuracy and macro-F1 of always naming the most frequent training package."""
  ranks = lambda split: [
      int(ex['package_rank']) for ex in split if ex['package_rank'] < stdlib.NUM_PACKAGES
  ]
  majority = int(np.bincount(ranks(train)).argmax())
  targets = ranks(validation)
  predictions = [majority] * len(targets)
  return {
      **metrics.accuracy(targets, predictions), **metrics.macro_f1(targets, predictions),
      'examples': len(targets),
  }


def majority_mlm_accuracy(train: list[bytes]) -> float:
  """Returns the percentage of selected positions that hold the most frequent training byte."""
  counts = sum(np.bincount(np.frombuffer(t, np.uint8), minlength=256) for t in train)
  majority = stdlib.VOCABULARY.encode(chr(int(counts.argmax())))[0]
  task = seqio.get_mixture_or_task('stdlib_mlm')
  lengths = {'inputs': _MLM_LENGTH, 'targets': _MLM_LENGTH}
  dataset = task.get_dataset(lengths, 'validation', shuffle=False, seed=0)
  targets = np.concatenate([ex['targets'] for ex in dataset.as_numpy_iterator()])
  return 100.0 * float((targets[targets > 0] == majority).mean())


def operator_accuracies(train, validation) -> dict[str, float]:
  """Returns the percentages of operators that linear models of the words around the gap name."""
  targets = [ex['operator'] for ex in validation]
  commonest = int(np.bincount([ex['operator'] for ex in train]).argmax())
  found = {'commonest': metrics.accuracy(targets, [commonest] * len(targets))['accuracy']}
  hasher = FeatureHasher(2 ** 20, input_type='string')
  for name, features in (('bag of words', _all_words), ('neighbouring words', _neighbours)):
    rows = {split: hasher.transform(map(_features_of(features), examples))
            for split, examples in (('train', train), ('validation', validation))}
    model = LogisticRegression(max_iter=200, solver='saga', tol=1e-2, random_state=0)
    model.fit(rows['train'], [ex['operator'] for ex in train])
    predictions = model.predict(rows['validation']).tolist()
    found[name] = metrics.accuracy(targets, predictions)['accuracy']
  return found


def name_as_docstring(validation) -> dict[str, dict[str, float]]:
  """Returns the docstring metrics of answering with the function's own name."""
  names = [ex['name'].decode().split('.')[-1] for ex in validation]
  targets = [ex['docstring'].decode() for ex in validation]
  answers = {
      'verbatim': names,
      'as words': [' '.join(name.replace('_', ' ').split()) for name in names],
  }
  return {
      kind: {
          **metrics.exact_match(targets, predictions),
          **metrics.rouge_l(targets, predictions),
          **metrics.bleu(targets, predictions),
      }
      for kind, predictions in answers.items()
  }


def main() -> None:
  parser = argparse.ArgumentParser(
      description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.parse_args()
  modules = python_stdlib.prepared_builder('modules').as_data_source()
  texts = {split: [ex['text'] for ex in modules[split]] for split in ('train', 'validation')}
  functions = python_stdlib.prepared_builder('functions').as_data_source()
  train, validation = list(functions['train']), list(functions['validation'])

  print(f'python_stdlib {python_stdlib.PythonStdlib.VERSION}, validation split')
  for split in python_stdlib.SPLITS:
    size = sum(len(ex['text']) for ex in modules[split])
    print(f'{split:11s}{len(modules[split]):6d} modules {size:11,d} bytes'
          f'{len(functions[split]):7d} functions')
  for model, bits in ngram_bits_per_byte(texts['train'], texts['validation']).items():
    print(f'stdlib_lm, {model}: {bits:.3f} bits per byte')
  print(f'stdlib_mlm, most frequent id: {majority_mlm_accuracy(texts["train"]):.2f} % correct')
  package = majority_package_accuracy(train, validation)
  print('stdlib_package, most frequent package: '
        f'accuracy {package["accuracy"]:.2f}, macro-F1 {package["macro_f1"]:.2f} '
        f'({package["examples"]} examples)')
  operators = python_stdlib.prepared_builder('operators').as_data_source()
  for kind, percent in operator_accuracies(
      list(operators['train']), list(operators['validation'])).items():
    print(f'stdlib_operator, {kind}: accuracy {percent:.2f}')
  for kind, scores in name_as_docstring(validation).items():
    figures = ', '.join(f'{name} {score:.2f}' for name, score in scores.items())
    print(f'stdlib_docstring, name {kind}: {figures}')


def _features_of(features: Callable) -> Callable:
  """Of an example, from the words before and after its gap."""
  words = lambda text: re.findall(r'\w+|[^\w\s]|\n', text)
  return lambda ex: features(*map(words, ex['code'].decode().split(stdlib_sources.GAP, 1)))


def _all_words(before: list[str], after: list[str]) -> list[str]:
  return before + after


def _neighbours(before: list[str], after: list[str]) -> list[str]:
  """The four words on each side with their distances, pairs of them, and the pair at the gap."""
  near = [f'-{i} {word}' for i, word in enumerate(before[:-5:-1])]
  near += [f'+{i} {word}' for i, word in enumerate(after[:4])]
  return [*near, f'{before[-1:]}{after[:1]}', f'-{before[-2:]}', f'+{after[:2]}']


def _trigrams(text: bytes) -> np.ndarray:
  """Returns an int64 array [bytes]: each byte with the two before it, as one number."""
  codes = np.frombuffer(b'\0\0' + text, np.uint8).astype(np.int64)
  return codes[:-2] << 16 | codes[1:-1] << 8 | codes[2:]


if __name__ == '__main__':
  main()

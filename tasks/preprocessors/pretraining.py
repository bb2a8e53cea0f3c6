"""What a text is trained for: the features, preprocessors and metrics of each objective.

Preprocessors begin from a string feature `targets`; `tlm` and `text_to_text` have `inputs` too.
"""

from typing import Any

import seqio

from tasks import metrics
from tasks.preprocessors.chunking import chunk_targets
from tasks.preprocessors.fill_in_middle import fill_in_middle
from tasks.preprocessors.iid_denoising import iid_denoising
from tasks.preprocessors.masking import mask_language_model
from tasks.preprocessors.prefix_lm import prefix_lm
from tasks.preprocessors.sentence_pairs import bert_pairs, translation_pairs
from tasks.preprocessors.span_corruption import span_corruption
from tasks.preprocessors.text import tokenize_text
from tasks.preprocessors.ul2 import ul2

# The sources shuffle whole texts. A buffer this large holds pieces of a hundred or so of them at
# once, where seqio's default of 1,000 would give batches made of a handful of documents.
SHUFFLE_BUFFER_SIZE = 5_000

# Where tasks/pipeline/caching.py writes what is the same in every epoch.
TOKENIZED = (tokenize_text, seqio.CacheDatasetPlaceholder())

PREPROCESSORS = {
    'lm': (
        *TOKENIZED,
        seqio.preprocessors.append_eos,
        chunk_targets,
    ),
    'fim': (
        *TOKENIZED,
        fill_in_middle,
    ),
    'prefix_lm': (
        *TOKENIZED,
        prefix_lm,
    ),
    'span_corruption': (
        *TOKENIZED,
        span_corruption,
    ),
    'iid_denoising': (
        *TOKENIZED,
        iid_denoising,
    ),
    'ul2': (
        *TOKENIZED,
        ul2,
    ),
    'mlm': (
        *TOKENIZED,
        mask_language_model,
    ),
    'mlm_nsp': (
        *TOKENIZED,
        bert_pairs,
    ),
    'tlm': (
        *TOKENIZED,
        translation_pairs,
    ),
    'text_to_text': (
        seqio.preprocessors.tokenize,
        seqio.CacheDatasetPlaceholder(),
        seqio.preprocessors.append_eos_after_trim,
    ),
}

METRICS = {name: (metrics.language_modeling,) for name in PREPROCESSORS} | {
    'text_to_text': (metrics.exact_match, metrics.rouge_l),
}


def output_features(objective: str, vocabulary: seqio.Vocabulary) -> dict[str, seqio.Feature]:
  """Returns the seqio features of a task with this objective."""
  feature = seqio.Feature(vocabulary, add_eos=True)
  if objective in ('lm', 'fim'):
    return {'targets': feature}
  features = {'inputs': feature, 'targets': feature}
  if objective == 'mlm_nsp':
    two = seqio.Feature(seqio.PassThroughVocabulary(2), add_eos=False)
    features |= {'token_types': two, 'next_sentence_label': two}
  return features


def task_parts(objective: str, vocabulary: seqio.Vocabulary, *, before: tuple = ()
               ) -> dict[str, Any]:
  """The arguments of TaskRegistry.add that make a task of this objective.

  Args:
    objective: one of PREPROCESSORS.
    vocabulary: of its text.
    before: preprocessors that come first.
  """
  return dict(
      preprocessors=(*before, *PREPROCESSORS[objective]),
      output_features=output_features(objective, vocabulary),
      metric_fns=METRICS[objective],
  )

"""GLUE (Wang et al. 2018) as T5 has it. Importing this file registers its tasks:

glue_cola, glue_sst2, glue_mrpc, glue_stsb, glue_qqp, glue_mnli, glue_mnli_matched,
glue_mnli_mismatched, glue_qnli, glue_rte, glue_wnli: text to text
the same and _classification, but for glue_stsb: for encoder-only models
the same and _decoder_classification, likewise: for decoders with a head, as GPT-1 reads them
glue: the mixture
"""

import seqio

from tasks import metrics
from tasks.datasets.supervised import Supervised
from tasks.metrics import postprocessors
from tasks.preprocessors import prompts

_NLI = ('entailment', 'not_entailment')
_SENTENCES = 'sentence1: {sentence1} sentence2: {sentence2}'
# What a decoder's head reads (Radford et al. 2018, figure 1): the delimiter between premise and
# hypothesis, and both orders of what is compared.
_ordered = lambda first, second: (f'{{{first}}} $ {{{second}}}',)
_compared = lambda first, second: _ordered(first, second) + _ordered(second, first)

_mnli = lambda name, splits: Supervised(
    name=name,
    source='glue/mnli:2.0.0',
    splits=splits,
    inputs='mnli hypothesis: {hypothesis} premise: {premise}',
    labels=('entailment', 'neutral', 'contradiction'),
    texts=_ordered('premise', 'hypothesis'),
    metrics=(metrics.accuracy,),
)
_held_out = lambda kind: {'validation': f'validation_{kind}', 'test': f'test_{kind}'}

TASKS = (
    Supervised(
        name='glue_cola',
        source='glue/cola:2.0.0',
        inputs='cola sentence: {sentence}',
        labels=('unacceptable', 'acceptable'),
        texts=('{sentence}',),
        metrics=(metrics.matthews,),
    ),
    Supervised(
        name='glue_sst2',
        source='glue/sst2:2.0.0',
        inputs='sst2 sentence: {sentence}',
        labels=('negative', 'positive'),
        texts=('{sentence}',),
        metrics=(metrics.accuracy,),
    ),
    Supervised(
        name='glue_mrpc',
        source='glue/mrpc:2.0.0',
        inputs=f'mrpc {_SENTENCES}',
        labels=('not_equivalent', 'equivalent'),
        texts=_compared('sentence1', 'sentence2'),
        metrics=(metrics.f1, metrics.accuracy),
    ),
    Supervised(
        name='glue_stsb',
        source='glue/stsb:2.0.0',
        prepare=prompts.rounded_score,
        inputs=f'stsb {_SENTENCES}',
        targets='{score}',
        postprocess=postprocessors.number,
        metrics=(metrics.correlations,),
    ),
    Supervised(
        name='glue_qqp',
        source='glue/qqp:2.0.0',
        inputs='qqp question1: {question1} question2: {question2}',
        labels=('not_duplicate', 'duplicate'),
        texts=_compared('question1', 'question2'),
        metrics=(metrics.f1, metrics.accuracy),
    ),
    # The matched part validates glue_mnli, also by its own name, as T5 has it.
    _mnli('glue_mnli', {'train': 'train', **_held_out('matched')}),
    _mnli('glue_mnli_matched', _held_out('matched')),
    _mnli('glue_mnli_mismatched', _held_out('mismatched')),
    Supervised(
        name='glue_qnli',
        source='glue/qnli:2.0.0',
        inputs='qnli question: {question} sentence: {sentence}',
        labels=_NLI,
        texts=_ordered('question', 'sentence'),
        metrics=(metrics.accuracy,),
    ),
    Supervised(
        name='glue_rte',
        source='glue/rte:2.0.0',
        inputs=f'rte {_SENTENCES}',
        labels=_NLI,
        texts=_ordered('sentence1', 'sentence2'),
        metrics=(metrics.accuracy,),
    ),
    Supervised(
        name='glue_wnli',
        source='glue/wnli:2.0.0',
        inputs=f'wnli {_SENTENCES}',
        labels=('not_entailment', 'entailment'),
        texts=_ordered('sentence1', 'sentence2'),
        metrics=(metrics.accuracy,),
    ),
)

# Training examples. T5 leaves WNLI out, whose validation split contradicts its training split.
EXAMPLES = {
    'glue_cola': 8_551,
    'glue_sst2': 67_349,
    'glue_mrpc': 3_668,
    'glue_qqp': 363_849,
    'glue_stsb': 5_749,
    'glue_mnli': 392_702,
    'glue_qnli': 104_743,
    'glue_rte': 2_490,
    'glue_mnli_mismatched': 0,  # It is only evaluated.
}

for _task in TASKS:
  _task.register()

seqio.MixtureRegistry.add('glue', [(name, float(n)) for name, n in EXAMPLES.items()])

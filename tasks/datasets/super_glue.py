"""SuperGLUE (Wang et al. 2019) as T5 has it. Importing this file registers its tasks:

super_glue_boolq, super_glue_cb, super_glue_copa, super_glue_multirc, super_glue_record,
super_glue_rte, super_glue_wic: text to text
the same and _classification, but for super_glue_multirc and super_glue_record: for encoder-only
models
the same and _decoder_classification, likewise: for decoders with a head, as GPT-1 reads them
super_glue: the mixture
"""

import functools

import seqio

from tasks import metrics
from tasks.datasets.supervised import Supervised
from tasks.metrics import postprocessors, question_answering
from tasks.preprocessors import prompts

_FALSE_TRUE = ('False', 'True')

TASKS = (
    Supervised(
        name='super_glue_boolq',
        source='super_glue/boolq:1.0.2',
        inputs='boolq passage: {passage} question: {question}',
        labels=_FALSE_TRUE,
        texts=('{passage} $ {question}',),
        metrics=(metrics.accuracy,),
    ),
    Supervised(
        name='super_glue_cb',
        source='super_glue/cb:1.0.2',
        inputs='cb hypothesis: {hypothesis} premise: {premise}',
        labels=('entailment', 'contradiction', 'neutral'),
        texts=('{premise} $ {hypothesis}',),
        metrics=(metrics.mean_class_f1(3), metrics.accuracy),
    ),
    Supervised(
        name='super_glue_copa',
        source='super_glue/copa:1.0.2',
        inputs='copa choice1: {choice1} choice2: {choice2} premise: {premise} question: {question}',
        labels=('choice1', 'choice2'),
        texts=('{premise} {question} $ {choice1}', '{premise} {question} $ {choice2}'),
        choice=True,
        metrics=(metrics.accuracy,),
    ),
    Supervised(
        name='super_glue_multirc',
        source='super_glue/multirc:1.0.2',
        prepare=prompts.multirc,
        inputs='multirc question: {question} answer: {answer} paragraph: {paragraph}',
        labels=_FALSE_TRUE,
        keep=('group',),
        postprocess=functools.partial(postprocessors.grouped_label, labels=_FALSE_TRUE),
        metrics=(question_answering.multirc,),
    ),
    Supervised(
        name='super_glue_record',
        source='super_glue/record:1.0.2',
        prepare=prompts.record,
        inputs='record query: {query} entities: {entities} passage: {passage}',
        targets='{answer}',
        keep=('group', 'answers'),
        postprocess=postprocessors.grouped_answers,
        metrics=(question_answering.record,),
    ),
    Supervised(
        name='super_glue_rte',
        source='super_glue/rte:1.0.2',
        inputs='rte hypothesis: {hypothesis} premise: {premise}',
        labels=('entailment', 'not_entailment'),
        texts=('{premise} $ {hypothesis}',),
        metrics=(metrics.accuracy,),
    ),
    Supervised(
        name='super_glue_wic',
        source='super_glue/wic:1.0.2',
        inputs='wic sentence1: {sentence1} sentence2: {sentence2} word: {word}',
        labels=_FALSE_TRUE,
        texts=('{sentence1} $ {sentence2} $ {word}', '{sentence2} $ {sentence1} $ {word}'),
        metrics=(metrics.accuracy,),
    ),
)

# Training examples; those of ReCoRD are counted after it is made one for each right answer.
EXAMPLES = {
    'super_glue_boolq': 9_427,
    'super_glue_cb': 250,
    'super_glue_copa': 400,
    'super_glue_multirc': 27_243,
    'super_glue_record': 138_854,
    'super_glue_rte': 2_490,
    'super_glue_wic': 5_428,
}

for _task in TASKS:
  _task.register()

seqio.MixtureRegistry.add('super_glue', [(name, float(n)) for name, n in EXAMPLES.items()])

"""The supervised tasks of T5 (Raffel et al. 2020). Importing this file registers them:

those of glue.py and super_glue.py beside it, with the mixtures glue and super_glue
squad, cnn_dailymail, wmt_en_de, wmt_en_fr, wmt_en_ro: text to text
t5_supervised, t5_supervised_equal, t5_supervised_temperature: all of it, at three kinds of rates
"""

import seqio

from tasks import metrics
from tasks.datasets import glue, super_glue
from tasks.datasets.supervised import Supervised
from tasks.metrics import postprocessors, question_answering
from tasks.pipeline import rates
from tasks.preprocessors import prompts

_from_english = lambda code, language, source: Supervised(
    name=f'wmt_en_{code}',
    source=source,
    inputs=f'translate English to {language}: {{en}}',
    targets=f'{{{code}}}',
    metrics=(metrics.bleu_intl,),
)

TASKS = (
    Supervised(
        name='squad',
        source='squad/v1.1:3.0.0',
        splits=('train', 'validation'),
        prepare=prompts.squad,
        keep=('answers',),
        postprocess=postprocessors.all_answers,
        metrics=(question_answering.squad,),
    ),
    Supervised(
        name='cnn_dailymail',
        source='cnn_dailymail:3.4.0',
        inputs='summarize: {article}',
        targets='{highlights}',
        metrics=(metrics.rouge,),
    ),
    _from_english('de', 'German', 'wmt_t2t_translate/de-en:1.0.0'),
    _from_english('fr', 'French', 'wmt15_translate/fr-en:1.0.0'),
    _from_english('ro', 'Romanian', 'wmt16_translate/ro-en:1.0.0'),
)

for _task in TASKS:
  _task.register()

_EXAMPLES = {**glue.EXAMPLES, **super_glue.EXAMPLES}


def _rates(**settings) -> list[tuple]:
  """Returns every task and `rates.rate` of its examples, half of that for RTE, listed twice."""
  share = lambda name: 0.5 if name.endswith('_rte') else 1.0
  known = [(name, share(name) * rates.rate(n, **settings)) for name, n in _EXAMPLES.items()]
  return known + [(task.name, rates.proportional(**settings)) for task in TASKS]


seqio.MixtureRegistry.add('t5_supervised', _rates())
seqio.MixtureRegistry.add('t5_supervised_temperature', _rates(cap=2 ** 21, temperature=2.0))
seqio.MixtureRegistry.add(
    't5_supervised_equal', [*_EXAMPLES, *(task.name for task in TASKS)], default_rate=rates.equal
)

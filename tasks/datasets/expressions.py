"""A seqio task of expressions that are to be completed. Importing this registers:

python_expressions   the beginning of an expression -> the rest: short ones of Python's standard
                     library, cut where the beginning is no expression by itself

It is made for rollouts (inference/rollouts), whose reward is whether Python reads what a policy
writes (checkers.PythonExpression), and to train the policy that these begin with. An empty
completion has no reward, as of a beginning that were an expression it would.
"""

import functools

import seqio

from tasks import metrics
from tasks.datasets.stdlib import VOCABULARY, StdlibSource
from tasks.preprocessors import pretraining

seqio.TaskRegistry.add(
    'python_expressions',
    source=StdlibSource('expressions'),
    preprocessors=(
        functools.partial(seqio.preprocessors.rekey,
                          key_map={'inputs': 'beginning', 'targets': 'rest'}),
        *pretraining.PREPROCESSORS['text_to_text'],
    ),
    output_features=pretraining.output_features('text_to_text', VOCABULARY),
    metric_fns=(metrics.exact_match,),
)

"""seqio tasks of generated dialogues, which need no download. Importing this registers:

generated_response, generated_state, generated_end_to_end   the turns so far -> what the name says,
                     for decoders; responses have tags for values
…_instruct           the same, the turns as the input of an instruction
…_pairs              as inputs and targets, for encoder-decoders and scores of answers
"""

import seqio

from t5x_lite.dialogue.asking import TARGETS
from tasks.dialogue.encoding import TurnEncoding
from tasks.dialogue.source import GeneratedSource
from tasks.instruction.named_templates import load_template

TEMPLATE = 'zephyr'   # of text and the end of text alone, so that any vocabulary has its tokens
DIALOGUES = {'train': 2000, 'validation': 200, 'test': 200}


def _register(target: str, suffix: str, rows: str, objective: str) -> None:
  template = load_template(TEMPLATE)
  parts = TurnEncoding(template=template, too_long='cut_turns').task_parts(objective)
  seqio.TaskRegistry.add(f'generated_{target}{suffix}', **parts,
                         source=GeneratedSource(DIALOGUES, template, target, rows))


for _target in TARGETS:
  _register(_target, '', 'turns', 'lm')
  _register(_target, '_instruct', 'instruction', 'lm')
  _register(_target, '_pairs', 'turns', 'text_to_text')

"""What a model is asked, and how its answers are read (Wang et al. 2022, section 2.2).

Each prompt shows tasks that people wrote and leaves the last one to the model.
"""

from collections.abc import Sequence
import re

from tasks.instruction.self_instruct.seed_tasks import Task

_ITEM = re.compile(r'\n\s*\d+\s?[.)]\s')
_FIRST_NUMBER = re.compile(r'\A\s*\d+\s?[.)]\s')
_EXAMPLE = re.compile(r'(?m)^\s*Example\s*\d*\s*[.:]?\s*$')
_INPUT = re.compile(r'(?m)^\s*Input\s*\d*\s*:')
_OUTPUT = re.compile(r'(?m)^\s*Output\s*\d*\s*:')
_LABEL = re.compile(r'(?m)^\s*Class label\s*:')
_NEXT_TASK = re.compile(r'(?m)^\s*Task\s*:')

Instance = tuple[str, str]   # input and output


def ask_instructions(shown: Sequence[str]) -> str:
  """A numbered list of instructions, to be continued."""
  lines = [f'{i}. {_one_line(text).rstrip(":")}' for i, text in enumerate(shown, 1)]
  return '\n'.join(['Come up with a series of tasks:', *lines, f'{len(shown) + 1}.'])


def read_instructions(text: str, ended: bool, most: int) -> list[tuple[str, bool]]:
  """(instruction, whether it is whole) of the items that a model wrote, at most so many.

  A blank line ends the list. `ended` says whether the model ended its text itself.
  """
  text, blank, _ = text.strip().partition('\n\n')
  items = _ITEM.split('\n' + _FIRST_NUMBER.sub('', text, count=1))
  items = [_one_line(item) for item in items]
  whole = [True] * len(items)
  whole[-1] = bool(ended or blank)
  return [(item[:1].upper() + item[1:], flag) for item, flag in zip(items, whole) if item][:most]


def ask_class(shown: Sequence[Task], instruction: str) -> str:
  """Whether an instruction is a classification, after some of both kinds."""
  lines = ['Can the following task be regarded as a classification task with finite output labels?',
           '']
  for task in shown:
    lines += [f'Task: {_one_line(task.instruction)}',
              f'Is it classification? {"Yes" if task.is_classification else "No"}', '']
  return '\n'.join([*lines, f'Task: {instruction}', 'Is it classification?'])


def read_class(text: str) -> bool | None:
  """The answer; None for one that is neither yes nor no."""
  word = re.match(r'\W*(\w+)', text)
  return {'yes': True, 'no': False}.get(word[1].lower()) if word else None


def ask_instances(shown: Sequence[Task], instruction: str, is_classification: bool) -> str:
  """Instances of an instruction: of a classification the label comes first, so that all labels get
  inputs, of another task the input."""
  lead = ('Given the classification task definition and the class labels, generate an input that '
          "corresponds to each of the class labels. If the task doesn't require input, just "
          'generate possible class labels.') if is_classification else (
              'Come up with examples for the following tasks. Try to generate multiple examples '
              "when possible. If the task doesn't require additional input, you can generate the "
              'output directly.')
  write = _label_first if is_classification else _input_first
  return '\n'.join([lead, '', *[line for task in shown for line in [*write(task), '']],
                    f'Task: {instruction}', ''])


def read_instances(text: str, ended: bool, is_classification: bool) -> list[Instance]:
  """The instances that a model wrote; one that it was stopped in is left out."""
  parts = _NEXT_TASK.split(text)
  ended = ended or len(parts) > 1
  found = (_read_labels if is_classification else _read_examples)(parts[0].strip())
  return found if ended else found[:-1]


def _label_first(task: Task) -> list[str]:
  lines = [f'Task: {_one_line(task.instruction)}']
  for given, output in task.instances:
    lines += [f'Class label: {_one_line(output)}', *[f'Input: {given}'] * bool(given.strip())]
  return lines


def _input_first(task: Task) -> list[str]:
  lines = [f'Task: {_one_line(task.instruction)}']
  for number, (given, output) in enumerate(task.instances, 1):
    if given.strip():
      lines += [f'Example {number}', f'Input: {given}']
    lines.append(f'Output: {output}')
  return lines


def _read_labels(text: str) -> list[Instance]:
  found = []
  for piece in _LABEL.split(text)[1:]:
    label, _, given = piece.strip().partition('\n')
    found.append((_INPUT.sub('', given, count=1).strip(), label.strip()))
  return found


def _read_examples(text: str) -> list[Instance]:
  """An Example or more, each an input and an output, or an output alone."""
  found = []
  for piece in _EXAMPLE.split(text):
    given, *outputs = _OUTPUT.split(piece)
    if outputs:   # else it is an input whose output is missing, or nothing
      output = _INPUT.split(outputs[0])[0]   # what follows is another example without its heading
      found.append((_INPUT.sub('', given, count=1).strip(), output.strip()))
  return found


def _one_line(text: str) -> str:
  return ' '.join(text.split())

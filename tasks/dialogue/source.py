"""The seqio sources behind DialogueTask, and of generated dialogues."""

from collections.abc import Mapping
import random

import seqio
import tensorflow as tf

from t5x_lite.data.files.index import FileIndex
from tasks.dialogue.generated import generate
from tasks.dialogue.rows import conversations
from tasks.instruction.chat_template import ChatTemplate
from tasks.instruction.encoding import Encoding
from tasks.instruction.source import ConversationSource


class DialogueSource(ConversationSource):
  """`conversation`, as JSON, and `place`, the file and the offset of its dialogue."""

  nothing = 'has a turn with what the target needs, such as a state: choose another target'


class GeneratedSource(seqio.FunctionDataSource):
  """`conversation`, as JSON, and `place`, the dialogue and the number of the row.

  Attributes:
    template: by which conversations are written.
  """

  def __init__(self, numbers: Mapping[str, int], template: ChatTemplate, target: str, rows: str):
    """
    Args:
      numbers: of dialogues of each split; each has a seed of its own.
      template, target, rows: as of a DialogueTask.
    """
    self.template = template

    def dataset(split: str, shuffle_files: bool, seed: int | None = None) -> tf.data.Dataset:
      dialogues = generate(numbers[split], seed=[*numbers].index(split))
      found = [(row.to_json(), f'{one.id}, row {i}') for one in dialogues
               for i, row in enumerate(conversations(one, target, rows, True))]
      if shuffle_files:
        random.Random(seed).shuffle(found)
      texts, places = map(list, zip(*found))
      return tf.data.Dataset.from_tensor_slices({'conversation': texts, 'place': places})

    super().__init__(dataset, splits=tuple(numbers))


def register(name: str, objective: str, indices: Mapping[str, FileIndex], encoding: Encoding
             ) -> None:
  """Registers the task of that name, with the parts of `Encoding.task_parts`."""
  seqio.TaskRegistry.add(name, source=DialogueSource(indices, encoding),
                         **encoding.task_parts(objective))

"""The seqio source and task behind `tasks.preferences.PreferenceTask`."""

from collections.abc import Mapping

import seqio

from t5x_lite.data.files.index import FileIndex
from tasks.instruction.source import ConversationSource
from tasks.preferences.encoding import WITHOUT_PREFERENCE, ComparisonEncoding


class ComparisonSource(ConversationSource):
  """`conversation`, a comparison as JSON, and `place`, the file and the offset of its row.

  A row that has only ties, or a tree without a ranking, has none, and is counted.
  """

  without = WITHOUT_PREFERENCE
  nothing = 'has two responses of which one is better: name other files'


def register(name: str, indices: Mapping[str, FileIndex], encoding: ComparisonEncoding) -> None:
  """Registers the task of that name, with the parts of `ComparisonEncoding.task_parts`."""
  seqio.TaskRegistry.add(name, source=ComparisonSource(indices, encoding), **encoding.task_parts())

"""What the index of files makes of a row: its comparisons, as an objective learns them."""

from collections.abc import Mapping
import dataclasses
import json

from tasks.instruction.message_trees import MessageTrees
from tasks.preferences import schemas
from tasks.preferences.comparison import arrange


@dataclasses.dataclass(frozen=True)
class ComparisonReader:
  """A row as a JSON array of comparisons, for t5x_lite.data.files.index in place of a Template.

  `tasks.instruction.row_reader.read_conversations` gives them back, each as JSON.

  Attributes:
    objective, ties: as comparison.arrange.
    chat: whether prompts are messages.
    schema: one of schemas.SCHEMAS, or None: by the row's keys.
    trees: which paths of message trees.
  """

  objective: str
  ties: str
  chat: bool
  schema: str | None = None
  trees: MessageTrees = dataclasses.field(default_factory=lambda: MessageTrees(paths='all'))

  def __call__(self, record: Mapping[str, object]) -> str:
    """Raises BadExample for a row that is no comparison, or none of the objective."""
    found = schemas.comparisons(record, self.schema, chat=self.chat, trees=self.trees)
    return json.dumps([part.to_json() for comparison in found
                       for part in arrange(comparison, self.objective, self.ties)],
                      ensure_ascii=False)

"""What the index of files makes of a row: its conversations, checked and rendered once."""

from collections.abc import Mapping
import dataclasses
import functools
import json

from tasks.instruction import schemas
from tasks.instruction.chat_template import ChatTemplate
from tasks.instruction.labeler_prompts import LabelerPrompts
from tasks.instruction.message_trees import MessageTrees

# What stands for a tokenizer's own tokens where none is known yet.
_TOKENS = {'bos_token': '<s>', 'eos_token': '</s>', 'unk_token': '<unk>', 'pad_token': '<pad>'}


@dataclasses.dataclass(frozen=True)
class RowReader:
  """A row as a JSON array of conversations, for t5x_lite.data.files.index in place of a Template.

  Attributes:
    source: of the chat template.
    name: of the template, in messages.
    turns: as ChatTemplate.render_answers.
    schema: one of schemas.SCHEMAS, or None: by the row's keys.
    trees: which paths of message trees.
    prompts: which are made of instructions with instances.
    checks: whether rows are rendered, too; those that were once need not be.
  """

  source: str
  name: str
  turns: str = 'every'
  schema: str | None = None
  trees: MessageTrees = dataclasses.field(default_factory=MessageTrees)
  prompts: LabelerPrompts = dataclasses.field(default_factory=LabelerPrompts)
  checks: bool = True

  def __call__(self, record: Mapping[str, object]) -> str:
    """Raises BadExample for a row that is no conversation, or that the template cannot render."""
    found = schemas.conversations(record, self.schema, self.trees, self.prompts)
    for conversation in found if self.checks else ():
      rendered = self._template.render_answers(conversation, _TOKENS, turns=self.turns)
      if not rendered.answers:
        rendered.check()
    return json.dumps([c.to_json() for c in found], ensure_ascii=False)

  @functools.cached_property
  def _template(self) -> ChatTemplate:
    return ChatTemplate(self.source, self.name)


def read_conversations(text: str) -> list[str]:
  """The conversations that a RowReader wrote, each as JSON."""
  return json.loads(text)

"""Instruction data: conversations of every public schema, chat templates, masks of answers.

Importing this loads no TensorFlow, so that gin can read it anywhere, and templates are rendered
without it.
"""

import tasks.files  # noqa: F401, whose formats conversations are read from
from tasks.instruction.conversation_task import ConversationTask
from tasks.instruction.labeler_prompts import LabelerPrompts
from tasks.instruction.message_trees import MessageTrees

__all__ = ['ConversationTask', 'LabelerPrompts', 'MessageTrees']

"""Task-oriented dialogues: readers of the public corpora, made-up ones, and seqio tasks of both.

Importing this loads no TensorFlow, so that gin can read it anywhere.
"""

import tasks.files  # noqa: F401, whose formats dialogues are read from
from tasks.dialogue.dialogue_task import DialogueTask

__all__ = ['DialogueTask']

"""Task-oriented dialogues: readers of the public corpora, made-up ones, and seqio tasks of both.

Importing this loads no TensorFlow, so that gin can read it anywhere.
"""

from tasks.dialogue.dialogue_task import DialogueTask
import tasks.files  # noqa: F401, whose formats dialogues are read from

__all__ = ['DialogueTask']

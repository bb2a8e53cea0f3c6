"""What is imported when data is read: seqio, and the module that registers a task."""

import os
import pkgutil
import sys

from t5x_lite.core import quiet


def import_seqio():
  """seqio, quietly: TensorFlow takes no accelerator and prints no start-up banner."""
  if 'seqio' not in sys.modules:
    quiet.quiet_logs()
    if os.environ.get('TF_CPP_MIN_LOG_LEVEL', '1') == '1':   # which JAX sets
      os.environ['TF_CPP_MIN_LOG_LEVEL'] = '2'   # no warnings of streams not read to their end
    with quiet.silent_stderr():
      import tensorflow as tf
      for kind in ('GPU', 'TPU'):
        tf.config.set_visible_devices([], kind)
      import seqio
    import sentencepiece
    sentencepiece.set_min_log_level(1)   # each model would say how it normalises
  import seqio
  return seqio


def import_task_module(name: str) -> None:
  """Imports a module that registers tasks, which may be the user's own."""
  pkgutil.resolve_name(f'{name}:')   # the colon: a module, not something in one

"""The Responder of a run that was trained on dialogues, for the commands that let it answer."""

from collections.abc import Sequence
import dataclasses
import pathlib

from t5x_lite.core.errors import UserError

MAX_TOKENS = 128        # of what is written
PROMPT_MULTIPLE = 128   # tokens, so that few lengths of prompts are compiled


def load_responder(run: pathlib.Path, trusted_modules: Sequence[str] = ()):
  """The Responder of the folder of a run whose task is a DialogueTask.

  Raises UserError for another run.
  """
  from t5x_lite.commands.infer import load_chat, load_generator
  from t5x_lite.dialogue.responder import Responder
  from t5x_lite.experiment import gin_config
  experiment = gin_config.load_run(run, trusted_modules)
  form = getattr(getattr(experiment.data, 'task', None), 'asked', None)
  if form is None:
    raise UserError(f'{run} was not trained on a DialogueTask: name a run of runs/dialogue.gin')
  settings = experiment.infer
  experiment = dataclasses.replace(experiment, infer=dataclasses.replace(
      settings, max_tokens=settings.max_tokens or MAX_TOKENS, batch_size=32))
  generator, _ = load_generator(experiment, None, trusted_modules)
  return Responder(generator.padded_to(PROMPT_MULTIPLE), load_chat(experiment), form)

"""Systems, and users, of the made-up town by name: rules, chance, runs and endpoints."""

from collections.abc import Sequence
import os
import re

from t5x_lite.core.errors import UserError
from t5x_lite.core.paths import local_path
from t5x_lite.dialogue.schema import Speaker

FAULTS = {'rules': {}, 'no_phone': {'never_gives': ('phone',)}, 'mistaken': {'wrong': 0.5}}
NAMES = (*FAULTS, 'random')
HELP = ('rules track the state, ask the database and answer, no_phone and mistaken are rules with '
        'a fault, random says anything; the folder of a run on dialogues; or an OpenAI-compatible '
        'endpoint with its model, http://localhost:8000/v1#MODEL, and the key in OPENAI_API_KEY')
CONCURRENCY = 8   # requests to an endpoint at a time


def make_system(name: str, database, seed: int, trusted_modules: Sequence[str] = ()):
  """The System of a name, a run, or an endpoint; UserError for what is none."""
  from t5x_lite.dialogue.simulation import systems
  if name in FAULTS:
    return systems.RuleSystem(database, systems.Faults(**FAULTS[name]), seed)
  if name == 'random':
    return systems.RandomSystem(database, seed)
  if name.startswith(('http://', 'https://')):
    return make_endpoint(name, 'system', database)
  folder = local_path(name)
  if not folder.is_dir():
    raise UserError(f'{name} is no system: choose {", ".join(NAMES)}, the folder of a run, or an '
                    'endpoint such as http://localhost:8000/v1#MODEL')
  from t5x_lite.commands.dialogue_model import load_responder
  from t5x_lite.dialogue.simulation.model_system import ModelSystem
  return ModelSystem(load_responder(folder, trusted_modules), database, seed)


def make_endpoint(address: str, speaker: Speaker, database):
  """An EndpointSpeaker of URL#MODEL."""
  from t5x_lite.dialogue.simulation.endpoint import EndpointSpeaker
  from t5x_lite.evaluation.chat_client import ChatClient
  match = re.fullmatch(r'(https?://[^#]+)#(.+)', address)
  if match is None:
    raise UserError(f'{address} names no endpoint and model: write http://localhost:8000/v1#MODEL')
  client = ChatClient(url=match[1], model=match[2], key=os.environ.get('OPENAI_API_KEY') or None,
                      max_tokens=128)
  return EndpointSpeaker(client, speaker, database, CONCURRENCY)

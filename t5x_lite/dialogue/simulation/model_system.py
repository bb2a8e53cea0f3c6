"""A trained model as a system: it says what it believes, the database answers, it responds."""

from collections.abc import Mapping, Sequence
import random
import re

from t5x_lite.dialogue.responder import Responder
from t5x_lite.dialogue.schema import Dialogue, State, Turn
from t5x_lite.dialogue.simulation.database import NAME, REFERENCE, Database
from t5x_lite.dialogue.texts import EndToEnd, end_to_end_text, parse_end_to_end, tag

_TAG = re.compile(r'\[value_\w+\]')


class ModelSystem:
  """A model of the target 'end_to_end', or of responses with their values in them.

  Of the first, what it writes for the number of results is replaced by what the database finds for
  its state, where they differ, and it goes on from there; tags of its response become values of the
  entry that was offered before, if that is among those found, else of the first.
  """

  def __init__(self, responder: Responder, database: Database, seed: int):
    self._responder, self._database, self._seed = responder, database, seed

  def reply(self, dialogues: Sequence[Dialogue]) -> list[Turn]:
    """See System; turns have no acts."""
    asked = [one.turns for one in dialogues]
    written = self._responder(asked)
    if self._responder.form.target != 'end_to_end':
      return [Turn('system', text) for text in written]
    found = [parse_end_to_end(text) for text in written]
    real = [{domain: len(self._query(domain, one.state)) for domain in one.results
             if domain in self._database} for one in found]
    wrong = [i for i, one in enumerate(found) if one.results != real[i]]
    begun = [end_to_end_text(found[i].state, real[i], '').rstrip() for i in wrong]
    for i, text, more in zip(wrong, begun, self._responder([asked[i] for i in wrong], begun)
                             if wrong else ()):
      found[i] = parse_end_to_end(f'{text} {more}')
    return [Turn('system', self._filled(dialogue, one), results=one.results or None)
            for dialogue, one in zip(dialogues, found)]

  def _query(self, domain: str, state: State):
    own = self._database[domain]
    return own.query({slot: values[0] for slot, values in state.get(domain, {}).items()
                      if slot in own.informable})

  def _filled(self, dialogue: Dialogue, written: EndToEnd) -> str:
    """The response with values in place of tags."""
    values: dict[str, str] = {}
    for domain in written.results:
      found = self._query(domain, written.state) if domain in self._database else []
      named = {one[NAME]: one for one in found}
      offers = [act.value for turn in dialogue.turns for act in turn.acts
                if act.intent == 'offer' and act.value in named]
      entity: Mapping[str, str] = named[offers[-1]] if offers else found[0] if found else {}
      values |= {tag(slot): value for slot, value in entity.items()}
      values |= {tag(slot): some[0] for slot, some in written.state.get(domain, {}).items()
                 if slot not in entity}
    draw = random.Random(f'{self._seed} {dialogue.id} {len(dialogue.turns)}')
    values[tag(REFERENCE)] = f'{draw.randrange(16 ** 6):06x}'
    return _TAG.sub(lambda match: values.get(match[0], match[0]), written.response)

"""MultiWOZ's slots under one name each, whatever release, file or annotation they are from.

The names are those of the states that systems of the public leaderboard write.
"""

from t5x_lite.dialogue.domains import Domain, Schema, Slot

_NAMES = {
    'addr': 'address', 'arriveby': 'arrive', 'bookday': 'day', 'bookpeople': 'people',
    'bookstay': 'stay', 'booktime': 'time', 'car': 'type', 'cartype': 'type',
    'depart': 'departure', 'dest': 'destination', 'fee': 'entrancefee', 'id': 'trainid',
    'leaveat': 'leave', 'none': '', 'open': 'openhours', 'post': 'postcode', 'ref': 'reference',
    'ticket': 'price',
}
_OF_DOMAIN = {('train', 'time'): 'duration', ('train', 'price'): 'price'}
_PRICE = 'pricerange'   # what acts of venues call a price

_VENUE = 'name area address phone postcode choice'
_SLOTS = {
    'restaurant': f'{_VENUE} food pricerange day people time reference',
    'hotel': f'{_VENUE} type pricerange stars parking internet day people stay reference',
    'attraction': f'{_VENUE} type pricerange entrancefee openhours',
    'train': 'departure destination day arrive leave people trainid price duration reference '
             'choice',
    'taxi': 'departure destination arrive leave type phone',
    'bus': 'departure destination day arrive leave people',
    'hospital': 'department address phone postcode',
    'police': 'name address phone postcode',
    'booking': 'name day people stay time reference',   # of acts that name no other domain
}
SCHEMA: Schema = {domain: Domain({slot: Slot() for slot in slots.split()})
                  for domain, slots in _SLOTS.items()}


def slot_name(domain: str, name: str) -> str:
  """'' of the slot that acts without one have; see SCHEMA for the others.

  Args:
    domain: in lower case.
    name: as in a state, a goal or an act, such as 'Addr', 'leaveAt', 'entrance fee'.
  """
  name = name.lower().replace(' ', '').removeprefix(f'{domain}-')
  if (domain, name) in _OF_DOMAIN:
    return _OF_DOMAIN[domain, name]
  return _PRICE if name == 'price' else _NAMES.get(name, name)

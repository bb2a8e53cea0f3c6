"""The floors and buildings of docs/architecture.md, held by the imports of every file."""

import ast
import pathlib

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]
# A room imports only rooms of lower floors, and files of its own.
FLOORS = {
    't5x_lite': (('core',), ('data',), ('models', 'rewards'),
                 ('objectives', 'adaptation', 'parallel'), ('training',),
                 ('inference', 'cost', 'interop'), ('evaluation', 'serving'), ('dialogue',),
                 ('experiment',), ('alignment',), ('commands',), ('cli',), ('__main__',)),
    'tasks': (('metrics', 'vocabularies'), ('preprocessors',), ('files',), ('instruction',),
              ('pipeline',), ('preferences', 'dialogue'), ('datasets',), ('commands',)),
    'scaling': (('laws',), ('figures',), ('fitting',), ('forms', 'kbit'), ('planning',),
                ('ladder',), ('app',), ('commands',)),
}
BUILDINGS = {'t5x_lite': (), 'tasks': ('t5x_lite',), 'scaling': ('t5x_lite',)}
FILES = [path for name in FLOORS for path in sorted((ROOT / name).rglob('*.py'))]


def imports_of(path: pathlib.Path) -> set[str]:
  """Dotted names of all that a file imports, at its head or inside functions."""
  found = set()
  for node in ast.walk(ast.parse(path.read_text())):
    if isinstance(node, ast.Import):
      found |= {alias.name for alias in node.names}
    elif isinstance(node, ast.ImportFrom):
      found |= {f'{node.module}.{alias.name}' for alias in node.names}
  return {name for name in found if name.split('.')[0] in FLOORS and '.' in name}


def floor_of(building: str, room: str) -> int | None:
  return next((i for i, rooms in enumerate(FLOORS[building]) if room in rooms), None)


@pytest.mark.parametrize('path', FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_file_imports_only_lower_floors_and_no_building_above(path):
  building, *rest = path.relative_to(ROOT).with_suffix('').parts
  if rest == ['__init__']:
    return
  floor = floor_of(building, rest[0])
  assert floor is not None, f'{rest[0]} has no floor'
  for name in imports_of(path):
    other, room, *_ = name.split('.')
    if other != building:
      assert other in BUILDINGS[building], name
    elif room != rest[0] and room not in ('__version__',):
      assert floor_of(building, room) < floor, name


def test_modules_are_named_by_string_in_the_door_alone():
  """cli.py's dict; what a user names, in gin or as task_module, is resolved in two other places."""
  named = {}
  for path in FILES:
    for node in ast.walk(ast.parse(path.read_text())):
      name = getattr(node, 'attr', getattr(node, 'id', None))
      if name in ('import_module', '__import__', 'resolve_name'):
        named.setdefault(name, set()).add(str(path.relative_to(ROOT)))
  assert named == {'import_module': {'t5x_lite/cli.py'}, 'resolve_name': {
      't5x_lite/experiment/gin_names.py', 'tasks/pipeline/imports.py'}}


def test_no_two_files_import_each_other():
  module = lambda path: '.'.join(path.relative_to(ROOT).with_suffix('').parts).removesuffix(
      '.__init__')
  known = {module(path) for path in FILES}
  graph = {module(path): {
      name if name in known else name.rpartition('.')[0] for name in imports_of(path)} & known
           for path in FILES}
  graph = {name: found - {name} for name, found in graph.items()}
  while leaves := {name for name, found in graph.items() if not found}:
    graph = {name: found - leaves for name, found in graph.items() if name not in leaves}
  assert not graph, 'these are in a circle, or import one that is'

"""gin files and bindings -> statements, by gin's own parser. Nothing is imported or evaluated.

Macros and references stay what they are, as `Macro` and `Reference`; every statement knows the
file and line it is from.
"""

from collections.abc import Iterator, Sequence
import dataclasses
import difflib
import functools
import pathlib
import re
import tokenize
from typing import Any

from gin import config_parser

from t5x_lite.core import paths
from t5x_lite.core.dataclass_checks import short_repr
from t5x_lite.core.errors import UserError
from t5x_lite.experiment import run_configs

CONFIGS = pathlib.Path(__file__).resolve().parents[2] / 'configs'
COMMAND_LINE = 'the command line'
# Searched for classes that are named without a module and that no gin file imports.
MODULES = (
    't5x_lite.experiment', 't5x_lite.models', 't5x_lite.models.positions',
    't5x_lite.training.optimizers', 't5x_lite.training.schedules', 't5x_lite.parallel.mesh',
    't5x_lite.objectives.language_model', 't5x_lite.objectives.router',
    't5x_lite.objectives.next_sentence', 't5x_lite.objectives.classification',
    't5x_lite.objectives.dual_encoder',
    't5x_lite.objectives.preference.direct', 't5x_lite.objectives.preference.reference_free',
    't5x_lite.objectives.preference.unpaired', 't5x_lite.objectives.preference.reward_model',
    't5x_lite.objectives.policy.policy_loss', 't5x_lite.objectives.policy.value_loss',
    't5x_lite.objectives.policy.pretraining_mix',
    't5x_lite.adaptation.partial', 't5x_lite.adaptation.lora', 't5x_lite.adaptation.prefix',
    't5x_lite.adaptation.llama_adapter', 't5x_lite.inference.constrained',
    't5x_lite.inference.speculative', 't5x_lite.inference.reference_logprobs',
    't5x_lite.inference.rollouts.source', 't5x_lite.inference.rollouts.estimators',
    't5x_lite.inference.rollouts.with_pretraining',
    't5x_lite.rewards.checkers', 't5x_lite.rewards.unit_tests', 't5x_lite.alignment.reward_run',
    't5x_lite.alignment.classifier_run', 't5x_lite.alignment.endpoint_judge',
    't5x_lite.evaluation.suites.in_training', 't5x_lite.evaluation.rewards',
    't5x_lite.evaluation.preferences', 't5x_lite.evaluation.retrieval',
    't5x_lite.adaptation.quantization.quantized')


@dataclasses.dataclass(frozen=True)
class Macro:
  """%NAME in a value."""
  name: str

  def __repr__(self):
    return f'%{self.name}'


@dataclasses.dataclass(frozen=True)
class Reference:
  """@SCOPE/SELECTOR or @SCOPE/SELECTOR() in a value."""
  scope: str
  selector: str
  called: bool

  def __repr__(self):
    scoped = f'{self.scope}/{self.selector}' if self.scope else self.selector
    return f'@{scoped}' + '()' * self.called


@dataclasses.dataclass(frozen=True)
class Statement:
  """A macro, which has no `field`, or a binding of a field, as it is written."""
  scope: str
  selector: str
  field: str
  value: Any
  location: str                # 'file:line', or COMMAND_LINE
  file: pathlib.Path | None    # resolved; None: the command line
  imports: dict[str, str]      # of that file: name -> module
  text: str | None = None      # of the value, if it is from the command line

  @property
  def macro(self) -> str:
    """The name of the macro that it sets; '' if it binds a field."""
    return '' if self.field else f'{self.scope}/{self.selector}'.lstrip('/')


class Reader:
  """Reads files and bindings; what comes later wins.

  Attributes:
    statements: in order, those of an included file where it is included.
    imports: (module, 'file:line') of each import, in order.
    includes: the files that each file includes; None for the command line's.
    run_folders: the folders of the runs whose config.gin were read, by that file.
  """

  def __init__(self):
    self.statements: list[Statement] = []
    self.imports: list[tuple[str, str]] = []
    self.includes: dict[pathlib.Path | None, list[pathlib.Path]] = {None: []}
    self.run_folders: dict[pathlib.Path, str] = {}

  def read_file(self, path: pathlib.Path, by: pathlib.Path | None = None) -> None:
    """Reads a file and those it includes, each once: what came after it stays as it is."""
    file = path.resolve()
    self.includes[by].append(file)
    if file in self.includes:
      return
    self.includes[file] = []
    first, imports = len(self.statements), {}
    for parsed in _parse(_read_text(path), str(path)):
      location = f'{path}:{parsed.location.line_num}'
      if isinstance(parsed, config_parser.IncludeStatement):
        try:
          included = find_file(parsed.filename, path.parent)
        except UserError as e:
          raise UserError(f'{location}: {e}') from e
        self.read_file(included, by=file)
      elif isinstance(parsed, config_parser.ImportStatement):
        imports[parsed.bound_name()] = parsed.module if parsed.is_from or parsed.alias else (
            parsed.module.split('.')[0])
        self.imports.append((parsed.module, location))
      elif isinstance(parsed, config_parser.BindingStatement):
        self.statements.append(Statement(parsed.scope, parsed.selector, parsed.arg_name,
                                         parsed.value, location, file, imports))
    if run_configs.is_run_config(path):
      self.run_folders[file] = str(path.parent)
      self.statements[first:] = run_configs.relocate(
          self.statements[first:], Statement('', 'MODEL_DIR', '', str(path.parent), str(path),
                                             file, imports))

  def read_bindings(self, bindings: Sequence[str]) -> None:
    """Reads 'NAME=VALUE' statements, where classes need no module and words no quotes."""
    imports = {module.rpartition('.')[2]: module for module in MODULES}
    imports |= {name: module for s in self.statements for name, module in s.imports.items()}
    for binding in bindings:
      name, equals, text = binding.partition('=')
      name, text = name.strip(), text.strip()
      if not equals or not re.fullmatch(r'([A-Za-z_]\w*/)*[A-Za-z_]\w*(\.[A-Za-z_]\w*)*', name):
        raise UserError(f'--gin.{_cut(binding)}: expected --gin.NAME=VALUE')
      scope, _, selector = name.rpartition('/')
      owner, _, field = selector.rpartition('.')
      self.statements.append(Statement(
          scope, owner or selector, field if owner else '', parse_word(text, f'--gin.{name}'),
          COMMAND_LINE, None, imports, text))


def parse_word(text: str, name: str) -> Any:
  """The value of NAME=VALUE: what gin reads there, or the text itself if that is nothing of gin's.

  Raises UserError for brackets, quotes, macros and references that are not well formed.
  """
  try:
    parsed = list(config_parser.ConfigParser(f'x = {text}', _Delegate()))
    tokens = tokenize.generate_tokens(iter([f'x = {text}']).__next__)
    if len(parsed) == 1 and all(token.type != tokenize.COMMENT for token in tokens):
      return parsed[0].value
  except Exception as e:   # of whatever gin, tokenize and ast raise
    if text.startswith(tuple('([{@%"\'')):
      raise UserError(f'{name}={_cut(text)}: not valid gin: {_why(e)}; text that begins with '
                      f'{text[0]} needs quotes of its own') from e
  return text


def find_file(name: str, beside: pathlib.Path | None = None) -> pathlib.Path:
  """The path of a gin file: as given, else in configs/, else beside the file that includes it."""
  expanded = paths.expand(name)
  folders = [pathlib.Path(), CONFIGS, CONFIGS.parent, *([beside] if beside else [])]
  for folder in folders:
    for candidate in (folder / expanded, folder / f'{expanded}.gin'):
      if candidate.is_file():
        return candidate
  if (pathlib.Path(expanded) / 'config.gin').is_file():
    raise UserError(f'{name} is the folder of a run: pass {pathlib.Path(name) / "config.gin"}')
  known = sorted(str(p.relative_to(CONFIGS)) for p in CONFIGS.rglob('*.gin'))
  stem = lambda path: pathlib.Path(path).stem
  near = difflib.get_close_matches(name, known, n=1, cutoff=0.5) or [
      path for path in known if difflib.get_close_matches(stem(name), [stem(path)], cutoff=0.6)]
  searched = ', '.join(dict.fromkeys(str(f.resolve()) for f in folders))
  cure = f'did you mean {" or ".join(map(repr, near[:3]))}?' if near else (
      f'those of the project are in {CONFIGS}')
  raise UserError(f'gin file {name!r} not found in {searched}; {cure}')


@functools.cache
def shipped_modules() -> tuple[str, ...]:
  """The modules that gin files of the project import."""
  reader = Reader()
  for path in sorted(CONFIGS.rglob('*.gin')):
    reader.read_file(path)
  return tuple(sorted({m for m, _ in reader.imports if not m.startswith('__gin__')}))


def leaves(value: Any) -> Iterator[Any]:
  """The values in brackets, at any depth; any other value itself."""
  if isinstance(value, dict):
    value = [*value.keys(), *value.values()]
  if isinstance(value, (list, tuple)):
    for part in value:
      yield from leaves(part)
  else:
    yield value


class _Delegate(config_parser.ParserDelegate):

  def configurable_reference(self, scoped_configurable_name, evaluate):
    scope, _, selector = scoped_configurable_name.rpartition('/')
    return Reference(scope, selector, evaluate)

  def macro(self, macro_name):
    return Macro(macro_name)


def _read_text(path: pathlib.Path) -> str:
  try:
    return path.read_bytes().decode('utf-8-sig')
  except UnicodeDecodeError as e:
    line = e.object[:e.start].count(b'\n') + 1
    raise UserError(f'{path}:{line}: is not UTF-8 text (byte 0x{e.object[e.start]:02x})') from e
  except OSError as e:
    raise UserError(f'{path}: {e.strerror}') from e


def _parse(text: str, name: str) -> list[Any]:
  """The statements of a file; raises UserError, with the line, for what is not gin."""
  try:
    return list(config_parser.ConfigParser(text, _Delegate()))
  except Exception as e:   # of whatever gin, tokenize and ast raise
    line = getattr(e, 'lineno', None)
    if isinstance(e, tokenize.TokenError):
      line = e.args[1][0]
    place = f'{name}:{line}' if line else name
    raise UserError(f'{place}: not valid gin: {_why(e)}') from e


def _why(error: Exception) -> str:
  if isinstance(error, (StopIteration, RecursionError)):
    return 'it ends too early' if isinstance(error, StopIteration) else 'too many brackets'
  what = error.msg if isinstance(error, SyntaxError) else error.args[0] if error.args else ''
  what = ' '.join(str(what or type(error).__name__).split()).rstrip('.')
  if token := re.search(r"Failed to parse token '(.*)'$", what):
    return f'{_cut(token[1])!r} is neither a number, a text in quotes, True, False nor None'
  return _cut(what)


def _cut(text: str) -> str:
  return short_repr(text)[1:-1] if len(text) > 100 or not text.isprintable() else text

"""`t5x-lite settings` prints what the dataclasses say, and docs/settings.md is that."""

import dataclasses
import pathlib

import pytest

from t5x_lite import cli
from t5x_lite.core.dataclass_checks import parts_of, type_hints
from t5x_lite.experiment import settings
from t5x_lite.models import ModelConfig

PAGE = pathlib.Path(__file__).resolve().parents[2] / 'docs/settings.md'


def test_the_page_is_what_the_command_prints(capsys):
  assert cli.main(['settings', '--markdown']) == 0
  assert PAGE.read_text() == capsys.readouterr().out, (
      'write it again: t5x-lite settings --markdown > docs/settings.md')


@pytest.mark.parametrize('name', settings.settings_classes())
def test_every_field_has_a_meaning_and_is_on_the_page(name):
  cls = settings.find_class(name)
  fields = settings.describe_class(cls)
  assert [f.name for f in fields] == [f.name for f in dataclasses.fields(cls)]
  # What a name of one of several says needs no comment.
  assert all(f.meaning or f.type.startswith('one of') for f in fields), fields
  assert all(f'| `{f.name}` |' in PAGE.read_text() for f in fields)


def test_a_class_is_printed_with_ranges_defaults_and_comments(capsys):
  assert cli.main(['settings', 'TrainConfig', 'AdamW']) == 0
  out = capsys.readouterr().out
  assert '  steps   (required)\n      int, above 0. updates of the parameters\n' in out
  assert '  eval_every = None\n      int, above 0; or None. None: only after the last step\n' in out
  assert 'beta1 = 0.9\n      float, at least 0 and below 1.' in out
  fields = {s.name: s for s in settings.describe_class(ModelConfig)}
  assert fields['remat'].meaning.startswith('What the backward pass recomputes: nothing')
  assert fields['mlp_dim'].default == '' and fields['norm'].default == "'rms_norm'"


def test_the_classes_are_listed_and_an_unknown_one_is_refused(capsys):
  assert cli.main(['settings']) == 0
  out = capsys.readouterr().out
  assert {'FileTask', 'Mixture', 'DataConfig', 'Experiment', 'RopeScaling'} <= {
      line.split()[0] for line in out.splitlines()}
  assert cli.main(['settings', 'TrainConfg']) == 1
  assert "did you mean 'TrainConfig'?" in capsys.readouterr().err


# Numbers whose rule no range can say; each is checked in its class.
OWN_RULE = {'FileTask.validation', 'ConversationTask.validation',
            'Mixture.rates', 'Mixture.rate_schedule', 'PreferenceTask.validation',
            'DialogueTask.validation'}


@pytest.mark.parametrize('name', settings.settings_classes())
def test_every_number_has_a_range(name):
  cls = settings.find_class(name)
  for field, hint in type_hints(cls).items():
    for part in parts_of(hint):
      if f'{name}.{field}' not in OWN_RULE:
        assert part not in (int, float), f'{name}.{field}'

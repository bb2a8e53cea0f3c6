"""Preference data: comparisons of every public schema, as groups of responses to one prompt.

Importing this loads no TensorFlow, so that gin can read it anywhere.
"""

import tasks.files  # noqa: F401, whose formats comparisons are read from
from tasks.preferences.preference_data import PreferenceData
from tasks.preferences.preference_task import PreferenceTask

__all__ = ['PreferenceData', 'PreferenceTask']

"""The one exception a user's mistake raises; the command line prints it as one line."""


class UserError(Exception):
  """A mistake in a config, a path or a file.

  The message is one line: what is wrong, where, and the cure or the nearest valid choice.
  """


def why(error: Exception) -> str:
  """What an exception says, for the message of a UserError: of an OSError no number and no path."""
  return str(getattr(error, 'strerror', None) or error)

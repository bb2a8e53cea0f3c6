"""Commands in forks of a process that has imported what they need.

A test of many commands waits for imports more than for anything else. `python fork_server.py
SOCKET` answers the script that `ForkServer` writes in place of `t5x-lite`: each command gets the
arguments, the working directory and the streams of its script, and the environment of the server.
One that is given another environment runs in a process of its own.
"""

import contextlib
import json
import os
import pathlib
import socket
import subprocess
import sys
import time

_OF_A_SHELL = ('_', 'PWD', 'OLDPWD', 'SHLVL')   # what differs between its commands
_SCRIPT = '''#!{python} -IS
import json, os, socket, sys
server = socket.socket(socket.AF_UNIX)
server.connect({address!r})
socket.send_fds(server, [json.dumps([sys.argv[1:], os.getcwd(), dict(os.environ)]).encode()],
                [0, 1, 2])
server.shutdown(socket.SHUT_WR)
sys.exit(int(server.recv(16)))
'''


class ForkServer(contextlib.AbstractContextManager):
  """The server, and the file `script` that runs commands by it."""

  def __init__(self, folder: pathlib.Path, env: dict[str, str]):
    """Starts it; `env` is of all commands."""
    self.script, address = folder / 't5x-lite', str(folder / 'server')
    self.script.write_text(_SCRIPT.format(python=sys.executable, address=address))
    self.script.chmod(0o755)
    self._process = subprocess.Popen([sys.executable, __file__, address], env=env)
    while not os.path.exists(address):
      assert self._process.poll() is None, 'the server of commands has ended'
      time.sleep(0.1)

  def __exit__(self, *unused):
    self._process.kill()
    self._process.wait()


def _import_all() -> None:
  """Imports what commands import, which starts no thread and no backend of JAX."""
  import flax.nnx  # noqa: F401
  import optax  # noqa: F401
  import orbax.checkpoint  # noqa: F401

  from t5x_lite.commands import train  # noqa: F401
  from t5x_lite.experiment import gin_config  # noqa: F401
  from tasks.pipeline import evaluator, imports  # noqa: F401
  imports.import_seqio()


def _answer(connection: socket.socket) -> None:
  """Runs one command in a fork, and tells its status."""
  data, streams, _, _ = socket.recv_fds(connection, 1 << 20, 3)
  while more := connection.recv(1 << 20):
    data += more
  arguments, folder, env = json.loads(data)
  pid = os.fork()
  if pid == 0:
    for number, stream in enumerate(streams):
      os.dup2(stream, number)
    os.chdir(folder)
    sys.argv = [sys.argv[0], *arguments]
    own = lambda values: {k: v for k, v in values.items() if k not in _OF_A_SHELL}
    if own(env) != own(os.environ):
      os.execve(sys.executable, [sys.executable, '-m', 't5x_lite', *arguments], env)
    from t5x_lite.__main__ import run
    run()
  for stream in streams:
    os.close(stream)
  _, status = os.waitpid(pid, 0)
  connection.sendall(str(os.waitstatus_to_exitcode(status)).encode())


def main(address: str) -> None:
  """Answers until it is killed."""
  env = dict(os.environ)
  _import_all()
  os.environ.clear()
  os.environ.update(env)
  listener = socket.socket(socket.AF_UNIX)
  listener.bind(address + '.new')
  listener.listen()
  os.rename(address + '.new', address)
  while True:
    with listener.accept()[0] as connection:
      _answer(connection)


if __name__ == '__main__':
  main(sys.argv[1])

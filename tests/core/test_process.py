"""How a command ends: interrupted, or with threads that would go on."""

import signal
import subprocess
import sys
import threading

import pytest

from t5x_lite.core.process import was_interrupted


def start(body):
  """A process that runs `body` as the command, and has said 'ready'."""
  code = f'''
import atexit, gc, io, os, sys, threading, time
from t5x_lite.core.process import run_and_exit
def main():
{''.join(f"  {line}{chr(10)}" for line in body.strip().splitlines())}
run_and_exit(main)
'''
  process = subprocess.Popen([sys.executable, '-c', code], stdout=subprocess.PIPE,
                             stderr=subprocess.PIPE, text=True)
  assert process.stdout.readline() == 'ready\n'
  return process


def end(process):
  """(status, the rest of stdout, stderr) of a process, which must end."""
  killer = threading.Timer(60, process.kill)
  killer.start()
  with process:
    found = process.stdout.read(), process.stderr.read()
  killer.cancel()
  return process.returncode, *found


def test_threads_that_never_end_are_not_waited_for():
  process = start('''
atexit.register(print, 'left')
threading.Thread(target=lambda: time.sleep(1000)).start()
print('ready', flush=True)
return 3
''')
  assert end(process) == (3, 'left\n', '')


def test_a_bug_shows_its_traceback():
  status, _, err = end(start('''
print('ready', flush=True)
return 1 // 0
'''))
  assert status == 1 and err.startswith('Traceback') and err.count('ZeroDivisionError') == 1


HANDLED = '''
try:
  {wait}
except KeyboardInterrupt:
  print('interrupted', flush=True)
  {then}
  return 130
'''


def test_ctrl_c_interrupts_and_a_second_one_ends_at_once():
  process = start(HANDLED.format(wait="print('ready', flush=True); time.sleep(1000)",
                                 then='time.sleep(1000)'))
  process.send_signal(signal.SIGINT)
  assert process.stdout.readline() == 'interrupted\n'
  process.send_signal(signal.SIGINT)
  assert end(process) == (130, '', 'error: interrupted\n')


def test_a_second_ctrl_c_ends_a_process_in_the_midst_of_a_print():
  process = start('''
class Stream(io.RawIOBase):
  def writable(self):
    return True
  def write(self, data):
    os.write(1, data)
    os.kill(os.getpid(), 2)   # the second one, while the stream is locked
    return len(data)
print('ready', flush=True)
sys.stdout = io.TextIOWrapper(io.BufferedWriter(Stream()))
try:
  os.kill(os.getpid(), 2)
  time.sleep(1000)
except KeyboardInterrupt:
  print('interrupted', flush=True)
  time.sleep(1000)
''')
  assert end(process) == (130, 'interrupted\n', 'error: interrupted\n')


def test_an_interrupt_that_a_callback_swallows_is_repeated():
  """Python drops what a callback of its garbage collector raises; JAX has such a callback."""
  process = start('''
def slow(phase, info):
  if not waited:
    waited.append(1)
    print('ready', flush=True)
    time.sleep(1000)
waited = []
gc.callbacks.append(slow)
try:
  gc.collect()
  time.sleep(1000)
except KeyboardInterrupt:
  return 130
''')
  process.send_signal(signal.SIGINT)
  assert end(process) == (130, '', '')


def test_what_an_interrupt_became_is_seen_through():
  with pytest.raises(ImportError) as caught:
    try:
      raise KeyboardInterrupt
    except KeyboardInterrupt as e:
      raise ImportError('numpy failed') from e
  assert was_interrupted(caught.value) and was_interrupted(KeyboardInterrupt())
  assert not was_interrupted(ValueError())

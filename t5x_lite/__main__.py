"""`python -m t5x_lite` is `t5x-lite`."""

from t5x_lite.core.process import leave_working_directory, run_and_exit


def run() -> None:
  """Runs the command of sys.argv, and ends the process."""
  leave_working_directory()

  def main():
    from t5x_lite import cli
    return cli.main()

  run_and_exit(main)


if __name__ == '__main__':
  run()

"""What a wheel carries: the four packages and every gin and data file, where the code looks."""

import pathlib
import subprocess
import sys
import zipfile

ROOT = pathlib.Path(__file__).resolve().parent.parent


def test_a_wheel_holds_the_packages_and_every_file_they_read(tmp_path):
  source = tmp_path / 'source'
  tracked = [p for name in ('t5x_lite', 'tasks', 'scaling', 'configs')
             for p in (ROOT / name).rglob('*')
             if p.suffix in ('.py', '.gin', '.toml', '.csv', '.json', '.jinja', '.html')]
  for path in [*tracked, ROOT / 'setup.py', ROOT / 'README.md']:
    target = source / path.relative_to(ROOT)
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(path.read_bytes())
  subprocess.run([sys.executable, '-m', 'pip', 'wheel', '-q', '--no-deps',
                  '--no-build-isolation', '-w', str(tmp_path), str(source)],
                 check=True, timeout=300)
  (wheel,) = tmp_path.glob('t5x_lite-*.whl')
  names = set(zipfile.ZipFile(wheel).namelist())
  assert {str(p.relative_to(ROOT)) for p in tracked} <= names
  # Beside t5x_lite/ in site-packages is where configuration.CONFIGS points.
  assert 'configs/experiments/tiny_lm.gin' in names
  entry = zipfile.ZipFile(wheel).read(next(n for n in names if n.endswith('entry_points.txt')))
  assert b't5x-lite = t5x_lite.__main__:run' in entry

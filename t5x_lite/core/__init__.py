"""What every package may use: errors, checked dataclasses, trees, files, console, process."""

"""What every floor may use: errors, checked dataclasses, trees, files, console, process."""

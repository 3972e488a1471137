"""``python -m deepprobe`` is the command ``deepprobe``."""

from deepprobe.cli import main

if __name__ == "__main__":
    raise SystemExit(main())

"""Numbers too small to be normal do not slow a deep PlainNet down."""

from __future__ import annotations

import subprocess
import sys

PROGRAM = """
from deepprobe.cli.job import flush_denormals
flush_denormals()
import torch
torch.set_num_threads(2)
tiny = torch.full((512, 512), 1e-20)
print(int(((tiny @ tiny) != 0).sum()), int((torch.full((1_000_000,), 1e-38) * 0.5 != 0).sum()))
"""


def test_every_thread_flushes() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout.split() == ["0", "0"]

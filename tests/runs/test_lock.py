"""One writer a run."""

from __future__ import annotations

import subprocess
import sys

import pytest

from deepprobe.errors import RunError
from deepprobe.runs import open_run

HOLD = """
import sys
from deepprobe.runs import open_run
with open_run(sys.argv[1]).writing():
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_second_writer_is_refused_until_the_first_dies(run):
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(run.path)], stdout=subprocess.PIPE, stdin=subprocess.PIPE, text=True
    )
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        with pytest.raises(RunError) as error, run.writing():
            pass
        expected = f"another process is writing to {run.path}; wait for it, or choose another name"
        assert str(error.value) == expected
        assert not open_run(run.path).records().empty, "reading goes on"
        process.kill()
        process.wait()
    with run.writing():
        pass


def test_an_error_inside_frees_the_lock(run):
    with pytest.raises(KeyError), run.writing():
        raise KeyError
    with run.writing():
        pass

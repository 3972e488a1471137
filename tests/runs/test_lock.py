"""One writer a run."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import threading

import pytest

from deepprobe.errors import RunError
from deepprobe.runs import list_runs, open_run
from deepprobe.runs.lock import LOCK, is_locked, locked

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
        assert list_runs(run.path)["status"].tolist() == ["running"]
        process.kill()
        process.wait()
    assert list_runs(run.path)["status"].tolist() == ["stopped"]
    assert open_run(run.path).status == "running", "the manifest is left alone"
    with run.writing():
        pass


def test_an_error_inside_frees_the_lock(run):
    with pytest.raises(KeyError), run.writing():
        raise KeyError
    with run.writing():
        pass


def test_a_folder_is_locked_only_while_someone_writes(tmp_path):
    assert not is_locked(tmp_path)
    assert not (tmp_path / LOCK).exists(), "looking leaves nothing behind"
    with locked(tmp_path):
        assert is_locked(tmp_path)
    assert not is_locked(tmp_path)


def test_looking_does_not_keep_a_writer_out(tmp_path):
    with locked(tmp_path):
        pass
    descriptor = os.open(tmp_path / LOCK, os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_SH)
    threading.Timer(0.02, os.close, [descriptor]).start()
    with locked(tmp_path):
        assert is_locked(tmp_path)

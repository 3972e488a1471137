"""Files are the old ones or the new ones."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from deepprobe.errors import RunError
from deepprobe.runs.atomic import remove_leftovers, write_bytes, written_aside


def test_content_replaces_content_and_nothing_is_left_aside(tmp_path):
    path = tmp_path / "f"
    write_bytes(path, b"old")
    write_bytes(path, b"new")
    assert path.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [path]


def fail_half_way(path):
    """Write half of a file and fail, as a user's code might."""
    with written_aside(path) as aside:
        aside.write_bytes(b"half")
        raise KeyError("half way")


def test_an_error_half_way_leaves_the_old_file_alone(tmp_path):
    path = tmp_path / "f"
    path.write_bytes(b"old")
    with pytest.raises(KeyError):
        fail_half_way(path)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_full_disk_is_a_run_error_that_names_path_and_cause(tmp_path, monkeypatch):
    path = tmp_path / "f"
    path.write_bytes(b"old")

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(RunError) as error:
        write_bytes(path, b"new")
    assert str(error.value) == f"cannot write {path}: No space left on device; what was there before is untouched"
    assert path.read_bytes() == b"old"


def test_a_missing_folder_is_a_run_error(tmp_path):
    with pytest.raises(RunError, match=r"cannot write .*: No such file or directory; what was there before"):
        write_bytes(tmp_path / "no" / "f", b"new")


def test_leftovers_go_and_other_files_stay(tmp_path):
    (tmp_path / "deep").mkdir()
    left = [tmp_path / ".f.12.aside", tmp_path / "deep" / ".g.7.aside"]
    kept = [tmp_path / "f", tmp_path / "deep" / "aside"]
    for path in left + kept:
        path.write_bytes(b"")
    assert remove_leftovers(tmp_path) == left
    assert sorted(p for p in tmp_path.rglob("*") if p.is_file()) == sorted(kept)


def test_what_is_no_file_is_left_in_its_place(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(RunError, match="it is there and is no file"):
        write_bytes(tmp_path / "pipe", b"x")
    assert (tmp_path / "pipe").is_fifo()
